"""A source of events whose log outlives its readers, with one instance or several partitions.

`Log` is the disk, `LogSource` the open files of one process. A log may remember as much as the
journal, or as little as Kafka: then a reader that starts knows only the committed offset of each
partition, and the dead letters. Partitions are given to readers and taken from them. Two readers
may have the same one, each of which believes that it is the only one: so it is when a paused
process returns after its group was rebalanced. The contract suite of sources runs on this module
(tests/contract/test_event_source.py).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.source import Delivery, Pause, Recorded, Taken

_PUBLISHED = {OutcomeKind.PUBLISHED, OutcomeKind.LATE, OutcomeKind.WITHHELD}


async def _no_delay(_what: str) -> None:
    await asyncio.sleep(0)


class Watch:
    """Observer of a reader's actions on its log. Does nothing."""

    def waits(self, scope: str, positions: Sequence[Position]) -> None:
        """A lane got these events, in this order."""

    def assigned(self, position: Position, scopes: Sequence[str]) -> None:
        """An event that names no scope is assigned to these."""

    def settled(self, scope: str, position: Position, outcome: Outcome) -> None:
        """An event is done in a scope, for the first time."""


@dataclass(frozen=True)
class Row:
    """An accepted event."""

    event: Event
    identity: Identity
    digest: str
    position: Position
    accepted_at: str
    scopes: tuple[str, ...] | None
    """Those that it names."""


@dataclass
class Progress:
    """What is remembered of an event."""

    scopes: tuple[str, ...] | None
    settled: dict[str, Outcome] = field(default_factory=dict)
    recorded: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    """By scope and write."""

    @property
    def done(self) -> bool:
        return self.scopes is not None and all(scope in self.settled for scope in self.scopes)


class Log:
    """The content of the disk. Offsets start at 1."""

    def __init__(self, *instances: str, durable: bool = True) -> None:
        """`durable`: it remembers scopes, settled events and recorded outcomes over a restart."""
        self.durable = durable
        self.partitions: dict[str, list[Row]] = {instance: [] for instance in instances}
        self.readers: list[LogSource] = []
        self.progress: dict[Position, Progress] = {}
        """With durable memory."""
        self.acknowledged: set[Position] = set()
        self.dead_letters: dict[tuple[str, Position], dict[str, Outcome]] = {}
        """Without durable memory: by scope and position, of each write."""
        self.reported: set[tuple[str, Position]] = set()
        """Scopes and events whose outcome was reported to a watch."""

    @property
    def rows(self) -> Iterator[Row]:
        for rows in self.partitions.values():
            yield from rows

    def append(
        self,
        event: Event,
        identity: Identity,
        digest: str,
        accepted_at: str,
        scopes: Sequence[str] | None,
        instance: str | None = None,
    ) -> Position:
        """Accept an event. A known one is accepted again without an effect."""
        for row in self.rows:
            if row.identity == identity:
                assert row.digest == digest, "the intake answers 409"
                return row.position
        instance = instance or next(iter(self.partitions))
        position = Position(instance, len(self.partitions[instance]) + 1)
        named = None if scopes is None else tuple(sorted(scopes))
        self.partitions[instance].append(Row(event, identity, digest, position, accepted_at, named))
        for reader in self.readers:
            reader.wake()
        return position

    def open(
        self,
        reached: Callable[[str], Awaitable[None]] = _no_delay,
        watch: Watch | None = None,
        *,
        instances: Collection[str] | None = None,
        chance: random.Random | None = None,
    ) -> "LogSource":
        """A new reader of some partitions; None: of all.

        `chance` mixes the events of several partitions.
        """
        owned = self.partitions if instances is None else instances
        reader = LogSource(self, reached, watch or Watch(), owned, chance or random.Random(0))
        self.readers.append(reader)
        return reader

    def unacknowledged(self, instance: str) -> Iterable[Row]:
        """The events that a reader gets when it is given a partition, in order."""
        rows = self.partitions[instance]
        if self.durable:
            return [row for row in rows if row.position not in self.acknowledged]
        return rows[self._committed(instance) :]

    def _committed(self, instance: str) -> int:
        """The offset up to which all events are acknowledged."""
        rows = self.partitions[instance]
        waiting = (row for row in rows if row.position not in self.acknowledged)
        return next((row.position.offset - 1 for row in waiting), len(rows))

    @property
    def drained(self) -> bool:
        return all(row.position in self.acknowledged for row in self.rows)


class LogSource:
    """Implements events.source.EventSource for one process.

    `reached` is awaited around every call.
    """

    def __init__(
        self,
        log: Log,
        reached: Callable[[str], Awaitable[None]],
        watch: Watch,
        instances: Iterable[str],
        chance: random.Random,
    ) -> None:
        self._log = log
        self._watch = watch
        self._reached = reached
        self._chance = chance
        self._cursors: dict[str, int] = {}
        """The offset of the last event taken of each partition that this reader has."""
        self._taken: dict[Position, Row] = {}
        """In the order in which they were taken."""
        self._progress: dict[Position, Progress] = {}
        """Without durable memory."""
        self._behind: set[str] = set()
        """Partitions whose log ends before what a scope has folded."""
        self._appended = asyncio.Event()
        for instance in instances:
            self.give(instance)

    @property
    def owns_instance(self) -> bool:
        """Several sources may read one log."""
        return False

    @property
    def instances(self) -> frozenset[str]:
        """The partitions that this reader has."""
        return frozenset(self._cursors)

    def give(self, instance: str) -> None:
        """Let it read a partition, from the first event that is not acknowledged."""
        self._forget(instance)
        self._cursors[instance] = 0
        self._appended.set()

    def revoke(self, instance: str) -> None:
        """Take a partition from it: its events no longer wait here."""
        self._forget(instance)
        self._cursors.pop(instance, None)

    def _forget(self, instance: str) -> None:
        for known in (self._taken, self._progress):
            for position in [item for item in known if item.instance == instance]:
                del known[position]

    def wake(self) -> None:
        self._appended.set()

    async def close(self) -> None:
        self._log.readers.remove(self)

    async def take(self, limit: int) -> Taken:
        while True:
            self._appended.clear()
            if any(self._available().values()):
                await self._reached("take")
                # Again: a partition may have been revoked during the call.
                rows, more = self._mixed(self._available(), limit)
                for row in rows:
                    self._cursors[row.position.instance] = row.position.offset
                    self._taken[row.position] = row
                if rows:
                    return Taken([_delivery(row, self._scopes(row)) for row in rows], more)
            await self._appended.wait()

    def _scopes(self, row: Row) -> tuple[str, ...] | None:
        progress = self._remembered(row.position)
        return row.scopes if progress is None else progress.scopes

    def _available(self) -> dict[str, list[Row]]:
        return {
            instance: [
                row for row in self._log.unacknowledged(instance) if row.position.offset > cursor
            ]
            for instance, cursor in self._cursors.items()
            if instance not in self._behind
        }

    def _mixed(self, available: dict[str, list[Row]], limit: int) -> tuple[list[Row], bool]:
        """Some of these events, in order within each partition, and whether there are more."""
        rows: list[Row] = []
        queues = [list(found) for found in available.values() if found]
        while queues and len(rows) < limit:
            queue = queues[0] if len(queues) == 1 else self._chance.choice(queues)
            rows.append(queue.pop(0))
            queues = [queue for queue in queues if queue]
        return rows, bool(queues)

    async def assign(self, scopes: Mapping[Position, Sequence[str]]) -> None:
        await self._reached("assign")
        for position, names in scopes.items():
            progress = self._remembered(position) if position in self._taken else None
            if progress is not None and progress.scopes is None:
                progress.scopes = tuple(sorted(names))
                self._watch.assigned(position, progress.scopes)
                self._acknowledge(position, progress)
        await self._reached("assigned")

    async def waiting(self, scope: str, limit: int) -> Sequence[Delivery]:
        await self._reached("waiting")
        found: list[Delivery] = []
        for position, row in self._taken.items():
            progress = self._remembered(position)
            if progress is None or progress.scopes is None or len(found) >= limit:
                break
            if (
                scope in progress.scopes
                and scope not in progress.settled
                and position.instance not in self._behind
            ):
                found.append(_delivery(row, (scope,)))
        self._watch.waits(scope, [delivery.position for delivery in found])
        return found

    async def compare(
        self,
        scope: str,
        positions: Mapping[str, int],
        pause: Pause,
        *,
        unaccounted: bool = False,
    ) -> str | None:
        await self._reached("compare")
        assert not unaccounted, "several sources may read one log"
        behind = {
            instance
            for instance in self._cursors
            if positions.get(instance, 0) > len(self._log.partitions[instance])
        }
        if not behind:
            return None
        self._behind |= behind
        return f"{sorted(behind)} end before what {scope} has folded: they are not read"

    async def recorded(
        self, scope: str, positions: Sequence[Position]
    ) -> Mapping[Position, Sequence[Recorded]]:
        await self._reached("recorded")
        known = {position: self._recorded(scope, position) for position in positions}
        return {position: outcomes for position, outcomes in known.items() if outcomes}

    def _recorded(self, scope: str, position: Position) -> Sequence[Recorded]:
        progress = self._remembered(position)
        if progress is not None and scope in progress.settled:
            return (Recorded(progress.settled[scope], None),)
        outcomes = dict(self._log.dead_letters.get((scope, position), {}))
        if progress is not None:
            outcomes |= progress.recorded.get(scope, {})
        return tuple(Recorded(outcome, write) for write, outcome in outcomes.items())

    async def record(self, scope: str, write_id: str, outcomes: Mapping[Position, Outcome]) -> None:
        await self._reached("record")
        for position, outcome in outcomes.items():
            progress = self._remembered(position)
            if progress is not None and scope not in progress.settled:
                progress.recorded.setdefault(scope, {})[write_id] = outcome
            # Also after the partition was revoked: the write may still take effect.
            if outcome.kind is OutcomeKind.DEAD_LETTERED and not self._log.durable:
                self._log.dead_letters.setdefault((scope, position), {})[write_id] = outcome
        await self._reached("recorded it")

    async def withdraw(self, scope: str, write_id: str) -> None:
        await self._reached("withdraw")
        for progress in self._known.values():
            progress.recorded.get(scope, {}).pop(write_id, None)
        for (of, _), letters in self._log.dead_letters.items():
            if of == scope:
                letters.pop(write_id, None)
        await self._reached("withdrawn")

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        await self._reached("settle")
        for position, outcome in outcomes.items():
            progress = self._remembered(position)
            if progress is None or scope in progress.settled:
                continue
            progress.settled[scope] = outcome
            if (scope, position) not in self._log.reported:
                self._log.reported.add((scope, position))
                self._watch.settled(scope, position, outcome)
            self._acknowledge(position, progress)
        await self._reached("settled")

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        await self._reached("note")

    async def published_scopes(self) -> frozenset[str]:
        return frozenset(
            scope
            for progress in self._known.values()
            for scope, outcome in progress.settled.items()
            if outcome.kind in _PUBLISHED
        )

    @property
    def _known(self) -> dict[Position, Progress]:
        return self._log.progress if self._log.durable else self._progress

    def _remembered(self, position: Position) -> Progress | None:
        """The progress of an event; None if there is none, or this reader does not know it."""
        if position not in self._known and position in self._taken:
            self._known[position] = Progress(self._taken[position].scopes)
        return self._known.get(position)

    def _acknowledge(self, position: Position, progress: Progress) -> None:
        if progress.done:
            self._log.acknowledged.add(position)


def _delivery(row: Row, scopes: tuple[str, ...] | None) -> Delivery:
    return Delivery(row.event, row.identity, row.digest, row.position, row.accepted_at, scopes)
