"""Every adapter of the store port against the same clauses, and the clauses against two stores that break them.

A new adapter is one more function in `ADAPTERS`.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.stores.directory import DirectoryStore
from daemon.stores.errors import ConditionFailed, ObjectMissing, StoreError
from daemon.stores.memory import MemoryStore
from daemon.stores.port import Content, Listed, ObjectStore, Stored, Version
from tests.builders_runtime import InlineRuntime, ThreadRuntime
from tests.contract.object_store_clauses import CLAUSES, Bucket, Clause


@dataclass(frozen=True, slots=True)
class OpenedBy:
    """A bucket whose clients are made by a function."""

    open: Callable[[], ObjectStore]


def shared(store: ObjectStore) -> Bucket:
    return OpenedBy(lambda: store)


@contextmanager
def directory(folder: Path) -> Iterator[Bucket]:
    with ThreadRuntime() as runtime:
        yield OpenedBy(lambda: DirectoryStore(folder / "bucket", runtime))


@contextmanager
def memory_with_generations(_folder: Path) -> Iterator[Bucket]:
    yield shared(MemoryStore(InlineRuntime()))


@contextmanager
def memory_with_content_versions(_folder: Path) -> Iterator[Bucket]:
    yield shared(MemoryStore(InlineRuntime(), versions_by_content=True))


Adapter = Callable[[Path], AbstractContextManager[Bucket]]

ADAPTERS: list[Adapter] = [directory, memory_with_generations, memory_with_content_versions]


def _name(value: Callable[..., object]) -> str:
    return value.__name__


@pytest.mark.parametrize("clause", CLAUSES, ids=_name)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=_name)
def test_an_adapter_keeps_the_contract(adapter: Adapter, clause: Clause, tmp_path: Path) -> None:
    with adapter(tmp_path) as bucket:
        asyncio.run(asyncio.wait_for(clause(bucket), 60))


class DeafStore:
    """A store that accepts conditions and ignores them, as several S3 servers do."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    async def get(self, key: str) -> Stored:
        return await self._inner.get(key)

    async def scan(self, prefix: str) -> Sequence[Listed]:
        return await self._inner.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        return await self._inner.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        return await self._put(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        return await self._put(key, content)

    async def delete(self, key: str, version: Version) -> None:
        await self._inner.delete(key, (await self._inner.get(key)).version)

    async def _put(self, key: str, content: Content) -> Version:
        while True:
            with suppress(ConditionFailed):
                try:
                    return await self._inner.replace(key, content, (await self._inner.get(key)).version)
                except ObjectMissing:
                    return await self._inner.create(key, content)


class SlowStore(DeafStore):
    """A store that looks first and writes later: its conditions hold only while nobody else writes."""

    async def create(self, key: str, content: Content) -> Version:
        try:
            await self._inner.get(key)
        except ObjectMissing:
            return await self._put(key, content)
        raise ConditionFailed(key)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        if (await self._inner.get(key)).version != version:
            raise ConditionFailed(key)
        return await self._put(key, content)

    async def delete(self, key: str, version: Version) -> None:
        if (await self._inner.get(key)).version != version:
            raise ConditionFailed(key)
        await super().delete(key, version)


def broken_clauses(store: Callable[[], ObjectStore]) -> set[str]:
    broken = set()
    for clause in CLAUSES:
        try:
            asyncio.run(asyncio.wait_for(clause(shared(store())), 60))
        except (StoreError, AssertionError, TimeoutError, pytest.fail.Exception, ExceptionGroup):
            broken.add(clause.__name__)
    return broken


@pytest.mark.parametrize("versions_by_content", [False, True])
def test_a_store_that_ignores_conditions_breaks_the_contract(versions_by_content: bool) -> None:
    broken = broken_clauses(lambda: DeafStore(MemoryStore(InlineRuntime(), versions_by_content=versions_by_content)))

    assert broken >= {
        "create_refuses_a_key_that_exists",
        "replace_refuses_every_version_but_the_present_one",
        "delete_refuses_a_stale_version",
        "a_race_to_create_has_one_winner",
        "a_race_to_replace_has_one_winner",
        "a_race_of_counting_loses_no_step",
    }
    assert "a_listing_is_sorted_by_bytes_and_knows_sizes" not in broken


@pytest.mark.parametrize("versions_by_content", [False, True])
def test_a_store_that_loses_races_breaks_the_contract(versions_by_content: bool) -> None:
    broken = broken_clauses(lambda: SlowStore(MemoryStore(InlineRuntime(), versions_by_content=versions_by_content)))

    assert broken >= {
        "a_race_to_create_has_one_winner",
        "a_race_to_replace_has_one_winner",
        "a_race_of_counting_loses_no_step",
    }
    assert not any("race" not in name for name in broken)
