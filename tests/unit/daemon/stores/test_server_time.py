"""Reading the clock of the store works with lost answers, and its object is removed if permissions
allow.
"""

import asyncio
from datetime import timedelta

import pytest

from daemon.stores.errors import StoreRefused, StoreUnavailable
from daemon.stores.server_time import store_time
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore

KEY = ".rebundle/probe/clock-token"


def test_the_time_is_that_of_the_store_and_no_object_remains() -> None:
    runtime = InlineRuntime()
    store = MemoryStore(runtime)
    runtime.seconds += 7 * 86_400

    assert asyncio.run(store_time(store, "token")) == runtime.now()
    assert list(asyncio.run(store.scan(""))) == []


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.OWN_SUCCESS])
def test_an_applied_write_counts_with_any_answer(fault: Fault) -> None:
    runtime = InlineRuntime()
    store = FaultyStore(MemoryStore(runtime), faults={"token": [fault]})

    assert asyncio.run(store_time(store, "token")) == runtime.now()


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LATE, Fault.AWAY])
def test_a_write_that_was_not_applied_gives_no_time(fault: Fault) -> None:
    store = FaultyStore(MemoryStore(InlineRuntime()), faults={"token": [fault]})

    with pytest.raises(StoreUnavailable):
        asyncio.run(store_time(store, "token"))


def test_an_object_whose_key_only_shares_the_prefix_is_ignored() -> None:
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
        assert [entry.key for entry in await store.scan("")] == [
            f"{KEY}0"
        ]  # without delete permission the object stays

    asyncio.run(scenario())
