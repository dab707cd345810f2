"""A whole daemon without its process: a real journal, pipeline and worker, any store.

Several scenes may share one store: several daemons on one bucket. Closing a scene and opening it
again on the same journal file is a restart.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.changes import interpret
from daemon.lifecycle import Stop
from daemon.pipeline import Pipeline
from daemon.publishing.bucket_identity import ANY_BUCKET, BucketCheck, BucketIdentity
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.operator_commands import Operations
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.rendering import Rendering
from daemon.retry import Backoff
from daemon.stores.port import ObjectStore
from daemon.worker import Worker
from events.journal import Journal
from events.model import (
    BUNDLE_STATE_CREATED,
    MODEL_VERSION_CREATED,
    MODEL_VERSION_UPDATED,
    ROLLBACK_REQUESTED,
    Event,
    Identity,
    Outcome,
)
from events.records import Accepted, Arrival
from events.source import Delivery
from renderers import gate
from renderers.bundle import Customisation, Renderer
from renderers.limits import DEFAULT_LIMITS, BundleLimits
from renderers.pinning import Movable, Policy
from renderers.values import Scope
from tests.builders import composition_document, golden_document, model_document
from tests.builders_runtime import ThreadRuntime
from tests.support.journals import next_of

GOLDEN = Scope("visual-anomaly", "core-versions")
SOURCE = "https://registry.example.com/"


def event(event_id: str, kind: str, data: dict[str, Any]) -> Event:
    return Event(id=event_id, source=SOURCE, type=kind, data=data)


def state_event(
    revision: int,
    *,
    state: str | None = None,
    event_id: str | None = None,
    scope: Scope = GOLDEN,
    **changes: Any,
) -> Event:
    """A state of three models; `version` of model 101 selects the composition."""
    document = (
        golden_document()
        if scope == GOLDEN
        else composition_document(3, bundle=scope.bundle, target=scope.target)
    )
    version = changes.pop("version", None)
    if version is not None:
        document["models"][0] = document["models"][0] | {
            "version": version,
            "serving_version": int(version),
        }
    state = state or f"state-{revision}"
    data = document | {"state": {"id": state, "revision": revision}} | changes
    return event(event_id or f"{scope}/{state}", BUNDLE_STATE_CREATED, data)


def model_event(
    event_id: str,
    model_id: str = "101",
    version: str = "9",
    *,
    updated: bool = False,
    scopes: Sequence[Scope] = (),
    **fields: Any,
) -> Event:
    """A new version of a model; complete if it has `serving` or `artifact` among its fields."""
    data: dict[str, Any] = {"model": {"id": model_id, "version": version} | fields}
    if scopes:
        data["bundles"] = [{"name": scope.bundle, "target": scope.target} for scope in scopes]
    return event(event_id, MODEL_VERSION_UPDATED if updated else MODEL_VERSION_CREATED, data)


def complete_model_event(
    event_id: str, model_id: str, *, scopes: Sequence[Scope] = (), version: str = "1"
) -> Event:
    """A model that may be new to a scope."""
    document = model_document(model_id, version=version)
    document.pop("id"), document.pop("version")
    return model_event(event_id, model_id, version, scopes=scopes, **document)


def rollback_event(
    event_id: str, state: str, *, expected: str | None = None, scope: Scope = GOLDEN
) -> Event:
    data: dict[str, Any] = {
        "bundle": {"name": scope.bundle, "target": scope.target},
        "to": {"state_id": state},
    }
    if expected:
        data["expected_state_id"] = expected
    return event(event_id, ROLLBACK_REQUESTED, data)


@dataclass
class Watcher:
    """Observes pipeline and lanes, and remembers."""

    settled_outcomes: list[tuple[str, str, Outcome]] = field(default_factory=list)
    changes: list[Pointer] = field(default_factory=list)
    conflicts: int = 0
    failures: int = 0
    failed_lanes: set[str] = field(default_factory=set)
    crowds: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    unpinned_states: list[tuple[str, Sequence[Movable]]] = field(default_factory=list)
    passes: list[FinishedPass | UnfinishedPass] = field(default_factory=list)
    failed_passes: list[tuple[Scope, str]] = field(default_factory=list)
    removed_lanes: list[Scope] = field(default_factory=list)
    to_no_scope: list[list[str]] = field(default_factory=list)
    _something: asyncio.Event = field(default_factory=asyncio.Event)

    async def saw(self, condition: Callable[[], object], limit: float = 30) -> None:
        """Returns once the condition holds. It is checked after each observation."""
        async with asyncio.timeout(limit):
            while not condition():
                self._something.clear()
                await self._something.wait()

    def published(
        self, scope: Scope, read: PointerRead, publications: Sequence[Publication]
    ) -> None:
        self.changes.append(read.pointer)
        self._something.set()

    def lost(self, scope: Scope) -> None:
        self.conflicts += 1
        self._something.set()

    def refused_by_gate(self, scope: Scope, state: str, reason: str) -> None:
        self.refusals.append(state)
        self._something.set()

    def crowded(self, scope: Scope, models: int) -> None:
        self.crowds.append(models)

    def unpinned(self, scope: Scope, state: str, found: Sequence[Movable]) -> None:
        self.unpinned_states.append((state, found))

    def settled(self, scope: Scope, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        self.settled_outcomes += [
            (str(scope), delivery.event.id, outcome) for delivery, outcome in outcomes
        ]
        self._something.set()

    def reconciled(self, scope: Scope, result: FinishedPass | UnfinishedPass) -> None:
        self.passes.append(result)
        self._something.set()

    def processed(self, seconds: float) -> None:
        pass

    def unreconciled(self, scope: Scope, reason: str) -> None:
        self.failed_passes.append((scope, reason))
        self._something.set()

    def removed(self, scope: Scope) -> None:
        self.removed_lanes.append(scope)
        self._something.set()

    def dispatched_to_no_scope(self, event_ids: Sequence[str]) -> None:
        self.to_no_scope.append(list(event_ids))
        self._something.set()

    def failed(self, scope: str) -> None:
        self.failures += 1
        self.failed_lanes.add(scope)
        self._something.set()


@dataclass
class Scene:
    """One daemon's parts on one journal and one store."""

    journal: Journal
    store: ObjectStore
    reader: Reader
    publisher: Publisher
    live_tree: LiveTree
    operations: Operations
    pipeline: Pipeline
    watcher: Watcher
    runtime: ThreadRuntime
    bucket: BucketCheck = ANY_BUCKET

    async def accept(self, *events: Event) -> list[Accepted]:
        """Like the HTTP intake: validated, then durable."""
        arrivals = []
        for event in events:
            change = interpret(event)
            arrivals.append(
                Arrival(
                    event, Identity("http", event.source, event.id), change.digest, change.scopes
                )
            )
        return await self.journal.append(arrivals)

    async def work(self, limit: float = 20, *, look_seconds: float = 0.005) -> None:
        """Run a worker until nothing waits in the journal, which is looked at so often."""
        stop = Stop()
        worker = worker_of(self)
        async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
            group.create_task(worker.run(stop))
            while (await self.journal.backlog()).events:  # noqa: ASYNC110  # the journal sends no event
                await asyncio.sleep(look_seconds)
            stop.request("done")

    async def send(self, *events: Event) -> list[Outcome]:
        """Accept and process events. Returns the outcome of each in its first scope."""
        await self.accept(*events)
        await self.work()
        return [(await self.outcomes(event.id))[0] for event in events]

    async def batch(self, *events: Event, scope: Scope = GOLDEN) -> list[Outcome]:
        """The same, but all of them wait in the lane before its first batch is taken."""
        await self.accept(*events)
        waiting = []
        for _ in events:
            delivery = await next_of(self.journal)
            if delivery.scopes is None:
                await self.journal.assign({delivery.position: [str(scope)]})
            waiting.append(delivery)
        while waiting:
            done = await self.pipeline.process(scope, waiting)
            waiting = [item for item in waiting if item.position not in done]
        await self.pipeline.reconcile(scope)
        return [(await self.outcomes(event.id))[0] for event in events]

    async def outcomes(self, event_id: str) -> list[Outcome]:
        """By scope, of the last event with this id."""
        return [
            lane.outcome
            for lane in (await self.journal.find(event_id))[-1].lanes
            if lane.outcome is not None
        ]

    async def pointer(self, scope: Scope = GOLDEN) -> Pointer:
        return (await self.reader.pointer(scope)).pointer


BACKOFF = Backoff(first=0.01, longest=0.05)


def worker_of(
    scene: Scene, *, backoff: Backoff = BACKOFF, live_tree_seconds: float = 3600.0, **options: Any
) -> Worker:
    """A worker that has not started. Its timer of the live trees does not disturb a test."""
    return Worker(
        source=scene.journal,
        reader=scene.reader,
        pipeline=scene.pipeline,
        runtime=scene.runtime,
        observer=scene.watcher,
        backoff=backoff,
        live_tree_seconds=live_tree_seconds,
        bucket=scene.bucket,
        **options,
    )


@contextlib.asynccontextmanager
async def open_scene(
    path: Path,
    store: ObjectStore,
    *,
    check: Callable[..., None] = gate.check,
    renderer: Renderer | None = None,
    limits: BundleLimits = DEFAULT_LIMITS,
    pinning: Policy = "off",
    remembers_bucket: bool = False,
    watcher: Watcher | None = None,
) -> AsyncIterator[Scene]:
    with ThreadRuntime() as runtime:
        journal = await Journal.open(
            path, clock=runtime.now, token=runtime.random_id, run=True, poll=0.05
        )
        async with journal:
            bucket: BucketCheck = ANY_BUCKET
            if remembers_bucket:
                bucket = BucketIdentity(store, journal, runtime, BACKOFF)
            reader = Reader(store, runtime, bucket=bucket)
            publisher = Publisher(store, reader, runtime)
            live_tree = LiveTree(store, reader, runtime)
            watcher = watcher or Watcher()
            pipeline = Pipeline(
                source=journal,
                reader=reader,
                publisher=publisher,
                live_tree=live_tree,
                rendering=Rendering(
                    renderer or Renderer(), check, lambda _scope: Customisation(), limits, pinning
                ),
                runtime=runtime,
                observer=watcher,
                writer="test",
                bucket=bucket,
            )
            operations = Operations(reader, publisher, live_tree)
            parts = (
                journal,
                store,
                reader,
                publisher,
                live_tree,
                operations,
                pipeline,
                watcher,
                runtime,
            )
            yield Scene(*parts, bucket)
