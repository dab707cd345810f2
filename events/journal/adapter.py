"""The journal as an event source: async outside, one thread of its own inside.

SQLite blocks, and a connection belongs to its thread; so one thread owns both, and every call waits its turn there.
A call whose waiting is cancelled still takes effect: callers may say the same again, everything here allows that.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from events.errors import JournalFull, Problem, SourceUnavailable
from events.journal import dead_letters, inserts, inspection, lanes
from events.journal.database import OpenJournal, meta, open_journal, reinstated, timestamp, translated
from events.journal.files import MACHINE_ID
from events.journal.records import (
    Accepted,
    Arrival,
    Backlog,
    DeadLetter,
    DeadLetterStatus,
    EventStatus,
    JournalLimits,
    Rejected,
)
from events.model import Outcome, Position
from events.source import Delivery, Recorded

P = ParamSpec("P")
T = TypeVar("T")

_DEFAULT_LIMITS = JournalLimits()
_LAST = 2**62
_ORDINARY_BYTES: Final = 128 << 10
"""What an ordinary request needs. A probe writes as much after one had no room: on a full disk a small row still fits
into pages that SQLite has already."""


class Journal:
    """Implements `events.source.EventSource`. Every method may raise SourceUnavailable (try again), of which
    JournalFull is one, or JournalDamaged (the operator must act)."""

    def __init__(
        self,
        opened: OpenJournal,
        worker: Executor,
        *,
        clock: Callable[[], datetime],
        token: Callable[[], str],
        limits: JournalLimits,
        poll: float,
    ) -> None:
        """Use `Journal.open`."""
        self._opened = opened
        self._worker = worker
        self._clock = clock
        self._token = token
        self._limits = limits
        self._poll = poll
        self._instance = opened.instance
        self._decoded = lanes.Decoded()
        self._cursor = 0
        self._turn = 0
        self._probe_bytes = 0
        self._appended = asyncio.Event()
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], datetime],
        token: Callable[[], str],
        run: bool,
        limits: JournalLimits = _DEFAULT_LIMITS,
        poll: float = 1.0,
        machine_id_file: Path = MACHINE_ID,
        worker: Executor | None = None,
    ) -> Self:
        """The journal at `path`. With `run` it is created if need be and held against any other `run`; without, it
        is opened beside one. `poll`: seconds until what another process appended is seen. `machine_id_file` tells the
        journal of one machine from its copy on another. `worker`: what runs one call at a time, always in the same
        thread; by default a thread of the journal's own.

        Raises:
            JournalLocked: another `run` holds it.
            JournalMissing: there is none, and this is not a `run`.
        """
        worker = worker or ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        work = partial(open_journal, path, token=token, run=run, machine_id_file=machine_id_file)
        try:
            opened = await asyncio.get_running_loop().run_in_executor(worker, work)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        return cls(opened, worker, clock=clock, token=token, limits=limits, poll=poll)

    async def close(self) -> None:
        """Finish what is under way, then close the file and let go of the lock. Idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._worker, self._opened.close)
            self._worker.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def instance(self) -> str:
        """The instance of this journal's positions, now."""
        return self._instance

    @property
    def owns_instance(self) -> bool:
        """No other source commits positions of this journal's instance, unless its file was copied."""
        return True

    async def append(self, arrivals: Sequence[Arrival]) -> list[Accepted]:
        """Keep all of them, durable when this returns, or none.

        Raises:
            IdentityConflict: the id of one is known with another content.
            JournalFull: too much waits.
            JournalDisplaced: they are kept in a file that a restart would not find.
        """
        try:
            return await self._confirmed(inserts.append, self._now(), self._limits, arrivals)
        except JournalFull:
            self._probe_bytes = _ORDINARY_BYTES
            raise
        finally:
            self._appended.set()

    async def probe(self) -> None:
        """Write a little, durably, to find out whether an event could be kept now; after one could not, write as much.

        Raises:
            SourceUnavailable: none could, for instance because the disk is full or the file was removed.
        """
        size = self._probe_bytes
        await self._confirmed(inspection.probe, self._now(), size)
        if size:
            self._probe_bytes = 0

    async def bucket(self) -> str | None:
        """The id of the bucket that this journal publishes to; None before the first."""
        return await self._call(meta, "bucket") or None

    async def remember_bucket(self, bucket: str) -> None:
        """Publish to the bucket with this id from now on."""
        await self._call(inspection.remember, "bucket", bucket)

    async def reject(self, intake_name: str, body: bytes, problems: Sequence[Problem]) -> None:
        """Keep, in a ring, what an authenticated sender sent and did not get in."""
        await self._call(inserts.reject, self._now(), self._limits, sender=intake_name, body=body, problems=problems)

    async def rejected(self, most: int = 100) -> tuple[Rejected, ...]:
        """The newest of what was rejected, newest first."""
        return await self._call(inserts.rejected, most)

    async def next(self) -> Delivery:
        """The next unsettled event in order; waits for one."""
        while True:
            self._appended.clear()
            turn = self._turn
            delivery = await self._call(lanes.next_after, self._decoded, self._instance, self._cursor)
            if turn != self._turn:
                continue  # a new instance was taken meanwhile: start over
            if delivery is not None:
                self._cursor = delivery.position.offset
                return delivery
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._appended.wait()

    async def assign(self, position: Position, scopes: Sequence[str]) -> None:
        """Remember which scopes an event goes to; the first word stays. One that goes nowhere is settled."""
        for offset in self._offsets([position]):
            await self._call(lanes.assign, self._now(), offset, scopes)

    async def waiting(self, scope: str, upto: Position | None = None, most: int = 1_000) -> Sequence[Delivery]:
        """What waits in `scope`, in order, up to a position."""
        if upto is not None and upto.instance != self._instance:
            return ()
        last = upto.offset if upto else _LAST
        return await self._call(lanes.waiting, self._decoded, self._instance, scope, upto=last, most=most)

    async def recorded(self, scope: str, positions: Sequence[Position]) -> Mapping[Position, Sequence[Recorded]]:
        """What was settled in `scope`, or else recorded, the newest last."""
        found = await self._call(lanes.recorded, scope, self._offsets(positions))
        return {self._position(offset): told for offset, told in found.items()}

    async def record(self, scope: str, commit: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Keep outcomes durably before the commit that passes their events."""
        await self._call(lanes.record, scope, commit, self._by_offset(outcomes))

    async def withdraw(self, scope: str, commit: str) -> None:
        """Forget outcomes whose commit was lost."""
        await self._call(lanes.withdraw, scope, commit)

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        """These are done in `scope`. A dead letter becomes visible now."""
        await self._call(lanes.settle, self._now(), scope, self._by_offset(outcomes))

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        """Remember why these wait, and that one more attempt failed."""
        await self._call(lanes.note_failure, scope, self._offsets(positions), error)

    async def published_scopes(self) -> frozenset[str]:
        """The scopes in which an event that is still remembered was published."""
        return await self._call(lanes.published_scopes)

    async def reinstate(self, recorded: int) -> None:
        """Take a new instance and deliver what is unsettled under it. A bucket has folded up to offset `recorded` of
        this one, and not by this file: it was restored from a backup, or a copy of it is in use."""
        self._instance = await self._call(reinstated, f"journal:{self._token()}", recorded)
        self._turn += 1
        self._cursor = 0
        self._appended.set()

    async def highest(self) -> int:
        """The highest offset ever given, 0 for none; a pointer that is ahead of it calls for `reinstate`."""
        return await self._call(inspection.highest)

    async def dead_letters(self, status: DeadLetterStatus | None = DeadLetterStatus.OPEN) -> tuple[DeadLetter, ...]:
        """Those with this status (None: all), oldest first."""
        return await self._call(dead_letters.dead_letters, status)

    async def dead_letter(self, number: int) -> DeadLetter:
        """One of them. Raises NotWaiting."""
        return await self._call(dead_letters.dead_letter, number)

    async def take_out(self, event: int | str, scope: str | None, *, reason: str, by: str) -> tuple[DeadLetter, ...]:
        """Make dead letters of a stuck event (its offset or its id), in one scope or in all it waits in.

        Raises:
            NotWaiting: it does not wait there, or what is meant is not clear.
        """
        return await self._confirmed(dead_letters.take_out, self._now(), event, scope, reason=reason, by=by)

    async def replay(self, number: int, *, by: str) -> Position:
        """Append a dead letter's event again, for its one scope. Raises NotWaiting if it is not open."""
        position = await self._confirmed(dead_letters.replay, self._now(), number, by)
        self._appended.set()
        return position

    async def drop(self, number: int, *, by: str, reason: str) -> None:
        """Give a dead letter up. Raises NotWaiting if it is not open."""
        await self._confirmed(dead_letters.drop, self._now(), number, by, reason)

    async def find(self, event_id: str) -> tuple[EventStatus, ...]:
        """What became of the events with this id, in order of position."""
        return await self._call(inspection.find, event_id)

    async def backlog(self) -> Backlog:
        """What waits now, for status, metrics and readiness."""
        return await self._call(inspection.backlog)

    async def prune(self) -> int:
        """Forget what is over, in short transactions; returns how many rows changed.

        The age of an identity counts up to now or to the newest event, whichever is earlier: a clock that is ahead
        makes no identity unknown.
        """
        now = self._clock()
        newest = await self._call(inspection.newest) or now
        bodies, identities = now - self._limits.bodies_kept, min(now, newest) - self._limits.identities_kept
        total = 0
        while changed := await self._call(inspection.prune, timestamp(bodies), timestamp(identities)):
            total += changed
        return total

    async def _call(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise SourceUnavailable(f"the journal {self._opened.path} is closed")

        def run() -> T:
            with translated(self._opened.path):
                return work(self._opened.db, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._worker, run)

    async def _confirmed(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `_call`, for what is acknowledged: a commit into a removed file would be lost with this process."""

        def confirmed(db: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
            result = work(db, *args, **kwargs)
            self._opened.refuse_displaced()
            return result

        return await self._call(confirmed, *args, **kwargs)

    def _now(self) -> str:
        return timestamp(self._clock())

    def _position(self, offset: int) -> Position:
        return Position(self._instance, offset)

    def _offsets(self, positions: Sequence[Position]) -> list[int]:
        """Positions of another instance say nothing about this journal's rows."""
        return [position.offset for position in positions if position.instance == self._instance]

    def _by_offset(self, outcomes: Mapping[Position, Outcome]) -> dict[int, Outcome]:
        return {at.offset: outcome for at, outcome in outcomes.items() if at.instance == self._instance}
