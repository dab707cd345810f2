"""The pointer document round-trips, including unknown fields; other bytes are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing import protocol
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.pointer import PublicationId, Revision, decode, encode, opened
from daemon.publishing.signatures import Signature
from renderers.values import Scope
from tests.builders_publishing import SCOPE, make_publication, published, writing


def test_a_pointer_round_trips() -> None:
    pointer = protocol.hold(
        published(make_publication(), make_publication("state-2", 2)), writing(9)
    )
    assert decode(encode(pointer), SCOPE) == pointer


def test_unknown_fields_of_the_pointer_and_of_its_parts_are_kept_on_a_write() -> None:
    document = json.loads(encode(published(make_publication())))
    document["signed"]["novelty"] = {"a": 1}
    document["signed"]["live"]["novelty"] = document["signed"]["desired"]["novelty"] = 2
    document["signed"]["retained"][0]["novelty"] = 2
    document["signed"]["history"][0]["novelty"] = 3
    read = decode(json.dumps(document).encode(), SCOPE)
    signed = json.loads(encode(protocol.hold(read, writing(2))))["signed"]
    assert signed["novelty"] == {"a": 1}
    assert (
        signed["retained"][0]["novelty"]
        == signed["live"]["novelty"]
        == signed["desired"]["novelty"]
        == 2
    )
    assert signed["history"][0]["novelty"] == 3


def test_a_newer_schema_is_read_and_detected() -> None:
    document = json.loads(encode(published(make_publication())))
    document["signed"]["schema"] = 3
    assert decode(json.dumps(document).encode(), SCOPE).schema_ == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"signed": {}}',
        b'{"signed": []}',
        b'{"signed": {"schema": 2, "sequence": -1}}',
    ],
)
def test_bytes_that_are_not_a_pointer_are_refused(body: bytes) -> None:
    with pytest.raises(
        VerificationFailed, match=f"pointer.json of {SCOPE} is damaged .+: `rebundle recover"
    ):
        decode(body, SCOPE)


def test_the_pointer_of_another_scope_is_refused() -> None:
    with pytest.raises(
        VerificationFailed,
        match=r"pointer.json of other/scope belongs to visual-anomaly/core-versions",
    ):
        decode(encode(published(make_publication())), Scope("other", "scope"))


def test_a_signed_pointer_is_distinguished_from_an_unsigned_one() -> None:
    pointer = published(make_publication())
    assert opened(encode(pointer), SCOPE) == (pointer, False)
    assert opened(encode(pointer, (Signature("k", b"s"),)), SCOPE) == (pointer, True)


@pytest.mark.parametrize("signatures", [[{}] * 17, {"a": 1}, 1])
def test_more_signatures_than_a_document_may_have_are_damage(signatures: object) -> None:
    document = json.loads(encode(published(make_publication()))) | {"signatures": signatures}
    with pytest.raises(VerificationFailed, match="signatures: must be a list of at most 16"):
        decode(json.dumps(document).encode(), SCOPE)


@pytest.mark.parametrize(
    ("producer", "derived", "text"), [(42, 0, "42"), (42, 1, "42.1"), (0, 0, "0")]
)
def test_a_revision_has_one_text(producer: int, derived: int, text: str) -> None:
    assert str(Revision(producer=producer, derived=derived)) == text
    assert Revision.parse(text) == Revision(producer=producer, derived=derived)
    assert json.loads(encode(published(make_publication("s", producer, derived=derived))))[
        "signed"
    ]["highest_revision"] == (text)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=10))
def test_revisions_are_ordered_as_pairs_of_numbers(pairs: list[tuple[int, int]]) -> None:
    revisions = [Revision(producer=producer, derived=derived) for producer, derived in pairs]
    assert [(revision.producer, revision.derived) for revision in sorted(revisions)] == sorted(
        pairs
    )


def test_a_publication_is_named_by_state_and_attempt() -> None:
    name = make_publication("state-1", attempt="abc").id
    assert str(name) == "state-1@abc"
    assert PublicationId.parse("state-1@abc") == name


def test_retained_attempts_of_a_state_are_found_newest_last() -> None:
    pointer = published(
        make_publication("a", attempt="1"),
        make_publication("b", 2),
        make_publication("a", attempt="2"),
    )
    assert [item.attempt for item in pointer.retained_of("a")] == ["1", "2"]
    assert pointer.retained_of("c") == ()


def test_a_pointer_recognises_only_the_writes_of_its_history() -> None:
    pointer = published(make_publication())
    assert pointer.knows_write("write-1")
    assert not pointer.knows_write("write-2")


def test_a_composition_is_quarantined_by_its_digest() -> None:
    bad = make_publication("bad", composition="c" * 64)
    pointer = protocol.quarantine(published(bad, make_publication("good", 2)), writing(3), bad)
    assert pointer is not None
    assert pointer.is_quarantined("c" * 64)
    assert not pointer.is_quarantined("d" * 64)


def test_a_pointer_is_written_with_its_schema_under_the_name_that_readers_look_for() -> None:
    signed = json.loads(encode(published(make_publication())))["signed"]

    assert signed["schema"] == 2
    assert "schema_" not in signed


def test_a_revision_is_not_below_itself() -> None:
    revision = Revision(producer=1, derived=2)

    assert not revision < Revision(producer=1, derived=2)
    assert revision < Revision(producer=1, derived=3)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"{}", "it has no 'signed' part"),
        (b'{"signed": {"scope": 7}}', "schema: is missing"),
        (b'{"signed": {"schema": 2, "scope": 7}}', "scope"),
        (b"{", "its brackets do not match"),
    ],
)
def test_the_error_of_a_damaged_pointer_explains_the_damage(body: bytes, fault: str) -> None:
    with pytest.raises(VerificationFailed) as refused:
        decode(body, SCOPE)

    assert fault in str(refused.value)
