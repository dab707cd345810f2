"""The port between a source of events and the daemon.

A source delivers events in its order. After a restart it delivers again every event that is not
acknowledged, that is, settled in all its scopes. The caller records an outcome *before* the write
of the pointer that folds the event, under the id of that write, and settles the event *after* it.
If the write is lost, the caller withdraws what it recorded for it (protocol 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from events.model import Event, Identity, Outcome, Position


@dataclass(frozen=True, slots=True)
class Replay:
    """The replay of a dead letter by an operator."""

    position: Position
    """The position of the original event; the replay settles its dead letter."""
    scope: str
    """The only scope that the replay goes to."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event at one position."""

    event: Event
    identity: Identity
    digest: str
    """The event digest: sha256 hex of canonical [type, known data]."""
    position: Position
    accepted_at: str
    """ISO 8601, UTC."""
    scopes: tuple[str, ...] | None = None
    """The scopes it goes to; None until the dispatcher has assigned them."""
    replay_of: Replay | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Taken:
    """Deliveries in order."""

    deliveries: Sequence[Delivery]
    more: bool
    """Whether the source has further ones already."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded outcome of an event in one scope."""

    outcome: Outcome
    write_id: str | None
    """The write that must succeed for this outcome to count; None once the event is settled."""


class EventSource(Protocol):
    """A durable, ordered source of events, with one reader. All calls come from one event loop."""

    @property
    def instance(self) -> str:
        """The current instance of this source's positions."""
        ...

    @property
    def owns_instance(self) -> bool:
        """Whether no other source commits positions of this instance.

        If so, a pointer with a position that this source cannot account for shows that a copy of
        the source is in use (protocol 2). A log with several readers, such as a Kafka partition,
        does not own its instance.
        """
        ...

    async def take(self, limit: int) -> Taken:
        """Waits for events, and returns those that are available, in order, at most `limit`.

        A source may return fewer, for example to limit their size. This object returns each
        delivery once, except after `reinstate`.

        Raises:
            SourceUnavailable: try again.
        """
        ...

    async def assign(self, scopes: Mapping[Position, Sequence[str]]) -> None:
        """Stores the scopes that events go to, so that they are the same after a restart.

        All are stored or none. Idempotent.
        """
        ...

    async def waiting(
        self, scope: str, up_to: Position | None = None, limit: int = 1_000
    ) -> Sequence[Delivery]:
        """The deliveries that wait in `scope`, in order, up to a position and at most `limit`.

        Events behind `up_to` may not be assigned yet. The result is current: it has no event that
        an operator has taken out. It is empty if `up_to` belongs to another instance.
        """
        ...

    async def recorded(
        self, scope: str, positions: Sequence[Position]
    ) -> Mapping[Position, Sequence[Recorded]]:
        """The recorded outcomes of these positions in `scope`, the newest last.

        There is one for each write that was not withdrawn. A settled position has only its final
        outcome. Positions without outcomes are left out.
        """
        ...

    async def record(self, scope: str, write_id: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Stores outcomes durably, before the write of the pointer that folds their events.

        A source may keep only the newest 16 of an event: an older write cannot be in progress.
        """
        ...

    async def withdraw(self, scope: str, write_id: str) -> None:
        """Deletes the outcomes of a write that was lost. Settled outcomes stay."""
        ...

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Completes these events in `scope` with their final outcomes.

        An event that is settled in all its scopes is acknowledged. Idempotent.
        """
        ...

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        """Stores, for operators, why these events still wait. Settling clears it."""
        ...

    async def published_scopes(self) -> frozenset[str]:
        """The scopes with a published event that the source still remembers.

        They replace the listing of the bucket's scopes while the bucket cannot be listed.
        """
        ...

    async def reinstate(self, recorded: int) -> None:
        """Takes a new instance, and delivers all unacknowledged events under it.

        To be called if a bucket has a position of this instance, up to offset `recorded`, that this
        source did not commit: the source was restored from a backup, or a copy of it is in use. The
        caller ensures that no batch is in progress.
        """
        ...
