"""The long-running loop: deliveries into lanes, one lane a scope, lanes side by side; and the timers.

The source keeps what waits; the dispatcher says, in order, which scopes an event goes to, and a lane asks for what
waits in its scope, up to there. A lane takes that as one batch and gives it to the pipeline until that succeeds; a
lane that waits holds no other back, and no memory. Order within a scope is the order of the source. Stopping is a
drain: no new deliveries, the batch under way is finished, whatever waits is delivered again at the next start.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, Protocol

import stamina
import structlog

from daemon import desired, outcomes
from daemon.lifecycle import Stop
from daemon.outcomes import Failure, NeedsOperator
from daemon.pipeline import Pipeline
from daemon.publishing.errors import PublishingError
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from daemon.stores.errors import StoreError
from daemon.telemetry import bound
from events.model import Position
from events.source import Delivery, EventSource
from renderers.model import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_LISTING_SECONDS: Final = 5.0
"""How long a listing of scopes may serve; also only for events that were accepted before it began."""


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
        self._wake = asyncio.Event()

    def extend(self, position: Position) -> None:
        """One more event goes here; all before it have been handed out."""
        self.upto = position
        self._wake.set()

    async def some(self) -> None:
        """Returns when something was handed out since the last time."""
        await self._wake.wait()
        self._wake.clear()


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
    ) -> None:
        """`opened_at`: the source's highest offset when it was opened."""
        self._source = source
        self._reader = reader
        self._pipeline = pipeline
        self._runtime = runtime
        self._observer = observer
        self._patience = patience
        self._live_tree_seconds = live_tree_seconds
        self._opened_at = opened_at
        self._compared: set[Scope] = set()
        self._lanes: dict[str, Lane] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failure: Failure | None = None
        """Why no event is handed out, after a try that failed."""
        self.unreadable: dict[str, str] = {}
        """Scopes and folders that could not be read at the last try, and why."""
        self._dispatching: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._listed: tuple[datetime, float, tuple[str, ...]] | None = None

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane there is, for readiness and status."""
        return tuple(self._lanes.values())

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
        await self._until_done("comparing the journal with the bucket", self._compare_with_bucket, self)
        while True:
            taken: list[Delivery] = []
            await self._until_done("taking the next event", partial(self._take, taken), self)
            await self._until_done("handing out an event", partial(self._hand_out, taken[0], group, stop), self)

    async def _take(self, taken: list[Delivery]) -> None:
        taken.append(await self._source.next())

    async def _compare_with_bucket(self) -> None:
        """Before anything is delivered; a scope that cannot be read now is compared before its own first batch."""
        for scope in await self._reader.scopes():
            try:
                await self._compare(scope)
            except (PublishingError, StoreError) as error:
                log.warning("pointer not readable", scope=str(scope), error=str(error))

    async def _compare(self, scope: Scope) -> None:
        """A source that is behind what a bucket has folded of it was restored from a backup (protocol 2).

        Compared with what it had when it was opened: new events may have reached the recorded positions since, and
        would be taken for old ones. What was delivered under the old instance is then no longer unsettled, and comes
        again under the new one.
        """
        if scope in self._compared:
            return
        recorded = (await self._reader.pointer(scope)).pointer.inputs.get(self._source.instance, 0)
        if recorded > self._opened_at:
            await self._source.reinstate(recorded)
            log.warning("journal is older than the bucket, goes on under a new id", scope=str(scope))
        self._compared.add(scope)

    async def _hand_out(self, delivery: Delivery, group: asyncio.TaskGroup, stop: Stop) -> None:
        scopes = delivery.scopes
        if scopes is None:
            scopes = await self._scopes_at(datetime.fromisoformat(delivery.accepted_at))
            await self._source.assign(delivery.position, scopes)
        for name in scopes:
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = Lane(Scope.parse(name))
                self._tasks[name] = group.create_task(self._work(lane, stop))
            lane.extend(delivery.position)

    async def _scopes_at(self, accepted: datetime) -> tuple[str, ...]:
        """The scopes that the bucket has, or that an earlier event may have created: a lane too many ignores it."""
        now, ticks = self._runtime.now(), self._runtime.monotonic()
        if self._listed is None or self._listed[0] < accepted or ticks - self._listed[1] > _LISTING_SECONDS:
            self._listed = now, ticks, tuple(map(str, await self._reader.scopes()))
        return tuple(sorted({*self._listed[2], *self._lanes}))

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
                    return
            finally:
                lane.busy = False
                self._tried.set()

    async def _take_batch(self, lane: Lane) -> bool:
        """One batch, from the lane to the bucket; whether there was one."""
        name = str(lane.scope)
        with bound(scope=name):
            await self._compare(lane.scope)
            waiting = await self._source.waiting(name, lane.upto, desired.MOST_EVENTS)
            if waiting:
                began = self._runtime.monotonic()
                await self._pipeline.process(lane.scope, waiting)
                self._observer.processed(self._runtime.monotonic() - began)
            lane.failure = None
            if waiting:
                await self._reconcile(lane.scope)
        return bool(waiting)

    async def _reconcile(self, scope: Scope) -> None:
        """The live tree follows; its failure is the timer's to repair, and no reason to fold again."""
        try:
            await self._pipeline.reconcile(scope)
        except Exception as error:  # noqa: BLE001  # whatever it is, the events are settled
            self._observer.unreconciled(scope, str(error))

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
        failure = outcomes.judge(error)
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
            waiting = await self._source.waiting(str(lane.scope), lane.upto, desired.MOST_EVENTS)
            await self._source.note_failure(str(lane.scope), [each.position for each in waiting], failure.reason)
        except Exception as unnoted:  # noqa: BLE001  # a note for operators; the failure itself is logged
            log.warning("failure not noted in the journal", error=str(unnoted))

    # -- timers

    async def _reconcile_now_and_then(self) -> None:
        """At once, too: a crash after the commit leaves a live tree behind, with no event that would bring it on."""
        while True:
            try:
                for scope in await self._reader.scopes():
                    await self._reconcile(scope)
            except Exception as error:  # noqa: BLE001  # the next round asks again
                log.warning("bucket not listed", error=str(error))
            await self._runtime.sleep(self._live_tree_seconds * (0.5 + self._runtime.jitter()))
