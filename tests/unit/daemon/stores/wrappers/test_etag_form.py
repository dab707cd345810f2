"""ETags with and without quotes: which form the server accepts, and that doubt never costs an
object.
"""

import asyncio

import pytest

from daemon.stores.errors import ConditionFailed
from daemon.stores.port import Content, ObjectStore, Version
from daemon.stores.wrappers.etag_form import EtagFormStore, Form
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import MemoryStore


class Refusing:
    """A client whose form the server does not know: it refuses every condition."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.get, self.scan, self.folders = inner.get, inner.scan, inner.folders
        self.create = inner.create

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        raise ConditionFailed(key)

    async def delete(self, key: str, version: Version) -> None:
        raise ConditionFailed(key)


class Blind(Refusing):
    """A client whose conditions the server ignores."""

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        return await self._inner.replace(key, content, (await self._inner.get(key)).version)

    async def delete(self, key: str, version: Version) -> None:
        await self._inner.delete(key, (await self._inner.get(key)).version)


class Scene:
    def __init__(self, quoted: type[Refusing] | None, unquoted: type[Refusing] | None) -> None:
        self.server = FaultyStore(MemoryStore(InlineRuntime(), versions_by_content=True))
        one, other = (
            self.server if made is None else made(self.server) for made in (quoted, unquoted)
        )
        self.store = EtagFormStore(one, other, InlineRuntime())

    async def settled(self) -> Version:
        version = await self.store.create("key", Content(b"first"))
        return await self.store.replace("key", Content(b"second"), version)

    def listed(self) -> list[str]:
        return [entry.key for entry in asyncio.run(self.server.scan(""))]


def test_a_server_that_accepts_quotes_gets_no_further_request():
    scene = Scene(None, Blind)

    asyncio.run(scene.settled())

    assert scene.store.form is Form.QUOTED
    assert [key for _, key in scene.server.writes] == ["key", "key"]


def test_a_server_that_accepts_no_quotes_is_detected_once():
    scene = Scene(Refusing, None)

    async def play() -> None:
        version = await scene.settled()
        assert (await scene.store.get("key")).body == b"second"
        before = len(scene.server.writes)
        await scene.store.replace("key", Content(b"third"), version)
        assert len(scene.server.writes) == before + 1
        with pytest.raises(ConditionFailed):
            await scene.store.replace("key", Content(b"fourth"), version)
        assert len(scene.server.writes) == before + 2

    asyncio.run(play())

    assert scene.store.form is Form.UNQUOTED
    assert scene.listed() == ["key"]


@pytest.mark.parametrize("unquoted", [Refusing, Blind])
def test_a_server_that_accepts_neither_form_or_ignores_one_gets_no_unconditional_write(unquoted):
    scene = Scene(Refusing, unquoted)

    with pytest.raises(ConditionFailed):
        asyncio.run(scene.settled())

    assert scene.store.form is None
    assert asyncio.run(scene.store.get("key")).body == b"first"
    assert len(scene.listed()) == 2, (
        "the object stays if the server permits no deletion, and the next process uses it"
    )


def test_a_lost_race_raises_no_doubt_about_the_form():
    scene = Scene(None, Blind)

    async def play() -> None:
        version = await scene.store.create("key", Content(b"first"))
        await scene.server.replace("key", Content(b"of another"), version)
        with pytest.raises(ConditionFailed):
            await scene.store.replace("key", Content(b"ours"), version)

    asyncio.run(play())

    assert [key for _, key in scene.server.writes] == ["key", "key", "key"]
    assert scene.store.form is None


@pytest.mark.parametrize(("settled", "probes"), [(False, 3), (True, 0)])
def test_a_refusal_by_a_server_that_accepts_quotes_stays_a_refusal(settled, probes):
    """Another writer changed and restored the content during this write, so the version is the same
    again.
    """
    scene = Scene(None, Blind)

    async def play() -> None:
        if settled:
            before = await scene.store.create("before", Content(b"first"))
            await scene.store.replace("before", Content(b"second"), before)
        version = await scene.store.create("key", Content(b"first"))
        there = await scene.server.replace("key", Content(b"of another"), version)

        async def recreate(operation: str, key: str) -> None:
            scene.server.before = None
            await scene.server.inner.replace("key", Content(b"first"), there)

        async def on_read(operation: str, key: str) -> None:
            if operation == "get":
                await recreate(operation, key)

        scene.server.before = on_read
        with pytest.raises(ConditionFailed):
            await scene.store.replace("key", Content(b"ours"), version)

    asyncio.run(play())

    assert scene.store.form is Form.QUOTED
    assert asyncio.run(scene.store.get("key")).body == b"first"
    assert (
        len([key for _, key in scene.server.writes if key.startswith(".rebundle/probe/")]) == probes
    )
    assert not any(key.startswith(".rebundle/probe/") for key in scene.listed())


def test_the_test_object_left_by_a_crash_is_used_and_removed():
    scene = Scene(Refusing, None)
    left = f".rebundle/probe/{InlineRuntime().random_id()[:2]}-quotes"
    asyncio.run(scene.server.create(left, Content(b"left")))

    asyncio.run(scene.settled())

    assert scene.store.form is Form.UNQUOTED
    assert scene.listed() == ["key"]
