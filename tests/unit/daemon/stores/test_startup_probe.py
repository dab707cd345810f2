"""The wait for the bucket at the start."""

import asyncio
from itertools import pairwise

import pytest

from daemon.retry import Backoff
from daemon.stores.errors import ObjectMissing
from daemon.stores.port import Content, Version
from daemon.stores.probe import UnsafeStore
from daemon.stores.startup_probe import Admission
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore


def test_a_conforming_store_is_admitted_at_once():
    runtime = InlineRuntime()
    admission = Admission(MemoryStore(InlineRuntime()), runtime, Backoff(1, 4))
    assert admission.pending

    asyncio.run(admission.probe_until_passed())

    assert admission.pending is None
    assert runtime.seconds == InlineRuntime().seconds


def test_an_unavailable_store_is_probed_with_growing_delays_and_admitted_when_it_answers():
    asked: list[float] = []
    runtime = InlineRuntime()

    async def note(operation: str, key: str) -> None:
        if operation == "create" and len(asked) < 6:
            asked.append(runtime.seconds)
            assert admission.pending

    store = FaultyStore(MemoryStore(InlineRuntime()), faults={"": [Fault.AWAY] * 5}, before=note)
    admission = Admission(store, runtime, Backoff(1, 4))

    asyncio.run(admission.probe_until_passed())

    assert [later - sooner for sooner, later in pairwise(asked)] == [1, 2, 4, 4, 4]
    assert admission.pending is None


def test_a_pending_probe_has_a_reason():
    store = FaultyStore(MemoryStore(InlineRuntime()), faults={"": [Fault.AWAY]})

    class Once(InlineRuntime):
        async def sleep(self, seconds: float) -> None:
            assert admission.pending is not None
            assert "could not be probed, create: .rebundle/probe/" in admission.pending
            await super().sleep(seconds)

    runtime = Once()
    admission = Admission(store, runtime, Backoff(1, 4))

    asyncio.run(admission.probe_until_passed())

    assert runtime.seconds > InlineRuntime().seconds


class Deaf(MemoryStore):
    async def create(self, key: str, content: Content) -> Version:
        try:
            return await super().replace(key, content, (await self.get(key)).version)
        except ObjectMissing:
            return await super().create(key, content)


def test_a_store_that_ignores_conditions_is_never_admitted():
    admission = Admission(Deaf(InlineRuntime()), InlineRuntime(), Backoff(1, 4))

    with pytest.raises(UnsafeStore, match="create once: an existing object was created again"):
        asyncio.run(admission.probe_until_passed())

    assert admission.pending
