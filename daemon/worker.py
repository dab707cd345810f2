"""The long-running loop: deliveries into lanes, one lane a scope, lanes side by side; and the timers.

A lane takes what waits as one batch and gives it to the pipeline until that succeeds; a lane that waits holds no other
back. Order within a scope is the order of the source. Stopping is a drain: no new deliveries, the batch under way is
finished, whatever waits is delivered again at the next start.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final, Protocol

import stamina
import structlog

from daemon import desired, outcomes
from daemon.lifecycle import Stop
from daemon.outcomes import NeedsOperator
from daemon.pipeline import Pipeline
from daemon.publishing.errors import PublishingError
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from daemon.stores.errors import StoreError
from events.model import Position
from events.source import Delivery, EventSource
from renderers.model import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_MOST_IN_LANES: Final = 20_000
"""Deliveries held in memory; the source keeps the others."""


class LaneObserver(Protocol):
    """Who is told how lanes do, for metrics. Never fails, never waits."""

    def waiting(self, scope: str, events: int, oldest: datetime | None) -> None:
        """A lane's length changed, or time went on."""
        ...

    def failed(self, scope: str) -> None:
        """A try of a lane's batch failed."""
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
    """What waits in one scope, in order."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.waiting: deque[Delivery] = deque()
        self.failure: outcomes.Failure | None = None
        """Why its head still waits, after a try that failed."""
        self.busy = False
        """Within a try: stopping waits for its end, not for a wait between two."""
        self._wake = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """Add one at the end."""
        self.waiting.append(delivery)
        self._wake.set()

    async def some(self) -> None:
        """Returns when something waits."""
        while not self.waiting:
            self._wake.clear()
            await self._wake.wait()

    def head(self) -> Sequence[Delivery]:
        """The first of those that wait, as many as a batch can have."""
        return tuple(islice(self.waiting, desired.MOST_EVENTS))

    def remove(self, positions: frozenset[Position]) -> None:
        """Forget settled ones."""
        self.waiting = deque(each for each in self.waiting if each.position not in positions)

    @property
    def oldest(self) -> datetime | None:
        """When the first that waits was accepted."""
        return datetime.fromisoformat(self.waiting[0].accepted_at) if self.waiting else None


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
        self._room = asyncio.Event()
        self._tried = asyncio.Event()
        self._listed: tuple[datetime, tuple[str, ...]] | None = None

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane there is, for readiness and status."""
        return tuple(self._lanes.values())

    async def run(self, stop: Stop) -> None:
        """Work until `stop`, then drain: what is under way is finished, and nothing new begun."""
        async with asyncio.TaskGroup() as group:
            idle = [
                group.create_task(self._dispatch(group, stop)),
                group.create_task(self._reconcile_now_and_then()),
                group.create_task(self._watch_lanes()),
            ]
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
        await self._until_done("comparing the journal with the bucket", self._compare_with_bucket)
        while True:
            await self._wait_for_room()
            taken: list[Delivery] = []
            await self._until_done("taking the next event", partial(self._take, taken))
            await self._until_done("handing out an event", partial(self._hand_out, taken[0], group, stop))

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
            lane.put(delivery)

    async def _scopes_at(self, accepted: datetime) -> tuple[str, ...]:
        """The scopes that the bucket has, or that an earlier unsettled event creates.

        A listing that began after the event was accepted serves it as well as a new one.
        """
        if self._listed is None or self._listed[0] < accepted:
            began = self._runtime.now()
            self._listed = began, tuple(map(str, await self._reader.scopes()))
        waiting = (name for name, lane in self._lanes.items() if lane.waiting)
        return tuple(sorted({*self._listed[1], *waiting}))

    async def _wait_for_room(self) -> None:
        while sum(len(lane.waiting) for lane in self._lanes.values()) >= _MOST_IN_LANES:
            self._room.clear()
            await self._room.wait()

    # -- one lane

    async def _work(self, lane: Lane, stop: Stop) -> None:
        while not stop.is_set:
            await lane.some()
            await self._until_done(str(lane.scope), partial(self._take_batch, lane, stop), lane)
            self._observer.waiting(str(lane.scope), len(lane.waiting), lane.oldest)

    async def _take_batch(self, lane: Lane, stop: Stop) -> None:
        """One batch, from the lane to the bucket."""
        if stop.is_set:
            return
        lane.busy = True
        try:
            await self._process(lane)
        finally:
            lane.busy = False
            self._tried.set()

    async def _process(self, lane: Lane) -> None:
        name = str(lane.scope)
        await self._compare(lane.scope)
        positions = [each.position for each in lane.head()]
        # Others may have been put behind them meanwhile: only what was asked about is judged.
        lane.remove(frozenset(positions) - await self._source.unsettled(name, positions))
        head = lane.head()
        self._observer.waiting(name, len(lane.waiting), lane.oldest)
        if not head:
            return
        with structlog.contextvars.bound_contextvars(scope=name):
            lane.remove(await self._pipeline.process(lane.scope, head))
            lane.failure = None
            self._room.set()
            await self._reconcile(lane.scope)

    async def _reconcile(self, scope: Scope) -> None:
        """The live tree follows; its failure is the timer's to repair, and no reason to fold again."""
        try:
            await self._pipeline.reconcile(scope)
        except Exception as error:  # noqa: BLE001  # whatever it is, the events are settled
            log.warning("live tree not synced, tried again later", scope=str(scope), error=str(error))

    async def _until_done(self, what: str, work: Callable[[], Awaitable[None]], lane: Lane | None = None) -> None:
        """Try until it succeeds; each failure is said, and for a lane remembered."""
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
                    await self._failed(what, error, lane)
                    raise

    async def _failed(self, what: str, error: Exception, lane: Lane | None) -> None:
        failure = outcomes.judge(error)
        if isinstance(failure, NeedsOperator):
            log.error("waits for an operator, tried again", waits=what, reason=failure.reason, exc_info=error)
        else:
            log.warning("waits, tried again", waits=what, reason=failure.reason)
        if lane is None:
            return
        lane.failure = failure
        try:
            positions = [each.position for each in lane.head()]
            await self._source.note_failure(str(lane.scope), positions, failure.reason)
        except Exception as unnoted:  # noqa: BLE001  # a note for operators; the failure itself is logged
            log.warning("failure not noted in the journal", error=str(unnoted))
        self._observer.failed(str(lane.scope))

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

    async def _watch_lanes(self) -> None:
        while True:
            for lane in self.lanes:
                self._observer.waiting(str(lane.scope), len(lane.waiting), lane.oldest)
            await self._runtime.sleep(5)
