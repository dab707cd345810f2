"""The values that sources take and return. Times are ISO 8601 text in UTC."""

from dataclasses import dataclass, field
from enum import StrEnum

from events.errors import Problem
from events.model import Event, Identity, Outcome, Position


@dataclass(frozen=True, slots=True)
class Replay:
    """The replay of a dead letter by an operator."""

    position: Position
    """The position of the original event; the replay settles its dead letter."""
    scope: str
    """The only scope that the replay goes to."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event to append."""

    event: Event
    identity: Identity
    digest: str
    """The event digest: sha256 hex of canonical [type, known data]."""
    scopes: tuple[str, ...] | None = None
    """The scopes that it names; None if it names none, and the dispatcher assigns them."""
    replay_of: Replay | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The position of an accepted event."""

    position: Position
    known: bool
    """True: the source had the event already, and nothing was appended."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected request of an authenticated sender. It cannot be replayed."""

    number: int
    intake: str
    at: str
    problems: tuple[Problem, ...]
    size: int
    """The size of the whole body in bytes; the stored `body` may be shorter."""
    body: bytes = field(repr=False)


class DeadLetterStatus(StrEnum):
    """The status of a dead letter. The last three are closed."""

    OPEN = "open"
    REPLAYING = "replaying"
    """Its event was appended again and is not settled yet."""
    REPLAYED = "replayed"
    """The replay is settled. If it failed, it has another dead letter."""
    DROPPED = "dropped"
    OVERTAKEN = "overtaken"
    """An operator took the event out while its commit was in progress, and the commit succeeded."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An accepted event that could not be folded into one scope, or was taken out of its lane."""

    id: str
    position: Position
    scope: str | None
    """None if it is unknown, because the event cannot be decoded."""
    status: DeadLetterStatus
    reason: str
    at: str
    by: str | None
    """The operator who took it out; None if the event could not be folded."""
    event_id: str | None
    """None, like its type, if the event cannot be decoded."""
    type: str | None
    replayed_as: Position | None
    closed_at: str | None
    closed_by: str | None
    closed_reason: str | None
    event: Event | None = field(repr=False)
    """None if its body was deleted by retention, or cannot be decoded."""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """The status of one event in one scope."""

    scope: str
    outcome: Outcome | None
    """None while it waits."""
    settled_at: str | None
    failed_tries: int
    """Failed tries so far."""
    error: str | None
    """Why it waits, if a try failed."""
    dead_letter: str | None
    """The id of its dead letter."""


@dataclass(frozen=True, slots=True)
class EventStatus:
    """The status of an event, with one lane per scope.

    Without lanes, an event that is not acknowledged is not dispatched yet.
    """

    identity: Identity
    type: str
    position: Position
    accepted_at: str
    acknowledged_at: str | None
    lanes: tuple[LaneStatus, ...]
    replay_of: Replay | None


@dataclass(frozen=True, slots=True)
class LaneBacklog:
    """The events that wait in one scope."""

    scope: str
    waiting: int
    oldest: str
    """When the oldest of them was accepted."""
    failed_tries: int
    """The highest number of failed tries of one of them."""
    error: str | None
    """The error of the first one that failed."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the whole source, and what an operator must handle."""

    events: int
    bytes: int
    oldest: str | None
    undispatched: int
    lanes: tuple[LaneBacklog, ...]
    dead_letters: int
    """Open ones."""
    rejected: int
