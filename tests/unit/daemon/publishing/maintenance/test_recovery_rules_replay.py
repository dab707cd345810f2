"""What a recovery reads from recorded changes and manifests, and what it reports."""

import hashlib
from typing import Any

from daemon.publishing import manifest, protocol
from daemon.publishing.archive import Packer, pack
from daemon.publishing.maintenance import recovery_rules
from daemon.publishing.maintenance.recovery_remains import Remains, VerifiedPublication
from daemon.publishing.maintenance.recovery_rules import Recovered, RecoveryOptions
from daemon.publishing.pointer import HistoryEntry, Pointer, PreviousChunk, Publication
from tests.builders_publishing import AT, SCOPE, make_publication, make_state, published, writing

ONE, TWO, THREE = (
    make_publication(f"state-{n}", n).model_copy(update={"at": f"2026-01-0{n}T00:00:00.000Z"})
    for n in (1, 2, 3)
)
REJECTED = {"composition_digest": TWO.composition_digest, "by": "bob", "reason": "bad", "at": AT}
OLDER = PreviousChunk(key=f"{SCOPE}/history/1-64-{'0' * 32}.json", sha256="0" * 64)


def recovered(*publications: Publication, **left: Any) -> Recovered:
    found = recovery_rules.recover(
        Remains(
            SCOPE, had_pointer=True, found=tuple(map(VerifiedPublication, publications)), **left
        ),
        writing(9, reason="why"),
        RecoveryOptions(),
    )
    assert found is not None
    return found


def changes(*recorded: dict[str, Any]) -> tuple[HistoryEntry, ...]:
    """Entries of a history chunk with these changes."""
    return tuple(
        HistoryEntry(
            sequence=number, write_id=f"w{number}", kind="hold", at=AT, by="bob", change=change
        )
        for number, change in enumerate(recorded, 1)
    )


def pinned(pointer: Pointer) -> list[str]:
    return [publication.state for publication in pointer.retained if publication.pinned]


def pin(publication: Publication, *, on: bool) -> dict[str, Any]:
    return {"pin": {"publication": str(publication.id), "pinned": on}}


def test_pins_are_replayed_in_their_order() -> None:
    entries = changes(pin(ONE, on=True), pin(TWO, on=True), pin(ONE, on=False))

    assert pinned(recovered(ONE, TWO, entries=entries).pointer) == ["state-2"]


def test_a_quarantine_and_its_end_are_replayed() -> None:
    rejected = recovered(ONE, TWO, entries=changes({"quarantine": REJECTED})).pointer
    lifted = recovered(
        ONE, TWO, entries=changes({"quarantine": REJECTED}, {"lifted": TWO.composition_digest})
    ).pointer

    assert [quarantine.reason for quarantine in rejected.quarantined] == ["bad"]
    assert lifted.quarantined == ()


def test_a_manifest_gives_a_recovery_the_same_record_as_the_publisher_gave_the_pointer() -> None:
    state, attempt = make_state(3), "a" * 32
    members = Packer().members(SCOPE, state.files)
    body = manifest.written(state, attempt, AT, members, pack(members))

    read = manifest.decode(body).publication(hashlib.sha256(body).hexdigest())

    assert read == manifest.publication(state, attempt, AT, body)


def test_a_repaired_pointer_reports_what_it_left_out_and_keeps_the_rest() -> None:
    repaired = recovered(ONE, THREE, pointer=published(ONE, TWO, THREE))

    assert repaired.steps[0].startswith("left out, because missing or damaged: state-2@")
    assert not any("cut the history off" in line for line in repaired.steps)
    assert (repaired.pointer.live, repaired.pointer.desired) == (
        repaired.pointer.desired,
        repaired.pointer.live,
    )
    assert repaired.pointer.live is not None
    assert repaired.pointer.live.id == THREE.id
    assert any("live as it was" in line for line in repaired.steps)


def test_a_repaired_pointer_without_its_live_and_desired_states_uses_the_newest_whole_one() -> None:
    repaired = recovered(ONE, TWO, pointer=published(ONE, TWO, THREE)).pointer

    assert repaired.live is not None
    assert repaired.desired is not None
    assert (repaired.live.id, repaired.desired.id) == (TWO.id, TWO.id)


def test_a_history_without_its_chunks_is_cut_off_and_reported() -> None:
    pointer = protocol.without_chunk(published(ONE, TWO), OLDER)
    broken = recovered(ONE, TWO, pointer=pointer, chain_holds=False)

    assert broken.steps[0] == "cut the history off where its chunks are gone or changed"
    assert not any("left out" in line for line in broken.steps)
    assert broken.pointer.previous_chunk is None


def test_a_repaired_pointer_keeps_the_whole_chunks() -> None:
    pointer = protocol.without_chunk(published(ONE, TWO, THREE), OLDER)

    assert recovered(ONE, THREE, pointer=pointer).pointer.previous_chunk == OLDER
