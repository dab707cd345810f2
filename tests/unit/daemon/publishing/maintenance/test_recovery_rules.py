"""Recovery rules for remains that only appear after several accidents, and properties of any
remains.
"""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, OperationRefused, StateUnreadable
from daemon.publishing.maintenance import recovery_rules
from daemon.publishing.maintenance.recovery_remains import (
    DamagedPublication,
    Remains,
    UnreadablePublication,
    VerifiedPublication,
)
from daemon.publishing.maintenance.recovery_rules import Recovered, RecoveryOptions
from daemon.publishing.manifest import ManifestEvent
from daemon.publishing.pointer import (
    MOST_HISTORY,
    MOST_RETAINED,
    HistoryEntry,
    Pointer,
    PreviousChunk,
    Publication,
    PublicationId,
    Revision,
)
from tests.builders_publishing import AT, SCOPE, make_publication, published, writing

ONE, TWO, THREE = (
    make_publication(f"state-{n}", n).model_copy(update={"at": f"2026-01-0{n}T00:00:00.000Z"})
    for n in (1, 2, 3)
)
OLDER = PreviousChunk(key=f"{SCOPE}/history/1-64-w.json", sha256="0" * 64)
NEVER: dict[str, Any] = {"live": None, "desired": None}


def remains(*publications: Publication, **more: Any) -> Remains:
    return Remains(
        SCOPE, found=tuple(map(VerifiedPublication, publications)), **{"had_pointer": True} | more
    )


def recovered(left: Remains, options: RecoveryOptions = RecoveryOptions()) -> Recovered:  # noqa: B008  # frozen
    found = recovery_rules.recover(left, writing(9, reason="why"), options)
    assert found is not None
    return found


def entry(sequence: int, **fields: Any) -> HistoryEntry:
    return HistoryEntry.model_validate(
        {"sequence": sequence, "write_id": f"w{sequence}", "kind": "hold", "at": AT, "by": "bob"}
        | fields
    )


def live(pointer: Pointer) -> str | None:
    return pointer.live.state if pointer.live else None


def desired(pointer: Pointer) -> str | None:
    return pointer.desired.state if pointer.desired else None


def test_without_any_object_there_is_no_scope() -> None:
    with pytest.raises(NotFound):
        recovery_rules.recover(Remains(SCOPE), writing(), RecoveryOptions())


def test_an_upload_in_a_scope_that_never_had_a_pointer_is_published_only_by_name() -> None:
    moved = derived(1, 1, composition="c")
    left = remains(ONE, moved, LEFT, RIGHT, had_pointer=False)
    assert recovery_rules.recover(left, writing(), RecoveryOptions()) is None
    assert {str(upload) for upload in left.unreferenced_uploads} == {
        str(item.id) for item in (ONE, moved, LEFT, RIGHT)
    }
    for item in (ONE, moved, LEFT, RIGHT):
        taken = recovered(left, RecoveryOptions(live=str(item.id))).pointer
        assert (retained(taken), taken.live and taken.live.id, taken.positions) == (
            [str(item.id)],
            item.id,
            {},
        )
        assert taken.desired == taken.live
    with pytest.raises(OperationRefused, match=re.escape(f"{LEFT.id}, {RIGHT.id}")):
        recovery_rules.recover(left, writing(), RecoveryOptions(live="state-7"))
    with pytest.raises(NotFound):
        recovery_rules.recover(left, writing(), RecoveryOptions(live="state-9"))
    only_damaged = Remains(SCOPE, damaged=(DamagedPublication(ONE.id, "cut off"),))
    assert recovery_rules.recover(only_damaged, writing(), RecoveryOptions()) is None


@pytest.mark.parametrize(
    "trace",
    [
        {"traces": {"freshness.json": 1}},
        {"entries": "one"},
        {"tree": ONE.id},
        {"had_pointer": True},
    ],
    ids=["a sequence", "a change", "a marker", "damaged remains"],
)
def test_any_trace_of_a_pointer_makes_uploads_count(trace: dict[str, Any]) -> None:
    shown = {"entries": (entry(5, kind="publish"),)} if "entries" in trace else trace
    assert retained(
        recovered(Remains(SCOPE, found=(VerifiedPublication(ONE),), **shown)).pointer
    ) == [str(ONE.id)]


def test_the_record_of_an_earlier_recovery_counts_without_other_evidence() -> None:
    rejected = {
        "composition_digest": TWO.composition_digest,
        "by": "bob",
        "reason": "bad",
        "at": AT,
    }
    held = {"by": "bob", "reason": "wait", "at": AT}
    recorded = entry(
        7,
        kind="recover",
        change={"quarantined": [rejected, "?"], "pinned": [str(ONE.id)], "hold": held},
    )
    pointer = recovered(remains(ONE, TWO, entries=(recorded,))).pointer
    assert [quarantine.reason for quarantine in pointer.quarantined] == ["bad"]
    assert [publication.state for publication in pointer.retained if publication.pinned] == [
        "state-1"
    ]
    assert pointer.hold is not None
    assert pointer.hold.reason == "wait"
    assert (live(pointer), desired(pointer)) == ("state-1", "state-2")
    change = pointer.history[-1].change
    assert (change["hold"], change["pinned"]) == (held, [str(ONE.id)])
    assert [quarantine["reason"] for quarantine in change["quarantined"]] == ["bad"]


def test_malformed_changes_are_skipped() -> None:
    malformed = [
        entry(number, change=change)
        for number, change in enumerate(
            (
                {"hold": "x"},
                {"quarantine": 7},
                {"pin": "x"},
                {"pinned": 3},
                {"released": "state-1"},
                {"lifted": {}},
            ),
            1,
        )
    ]
    pointer = recovered(remains(ONE, entries=tuple(malformed)), RecoveryOptions(hold=False)).pointer
    assert (pointer.hold, pointer.quarantined, live(pointer)) == (None, (), "state-1")


def test_an_explicit_state_with_a_lower_revision_than_an_earlier_one_was_late() -> None:
    late = make_publication("state-0", 0).model_copy(update={"at": "2026-01-09T00:00:00.000Z"})
    moved = make_publication("derived", 0, kind="derived").model_copy(
        update={"at": "2026-01-09T00:00:01.000Z"}
    )
    pointer = recovered(remains(ONE, TWO, late)).pointer
    assert [(publication.state, publication.late) for publication in pointer.retained] == [
        ("state-1", False),
        ("state-2", False),
        ("state-0", True),
    ]
    assert (live(pointer), desired(pointer)) == ("state-2", "state-2")
    assert not recovered(remains(ONE, moved)).pointer.retained[-1].late


def test_the_record_of_an_older_pointer_about_a_publication_counts() -> None:
    recorded = ONE.model_copy(update={"late": True, "superseded_at": AT})
    old = published(TWO).model_copy(update={"retained": (recorded, TWO)})
    pointer = recovered(remains(ONE, TWO, pointer=old, traces={"marker": 5})).pointer
    assert (pointer.retained[0].late, pointer.retained[0].superseded_at) == (True, AT)
    assert (desired(pointer), pointer.history[-1].published) == ("state-2", ())


def test_an_older_pointer_does_not_verify_another_manifest() -> None:
    old = published(ONE)
    other = ONE.model_copy(update={"manifest_sha256": "f" * 64})
    pointer = recovered(remains(other, pointer=old, traces={"marker": 5})).pointer
    assert [publication.manifest_sha256 for publication in pointer.retained] == ["f" * 64]
    repaired = recovered(remains(other, TWO, pointer=published(TWO, ONE)))
    assert [publication.state for publication in repaired.pointer.retained] == ["state-2"]
    assert any("restore their objects before you recover" in line for line in repaired.unknown)


def test_the_newer_of_live_tree_and_history_decides_live() -> None:
    recorded = entry(5, live=str(ONE.id), desired=str(TWO.id), published=[str(ONE.id), str(TWO.id)])
    left = remains(ONE, TWO, entries=(recorded,), tree=TWO.id, chunked=5, previous_chunk=OLDER)
    assert live(recovered(replace(left, tree_sequence=4)).pointer) == "state-1"
    assert live(recovered(replace(left, tree_sequence=6)).pointer) == "state-2"
    gone = replace(left, tree_sequence=6, tree=PublicationId(state="gone", attempt="x"))
    assert live(recovered(gone).pointer) == "state-1"


def test_desired_is_the_newest_unrecorded_state_or_that_of_the_last_change() -> None:
    recorded = entry(5, live=str(ONE.id), desired=str(ONE.id), published=[str(ONE.id), str(TWO.id)])
    assert desired(recovered(remains(ONE, TWO, entries=(recorded,))).pointer) == "state-1"
    assert desired(recovered(remains(ONE, TWO, THREE, entries=(recorded,))).pointer) == "state-3"
    assert desired(recovered(remains(TWO, entries=(recorded,))).pointer) == "state-2"


def test_a_retired_scope_stays_retired_unless_a_state_is_newer_or_requested() -> None:
    recorded = entry(5, kind="retire", published=[str(ONE.id)], **NEVER)
    pointer = recovered(remains(ONE, entries=(recorded,), tree=ONE.id, tree_sequence=4)).pointer
    assert (live(pointer), desired(pointer), pointer.hold) == (None, None, None)
    assert live(recovered(remains(ONE, TWO, entries=(recorded,))).pointer) == "state-2"
    assert (
        live(recovered(remains(ONE, entries=(recorded,)), RecoveryOptions(live="state-1")).pointer)
        == "state-1"
    )
    assert (
        live(recovered(remains(ONE, entries=(recorded,), tree=ONE.id, tree_sequence=6)).pointer)
        == "state-1"
    )


def test_a_derived_state_is_live_where_no_explicit_one_is_left() -> None:
    moved = make_publication("derived", 1, derived=2, kind="derived")
    pointer = recovered(remains(moved)).pointer
    assert (live(pointer), pointer.highest_revision.producer, pointer.highest_revision.derived) == (
        "derived",
        1,
        2,
    )


# -- uploads that may never have been committed


def event(number: int, at: int, instance: str = "journal:1") -> ManifestEvent:
    return ManifestEvent(
        intake="http",
        source="s",
        id=f"e{number}",
        type="t",
        digest=f"{number:016x}" + 48 * "0",
        instance=instance,
        offset=at,
    )


def derived(number: int, revision: int = 1, *, composition: str = "") -> Publication:
    name = f"derived-{revision}.{number}-{composition}"
    return make_publication(
        name, revision, derived=number, kind="derived", composition=composition * 64
    )


def folded(pointer: Pointer) -> list[int]:
    """The numbers of the events that are already folded."""
    return [int(delivery.event, 16) for delivery in pointer.folded_events]


def test_a_damaged_publication_that_no_change_names_counts_for_nothing() -> None:
    damaged = DamagedPublication(
        PublicationId(state="x", attempt="a"), "cut off", Revision(producer=8), (event(8, 80),)
    )
    found = recovered(
        remains(
            ONE,
            damaged=(damaged, DamagedPublication(PublicationId(state="y", attempt="b"), "is gone")),
        )
    )
    pointer = found.pointer
    assert (
        pointer.highest_revision.producer,
        pointer.highest_revision.derived,
        pointer.positions,
        pointer.folded_events,
    ) == (1, 0, {}, ())
    assert "left out x@a: cut off" in found.steps
    assert any("whether these events were folded: s e8." in line for line in found.unknown)
    assert any("restore their objects before you recover" in line for line in found.unknown)


def test_the_number_of_a_damaged_publication_that_a_change_names_is_used_up() -> None:
    damaged = DamagedPublication(
        PublicationId(state="x", attempt="a"),
        "cut off",
        Revision(producer=8, derived=3),
        (event(8, 80),),
    )
    pointer = recovered(
        remains(ONE, entries=(entry(5, published=["x@a"]),), damaged=(damaged,))
    ).pointer
    assert (
        pointer.highest_revision.producer,
        pointer.highest_revision.derived,
        pointer.positions,
        pointer.folded_events,
    ) == (8, 3, {}, ())


def test_only_certainly_committed_publications_raise_positions() -> None:
    stored = tuple(
        VerifiedPublication(item, (event(number, 10 * number),))
        for number, item in enumerate((ONE, TWO, THREE), 1)
    )
    alone = Remains(SCOPE, had_pointer=True, found=stored)
    assert recovered(alone).pointer.positions == {}
    assert folded(recovered(alone).pointer) == [1, 2, 3]
    assert recovered(replace(alone, tree=TWO.id)).pointer.positions == {"journal:1": 20}
    named = replace(alone, entries=(entry(7, kind="publish", published=[str(TWO.id)]),))
    assert recovered(named).pointer.positions == {"journal:1": 20}
    taken_over = replace(
        alone, entries=(entry(7, kind="recover", published=[str(TWO.id)]),), tree=TWO.id
    )
    assert recovered(taken_over).pointer.positions == {}
    old = published(ONE).model_copy(update={"positions": {"journal:1": 25, "journal:2": 1}})
    assert (
        recovered(replace(named, pointer=old, traces={"marker": 9})).pointer.positions
        == old.positions
    )


def test_the_missing_state_of_a_partly_stored_batch_can_still_be_folded() -> None:
    late = VerifiedPublication(
        make_publication("state-2", 2).model_copy(update={"at": "2026-01-09T00:00:00.000Z"}),
        (event(2, 41),),
    )
    gone = DamagedPublication(
        PublicationId(state="state-9", attempt="a"),
        "cut off",
        Revision(producer=9),
        (event(9, 40),),
    )
    pointer = recovered(
        Remains(
            SCOPE,
            had_pointer=True,
            found=(VerifiedPublication(THREE, (event(3, 30),)), late),
            damaged=(gone,),
            tree=THREE.id,
        )
    ).pointer
    assert (pointer.positions, pointer.highest_revision.producer) == ({"journal:1": 30}, 3)
    assert folded(pointer) == [3, 2]
    assert [(publication.state, publication.late) for publication in pointer.retained] == [
        ("state-3", False),
        ("state-2", True),
    ]


def test_events_of_a_derived_state_that_may_have_lost_to_desired_are_folded_again() -> None:
    lost = VerifiedPublication(derived(1, composition="a"), (event(1, 10, "kafka:c/t/0"),))
    won = VerifiedPublication(derived(1, composition="b"), (event(2, 10, "kafka:c/t/1"),))
    left = Remains(
        SCOPE,
        had_pointer=True,
        found=(VerifiedPublication(ONE, (event(0, 5, "kafka:c/t/0"),)), lost, won),
        tree=ONE.id,
    )
    found = recovered(left)
    assert desired(found.pointer) == won.publication.state
    assert folded(found.pointer) == [0, 2]
    assert any("whether these events were folded: s e1." in line for line in found.unknown)


def test_events_that_led_to_desired_or_were_replaced_by_it_are_not_folded_again() -> None:
    replaced = VerifiedPublication(derived(1, composition="a"), (event(1, 10, "kafka:c/t/0"),))
    before = VerifiedPublication(derived(1, 2, composition="b"), (event(2, 20), event(3, 21)))
    last = VerifiedPublication(derived(2, 2, composition="c"), (event(4, 22),))
    pointer = recovered(
        Remains(
            SCOPE,
            had_pointer=True,
            found=(VerifiedPublication(ONE), replaced, VerifiedPublication(TWO), before, last),
        )
    ).pointer
    assert desired(pointer) == last.publication.state
    assert folded(pointer) == [1, 2, 3, 4]


def test_events_of_explicit_and_committed_states_are_recognised_from_any_source() -> None:
    first = VerifiedPublication(TWO, (event(1, 10, "kafka:c/t/0"),))
    committed = VerifiedPublication(derived(1, 2, composition="a"), (event(2, 10, "kafka:c/t/1"),))
    last = VerifiedPublication(derived(2, 2, composition="b"), (event(3, 10, "kafka:c/t/2"),))
    left = Remains(SCOPE, had_pointer=True, found=(first, committed, last))
    assert sorted(folded(recovered(left).pointer)) == [1, 3]
    recorded = entry(5, kind="publish", published=[str(committed.publication.id)])
    assert sorted(folded(recovered(replace(left, entries=(recorded,))).pointer)) == [1, 2, 3]


def test_an_event_below_a_passed_position_is_not_reported_as_waiting() -> None:
    damaged = DamagedPublication(
        PublicationId(state="x", attempt="a"), "cut off", None, (event(8, 30), event(9, 31))
    )
    old = published(ONE).model_copy(update={"positions": {"journal:1": 30}})
    found = recovered(remains(ONE, damaged=(damaged,), pointer=old, traces={"marker": 9}))
    assert any("whether these events were folded: s e9." in line for line in found.unknown)


def test_the_revisions_of_an_older_pointer_count_without_other_evidence() -> None:
    old = published(ONE).model_copy(update={"highest_revision": Revision(7, 2)})
    lost = derived(1, 7, composition="a")
    pointer = recovered(remains(ONE, lost, pointer=old, traces={"marker": 9})).pointer
    assert (
        pointer.highest_revision.producer,
        pointer.highest_revision.derived,
        desired(pointer),
    ) == (7, 2, "state-1")


def test_a_state_that_lost_its_race_does_not_become_desired() -> None:
    lost = derived(1, composition="a").model_copy(update={"at": "2026-01-09T00:00:00.000Z"})
    recorded = entry(5, live=str(TWO.id), desired=str(TWO.id), published=[str(ONE.id), str(TWO.id)])
    assert desired(recovered(remains(ONE, TWO, lost, entries=(recorded,))).pointer) == "state-2"
    assert desired(recovered(remains(ONE, TWO, lost)).pointer) == "state-2"
    gone = recorded.model_copy(update={"desired": "gone@x"})
    assert desired(recovered(remains(ONE, TWO, lost, entries=(gone,))).pointer) == "state-2"
    won, rival = derived(1, 2, composition="b"), derived(1, 2, composition="c")
    moved = entry(6, live=str(won.id), desired=str(won.id), published=[str(won.id)])
    assert (
        desired(recovered(remains(TWO, won, rival, entries=(recorded, moved))).pointer) == won.state
    )
    retired = entry(5, kind="retire", published=[str(TWO.id)])
    assert desired(recovered(remains(TWO, lost, entries=(retired,))).pointer) is None


def test_a_republished_desired_state_after_the_last_known_change_is_desired() -> None:
    republished = TWO.model_copy(update={"attempt": "anew", "at": "2026-01-09T00:00:00.000Z"})
    recorded = entry(5, live=str(ONE.id), desired=str(TWO.id), published=[str(ONE.id), str(TWO.id)])
    pointer = recovered(remains(ONE, TWO, republished, entries=(recorded,))).pointer
    assert pointer.desired is not None
    assert pointer.desired.id == republished.id


def test_a_pointer_behind_a_trace_keeps_its_unknown_fields() -> None:
    old = Pointer.model_validate(published(ONE).model_dump(by_alias=True) | {"newer": {"field": 1}})
    pointer = recovered(remains(ONE, pointer=old, traces={"marker": 9})).pointer
    assert pointer.model_extra == {"newer": {"field": 1}}


def test_an_attempt_can_be_requested() -> None:
    again = ONE.model_copy(update={"attempt": "another"})
    for item in (ONE, again):
        named = recovered(remains(ONE, again), RecoveryOptions(live=str(item.id))).pointer.live
        assert named is not None
        assert named.attempt == item.attempt
    old = protocol.quarantine(published(ONE, TWO), writing(3), ONE)
    with pytest.raises(OperationRefused):
        recovery_rules.recover(
            remains(ONE, TWO, pointer=old), writing(4), RecoveryOptions(live="state-1")
        )


def test_another_live_state_can_be_requested_for_a_whole_pointer() -> None:
    old = published(ONE, TWO)
    assert (
        recovery_rules.recover(remains(ONE, TWO, pointer=old), writing(3), RecoveryOptions())
        is None
    )
    asked = recovered(remains(ONE, TWO, pointer=old), RecoveryOptions(live="state-1"))
    pointer = asked.pointer
    assert asked.unknown == ()
    assert (live(pointer), desired(pointer), pointer.sequence) == ("state-1", "state-2", 3)
    assert pointer.hold is not None


def test_without_a_hold_live_is_desired_unless_a_quarantine_keeps_them_apart() -> None:
    """In a pointer, live and desired differ only by a hold or a quarantine, so the difference
    proves a hold.
    """
    unheld = RecoveryOptions(hold=False)
    healthy = remains(ONE, TWO, pointer=published(ONE, TWO))
    asked = recovered(healthy, RecoveryOptions(live="state-1", hold=False))
    assert (live(asked.pointer), desired(asked.pointer)) == ("state-1", "state-2")
    assert asked.pointer.hold is not None
    assert "held in spite of --no-hold: live is not the desired state" in asked.steps
    assert recovered(healthy, RecoveryOptions(live="state-2", hold=False)).pointer.hold is None
    followed = remains(ONE, TWO, tree=ONE.id, tree_sequence=3)
    assert recovered(followed, unheld).pointer.hold is not None
    assert recovered(replace(followed, tree=TWO.id), unheld).pointer.hold is None
    rejected = {
        "composition_digest": TWO.composition_digest,
        "by": "bob",
        "reason": "bad",
        "at": AT,
    }
    withheld = recovered(
        replace(followed, entries=(entry(2, change={"quarantine": rejected}),)), unheld
    ).pointer
    assert (live(withheld), desired(withheld), withheld.hold) == ("state-1", "state-2", None)
    held = entry(2, change={"hold": {"by": "bob", "reason": "wait", "at": AT}})
    known = recovered(replace(followed, tree=TWO.id, entries=(held,)), unheld)
    assert "held in spite of --no-hold: the hold was there before" in known.steps


def test_in_a_repaired_pointer_without_a_hold_desired_is_live() -> None:
    """Desired is missing, and the newest remaining state is not live."""
    rejected = protocol.quarantine(published(ONE, TWO), writing(3), TWO, rollback_to=ONE)
    assert rejected is not None
    lifted = protocol.lift_quarantine(
        protocol.rollback(rejected, writing(4), ONE, discard_newer=True) or rejected,
        writing(5),
        TWO.composition_digest,
    )
    assert lifted is not None
    pointer = lifted.model_copy(
        update={"live": ONE, "desired": THREE, "retained": (ONE, TWO, THREE), "hold": None}
    )
    repaired = recovered(remains(ONE, TWO, pointer=pointer), RecoveryOptions(hold=False)).pointer
    assert (live(repaired), desired(repaired)) == ("state-1", "state-2")
    assert repaired.hold is not None


def test_an_adopted_upload_that_is_not_late_is_desired() -> None:
    old = published(ONE)
    taken = recovered(
        remains(ONE, TWO, pointer=old), RecoveryOptions(live=str(TWO.id), hold=False)
    ).pointer
    assert (live(taken), desired(taken), taken.hold) == ("state-2", "state-2", None)
    late = upload("state-0", 0, "x", "c")
    behind = recovered(
        remains(ONE, late, pointer=old), RecoveryOptions(live=str(late.id), hold=False)
    ).pointer
    assert (live(behind), desired(behind), behind.hold is None) == ("state-0", "state-1", False)


def test_the_live_state_of_a_reactivated_scope_is_desired() -> None:
    retired = protocol.retire(published(ONE), writing(2))
    assert retired is not None
    asked = recovered(remains(ONE, pointer=retired), RecoveryOptions(live="state-1")).pointer
    assert (live(asked), desired(asked)) == ("state-1", "state-1")


# -- states that the store hides

HIDDEN = UnreadablePublication(TWO.id, "states/state-2 is a symbolic link; move it away: mv a b")


def test_an_unreadable_old_state_is_left_out_of_a_rebuilt_pointer_with_its_reason() -> None:
    found = recovered(remains(ONE, THREE, unreadable=(HIDDEN,), tree=THREE.id, tree_sequence=3))
    assert (retained(found.pointer), live(found.pointer)) == (
        [str(ONE.id), str(THREE.id)],
        "state-3",
    )
    assert any(
        line.startswith(f"left out {TWO.id}, which cannot be read: {HIDDEN.reason}")
        for line in found.steps
    )
    assert any(
        f"`rebundle recover {SCOPE} --live {TWO.id} --reason '…'`" in line for line in found.unknown
    )


def test_an_unreadable_state_stays_in_a_readable_pointer() -> None:
    """The publication may be whole, and a collection deletes what the pointer does not reference."""
    old = published(ONE, TWO, THREE)
    left = remains(THREE, pointer=old, unreadable=(HIDDEN,))
    found = recovered(left)
    assert (retained(found.pointer), live(found.pointer)) == (
        [str(TWO.id), str(THREE.id)],
        "state-3",
    )
    assert f"kept {TWO.id} as it is, unread: {HIDDEN.reason}" in found.steps
    assert (
        recovery_rules.recover(
            replace(left, found=(VerifiedPublication(ONE), VerifiedPublication(THREE))),
            writing(),
            RecoveryOptions(),
        )
        is None
    )


@pytest.mark.parametrize(
    "left",
    [
        remains(ONE, pointer=published(ONE, TWO), unreadable=(HIDDEN,)),
        remains(ONE, unreadable=(HIDDEN,), tree=TWO.id, tree_sequence=3),
        remains(
            ONE, unreadable=(HIDDEN,), entries=(entry(5, live=str(TWO.id), desired=str(TWO.id)),)
        ),
        remains(unreadable=(HIDDEN,)),
    ],
    ids=["pointer", "marker", "change", "nothing else"],
)
def test_a_recovery_stops_if_the_state_that_must_be_live_is_unreadable(left: Remains) -> None:
    with pytest.raises(StateUnreadable, match=re.escape(f"{TWO.id} has to be live")) as raised:
        recovery_rules.recover(left, writing(), RecoveryOptions())
    assert HIDDEN.reason in str(raised.value)
    if left.found:
        assert live(recovered(left, RecoveryOptions(live="state-1")).pointer) == "state-1"
    with pytest.raises(StateUnreadable, match="as asked"):
        recovery_rules.recover(left, writing(), RecoveryOptions(live="state-2"))


def test_a_retired_scope_stays_retired_though_its_last_state_cannot_be_read() -> None:
    recorded = entry(5, kind="retire", published=[str(TWO.id)], **NEVER)
    pointer = recovered(
        remains(entries=(recorded,), tree=TWO.id, tree_sequence=4, unreadable=(HIDDEN,))
    ).pointer
    assert (live(pointer), desired(pointer)) == (None, None)


# -- conflicting uploads


def upload(state: str, number: int, attempt: str, composition: str) -> Publication:
    return make_publication(state, number, attempt=attempt, composition=composition * 64)


LEFT, RIGHT = upload("state-7", 7, "left", "a"), upload("state-7", 7, "right", "b")


def retained(pointer: Pointer) -> list[str]:
    return [str(publication.id) for publication in pointer.retained]


def test_of_uploads_with_one_id_or_revision_the_recorded_one_is_retained() -> None:
    same_number = upload("other", 7, "x", "c")
    for change in (
        entry(5, kind="publish", published=[str(RIGHT.id)]),
        entry(5, kind="gc", change={"used": {"state-7": [7, RIGHT.composition_digest]}}),
    ):
        found = recovered(remains(LEFT, RIGHT, same_number, entries=(change,)))
        assert retained(found.pointer) == [str(RIGHT.id)]
        assert sum("was committed with another composition" in line for line in found.steps) == 2
    assert retained(recovered(remains(LEFT, RIGHT, tree=LEFT.id, tree_sequence=3)).pointer) == [
        str(LEFT.id)
    ]
    old = published(RIGHT)
    assert retained(recovered(remains(LEFT, RIGHT, pointer=old, traces={"marker": 9})).pointer) == [
        str(RIGHT.id)
    ]


def test_committed_publications_take_precedence_over_adopted_ones() -> None:
    recorded = (
        entry(5, kind="publish", published=[str(LEFT.id)]),
        entry(6, kind="recover", published=[str(RIGHT.id)], live=str(RIGHT.id)),
    )
    assert retained(recovered(remains(LEFT, RIGHT, entries=recorded)).pointer) == [str(LEFT.id)]
    assert retained(recovered(remains(LEFT, RIGHT, entries=recorded[1:])).pointer) == [
        str(RIGHT.id)
    ]


def test_a_recorded_damaged_publication_has_the_committed_composition() -> None:
    damaged = DamagedPublication(
        RIGHT.id, "cut off", RIGHT.revision, (), RIGHT.composition_digest, "explicit"
    )
    again = RIGHT.model_copy(update={"attempt": "again"})
    recorded = entry(5, kind="publish", published=[str(RIGHT.id)])
    pointer = recovered(remains(LEFT, again, entries=(recorded,), damaged=(damaged,))).pointer
    assert retained(pointer) == [str(again.id)]
    unnamed = recovered(remains(LEFT, damaged=(damaged,))).pointer
    assert retained(unnamed) == [str(LEFT.id)], (
        "a partly stored batch may never have been committed"
    )


def test_of_conflicting_unreferenced_uploads_none_is_retained_until_an_operator_chooses() -> None:
    left = Remains(
        SCOPE,
        had_pointer=True,
        found=(
            VerifiedPublication(ONE),
            VerifiedPublication(LEFT, (event(7, 70),)),
            VerifiedPublication(RIGHT, (event(8, 80),)),
        ),
    )
    found = recovered(left)
    assert retained(found.pointer) == [str(ONE.id)]
    assert (found.pointer.highest_revision.producer, folded(found.pointer)) == (1, [])
    [line] = [line for line in found.unknown if "which of these was committed" in line]
    assert f"`rebundle recover {SCOPE} --live {LEFT.id} --reason '…'`" in line
    for item in (LEFT, RIGHT):
        named = recovered(left, RecoveryOptions(live=str(item.id)))
        assert retained(named.pointer) == [str(ONE.id), str(item.id)]
        assert named.pointer.live is not None
        assert named.pointer.live.id == item.id
    with pytest.raises(OperationRefused, match=re.escape(f"{LEFT.id}, {RIGHT.id}")):
        recovery_rules.recover(left, writing(), RecoveryOptions(live="state-7"))


def test_an_upload_that_contradicts_a_committed_one_cannot_be_requested() -> None:
    left = remains(LEFT, RIGHT, entries=(entry(5, kind="publish", published=[str(LEFT.id)]),))
    with pytest.raises(OperationRefused, match="never committed"):
        recovery_rules.recover(left, writing(), RecoveryOptions(live=str(RIGHT.id)))
    assert live(recovered(left, RecoveryOptions(live="state-7")).pointer) == "state-7"


def test_the_same_state_stored_twice_is_retained_twice() -> None:
    again = LEFT.model_copy(update={"attempt": "again"})
    assert retained(recovered(remains(LEFT, again)).pointer) == [str(again.id), str(LEFT.id)]


def test_derived_states_of_one_revision_do_not_conflict() -> None:
    lost, won = derived(1, composition="a"), derived(1, composition="b")
    assert len(recovered(remains(ONE, lost, won)).pointer.retained) == 3


def test_an_upload_that_was_left_out_can_be_adopted_later() -> None:
    pointer = recovered(remains(ONE, LEFT, RIGHT)).pointer
    left = Remains(
        SCOPE,
        had_pointer=True,
        found=(
            VerifiedPublication(ONE),
            VerifiedPublication(LEFT, (event(7, 70),)),
            VerifiedPublication(RIGHT),
        ),
        pointer=pointer,
    )
    assert recovery_rules.recover(left, writing(), RecoveryOptions()) is None
    after = recovered(left, RecoveryOptions(live=str(LEFT.id))).pointer
    assert (live(after), retained(after)) == ("state-7", [str(ONE.id), str(LEFT.id)])
    assert (after.highest_revision.producer, folded(after)) == (7, [7])
    assert after.history[-1].published == (str(LEFT.id),)
    with pytest.raises(OperationRefused, match="never committed"):
        recovery_rules.recover(
            replace(left, pointer=after), writing(), RecoveryOptions(live=str(RIGHT.id))
        )
    used = protocol.collect(after, writing(), [LEFT.id])
    with pytest.raises(NotFound):
        recovery_rules.recover(replace(left, pointer=used), writing(), RecoveryOptions(live="gone"))


def test_a_released_publication_is_not_adopted() -> None:
    pointer = protocol.collect(published(ONE, TWO), writing(3), [ONE.id])
    with pytest.raises(NotFound):
        recovery_rules.recover(
            remains(ONE, TWO, pointer=pointer), writing(4), RecoveryOptions(live="state-1")
        )


def test_unreferenced_uploads_newer_than_the_pointer_are_listed() -> None:
    pointer = published(ONE)
    late = upload("state-0", 0, "x", "c").model_copy(update={"at": "2026-02-01T00:00:00.000Z"})
    before = upload("state-0", 0, "y", "d").model_copy(update={"at": "2025-12-01T00:00:00.000Z"})
    left = remains(ONE, TWO, late, before, pointer=pointer)
    assert left.unreferenced_uploads == (TWO.id, late.id)
    assert replace(left, traces={"marker": 9}).unreferenced_uploads == ()
    assert remains(TWO).unreferenced_uploads == ()
    assert remains(TWO, ONE, had_pointer=False).unreferenced_uploads == (ONE.id, TWO.id)


# -- a partly unreadable history


def test_a_history_is_cut_off_only_where_the_chain_of_the_pointer_is_broken() -> None:
    pointer = published(ONE).model_copy(update={"previous_chunk": OLDER})
    ahead = PreviousChunk(key=f"{SCOPE}/history/65-128-w.json", sha256="1" * 64)
    left = remains(ONE, pointer=pointer, previous_chunk=ahead, chunked=128)
    assert recovery_rules.recover(left, writing(), RecoveryOptions()) is None
    cut = recovered(replace(left, chain_holds=False)).pointer
    assert (cut.previous_chunk, cut.history[0].sequence) == (None, 1)


def test_ids_used_in_a_cut_off_history_stay_used() -> None:
    recorded = entry(1, kind="gc", change={"used": {"old": [3, "c" * 64]}})
    broken = remains(
        TWO,
        pointer=published(ONE).model_copy(update={"previous_chunk": OLDER}),
        entries=(recorded,),
    )
    repaired = recovered(replace(broken, chain_holds=False)).pointer
    assert set(protocol.used_up(repaired.history)) == {
        ("old", 3, "c" * 64),
        ("state-1", 1, ONE.composition_digest),
    }
    many = tuple(entry(number) for number in range(2, MOST_HISTORY + 9))
    rebuilt = recovered(remains(TWO, entries=(recorded, *many))).pointer
    assert list(protocol.used_up(rebuilt.history)) == [("old", 3, "c" * 64)]
    reached = recovered(
        remains(TWO, entries=(recorded, *many), previous_chunk=OLDER, chunked=100)
    ).pointer
    assert list(protocol.used_up(reached.history)) == [], "the chunks have these entries"


def test_a_long_list_of_names_is_shortened() -> None:
    many = [make_publication(f"state-{number}", number) for number in range(1, 9)]
    assert any("and 3 more" in line for line in recovered(remains(*many)).unknown)


def assert_no_contradiction(pointer: Pointer) -> None:
    """Protocol 3: id, revision and composition of an explicit state belong together."""
    triples = {
        (p.state, p.revision.producer, p.composition_digest)
        for p in pointer.retained
        if p.kind == "explicit"
    }
    for part in (0, 1):
        assert len({triple[part] for triple in triples}) == len(triples)


@st.composite
def any_remains(draw: st.DrawFn) -> Remains:
    number = st.integers(1, 400)
    chance = draw(st.integers(1, 10**6))
    publications = [
        make_publication(
            f"s{item}",
            chance * item % 53,
            derived=chance * item % 3,
            composition=f"{chance * item % 5:064x}",
        )
        for item in range(draw(st.sampled_from([0, 1, 5, 130])))
    ]
    names = [str(publication.id) for publication in publications] or ["gone@x"]
    entries = tuple(
        entry(
            sequence,
            published=draw(st.lists(st.sampled_from(names), max_size=2)),
            live=draw(st.none() | st.sampled_from(names)),
            desired=draw(st.none() | st.sampled_from(names)),
            change=draw(
                st.sampled_from(
                    [
                        {},
                        {"hold": {"by": "b", "reason": "r", "at": AT}},
                        {"hold": None},
                        {
                            "quarantine": {
                                "composition_digest": f"{1:064x}",
                                "by": "b",
                                "reason": "r",
                                "at": AT,
                            }
                        },
                        {"released": names[:2]},
                    ]
                )
            ),
        )
        for sequence in sorted(draw(st.sets(number, max_size=4)))
    )
    old = published(*publications[:20]) if draw(st.booleans()) else None
    traces = {"marker": draw(number), "tags": draw(number)}
    if old is not None:
        traces["more"] = old.sequence + 1
    return remains(
        *publications,
        pointer=old,
        traces=traces,
        entries=entries,
        tree=PublicationId.parse(draw(st.sampled_from(names))),
        tree_sequence=traces["marker"],
    )


@given(any_remains(), st.booleans())
def test_any_recovery_is_above_every_trace_and_references_only_verified_publications(
    left: Remains, hold: bool
) -> None:
    pointer = recovered(left, RecoveryOptions(hold=hold)).pointer
    seen = [*left.traces.values(), *(entry.sequence for entry in left.entries), len(left.found)]
    seen.append(left.pointer.sequence if left.pointer else 0)
    assert pointer.sequence == max(seen) + MOST_HISTORY + 1
    assert pointer.gc_epoch >= pointer.sequence
    assert len(pointer.retained) <= MOST_RETAINED
    assert len(pointer.history) <= MOST_HISTORY
    assert [entry.sequence for entry in pointer.history] == sorted(
        {entry.sequence for entry in pointer.history}
    )
    verified = {found_item.publication.id for found_item in left.found}
    assert {publication.id for publication in pointer.retained} <= verified
    for publication in (pointer.live, pointer.desired):
        assert publication is None or publication in pointer.retained
    assert pointer.live is None or not pointer.is_quarantined(pointer.live.composition_digest)
    assert pointer.highest_revision.producer >= max(
        (publication.revision.producer for publication in pointer.retained), default=0
    )
    assert_no_contradiction(pointer)
    assert not hold or pointer.live is None or pointer.hold is not None
    apart = (pointer.live and pointer.live.id) != (pointer.desired and pointer.desired.id)
    withheld = pointer.desired is not None and pointer.is_quarantined(
        pointer.desired.composition_digest
    )
    assert pointer.hold is not None or withheld or not apart
