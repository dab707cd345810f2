"""The port between a source of events and the daemon.

A source delivers events in its order. After a restart it delivers again every event that is not
acknowledged, that is, settled in all its scopes. The caller records an outcome *before* the write
of the pointer that folds the event, under the id of that write, and settles the event *after* it.
If the write is lost, the caller withdraws what it recorded for it (protocol 2).

A source has one instance, or several, such as the partitions of a log. Positions of one instance
are ordered; those of different instances are never compared.

What a source remembers over a restart differs. Every source remembers, for each instance, an offset
up to which all events are acknowledged. A source with durable memory remembers in addition which
later events are acknowledged, the assigned scopes, the scopes in which an event is settled, and the
recorded outcomes. Without it an event may be assigned again, come again in a scope where it was
settled, and get its outcome from the pointer and the manifests.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from events.model import Event, Identity, Outcome, Position
from events.records import Replay


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event at one position."""

    event: Event
    identity: Identity
    digest: str
    """The event digest: sha256 hex of canonical [type, known data]."""
    position: Position
    accepted_at: str
    """When the event was accepted, by a clock that is not behind the daemon's; else when this
    reader first received it. ISO 8601, UTC."""
    scopes: tuple[str, ...] | None = None
    """The scopes that it names or was assigned; None before. In `waiting`: that scope alone."""
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


Pause = Callable[[], AbstractAsyncContextManager[None]]
"""A context in which no batch is in progress."""


class EventSource(Protocol):
    """One reader of a durable, ordered source of events.

    All calls come from one event loop. Each may raise an EventError.
    """

    @property
    def owns_instance(self) -> bool:
        """Whether no other source commits positions of its instances.

        If so, a pointer with a position that this source cannot account for shows that a copy of
        the source is in use (protocol 2). A log with several readers, such as a Kafka partition,
        does not own its instance.
        """
        ...

    async def take(self, limit: int) -> Taken:
        """Waits for events, and returns those that are available, at most `limit`.

        They are in order within an instance. A source may return fewer, for example to limit their
        size. It returns an event again if its instance was renewed (`compare`), or was taken from
        this reader and given back.
        """
        ...

    async def assign(self, scopes: Mapping[Position, Sequence[str]]) -> None:
        """Stores the scopes that events go to. All are stored or none.

        The first assignment of an event is final. With durable memory it is the same after a
        restart, and an instance has one reader at a time: the caller wakes only the lanes that it
        knows of. Unknown positions are skipped, and those of an instance that was taken from this
        reader since: lanes that looked idle without its events may not be.
        """
        ...

    async def waiting(self, scope: str, limit: int) -> Sequence[Delivery]:
        """The deliveries that wait in `scope`, at most `limit`, in the order in which they came.

        An event waits once it was taken and its scopes are known, if the same is true of every
        event taken before it, of any instance: so an event that names its scopes cannot overtake an
        earlier one whose scopes are not known yet.
        The result is current: it has no event that an operator has taken out, and none of an
        instance that another reader has now.
        """
        ...

    async def compare(
        self,
        scope: str,
        positions: Mapping[str, int],
        pause: Pause,
        *,
        unaccounted: bool = False,
    ) -> str | None:
        """Compares what the pointer of `scope` has folded with what this source has.

        The source was restored from a backup, truncated or copied if the pointer is ahead of it,
        or, `unaccounted`, if it has passed an event of which the source has no outcome. Its next
        events would count as folded. A source that owns its instance takes a new one in a `pause`,
        and delivers all unacknowledged events under it. Any other source stops delivering from the
        instance: `take` and `waiting` leave its events out. `unaccounted` is only for a source that
        owns its instance.

        To be called before the first events of an instance are processed in a scope.

        Returns:
            The difference and what the source did about it, in words; None if there is none.
        """
        ...

    async def recorded(
        self, scope: str, positions: Sequence[Position]
    ) -> Mapping[Position, Sequence[Recorded]]:
        """The recorded outcomes of these positions in `scope`.

        There is one for each write that was not withdrawn. A settled position has only its final
        outcome. Positions without outcomes are left out.
        """
        ...

    async def record(self, scope: str, write_id: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Stores outcomes, before the write of the pointer that folds their events.

        With durable memory all are durable when this returns. Without it, dead letters are: nothing
        else shows later that an event was one. Unknown positions are skipped. That of an instance
        that was taken from this reader is not unknown, because its write may still take effect. A
        source may keep only the newest 16 of an event: an older write cannot be in progress.
        """
        ...

    async def withdraw(self, scope: str, write_id: str) -> None:
        """Deletes the outcomes of a write that was lost, as durably as they were stored.

        Settled outcomes stay.
        """
        ...

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Completes these events in `scope` with their final outcomes, which are committed already.

        An event that is settled in all its scopes is acknowledged durably. Idempotent. Unknown
        positions are skipped.
        """
        ...

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        """Stores, for operators, why these events still wait. Settling clears it."""
        ...

    async def published_scopes(self) -> frozenset[str]:
        """The scopes with a published event that the source remembers.

        They replace the listing of the bucket's scopes while the bucket cannot be listed.
        """
        ...
