"""Views of a journal: events, what waits, dead letters, rejected requests. Pure.

`EventReport` is also the answer of `GET /v1/events/{id}`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from daemon.inspection.documents import INLINE
from events.errors import Problem
from events.records import (
    Backlog,
    DeadLetter,
    DeadLetterStatus,
    EventStatus,
    LaneBacklog,
    LaneStatus,
    Rejected,
)

_MOST_IDS: Final = 20
"""Of one rejected request, which may have hundreds of thousands."""
_MOST_OF_AN_ID: Final = 256
"""Characters: a longer one is not valid."""
NOWHERE: Final = "no scope had its model, so it changed nothing"
"""What an acknowledged event without scopes has as its outcome."""


@dataclass(frozen=True, slots=True)
class OutcomeInScope:
    """The outcome of an event in one scope."""

    scope: str
    outcome: str | None
    """None while the event is waiting."""
    reason: str | None
    state: str | None
    settled_at: str | None
    failed_tries: int
    error: str | None
    """Why it waits, if a try failed."""
    dead_letter: str | None
    """The id of its dead letter."""

    @classmethod
    def of(cls, lane: LaneStatus) -> "OutcomeInScope":
        """The report on one scope."""
        outcome = lane.outcome
        return cls(
            scope=lane.scope,
            outcome=str(outcome.kind) if outcome else None,
            reason=outcome.reason if outcome else None,
            state=outcome.state if outcome else None,
            settled_at=lane.settled_at,
            failed_tries=lane.failed_tries,
            error=lane.error,
            dead_letter=lane.dead_letter,
        )


@dataclass(frozen=True, slots=True)
class EventReport:
    """The outcomes of one event."""

    id: str
    source: str
    type: str
    position: str
    accepted_at: str
    acknowledged_at: str | None
    """When its outcomes in all scopes were recorded."""
    replay_of: str | None
    """The position of the event whose dead letter this replays."""
    scopes: tuple[OutcomeInScope, ...]

    @classmethod
    def of(cls, status: EventStatus) -> "EventReport":
        """The report on an event of the journal."""
        return cls(
            id=status.identity.id,
            source=status.identity.source,
            type=status.type,
            position=str(status.position),
            accepted_at=status.accepted_at,
            acknowledged_at=status.acknowledged_at,
            replay_of=str(status.replay_of.position) if status.replay_of else None,
            scopes=tuple(map(OutcomeInScope.of, status.lanes)),
        )


@dataclass(frozen=True, slots=True)
class BacklogView:
    """The events that are waiting, in all scopes or in one."""

    events: int
    oldest: str | None
    """When the oldest of them was accepted."""
    undispatched: int
    """Events that are not assigned to scopes yet."""
    dead_letters: int
    """Open ones."""
    rejected: int | None
    """None in the view of one scope: a rejected request belongs to no scope."""
    lanes: tuple[LaneBacklog, ...]

    @classmethod
    def of(cls, backlog: Backlog) -> "BacklogView":
        """The view of all scopes."""
        return cls(
            events=backlog.events,
            oldest=backlog.oldest,
            undispatched=backlog.undispatched,
            dead_letters=backlog.dead_letters,
            rejected=backlog.rejected,
            lanes=backlog.lanes,
        )

    @classmethod
    def of_scope(
        cls, backlog: Backlog, scope: str, open_letters: Iterable[DeadLetter]
    ) -> "BacklogView":
        """The view of one scope."""
        lanes = tuple(lane for lane in backlog.lanes if lane.scope == scope)
        return cls(
            events=sum(lane.waiting for lane in lanes),
            oldest=min((lane.oldest for lane in lanes if lane.oldest), default=None),
            undispatched=backlog.undispatched,
            dead_letters=sum(letter.scope == scope for letter in open_letters),
            rejected=None,
            lanes=lanes,
        )


@dataclass(frozen=True, slots=True)
class NoJournal:
    """There is no journal on this machine."""

    path: None = None
    error: None = None


@dataclass(frozen=True, slots=True)
class UnreadableJournal:
    """A journal that cannot be read."""

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class JournalView:
    """A journal that can be read."""

    path: str
    error: None = field(default=None, init=False)
    wrong_bucket: str | None
    """Why the journal belongs to another bucket; None if it does not."""
    backlog: BacklogView = field(metadata=INLINE)


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A dead letter without the data of its event."""

    id: str
    event: str | None
    """The event id; None, like its type and scope, if the event cannot be decoded."""
    type: str | None
    scope: str | None
    status: DeadLetterStatus
    reason: str
    at: str
    by: str | None
    position: str
    replayed_as: str | None
    """The position of its replay."""
    closed_at: str | None
    closed_by: str | None
    closed_reason: str | None

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterView":
        """The view of a dead letter."""
        return cls(
            id=letter.id,
            event=letter.event_id,
            type=letter.type,
            scope=letter.scope,
            status=letter.status,
            reason=letter.reason,
            at=letter.at,
            by=letter.by,
            position=str(letter.position),
            replayed_as=str(letter.replayed_as) if letter.replayed_as else None,
            closed_at=letter.closed_at,
            closed_by=letter.closed_by,
            closed_reason=letter.closed_reason,
        )


@dataclass(frozen=True, slots=True)
class RejectedView:
    """A rejected request with all its problems."""

    number: int
    intake: str
    at: str
    size: int
    """Bytes of the whole body."""
    events: tuple[str, ...]
    """The first ids in the body, as far as it is stored and can be read."""
    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, rejected: Rejected) -> "RejectedView":
        """The view of a rejected request."""
        return cls(
            rejected.number,
            rejected.intake,
            rejected.at,
            rejected.size,
            _event_ids(rejected.body),
            rejected.problems,
        )


def _event_ids(body: bytes) -> tuple[str, ...]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    events = document if isinstance(document, list) else [document]
    ids = (event.get("id") for event in events if isinstance(event, dict))
    known = (event_id[:_MOST_OF_AN_ID] for event_id in ids if isinstance(event_id, str))
    return tuple(islice(known, _MOST_IDS))
