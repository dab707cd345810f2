"""The guard in front of a store that was not probed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from daemon.concurrency import concurrently
from daemon.stores.errors import ObjectMissing, StoreBusy, StoreRefused, StoreUnavailable
from daemon.stores.port import Content, ObjectStore, Version
from daemon.stores.probe import PREFIX, UnsafeStore
from daemon.stores.wrappers.write_guard import GuardedStore
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore

NEW = Content(b"new")


def guarded(store: ObjectStore) -> GuardedStore:
    return GuardedStore(store, InlineRuntime())


class Deaf(MemoryStore):
    """Ignores conditions, like a server behind a proxy that drops them."""

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        try:
            return await super().replace(key, content, (await self.get(key)).version)
        except ObjectMissing:
            return await self.create(key, content)


async def create(store: GuardedStore) -> None:
    await store.create("scope/other.json", NEW)


async def replace(store: GuardedStore) -> None:
    await store.replace("scope/pointer.json", NEW, Version("none"))


@pytest.mark.parametrize("write", [create, replace])
def test_a_store_that_ignores_conditions_gets_no_write(
    write: Callable[[GuardedStore], Awaitable[None]],
) -> None:
    async def scenario() -> None:
        store = Deaf(InlineRuntime())
        await store.create("scope/pointer.json", Content(b"precious"))
        opened = guarded(store)
        for _ in range(2):
            with pytest.raises(UnsafeStore, match=r"overwrite any object.*no proxy drops If-Match"):
                await write(opened)
        assert [entry.key for entry in await store.scan("")] == ["scope/pointer.json"]
        assert (await store.get("scope/pointer.json")).body == b"precious"

    asyncio.run(scenario())


def test_of_concurrent_writes_one_checks_the_store() -> None:
    """The failure of the first write cancels the second.

    The second must still clean up after its own check.
    """

    async def scenario() -> None:
        store = FaultyStore(Deaf(InlineRuntime()))
        opened = guarded(store)
        with pytest.raises(UnsafeStore):
            await concurrently(
                lambda key: opened.create(key, NEW), ["one", "other", "third"], limit=3
            )
        assert [operation for operation, _ in store.writes] == ["replace", "delete"]

    asyncio.run(scenario())


def test_the_first_of_many_writes_costs_one_request_more() -> None:
    async def scenario() -> None:
        store = FaultyStore(MemoryStore(InlineRuntime()))
        opened = guarded(store)
        versions = await asyncio.gather(
            *(opened.create(f"key-{number}", NEW) for number in range(5))
        )
        await opened.replace("key-0", NEW, versions[0])
        first, *others = store.writes
        assert first[0] == "replace"
        assert first[1].startswith(PREFIX)
        assert others == [
            *(("create", f"key-{number}") for number in range(5)),
            ("replace", "key-0"),
        ]
        assert list(await store.scan(PREFIX)) == []

    asyncio.run(scenario())


def test_reading_and_deleting_cost_nothing_more() -> None:
    async def scenario() -> None:
        store = FaultyStore(MemoryStore(InlineRuntime()))
        version = await store.create("a/key", NEW)
        opened = guarded(store)
        assert (await opened.get("a/key")).body == NEW.body
        assert [entry.key for entry in await opened.scan("")] == ["a/key"]
        assert await opened.folders("") == ["a"]
        await opened.delete("a/key", version)
        assert store.writes == [("create", "a/key"), ("delete", "a/key")]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.LOST_BEFORE, StoreUnavailable),
        (Fault.AWAY, StoreUnavailable),
        (Fault.BUSY, StoreBusy),
        (Fault.REFUSED, StoreRefused),
    ],
)
def test_an_inconclusive_check_is_repeated_and_nothing_is_written(
    fault: Fault, error: type[Exception]
) -> None:
    async def scenario() -> None:
        store = FaultyStore(MemoryStore(InlineRuntime()), faults={"-absent": [fault]})
        opened = guarded(store)
        with pytest.raises(error):
            await create(opened)
        assert list(await store.scan("")) == []
        await create(opened)
        assert [entry.key for entry in await store.scan("")] == ["scope/other.json"]

    asyncio.run(scenario())
