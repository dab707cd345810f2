"""The rate limit: writes of one key are spaced, all other calls pass."""

import asyncio

import pytest

from daemon.stores.errors import ConditionFailed
from daemon.stores.port import Content, ObjectStore
from daemon.stores.wrappers.rate_limit import RateLimitedStore
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import MemoryStore

SECONDS = 1.1


class Timed:
    """A rate-limited store on a clock that only sleeping advances, with the time of each write."""

    def __init__(self) -> None:
        self.runtime = InlineRuntime()
        self.begun = self.runtime.seconds
        self.reached: list[tuple[str, float]] = []
        behind = FaultyStore(MemoryStore(InlineRuntime()), before=self._note)
        self.store: ObjectStore = RateLimitedStore(behind, self.runtime, SECONDS)

    async def _note(self, _operation: str, key: str) -> None:
        self.reached.append((key, round(self.runtime.seconds - self.begun, 3)))


def test_writes_of_one_key_are_spaced_and_the_first_does_not_wait() -> None:
    timed = Timed()

    async def play() -> None:
        version = await timed.store.create("key", Content(b"1"))
        for body in (b"2", b"3"):
            version = await timed.store.replace("key", Content(body), version)
        await timed.store.delete("key", version)

    asyncio.run(play())
    assert timed.reached == [("key", 0.0), ("key", 1.1), ("key", 2.2), ("key", 3.3)]


def test_concurrent_writers_of_one_key_run_one_after_the_other() -> None:
    timed = Timed()

    async def play() -> None:
        version = await timed.store.create("key", Content(b"1"))
        results = await asyncio.gather(
            *(timed.store.replace("key", Content(b"%d" % n), version) for n in range(3)),
            return_exceptions=True,
        )
        assert [type(result) for result in results].count(ConditionFailed) == 2

    asyncio.run(play())
    assert [when for _, when in timed.reached] == [0.0, 1.1, 2.2, 3.3]


def test_other_keys_and_reads_do_not_wait() -> None:
    timed = Timed()

    async def play() -> None:
        await timed.store.create("key", Content(b"1"))
        await timed.store.create("other", Content(b"1"))
        await timed.store.get("key")
        await timed.store.scan("")
        await timed.store.folders("")

    asyncio.run(play())
    assert {when for _, when in timed.reached} == {0.0}


def test_a_failed_write_counts_since_it_may_still_arrive() -> None:
    timed = Timed()

    async def play() -> None:
        await timed.store.create("key", Content(b"1"))
        with pytest.raises(ConditionFailed):
            await timed.store.create("key", Content(b"2"))
        with pytest.raises(ConditionFailed):
            await timed.store.create("key", Content(b"3"))

    asyncio.run(play())
    assert [when for _, when in timed.reached] == [0.0, 1.1, 2.2]


def test_keys_that_are_written_once_use_no_memory_later() -> None:
    timed = Timed()

    async def play() -> None:
        for number in range(2000):
            await timed.store.create(f"states/{number}", Content(b"1"))
            timed.runtime.seconds += 0.01

    asyncio.run(play())
    assert len(timed.store._turns) < 1100  # type: ignore[attr-defined]  # its size is tested


def test_a_writer_that_is_cancelled_while_it_waits_releases_its_turn() -> None:
    timed = Timed()

    async def play() -> None:
        version = await timed.store.create("key", Content(b"1"))
        waiting = asyncio.create_task(timed.store.replace("key", Content(b"2"), version))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await timed.store.replace("key", Content(b"3"), version)
        assert (await timed.store.get("key")).body == b"3"

    asyncio.run(play())
