"""The explicit states of a scope."""

from daemon.publishing.pointer import PublicationId
from daemon.used_states import UsedState, UsedStates, complete, only_named, used_states
from tests.builders_publishing import make_publication, published

ONE, TWO = make_publication("state-1", 1), make_publication("state-2", 2)
DERIVED = make_publication("derived-1", 1, derived=1, kind="derived")
POINTER = published(ONE, DERIVED, TWO)
DIGESTS = {publication.state: publication.composition_digest for publication in (ONE, TWO)}


def test_explicit_states_that_are_retained_are_used_with_number_and_digest():
    assert used_states([ONE, DERIVED, TWO], ()) == {
        UsedState("state-1", 1, DIGESTS["state-1"]),
        UsedState("state-2", 2, DIGESTS["state-2"]),
    }


def test_the_history_names_the_explicit_states_that_are_not_retained():
    assert only_named(POINTER.history, ()) == [ONE.id, TWO.id]
    assert only_named(POINTER.history[::-1], [UsedState("state-2", 2, None)]) == [ONE.id]


def test_of_a_named_state_only_the_id_is_known():
    used = [UsedState("b", 7, "0"), UsedState("b", 2, "1"), UsedState("b", None, "2")]
    names = [PublicationId.parse(name) for name in ("a@1", "b@1")]

    found = complete(used, names, {"a": "damaged"})

    assert found == UsedStates(
        (UsedState("a", None, None), used[2], used[1], used[0]), {"a": "damaged"}
    )


def test_a_number_of_zero_is_before_one():
    used = [UsedState("b", 1, "1"), UsedState("b", None, "0")]

    assert complete(used, (), {}).known == (used[1], used[0])
