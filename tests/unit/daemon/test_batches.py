"""Batches: which events form one, and their outcomes."""

from dataclasses import replace

import pytest

from daemon import batches
from daemon.changes import interpret
from daemon.folding import DesiredState, Plan, PlannedState
from daemon.publishing.pointer import MOST_FOLDED_EVENTS, Hold, Quarantine, Revision
from events.model import Identity, Outcome, OutcomeKind, Position
from events.source import Delivery
from tests.builders_publishing import make_publication, published
from tests.support.scenes import model_event, rollback_event, state_event

DEAD = Outcome(OutcomeKind.DEAD_LETTERED, "no")


def delivery(offset, event=None, instance="journal:x"):
    event = event or model_event(f"m{offset}")
    position = Position(instance, offset)
    return Delivery(
        event,
        Identity("http", event.source, event.id),
        f"{offset:064x}",
        position,
        "2026-11-22T10:00:00Z",
    )


def changes(*events):
    return [
        (item, interpret(item.event))
        for item in (delivery(number, event) for number, event in enumerate(events, 1))
    ]


def first(changes, outcomes, waiting=None):
    """The first batch; what has an outcome waits behind the changes, if nothing else is given."""
    waiting = waiting or [
        *(delivery for delivery, _ in changes),
        *(delivery(at.offset, instance=at.instance) for at in outcomes),
    ]
    return batches.first(waiting, changes, outcomes)


def test_a_batch_ends_before_the_state_that_would_be_one_too_many():
    waiting = changes(*(state_event(number) for number in range(1, batches.MOST_STATES + 3)))
    batch = first(waiting, {})

    assert len(batch.changes) == batches.MOST_STATES


def test_a_batch_of_all_events_keeps_every_outcome():
    waiting = changes(state_event(1), model_event("m"))
    batch = first(waiting, {Position("journal:x", 9): DEAD})

    assert (len(batch.changes), batch.outcomes) == (2, {Position("journal:x", 9): DEAD})


def test_outcomes_after_the_end_of_a_batch_wait_for_their_turn():
    waiting = [
        change
        for change in changes(state_event(1), rollback_event("r", "state-1"), state_event(2))
        if change
    ]
    batch = first(waiting, {Position("journal:x", 9): DEAD})

    assert [delivery.position.offset for delivery, _ in batch.changes] == [1]
    assert batch.outcomes == {}


def test_a_leading_rollback_request_is_its_own_batch():
    batch = first(changes(rollback_event("r", "state-1"), state_event(2)), {})

    assert [delivery.event.id for delivery, _ in batch.changes] == ["r"]


def test_progress_passes_every_position_and_does_not_count_dead_letters_as_folded():
    folded = [delivery(1), delivery(2), delivery(3)]
    outcomes = {
        folded[1].position: DEAD,
        Position("journal:x", 4): DEAD,
        Position("kafka:c/t/0", 90): DEAD,
    }
    progress = batches.progress(DesiredState(None, Revision(42, 2)), folded, outcomes)

    assert progress.positions == {"journal:x": 4, "kafka:c/t/0": 90}
    assert [item.event for item in progress.folded_events] == [
        folded[0].digest[:16],
        folded[2].digest[:16],
    ]
    assert progress.highest_revision == Revision(42, 2)


@pytest.mark.parametrize(
    ("late", "quarantined", "held", "kind"),
    [
        (False, False, False, OutcomeKind.PUBLISHED),
        (False, False, True, OutcomeKind.PUBLISHED),
        (False, True, True, OutcomeKind.WITHHELD),
        (True, True, True, OutcomeKind.LATE),
    ],
)
def test_outcome_of_an_event_that_led_to_a_publication(late, quarantined, held, kind):
    composition = interpret(state_event(1)).composition
    planned = PlannedState(
        composition, "state-1", Revision(1), "explicit", late, (delivery(1), delivery(2))
    )
    who = {"by": "op", "reason": "r", "at": "t"}
    pointer = published().model_copy(
        update={
            "quarantined": (Quarantine(composition_digest=composition.digest, **who),)
            if quarantined
            else (),
            "hold": Hold(**who) if held else None,
        }
    )
    outcomes = batches.published_outcomes(Plan(DesiredState(composition), (planned,), {}), pointer)

    assert [(at.offset, outcome.kind, outcome.state) for at, outcome in outcomes.items()] == [
        (1, kind, "state-1"),
        (2, kind, "state-1"),
    ]
    assert ("held" in outcomes[Position("journal:x", 1)].reason) == (
        held and kind is OutcomeKind.PUBLISHED
    )


@pytest.mark.parametrize(
    ("expected", "kind"),
    [(None, None), ("state-2", None), ("state-1", OutcomeKind.IGNORED)],
)
def test_a_rollback_request_is_tried_if_what_it_expects_is_live(expected, kind):
    pointer = published(make_publication("state-1", 1), make_publication("state-2", 2))
    request = replace(interpret(rollback_event("r", "state-1")), expected_state=expected)
    refusal = batches.rollback_refusal(pointer, request)

    assert (refusal and refusal.kind) == kind


def test_a_rollback_request_for_a_missing_scope_is_a_dead_letter():
    request = interpret(rollback_event("r", "state-1"))

    assert batches.rollback_refusal(published(), request).kind is OutcomeKind.DEAD_LETTERED


def test_an_outcome_at_the_first_event_of_the_next_batch_waits():
    waiting = changes(state_event(1), rollback_event("r", "state-1"))
    batch = first(waiting, {Position("journal:x", 2): DEAD})

    assert batch.outcomes == {}


def test_a_batch_of_several_instances_ends_at_its_place_in_the_lane():
    """The offsets of two instances say nothing about their order (spike of a Kafka source)."""
    lane = [
        delivery(2, model_event("m"), "kafka:c/t/1"),
        delivery(7, instance="kafka:c/t/0"),
        delivery(100, rollback_event("r", "state-1"), "kafka:c/t/0"),
        delivery(49, model_event("n"), "kafka:c/t/1"),
        delivery(50, instance="kafka:c/t/1"),
    ]
    invalid = {lane[1].position: DEAD, lane[4].position: DEAD}
    folded = [(item, interpret(item.event)) for item in lane if item.position not in invalid]

    batch = batches.first(lane, folded, invalid)

    assert [item.event.id for item, _ in batch.changes] == ["m"]
    assert batch.outcomes == {lane[1].position: DEAD}
    assert batches.progress(DesiredState(None), [lane[0]], batch.outcomes).positions == {
        "kafka:c/t/1": 2,
        "kafka:c/t/0": 7,
    }


def test_progress_counts_a_source_from_its_first_position_and_keeps_short_digests_of_events():
    folded = [delivery(0)]
    progress = batches.progress(DesiredState(None), folded, {})

    assert progress.positions == {"journal:x": 0}
    assert [(item.identity, item.event) for item in progress.folded_events] == [
        (folded[0].identity.digest[:16], folded[0].digest[:16])
    ]


def test_progress_names_the_newest_events_as_many_as_a_pointer_remembers():
    folded = [delivery(number) for number in range(MOST_FOLDED_EVENTS + 2)]
    outcomes = {folded[-1].position: DEAD}
    progress = batches.progress(DesiredState(None), folded, outcomes)

    assert [item.identity for item in progress.folded_events] == [
        item.identity.digest[:16] for item in folded[1:-1]
    ]


def test_progress_has_the_highest_position_of_each_source():
    outcomes = {Position("journal:x", 9): DEAD, Position("kafka:c/t/0", 3): DEAD}
    progress = batches.progress(DesiredState(None), [delivery(10)], outcomes)

    assert progress.positions == {"journal:x": 10, "kafka:c/t/0": 3}


@pytest.mark.parametrize(
    ("late", "quarantined", "reason"),
    [
        (True, False, "older than the newest state: kept for rollback"),
        (False, True, "its composition is quarantined: published, not live"),
        (False, False, "published as state-1"),
    ],
)
def test_each_publication_of_a_batch_gives_its_events_a_reason(late, quarantined, reason):
    composition = interpret(state_event(1)).composition
    first = PlannedState(composition, "state-1", Revision(1), "explicit", late, (delivery(1),))
    second = PlannedState(
        interpret(state_event(2, version="2")).composition,
        "state-2",
        Revision(2),
        "explicit",
        False,
        (delivery(2),),
    )
    rejected = Quarantine(
        composition_digest=composition.digest, by="op", reason="r", at="2026-01-01T00:00:00.000Z"
    )
    pointer = published().model_copy(update={"quarantined": (rejected,) if quarantined else ()})
    outcomes = batches.published_outcomes(
        Plan(DesiredState(composition), (first, second), {}), pointer
    )

    assert {at.offset: (outcome.reason, outcome.state) for at, outcome in outcomes.items()} == {
        1: (reason, "state-1"),
        2: ("published as state-2", "state-2"),
    }


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        (published(), "there is no such scope"),
        (published(make_publication("state-2", 2)), "expected state-1 to be live, found state-2"),
        (
            published(make_publication("state-2", 2)).model_copy(update={"live": None}),
            "expected state-1 to be live, found nothing",
        ),
    ],
    ids=["no scope", "another state", "nothing live"],
)
def test_a_refused_rollback_request_names_what_is_live(pointer, reason):
    request = interpret(rollback_event("r", "state-0", expected="state-1"))

    assert batches.rollback_refusal(pointer, request).reason == reason
