"""The two kinds of versions of the memory store. What they share is in the contract suite."""

import asyncio

from daemon.stores.port import Content, Version
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore


async def there_and_back(store: MemoryStore) -> tuple[Version, Version]:
    first = await store.create("key", Content(b"A"))
    second = await store.replace("key", Content(b"B"), first)
    return first, await store.replace("key", Content(b"A"), second)


def test_generations_are_never_reused() -> None:
    first, third = asyncio.run(there_and_back(MemoryStore(InlineRuntime())))

    assert first != third


def test_versions_by_content_return_with_the_content() -> None:
    first, third = asyncio.run(
        there_and_back(MemoryStore(InlineRuntime(), versions_by_content=True))
    )

    assert first == third


def test_another_tag_alone_does_not_change_a_version_by_content() -> None:
    async def retag(store: MemoryStore) -> tuple[Version, Version]:
        first = await store.create("key", Content(b"A", tag={"n": "1"}))
        return first, await store.replace("key", Content(b"A", tag={"n": "2"}), first)

    one, other = asyncio.run(retag(MemoryStore(InlineRuntime(), versions_by_content=True)))
    assert one == other
    one, other = asyncio.run(retag(MemoryStore(InlineRuntime())))
    assert one != other


def test_a_later_change_of_the_callers_tag_has_no_effect() -> None:
    async def run() -> dict[str, str]:
        store, tag = MemoryStore(InlineRuntime()), {"n": "1"}
        await store.create("key", Content(b"A", tag=tag))
        tag["n"] = "2"
        return dict((await store.get("key")).tag)

    assert asyncio.run(run()) == {"n": "1"}
