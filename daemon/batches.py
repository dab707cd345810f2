"""A batch: the first waiting events of a scope, which one change of its pointer commits. Pure.

`first` selects them. `progress` computes what the batch changes in the pointer beside publications.
`published_outcomes` gives every event that was published its outcome. `folding` decides what an
event does to the composition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from daemon.changes import Change, RollbackRequested, StateCreated
from daemon.folding import DesiredState, Plan
from daemon.publishing import protocol
from daemon.publishing.pointer import MOST_FOLDED_EVENTS, FoldedEvent, Pointer
from daemon.publishing.protocol import BatchProgress
from events.model import Outcome, OutcomeKind, Position
from events.source import Delivery

MOST_EVENTS: Final = 1_000
MOST_STATES: Final = 20
_NO_OUTCOME: Final = Outcome(OutcomeKind.PUBLISHED, "")


@dataclass(frozen=True, slots=True)
class Batch:
    """The first waiting events of a lane: each has a change to fold, or its outcome."""

    waiting: tuple[Delivery, ...]
    """What waits in the lane, in order; the batch is its beginning."""
    changes: tuple[tuple[Delivery, Change], ...]
    outcomes: dict[Position, Outcome]


def first(
    waiting: Sequence[Delivery],
    changes: Sequence[tuple[Delivery, Change]],
    outcomes: Mapping[Position, Outcome],
) -> Batch:
    """The next batch: of the changes and outcomes of the deliveries that wait in a lane.

    Outcomes beyond its end wait, so that the events of the lane settle in order.
    """
    size = size_of_first([change for _, change in changes])
    if size == len(changes):
        return Batch(tuple(waiting), tuple(changes), dict(outcomes))
    ending = before(changes[size][0], waiting, outcomes)
    return Batch(tuple(waiting), tuple(changes[:size]), ending)


def size_of_first(changes: Sequence[object]) -> int:
    """How many of the waiting changes make the next batch (protocol 2).

    At most 1,000 events and 20 explicit states. A rollback request is a batch of one event.
    """
    states = 0
    for index, change in enumerate(changes[:MOST_EVENTS]):
        if isinstance(change, RollbackRequested):
            return max(index, 1)
        if isinstance(change, StateCreated):
            states += 1
            if states > MOST_STATES:
                return index
    return min(len(changes), MOST_EVENTS)


def before(
    end: Delivery, waiting: Sequence[Delivery], outcomes: Mapping[Position, Outcome]
) -> dict[Position, Outcome]:
    """The outcomes of the deliveries that precede `end` in their lane.

    Order is the place in the lane: a lane may have events of several instances, whose offsets say
    nothing about one another.
    """
    preceding = takewhile(lambda delivery: delivery is not end, waiting)
    return {
        delivery.position: outcomes[delivery.position]
        for delivery in preceding
        if delivery.position in outcomes
    }


def progress(
    desired: DesiredState, folded: Sequence[Delivery], outcomes: Mapping[Position, Outcome]
) -> BatchProgress:
    """How a batch advances the scope: revision, positions of the sources, folded events."""
    positions: dict[str, int] = {}
    for position in (*(delivery.position for delivery in folded), *outcomes):
        positions[position.instance] = max(position.offset, positions.get(position.instance, -1))
    # A dead letter was not folded. Its replay is the same event and must not count as a repetition.
    remembered = [
        delivery
        for delivery in folded
        if outcomes.get(delivery.position, _NO_OUTCOME).kind is not OutcomeKind.DEAD_LETTERED
    ][-MOST_FOLDED_EVENTS:]
    folded_events = tuple(
        FoldedEvent.of(delivery.identity, delivery.digest) for delivery in remembered
    )
    return BatchProgress(desired.highest_revision, positions, folded_events)


def published_outcomes(plan: Plan, following: Pointer) -> dict[Position, Outcome]:
    """Outcomes of the events that made publications, if `following` becomes the pointer."""
    outcomes: dict[Position, Outcome] = {}
    for planned in plan.publications:
        if planned.late:
            outcome = Outcome(
                OutcomeKind.LATE, "older than the newest state: kept for rollback", planned.state
            )
        elif following.is_quarantined(planned.composition.digest):
            outcome = Outcome(
                OutcomeKind.WITHHELD,
                "its composition is quarantined: published, not live",
                planned.state,
            )
        elif following.hold is not None:
            outcome = Outcome(
                OutcomeKind.PUBLISHED, f"published as {planned.state}; live is held", planned.state
            )
        else:
            outcome = Outcome(OutcomeKind.PUBLISHED, f"published as {planned.state}", planned.state)
        outcomes |= {delivery.position: outcome for delivery in planned.deliveries}
    return outcomes


def rollback_refusal(pointer: Pointer, request: RollbackRequested) -> Outcome | None:
    """The outcome of a rollback request that is not tried; None if it is tried."""
    if pointer.sequence == 0:
        return Outcome(OutcomeKind.DEAD_LETTERED, "there is no such scope")
    found = protocol.live_instead_of(pointer, request.expected_state)
    if found is not None:
        return Outcome(
            OutcomeKind.IGNORED, f"expected {request.expected_state} to be live, found {found}"
        )
    return None
