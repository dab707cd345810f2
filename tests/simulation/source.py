"""A source of events whose log outlives its readers: the journal's contract, without its threads.

`Log` is the disk, `LogSource` the open file of one process. Several sources of one log behave like
Kafka after a group was rebalanced around a paused process: two readers, each of which believes that
it is the only one. The contract suite of sources runs on this module
(tests/contract/test_event_source.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.source import Delivery, Recorded, Taken


async def _no_delay(_what: str) -> None:
    await asyncio.sleep(0)


class Watch:
    """Observer of a reader's actions on its log. Does nothing."""

    def assigned(self, offset: int, scopes: Sequence[str]) -> None:
        """An event that names no scope is assigned to these."""

    def settled(self, scope: str, offset: int, outcome: Outcome) -> None:
        """An event is done in a scope, for the first time."""

    def renewed(self, instance: str) -> None:
        """The log continues under another instance."""


@dataclass
class Row:
    """An accepted event and its progress so far."""

    event: Event
    identity: Identity
    digest: str
    accepted_at: str
    scopes: tuple[str, ...] | None
    settled: dict[str, Outcome] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.scopes is not None and all(scope in self.settled for scope in self.scopes)


@dataclass
class Log:
    """The content of the disk. Offsets start at 1."""

    instance: str
    rows: list[Row] = field(default_factory=list)
    kept: dict[tuple[str, int], dict[str, Outcome]] = field(default_factory=dict)
    """Outcomes recorded for commits, by scope and offset."""
    readers: list["LogSource"] = field(default_factory=list)

    def append(
        self,
        event: Event,
        identity: Identity,
        digest: str,
        accepted_at: str,
        scopes: Sequence[str] | None,
    ) -> Position:
        """Accept an event. A known one is accepted again without an effect."""
        for offset, row in enumerate(self.rows, 1):
            if row.identity == identity:
                assert row.digest == digest, "the intake answers 409"
                return Position(self.instance, offset)
        kept = None if scopes is None else tuple(sorted(scopes))
        self.rows.append(Row(event, identity, digest, accepted_at, kept))
        for reader in self.readers:
            reader.wake()
        return Position(self.instance, len(self.rows))

    def open(
        self, reached: Callable[[str], Awaitable[None]] = _no_delay, watch: Watch | None = None
    ) -> "LogSource":
        """A new reader, at the first event that is not acknowledged."""
        reader = LogSource(self, reached, watch or Watch())
        self.readers.append(reader)
        return reader

    @property
    def drained(self) -> bool:
        return all(row.done for row in self.rows)


class LogSource:
    """Implements events.source.EventSource for one process.

    `reached` is awaited around every call.
    """

    def __init__(self, log: Log, reached: Callable[[str], Awaitable[None]], watch: Watch) -> None:
        self._log = log
        self._watch = watch
        self._reached = reached
        self._cursor = 0
        self._appended = asyncio.Event()

    @property
    def instance(self) -> str:
        return self._log.instance

    @property
    def owns_instance(self) -> bool:
        """Several sources may read one log."""
        return False

    def wake(self) -> None:
        self._appended.set()

    async def close(self) -> None:
        self._log.readers.remove(self)

    async def take(self, limit: int) -> Taken:
        while True:
            self._appended.clear()
            offsets = [
                offset
                for offset in range(self._cursor + 1, len(self._log.rows) + 1)
                if not self._log.rows[offset - 1].done
            ]
            more = len(offsets) > limit
            offsets = offsets[:limit]
            if offsets:
                await self._reached("take")
                self._cursor = offsets[-1]
                deliveries = [
                    self._delivery(offset, self._log.rows[offset - 1].scopes) for offset in offsets
                ]
                return Taken(deliveries, more)
            await self._appended.wait()

    async def assign(self, scopes: Mapping[Position, Sequence[str]]) -> None:
        await self._reached("assign")
        for position, names in scopes.items():
            row = self._row(position)
            if row is not None and row.scopes is None:
                row.scopes = tuple(sorted(names))
                self._watch.assigned(position.offset, row.scopes)
        await self._reached("assigned")

    async def waiting(
        self, scope: str, up_to: Position | None = None, limit: int = 1_000
    ) -> Sequence[Delivery]:
        await self._reached("waiting")
        if up_to is not None and up_to.instance != self.instance:
            return ()
        last = up_to.offset if up_to else len(self._log.rows)
        found = [
            self._delivery(offset, (scope,))
            for offset, row in enumerate(self._log.rows[:last], 1)
            if scope in (row.scopes or ()) and scope not in row.settled
        ]
        return found[:limit]

    async def recorded(
        self, scope: str, positions: Sequence[Position]
    ) -> Mapping[Position, Sequence[Recorded]]:
        await self._reached("recorded")
        known = {position: self._recorded(scope, position) for position in positions}
        return {
            key: recorded_outcomes for key, recorded_outcomes in known.items() if recorded_outcomes
        }

    async def record(self, scope: str, commit: str, outcomes: Mapping[Position, Outcome]) -> None:
        await self._reached("record")
        for position, outcome in outcomes.items():
            row = self._row(position)
            if row is not None and scope not in row.settled:
                self._log.kept.setdefault((scope, position.offset), {})[commit] = outcome
        await self._reached("recorded it")

    async def withdraw(self, scope: str, commit: str) -> None:
        await self._reached("withdraw")
        for (of, _), recorded_outcomes in self._log.kept.items():
            if of == scope:
                recorded_outcomes.pop(commit, None)
        await self._reached("withdrawn")

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        await self._reached("settle")
        for position, outcome in outcomes.items():
            row = self._row(position)
            if row is not None and scope not in row.settled:
                row.settled[scope] = outcome
                self._watch.settled(scope, position.offset, outcome)
        await self._reached("settled")

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        await self._reached("note")

    async def published_scopes(self) -> frozenset[str]:
        done = {OutcomeKind.PUBLISHED, OutcomeKind.LATE, OutcomeKind.WITHHELD}
        return frozenset(
            scope
            for row in self._log.rows
            for scope, outcome in row.settled.items()
            if outcome.kind in done
        )

    async def reinstate(self, recorded: int) -> None:
        name, _, life = self._log.instance.partition("+")
        self._log.instance = f"{name}+{int(life or 0) + 1}"
        self._watch.renewed(self._log.instance)
        self._log.kept.clear()
        self._cursor = 0
        self._appended.set()

    def _row(self, position: Position) -> Row | None:
        return self._log.rows[position.offset - 1] if position.instance == self.instance else None

    def _recorded(self, scope: str, position: Position) -> Sequence[Recorded]:
        row = self._row(position)
        if row is None:
            return ()
        if scope in row.settled:
            return (Recorded(row.settled[scope], None),)
        recorded_outcomes = self._log.kept.get((scope, position.offset), {})
        return tuple(Recorded(outcome, commit) for commit, outcome in recorded_outcomes.items())

    def _delivery(self, offset: int, scopes: tuple[str, ...] | None) -> Delivery:
        row = self._log.rows[offset - 1]
        return Delivery(
            row.event,
            row.identity,
            row.digest,
            Position(self.instance, offset),
            row.accepted_at,
            scopes,
        )
