"""The journal's asynchronous interface, with one thread for SQLite.

SQLite blocks, and a connection belongs to one thread, so one thread does all the work and calls
queue for it. A call takes effect even if its caller is cancelled while it waits. So every call may
be repeated.

Requests of the intake do not queue: whatever call is next stores all that wait, in one transaction,
before its own work. While lanes publish a backlog, the queue takes a tenth of a second.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from sqlite3 import Connection, DatabaseError
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from events.errors import JournalFull, Problem, SourceUnavailable
from events.journal import dead_letters, inserts, inspection, lanes
from events.journal.database import (
    OpenJournal,
    meta,
    open_journal,
    port_error,
    store_new_instance,
    timestamp,
    translated,
)
from events.journal.files import MACHINE_ID
from events.journal.limits import JournalLimits
from events.model import Outcome, Position
from events.records import (
    Accepted,
    Arrival,
    Backlog,
    DeadLetter,
    DeadLetterStatus,
    EventStatus,
    Rejected,
)
from events.source import Delivery, Pause, Recorded, Taken

P = ParamSpec("P")
T = TypeVar("T")

_DEFAULT_LIMITS = JournalLimits()
_MAX_REQUESTS: Final = 64
"""Requests that share one transaction."""
_ORDINARY_BYTES: Final = 128 << 10
"""The space that an ordinary request needs.

A probe writes this much after an append failed for lack of space: on a full disk a small row would
still fit into pages that SQLite has allocated already.
"""


def _nothing(_db: Connection) -> None:
    """A call that only stores the requests that wait."""


@dataclass(frozen=True, eq=False)
class _Request:
    """Events that are to be stored together, and their caller's future."""

    arrivals: Sequence[Arrival]
    accepted: "asyncio.Future[list[Accepted]]"

    def answer(self, result: list[Accepted] | Exception) -> None:
        """Give the caller its result, unless it has left."""
        if self.accepted.done():
            return
        if isinstance(result, Exception):
            self.accepted.set_exception(result)
        else:
            self.accepted.set_result(result)


class Journal:
    """Implements `EventSource`, and `EventLog`, `DeadLetters` and `SourceHealth`.

    Every method may raise SourceUnavailable or its subclass JournalFull (transient),
    JournalDisplaced (operator action needed) or JournalDamaged.
    """

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
        self._requests: deque[_Request] = deque()
        """Requests that no call has stored yet."""
        self._stored: deque[tuple[_Request, list[Accepted] | Exception]] = deque()
        """Requests that a call has stored or refused, and that have no answer yet."""
        self._unanswered: set[_Request] = set()
        self._appending: asyncio.Task[None] | None = None
        self._cursor = 0
        """The offset of the last event that was taken."""
        self._unassigned: set[int] = set()
        """The events that were taken and have no scopes yet."""
        self._recorded: dict[str, int] = {}
        """The highest offset of which an outcome was recorded since the journal was opened, by
        scope."""
        self._instances_taken = 0
        """To notice a new instance during a call."""
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
        """Opens the journal at `path`.

        With `run` the journal is created if it does not exist, and locked against any other `run`.
        Without `run` it is opened beside a running daemon.

        `poll` is the number of seconds until an append by another process is noticed.
        `machine_id_file` distinguishes the journal of a machine from its copy on another.
        `worker` must run one call at a time, always in the same thread; the default starts one.

        Raises:
            JournalLocked: another `run` holds the lock.
            JournalMissing: there is no journal, and this is not a `run`.
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
        """Waits for the calls in progress, closes the file and releases the lock. Idempotent."""
        if not self._closed:
            self._closed = True
            try:
                if self._appending is not None:
                    # Not awaited itself: a cancelled close must not cancel the requests of others.
                    await asyncio.wait([self._appending])
            finally:
                # Also when it is cancelled: there is no second close.
                closing = asyncio.get_running_loop().run_in_executor(
                    self._worker, self._opened.close
                )
                self._worker.shutdown(wait=False)
            await closing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def instance(self) -> str:
        """The current instance of this journal's positions."""
        return self._instance

    @property
    def is_copy(self) -> bool:
        """Whether it got a new instance when it was opened, because its file is a copy."""
        return self._opened.is_copy

    @property
    def owns_instance(self) -> bool:
        """True: no other source commits positions of this instance, unless the file was copied."""
        return True

    async def append(self, arrivals: Sequence[Arrival]) -> list[Accepted]:
        """Stores all events or none. They are durable when this returns.

        Raises:
            IdentityConflict: the id of one is known with different content.
            JournalFull: the limit of unacknowledged events is reached, or the disk is full.
            JournalDisplaced: the events are in a file that a restart would not find.
        """
        if self._closed:
            raise self._is_closed()
        request = _Request(arrivals, asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self._unanswered.add(request)
        if self._appending is None:
            self._appending = asyncio.create_task(self._append_requests())
            self._appending.add_done_callback(self._appending_ended)
        try:
            return await request.accepted
        except JournalFull:
            self._probe_bytes = _ORDINARY_BYTES
            raise

    async def _append_requests(self) -> None:
        """Call until all requests have an answer, in case no other call stores them."""
        try:
            while self._unanswered:
                await self._run(_nothing)
        finally:
            self._appending = None

    def _appending_ended(self, task: "asyncio.Task[None]") -> None:
        """Answer the requests that are left if the task was cancelled or failed: the loop ends."""
        if not task.cancelled() and task.exception() is None:
            return
        self._appending = None  # a task that is cancelled before its first step runs nothing
        for request in self._unanswered:
            request.answer(SourceUnavailable("the journal stops: send the events again"))
        self._unanswered.clear()
        self._requests.clear()

    def _store_requests(self) -> None:
        """Store the requests that wait. For the journal's thread; never fails."""
        requests: list[_Request] = []
        with contextlib.suppress(IndexError):
            while len(requests) < _MAX_REQUESTS:
                requests.append(self._requests.popleft())
        if not requests:
            return
        results: Sequence[inserts.Appended]
        try:
            with translated(self._opened.path):
                results = self._confirm(
                    inserts.append,
                    self._opened.db,
                    self._now(),
                    self._limits,
                    [item.arrivals for item in requests],
                )
        except Exception as error:  # noqa: BLE001  # each caller gets it
            results = [error] * len(requests)
        self._stored.extend(zip(requests, results, strict=True))

    def _answer_stored(self) -> None:
        """Give the callers of stored requests their results."""
        while self._stored:
            request, result = self._stored.popleft()
            self._unanswered.discard(request)
            self._appended.set()
            if isinstance(result, DatabaseError):
                request.answer(port_error(self._opened.path, result))
            else:
                request.answer(result)

    async def probe(self) -> None:
        """Writes a row durably, to check whether an event could be stored now.

        After an append failed for lack of space, the row has the size of an ordinary request.

        Raises:
            SourceUnavailable: it could not, for example because the disk is full.
        """
        size = self._probe_bytes
        await self._confirmed(inspection.probe, self._now(), size)
        if size:
            self._probe_bytes = 0

    async def bucket(self) -> str | None:
        """The id of the bucket that this journal publishes to; None before the first one."""
        return await self._call(meta, "bucket") or None

    async def remember_bucket(self, bucket: str) -> None:
        """Stores the id of the bucket that this journal publishes to."""
        await self._call(inspection.remember, "bucket", bucket)

    async def reject(self, intake_name: str, body: bytes, problems: Sequence[Problem]) -> None:
        """Stores a rejected request of an authenticated sender. The oldest ones are dropped."""
        await self._call(
            inserts.reject,
            self._now(),
            self._limits,
            sender=intake_name,
            body=body,
            problems=problems,
        )

    async def rejected(self, limit: int = 100) -> tuple[Rejected, ...]:
        """The newest rejected requests, newest first."""
        return await self._call(inserts.rejected, limit)

    async def take(self, limit: int) -> Taken:
        """Waits for unacknowledged events, and returns the first ones, in order."""
        while True:
            self._appended.clear()
            taken_before = self._instances_taken
            taken = await self._call(
                lanes.take_after, self._decoded, self._instance, self._cursor, limit
            )
            if taken_before != self._instances_taken:
                continue  # a new instance was taken during the query: start over
            if taken.deliveries:
                self._cursor = taken.deliveries[-1].position.offset
                self._unassigned |= {
                    delivery.position.offset
                    for delivery in taken.deliveries
                    if delivery.scopes is None
                }
                return taken
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._appended.wait()

    async def assign(self, scopes: Mapping[Position, Sequence[str]]) -> None:
        """Stores the scopes that events go to. The first assignment is final.

        An event without scopes is acknowledged at once.
        """
        by_offset = {
            position.offset: names
            for position, names in scopes.items()
            if position.instance == self._instance
        }
        if by_offset:
            await self._call(lanes.assign, self._now(), by_offset)
            self._unassigned -= by_offset.keys()

    async def waiting(self, scope: str, limit: int) -> Sequence[Delivery]:
        """The deliveries that wait in `scope`, in order, before the first unassigned event."""
        last = min(self._unassigned) - 1 if self._unassigned else self._cursor
        return await self._call(
            lanes.waiting, self._decoded, self._instance, scope, up_to=last, limit=limit
        )

    async def compare(
        self,
        scope: str,
        positions: Mapping[str, int],
        pause: Pause,
        *,
        unaccounted: bool = False,
    ) -> str | None:
        """Takes a new instance if the pointer of `scope` is ahead of the journal.

        It is ahead if its offset is above every offset that the journal had when it was opened, and
        above every offset that was recorded in this scope since. The highest offset now proves
        nothing: new events may have reached that of the pointer.
        """
        own = max(self._opened.highest, self._recorded.get(scope, 0))
        if not unaccounted and positions.get(self._instance, 0) <= own:
            return None
        async with pause():
            passed = positions.get(self._instance)
            if passed is None:
                return None  # for another scope, the instance was renewed during the wait
            await self._take_new_instance(passed)
        cause = "a copy of the journal is in use" if unaccounted else "the journal was restored"
        return (
            f"{cause}: the pointer of {scope} has passed events that the journal did not commit. "
            "The journal continues under a new instance. Send again what was accepted after the "
            "backup and is not published, at least the newest state"
        )

    async def recorded(
        self, scope: str, positions: Sequence[Position]
    ) -> Mapping[Position, Sequence[Recorded]]:
        """The settled outcome of each position in `scope`, else the recorded ones."""
        outcomes = await self._call(lanes.recorded, scope, self._offsets(positions))
        return {self._position(offset): of_event for offset, of_event in outcomes.items()}

    async def record(self, scope: str, write_id: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Stores outcomes durably, before the write that folds their events."""
        by_offset = self._by_offset(outcomes)
        await self._call(lanes.record, scope, write_id, by_offset)
        self._recorded[scope] = max(self._recorded.get(scope, 0), *by_offset, 0)

    async def withdraw(self, scope: str, write_id: str) -> None:
        """Deletes the outcomes of a write that was lost."""
        await self._call(lanes.withdraw, scope, write_id)

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        """Completes these events in `scope`. A dead letter becomes visible now."""
        await self._call(lanes.settle, self._now(), scope, self._by_offset(outcomes))

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        """Stores why these events wait, and counts one more failed try."""
        await self._call(lanes.note_failure, scope, self._offsets(positions), error)

    async def published_scopes(self) -> frozenset[str]:
        """The scopes with a published event that the journal still has."""
        return await self._call(lanes.published_scopes)

    async def dead_letters(
        self, status: DeadLetterStatus | None = DeadLetterStatus.OPEN
    ) -> tuple[DeadLetter, ...]:
        """The dead letters with this status (None: all), oldest first."""
        return await self._call(dead_letters.dead_letters, status)

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """The dead letter with this id. Raises NotWaiting if there is none."""
        return await self._call(dead_letters.dead_letter, dead_letters.number_of(letter_id))

    async def take_out(
        self, event: str, scope: str | None, *, reason: str, by: str
    ) -> tuple[DeadLetter, ...]:
        """Turns a stuck event into dead letters, in one scope or in all scopes where it waits.

        `event` is its id, or its position (`@12`).

        Raises:
            NotWaiting: it does not wait there, or several events have this id.
        """
        return await self._confirmed(
            dead_letters.take_out, self._now(), event, scope, reason=reason, by=by
        )

    async def replay(self, letter_id: str, *, by: str) -> Position:
        """Appends the event of a dead letter again, for its scope. Raises NotWaiting: not open."""
        position = await self._confirmed(
            dead_letters.replay, self._now(), dead_letters.number_of(letter_id), by
        )
        self._appended.set()
        return position

    async def drop(self, letter_id: str, *, by: str, reason: str) -> None:
        """Closes a dead letter without a replay. Raises NotWaiting if it is not open."""
        number = dead_letters.number_of(letter_id)
        await self._confirmed(dead_letters.drop, self._now(), number, by, reason)

    async def find(self, event_id: str) -> tuple[EventStatus, ...]:
        """The status of each event with this id, in order of position."""
        return await self._call(inspection.find, event_id)

    async def backlog(self) -> Backlog:
        """The current backlog, for status, metrics and readiness."""
        return await self._call(inspection.backlog)

    async def prune(self) -> int:
        """Deletes what the retention limits allow; returns the number of changed rows.

        It uses short transactions, so that other calls are not delayed. The age of an identity ends
        at the newest event if that is earlier than now: a clock that is ahead must not delete
        identities too early.
        """
        now = self._clock()
        newest = await self._call(inspection.newest) or now
        bodies = timestamp(now - self._limits.bodies_kept)
        identities = timestamp(min(now, newest) - self._limits.identities_kept)
        total = 0
        while changed := await self._call(inspection.prune, bodies, identities):
            total += changed
        return total

    async def _call(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._closed:
            raise self._is_closed()
        return await self._run(work, *args, **kwargs)

    async def _run(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def run() -> T:
            self._store_requests()
            with translated(self._opened.path):
                return work(self._opened.db, *args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, run)
        finally:
            self._answer_stored()

    async def _confirmed(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `_call`, for results that confirm a write to a client or an operator."""
        return await self._call(partial(self._confirm, work), *args, **kwargs)

    def _confirm(
        self,
        work: Callable[Concatenate[Connection, P], T],
        db: Connection,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Check that the file is still in its place: a commit into a removed file would be lost.

        Before the work, so that nothing is stored that is not confirmed; after it, because the file
        may have been removed meanwhile.
        """
        self._opened.refuse_displaced()
        result = work(db, *args, **kwargs)
        self._opened.refuse_displaced()
        return result

    def _is_closed(self) -> SourceUnavailable:
        return SourceUnavailable(f"the journal {self._opened.path} is closed")

    async def _take_new_instance(self, passed: int) -> None:
        """Take a new instance, and deliver all unacknowledged events under it.

        `passed`: the highest offset of the old instance that a bucket has folded.
        """
        self._instance = await self._call(store_new_instance, f"journal:{self._token()}", passed)
        self._instances_taken += 1
        self._cursor = 0
        self._unassigned.clear()
        self._recorded.clear()
        self._appended.set()

    def _now(self) -> str:
        return timestamp(self._clock())

    def _position(self, offset: int) -> Position:
        return Position(self._instance, offset)

    def _offsets(self, positions: Sequence[Position]) -> list[int]:
        """The offsets of the positions of this instance; the others refer to no row here."""
        return [position.offset for position in positions if position.instance == self._instance]

    def _by_offset(self, outcomes: Mapping[Position, Outcome]) -> dict[int, Outcome]:
        return {
            at.offset: outcome for at, outcome in outcomes.items() if at.instance == self._instance
        }
