"""Dispatches deliveries to one lane per scope and runs the lanes concurrently.

The source keeps the waiting events. The dispatcher takes all that are available and assigns each,
in order, to its scopes. A lane reads the events that wait in its scope, and gives them to the
pipeline as one batch until that succeeds. A lane that waits delays no other lane and holds no
events in memory. The order within a scope is the order of the source.

A batch costs hardly more than an event, so batches start when a backlog has been taken, and a few
lanes work at a time (ADR 31).

A stop drains: no new deliveries are taken, and the batches in progress are finished. Waiting events
are delivered again at the next start. The worker also runs the timer of the live trees.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Final, Protocol, TypeVar

import structlog

from daemon import batches, failures
from daemon.changes import model_of_unnamed
from daemon.concurrency import Places, ReadersWriterLock, concurrently
from daemon.failures import Failure, reason_of
from daemon.lifecycle import Stop
from daemon.pipeline import Pipeline
from daemon.publishing.bucket_identity import ANY_BUCKET, BucketCheck
from daemon.publishing.errors import PublishingError
from daemon.publishing.reader import Reader, Scopes
from daemon.redelivery import InstanceShared
from daemon.retry import Backoff, retry
from daemon.runtime import Runtime
from daemon.scope_index import Indexed
from daemon.stores.errors import StoreError
from daemon.telemetry import bound
from daemon.timers import every
from events.model import Position
from events.source import Delivery, EventSource
from renderers.values import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")

_LISTING_SECONDS: Final = 5.0
"""How long a listing of scopes is used, and only for events accepted before it began."""

_CLOCK_STEP_SECONDS: Final = 0.05
_CONFIRM_SECONDS: Final = 1.0
"""The limit of the time to confirm that pointers have not changed."""
_CONCURRENT_READS: Final = 8
"""Of pointers, each in a call of its own."""
_CONCURRENT_CALLS: Final = 2
"""That read many pointers: one that hangs does not stop the other."""
_CONCURRENT_PASSES: Final = 8
_CONCURRENT_RETRIES: Final = 2
"""Concurrent passes over scopes whose last pass failed. Their limit is separate: scopes that hang
take no place from the others."""
GATHER_SECONDS: Final = 0.5
LANES_AT_ONCE: Final = 8
_PLACES_OF_FAILED: Final = 2
"""Places for lanes whose last try failed. They take a place of the others only if one is free."""
PLACE_SECONDS: Final = 1.0
"""A batch that takes longer waits for the store, and gives its place to another lane."""
_PASS_SECONDS: Final = 600.0
"""10,000 files take a minute if a write takes 100 ms. After the limit the next pass continues."""


class LaneObserver(Protocol):
    """Receives the progress of lanes, for metrics. Never fails, never waits."""

    def processed(self, seconds: float) -> None:
        """A batch was settled `seconds` after its start."""
        ...

    def failed(self, scope: str) -> None:
        """A try of a lane's batch failed."""
        ...

    def unreconciled(self, scope: Scope, reason: str) -> None:
        """A pass over the live tree failed; the timer retries it."""
        ...

    def removed(self, scope: Scope) -> None:
        """The bucket no longer has the scope, and no event waits for it."""
        ...

    def dispatched_to_no_scope(self, event_ids: Sequence[str]) -> None:
        """These events name no scopes, and no scope has their model."""
        ...


class Lane:
    """The queue of one scope, without its events: the source keeps them."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.failure: Failure | None = None
        """Why the last try failed; None after a success."""
        self.busy = False
        """Whether a try is running. A stop waits for its end, but not for a pause between tries."""
        self.compared: set[str] = set()
        """The instances of the source whose positions were compared with the scope's pointer."""
        self.idle_since: float | None = None
        """Monotonic seconds since when all its events have outcomes; None while one waits."""
        self.waiting_since: float | None = None
        """Monotonic seconds since when events have waited without a pause; None while none does."""
        self._expecting = False
        self._wake = asyncio.Event()

    def expect(self) -> None:
        """Note that an event will be assigned, so that the lane is not removed until then."""
        self.idle_since = None
        self._expecting = True

    def extend(self, now: float) -> None:
        """Note that an event was assigned."""
        self.idle_since = None
        self.waiting_since = now if self.waiting_since is None else self.waiting_since
        self._expecting = False
        self._wake.set()

    def note_idle(self, now: float) -> None:
        """Note that no event waits, unless one was assigned meanwhile."""
        if not self._wake.is_set() and not self._expecting:
            self.idle_since = now
            self.waiting_since = None

    async def wait_for_event(self) -> None:
        """Return when an event was assigned since the last call."""
        await self._wake.wait()
        self._wake.clear()


class _Pending:
    """A delivery that is not dispatched, and its scopes once they are known."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.scopes: Sequence[str] | None = delivery.scopes

    @cached_property
    def model(self) -> str | None:
        """The model that a scope must have, if the event names no scopes."""
        return None if self.delivery.scopes is not None else model_of_unnamed(self.delivery.event)


@dataclass(frozen=True, slots=True)
class _Listing:
    """The scopes of the bucket, and when their listing began."""

    began_at: datetime
    began: float
    """Monotonic seconds."""
    scopes: frozenset[str]


@dataclass(slots=True)
class _Confirmed:
    """A listing, and the entries of the index whose pointers were current after it began."""

    listing: _Listing
    current: Mapping[str, Indexed]
    unchanged: Sequence[tuple[str, frozenset[str]]] = ()
    """Those of them that are in the index since: scopes and their models."""
    index_changes: int = -1
    """When `unchanged` was computed."""


class Worker:
    """Processes the deliveries of one source until it is asked to stop."""

    def __init__(
        self,
        *,
        source: EventSource,
        reader: Reader,
        pipeline: Pipeline,
        runtime: Runtime,
        observer: LaneObserver,
        backoff: Backoff,
        live_tree_seconds: float,
        bucket: BucketCheck = ANY_BUCKET,
        pass_seconds: float = _PASS_SECONDS,
        gather_seconds: float = GATHER_SECONDS,
        lanes_at_once: int = LANES_AT_ONCE,
    ) -> None:
        """Create a worker that has not started.

        `backoff`: the pauses between the tries of a lane, which never end. `pass_seconds`: the
        limit of one pass over a live tree. `gather_seconds`: how long a batch waits while a backlog
        is taken. `lanes_at_once`: how many lanes work concurrently.
        """
        self._source = source
        self._reader = reader
        self._pipeline = pipeline
        self._runtime = runtime
        self._observer = observer
        self._backoff = backoff
        self._live_tree_seconds = live_tree_seconds
        self._bucket = bucket
        self._pass_seconds = pass_seconds
        self._passing: set[str] = set()
        """Scopes for which the timer has started a pass that has not ended."""
        self._pass_slots = asyncio.Semaphore(_CONCURRENT_PASSES)
        self._retry_slots = asyncio.Semaphore(_CONCURRENT_RETRIES)
        self._lanes: dict[str, Lane] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failure: Failure | None = None
        """Why the dispatcher's last try failed; None after a success."""
        self._dispatching: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._listed: _Listing | None = None
        self._confirmed: _Confirmed | None = None
        self._gather_seconds = gather_seconds
        self._backlog_taken = asyncio.Event()
        """Set while the last `take` returned all that was available."""
        self._backlog_taken.set()
        self._places = Places(lanes_at_once, PLACE_SECONDS)
        self._places_of_failed = Places(_PLACES_OF_FAILED, PLACE_SECONDS)
        self._batches = ReadersWriterLock()
        """Shared by the batches in progress; exclusive while the source takes a new instance."""
        self._listing_fault: str | None = None
        self._unreadable_folders: Mapping[str, str] = {}
        self._unreadable_scopes: dict[str, str] = {}
        self._failing_passes: set[str] = set()
        self._followed: set[str] = set()
        """Scopes that had a pass over their live tree."""

    @property
    def lanes(self) -> Sequence[Lane]:
        """All lanes, for readiness and status."""
        return tuple(self._lanes.values())

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Folders that cannot be listed and scopes whose pointer cannot be read, with the reason.

        An empty name: the bucket itself cannot be listed.
        """
        bucket = {} if self._listing_fault is None else {"": self._listing_fault}
        return {**bucket, **self._unreadable_folders, **self._unreadable_scopes}

    @property
    def dispatcher_ended(self) -> bool:
        """Whether the task that dispatches events has ended; only a restart starts another one."""
        return self._dispatching is not None and self._dispatching.done()

    async def run(self, stop: Stop) -> None:
        """Work until `stop`, then drain: finish the batches in progress and start no new ones."""
        async with asyncio.TaskGroup() as group:
            self._dispatching = group.create_task(self._dispatch(group, stop))
            without_batches = [self._dispatching, group.create_task(self._reconcile_periodically())]
            await stop.wait()
            for task in without_batches:
                task.cancel()
            while any(lane.busy for lane in self.lanes):
                self._tried.clear()
                await self._tried.wait()
            for task in self._tasks.values():
                task.cancel()

    # -- dispatching events to lanes

    async def _dispatch(self, group: asyncio.TaskGroup, stop: Stop) -> None:
        while True:
            # In a method of its own, so that no event is kept while the next ones are awaited.
            await self._dispatch_next(group, stop)

    async def _dispatch_next(self, group: asyncio.TaskGroup, stop: Stop) -> None:
        taken = await self._retry_until_done(
            "taking the next events", partial(self._source.take, batches.MOST_EVENTS), self
        )
        if taken.more:
            self._backlog_taken.clear()
        else:
            self._backlog_taken.set()
        pending = deque(map(_Pending, taken.deliveries))
        while pending:
            await self._retry_until_done(
                "dispatching events", partial(self._dispatch_some, pending, group, stop), self
            )

    async def _dispatch_some(
        self, pending: deque[_Pending], group: asyncio.TaskGroup, stop: Stop
    ) -> None:
        """Assign the first events to their scopes, and extend the lanes of these scopes.

        They leave `pending`. A listing of the scopes is made for the first event alone, so that it
        delays none of those before it.
        """
        extended: dict[Lane, None] = {}  # in order
        unassigned: dict[Position, Sequence[str]] = {}
        dispatched = 0
        for item in pending:
            delivery = item.delivery
            if item.scopes is None:
                confirmed = self._confirmed_for(delivery)
                if confirmed is None and dispatched:
                    break
                item.scopes = self._all_scopes(confirmed or await self._confirm(pending), item)
            if delivery.scopes is None:
                unassigned[delivery.position] = item.scopes
            # Before the next event, because one without scopes goes to every lane before it.
            for lane in [self._lane(name, group, stop) for name in item.scopes]:
                if unassigned:
                    # Its lane sees the event when those before it are assigned.
                    lane.expect()
                    extended[lane] = None
                else:
                    lane.extend(self._runtime.monotonic())
            dispatched += 1
        if unassigned:
            await self._source.assign(unassigned)
        for lane in extended:
            lane.extend(self._runtime.monotonic())
        done = [pending.popleft() for _ in range(dispatched)]
        if nowhere := [item.delivery.event.id for item in done if not item.scopes]:
            self._observer.dispatched_to_no_scope(nowhere)

    def _lane(self, name: str, group: asyncio.TaskGroup, stop: Stop) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(Scope.parse(name))
            self._tasks[name] = group.create_task(self._work(lane, stop))
        return lane

    # -- listing scopes

    def _all_scopes(self, confirmed: _Confirmed, item: _Pending) -> tuple[str, ...]:
        """The scopes of the bucket when an event was accepted, and those that may be created yet.

        The listing began after the event was accepted. A lane without a scope in the bucket is
        kept only if an event waited in it when the listing began. That event may create the scope,
        so every lane counts. If it does not, the lane ignores the event. To be computed once for
        each event: after a failed try there are lanes of later events, too.

        Scopes that certainly do not have the model of the event are left out.
        """
        if self._unreadable_folders:
            log.warning(
                "event goes only to scopes that are known: folders cannot be read",
                event_id=item.delivery.event.id,
                folders=sorted(self._unreadable_folders),
            )
        names = {*confirmed.listing.scopes, *self._lanes}
        if item.model is not None:
            names -= self._lacking(confirmed, item.model) - self._busy()
        return tuple(sorted(names))

    def _busy(self) -> AbstractSet[str]:
        """The scopes in which an event waits: it may add a model."""
        return {name for name, lane in self._lanes.items() if lane.idle_since is None}

    def _lacking(self, confirmed: _Confirmed, model: str) -> AbstractSet[str]:
        """The scopes that did not have a model at a time after the listing began, and so after the
        event was accepted (ADR 34).

        An entry that has changed since does not count: an earlier event may have added the model.
        """
        index = self._pipeline.index
        if confirmed.index_changes != index.changes:
            confirmed.index_changes = index.changes
            confirmed.unchanged = [
                (name, entry.models)
                for name, entry in confirmed.current.items()
                if index.get(name) is entry
            ]
        return {name for name, models in confirmed.unchanged if model not in models}

    async def _confirm(self, pending: Sequence[_Pending]) -> _Confirmed:
        """A listing for the first event, with the scopes that may lack the models of these events
        and whose pointers are current.
        """
        listing = self._listing_for(pending[0].delivery) or await self._list()
        models = {item.model for item in pending if item.scopes is None} - {None}
        entries: dict[Scope, Indexed] = {}
        for name in sorted(listing.scopes - self._busy()):
            entry = self._pipeline.index.get(name)
            if entry is not None and not entry.has_all(models):
                entries[Scope.parse(name)] = entry
        current: dict[str, Indexed] = {}

        async def confirm(scopes: Sequence[Scope]) -> None:
            pointers = {
                scope: (entries[scope].version, entries[scope].sequence) for scope in scopes
            }
            with suppress(StoreError, PublishingError):
                for scope in await self._reader.still_current(pointers):
                    current[str(scope)] = entries[scope]

        # A scope that is not read in time is not left out, nor are those of the same call.
        scopes, size = list(entries), self._reader.pointers_in_one_call
        calls = [scopes[at : at + size] for at in range(0, len(scopes), size)]
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONFIRM_SECONDS):
                limit = _CONCURRENT_READS if size == 1 else _CONCURRENT_CALLS
                await concurrently(confirm, calls, limit=limit)
        self._confirmed = _Confirmed(listing, current)
        return self._confirmed

    def _confirmed_for(self, delivery: Delivery) -> _Confirmed | None:
        confirmed = self._confirmed
        if confirmed is None or not self._is_recent(confirmed.listing, delivery):
            return None
        return confirmed

    def _listing_for(self, delivery: Delivery) -> _Listing | None:
        listing = self._listed
        return listing if listing is not None and self._is_recent(listing, delivery) else None

    def _is_recent(self, listing: _Listing, delivery: Delivery) -> bool:
        """Whether a listing is recent and began after the event was accepted."""
        seconds = self._runtime.monotonic() - listing.began
        by_the_clock = (self._runtime.now() - listing.began_at).total_seconds()
        if seconds > _LISTING_SECONDS or by_the_clock < seconds - _CLOCK_STEP_SECONDS:
            # The clock was set back: times of events from before and after cannot be compared.
            return False
        return listing.began_at >= datetime.fromisoformat(delivery.accepted_at)

    async def _list(self) -> _Listing:
        """The scopes that the bucket has now.

        In a folder that cannot be listed, the scopes known from the last listing and from the
        source count.
        """
        began_at, began = self._runtime.now(), self._runtime.monotonic()
        # With the scopes of a wrong bucket, an event would miss scopes of the right one.
        scopes = await self._bucket.reading(self._scopes)
        names, unreadable = set(map(str, scopes)), dict(scopes.unreadable)
        if unreadable:
            known = await self._source.published_scopes() | (
                self._listed.scopes if self._listed else frozenset()
            )
            names |= {name for name in known if name.partition("/")[0] in unreadable}
        if unreadable.keys() - self._unreadable_folders.keys():
            log.warning(
                "folders of the bucket cannot be read; every other scope continues",
                folders=unreadable,
            )
        self._unreadable_folders = unreadable
        self._listed = _Listing(began_at, began, frozenset(names))
        self._remove_lanes(self._listed)
        return self._listed

    async def _scopes(self) -> Scopes:
        try:
            scopes = await self._reader.scopes()
        except Exception as error:
            self._listing_fault = f"the bucket cannot be listed: {reason_of(error)}"
            raise
        self._listing_fault = None
        return scopes

    def _remove_lanes(self, listing: _Listing) -> None:
        """Remove lanes whose events had outcomes before a listing began that lacks their scope."""
        for lane in self.lanes:
            name = str(lane.scope)
            if (
                name in listing.scopes
                or lane.idle_since is None
                or lane.idle_since >= listing.began
            ):
                continue
            del self._lanes[name]
            self._tasks.pop(name).cancel()
            self._forget(lane.scope)
        for name in self._followed - listing.scopes - self._lanes.keys():
            self._forget(Scope.parse(name))

    def _forget(self, scope: Scope) -> None:
        """Drop all state of a scope that the bucket no longer has and for which no event waits."""
        self._followed.discard(str(scope))
        self._failing_passes.discard(str(scope))
        self._unreadable_scopes.pop(str(scope), None)
        self._pipeline.forget(scope)
        self._observer.removed(scope)

    # -- one lane

    async def _work(self, lane: Lane, stop: Stop) -> None:
        while not stop.is_set:
            await lane.wait_for_event()
            await self._retry_until_done(str(lane.scope), partial(self._empty, lane, stop), lane)

    async def _empty(self, lane: Lane, stop: Stop) -> None:
        """Process batches until no event waits."""
        while not stop.is_set and await self._next_batch(lane, stop):
            pass

    async def _next_batch(self, lane: Lane, stop: Stop) -> bool:
        """Process one batch when there is a place for it; whether another may follow."""
        await self._gather(lane)
        is_ordinary = lane.failure is None or self._places.has_free
        places = self._places if is_ordinary else self._places_of_failed
        async with places.hold():
            if stop.is_set:
                return False
            lane.busy = True
            try:
                had_events = await self._process_batch(lane)
                if not had_events:
                    lane.note_idle(self._runtime.monotonic())
            finally:
                lane.busy = False
                self._tried.set()
        return had_events

    async def _gather(self, lane: Lane) -> None:
        """Wait until a backlog is taken, at most `gather_seconds` after the lane's first event.

        A larger batch costs hardly more. Without a backlog this returns at once.
        """
        if lane.waiting_since is None:
            return
        left = lane.waiting_since + self._gather_seconds - self._runtime.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(left, 0)):
                await self._backlog_taken.wait()

    async def _process_batch(self, lane: Lane) -> bool:
        """Process one batch; whether there was one."""
        with bound(scope=str(lane.scope)):
            await self._bucket.confirm()
            try:
                had_events = await self._process_waiting(lane)
            except InstanceShared as copied:
                await self._compare(lane, copied.passed, unaccounted=True)
                # The events come again under the new instance.
                return True
            lane.failure = None
            # Events that change nothing cost no pass; the timer passes over every live tree.
            if had_events and self._pipeline.needs_pass(lane.scope):
                await self._reconcile(lane.scope)
        return had_events

    async def _process_waiting(self, lane: Lane) -> bool:
        async with self._batches.shared():
            waiting = await self._source.waiting(str(lane.scope), batches.MOST_EVENTS)
            instances = {delivery.position.instance for delivery in waiting}
            is_compared = instances <= lane.compared
            if waiting and is_compared:
                began = self._runtime.monotonic()
                await self._pipeline.process(lane.scope, waiting)
                self._observer.processed(self._runtime.monotonic() - began)
        if not is_compared:
            # Outside the batch, because a new instance waits for the end of all batches.
            read = await self._reader.pointer(lane.scope)
            await self._compare(lane, read.pointer.positions)
            lane.compared |= instances
        return bool(waiting)

    async def _compare(
        self, lane: Lane, positions: Mapping[str, int], *, unaccounted: bool = False
    ) -> None:
        """Have the source take a new instance if it was restored or copied (protocol 2).

        Batches in progress have positions of the old instance. They would commit them but settle
        no event, so the source waits for their end.
        """
        difference = await self._source.compare(
            str(lane.scope), positions, self._batches.exclusive, unaccounted=unaccounted
        )
        if difference is not None:
            log.warning("the source does not match the bucket", reason=difference)

    async def _reconcile(self, scope: Scope) -> None:
        """One pass over the live tree. If it fails, the timer repeats it; events stay settled."""
        unreadable = None
        self._followed.add(str(scope))
        try:
            async with asyncio.timeout(self._pass_seconds) as limit:
                await self._pipeline.reconcile(scope)
        except Exception as error:  # noqa: BLE001  # the events are settled
            if limit.expired():
                reason = f"the pass over the live tree was stopped after {self._pass_seconds:g} s"
                self._observer.unreconciled(scope, reason)
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
        """Why the pointer cannot be read; None if it can: then only the live tree is at fault."""
        try:
            await self._reader.pointer(scope)
        except Exception as error:  # noqa: BLE001  # any error is this scope's alone
            return reason_of(error)
        return None

    async def _retry_until_done(
        self, what: str, work: Callable[[], Awaitable[T]], waits: "Lane | Worker"
    ) -> T:
        """Try until it succeeds. Each failure is logged and set on the lane or worker."""
        failed = partial(self._failed, what, waits)
        result = await retry(work, Exception, self._backoff, self._runtime, failed=failed)
        waits.failure = None
        return result

    async def _failed(self, what: str, waits: "Lane | Worker", error: Exception) -> None:
        failure = failures.classify(error)
        # A filter on the key `scope` finds a scope's failures beside its successes.
        about = {"scope" if isinstance(waits, Lane) else "waits": what}
        if failure.reaction.needs_operator:
            # The trace of a repeated failure is logged once.
            trace = error if failure != waits.failure else None
            log.error(
                "waits for an operator, tried again",
                **about,
                reason=failure.reason,
                error=failure.error,
                exc_info=trace,
            )
        else:
            log.warning("waits, tried again", **about, reason=failure.reason, error=failure.error)
        waits.failure = failure
        if isinstance(waits, Lane):
            await self._note(waits, failure)
            self._observer.failed(str(waits.scope))

    async def _note(self, lane: Lane, failure: Failure) -> None:
        try:
            waiting = await self._source.waiting(str(lane.scope), batches.MOST_EVENTS)
            await self._source.note_failure(
                str(lane.scope), [delivery.position for delivery in waiting], failure.reason
            )
        except Exception as unnoted:  # noqa: BLE001  # the failure itself is logged
            log.warning("failure not noted in the journal", error=str(unnoted))

    # -- timers

    async def _reconcile_periodically(self) -> None:
        """Pass over all live trees, also at the start.

        A crash after a commit leaves a live tree out of date, and no further event would update it.
        """
        async with asyncio.TaskGroup() as group:
            await every(
                self._live_tree_seconds,
                self._runtime,
                partial(self._begin_passes, group),
                jitter=True,
            )

    async def _begin_passes(self, group: asyncio.TaskGroup) -> None:
        """Start a pass for each scope without waiting for its end: no scope waits for another."""
        try:
            scopes = (await self._list()).scopes
            for name in sorted(scopes - self._passing):
                self._passing.add(name)
                group.create_task(self._pass(name))
        except Exception as error:  # noqa: BLE001  # the next round asks again
            log.warning("bucket not listed", error=str(error))

    async def _pass(self, name: str) -> None:
        try:
            async with self._retry_slots if name in self._failing_passes else self._pass_slots:
                await self._reconcile(Scope.parse(name))
        finally:
            self._passing.discard(name)
