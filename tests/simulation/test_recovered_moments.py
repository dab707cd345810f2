"""`recover` at many moments of simulated worlds: on a copy of the bucket after a pointer's change.

A healthy scope is not changed, whatever objects losing and killed writers have left beside it. A
scope whose pointer is lost gets a pointer in which every id and every revision of an explicit state
has one composition (protocol 3).
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from daemon.publishing import layout, protocol
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.maintenance.recovery import Recoverer, Recovery
from daemon.publishing.maintenance.recovery_rules import RecoveryOptions
from daemon.publishing.pointer import Pointer
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import Reader
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.simulation.bucket import Held
from tests.simulation.scenario import scenario_of
from tests.simulation.world import World, _settings, sealed
from tests.support.memory_store import MemoryStore

PARTS, WORLDS = 8, 25
EVERY = 3
"""One of this many changes of a pointer is tested."""
Objects = dict[str, Held]


class _Watched(World):
    """Keeps the content of the bucket after changes of pointers."""

    def __init__(self, seed: str) -> None:
        # A short history makes chunks, and with them chunks of writers that lost.
        super().__init__(replace(scenario_of(seed), short_history=True), traced=False)
        self.moments: list[tuple[str, Objects]] = []
        self._changes = 0

    def _changed(self, change: Any) -> None:
        super()._changed(change)
        name = PurePosixPath(change.key)
        if name.name == "pointer.json" and change.after is not None:
            self._changes += 1
            if self._changes % EVERY == 0:
                self.moments.append((str(name.parent), dict(self.bucket.objects)))


def recovered(scope: Scope, objects: Objects) -> Recovery:
    async def run() -> Recovery:
        runtime = InlineRuntime()
        store = MemoryStore(runtime)
        for key, held in objects.items():
            await store.create(key, held.content)
        reader = Reader(store, runtime)
        publisher = Publisher(store, reader, runtime)
        recoverer = Recoverer(store, reader, publisher, LiveTree(store, reader, runtime))
        return await recoverer.preview(scope, RecoveryOptions(), "ann", "why")

    return asyncio.run(run())


def moments(world: _Watched) -> Iterator[tuple[Scope, Objects]]:
    for name, objects in world.moments:
        yield Scope.parse(name), objects


def triples(publications: Any) -> set[tuple[str, int, str]]:
    return {
        (p.state, p.revision.producer, p.composition_digest)
        for p in publications
        if p.kind == "explicit"
    }


def contradictions(one: set[tuple[str, int, str]], other: set[tuple[str, int, str]]) -> list[Any]:
    return [(a, b) for a in one for b in other if a != b and (a[0] == b[0] or a[1] == b[1])]


def committed(pointer: Pointer) -> set[tuple[str, int, str]]:
    """Of explicit states, as far as the pointer itself names them."""
    return triples(pointer.retained) | set(protocol.used_up(pointer.history))


@pytest.mark.parametrize("part", range(PARTS))
def test_a_healthy_scope_is_unchanged_and_no_id_or_number_gets_two_compositions(
    part: int,
) -> None:
    seen = 0
    for number in range(WORLDS):
        world = _Watched(f"moments-{part * WORLDS + number}")
        with _settings(world.scenario, world):
            with sealed():
                asyncio.set_event_loop(None)
                world.loop.run_until_complete(world.play())
                world.loop.finish()
            for scope, objects in moments(world):
                seen += 1
                _check(scope, objects)
    # A burst that waits becomes one change of the pointer (ADR 31), so many worlds have one moment.
    assert seen > WORLDS // 2


def _check(scope: Scope, objects: Objects) -> None:
    healthy = recovered(scope, objects)
    assert healthy.recovered is None, healthy.recovered and healthy.recovered.steps
    lost = {key: held for key, held in objects.items() if key != layout.pointer(scope)}
    report = recovered(scope, lost)
    if not report.remains.was_published:
        # Like during the first publication: nothing shows that this one was committed.
        assert (report.recovered, len(report.remains.unreferenced_uploads)) == (
            None,
            len(report.remains.found),
        )
        return
    assert report.recovered is not None
    now = triples(report.recovered.pointer.retained)
    assert not contradictions(now, now)
    # Publications that are committed and whole in the bucket. Those that contradict them are not
    # retained.
    before = Pointer.model_validate(json.loads(objects[layout.pointer(scope)].body)["signed"])
    whole = triples(found_item.publication for found_item in report.remains.found)
    assert not contradictions(now, committed(before) & whole)
