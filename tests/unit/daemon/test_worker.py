"""Lanes run concurrently, keep their order and lose no waiting event; a stop drains."""

import asyncio
import contextlib
import json

import pytest
from structlog.testing import capture_logs

from daemon import batches
from daemon.lifecycle import Stop
from daemon.publishing import layout
from daemon.publishing.live_tree.results import FinishedPass
from daemon.publishing.pointer import Revision
from daemon.publishing.reader import Scopes
from daemon.retry import Backoff
from daemon.stores.errors import StoreRefused, StoreUnavailable
from daemon.stores.port import Content
from daemon.worker import Worker
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.journals import next_of
from tests.support.memory_store import MemoryStore
from tests.support.scenes import GOLDEN, Scene, model_event, open_scene, state_event, worker_of

OTHER = Scope("texture", "edge")


class Switch:
    """A store that is unavailable for one scope while it is off."""

    def __init__(self, inner, scope):
        self._inner = inner
        self._scope = str(scope)
        self.on = True
        self.tried = asyncio.Event()

    def __getattr__(self, name):
        operation = getattr(self._inner, name)

        async def switched(key, *rest, **options):
            if not self.on and key.startswith(self._scope):
                self.tried.set()
                raise StoreUnavailable("away")
            return await operation(key, *rest, **options)

        return switched


def scenario(path, play, store=None):
    async def body():
        async with open_scene(path / "journal.db", store or MemoryStore(InlineRuntime())) as scene:
            await play(scene)

    asyncio.run(body())


def test_an_unavailable_scope_delays_no_other_and_resumes(tmp_path):
    store = Switch(MemoryStore(InlineRuntime()), OTHER)

    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(1, scope=OTHER))
        store.on = False
        await scene.accept(state_event(2, scope=OTHER), state_event(2))
        work = asyncio.create_task(scene.work())
        await scene.watcher.saw(lambda: scene.watcher.failures > 1)
        await scene.watcher.saw(lambda: scene.watcher.changes[-1].live.state == "state-2")
        store.on = True
        await work

        assert (await scene.pointer(OTHER)).live.state == "state-2"

    scenario(tmp_path, play, store)


def test_events_that_arrive_while_a_batch_is_published_are_all_folded_in_order(tmp_path):
    async def play(scene: Scene):
        await scene.accept(state_event(1))
        work = asyncio.create_task(scene.work())
        for number in range(2, 60):
            await scene.accept(model_event(f"m{number}", "101", str(100 + number)))
            await asyncio.sleep(0)
        await work
        await scene.work()
        pointer = await scene.pointer()

        assert pointer.highest_revision.derived == 58
        assert pointer.positions == {scene.journal.instance: 59}
        assert [id_ for _, id_, _ in scene.watcher.settled_outcomes][1:] == [
            f"m{number}" for number in range(2, 60)
        ]

    scenario(tmp_path, play)


def test_a_drain_finishes_the_batch_in_progress_and_starts_no_other(tmp_path):
    async def play(scene: Scene):
        stop, begun, go_on = Stop(), asyncio.Event(), asyncio.Event()
        process = scene.pipeline.process

        async def slow(scope, waiting):
            begun.set()
            await go_on.wait()
            return await process(scope, waiting[:1])

        scene.pipeline.process = slow
        await scene.accept(state_event(1), state_event(2))
        running = asyncio.create_task(worker_of(scene).run(stop))
        await begun.wait()
        stop.request("SIGTERM")
        await asyncio.sleep(0)
        assert not running.done()
        go_on.set()
        async with asyncio.timeout(10):
            await running

        assert (await scene.pointer()).live.state == "state-1"
        assert (await scene.journal.backlog()).events == 1, (
            "the other one is delivered again at the next start"
        )

    scenario(tmp_path, play)


def test_a_drain_does_not_wait_for_a_lane_between_two_tries(tmp_path):
    store = Switch(MemoryStore(InlineRuntime()), GOLDEN)

    async def play(scene: Scene):
        store.on = False
        stop = Stop()
        await scene.accept(state_event(1))
        running = asyncio.create_task(worker_of(scene, backoff=Backoff(3600, 3600)).run(stop))
        await scene.watcher.saw(lambda: scene.watcher.failures)
        stop.request("SIGTERM")
        async with asyncio.timeout(10):
            await running

        (waiting,) = (await scene.journal.backlog()).lanes
        assert waiting.waiting == 1
        assert waiting.error == "away"

    scenario(tmp_path, play, store)


def test_an_edited_live_tree_is_repaired_on_the_timer(tmp_path):
    store = MemoryStore(InlineRuntime())
    key = f"{GOLDEN}/docker-compose-gen/base/bundle/docker-compose.yaml"

    async def play(scene: Scene):
        await scene.send(state_event(1))
        good = await store.get(key)
        await store.delete(key, good.version)
        stop, before = Stop(), len(scene.watcher.passes)
        running = asyncio.create_task(worker_of(scene, live_tree_seconds=0.01).run(stop))
        await scene.watcher.saw(
            lambda: any(
                isinstance(done, FinishedPass) and "base/bundle/docker-compose.yaml" in done.written
                for done in scene.watcher.passes[before:]
            )
        )
        stop.request("done")
        await running

        assert (await store.get(key)).body == good.body

    scenario(tmp_path, play, store)


def test_a_live_tree_ahead_of_its_pointer_is_reported_at_each_pass(tmp_path):
    store = MemoryStore(InlineRuntime())
    key = f"{GOLDEN}/docker-compose-gen/.rebundle.json"

    async def play(scene: Scene):
        await scene.send(state_event(1))
        marker = await store.get(key)
        ahead = json.dumps(json.loads(marker.body) | {"sequence": 5000}).encode()
        await store.replace(key, Content(ahead), marker.version)
        stop = Stop()
        running = asyncio.create_task(worker_of(scene, live_tree_seconds=0.01).run(stop))
        await scene.watcher.saw(lambda: len(scene.watcher.failed_passes) > 1)
        stop.request("done")
        await running

        assert all("5000" in reason for _, reason in scene.watcher.failed_passes)

    scenario(tmp_path, play, store)


def test_a_live_tree_that_a_crash_left_behind_is_synced_at_the_start(tmp_path):
    store = MemoryStore(InlineRuntime())

    async def play(scene: Scene):
        await scene.accept(state_event(1))
        # Committed and settled, then killed before its live tree was written.
        await scene.pipeline.process(GOLDEN, [await next_of(scene.journal)])
        assert list(await store.scan(f"{GOLDEN}/docker-compose-gen/")) == []
        stop = Stop()
        running = asyncio.create_task(worker_of(scene).run(stop))
        await scene.watcher.saw(lambda: scene.watcher.passes)
        stop.request("done")
        await running

        assert (await scene.live_tree.survey(GOLDEN)).synced

    scenario(tmp_path, play, store)


def test_only_a_changed_pointer_is_followed_by_a_pass(tmp_path):
    async def play(scene: Scene):
        stop = Stop()
        running = asyncio.create_task(worker_of(scene).run(stop))
        await scene.accept(state_event(1))
        await scene.watcher.saw(
            lambda: [item.sequence for item in scene.watcher.passes][-1:] == [1]
        )
        before = len(scene.watcher.passes)
        # The scope does not have this model, and the state is published already.
        incomplete = model_event("m", "900", scopes=(GOLDEN,))
        await scene.accept(incomplete, state_event(1, event_id="again"))
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == 3)
        await scene.accept(model_event("n", "101", "9"))
        await scene.watcher.saw(
            lambda: [item.sequence for item in scene.watcher.passes][-1:] == [2]
        )
        stop.request("done")
        await running

        assert len(scene.watcher.passes) == before + 1

    scenario(tmp_path, play)


def test_a_pass_that_failed_is_repeated_after_the_next_batch_although_it_changes_nothing(tmp_path):
    async def play(scene: Scene):
        reconcile, fails = scene.live_tree.reconcile, [False]

        async def failing(scope):
            if fails[0]:
                raise StoreUnavailable("away")
            return await reconcile(scope)

        scene.live_tree.reconcile = failing
        await scene.batch(state_event(1))
        fails[0] = True
        stop = Stop()
        running = asyncio.create_task(worker_of(scene).run(stop))
        await scene.watcher.saw(lambda: len(scene.watcher.failed_passes) == 1)
        await scene.accept(state_event(2))
        await scene.watcher.saw(lambda: len(scene.watcher.failed_passes) == 2)
        assert scene.pipeline.needs_pass(GOLDEN)
        fails[0] = False
        await scene.accept(model_event("m", "900", scopes=(GOLDEN,)))
        await scene.watcher.saw(lambda: not scene.pipeline.needs_pass(GOLDEN))
        stop.request("done")
        await running

        assert scene.watcher.passes[-1].sequence == 2

    scenario(tmp_path, play)


def test_a_programming_error_in_a_lane_is_tried_again_and_loses_nothing(tmp_path):
    async def play(scene: Scene):
        process, faults = scene.pipeline.process, iter([KeyError("ours"), RuntimeError("ours too")])

        async def faulty(scope, waiting):
            for fault in faults:
                raise fault
            return await process(scope, waiting)

        scene.pipeline.process = faulty
        with capture_logs() as logs:
            (outcome,) = await scene.send(state_event(1))

        assert outcome.state == "state-1"
        assert scene.watcher.failures == 2
        failed = [line for line in logs if line["event"].endswith("tried again")]
        assert [line["scope"] for line in failed] == [str(GOLDEN)] * 2

    scenario(tmp_path, play)


@pytest.mark.parametrize("count", [25])
def test_scopes_are_processed_concurrently(tmp_path, count):
    async def play(scene: Scene):
        scopes = [Scope("texture", f"t{number}") for number in range(count)]
        together, process = asyncio.Barrier(5), scene.pipeline.process

        async def meet(scope, waiting):
            async with asyncio.timeout(10):
                await together.wait()  # returns only once five lanes are here at the same time
            return await process(scope, waiting)

        scene.pipeline.process = meet
        await scene.send(*(state_event(1, scope=scope) for scope in scopes))

        assert len(await scene.reader.scopes()) == count

    scenario(tmp_path, play)


def test_a_scope_created_during_a_listing_gets_the_later_events(
    tmp_path,
):
    async def play(scene: Scene):
        worker, stop = worker_of(scene), Stop()
        listed = scene.reader.scopes

        async def overtaken():
            found = await listed()
            await scene.watcher.saw(lambda: scene.watcher.passes)
            while worker.lanes[0].idle_since is None:  # noqa: ASYNC110  # an idle lane reports nothing
                await asyncio.sleep(0.005)
            return found

        scene.reader.scopes = overtaken
        await scene.accept(state_event(1), model_event("m", "101", "9"))
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == 2)
        stop.request("done")
        await running

        assert [str(outcome.kind) for outcome in await scene.outcomes("m")] == ["published"]

    scenario(tmp_path, play)


def test_a_lane_whose_events_are_all_taken_out_is_no_longer_stuck(tmp_path):
    store = Switch(MemoryStore(InlineRuntime()), GOLDEN)

    async def play(scene: Scene):
        worker, stop = worker_of(scene), Stop()
        (first,) = await scene.accept(state_event(1))
        store.on = False
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: scene.watcher.failures)
        (lane,) = worker.lanes
        assert lane.failure is not None
        await scene.journal.take_out(str(first.position), None, reason="wrong", by="op")
        store.on = True
        async with asyncio.timeout(10):
            while lane.failure is not None:  # noqa: ASYNC110  # its next try reports nothing
                await asyncio.sleep(0.005)
        stop.request("done")
        await running

    scenario(tmp_path, play, store)


def test_a_failed_listing_is_reported_and_events_that_name_their_scope_are_processed(
    tmp_path,
):
    async def play(scene: Scene):
        worker, stop = worker_of(scene), Stop()
        listed, refuse = scene.reader.scopes, True

        async def refused():
            if refuse:
                raise StoreRefused("no permission to list")
            return await listed()

        scene.reader.scopes = refused
        await scene.accept(state_event(1), model_event("m", "101", "9"))
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: scene.watcher.passes)
        async with asyncio.timeout(10):
            while worker.failure is None:  # noqa: ASYNC110  # without a lane there is no event
                await asyncio.sleep(0.005)
        assert "no permission to list" in worker.failure.reason
        refuse = False
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == 2)
        stop.request("done")
        await running

        assert worker.failure is None
        assert [str(outcome.kind) for outcome in await scene.outcomes("m")] == ["published"]

    scenario(tmp_path, play)


def test_a_stuck_scope_with_a_long_queue_delays_no_other(tmp_path):
    store = Switch(MemoryStore(InlineRuntime()), OTHER)

    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(1, scope=OTHER))
        store.on = False
        await scene.accept(
            *(
                model_event(f"m{number}", "101", str(10 + number), scopes=[OTHER])
                for number in range(1500)
            )
        )
        await scene.accept(state_event(2))
        work = asyncio.create_task(scene.work())
        await scene.watcher.saw(lambda: scene.watcher.changes[-1].live.state == "state-2")
        store.on = True
        await work

        assert str((await scene.pointer(OTHER)).live.revision) == "1.1500"

    scenario(tmp_path, play, store)


def run_until_settled(scene: Scene, events: int, check):
    """A worker until so many events have settled, then `check`."""

    async def act():
        worker, stop = worker_of(scene), Stop()
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == events)
        await check(worker)
        stop.request("done")
        await running

    return act()


MISSPELT = [Scope(f"typo-{number}", "core-versions") for number in range(20)]


def test_scopes_that_do_not_exist_get_no_later_event_and_their_lanes_are_removed(tmp_path):
    async def play(scene: Scene):
        await scene.send(state_event(1))
        await scene.accept(model_event("m1", "101", "9", scopes=MISSPELT))

        async def check(worker: Worker):
            async with asyncio.timeout(10):
                while any(lane.idle_since is None for lane in worker.lanes):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            tasks = len(asyncio.all_tasks())
            await scene.accept(model_event("m2", "101", "10"))
            await scene.watcher.saw(lambda: scene.watcher.settled_outcomes[-1][1] == "m2")
            assert set(scene.watcher.removed_lanes) == set(MISSPELT)
            assert [lane.scope for lane in worker.lanes] == [GOLDEN]
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) <= tasks - len(MISSPELT) + 1

        await run_until_settled(scene, 1 + len(MISSPELT), check)
        assert [str(outcome.kind) for outcome in await scene.outcomes("m2")] == ["published"]

    scenario(tmp_path, play)


def test_lanes_are_removed_when_the_timer_lists_the_bucket(tmp_path):
    async def play(scene: Scene):
        await scene.accept(model_event("m", "101", "9", scopes=MISSPELT))
        worker, stop = worker_of(scene, live_tree_seconds=0.01), Stop()
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: len(scene.watcher.removed_lanes) == len(MISSPELT))
        assert worker.lanes == ()
        # A removed lane returns with its next event.
        await scene.accept(state_event(1, scope=MISSPELT[0]))
        await scene.watcher.saw(lambda: scene.watcher.changes)
        stop.request("done")
        await running

        assert (await scene.pointer(MISSPELT[0])).live.state == "state-1"

    scenario(tmp_path, play)


class Unreadable:
    """A bucket with a folder that cannot be listed."""

    def __init__(self, reader, folder):
        self._reader = reader
        self._folder = folder
        self.broken = True

    def __getattr__(self, name):
        return getattr(self._reader, name)

    async def scopes(self):
        scopes = await self._reader.scopes()
        if not self.broken:
            return scopes
        found = tuple(row for row in scopes if row.bundle != self._folder)
        return Scopes(found, {self._folder: "Permission denied"})


@pytest.mark.parametrize("restarted", [False, True])
def test_an_event_without_bundles_reaches_known_scopes_of_a_folder_that_cannot_be_listed(
    tmp_path, restarted
):
    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(1, scope=OTHER))
        reader = Unreadable(scene.reader, OTHER.bundle)
        reader.broken = restarted  # else the folder is listed once before
        scene.reader = reader
        worker, stop = worker_of(scene, live_tree_seconds=0.01), Stop()
        running = asyncio.create_task(worker.run(stop))
        passes = len(scene.watcher.passes)
        await scene.watcher.saw(lambda: len(scene.watcher.passes) > passes + 2)
        reader.broken = True
        await scene.accept(model_event("m", "101", "9"))
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == 4)
        assert worker.unreadable == {OTHER.bundle: "Permission denied"}
        stop.request("done")
        await running

        assert {scope for scope, id_, _ in scene.watcher.settled_outcomes if id_ == "m"} == {
            str(GOLDEN),
            str(OTHER),
        }

    scenario(tmp_path, play)


def test_an_unreadable_scope_is_named_and_the_others_are_synced(tmp_path):
    store = MemoryStore(InlineRuntime())

    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(1, scope=OTHER))
        key = f"{OTHER}/pointer.json"
        good = await store.get(key)
        bad = await store.replace(key, Content(b"{}"), good.version)
        worker, stop = worker_of(scene, live_tree_seconds=0.01), Stop()
        running = asyncio.create_task(worker.run(stop))
        passes = len(scene.watcher.passes)
        await scene.watcher.saw(lambda: len(scene.watcher.passes) > passes + 1)
        assert list(worker.unreadable) == [str(OTHER)]
        assert "rebundle recover" in worker.unreadable[str(OTHER)]
        await store.replace(key, Content(good.body), bad)
        async with asyncio.timeout(10):
            while worker.unreadable:  # noqa: ASYNC110  # the next pass
                await asyncio.sleep(0.005)
        stop.request("done")
        await running

    scenario(tmp_path, play, store)


class Hanging:
    """A store whose calls for some scopes never return while it is off."""

    def __init__(self, inner, scopes):
        self._inner = inner
        self._scopes = tuple(f"{scope}/" for scope in scopes)
        self.on = True

    def __getattr__(self, name):
        operation = getattr(self._inner, name)

        async def called(key, *rest, **options):
            if not self.on and key.startswith(self._scopes):
                await asyncio.Event().wait()
            return await operation(key, *rest, **options)

        return called


SCOPES = [Scope("bundle", f"target-{number}") for number in range(12)]


def test_with_eight_hanging_scopes_the_ninth_is_published(tmp_path):
    store = Hanging(MemoryStore(InlineRuntime()), SCOPES[:8])

    async def play(scene: Scene):
        worker, stop = worker_of(scene, lanes_at_once=8), Stop()
        store.on = False
        await scene.accept(*(state_event(1, scope=scope) for scope in SCOPES[:9]))
        running = asyncio.create_task(worker.run(stop))
        async with asyncio.timeout(5):
            await scene.watcher.saw(lambda: scene.watcher.settled_outcomes)
        assert str(scene.watcher.settled_outcomes[0][0]) == str(SCOPES[8])
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    scenario(tmp_path, play, store)


def test_a_backlog_is_published_with_one_change_for_each_scope(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "MOST_EVENTS", 50)

    async def play(scene: Scene):
        await scene.accept(*(state_event(1, scope=scope) for scope in SCOPES))
        await scene.work()
        before = len(scene.watcher.changes)
        for number in range(20):
            await scene.accept(
                *(
                    model_event(f"{scope}-{number}", "101", str(100 + number), scopes=[scope])
                    for scope in SCOPES
                )
            )
        worker, stop = worker_of(scene, gather_seconds=30.0), Stop()
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == len(SCOPES) * 21)
        stop.request("done")
        await running

        assert len(scene.watcher.changes) - before == len(SCOPES)

    scenario(tmp_path, play)


def test_a_backlog_waits_once_for_its_end_and_not_before_each_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "MOST_EVENTS", 2)

    async def play(scene: Scene):
        await scene.send(state_event(1))
        # Every `take` is full, and the last one is followed by none.
        await scene.accept(*(model_event(f"m{n}", "101", str(100 + n)) for n in range(20)))
        worker, stop = worker_of(scene, gather_seconds=1.0), Stop()
        running = asyncio.create_task(worker.run(stop))
        async with asyncio.timeout(5):
            await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == 21)
        stop.request("done")
        await running

    scenario(tmp_path, play)


def test_an_event_waits_until_its_predecessor_has_its_scopes(tmp_path):
    """Otherwise the pointer would pass the predecessor, whose model version would be lost."""

    async def play(scene: Scene):
        await scene.send(state_event(1))
        assign, assigning, release = scene.journal.assign, asyncio.Event(), asyncio.Event()

        async def slow(scopes):
            assigning.set()
            await release.wait()
            await assign(scopes)

        scene.journal.assign = slow
        await scene.accept(
            model_event("unassigned", "101", "8"), model_event("named", "102", "9", scopes=[GOLDEN])
        )
        worker, stop = worker_of(scene), Stop()
        running = asyncio.create_task(worker.run(stop))
        await assigning.wait()
        await asyncio.sleep(0.2)
        assert [id_ for _, id_, _ in scene.watcher.settled_outcomes][1:] == []
        release.set()
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == 3)
        stop.request("done")
        await running

        assert [id_ for _, id_, _ in scene.watcher.settled_outcomes][1:] == ["unassigned", "named"]

    scenario(tmp_path, play)


def test_an_event_goes_to_no_scope_of_a_later_event_although_its_assignment_failed(tmp_path):
    async def play(scene: Scene):
        await scene.send(state_event(1))
        assign, failures = scene.journal.assign, iter([StoreUnavailable("away")])

        async def failing(scopes):
            for failure in failures:
                raise failure
            await assign(scopes)

        scene.journal.assign = failing
        await scene.accept(model_event("early", "101", "8"), state_event(2, scope=OTHER))
        await scene.work()

        outcomes = {
            (scope, id_) for scope, id_, _ in scene.watcher.settled_outcomes if id_ == "early"
        }
        assert outcomes == {(str(GOLDEN), "early")}

    scenario(tmp_path, play)


def test_no_event_is_kept_in_memory_while_none_waits(tmp_path):
    async def play(scene: Scene):
        worker, stop = worker_of(scene), Stop()
        running = asyncio.create_task(worker.run(stop))
        await scene.accept(
            state_event(1), *(model_event(f"m{n}", "101", str(n)) for n in range(2, 9))
        )
        await scene.watcher.saw(lambda: len(scene.watcher.settled_outcomes) == 8)
        async with asyncio.timeout(10):
            while len(scene.journal._decoded):  # noqa: ASYNC110  # nothing reports that
                await asyncio.sleep(0.01)
        stop.request("done")
        await running

    scenario(tmp_path, play)


def test_a_lone_event_does_not_wait_for_others(tmp_path):
    async def play(scene: Scene):
        worker, stop = worker_of(scene, gather_seconds=3600.0), Stop()
        running = asyncio.create_task(worker.run(stop))
        async with asyncio.timeout(10):
            await scene.accept(state_event(1))
            await scene.watcher.saw(lambda: scene.watcher.settled_outcomes)
        stop.request("done")
        await running

    scenario(tmp_path, play)


def test_a_batch_starts_after_the_gathering_although_the_backlog_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "MOST_EVENTS", 1)

    async def play(scene: Scene):
        # With a limit of one event, every `take` is full, so the backlog is never known to end.
        worker, stop = worker_of(scene, gather_seconds=0.05), Stop()
        running = asyncio.create_task(worker.run(stop))
        async with asyncio.timeout(10):
            await scene.accept(state_event(1))
            await scene.watcher.saw(lambda: scene.watcher.settled_outcomes)
        stop.request("done")
        await running

    scenario(tmp_path, play)


@pytest.mark.parametrize("hanging", [1, 12], ids=["one", "more-than-there-are-places"])
def test_passes_over_hanging_scopes_end_at_their_limit_and_delay_no_other(tmp_path, hanging):
    scopes = [Scope("texture", f"t{number}") for number in range(hanging)]
    store = Hanging(MemoryStore(InlineRuntime()), scopes)
    key = f"{GOLDEN}/docker-compose-gen/README.md"

    async def play(scene: Scene):
        await scene.send(state_event(1), *(state_event(1, scope=scope) for scope in scopes))
        store.on = False
        # A scope that hangs does not delay the passes of the others, so they never reach the limit.
        limit = 3600 if hanging == 1 else 0.5
        worker, stop = (
            worker_of(scene, live_tree_seconds=0.01, pass_seconds=limit),
            Stop(),
        )
        running = asyncio.create_task(worker.run(stop))
        for _ in range(3):
            there = await store.get(key)
            await store.delete(key, there.version)
            before = len(scene.watcher.passes)
            await scene.watcher.saw(
                lambda before=before: any(
                    "README.md" in done.written for done in scene.watcher.passes[before:]
                )
            )
        if hanging > 1:
            async with asyncio.timeout(20):
                while len(set(scene.watcher.failed_passes)) < hanging:  # noqa: ASYNC110  # a pass of each scope
                    await asyncio.sleep(0.01)
            reasons = {reason for _, reason in scene.watcher.failed_passes}
            assert reasons == {"the pass over the live tree was stopped after 0.5 s"}
        store.on = True
        stop.request("done")
        async with asyncio.timeout(20):
            await running

    scenario(tmp_path, play, store)


def test_a_live_tree_that_cannot_follow_makes_no_readable_scope_unreadable(tmp_path):
    """The marker is ahead of an intact pointer: one fault, which `Reporter.behind` reports."""
    store = MemoryStore(InlineRuntime())

    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(1, scope=OTHER))
        key = layout.live_tree(OTHER, layout.MARKER)
        marker = await store.get(key)
        ahead = json.loads(marker.body) | {"sequence": 99}
        await store.replace(key, Content(json.dumps(ahead).encode()), marker.version)
        worker, stop = worker_of(scene, live_tree_seconds=0.01), Stop()
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: len(scene.watcher.failed_passes) > 1)
        assert worker.unreadable == {}
        stop.request("done")
        await running

    scenario(tmp_path, play, store)


def test_nothing_is_reported_about_a_removed_scope(tmp_path):
    """Also without any event for the scope since the start, so without a lane."""
    store = MemoryStore(InlineRuntime())

    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(1, scope=OTHER))
        key = f"{OTHER}/pointer.json"
        await store.replace(key, Content(b"{}"), (await store.get(key)).version)
        worker, stop = worker_of(scene, live_tree_seconds=0.01), Stop()
        running = asyncio.create_task(worker.run(stop))
        await scene.watcher.saw(lambda: str(OTHER) in worker.unreadable)
        for entry in await store.scan(f"{OTHER}/"):
            await store.delete(entry.key, entry.version)
        await scene.watcher.saw(lambda: scene.watcher.removed_lanes)
        assert (scene.watcher.removed_lanes, worker.unreadable) == ([OTHER], {})
        stop.request("done")
        await running

    scenario(tmp_path, play, store)


def test_a_bucket_that_cannot_be_listed_is_unreadable_until_it_can(tmp_path):
    async def play(scene: Scene):
        await scene.send(state_event(1))
        scene.reader = Unlistable(scene.reader)
        worker, stop = worker_of(scene, live_tree_seconds=0.01), Stop()
        running = asyncio.create_task(worker.run(stop))
        await scene.reader.asked.wait()
        assert worker.unreadable == {"": "the bucket cannot be listed: away"}
        scene.reader.broken = False
        async with asyncio.timeout(10):
            while worker.unreadable:  # noqa: ASYNC110  # the next listing
                await asyncio.sleep(0.005)
        stop.request("done")
        await running

    scenario(tmp_path, play)


class Unlistable:
    """A reader whose bucket cannot be listed while it is `broken`."""

    def __init__(self, reader):
        self._reader = reader
        self.broken = True
        self.asked = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._reader, name)

    async def scopes(self):
        if self.broken:
            asyncio.get_running_loop().call_soon(self.asked.set)
            raise StoreUnavailable("away")
        return await self._reader.scopes()


class Mount:
    """A bucket on a volume that may be unmounted.

    An empty folder remains, and writes to it succeed.
    """

    def __init__(self):
        self.volume = self.mounted = MemoryStore(InlineRuntime())
        self.empty = MemoryStore(InlineRuntime())

    def unmount(self):
        self.mounted = self.empty

    def mount(self):
        self.mounted = self.volume

    def __getattr__(self, name):
        return getattr(self.mounted, name)


def settled_events(scene: Scene) -> set[tuple[str, str]]:
    return {(scope, event_id) for scope, event_id, _ in scene.watcher.settled_outcomes}


@pytest.mark.parametrize("restarted", [False, True])
def test_nothing_is_published_or_settled_while_the_volume_of_the_bucket_is_missing(
    tmp_path, restarted
):
    """A new state, an event for every scope (the empty folder has none), and one for a scope that
    does not exist.
    """
    store = Mount()

    async def body():
        async with open_scene(tmp_path / "journal.db", store, remembers_bucket=True) as scene:
            worker, stop = worker_of(scene), Stop()
            if restarted:
                store.unmount()
            running = asyncio.create_task(worker.run(stop))
            if not restarted:
                await scene.bucket.check()
                store.unmount()
            new = Scope("texture", "new")
            await scene.accept(state_event(2), model_event("named", "101", "9", scopes=[new]))
            await scene.watcher.saw(lambda: scene.watcher.failed_lanes == {str(GOLDEN), str(new)})
            await scene.accept(model_event("everywhere", "101", "10"))
            async with asyncio.timeout(10):
                while worker.failure is None:  # noqa: ASYNC110  # without a lane there is no event
                    await asyncio.sleep(0.005)
            assert "is its volume not mounted" in scene.bucket.pending
            assert (await scene.journal.backlog()).events == 3
            assert list(await store.empty.scan("")) == []
            store.mount()
            golden, absent = str(GOLDEN), str(new)
            expected = {(golden, state_event(2).id), (absent, "named"), (golden, "everywhere")}
            async with asyncio.timeout(30):
                while (await scene.journal.backlog()).events:  # noqa: ASYNC110  # the journal sends no event
                    await asyncio.sleep(0.005)
            stop.request("done")
            await running
            # The lane of the absent scope gets the third event only if it still waits when the
            # scopes of the bucket can be listed again.
            optional = {(absent, "everywhere")}
            assert expected <= settled_events(scene) <= expected | optional
            assert scene.bucket.pending is None
            assert (await scene.pointer()).live.revision == Revision(producer=2, derived=1)

    async def first():
        async with open_scene(tmp_path / "journal.db", store, remembers_bucket=True) as scene:
            await scene.send(state_event(1))

    asyncio.run(first())
    asyncio.run(body())


def test_a_dispatcher_that_ended_without_a_stop_is_reported(tmp_path):
    """A cancellation from below ends a task of a group silently."""

    async def play(scene: Scene):
        worker, stop = worker_of(scene), Stop()

        async def cancelled(limit):
            raise asyncio.CancelledError

        assert not worker.dispatcher_ended
        scene.journal.take = cancelled
        running = asyncio.create_task(worker.run(stop))
        async with asyncio.timeout(10):
            while not worker.dispatcher_ended:  # noqa: ASYNC110  # the fault is not reported
                await asyncio.sleep(0)
        assert not running.done()
        stop.request("done")
        await running

    scenario(tmp_path, play)
