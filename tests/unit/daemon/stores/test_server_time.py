"""The store's clock is read whatever becomes of the answers, and what was written for that is removed where it may be."""

import asyncio
from datetime import timedelta

import pytest

from daemon.stores.errors import StoreRefused, StoreUnavailable
from daemon.stores.server_time import store_time
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore

KEY = ".rebundle/probe/clock-token"


def test_it_is_the_stores_time_and_nothing_is_left() -> None:
    runtime = InlineRuntime()
    store = MemoryStore(runtime)
    runtime.seconds += 7 * 86_400

    assert asyncio.run(store_time(store, "token")) == runtime.now()
    assert list(asyncio.run(store.scan(""))) == []


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.OWN_SUCCESS])
def test_a_write_that_was_applied_counts_whatever_its_answer(fault: Fault) -> None:
    runtime = InlineRuntime()
    store = FaultyStore(MemoryStore(runtime), faults={"token": [fault]})

    assert asyncio.run(store_time(store, "token")) == runtime.now()


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LATE, Fault.AWAY])
def test_a_write_that_was_not_applied_tells_no_time(fault: Fault) -> None:
    store = FaultyStore(MemoryStore(InlineRuntime()), faults={"token": [fault]})

    with pytest.raises(StoreUnavailable):
        asyncio.run(store_time(store, "token"))


def test_an_object_whose_key_only_begins_alike_is_another() -> None:
    async def scenario() -> None:
        runtime = InlineRuntime()
        store = FaultyStore(MemoryStore(runtime))
        other = FaultyStore(store.inner, faults={f"{KEY}0": [Fault.LOST_AFTER]})

        async def refuse(operation: str, _key: str) -> None:
            if operation == "delete":
                raise StoreRefused("no permission")

        other.before = refuse
        first = await store_time(other, "token0")
        runtime.seconds += timedelta(days=1).total_seconds()
        assert await store_time(store, "token") == runtime.now() != first
        assert [each.key for each in await store.scan("")] == [
            f"{KEY}0"
        ]  # who may not delete leaves it

    asyncio.run(scenario())
