"""What a recovery keeps of history, revisions and events, and what it records itself."""

from dataclasses import replace
from typing import Any

import pytest

from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, OperationRefused
from daemon.publishing.maintenance import recovery_rules
from daemon.publishing.maintenance.recovery_remains import (
    DamagedPublication,
    Remains,
    VerifiedPublication,
)
from daemon.publishing.maintenance.recovery_rules import Recovered, RecoveryOptions
from daemon.publishing.manifest import ManifestEvent
from daemon.publishing.pointer import (
    MOST_HISTORY,
    HistoryEntry,
    Pointer,
    PreviousChunk,
    Publication,
    Revision,
)
from events.model import Identity
from tests.builders_publishing import AT, SCOPE, make_publication, published, writing

ONE, TWO, THREE = (make_publication(f"state-{number}", number) for number in (1, 2, 3))
OLDER = PreviousChunk(key=f"{SCOPE}/history/1-64-w.json", sha256="0" * 64)
USED = {"used": {"old": [3, "c" * 64]}}


def recovered(left: Remains, options: RecoveryOptions = RecoveryOptions()) -> Recovered:  # noqa: B008  # frozen
    found = recovery_rules.recover(left, writing(9, reason="why"), options)
    assert found is not None
    return found


def remains(*publications: Publication, **more: Any) -> Remains:
    return Remains(SCOPE, found=tuple(map(VerifiedPublication, publications)), **more)


def entry(sequence: int, **fields: Any) -> HistoryEntry:
    return HistoryEntry.model_validate(
        {"sequence": sequence, "write_id": f"w{sequence}", "kind": "publish", "at": AT, "by": "bob"}
        | fields
    )


def used(pointer: Pointer) -> list[str]:
    return [state for state, _, _ in protocol.used_up(pointer.history)]


def test_an_event_that_is_already_folded_has_the_identity_that_a_batch_looks_up() -> None:
    event = ManifestEvent(
        intake="http",
        source="urn:s",
        id="e",
        type="t",
        digest="d" * 64,
        instance="journal:1",
        offset=1,
    )
    pointer = recovered(
        Remains(SCOPE, traces={"marker": 7}, found=(VerifiedPublication(ONE, (event,)),))
    ).pointer

    assert [(folded.identity, folded.event) for folded in pointer.folded_events] == [
        (Identity("http", "urn:s", "e").digest[:16], "d" * 16)
    ]


def test_a_history_has_only_entries_that_no_chunk_has() -> None:
    entries = tuple(entry(number, published=[str(ONE.id)], change=USED) for number in (4, 5, 6))
    pointer = recovered(remains(ONE, TWO, entries=entries, previous_chunk=OLDER, chunked=5)).pointer

    assert [item.sequence for item in pointer.history[:-1]] == [6]
    assert pointer.previous_chunk == OLDER
    assert "used" not in pointer.history[-1].change


def test_of_a_long_history_the_newest_changes_are_kept() -> None:
    entries = tuple(entry(number) for number in range(1, MOST_HISTORY + 10))
    pointer = recovered(remains(ONE, entries=entries)).pointer

    assert len(pointer.history) == MOST_HISTORY
    assert pointer.history[0].sequence == 11
    assert pointer.history[-1].kind == "recover"


def test_unrecorded_publications_are_recorded_as_published_by_the_recovery() -> None:
    recorded = entry(5, published=[str(ONE.id)], live=str(ONE.id), desired=str(ONE.id))
    found = recovered(remains(ONE, TWO, entries=(recorded,)))

    assert found.pointer.history[-1].published == (str(TWO.id),)
    assert f"whether these were ever committed, and in which order: {TWO.id}" in found.unknown


def test_a_recovery_reports_how_far_above_the_traces_it_went() -> None:
    found = recovered(remains(ONE, traces={"marker": 7}))
    line = (
        f"sequence {7 + MOST_HISTORY + 1}: {MOST_HISTORY + 1} above the highest that was found (7)"
    )

    assert found.pointer.sequence == 7 + MOST_HISTORY + 1
    assert line in found.steps


def test_a_recovery_reports_that_a_scope_stays_retired() -> None:
    recorded = entry(5, kind="retire", published=[str(ONE.id)], live=None, desired=None)

    assert (
        "live: nothing (the scope stays retired)"
        in recovered(remains(ONE, entries=(recorded,))).steps
    )


def test_a_repaired_pointer_repeats_no_entry_of_its_chunks() -> None:
    pointer = published(ONE, TWO, THREE).model_copy(update={"previous_chunk": OLDER})
    left = remains(TWO, THREE, pointer=pointer, entries=(entry(1, change=USED),))

    assert used(recovered(left).pointer) == ["state-1"]
    assert used(recovered(replace(left, chain_holds=False)).pointer) == ["old", "state-1"]


def test_a_repaired_pointer_is_held_only_if_another_state_is_live_now() -> None:
    pointer = published(ONE, TWO, THREE)
    same = recovered(remains(TWO, THREE, pointer=pointer))
    another = recovered(remains(ONE, TWO, pointer=pointer))

    assert same.pointer.hold is None
    assert "not held" in same.steps
    assert f"live: {THREE.id} (live as it was)" in same.steps
    assert another.pointer.hold is not None
    assert another.pointer.hold.reason == "recovered: why"


def test_a_retired_scope_without_its_states_is_repaired_and_stays_retired() -> None:
    retired = protocol.retire(published(ONE, TWO), writing(3))
    repaired = recovered(remains(TWO, pointer=retired)).pointer

    assert (repaired.live, repaired.desired) == (None, None)
    assert [publication.id for publication in repaired.retained] == [TWO.id]


def test_an_adopted_upload_below_the_highest_revision_was_late() -> None:
    low, high = (make_publication(f"upload-{number}", number) for number in (2, 5))
    pointer = published(ONE, THREE)

    def taken(upload: Publication) -> tuple[Pointer, bool]:
        following = recovered(
            remains(ONE, THREE, upload, pointer=pointer), RecoveryOptions(live=str(upload.id))
        ).pointer
        assert following.live is not None
        return following, following.live.late

    assert taken(low)[1]
    assert not taken(high)[1]
    assert (taken(low)[0].highest_revision, taken(high)[0].highest_revision) == (
        Revision(3),
        Revision(5),
    )


def test_the_revision_of_an_adopted_derived_upload_counts() -> None:
    first, second = (make_publication(f"derived-{n}", 1, derived=n, kind="derived") for n in (1, 2))
    pointer = published(ONE, first)
    taken = recovered(
        remains(ONE, first, second, pointer=pointer), RecoveryOptions(live=str(second.id))
    ).pointer
    other = make_publication("derived-0", 1, derived=1, kind="derived", composition="b" * 64)
    again = recovered(
        remains(ONE, first, other, pointer=taken), RecoveryOptions(live=str(other.id))
    ).pointer

    assert (taken.highest_revision.producer, taken.highest_revision.derived) == (1, 2)
    assert taken.live is not None
    assert not taken.live.late
    assert (again.highest_revision.producer, again.highest_revision.derived) == (1, 2)
    assert again.live is not None
    assert again.live.late


def test_a_publication_released_by_a_change_in_a_chunk_is_not_adopted() -> None:
    pointer = published(ONE, TWO)
    pointer = pointer.model_copy(update={"previous_chunk": OLDER, "history": pointer.history[1:]})
    released = entry(1, kind="gc", change={"released": [str(THREE.id)]})
    left = remains(ONE, TWO, THREE, pointer=pointer, entries=(released,))

    with pytest.raises(NotFound, match=rf"^no publication of state-3 in {SCOPE} is whole"):
        recovered(left, RecoveryOptions(live="state-3"))


def test_a_quarantined_state_cannot_be_requested() -> None:
    pointer = protocol.quarantine(published(ONE, TWO), writing(3), ONE)

    with pytest.raises(
        OperationRefused, match=r"^state-1 is quarantined: recover without --live, then lift that$"
    ):
        recovered(remains(ONE, TWO, pointer=pointer), RecoveryOptions(live="state-1"))


def test_a_scope_without_any_object_is_not_found() -> None:
    with pytest.raises(
        NotFound, match=rf"^nothing is published in {SCOPE}; `rebundle scopes` lists what there is$"
    ):
        recovery_rules.recover(Remains(SCOPE), writing(), RecoveryOptions())


# -- which uploads count as committed


LEFT, RIGHT = (
    make_publication("state-7", 7, attempt=name, composition=name[0] * 64)
    for name in ("aleft", "bright")
)


def kept(pointer: Pointer) -> list[str]:
    return [publication.attempt for publication in pointer.retained]


@pytest.mark.parametrize(("committed", "taken_over"), [(LEFT, RIGHT), (RIGHT, LEFT)])
def test_adopted_publications_yield_to_committed_ones(
    committed: Publication, taken_over: Publication
) -> None:
    entries = (
        entry(5, kind="recover", published=[str(taken_over.id)]),
        entry(6, published=[str(committed.id)]),
    )

    assert kept(recovered(remains(LEFT, RIGHT, entries=entries)).pointer) == [committed.attempt]


def test_a_state_that_an_older_pointer_retains_was_committed_although_its_files_are_gone() -> None:
    found = recovered(remains(ONE, RIGHT, pointer=published(ONE, LEFT), traces={"marker": 9}))

    assert kept(found.pointer) == [ONE.attempt]
    assert (
        f"left out {RIGHT.id}: its id or number was committed with another composition"
        in found.steps
    )


def test_a_name_that_fits_uploads_with_different_compositions_is_refused_with_all_of_them() -> None:
    left = remains(ONE, LEFT, RIGHT, traces={"marker": 9})

    with pytest.raises(OperationRefused) as refused:
        recovered(left, RecoveryOptions(live="state-7"))
    assert str(refused.value) == (
        f"state-7 matches uploads with different compositions, {LEFT.id}, {RIGHT.id}: "
        "name one of them with --live STATE@ATTEMPT"
    )


def test_publications_that_a_change_released_or_dropped_are_not_retained() -> None:
    for name in ("released", "dropped"):
        recorded = entry(5, kind="gc", change={name: [str(ONE.id)]})

        assert kept(recovered(remains(ONE, TWO, entries=(recorded,))).pointer) == [TWO.attempt]


def test_publications_are_retained_in_the_order_in_which_they_were_committed() -> None:
    first, second, third, fourth, last = (
        make_publication(name, number) for number, name in enumerate(("z", "y", "x", "w", "a"), 1)
    )
    named = (entry(5, published=[str(third.id), str(fourth.id)]),)
    left = remains(
        last, fourth, third, second, first, pointer=published(first, second), entries=named
    )

    assert [publication.state for publication in recovered(left).pointer.retained] == [
        "z",
        "y",
        "x",
        "w",
        "a",
    ]


def test_pins_of_an_older_pointer_are_kept_and_nothing_else_is_pinned() -> None:
    old = protocol.pin(published(ONE, TWO), writing(3), ONE, pinned=True)
    assert old is not None
    pointer = recovered(remains(ONE, TWO, THREE, pointer=old, traces={"marker": 9})).pointer

    assert [publication.pinned for publication in pointer.retained] == [True, False, False]


# -- what it reports


def test_a_recovery_counts_at_least_one_change_for_each_upload() -> None:
    gone = DamagedPublication(LEFT.id, "cut off")
    recorded = recovered(remains(ONE, TWO, traces={"marker": 1}, damaged=(gone,)))

    assert recorded.pointer.sequence == 3 + MOST_HISTORY + 1


def test_a_recovery_reports_what_is_live_and_why() -> None:
    recorded = entry(5, published=[str(ONE.id), str(TWO.id)], live=str(ONE.id), desired=str(TWO.id))
    left = remains(ONE, TWO, entries=(recorded,), tree=TWO.id)
    held = f"held by ann: recovered: why; `rebundle resume {SCOPE}` ends that"

    for sequence, live in (
        (5, f"live: {ONE.id} (by the last known change)"),
        (6, f"live: {TWO.id} (which the live tree follows)"),
    ):
        did = recovered(replace(left, tree_sequence=sequence)).steps
        assert did[-3:] == (live, f"desired: {TWO.id}", held)
    asked = recovered(left, RecoveryOptions(live="state-2", hold=False)).steps
    assert asked[-3:-1] == (f"live: {TWO.id} (as asked)", f"desired: {TWO.id}")


def test_without_evidence_of_live_the_newest_explicit_state_is_live() -> None:
    derived = make_publication("derived", 1, derived=1, kind="derived")
    found = recovered(remains(ONE, derived, traces={"marker": 9}))

    assert found.pointer.live is not None
    assert found.pointer.live.id == ONE.id
    assert f"live: {ONE.id} (the newest that is whole)" in found.steps


def test_a_scope_stays_retired_although_its_live_tree_followed_that_change() -> None:
    recorded = entry(5, kind="retire", published=[str(ONE.id)])
    pointer = recovered(remains(ONE, entries=(recorded,), tree=ONE.id, tree_sequence=5)).pointer

    assert (pointer.live, pointer.desired) == (None, None)


def test_a_recovery_reports_that_nothing_is_live_or_desired() -> None:
    did = recovered(remains(traces={"marker": 9})).steps

    assert did[-3:-1] == ("live: nothing (nothing is left to be live)", "desired: nothing")


def test_a_recovery_reports_what_it_cannot_know() -> None:
    event = ManifestEvent(
        intake="http", source="s", id="e", type="t", digest="d" * 64, instance="i", offset=0
    )
    gone = DamagedPublication(THREE.id, "cut off", events=(event,))
    left = replace(remains(ONE, LEFT, RIGHT, traces={"marker": 9}), damaged=(gone,))

    unknown = recovered(left).unknown
    assert (
        f"which of these was committed: {LEFT.id}, {RIGHT.id}. They share an id or a number and differ in their "
        f"composition, so none is kept; `rebundle recover {SCOPE} --live {LEFT.id} --reason '…'` takes the first"
    ) in unknown
    assert (
        "whether these events were folded: s e. Those that still wait are folded now; what is missing "
        "then has to be sent again, under a new event id"
    ) in unknown
