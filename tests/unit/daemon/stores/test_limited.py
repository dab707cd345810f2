"""A store that hangs is a store that is away; a write that hangs may have been applied."""

import asyncio

import pytest

from daemon.stores.errors import ConditionFailed, OutcomeUnknown, StoreUnavailable
from daemon.stores.limited import LimitedStore
from daemon.stores.memory import MemoryStore
from daemon.stores.port import Content, Version
from tests.builders_runtime import InlineRuntime


class Hanging:
    """A store none of whose operations ever answers."""

    def __getattr__(self, _name):
        async def hang(*_):
            await asyncio.Event().wait()

        return hang


@pytest.mark.parametrize(
    ("operation", "arguments", "error"),
    [
        ("get", ("a",), StoreUnavailable),
        ("scan", ("a/",), StoreUnavailable),
        ("folders", ("a/",), StoreUnavailable),
        ("create", ("a", Content(b"1")), OutcomeUnknown),
        ("replace", ("a", Content(b"1"), Version("1")), OutcomeUnknown),
        ("delete", ("a", Version("1")), OutcomeUnknown),
    ],
)
def test_an_operation_that_hangs_ends_at_the_limit_and_says_what_is_known(operation, arguments, error):
    with pytest.raises(error, match=r"a.* took longer than 0.01 s"):
        asyncio.run(getattr(LimitedStore(Hanging(), 0.01), operation)(*arguments))


def test_within_the_limit_it_is_the_store_itself():
    async def story():
        store = LimitedStore(MemoryStore(InlineRuntime()), 10)
        version = await store.create("a/b", Content(b"1"))
        with pytest.raises(ConditionFailed):
            await store.create("a/b", Content(b"2"))
        version = await store.replace("a/b", Content(b"2"), version)
        assert (await store.get("a/b")).body == b"2"
        assert [each.key for each in await store.scan("a/")] == ["a/b"]
        assert list(await store.folders("")) == ["a"]
        await store.delete("a/b", version)
        assert list(await store.scan("")) == []

    asyncio.run(story())
