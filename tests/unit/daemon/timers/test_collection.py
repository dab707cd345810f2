"""The collection timer: which scopes it collects, how often, and how it handles refusals and
failures.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.publishing import layout
from daemon.publishing.maintenance.garbage_collector import BOTH, GarbageCollector
from daemon.publishing.maintenance.retention_rules import RetentionPolicy
from daemon.stores.errors import StoreRefused
from daemon.stores.port import Content, ObjectStore, Version
from daemon.timers.collection import CollectionTimer
from renderers.values import Scope
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import MemoryStore

HOUR = 3600


class Rounds(InlineRuntime):
    """Stops the timer before the wait after the last round."""

    def __init__(self, rounds: int, between: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__("timer")
        self.waits: list[float] = []
        self._rounds = rounds
        self._between = between
        self.before_each_wait: Callable[[], object] = lambda: None

    async def sleep(self, seconds: float) -> None:
        if seconds >= HOUR:
            self.before_each_wait()
            if len(self.waits) == self._rounds:
                raise asyncio.CancelledError
            if self.waits and self._between:
                await self._between()
            self.waits.append(seconds)
        await super().sleep(seconds)


async def grown(store: ObjectStore, runtime: InlineRuntime) -> None:
    bucket = Bucket(store, runtime)
    await bucket.publish(make_state(1), make_state(2))
    runtime.seconds += 48 * HOUR


async def run(
    store: ObjectStore,
    runtime: Rounds,
    *,
    hours: float = 6,
    refused: list[int] | None = None,
    failing: list[Mapping[str, str]] | None = None,
) -> Sequence[MutableMapping[str, Any]]:
    """The log lines; `refused` and `failing` get what was reported after each round."""
    bucket = Bucket(store, runtime)
    timer = CollectionTimer(
        collector=GarbageCollector(
            store, bucket.reader, bucket.publisher, runtime, RetentionPolicy(newest=1, days=0)
        ),
        reader=bucket.reader,
        runtime=runtime,
        writer="rebundle@test",
        hours=hours,
        parts=BOTH,
        refused=(refused if refused is not None else []).append,
    )
    with capture_logs() as logs, contextlib.suppress(asyncio.CancelledError):
        runtime.before_each_wait = lambda: (failing if failing is not None else []).append(
            timer.failing
        )
        await timer.run()
    return logs


async def states(store: ObjectStore) -> set[str]:
    return {entry.key.split("/")[3] for entry in await store.scan(layout.states(SCOPE))}


def test_every_round_waits_first_and_collects_each_scope() -> None:
    async def scenario() -> None:
        runtime = Rounds(1)
        store = MemoryStore(runtime)
        await grown(store, runtime)
        logs = await run(store, runtime)
        assert await states(store) == {"state-2"}
        assert runtime.waits == [6 * HOUR]
        [logged] = logs
        assert (logged["event"], logged["released"], logged["deleted"], logged["scope"]) == (
            "collected",
            1,
            1,
            str(SCOPE),
        )
        entry = (await Bucket(store, runtime).pointer()).history[-1]
        assert (entry.kind, entry.by, entry.reason) == ("gc", "rebundle@test", "retention")

    asyncio.run(scenario())


def test_a_round_without_anything_to_collect_logs_and_writes_nothing() -> None:
    async def scenario() -> None:
        runtime = Rounds(3)
        store = MemoryStore(runtime)
        await Bucket(store, runtime).publish(make_state(1))
        watched = FaultyStore(store)
        assert await run(watched, runtime) == []
        assert (watched.writes, len(runtime.waits)) == ([], 3)

    asyncio.run(scenario())


def test_without_hours_it_never_collects() -> None:
    async def scenario() -> None:
        runtime = Rounds(1)
        store = MemoryStore(runtime)
        await grown(store, runtime)
        assert await run(store, runtime, hours=0) == []
        assert (runtime.waits, await states(store)) == ([], {"state-1", "state-2"})

    asyncio.run(scenario())


class MayNotDelete(FaultyStore):
    """Refuses to delete states, `refusals` times."""

    refusals = 1000

    async def delete(self, key: str, version: Version) -> None:
        if "/states/" in key and self.refusals:
            self.refusals -= 1
            raise StoreRefused(f"no permission for {key}")
        await super().delete(key, version)


def test_a_missing_delete_permission_is_logged_once_per_round_and_releases_continue() -> None:
    async def scenario() -> None:
        async def publish() -> None:
            await Bucket(memory, runtime).publish(make_state(2 + len(runtime.waits)))
            runtime.seconds += 48 * HOUR

        runtime = Rounds(3, publish)
        memory = MemoryStore(runtime)
        await grown(memory, runtime)
        refused: list[int] = []
        logs = await run(MayNotDelete(memory), runtime, refused=refused)
        assert [line["event"] for line in logs] == [
            "released and not deleted, tried again later"
        ] * 3
        assert (refused, logs[0]["scopes"]) == ([1, 1, 1], 1)
        assert "--only delete" in logs[0]["error"]
        pointer = await Bucket(memory, runtime).pointer()
        assert len(pointer.retained) == 1
        assert pointer.gc_epoch == 3

    asyncio.run(scenario())


def test_a_temporary_refusal_is_repaired_in_the_next_round_without_a_pointer_write() -> None:
    async def scenario() -> None:
        runtime = Rounds(3)
        memory = MemoryStore(runtime)
        await grown(memory, runtime)
        store = MayNotDelete(memory)
        store.refusals = 1
        refused: list[int] = []
        failing: list[Mapping[str, str]] = []
        logs = await run(store, runtime, refused=refused, failing=failing)
        assert [line["event"] for line in logs] == [
            "released and not deleted, tried again later",
            "collected",
        ]
        assert [sorted(check) for check in failing] == [[], [""], [], []]
        assert failing[1][""].startswith("released and not deleted in 1 scopes: ")
        assert runtime.waits == [6 * HOUR, HOUR, 6 * HOUR]
        assert (refused, logs[1]["deleted"]) == ([1, 0, 0], 1)
        assert await states(memory) == {"state-2"}
        assert (await Bucket(memory, runtime).pointer()).gc_epoch == 1

    asyncio.run(scenario())


def test_an_unreadable_scope_delays_no_other() -> None:
    async def scenario() -> None:
        runtime = Rounds(1)
        store = MemoryStore(runtime)
        await grown(store, runtime)
        await store.create(layout.pointer(Scope("a", "damaged")), Content(b"{"))
        failing: list[Mapping[str, str]] = []
        logs = await run(store, runtime, failing=failing)
        assert [line["event"] for line in logs] == [
            "scope not collected, tried again later",
            "collected",
        ]
        assert [sorted(check) for check in failing] == [[], ["a/damaged"]]
        assert "rebundle recover" in failing[1]["a/damaged"]
        assert await states(store) == {"state-2"}

    asyncio.run(scenario())


def test_an_unavailable_bucket_is_tried_again_in_the_next_round() -> None:
    async def scenario() -> None:
        runtime = Rounds(2)
        memory = MemoryStore(runtime)
        await grown(memory, runtime)

        async def away(operation: str, _key: str) -> None:
            if operation == "folders" and len(runtime.waits) == 1:
                raise StoreRefused("away")

        failing: list[Mapping[str, str]] = []
        logs = await run(FaultyStore(memory, before=away), runtime, failing=failing)
        assert [line["event"] for line in logs] == ["bucket not listed", "collected"]
        assert failing == [{}, {"": "the bucket cannot be listed: away"}, {}]
        assert runtime.waits == [6 * HOUR, HOUR]

    asyncio.run(scenario())


def test_keys_of_no_publication_are_reported() -> None:
    async def scenario() -> None:
        runtime = Rounds(1)
        store = MemoryStore(runtime)
        await Bucket(store, runtime).publish(make_state(1))
        await store.create(f"{layout.states(SCOPE)}notes", Content(b"mine"))
        [logged] = await run(store, runtime)
        assert logged["keys"] == (f"{layout.states(SCOPE)}notes",)

    asyncio.run(scenario())


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_the_wait_is_jittered(chance: float) -> None:
    async def scenario() -> None:
        class Chance(Rounds):
            def jitter(self) -> float:
                return chance

        runtime = Chance(1)
        await run(MemoryStore(runtime), runtime)
        assert runtime.waits == [6 * HOUR * (0.5 + chance)]

    asyncio.run(scenario())
