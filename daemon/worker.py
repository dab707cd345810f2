"""The long-running loop: deliveries into lanes, one lane a scope, lanes side by side; and the timers.

The source keeps what waits; the dispatcher says, in order, which scopes an event goes to, and a lane asks for what
waits in its scope, up to there. A lane takes that as one batch and gives it to the pipeline until that succeeds; a
lane that waits holds no other back, and no memory. Order within a scope is the order of the source. Stopping is a
drain: no new deliveries, the batch under way is finished, whatever waits is delivered again at the next start.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Protocol

import stamina
import structlog

from daemon import failures, folding
from daemon.concurrency import ReadersWriterLock
from daemon.failures import Failure, NeedsOperator
from daemon.lifecycle import Stop
from daemon.pipeline import InstanceShared, Pipeline
from daemon.publishing.bucket_identity import ANY_BUCKET, BucketCheck
from daemon.publishing.reader import Reader, Scopes
from daemon.publishing.wording import reason_of
from daemon.runtime import Runtime
from daemon.telemetry import bound
from events.model import Position
from events.source import Delivery, EventSource
from renderers.model import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_LISTING_SECONDS: Final = 5.0
"""How long a listing of scopes may serve; also only for events that were accepted before it began."""

_PASSES_AT_ONCE: Final = 8
_RETRIED_AT_ONCE: Final = 2
"""Passes over scopes whose last one failed. They have places of their own: however many scopes hang, the others
have theirs."""
_PASS_SECONDS: Final = 600.0
"""A pass over 10,000 files takes a minute where a write takes 100 ms. The next one continues where one was stopped."""


class LaneObserver(Protocol):
    """Who is told how lanes do, for metrics. Never fails, never waits."""

    def processed(self, seconds: float) -> None:
        """A batch was settled, in so many seconds from its start."""
        ...

    def failed(self, scope: str) -> None:
        """A try of a lane's batch failed."""
        ...

    def unreconciled(self, scope: Scope, reason: str) -> None:
        """A pass over the live tree failed; the timer tries again."""
        ...

    def removed(self, scope: Scope) -> None:
        """Nothing waits for a scope, and the bucket does not have it any more."""
        ...


class Patience(Protocol):
    """How long to wait between tries, in seconds."""

    @property
    def first(self) -> float:
        """Before the second try; it doubles, with jitter."""
        ...

    @property
    def longest(self) -> float:
        """Between two tries at most; they never end."""
        ...


class Lane:
    """One scope's turn to work."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.failure: Failure | None = None
        """Why its head still waits, after a try that failed."""
        self.busy = False
        """Within a try: stopping waits for its end, not for a wait between two."""
        self.upto: Position | None = None
        """The last event that was handed out to it."""
        self.idle_since: float | None = None
        """When every event that was handed out to it had an outcome, in monotonic seconds; None while one waits."""
        self._wake = asyncio.Event()

    def extend(self, position: Position) -> None:
        """One more event goes here; all before it have been handed out."""
        self.upto = position
        self.idle_since = None
        self._wake.set()

    def rest(self, now: float) -> None:
        """Nothing waits, unless something was handed out meanwhile."""
        if not self._wake.is_set():
            self.idle_since = now

    async def some(self) -> None:
        """Returns when something was handed out since the last time."""
        await self._wake.wait()
        self._wake.clear()


@dataclass(frozen=True, slots=True)
class _Listing:
    """The scopes of the bucket, and when the listing that found them began."""

    began_at: datetime
    began: float
    """Monotonic seconds."""
    scopes: frozenset[str]


class Worker:
    """Takes deliveries of one source and works on them until it is asked to stop."""

    def __init__(
        self,
        *,
        source: EventSource,
        reader: Reader,
        pipeline: Pipeline,
        runtime: Runtime,
        observer: LaneObserver,
        patience: Patience,
        live_tree_seconds: float,
        opened_at: int,
        bucket: BucketCheck = ANY_BUCKET,
        pass_seconds: float = _PASS_SECONDS,
    ) -> None:
        """`opened_at`: the source's highest offset when it was opened. `pass_seconds`: the limit of one pass over a
        live tree."""
        self._source = source
        self._reader = reader
        self._pipeline = pipeline
        self._runtime = runtime
        self._observer = observer
        self._patience = patience
        self._live_tree_seconds = live_tree_seconds
        self._opened_at = opened_at
        self._bucket = bucket
        self._pass_seconds = pass_seconds
        self._passing: set[str] = set()
        """Scopes over which the timer has begun a pass that has not ended."""
        self._places = asyncio.Semaphore(_PASSES_AT_ONCE)
        self._places_of_retried = asyncio.Semaphore(_RETRIED_AT_ONCE)
        self._compared: set[Scope] = set()
        self._lanes: dict[str, Lane] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failure: Failure | None = None
        """Why no event is handed out, after a try that failed."""
        self._dispatching: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._listed: _Listing | None = None
        self._instance = ReadersWriterLock()
        """Shared by the batches in progress; held alone while the source takes a new instance."""
        self._unlisted: dict[str, str] = {}
        self._unreadable_folders: Mapping[str, str] = {}
        self._unreadable_scopes: dict[str, str] = {}
        self._failing_passes: set[str] = set()
        self._followed: set[str] = set()
        """Scopes whose live tree a pass was made over."""

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane there is, for readiness and status."""
        return tuple(self._lanes.values())

    @property
    def unreadable(self) -> Mapping[str, str]:
        """What of the bucket could not be read the last time, and why: folders that cannot be listed and scopes whose
        pointer cannot be read. An empty name: the bucket itself cannot be listed."""
        return {**self._unlisted, **self._unreadable_folders, **self._unreadable_scopes}

    @property
    def dispatcher_ended(self) -> bool:
        """Whether the task that hands out events has ended; only a restart begins another one."""
        return self._dispatching is not None and self._dispatching.done()

    async def run(self, stop: Stop) -> None:
        """Work until `stop`, then drain: what is under way is finished, and nothing new begun."""
        async with asyncio.TaskGroup() as group:
            self._dispatching = group.create_task(self._dispatch(group, stop))
            idle = [self._dispatching, group.create_task(self._reconcile_now_and_then())]
            await stop.wait()
            for task in idle:
                task.cancel()
            while any(lane.busy for lane in self.lanes):
                self._tried.clear()
                await self._tried.wait()
            for task in self._tasks.values():
                task.cancel()

    # -- from the source into lanes

    async def _dispatch(self, group: asyncio.TaskGroup, stop: Stop) -> None:
        while True:
            taken: list[Delivery] = []
            await self._until_done("taking the next event", partial(self._take, taken), self)
            await self._until_done("handing out an event", partial(self._hand_out, taken[0], group, stop), self)

    async def _take(self, taken: list[Delivery]) -> None:
        taken.append(await self._source.next())

    async def _hand_out(self, delivery: Delivery, group: asyncio.TaskGroup, stop: Stop) -> None:
        scopes = delivery.scopes
        if scopes is None:
            scopes = await self._scopes_at(datetime.fromisoformat(delivery.accepted_at))
            await self._source.assign(delivery.position, scopes)
            if self._unreadable_folders:
                log.warning(
                    "event goes only to scopes that are known: folders cannot be read",
                    event_id=delivery.event.id,
                    folders=sorted(self._unreadable_folders),
                )
        for name in scopes:
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = Lane(Scope.parse(name))
                self._tasks[name] = group.create_task(self._work(lane, stop))
            lane.extend(delivery.position)

    # -- which scopes there are

    async def _scopes_at(self, accepted: datetime) -> tuple[str, ...]:
        """The scopes that the bucket had when an event was accepted, or that an earlier event may have created.

        The listing began after the event was accepted. A lane outlives a listing only if an event waited in it when the
        listing began, so every lane without a scope may have one soon; at worst it ignores the event.
        """
        listing = self._listed
        if (
            listing is None
            or listing.began_at < accepted
            or self._runtime.monotonic() - listing.began > _LISTING_SECONDS
        ):
            listing = await self._list()
        return tuple(sorted({*listing.scopes, *self._lanes}))

    async def _list(self) -> _Listing:
        """What the bucket has now. In a folder that cannot be listed, every scope counts that is known from before:
        from the listing before this one, and from what the source remembers."""
        began_at, began = self._runtime.now(), self._runtime.monotonic()
        # In another bucket an event without scopes would be settled without those that the right one has.
        scopes = await self._bucket.reading(self._scopes)
        found, unreadable = set(map(str, scopes)), dict(scopes.unreadable)
        if unreadable:
            known = await self._source.published_scopes() | (self._listed.scopes if self._listed else frozenset())
            found |= {name for name in known if name.partition("/")[0] in unreadable}
        if unreadable.keys() - self._unreadable_folders.keys():
            log.warning("folders of the bucket cannot be read; every other scope continues", folders=unreadable)
        self._unreadable_folders = unreadable
        self._listed = _Listing(began_at, began, frozenset(found))
        self._remove_lanes(self._listed)
        return self._listed

    async def _scopes(self) -> Scopes:
        try:
            scopes = await self._reader.scopes()
        except Exception as error:
            self._unlisted = {"": f"the bucket cannot be listed: {reason_of(error)}"}
            raise
        self._unlisted = {}
        return scopes

    def _remove_lanes(self, listing: _Listing) -> None:
        """A lane goes once its events have outcomes and a listing that began afterwards has no such scope."""
        for lane in self.lanes:
            name = str(lane.scope)
            if name in listing.scopes or lane.idle_since is None or lane.idle_since >= listing.began:
                continue
            del self._lanes[name]
            self._tasks.pop(name).cancel()
            self._forget(lane.scope)
        for name in self._followed - listing.scopes - self._lanes.keys():
            self._forget(Scope.parse(name))

    def _forget(self, scope: Scope) -> None:
        """Nothing waits for it, and the bucket does not have it: nothing that was reported of it holds."""
        self._followed.discard(str(scope))
        self._failing_passes.discard(str(scope))
        self._unreadable_scopes.pop(str(scope), None)
        self._compared.discard(scope)
        self._pipeline.forget(scope)
        self._observer.removed(scope)

    # -- the source's instance

    async def _compare(self, scope: Scope) -> None:
        """A source that is behind what a bucket has folded of it was restored from a backup (protocol 2).

        Compared with what it had when it was opened: new events may have reached the recorded positions since, and
        would be taken for old ones. What was delivered under the old instance is then no longer unsettled, and comes
        again under the new one.
        """
        if scope in self._compared:
            return
        instance = self._source.instance
        recorded = (await self._reader.pointer(scope)).pointer.positions.get(instance, 0)
        if recorded > self._opened_at:
            log.warning("journal is older than the bucket, continues under a new id", scope=str(scope))
            await self._renew(Position(instance, recorded))
        self._compared.add(scope)

    async def _renew(self, passed: Position) -> None:
        """Have the source take a new instance, unless it has done so since; `passed` is what a bucket has folded of it.

        A batch in progress names positions of the old instance. It would commit them, and settle nothing.
        """
        async with self._instance.exclusive():
            if self._source.instance == passed.instance:
                await self._source.reinstate(passed.offset)

    # -- one lane

    async def _work(self, lane: Lane, stop: Stop) -> None:
        while not stop.is_set:
            await lane.some()
            await self._until_done(str(lane.scope), partial(self._empty, lane, stop), lane)

    async def _empty(self, lane: Lane, stop: Stop) -> None:
        """Batch after batch, until nothing waits."""
        while not stop.is_set:
            lane.busy = True
            try:
                if not await self._take_batch(lane):
                    lane.rest(self._runtime.monotonic())
                    return
            finally:
                lane.busy = False
                self._tried.set()

    async def _take_batch(self, lane: Lane) -> bool:
        """One batch, from the lane to the bucket; whether there was one."""
        with bound(scope=str(lane.scope)):
            await self._bucket.confirm()
            await self._compare(lane.scope)
            try:
                found = await self._process(lane)
            except InstanceShared as error:
                log.warning("journal was copied, continues under a new id", reason=str(error))
                await self._renew(error.position)
                return True
            lane.failure = None
            if found:
                await self._reconcile(lane.scope)
        return found

    async def _process(self, lane: Lane) -> bool:
        async with self._instance.shared():
            waiting = await self._source.waiting(str(lane.scope), lane.upto, folding.MOST_EVENTS)
            if waiting:
                began = self._runtime.monotonic()
                await self._pipeline.process(lane.scope, waiting)
                self._observer.processed(self._runtime.monotonic() - began)
        return bool(waiting)

    async def _reconcile(self, scope: Scope) -> None:
        """The live tree follows; its failure is the timer's to repair, and no reason to fold again."""
        unreadable = None
        self._followed.add(str(scope))
        try:
            async with asyncio.timeout(self._pass_seconds) as limit:
                await self._pipeline.reconcile(scope)
        except Exception as error:  # noqa: BLE001  # whatever it is, the events are settled
            if limit.expired():
                stopped = f"the pass over the live tree was stopped after {self._pass_seconds:g} s"
                self._observer.unreconciled(scope, stopped)
            else:
                self._observer.unreconciled(scope, reason_of(error))
                unreadable = await self._why_unreadable(scope)
            self._failing_passes.add(str(scope))
        else:
            self._failing_passes.discard(str(scope))
        if unreadable is not None:
            self._unreadable_scopes[str(scope)] = unreadable
        else:
            self._unreadable_scopes.pop(str(scope), None)

    async def _why_unreadable(self, scope: Scope) -> str | None:
        """Why the pointer cannot be read; None if it can, so that the fault is one of the live tree alone."""
        try:
            await self._reader.pointer(scope)
        except Exception as error:  # noqa: BLE001  # also one that nobody foresaw is this scope's alone
            return reason_of(error)
        return None

    async def _until_done(self, what: str, work: Callable[[], Awaitable[None]], waits: "Lane | Worker") -> None:
        """Try until it succeeds; each failure is said, and remembered by who waits."""
        tries = stamina.retry_context(
            on=Exception,
            attempts=None,
            timeout=None,
            wait_initial=self._patience.first,
            wait_max=self._patience.longest,
            wait_jitter=self._patience.first,
        )
        async for attempt in tries:
            with attempt:
                try:
                    await work()
                except Exception as error:
                    await self._failed(what, error, waits)
                    raise
        waits.failure = None

    async def _failed(self, what: str, error: Exception, waits: "Lane | Worker") -> None:
        failure = failures.classify(error)
        if isinstance(failure, NeedsOperator):
            trace = error if failure != waits.failure else None  # the same trace once is enough
            log.error("waits for an operator, tried again", waits=what, reason=failure.reason, exc_info=trace)
        else:
            log.warning("waits, tried again", waits=what, reason=failure.reason)
        waits.failure = failure
        if isinstance(waits, Lane):
            await self._note(waits, failure)
            self._observer.failed(str(waits.scope))

    async def _note(self, lane: Lane, failure: Failure) -> None:
        try:
            waiting = await self._source.waiting(str(lane.scope), lane.upto, folding.MOST_EVENTS)
            await self._source.note_failure(str(lane.scope), [each.position for each in waiting], failure.reason)
        except Exception as unnoted:  # noqa: BLE001  # a note for operators; the failure itself is logged
            log.warning("failure not noted in the journal", error=str(unnoted))

    # -- timers

    async def _reconcile_now_and_then(self) -> None:
        """At once, too: a crash after the commit leaves a live tree behind, with no event that would bring it on.

        No scope waits for the pass over another one: a round begins passes, and does not wait for their end.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    scopes = (await self._list()).scopes
                    for name in sorted(scopes - self._passing):
                        self._passing.add(name)
                        group.create_task(self._pass(name))
                except Exception as error:  # noqa: BLE001  # the next round asks again
                    log.warning("bucket not listed", error=str(error))
                await self._runtime.sleep(self._live_tree_seconds * (0.5 + self._runtime.jitter()))

    async def _pass(self, name: str) -> None:
        try:
            async with self._places_of_retried if name in self._failing_passes else self._places:
                await self._reconcile(Scope.parse(name))
        finally:
            self._passing.discard(name)
