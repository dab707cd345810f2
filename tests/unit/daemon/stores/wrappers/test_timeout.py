"""A hanging store counts as unavailable. A hanging write may have been applied."""

import asyncio

import pytest

from daemon.stores.errors import ConditionFailed, OutcomeUnknown, StoreUnavailable
from daemon.stores.port import Content, Version
from daemon.stores.wrappers.timeout import TimeLimitedStore
from tests.builders_runtime import InlineRuntime
from tests.simulation.loop import SimulatedLoop
from tests.support.memory_store import MemoryStore


class Hanging:
    """A store whose operations never return."""

    def __getattr__(self, _name):
        async def hang(*_, **__):
            await asyncio.Event().wait()

        return hang


@pytest.fixture
def play():
    """Runs a coroutine in virtual time."""

    def run(coroutine):
        loop = SimulatedLoop("1", permute=False)
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.finish()

    return run


@pytest.mark.parametrize(
    ("operation", "arguments", "error", "seconds"),
    [
        ("get", ("a",), StoreUnavailable, 120),
        ("scan", ("a/",), StoreUnavailable, 1200),
        ("folders", ("a/",), StoreUnavailable, 120),
        ("create", ("a", Content(b"1")), OutcomeUnknown, 120),
        ("replace", ("a", Content(b"1"), Version("1")), OutcomeUnknown, 120),
        ("delete", ("a", Version("1")), OutcomeUnknown, 120),
    ],
)
def test_a_hanging_operation_ends_at_the_limit_with_the_matching_error(
    play, operation, arguments, error, seconds
):
    async def story():
        began = asyncio.get_running_loop().time()
        with pytest.raises(error, match=rf"a.* took longer than {seconds} s"):
            await getattr(TimeLimitedStore(Hanging(), 120), operation)(*arguments)
        assert asyncio.get_running_loop().time() - began == seconds

    play(story())


class ManyPages(MemoryStore):
    """A store whose listing has 400 pages of one second each."""

    async def scan(self, prefix):
        for _ in range(400):
            await asyncio.sleep(1)
        return await super().scan(prefix)


def test_a_listing_of_many_pages_may_take_longer_than_one_call(play):
    async def story():
        store = TimeLimitedStore(ManyPages(InlineRuntime()), 120)
        await store.create("a/b", Content(b"1"))
        assert [entry.key for entry in await store.scan("a/")] == ["a/b"]

    play(story())


def test_within_the_limit_calls_pass_unchanged():
    async def story():
        store = TimeLimitedStore(MemoryStore(InlineRuntime()), 10)
        version = await store.create("a/b", Content(b"1"))
        with pytest.raises(ConditionFailed):
            await store.create("a/b", Content(b"2"))
        version = await store.replace("a/b", Content(b"2"), version)
        assert (await store.get("a/b")).body == b"2"
        assert [entry.key for entry in await store.scan("a/")] == ["a/b"]
        assert list(await store.folders("")) == ["a"]
        await store.delete("a/b", version)
        assert list(await store.scan("")) == []

    asyncio.run(story())


@pytest.mark.parametrize("seconds", [4, 6])
def test_an_operation_that_takes_long_is_noticed_while_it_goes_on(play, seconds):
    class Slow:
        async def get(self, _key, *, max_bytes):
            await asyncio.sleep(seconds)

    async def story():
        noticed = []
        now = asyncio.get_running_loop().time
        began = now()
        store = TimeLimitedStore(Slow(), 120, lambda: noticed.append(now() - began))
        await store.get("a")
        await asyncio.sleep(10)
        assert noticed == ([5] if seconds > 5 else [])

    play(story())
