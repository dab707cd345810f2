"""A lane's batch: which events it has, and what becomes of them once it is known what is published. Pure.

What an event does to the composition is `desired`'s; what the pointer may become, `publishing.protocol`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daemon import folding
from daemon.changes import Change, RollbackRequested
from daemon.folding import DesiredState, Plan
from daemon.publishing.pointer import FoldedEvent, Pointer, Revision
from daemon.publishing.protocol import Progress
from events.model import Outcome, OutcomeKind, Position
from events.source import Delivery

_NO_OUTCOME: Final = Outcome(OutcomeKind.PUBLISHED, "")


@dataclass(frozen=True, slots=True)
class Batch:
    """The first of the events that wait: what each asks for, or what became of it already."""

    changes: tuple[tuple[Delivery, Change], ...]
    outcomes: dict[Position, Outcome]


def first(changes: Sequence[tuple[Delivery, Change]], outcomes: Mapping[Position, Outcome]) -> Batch:
    """The changes of one batch; an outcome beyond its end waits, so that positions settle in order."""
    size = folding.batch_size([change for _, change in changes])
    if size == len(changes):
        return Batch(tuple(changes), dict(outcomes))
    end = changes[size][0].position.offset
    return Batch(tuple(changes[:size]), {at: outcome for at, outcome in outcomes.items() if at.offset < end})


def progress(standing: DesiredState, folded: Sequence[Delivery], outcomes: Mapping[Position, Outcome]) -> Progress:
    """What the batch does to the scope's counters: where it ends, and how far its sources are."""
    positions: dict[str, int] = {}
    for position in (*(each.position for each in folded), *outcomes):
        positions[position.instance] = max(position.offset, positions.get(position.instance, -1))
    # What became a dead letter was not folded: its replay is the same event, and must not be taken for a repetition.
    folded_events = tuple(
        FoldedEvent(identity=each.identity.digest[:16], event=each.digest[:16])
        for each in folded
        if outcomes.get(each.position, _NO_OUTCOME).kind is not OutcomeKind.DEAD_LETTERED
    )
    return Progress(Revision(standing.highest_producer, standing.derived), positions, folded_events)


def published_outcomes(plan: Plan, following: Pointer) -> dict[Position, Outcome]:
    """Of the events that publications come of, if `following` becomes the pointer."""
    outcomes: dict[Position, Outcome] = {}
    for planned in plan.publications:
        if planned.late:
            said = Outcome(OutcomeKind.LATE, "older than the newest state: kept for rollback", planned.state)
        elif following.is_quarantined(planned.composition.digest):
            said = Outcome(OutcomeKind.WITHHELD, "its composition is quarantined: published, not live", planned.state)
        elif following.hold is not None:
            said = Outcome(OutcomeKind.PUBLISHED, f"published as {planned.state}; live is held", planned.state)
        else:
            said = Outcome(OutcomeKind.PUBLISHED, f"published as {planned.state}", planned.state)
        outcomes |= {delivery.position: said for delivery in planned.deliveries}
    return outcomes


def rollback_refusal(pointer: Pointer, request: RollbackRequested) -> Outcome | None:
    """Why a rollback request is not even tried, if so."""
    live = pointer.live
    if pointer.sequence == 0:
        return Outcome(OutcomeKind.DEAD_LETTERED, "there is no such scope")
    if request.expected_state is not None and (live is None or live.state != request.expected_state):
        found = live.state if live else "nothing"
        return Outcome(OutcomeKind.IGNORED, f"expected {request.expected_state} to be live, found {found}")
    return None
