"""Two daemons with copies of one journal and so one instance: no event that either accepted is
lost.
"""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.lifecycle import Stop
from daemon.redelivery import InstanceShared
from events.journal import Journal
from events.model import Outcome, OutcomeKind
from events.source import Pause
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.journals import next_of
from tests.support.memory_store import MemoryStore
from tests.support.scenes import (
    GOLDEN,
    Scene,
    model_event,
    open_scene,
    rollback_event,
    state_event,
    worker_of,
)

OTHER = Scope("texture", "edge")


def cloned(path: Path, copy: Path) -> None:
    """A copy as on a cloned block device: its file is at the path that the journal has recorded."""
    shutil.copy(path, copy)
    place = copy.stat()
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'device'", (str(place.st_dev),))
        db.execute("UPDATE meta SET value = ? WHERE key = 'inode'", (str(place.st_ino),))


def compared(journal: Journal) -> None:
    """The comparison found no difference, because the other copy had not published yet."""
    compare = journal.compare

    async def without_difference(
        scope: str, positions: Mapping[str, int], pause: Pause, *, unaccounted: bool = False
    ) -> str | None:
        if not unaccounted:
            return None
        return await compare(scope, positions, pause, unaccounted=True)

    journal.compare = without_difference  # type: ignore[method-assign]


def two(path: Path, play: Callable[[Scene, Scene], Awaitable[None]]) -> None:
    """`play` with two daemons, each on a copy of a journal that has published one state in each
    scope.
    """
    store = MemoryStore(InlineRuntime())

    async def body() -> None:
        async with open_scene(path / "one.db", store) as scene:
            await scene.send(state_event(1), state_event(1, scope=OTHER))
        cloned(path / "one.db", path / "two.db")
        async with (
            open_scene(path / "one.db", store) as one,
            open_scene(path / "two.db", store) as two,
        ):
            assert one.journal.instance == two.journal.instance
            await play(one, two)

    asyncio.run(body())


async def published_states(scene: Scene) -> list[str]:
    history = (await scene.pointer()).history
    return [name.partition("@")[0] for entry in history for name in entry.published]


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [str(outcome.kind) for outcome in outcomes]


def test_an_event_at_a_position_that_a_copy_has_used_is_published_under_a_new_instance(
    tmp_path: Path,
) -> None:
    async def play(one: Scene, two: Scene) -> None:
        shared = one.journal.instance
        assert kinds(await one.send(state_event(2))) == ["published"]
        compared(two.journal)
        with capture_logs() as logs:
            assert kinds(await two.send(state_event(3))) == ["published"]
        assert any("a copy of the journal is in use" in line.get("reason", "") for line in logs)
        assert await published_states(one) == ["state-1", "state-2", "state-3"]
        assert two.journal.instance != shared == one.journal.instance
        assert (await two.pointer()).positions == {shared: 3, two.journal.instance: 3}

    two(tmp_path, play)


def test_copies_that_accept_in_turn_lose_nothing_and_soon_have_two_instances(
    tmp_path: Path,
) -> None:
    async def play(one: Scene, two: Scene) -> None:
        instances = {one.journal.instance}
        for number in range(2, 12):
            scene = (one, two)[number % 2]
            compared(scene.journal)
            events = [state_event(number), model_event(f"m{number}", "101", str(100 + number))]
            assert set(kinds(await scene.send(*events))) == {"published"}
            instances |= {one.journal.instance, two.journal.instance}
        assert len(instances) <= 3
        assert [state for state in await published_states(one) if state.startswith("state-")] == [
            f"state-{number}" for number in range(1, 12)
        ]
        assert len((await one.pointer()).positions) == len(instances)

    two(tmp_path, play)


def test_events_of_a_commit_that_a_copy_has_overtaken_are_folded_again(
    tmp_path: Path,
) -> None:
    """The answer to that commit was lost, so it was not withdrawn.

    The lineage shows that it was never made.
    """

    async def play(one: Scene, two: Scene) -> None:
        [accepted] = await two.accept(state_event(3))
        await two.journal.record(
            str(GOLDEN),
            "lost",
            {accepted.position: Outcome(OutcomeKind.PUBLISHED, "as state-3", "state-3")},
        )
        await one.send(state_event(2))
        compared(two.journal)
        await two.work()
        assert await published_states(one) == ["state-1", "state-2", "state-3"]

    two(tmp_path, play)


@pytest.mark.parametrize("owns", [True, False])
def test_an_unexplained_position_is_superseded_only_in_a_shared_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owns: bool
) -> None:
    monkeypatch.setattr(Journal, "owns_instance", owns)

    async def play(one: Scene, two: Scene) -> None:
        await one.send(state_event(2))
        await two.accept(state_event(3))
        waiting = [await next_of(two.journal)]
        if owns:
            with pytest.raises(InstanceShared, match="a copy of it is in use"):
                await two.pipeline.process(GOLDEN, waiting)
        else:
            await two.pipeline.process(GOLDEN, waiting)
            assert kinds(await two.outcomes(state_event(3).id)) == ["superseded"]

    two(tmp_path, play)


def test_a_dead_letter_of_a_lost_write_is_no_outcome_of_an_event_that_another_write_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source without durable memory remembers dead letters only (simulated world 3/750)."""
    monkeypatch.setattr(Journal, "owns_instance", False)

    async def play(one: Scene, two: Scene) -> None:
        [accepted] = await two.accept(state_event(3))
        letter = Outcome(OutcomeKind.DEAD_LETTERED, "there is no such scope")
        await two.journal.record(str(GOLDEN), "lost", {accepted.position: letter})
        await one.send(state_event(2))
        await two.pipeline.process(GOLDEN, [await next_of(two.journal)])
        assert kinds(await two.outcomes(state_event(3).id)) == ["superseded"]

    two(tmp_path, play)


def test_an_event_with_the_id_and_not_the_content_of_a_published_one_is_dead_lettered(
    tmp_path: Path,
) -> None:
    """Each copy checks ids against its own events only (simulated world 3/20788000502)."""

    async def play(one: Scene, two: Scene) -> None:
        await two.accept(model_event("m", "101", "10"))
        await one.send(model_event("m", "101", "9"), model_event("n", "102", "3"))
        compared(two.journal)
        await two.work()
        assert set(kinds(await two.outcomes("m"))) == {"dead-lettered"}

    two(tmp_path, play)


def test_without_durable_memory_such_an_event_has_not_the_outcome_of_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "owns_instance", False)

    async def play(one: Scene, two: Scene) -> None:
        await two.accept(model_event("m", "101", "8"))
        await one.send(model_event("m", "101", "9"))
        await two.pipeline.process(GOLDEN, [await next_of(two.journal)])
        assert kinds(await two.outcomes("m")) == ["superseded"]

    two(tmp_path, play)


def test_explained_events_settle_before_the_rest_gets_a_new_instance(tmp_path: Path) -> None:
    async def play(one: Scene, two: Scene) -> None:
        event = state_event(2)
        # Both get the same event, and only the copy gets another one.
        await two.accept(event, rollback_event("back", "state-1"))
        await one.send(event, model_event("m", "101", "9"))
        compared(two.journal)
        await two.work()
        assert kinds(await two.outcomes(event.id)) == ["published"]
        assert kinds(await two.outcomes("back")) == ["published"]
        assert (await two.pointer()).live.state == "state-1"

    two(tmp_path, play)


def test_the_instance_changes_only_while_no_lane_has_a_batch_in_progress(tmp_path: Path) -> None:
    async def play(one: Scene, two: Scene) -> None:
        shared = two.journal.instance
        await one.send(state_event(2))
        begun, go_on = asyncio.Event(), asyncio.Event()
        process, refused = two.pipeline.process, asyncio.Event()

        async def slow(scope, waiting):
            if scope == OTHER:
                begun.set()
                await go_on.wait()
            else:
                await begun.wait()
            try:
                return await process(scope, waiting)
            except InstanceShared:
                refused.set()
                raise

        two.pipeline.process = slow  # type: ignore[method-assign]
        await two.accept(state_event(3), state_event(2, scope=OTHER))
        compared(two.journal)
        stop = Stop()
        worker = worker_of(two)
        running = asyncio.create_task(worker.run(stop))
        async with asyncio.timeout(20):
            await refused.wait()
            await two.journal.backlog()  # all earlier calls of the journal are done
        assert two.journal.instance == shared
        go_on.set()
        await two.watcher.saw(lambda: len(two.watcher.settled_outcomes) == 2)
        stop.request("done")
        await running
        assert two.journal.instance != shared
        # The batch in progress has settled under the instance with which it began.
        assert shared in (await two.pointer(OTHER)).positions
        assert two.journal.instance not in (await two.pointer(OTHER)).positions
        assert await published_states(two) == ["state-1", "state-2", "state-3"]

    two(tmp_path, play)
