"""A model event that names no scopes goes to every scope that may have its model (ADR 34)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon import worker
from daemon.changes import model_of_unnamed
from daemon.lifecycle import Stop
from daemon.publishing import layout, reader
from daemon.publishing.reader import PointerRead
from daemon.stores.errors import StoreUnavailable
from daemon.stores.port import Content
from events.model import MODEL_VERSION_UPDATED, Event
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore
from tests.support.scenes import (
    GOLDEN,
    Scene,
    complete_model_event,
    model_event,
    open_scene,
    rollback_event,
    state_event,
    worker_of,
)

OTHER = Scope("texture", "edge")
BOTH = [str(OTHER), str(GOLDEN)]


def scenario(path: Path, play: Callable[[Scene, Scene], Awaitable[None]]) -> None:
    """`play` with two daemons on one bucket, each with its own journal. Both scopes exist, and the
    first daemon has indexed them.
    """

    async def body() -> None:
        store = MemoryStore(InlineRuntime())
        async with (
            open_scene(path / "one.db", store) as one,
            open_scene(path / "two.db", store) as two,
        ):
            await one.send(state_event(1), state_event(1, scope=OTHER))
            async with asyncio.timeout(20):
                await play(one, two)

    asyncio.run(body())


async def scopes_of(scene: Scene, event: Event) -> list[str]:
    """The scopes in which an event has an outcome."""
    await scene.accept(event)
    await scene.work()
    [status] = await scene.journal.find(event.id)
    assert status.acknowledged_at is not None
    return [lane.scope for lane in status.lanes]


def test_an_event_whose_model_no_scope_has_goes_nowhere(tmp_path: Path) -> None:
    async def play(one: Scene, _two: Scene) -> None:
        before = len(one.watcher.settled_outcomes)
        assert await scopes_of(one, model_event("m", "900")) == []
        assert len(one.watcher.settled_outcomes) == before

    scenario(tmp_path, play)


def test_an_event_goes_to_the_scopes_that_have_its_model(tmp_path: Path) -> None:
    async def play(one: Scene, _two: Scene) -> None:
        assert await scopes_of(one, model_event("both", "101", "12")) == BOTH
        await one.send(complete_model_event("new", "900", scopes=(OTHER,)))
        assert await scopes_of(one, model_event("m", "900", "2")) == [str(OTHER)]

    scenario(tmp_path, play)


def test_a_daemon_that_has_indexed_nothing_leaves_out_no_scope(tmp_path: Path) -> None:
    async def play(_one: Scene, two: Scene) -> None:
        assert await scopes_of(two, model_event("m", "900")) == BOTH
        assert await scopes_of(two, model_event("n", "900")) == []

    scenario(tmp_path, play)


@pytest.mark.parametrize("accepted_before_the_start", [True, False])
def test_a_model_that_another_daemon_has_added_is_not_missed(
    tmp_path: Path, accepted_before_the_start: bool
) -> None:
    async def play(one: Scene, two: Scene) -> None:
        update = model_event("update", "900", "2")
        if accepted_before_the_start:
            await one.accept(update)
        await two.send(complete_model_event("new", "900", scopes=(GOLDEN,)))
        if not accepted_before_the_start:
            await one.accept(update)
        await one.work()
        [status] = await one.journal.find("update")
        assert [(lane.scope, lane.outcome and lane.outcome.kind) for lane in status.lanes] == [
            (str(GOLDEN), "published")
        ]

    scenario(tmp_path, play)


def test_a_model_that_a_rollback_brings_back_is_not_missed(tmp_path: Path) -> None:
    async def play(one: Scene, two: Scene) -> None:
        await one.send(state_event(2, models=state_event(2).data["models"][1:]))
        assert await scopes_of(one, model_event("m", "101", "50")) == [str(OTHER)]
        await two.send(rollback_event("back", "state-1"))
        # A rollback changes live, not desired: the scope gets the event and ignores it.
        assert await scopes_of(one, model_event("n", "101", "51")) == BOTH

    scenario(tmp_path, play)


def test_an_event_waits_while_an_older_pointer_is_restored(tmp_path: Path) -> None:
    """Equal bytes have equal versions, so the restored pointer is the one that was indexed."""

    async def play() -> None:
        store = MemoryStore(InlineRuntime(), versions_by_content=True)
        async with (
            open_scene(tmp_path / "one.db", store) as one,
            open_scene(tmp_path / "two.db", store) as two,
        ):
            await one.send(state_event(1))
            key = layout.pointer(GOLDEN)
            older = await store.get(key)
            await two.send(complete_model_event("new", "900", scopes=(GOLDEN,)))
            await one.pointer()
            newer = await store.get(key)
            await store.replace(key, Content(older.body), newer.version)
            await one.accept(model_event("update", "900", "2"))
            with pytest.raises(TimeoutError):
                await one.work(limit=1)
            await store.replace(key, Content(newer.body), older.version)
        async with open_scene(tmp_path / "one.db", store) as restarted:
            await restarted.work()
            outcomes = await restarted.outcomes("update")
            assert [str(outcome.kind) for outcome in outcomes] == ["published"]

    asyncio.run(play())


@pytest.mark.parametrize("seconds", [-3, -0.2])
def test_a_listing_is_not_used_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    async def play(one: Scene, two: Scene) -> None:
        stop = Stop()
        working = asyncio.create_task(worker_of(one).run(stop))
        await one.accept(model_event("first", "900", "1"))
        await idle(one)
        await two.send(complete_model_event("new", "900", scopes=(GOLDEN,)))
        now = one.runtime.now
        monkeypatch.setattr(one.runtime, "now", lambda: now() + timedelta(seconds=seconds))
        monkeypatch.setattr(one.journal, "_clock", one.runtime.now)
        await one.accept(model_event("update", "900", "2"))
        await idle(one)
        stop.request("done")
        await working
        assert [str(outcome.kind) for outcome in await one.outcomes("update")] == ["published"]

    scenario(tmp_path, play)


async def idle(scene: Scene) -> None:
    """Wait until no event waits."""
    while (await scene.journal.backlog()).events:  # noqa: ASYNC110  # the journal sends no event
        await asyncio.sleep(0.01)


def test_a_model_that_an_earlier_event_adds_is_not_missed(tmp_path: Path) -> None:
    async def play(one: Scene, _two: Scene) -> None:
        await one.accept(complete_model_event("new", "900", scopes=(GOLDEN,)))
        assert await scopes_of(one, model_event("update", "900", "2")) == [str(GOLDEN)]
        assert [str(outcome.kind) for outcome in await one.outcomes("update")] == ["published"]

    scenario(tmp_path, play)


def test_a_model_that_another_daemon_adds_right_after_a_commit_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the commit was lost: reading back finds a later pointer, which contains it."""

    async def play(one: Scene, two: Scene) -> None:
        swap = one.publisher.swap

        async def answered_late(*arguments: Any, **options: Any) -> PointerRead:
            await swap(*arguments, **options)
            monkeypatch.setattr(one.publisher, "swap", swap)
            await two.send(complete_model_event("new", "900", scopes=(GOLDEN,)))
            return await one.reader.pointer(GOLDEN)

        monkeypatch.setattr(one.publisher, "swap", answered_late)
        await one.send(model_event("m", "101", "50", scopes=(GOLDEN,)))
        assert await scopes_of(one, model_event("update", "900", "2")) == [str(GOLDEN)]

    scenario(tmp_path, play)


IN_ONE_CALL = pytest.mark.parametrize(("size", "get_it"), [(1, [str(GOLDEN)]), (2, BOTH)])
"""How many pointers a call reads, and the scopes that get an event if one call fails."""


@IN_ONE_CALL
def test_the_scopes_of_a_call_that_cannot_read_a_pointer_get_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, get_it: list[str]
) -> None:
    monkeypatch.setattr(reader, "_POINTERS_IN_ONE_CALL", size)

    async def play(one: Scene, _two: Scene) -> None:
        async def away(scopes: Mapping[Scope, object]) -> AbstractSet[Scope]:
            if GOLDEN in scopes:
                raise StoreUnavailable("away")
            return scopes.keys()

        monkeypatch.setattr(one.reader, "still_current", away)
        assert await scopes_of(one, model_event("m", "900")) == get_it

    scenario(tmp_path, play)


@IN_ONE_CALL
def test_the_scopes_of_a_call_that_does_not_answer_get_the_event_and_delay_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, get_it: list[str]
) -> None:
    monkeypatch.setattr(worker, "_CONFIRM_SECONDS", 0.05)
    monkeypatch.setattr(reader, "_POINTERS_IN_ONE_CALL", size)

    async def play(one: Scene, _two: Scene) -> None:
        async def hanging(scopes: Mapping[Scope, object]) -> AbstractSet[Scope]:
            if GOLDEN in scopes:
                await asyncio.Event().wait()
            return scopes.keys()

        monkeypatch.setattr(one.reader, "still_current", hanging)
        assert await scopes_of(one, model_event("m", "900")) == get_it

    scenario(tmp_path, play)


@pytest.mark.parametrize(
    ("event", "model"),
    [
        (model_event("m", "900"), "900"),
        (model_event("m", "900", updated=True), "900"),
        (model_event("m", "900", scopes=(GOLDEN,)), None),
        (state_event(1), None),
        (rollback_event("back", "state-1"), None),
        (Event("m", "urn:x", MODEL_VERSION_UPDATED, {"model": {"id": "900"}}), None),
        (Event("m", "urn:x", "another.type", {"model": {"id": "900", "version": "1"}}), None),
    ],
)
def test_only_a_valid_model_event_without_scopes_has_a_model_to_search_for(
    event: Event, model: str | None
) -> None:
    assert model_of_unnamed(event) == model


def test_events_that_go_nowhere_are_reported_together(tmp_path: Path) -> None:
    async def play(one: Scene, _two: Scene) -> None:
        await one.accept(model_event("m", "900"), model_event("n", "901"))
        await one.work()
        assert one.watcher.to_no_scope == [["m", "n"]]

    scenario(tmp_path, play)
