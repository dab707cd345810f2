"""The ports between a source of events and the daemon.

A source hands out deliveries in its own order and hands them out again, after a restart, until they have settled
in every scope they go to. The caller records an outcome *before* it commits what passes the event, under that commit's
id, and settles it *after*; what it recorded for a commit that was lost, it withdraws (protocol 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from events.model import Event, Identity, Outcome, Position


@dataclass(frozen=True, slots=True)
class Replay:
    """A dead letter that an operator sent again, and the only scope it goes to."""

    position: Position
    """Of the event whose dead letter this settles."""
    scope: str


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
    """Where it goes, once that is known; None until the dispatcher has said so."""
    replay_of: Replay | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What becomes, or became, of an event in one scope."""

    outcome: Outcome
    commit: str | None
    """The id of the commit that it is the outcome of, if that is made; None: it is settled."""


class EventSource(Protocol):
    """A durable, ordered source of events. One reader at a time; safe to call from one event loop."""

    @property
    def instance(self) -> str:
        """The instance of this source's positions, now."""
        ...

    @property
    def owns_instance(self) -> bool:
        """Whether this source alone commits positions of its instance. If so, a position that a pointer has passed, and
        that this source cannot explain, shows that a copy of the source is in use (protocol 2). A log that several
        readers share, such as a Kafka partition, does not own its instance."""
        ...

    async def next(self) -> Delivery:
        """The next delivery in order; waits for one. Never the same one twice in the life of this object, except
        after `reinstate`.

        Raises:
            SourceUnavailable: try again.
        """
        ...

    async def assign(self, position: Position, scopes: Sequence[str]) -> None:
        """Remember which scopes an event goes to, so that a restart asks the same ones. Idempotent."""
        ...

    async def waiting(self, scope: str, upto: Position | None = None, most: int = 1_000) -> Sequence[Delivery]:
        """What waits in `scope`, in order, up to a position: what lies behind it may not have been assigned yet.

        The truth at this moment: what an operator has taken out is not in it. Nothing, if `upto` is of another
        instance.
        """
        ...

    async def recorded(self, scope: str, positions: Sequence[Position]) -> Mapping[Position, Sequence[Recorded]]:
        """What was recorded for these positions in `scope`, the newest last, one for each commit that was not
        withdrawn; of a position that has settled, that alone. Positions without any are left out."""
        ...

    async def record(self, scope: str, commit: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Keep outcomes durably before the commit that passes their events. A source may forget all but the newest
        16 of an event: a commit that old is not under way any more."""
        ...

    async def withdraw(self, scope: str, commit: str) -> None:
        """Forget outcomes whose commit was lost. What has settled stays."""
        ...

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        """These events are done in `scope`; an event done in all its scopes is acknowledged. Idempotent."""
        ...

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        """Remember, for operators, why these wait; cleared when they settle."""
        ...

    async def published_scopes(self) -> frozenset[str]:
        """The scopes in which an event that the source still remembers was published. They stand in for a listing of
        the bucket where that cannot be had."""
        ...

    async def reinstate(self, recorded: int) -> None:
        """A bucket has folded up to offset `recorded` of this instance, and not by this source: the source was restored
        from a backup, or a copy of it is in use. Take a new instance and deliver what is unsettled under it. The
        caller sees to it that no batch is in progress."""
        ...
