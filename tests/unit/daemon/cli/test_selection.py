"""The publication that a command-line argument names."""

import pytest

from daemon.cli.selection import full_name, publication_of
from daemon.publishing import protocol
from daemon.publishing.errors import NotFound
from tests.builders_publishing import SCOPE, make_publication, published, writing

ONE, TWO = make_publication("state-one", 1), make_publication("state-two", 2)
AGAIN = make_publication("state-one", 1, attempt="b" * 32)
POINTER = published(ONE, TWO, AGAIN)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("state-t", "state-two"),
        ("state-two", "state-two"),
        ("state-one@b", "state-one@b"),
    ],
)
def test_a_unique_prefix_becomes_the_full_name(name, full):
    pointer = POINTER if "@" in name else published(ONE, TWO)

    assert full_name(pointer, name) == full


def test_a_name_of_several_states_or_of_none_is_refused():
    for name in ("state-", "other"):
        with pytest.raises(NotFound):
            full_name(POINTER, name)


def test_live_and_desired_are_names():
    held = published(TWO, start=protocol.hold(published(ONE), writing(9)))

    found = [publication_of(held, name) for name in ("live", "desired", "state-two")]

    assert [publication.id for publication in found] == [ONE.id, TWO.id, TWO.id]


@pytest.mark.parametrize("name", ["live", "desired"])
def test_nothing_is_live_in_a_retired_scope(name):
    retired = protocol.retire(published(ONE), writing(9))

    with pytest.raises(NotFound) as refused:
        publication_of(retired, name)

    assert str(refused.value) == f"nothing is {name} in {SCOPE}: the scope is retired"
