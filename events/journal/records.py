"""The values that go into the journal and come out of it. Times are ISO 8601 in UTC, as text."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from events.errors import Problem
from events.model import Event, Identity, Outcome, Position
from events.source import Replay


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How much a journal holds, and for how long (protocol 2)."""

    most_unsettled: int = 100_000
    """Events."""
    most_unsettled_bytes: int = 1 << 30
    most_rejected: int = 1_000
    most_rejected_bytes: int = 64 << 20
    identities_kept: timedelta = timedelta(days=30)
    """Since the event was accepted; how long the same event is known again."""
    bodies_kept: timedelta = timedelta(days=7)
    """Since the event settled."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that is to be kept."""

    event: Event
    identity: Identity
    digest: str
    """The event digest: sha256 hex of canonical [type, known data]."""
    scopes: tuple[str, ...] | None = None
    """Those it names; None if it names none, and goes where the dispatcher says."""
    replay_of: Replay | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where an event stands; `known`: it stood there already, and nothing was appended."""

    position: Position
    known: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """What an authenticated sender sent and did not get in; not replayable."""

    number: int
    intake: str
    at: str
    problems: tuple[Problem, ...]
    size: int
    """Bytes of the body, which may be kept shortened."""
    body: bytes = field(repr=False)


class DeadLetterStatus(StrEnum):
    """Where a dead letter stands. The last three are closed."""

    OPEN = "open"
    REPLAYING = "replaying"
    """Appended again, and not settled yet."""
    REPLAYED = "replayed"
    """Settled again; if that failed, there is a dead letter of its own."""
    DROPPED = "dropped"
    OVERTAKEN = "overtaken"
    """Taken out by an operator while its commit was under way, which then succeeded."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An accepted event that could not be folded into one scope, or was taken out of its lane."""

    id: int
    position: Position
    scope: str
    status: DeadLetterStatus
    reason: str
    at: str
    by: str | None
    """Who took it out; None if it did not fold."""
    event_id: str
    type: str
    replayed_as: Position | None
    closed_at: str | None
    closed_by: str | None
    closed_reason: str | None
    event: Event | None = field(repr=False)
    """None once its body is no longer kept, or if it is damaged."""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One event in one scope."""

    scope: str
    outcome: Outcome | None
    """None while it waits."""
    settled_at: str | None
    attempts: int
    """Failed ones so far."""
    error: str | None
    """Why it waits, if an attempt failed."""
    dead_letter: int | None


@dataclass(frozen=True, slots=True)
class EventStatus:
    """What became of an event: in each scope, or (no lanes, not settled) that it is not dispatched yet."""

    identity: Identity
    type: str
    position: Position
    accepted_at: str
    settled_at: str | None
    lanes: tuple[LaneStatus, ...]
    replay_of: Replay | None


@dataclass(frozen=True, slots=True)
class LaneBacklog:
    """What waits in one scope."""

    scope: str
    waiting: int
    oldest: str
    """When the first of them was accepted."""
    attempts: int
    """Most failed attempts of an event that waits."""
    error: str | None
    """Of the first that failed."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the whole journal, and what needs a person."""

    events: int
    bytes: int
    oldest: str | None
    undispatched: int
    lanes: tuple[LaneBacklog, ...]
    dead_letters: int
    """Open ones."""
    rejected: int
