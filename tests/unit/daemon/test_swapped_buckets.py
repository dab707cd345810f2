"""Another bucket is mounted in place of the right one while the daemon runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from daemon.lifecycle import Stop
from daemon.publishing import layout
from daemon.publishing.bucket_identity import BucketIdentity
from daemon.publishing.errors import VerificationFailed, WrongBucket
from daemon.retry import Backoff
from daemon.stores.port import Content
from daemon.worker import Worker
from events.model import Event
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.journals import waiting_in
from tests.support.memory_store import MemoryStore
from tests.support.scenes import (
    BACKOFF,
    GOLDEN,
    Scene,
    model_event,
    open_scene,
    rollback_event,
    state_event,
)


def empty_store() -> MemoryStore:
    return MemoryStore(InlineRuntime(), versions_by_content=True)


class Volumes:
    """Implements daemon.stores.port.ObjectStore: one of two buckets, depending on which is mounted."""

    def __init__(self) -> None:
        self.right, self.other = empty_store(), empty_store()
        self.mounted = self.right

    def __getattr__(self, name: str) -> object:
        return getattr(self.mounted, name)


@contextlib.asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Worker]:
    stop = Stop()
    worker = Worker(
        source=scene.journal,
        reader=scene.reader,
        pipeline=scene.pipeline,
        runtime=scene.runtime,
        observer=scene.watcher,
        backoff=BACKOFF,
        live_tree_seconds=3600,
        bucket=scene.bucket,
    )
    task = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.request("done")
        await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # nothing reports it
            await asyncio.sleep(0.005)


def lane_reports_another_bucket(worker: Worker) -> bool:
    return any(
        lane.failure is not None and "is another volume mounted" in lane.failure.reason
        for lane in worker.lanes
    )


async def pointer_of(store: MemoryStore) -> bytes:
    return (await store.get(layout.pointer(GOLDEN))).body


async def with_other_bucket(
    folder: Path, store: Volumes, play: Callable[[Scene], Awaitable[None]], *, states: int
) -> None:
    """Runs on a scene whose journal remembers `right`; `other` belongs to another journal and has
    the same scope.
    """
    async with open_scene(folder / "other.db", store.other, remembers_bucket=True) as other:
        await other.bucket.check()
        for number in range(1, states + 1):
            await other.batch(state_event(number, version=str(number)))
    async with open_scene(folder / "journal.db", store, remembers_bucket=True) as scene:  # type: ignore[arg-type]
        await scene.bucket.check()
        await play(scene)


IGNORED_THERE = model_event("same", "101", "5", scopes=[GOLDEN])
"""The other bucket's fifth state has the model at this version, so the event would change nothing
there.
"""


@pytest.mark.parametrize("states", [2, 5])
@pytest.mark.parametrize(
    "event", [state_event(50), IGNORED_THERE, rollback_event("back", "state-1")]
)
@pytest.mark.parametrize("pointer_is_kept", [True, False])
def test_nothing_is_published_to_another_bucket_that_has_the_scope(
    tmp_path: Path, states: int, event: Event, pointer_is_kept: bool
) -> None:
    store = Volumes()

    async def play(scene: Scene) -> None:
        async with running(scene) as worker:
            await scene.accept(state_event(1), state_event(2, version="2"))
            if not pointer_is_kept:
                await scene.accept(model_event("unchanged", "101", "2"))
            await until(
                lambda: len(scene.watcher.settled_outcomes) == (2 if pointer_is_kept else 3)
            )
            await until(lambda: worker.lanes[0].idle_since is not None)
            before = await pointer_of(store.other)
            store.mounted = store.other
            await scene.accept(event)
            await until(lambda: lane_reports_another_bucket(worker))
            assert (await scene.journal.backlog()).events == 1
            assert await pointer_of(store.other) == before
            store.mounted = store.right
            await until(
                lambda: event.id in [outcome[1] for outcome in scene.watcher.settled_outcomes]
            )
            assert await pointer_of(store.other) == before
        assert [str(outcome.kind) for outcome in await scene.outcomes(event.id)] == ["published"]

    asyncio.run(with_other_bucket(tmp_path, store, play, states=states))


def test_a_listing_of_another_bucket_is_not_trusted_although_the_right_one_returns(
    tmp_path: Path,
) -> None:
    """The other bucket has no scope, so an event without bundles would be settled in none."""

    class Flapping(Volumes):
        async def folders(self, prefix: str) -> object:
            found = await self.mounted.folders(prefix)
            self.mounted = self.right
            return found

    store = Flapping()

    async def play(scene: Scene) -> None:
        async with running(scene) as worker:
            await scene.accept(state_event(1))
            await until(lambda: scene.watcher.passes)
            await until(lambda: worker.lanes[0].idle_since is not None)
            store.mounted = store.other
            await scene.accept(model_event("everywhere", "101", "9"))
            await until(
                lambda: (
                    worker.failure is not None
                    or "everywhere" in repr(scene.watcher.settled_outcomes)
                )
            )
            store.mounted = store.right
            await until(
                lambda: "everywhere" in [outcome[1] for outcome in scene.watcher.settled_outcomes]
            )
        assert [str(outcome.kind) for outcome in await scene.outcomes("everywhere")] == [
            "published"
        ]

    asyncio.run(with_other_bucket(tmp_path, store, play, states=0))


def test_a_first_pointer_is_not_sent_again_into_another_bucket(tmp_path: Path) -> None:
    """The volume is lost during the first request.

    The condition of the write holds in both buckets.
    """
    volumes = Volumes()

    async def lose(operation: str, key: str) -> None:
        if (operation, key) == ("create", layout.pointer(GOLDEN)):
            volumes.mounted = volumes.other

    store = FaultyStore(volumes, faults={"/pointer.json": [Fault.LOST_BEFORE]}, before=lose)  # type: ignore[arg-type]

    async def play() -> None:
        async with open_scene(tmp_path / "journal.db", store, remembers_bucket=True) as scene:
            await scene.bucket.check()
            with pytest.raises(WrongBucket):
                await scene.batch(state_event(1))
            assert list(await volumes.other.scan("")) == []
            volumes.mounted = volumes.right
            store.before = None
            await scene.pipeline.process(GOLDEN, await waiting_in(scene.journal, str(GOLDEN)))
            assert (await scene.pointer()).live is not None

    asyncio.run(play())


def test_the_id_is_not_read_again_for_publications_on_a_known_pointer(tmp_path: Path) -> None:
    """Neither on a pointer of this daemon, nor on one that another daemon built on it."""
    inner, asked = empty_store(), 0

    async def count(operation: str, key: str) -> None:
        nonlocal asked
        asked += (operation, key) == ("get", layout.BUCKET)

    async def play() -> None:
        store = FaultyStore(inner, before=count)
        async with (
            open_scene(tmp_path / "journal.db", store, remembers_bucket=True) as scene,
            open_scene(tmp_path / "other.db", inner) as other,
        ):
            await scene.batch(state_event(1))
            first = asked
            await scene.batch(model_event("a", "101", "9"))
            await other.batch(state_event(2))
            await scene.batch(model_event("b", "101", "10"))
            await scene.batch(model_event("changes nothing", "101", "10"))
            assert asked == first
            assert scene.watcher.conflicts == 1
            assert (await scene.pointer()).sequence == 4

    asyncio.run(play())


@pytest.mark.parametrize("swapped_in_first", [True, False])
def test_data_read_while_the_bucket_changed_is_not_used(swapped_in_first: bool) -> None:
    store, runtime = Volumes(), InlineRuntime()

    class BucketMemory:
        async def bucket(self) -> str | None:
            return self.remembered

        async def remember_bucket(self, bucket: str) -> None:
            self.remembered = bucket

        remembered: str | None = None

    memory = BucketMemory()
    identity = BucketIdentity(store, memory, runtime, Backoff(1, 1))  # type: ignore[arg-type]

    async def read() -> int:
        store.mounted = store.right if swapped_in_first else store.other
        return 1

    async def play() -> None:
        await identity.check()
        assert await identity.reading(_one) == 1
        store.mounted = store.other if swapped_in_first else store.right
        with pytest.raises(WrongBucket):
            await identity.reading(read)

    asyncio.run(play())


async def _one() -> int:
    return 1


def test_another_bucket_is_the_reason_that_is_reported_although_its_pointer_is_lost(
    tmp_path: Path,
) -> None:
    store = Volumes()

    async def play(scene: Scene) -> None:
        await scene.batch(state_event(1))
        pointer = await store.other.get(layout.pointer(GOLDEN))
        await store.other.delete(layout.pointer(GOLDEN), pointer.version)
        store.mounted = store.other
        with pytest.raises(WrongBucket, match="is another volume mounted"):
            await scene.reader.pointer(GOLDEN)
        store.mounted = store.right
        assert (await scene.pointer()).sequence == 1

    asyncio.run(with_other_bucket(tmp_path, store, play, states=1))


def test_a_damaged_pointer_of_the_right_bucket_is_reported_as_damaged(tmp_path: Path) -> None:
    store = Volumes()

    async def play(scene: Scene) -> None:
        await scene.batch(state_event(1))
        there = await store.right.get(layout.pointer(GOLDEN))
        await store.right.replace(layout.pointer(GOLDEN), Content(b"{}"), there.version)
        with pytest.raises(VerificationFailed, match="rebundle recover"):
            await scene.reader.pointer(GOLDEN)

    asyncio.run(with_other_bucket(tmp_path, store, play, states=0))
