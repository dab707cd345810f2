"""A backlog of small model events, published by one process on a store in memory.

All events are accepted before the worker starts. The log goes to a file, as in a daemon. The floor
does what no daemon could leave out: it reads the JSON of each event, interprets and folds it, and
renders and checks each scope once.
"""

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from daemon import folding
from daemon.changes import ModelVersionChanged, StateCreated, interpret
from daemon.folding import DesiredState
from daemon.reporting import Reporter
from daemon.telemetry import Metrics, configure_logging
from events.model import Event, Identity, Position
from events.source import Delivery
from renderers import gate
from renderers.bundle import Customisation, Renderer
from renderers.checked import render_checked
from renderers.composition import Stamp
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore
from tests.support.scenes import Scene, Watcher, model_event, open_scene, state_event

_APPENDED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Drained:
    """What a backlog cost."""

    publications: int
    cpu: float
    """Seconds of the process, of all threads."""
    wall: float
    floor: float
    """Seconds of CPU."""


class _Reported(Watcher):
    """Logs and counts as a daemon does."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def published(self, scope: Scope, read: Any, publications: Sequence[Any]) -> None:
        self._reporter.published(scope, read, publications)
        super().published(scope, read, publications)

    def settled(self, scope: Scope, outcomes: Sequence[Any]) -> None:
        self._reporter.settled(scope, outcomes)
        super().settled(scope, outcomes)

    def reconciled(self, scope: Scope, result: Any) -> None:
        self._reporter.reconciled(scope, result)
        super().reconciled(scope, result)


def drain(scopes: int, events: int) -> Drained:
    """Accept `events` for so many scopes, then publish them."""
    names = [Scope("bundle", f"target-{number}") for number in range(scopes)]
    states = [state_event(1, scope=name) for name in names]
    backlog = [
        model_event(f"m{number}", "101", str(100 + number), scopes=[names[number % scopes]])
        for number in range(events)
    ]
    with tempfile.TemporaryDirectory() as folder:
        publications, cpu, wall = asyncio.run(_published(Path(folder), states, backlog))
    begun = time.process_time()
    _floor(states, backlog, names)
    return Drained(publications, cpu, wall, time.process_time() - begun)


async def _published(
    folder: Path, states: Sequence[Event], backlog: Sequence[Event]
) -> tuple[int, float, float]:
    reporter = Reporter(Metrics.create("benchmark", "0"), InlineRuntime())
    watcher = _Reported(reporter)
    with _log_to(folder / "daemon.log"):
        store = MemoryStore(InlineRuntime())
        async with open_scene(folder / "journal.db", store, watcher=watcher) as scene:
            await scene.accept(*states)
            await scene.work(limit=600)
            for at in range(0, len(backlog), _APPENDED_AT_ONCE):
                await scene.accept(*backlog[at : at + _APPENDED_AT_ONCE])
            return await _drained(scene)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """The log of a daemon goes to a file within the block."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    with path.open("w") as stream:
        configure_logging("json", "info", stream)
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            structlog.configure(**before)


async def _drained(scene: Scene) -> tuple[int, float, float]:
    before, cpu, wall = len(scene.watcher.changes), time.process_time(), time.perf_counter()
    # As often as a daemon looks: the query reads all that waits.
    await scene.work(limit=3_600, look_seconds=1)
    return (
        len(scene.watcher.changes) - before,
        time.process_time() - cpu,
        time.perf_counter() - wall,
    )


def _floor(states: Sequence[Event], backlog: Sequence[Event], names: Sequence[Scope]) -> None:
    renderer, own = Renderer(), Customisation()
    for at, (state, name) in enumerate(zip(states, names, strict=True)):
        batch = []
        for offset, event in enumerate((state, *backlog[at :: len(names)]), 1):
            json.loads(event.structured())
            change = interpret(event)
            assert isinstance(change, StateCreated | ModelVersionChanged)
            identity = Identity("http", event.source, event.id)
            position = Position("journal:floor", offset)
            batch.append((Delivery(event, identity, change.digest, position, ""), change))
        plan = folding.plan(DesiredState(None), batch)
        planned = plan.publications[-1]
        assert planned.composition.scope == name
        render_checked(
            planned.composition,
            Stamp(planned.state, str(planned.revision)),
            own,
            renderer=renderer,
            check=gate.check,
        )
