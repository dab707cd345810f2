"""Pure rules for the next pointer: protocol 3 and 4, one test per rule, and invariants of any
sequence of changes.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing import protocol
from daemon.publishing.errors import OperationRefused
from daemon.publishing.pointer import (
    CHUNK,
    MOST_FOLDED_EVENTS,
    MOST_HISTORY,
    MOST_PINNED,
    MOST_RETAINED,
    FoldedEvent,
    Pointer,
    PreviousChunk,
    Publication,
    Quarantine,
    Revision,
)
from daemon.publishing.protocol import Resolution
from tests.builders_publishing import AT, SCOPE, make_publication, progress, published, writing

ONE, TWO, THREE = (
    make_publication("state-1", 1),
    make_publication("state-2", 2),
    make_publication("state-3", 3),
)


def live(pointer: Pointer) -> str | None:
    return pointer.live.state if pointer.live else None


def desired(pointer: Pointer) -> str | None:
    return pointer.desired.state if pointer.desired else None


def done(pointer: Pointer | None) -> Pointer:
    assert pointer is not None
    return pointer


def quarantined(pointer: Pointer, target: Publication, back: Publication | None = None) -> Pointer:
    return done(protocol.quarantine(pointer, writing(90), target, rollback_to=back))


# -- publish


def test_a_publication_becomes_desired_and_live() -> None:
    pointer = published(ONE)
    assert (live(pointer), desired(pointer), pointer.sequence, pointer.kind) == (
        "state-1",
        "state-1",
        1,
        "publish",
    )


def test_one_change_records_a_whole_batch_and_the_last_that_is_not_late_moves() -> None:
    late = make_publication("state-0", 0, late=True)
    pointer = protocol.publish(published(ONE), writing(2), [TWO, late, THREE, late], progress(3))
    assert (live(pointer), desired(pointer), pointer.sequence) == ("state-3", "state-3", 2)
    assert pointer.history[-1].published == tuple(str(item.id) for item in (TWO, late, THREE, late))
    last = protocol.publish(published(ONE), writing(2), [TWO, late], progress(2))
    assert (live(last), desired(last)) == ("state-2", "state-2")


def test_a_late_publication_moves_nothing_and_is_kept_for_rollback() -> None:
    late = make_publication("state-0", 0, late=True)
    pointer = protocol.publish(published(ONE, TWO), writing(3), [late], progress(2))
    assert (live(pointer), desired(pointer), pointer.highest_revision.producer) == (
        "state-2",
        "state-2",
        2,
    )
    [kept] = pointer.retained_of("state-0")
    assert kept.superseded_at == writing(3).at
    assert live(protocol.rollback(pointer, writing(4), kept)) == "state-0"


def test_a_hold_keeps_live_while_desired_advances() -> None:
    held = protocol.hold(published(ONE), writing(2))
    pointer = published(TWO, THREE, start=held)
    assert (live(pointer), desired(pointer), pointer.hold) == ("state-1", "state-3", held.hold)


def test_a_quarantined_composition_is_published_but_goes_live_under_no_id() -> None:
    again = make_publication("state-3", 3, composition=TWO.composition_digest)
    pointer = published(again, start=quarantined(published(TWO, ONE), TWO))
    assert (live(pointer), desired(pointer)) == ("state-1", "state-3")
    assert live(published(make_publication("state-4", 4), start=pointer)) == "state-4"


def test_publishing_without_progress_leaves_every_counter() -> None:
    before = protocol.publish(
        published(ONE),
        writing(2),
        [TWO],
        progress(2, 3, {"journal:1": 9}, [FoldedEvent(identity="i", event="e")]),
    )
    again = protocol.publish(before, writing(3), [TWO.model_copy(update={"attempt": "again"})])
    for name in ("highest_revision", "positions", "folded_events"):
        assert getattr(again, name) == getattr(before, name)
    assert again.live is not None
    assert again.live.attempt == "again"


def test_positions_of_each_instance_only_rise_and_unknown_instances_are_added() -> None:
    before = protocol.publish(
        published(), writing(1), [ONE], progress(1, 0, {"journal:1": 5, "journal:2": 9})
    )
    after = protocol.publish(
        before,
        writing(2),
        [TWO],
        progress(2, 0, {"journal:1": 3, "kafka:c/t/0": 0, "journal:2": 10}),
    )
    assert after.positions == {"journal:1": 5, "journal:2": 10, "kafka:c/t/0": 0}


def test_the_revision_of_the_producer_never_decreases() -> None:
    assert protocol.publish(
        published(ONE, TWO), writing(3), [], progress(1)
    ).highest_revision == Revision(2)


def test_the_newest_128_folded_events_are_kept() -> None:
    folded = [
        FoldedEvent(identity=f"{number:016x}", event="0" * 16)
        for number in range(MOST_FOLDED_EVENTS + 10)
    ]
    some = protocol.publish(published(), writing(1), [ONE], progress(1, folded=folded[:100]))
    assert some.folded_events == tuple(folded[:100])
    assert protocol.publish(
        some, writing(2), [TWO], progress(2, folded=folded[100:])
    ).folded_events == tuple(folded[-128:])


def test_a_publication_is_superseded_only_while_neither_live_nor_desired() -> None:
    pointer = published(ONE, TWO)
    [one] = pointer.retained_of("state-1")
    assert one.superseded_at == writing(2).at
    later = published(THREE, start=pointer)
    assert later.retained_of("state-1")[0].superseded_at == writing(2).at
    back = protocol.rollback(later, writing(4), later.retained_of("state-1")[0])
    assert back.live is not None
    assert back.live.superseded_at is None
    assert back.retained_of("state-1")[0].superseded_at is None
    assert back.retained_of("state-3")[0].superseded_at is None  # still desired


# -- what is retained


def test_the_newest_hundred_publications_are_retained_and_history_names_the_dropped() -> None:
    many = [make_publication(f"state-{number}", number) for number in range(1, 104)]
    pointer = published(*many[:100])
    assert [publication.state for publication in pointer.retained] == [
        item.state for item in many[:100]
    ]
    assert all("dropped" not in entry.change for entry in pointer.history)
    pointer = protocol.publish(pointer, writing(101), many[100:], progress(103))
    assert [publication.state for publication in pointer.retained] == [
        item.state for item in many[-MOST_RETAINED:]
    ]
    assert pointer.history[-1].change["dropped"] == [str(item.id) for item in many[:3]]
    assert list(protocol.used_up(pointer.history)) == [
        (item.state, item.revision.producer, item.composition_digest) for item in many[:3]
    ]


def test_live_desired_and_pinned_publications_are_retained_at_any_age() -> None:
    pointer = published(ONE, TWO, THREE)
    pointer = done(
        protocol.pin(pointer, writing(4), pointer.retained_of("state-2")[0], pinned=True)
    )
    pointer = protocol.rollback(pointer, writing(5), pointer.retained_of("state-1")[0])
    late = [make_publication(f"late-{number}", 3, late=True) for number in range(110)]
    pointer = published(*late, start=pointer)
    assert [publication.state for publication in pointer.retained[:4]] == [
        "state-1",
        "state-2",
        "state-3",
        "late-13",
    ]
    assert (len(pointer.retained), live(pointer), desired(pointer)) == (
        MOST_RETAINED,
        "state-1",
        "state-3",
    )
    pointer = done(
        protocol.pin(pointer, writing(6), pointer.retained_of("state-2")[0], pinned=False)
    )
    pointer = published(make_publication("late-110", 3, late=True), start=pointer)
    assert pointer.retained_of("state-2") == ()


def test_dropped_publications_are_recorded_beside_the_change_of_an_operator() -> None:
    pointer = published(
        ONE, TWO, *[make_publication(f"late-{number}", 1, late=True) for number in range(98)]
    )
    full = pointer.model_copy(
        update={"retained": (*pointer.retained, make_publication("more", 1, late=True))}
    )
    change = protocol.hold(full, writing(200)).history[-1].change
    assert change["dropped"] == [str(ONE.id)]
    assert change["hold"]["by"] == "ann"


def test_a_collection_releases_the_given_publications_and_raises_the_epoch() -> None:
    before = published(ONE, TWO, THREE)
    pointer = protocol.collect(before, writing(4), {ONE.id})
    assert [publication.state for publication in pointer.retained] == ["state-2", "state-3"]
    assert (pointer.kind, pointer.gc_epoch, pointer.sequence) == ("gc", 1, 4)
    assert pointer.history[-1].change == {
        "released": [str(ONE.id)],
        "used": {"state-1": [1, ONE.composition_digest]},
    }
    assert list(protocol.used_up(pointer.history)) == [("state-1", 1, ONE.composition_digest)]
    assert protocol.collect(pointer, writing(5), ()).gc_epoch == 2


def test_a_released_derived_state_uses_no_id_and_malformed_records_are_skipped() -> None:
    before = published(make_publication("derived", 1, derived=1, kind="derived"), TWO)
    pointer = protocol.collect(before, writing(4), {before.retained[0].id})
    assert pointer.history[-1].change == {"released": [str(before.retained[0].id)]}
    malformed = [{"used": 7}, {"used": {"a": 1, "b": ["1", "c"], "d": [1]}}]
    entries = [pointer.history[-1].model_copy(update={"change": change}) for change in malformed]
    assert list(protocol.used_up(entries)) == []


def test_a_collection_never_releases_what_is_live_desired_or_pinned() -> None:
    before = published(ONE, TWO, THREE)
    before = done(protocol.pin(before, writing(4), before.retained_of("state-1")[0], pinned=True))
    before = protocol.rollback(before, writing(5), before.retained_of("state-2")[0])
    pointer = protocol.collect(before, writing(6), {ONE.id, TWO.id, THREE.id})
    assert pointer.retained == before.retained
    assert pointer.history[-1].change == {"released": []}


def test_pins_are_limited_to_the_capacity_of_a_pointer() -> None:
    pointer = published()
    for number in range(1, MOST_PINNED + 2):
        pointer = published(make_publication(f"state-{number}", number), start=pointer)
        [target] = pointer.retained_of(f"state-{number}")
        if number <= MOST_PINNED:
            pointer = done(protocol.pin(pointer, writing(number), target, pinned=True))
    with pytest.raises(OperationRefused, match="unpin one first"):
        protocol.pin(pointer, writing(99), target, pinned=True)
    more = published(
        *[make_publication(f"more-{number}", 99) for number in range(120)], start=pointer
    )
    assert len(more.retained) == MOST_RETAINED
    assert sum(publication.pinned for publication in more.retained) == MOST_PINNED


# -- commands of operators


def test_a_rollback_sets_live_and_a_hold_and_keeps_desired_and_positions() -> None:
    before = published(ONE, TWO)
    pointer = protocol.rollback(
        before, writing(3, by="bob", reason="slow"), before.retained_of("state-1")[0]
    )
    assert (live(pointer), desired(pointer), pointer.sequence, pointer.kind) == (
        "state-1",
        "state-2",
        3,
        "rollback",
    )
    assert pointer.hold is not None
    assert (pointer.hold.by, pointer.hold.reason, pointer.hold.at) == ("bob", "slow", writing(3).at)
    assert (
        pointer.positions,
        pointer.highest_revision.producer,
        pointer.highest_revision.derived,
    ) == (
        before.positions,
        2,
        0,
    )
    assert live(published(THREE, start=pointer)) == "state-1"


def test_a_rollback_that_discards_newer_moves_desired_without_a_hold_and_lowers_no_revision() -> (
    None
):
    before = protocol.hold(
        published(ONE, TWO, make_publication("derived", 2, derived=4, kind="derived")), writing(4)
    )
    pointer = protocol.rollback(
        before, writing(5), before.retained_of("state-1")[0], discard_newer=True
    )
    assert (live(pointer), desired(pointer), pointer.hold) == ("state-1", "state-1", None)
    assert (
        pointer.highest_revision.producer,
        pointer.highest_revision.derived,
        pointer.positions,
    ) == (
        2,
        4,
        before.positions,
    )
    assert live(published(THREE, start=pointer)) == "state-3"


def test_a_rollback_requested_by_an_event_passes_its_position_and_records_it() -> None:
    before = published(ONE, TWO)
    folded = FoldedEvent(identity="1" * 16, event="2" * 16)
    pointer = protocol.rollback(
        before, writing(3), before.retained[0], progress=progress(0, 0, {"journal:1": 7}, [folded])
    )
    assert pointer.positions == {"journal:1": 7}
    assert pointer.folded_events[-1] == folded
    assert (pointer.highest_revision.producer, pointer.highest_revision.derived) == (2, 0)


def test_a_rollback_to_a_quarantined_composition_is_refused() -> None:
    pointer = quarantined(published(ONE, TWO), ONE)
    with pytest.raises(OperationRefused, match="lift that first"):
        protocol.rollback(pointer, writing(3), pointer.retained_of("state-1")[0])


def test_hold_moves_nothing() -> None:
    before = published(ONE)
    pointer = protocol.hold(before, writing(2))
    assert (live(pointer), desired(pointer), pointer.positions) == (
        "state-1",
        "state-1",
        before.positions,
    )
    assert pointer.history[-1].change == {
        "hold": {"by": "ann", "reason": "because", "at": writing(2).at}
    }


def test_resume_makes_desired_live_and_lifts_the_hold() -> None:
    held = published(TWO, start=protocol.hold(published(ONE), writing(2)))
    pointer = done(protocol.resume(held, writing(4)))
    assert (live(pointer), pointer.hold, pointer.history[-1].change) == (
        "state-2",
        None,
        {"hold": None},
    )


def test_resume_is_refused_while_desired_is_quarantined() -> None:
    pointer = quarantined(published(ONE, TWO), TWO, ONE)
    with pytest.raises(OperationRefused, match="desired state state-2 is quarantined"):
        protocol.resume(pointer, writing(4))


def test_resume_works_without_a_hold_after_a_quarantine_was_lifted() -> None:
    pointer = published(
        make_publication("state-3", 3, composition=ONE.composition_digest),
        start=quarantined(published(ONE, TWO), ONE),
    )
    assert (live(pointer), pointer.hold) == ("state-2", None)
    lifted = done(
        protocol.lift_quarantine(
            pointer, writing(5), pointer.retained_of("state-3")[0].composition_digest
        )
    )
    assert (live(lifted), lifted.quarantined) == ("state-2", ())
    assert live(done(protocol.resume(lifted, writing(6)))) == "state-3"


def test_resume_where_live_is_desired_changes_nothing() -> None:
    assert protocol.resume(published(ONE), writing(2)) is None
    assert protocol.resume(protocol.absent(SCOPE), writing(1)) is None


def test_a_quarantine_of_live_needs_a_state_to_roll_back_to() -> None:
    with pytest.raises(OperationRefused, match="--rollback-to"):
        protocol.quarantine(published(ONE, TWO), writing(3), TWO)


def test_a_quarantine_with_a_rollback_is_one_change_with_a_hold() -> None:
    pointer = quarantined(published(ONE, TWO), TWO, ONE)
    assert (live(pointer), desired(pointer), pointer.sequence, pointer.kind) == (
        "state-1",
        "state-2",
        3,
        "quarantine",
    )
    assert pointer.hold is not None
    assert set(pointer.history[-1].change) == {"quarantine", "hold"}


def test_a_quarantine_never_rolls_back_to_the_same_or_a_quarantined_composition() -> None:
    twin = make_publication("twin", 3, composition=TWO.composition_digest)
    with pytest.raises(OperationRefused, match="twin has the same composition"):
        protocol.quarantine(published(twin, TWO), writing(3), TWO, rollback_to=twin)
    with pytest.raises(OperationRefused, match="state-1 is quarantined"):
        protocol.quarantine(quarantined(published(ONE, TWO), ONE), writing(4), TWO, rollback_to=ONE)


def test_a_quarantine_of_a_state_that_is_not_live_moves_nothing_and_is_not_repeated() -> None:
    pointer = quarantined(published(ONE, TWO), ONE)
    assert (live(pointer), pointer.hold) == ("state-2", None)
    assert protocol.quarantine(pointer, writing(5), ONE) is None


def test_quarantining_a_live_and_already_quarantined_composition_still_rolls_back() -> None:
    # These rules cannot produce it; a restored pointer or that of a newer release may look so.
    malformed = quarantined(published(TWO, ONE), TWO).model_copy(update={"live": TWO})
    with pytest.raises(OperationRefused, match="--rollback-to"):
        protocol.quarantine(malformed, writing(5), TWO)
    back = quarantined(malformed, TWO, ONE)
    assert live(back) == "state-1"
    assert [quarantine.composition_digest for quarantine in back.quarantined] == [
        TWO.composition_digest
    ]


def test_lifting_a_missing_quarantine_changes_nothing() -> None:
    assert protocol.lift_quarantine(published(ONE), writing(2), ONE.composition_digest) is None


def test_lifting_one_quarantine_leaves_the_others() -> None:
    pointer = quarantined(quarantined(published(ONE, TWO, THREE), ONE), TWO)
    lifted = done(protocol.lift_quarantine(pointer, writing(6), ONE.composition_digest))
    assert [quarantine.composition_digest for quarantine in lifted.quarantined] == [
        TWO.composition_digest
    ]


def test_a_pin_appears_in_retained_and_live_and_a_second_one_changes_nothing() -> None:
    pointer = published(ONE, TWO)
    pinned = done(protocol.pin(pointer, writing(3), pointer.retained_of("state-2")[0], pinned=True))
    assert [publication.pinned for publication in pinned.retained] == [False, True]
    assert pinned.live is not None
    assert pinned.live.pinned
    assert pinned.history[-1].change == {"pin": {"publication": str(TWO.id), "pinned": True}}
    assert protocol.pin(pinned, writing(4), pinned.retained_of("state-2")[0], pinned=True) is None


def test_a_retired_scope_has_no_live_or_desired_state_and_keeps_its_publications() -> None:
    before = protocol.hold(published(ONE, TWO), writing(3))
    retired = done(protocol.retire(before, writing(4)))
    assert (retired.live, retired.desired, retired.hold, retired.sequence) == (None, None, None, 4)
    assert (retired.highest_revision.producer, retired.positions) == (
        before.highest_revision.producer,
        before.positions,
    )
    assert [publication.state for publication in retired.retained] == ["state-1", "state-2"]
    assert protocol.retire(retired, writing(5)) is None


def test_a_retired_scope_returns_with_its_next_sequence() -> None:
    retired = done(protocol.retire(published(ONE, TWO), writing(3)))
    returned = published(THREE, start=retired)
    assert (live(returned), returned.sequence, returned.highest_revision.producer) == (
        "state-3",
        4,
        3,
    )


def test_a_rollback_reactivates_a_retired_scope_completely() -> None:
    retired = done(protocol.retire(published(ONE, TWO), writing(3)))
    back = protocol.rollback(retired, writing(4), ONE)
    assert (live(back), back.desired and back.desired.state) == ("state-1", "state-1")


# -- history


def test_every_change_has_an_entry_with_live_desired_author_and_reason() -> None:
    pointer = protocol.rollback(published(ONE, TWO), writing(3, by="bob", reason="slow"), ONE)
    entry = pointer.history[-1]
    assert (entry.sequence, entry.write_id, entry.kind, entry.by, entry.reason) == (
        3,
        "write-3",
        "rollback",
        "bob",
        "slow",
    )
    assert (entry.live, entry.desired, entry.published) == (str(ONE.id), str(TWO.id), ())
    assert (pointer.write_id, entry.at) == ("write-3", writing(3).at)


def held(times: int) -> Pointer:
    pointer = published(ONE)
    for number in range(2, times + 1):
        pointer = protocol.hold(pointer, writing(number))
    return pointer


def test_a_history_longer_than_128_moves_its_oldest_64_entries_to_a_chunk() -> None:
    assert protocol.split_history(held(MOST_HISTORY)) is None
    pointer = held(MOST_HISTORY + 1)
    split = protocol.split_history(pointer)
    assert split is not None
    chunk, oldest = split
    assert oldest == 1
    assert [entry.sequence for entry in chunk.entries] == list(range(1, CHUNK + 1))
    older = PreviousChunk(key="key", sha256="0" * 64)
    short = protocol.without_chunk(pointer, older)
    assert [entry.sequence for entry in short.history] == list(range(CHUNK + 1, MOST_HISTORY + 2))
    assert short.previous_chunk == older


def test_a_chunk_names_the_one_before_it() -> None:
    older = PreviousChunk(key="before", sha256="1" * 64)
    split = protocol.split_history(
        held(MOST_HISTORY + 1).model_copy(update={"previous_chunk": older})
    )
    assert split is not None
    assert split[0].previous_chunk == older


# -- the result of a write


@dataclass(frozen=True)
class Case:
    read: Pointer | None
    base: int
    is_now: Resolution
    write_id: str = "mine"


OLDER = PreviousChunk(key="key", sha256="0" * 64)
OTHERS = published(ONE, TWO, THREE)
MINE = protocol.hold(OTHERS, protocol.Writing("mine", AT, "me"))
BUILT_UPON = protocol.hold(MINE, writing(9))


@pytest.mark.parametrize(
    "case",
    [
        Case(None, 0, Resolution.NOT_APPLIED),
        Case(None, 3, Resolution.LOST),
        Case(MINE, 3, Resolution.WON),
        Case(BUILT_UPON, 3, Resolution.WON),
        Case(OTHERS, 3, Resolution.NOT_APPLIED),
        Case(OTHERS, 2, Resolution.LOST),
        Case(OTHERS, 0, Resolution.LOST),
        Case(
            OTHERS.model_copy(update={"history": OTHERS.history[1:], "previous_chunk": OLDER}),
            1,
            Resolution.LOST,
        ),
        Case(
            OTHERS.model_copy(update={"history": OTHERS.history[1:], "previous_chunk": OLDER}),
            0,
            Resolution.BEYOND_HISTORY,
        ),
        Case(
            OTHERS.model_copy(update={"history": (), "previous_chunk": OLDER}),
            1,
            Resolution.BEYOND_HISTORY,
        ),
        Case(OTHERS.model_copy(update={"history": OTHERS.history[2:]}), 0, Resolution.LOST),
    ],
    ids=[
        "new-scope-still-absent",
        "pointer-gone",
        "mine-is-newest",
        "others-built-on-mine",
        "still-the-base",
        "another-follows-the-base",
        "another-made-the-scope",
        "history-reaches-back-just-enough",
        "chunks-know",
        "only-chunks-know",
        "nothing-older-is-kept",
    ],
)
def test_a_write_whose_answer_was_lost_is_resolved_by_the_lineage(case: Case) -> None:
    assert protocol.resolve(case.read, case.write_id, case.base) is case.is_now


# -- invariants of any sequence of changes


@dataclass
class Numbers:
    """Gives each publication of a run a new id; compositions repeat."""

    count: int = field(default=0)

    def publication(self, revision: int, composition: int, *, late: bool) -> Publication:
        self.count += 1
        return make_publication(
            f"s{self.count}",
            revision,
            late=late,
            composition=f"{composition:064x}",
            attempt=f"a{self.count}",
        )


def carried_out(
    command: str,
    pointer: Pointer,
    mark: protocol.Writing,
    target: Publication,
    back: Publication | None,
    flag: bool,
) -> Pointer | None:
    match command:
        case "rollback":
            return protocol.rollback(pointer, mark, target, discard_newer=flag)
        case "hold":
            return protocol.hold(pointer, mark)
        case "resume":
            return protocol.resume(pointer, mark)
        case "quarantine":
            return protocol.quarantine(pointer, mark, target, rollback_to=back)
        case "lift":
            return protocol.lift_quarantine(pointer, mark, target.composition_digest)
        case "pin":
            return protocol.pin(pointer, mark, target, pinned=flag)
        case "retire":
            return protocol.retire(pointer, mark)
    raise AssertionError(command)


@given(st.data())
def test_any_sequence_of_changes_keeps_the_invariants(data: st.DataObject) -> None:
    numbers = Numbers()
    pointer = protocol.absent(SCOPE)
    for number in range(1, data.draw(st.integers(1, 25)) + 1):
        mark = writing(number)
        command = data.draw(
            st.sampled_from(
                [
                    "publish",
                    "publish",
                    "rollback",
                    "hold",
                    "resume",
                    "quarantine",
                    "lift",
                    "pin",
                    "retire",
                ]
            )
        )
        target = data.draw(st.sampled_from(pointer.retained)) if pointer.retained else None
        back = data.draw(st.sampled_from([None, *pointer.retained]))
        flag = data.draw(st.booleans())
        following: Pointer | None
        try:
            if command == "publish" or target is None:
                highest = pointer.highest_revision.producer + data.draw(st.integers(0, 2))
                batch = [
                    numbers.publication(highest, composition, late=late)
                    for composition, late in data.draw(
                        st.lists(
                            st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=3
                        )
                    )
                ]
                inputs = {data.draw(st.sampled_from(["a", "b"])): data.draw(st.integers(0, 9))}
                following = protocol.publish(
                    pointer,
                    mark,
                    batch,
                    progress(highest, pointer.highest_revision.derived + 1, inputs),
                )
                if pointer.hold is not None:
                    assert following.live == pointer.live
            else:
                following = carried_out(command, pointer, mark, target, back, flag)
                if following is not None:
                    assert (following.positions, following.folded_events) == (
                        pointer.positions,
                        pointer.folded_events,
                    )
                    assert (
                        following.highest_revision.producer,
                        following.highest_revision.derived,
                    ) == (
                        pointer.highest_revision.producer,
                        pointer.highest_revision.derived,
                    )
        except OperationRefused:
            continue
        if following is None:
            continue
        assert following.sequence == pointer.sequence + 1
        assert [entry.sequence for entry in following.history] == list(
            range(1, following.sequence + 1)
        )
        assert all(
            following.positions[name] >= offset for name, offset in pointer.positions.items()
        )
        ids = [publication.id for publication in following.retained]
        assert len(ids) == len(set(ids))
        for current in (following.live, following.desired):
            assert current is None or current in following.retained
        if following.live is not None:
            assert not following.is_quarantined(following.live.composition_digest)
        assert len({quarantine.composition_digest for quarantine in following.quarantined}) == len(
            following.quarantined
        )
        pointer = following


# -- growth is bounded


def days_later(days: int) -> protocol.Writing:
    at = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days)).isoformat(
        timespec="milliseconds"
    )
    return protocol.Writing(f"day-{days}", at, "ann")


def raised(pointer: Pointer, days: int, **inputs: int) -> Pointer:
    """The pointer after a publication that day, with these positions; `_` stands for `:`."""
    named = {name.replace("_", ":", 1): offset for name, offset in inputs.items()}
    number = pointer.highest_revision.producer + 1
    return protocol.publish(
        pointer,
        days_later(days),
        [make_publication(f"state-{number}", number)],
        progress(number, 0, named),
    )


def test_only_a_collection_removes_positions_of_journals_idle_for_90_days() -> None:
    pointer = raised(published(), 0, journal_idle=3, journal_busy=1, kafka_topic=5)
    pointer = raised(pointer, 50, journal_busy=2)
    pointer = raised(pointer, 200, journal_other=1)
    assert set(pointer.positions) == {
        "journal:idle",
        "journal:busy",
        "journal:other",
        "kafka:topic",
    }
    assert protocol.collect(pointer, days_later(90), ()).positions == pointer.positions
    after = protocol.collect(pointer, days_later(91), ())
    assert after.positions == {"journal:busy": 2, "journal:other": 1, "kafka:topic": 5}
    assert after.history[-1].change["positions_dropped"] == 1
    assert set(after.positions_changed) == {"journal:busy", "journal:other"}
    assert raised(after, 92, journal_idle=4).positions["journal:idle"] == 4, (
        "an instance that returns is new"
    )


def test_a_collection_uses_the_clock_of_the_store() -> None:
    pointer = raised(published(), 0, journal_one=3)
    assert protocol.collect(pointer, days_later(200), (), as_of=days_later(10).at).positions == {
        "journal:one": 3
    }
    assert protocol.collect(pointer, days_later(10), (), as_of=days_later(200).at).positions == {}


def test_a_position_without_a_time_gets_90_days_from_the_next_collection() -> None:
    pointer = raised(published(), 0, journal_old=3)
    unnoted = pointer.model_copy(update={"positions_changed": {}})
    elsewhere = pointer.model_copy(update={"positions": {"journal:old": 9}})
    for older in (unnoted, elsewhere):
        begun = protocol.collect(older, days_later(300), ())
        assert begun.positions == older.positions
        assert protocol.collect(begun, days_later(390), ()).positions == older.positions
        assert protocol.collect(begun, days_later(391), ()).positions == {}


def test_a_repeated_position_changes_nothing() -> None:
    pointer = raised(raised(published(), 0, journal_one=3), 100, journal_one=3)
    assert protocol.idle_journals(pointer, datetime(2026, 4, 5, tzinfo=UTC)) == {"journal:one"}


def test_at_most_256_compositions_are_quarantined_and_the_refusal_names_the_remedy() -> None:
    full = Quarantine(composition_digest="0" * 64, by="ann", reason="r", at=AT)
    rejected = tuple(
        full.model_copy(update={"composition_digest": f"{number:064x}"}) for number in range(256)
    )
    pointer = published(ONE, TWO).model_copy(update={"quarantined": rejected})
    with pytest.raises(
        OperationRefused, match=r"256 compositions .*`rebundle quarantine .* DIGEST --lift"
    ):
        protocol.quarantine(pointer, writing(3), ONE)
    again = ONE.model_copy(update={"composition_digest": rejected[0].composition_digest})
    assert protocol.quarantine(pointer, writing(3), again) is None
    lifted = protocol.lift_quarantine(pointer, writing(3), rejected[0].composition_digest)
    assert lifted is not None
    assert protocol.quarantine(lifted, writing(4), ONE) is not None
