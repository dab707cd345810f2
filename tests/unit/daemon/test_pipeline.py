"""Batches of a scope end to end: real journal, real renderer, real publication on the memory store."""

import asyncio
import contextlib
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.publishing import layout, operator_commands, protocol
from daemon.publishing import pointer as pointers
from daemon.publishing.errors import OutcomeUnresolved, PointerLost, VerificationFailed
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import PublicationId
from daemon.stores.errors import OutcomeUnknown, StoreRefused
from daemon.stores.port import Content
from events.model import Identity, Outcome, OutcomeKind, Position
from events.records import Accepted
from events.source import Delivery
from renderers import gate
from renderers.bundle import Renderer
from renderers.errors import GateFailure, UnsafeText
from renderers.limits import BundleLimits
from renderers.values import Scope
from tests.builders import composition_document
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore
from tests.support.journals import next_of
from tests.support.memory_store import MemoryStore
from tests.support.scenes import (
    GOLDEN,
    Scene,
    complete_model_event,
    model_event,
    open_scene,
    rollback_event,
    state_event,
)

OTHER = Scope("texture", "edge")


@pytest.fixture
def store():
    return MemoryStore(InlineRuntime())


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def run(coroutine):
    return asyncio.run(coroutine)


def scenario(path, store, play, **options):
    """Runs a scenario on one open scene."""

    async def body():
        async with open_scene(path, store, **options) as scene:
            return await play(scene)

    return run(body())


def kinds(outcomes):
    return [str(outcome.kind) for outcome in outcomes]


def test_first_state_creates_the_scope_and_is_live(journal_path, store):
    async def play(scene: Scene):
        outcomes = await scene.send(state_event(42))
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["published"]
        assert pointer.sequence == 1
        assert pointer.live == pointer.desired
        assert pointer.live.state == "state-42"
        assert pointer.positions == {scene.journal.instance: 1}

    scenario(journal_path, store, play)


def test_model_version_makes_a_derived_state_that_keeps_the_operators_file(journal_path, store):
    async def play(scene: Scene):
        await scene.batch(state_event(42))
        key = f"{GOLDEN}/docker-compose-gen/example/conf/bundle/.env"
        stored = await store.get(key)
        edited = stored.body + b"\n# mine\r\n\tMODEL_PROXY_HTTP_PORT=9000   \n"
        await store.replace(key, Content(edited), stored.version)

        outcomes = await scene.batch(
            model_event("m", "101", "9"), complete_model_event("n", "104", scopes=[GOLDEN])
        )
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["published", "published"]
        assert str(pointer.live.revision) == "42.2"
        assert pointer.live.state.startswith("derived-42.2-")
        assert pointer.sequence == 2, "one batch, one change of the pointer"
        assert (await store.get(key)).body == edited

    scenario(journal_path, store, play)


def test_a_to_b_and_back_to_a_is_two_changes_and_is_published(journal_path, store):
    async def play(scene: Scene):
        await scene.batch(state_event(42))
        before = await scene.pointer()
        version = next(
            m["version"] for m in (await _composition(scene))["models"] if m["id"] == "101"
        )
        await scene.batch(
            model_event("b", "101", "9", updated=True),
            model_event("a", "101", version, updated=True),
        )
        after = await scene.pointer()

        assert after.highest_revision.derived == 2
        assert after.sequence == before.sequence + 1
        assert after.live.state != before.live.state
        assert after.live.composition_digest == before.live.composition_digest

    scenario(journal_path, store, play)


def test_derived_state_before_an_explicit_one_in_a_batch_is_skipped(journal_path, store):
    async def play(scene: Scene):
        await scene.batch(state_event(42))
        outcomes = await scene.batch(model_event("m", "101", "9"), state_event(43))
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["superseded", "published"]
        assert str(pointer.live.revision) == "43"
        assert [publication.kind for publication in pointer.retained] == ["explicit", "explicit"]

    scenario(journal_path, store, play)


def test_every_explicit_state_of_a_burst_can_be_rolled_back_to(journal_path, store):
    async def play(scene: Scene):
        await scene.batch(
            *(state_event(revision, version=str(revision)) for revision in range(1, 6))
        )
        pointer = await scene.pointer()

        assert [publication.state for publication in pointer.retained] == [
            f"state-{revision}" for revision in range(1, 6)
        ]
        assert pointer.sequence == 1
        done = await scene.operations.carry_out(
            GOLDEN, operator_commands.rollback("state-2"), "op", "score drift"
        )
        assert done.after.live.state == "state-2"
        assert done.after.desired.state == "state-5"

    scenario(journal_path, store, play)


def test_the_same_event_twice_changes_nothing(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(42))
        again = await scene.accept(state_event(42))
        await scene.work()

        assert [receipt.known for receipt in again] == [True]
        assert (await scene.pointer()).sequence == 1

    scenario(journal_path, store, play)


def test_an_event_from_another_journal_is_recognised_by_the_pointer(tmp_path, store):
    async def play():
        async with open_scene(tmp_path / "one.db", store) as one:
            await one.send(state_event(42), model_event("m", "101", "9"))
            before = (await one.pointer()).sequence
        async with open_scene(tmp_path / "two.db", store) as two:
            outcomes = await two.send(model_event("m", "101", "9"))
            assert kinds(outcomes) == ["published"]
            assert (await two.pointer()).sequence == before

    run(play())


def test_a_known_event_settles_although_the_manifest_that_lists_it_is_damaged(tmp_path, store):
    async def play():
        async with open_scene(tmp_path / "one.db", store) as one:
            await one.send(state_event(42), model_event("m", "101", "9"))
            [first, _] = (await one.pointer()).retained
            key = layout.manifest(GOLDEN, first.state, first.attempt)
            await store.replace(key, Content(b"{}"), (await store.get(key)).version)
        async with open_scene(tmp_path / "two.db", store) as two:
            assert kinds(await two.send(state_event(42))) == ["ignored"]

    run(play())


def test_another_event_under_a_folded_id_is_a_dead_letter(tmp_path, store):
    async def play():
        async with open_scene(tmp_path / "one.db", store) as one:
            await one.send(state_event(42), model_event("m", "101", "9"))
        async with open_scene(tmp_path / "two.db", store) as two:
            assert kinds(await two.send(model_event("m", "101", "10"))) == ["dead-lettered"]

    run(play())


def lane_of(*events):
    """The deliveries of events at `<partition>@<offset>`, in the order of their lane."""
    lane = []
    for at, event in events:
        partition, offset = at.split("@")
        lane.append(
            Delivery(
                event,
                Identity("kafka", event.source, event.id),
                f"{len(lane):064x}",
                Position(f"kafka:cluster/topic/{partition}", int(offset)),
                "2026-11-22T10:00:00Z",
                (str(GOLDEN),),
            )
        )
    return lane


async def settle_all(scene, lane):
    """The kinds of outcomes by event id."""
    waiting = lane
    while waiting:
        done = await scene.pipeline.process(GOLDEN, waiting)
        assert done
        waiting = [delivery for delivery in waiting if delivery.position not in done]
    ids = {delivery.event.id for delivery in lane}
    return {
        event_id: str(outcome.kind)
        for _, event_id, outcome in scene.watcher.settled_outcomes
        if event_id in ids
    }


def test_a_lane_with_events_of_two_instances_keeps_its_order_and_loses_none(journal_path, store):
    """With offsets compared across instances, the event behind the rollback was superseded."""

    async def play(scene: Scene):
        await scene.batch(state_event(1), state_event(2))
        lane = lane_of(
            ("1@2", model_event("first", "101", "8")),
            ("0@100", rollback_event("rollback", "state-1")),
            ("1@49", model_event("second", "102", "9")),
            ("1@50", replace(model_event("invalid"), data={})),
        )

        assert await settle_all(scene, lane) == {
            "first": "published",
            "rollback": "published",
            "second": "published",
            "invalid": "dead-lettered",
        }
        versions = {
            model["id"]: model["version"] for model in (await _composition(scene))["models"]
        }
        positions = (await scene.pointer()).positions
        assert versions["102"] == "9"
        assert (positions["kafka:cluster/topic/0"], positions["kafka:cluster/topic/1"]) == (100, 50)

    scenario(journal_path, store, play)


def test_a_batch_that_ends_early_settles_what_precedes_its_end_in_the_lane(journal_path, store):
    def has_bad_model(composition):
        return any(model.id == "666" for model in composition.models)

    async def play(scene: Scene):
        await scene.batch(state_event(42))
        lane = lane_of(
            ("1@2", replace(model_event("before"), data={})),
            ("0@100", model_event("good", "101", "9")),
            ("1@3", replace(model_event("behind"), data={})),
            ("1@4", complete_model_event("bad", "666", scopes=[GOLDEN])),
            ("0@101", model_event("fine", "102", "9")),
        )
        first = await scene.pipeline.process(GOLDEN, lane)

        assert first == {lane[0].position, lane[1].position}
        assert (await scene.pointer()).positions["kafka:cluster/topic/1"] == 2
        assert await settle_all(scene, lane[2:]) == {
            "behind": "dead-lettered",
            "bad": "dead-lettered",
            "fine": "published",
        }

    scenario(journal_path, store, play, check=_refusing(has_bad_model))


def test_a_waiting_event_with_a_field_that_an_older_release_ignored_stops_no_other(
    journal_path, store
):
    """The field is known now, and its value breaks the rule."""

    async def play(scene: Scene):
        await scene.batch(state_event(42))
        waiting = state_event(43)
        waiting.data["models"][0]["serving"] |= {"shm_size": "much"}
        lane = lane_of(("1@2", waiting), ("1@3", model_event("behind", "101", "9")))

        kinds = await settle_all(scene, lane)

        assert kinds == {waiting.id: "dead-lettered", "behind": "published"}
        [reason] = [
            outcome.reason
            for _, event_id, outcome in scene.watcher.settled_outcomes
            if event_id == waiting.id
        ]
        assert "$.data.models[0].serving.shm_size" in reason

    scenario(journal_path, store, play)


def test_a_manifest_lists_the_events_of_two_instances_in_the_order_of_the_lane(journal_path, store):
    async def play(scene: Scene):
        await scene.batch(state_event(1))
        lane = lane_of(
            ("0@100", model_event("m", "101", "9")),
            ("1@5", model_event("n", "102", "9")),
            ("0@101", state_event(2, event_id="state")),
        )
        await settle_all(scene, lane)
        manifest = await scene.reader.manifest(GOLDEN, (await scene.pointer()).live)

        assert [(event.id, event.skipped) for event in manifest.events] == [
            ("m", True),
            ("n", True),
            ("state", False),
        ]

    scenario(journal_path, store, play)


def _refusing(predicate):
    def check(composition, defaults, bundle, overridden):
        if predicate(composition):
            raise GateFailure("base/bundle/docker-compose.yaml", 7, "image is another one", "x")
        gate.check(composition, defaults, bundle, overridden)

    return check


def test_burst_with_a_state_that_fails_the_gate_publishes_the_others(journal_path, store):
    def has_version_2(composition):
        return composition.model("101").version == "2"

    async def play(scene: Scene):
        outcomes = await scene.batch(
            *(state_event(number, version=str(number)) for number in (1, 2, 3))
        )
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["published", "dead-lettered", "published"]
        assert [publication.state for publication in pointer.retained] == ["state-1", "state-3"]
        assert scene.watcher.refusals == ["state-2"]
        assert pointer.positions == {scene.journal.instance: 3}

    scenario(journal_path, store, play, check=_refusing(has_version_2))


def test_a_refused_state_is_reported_once_although_its_outcome_is_decided_again(
    journal_path, store
):
    """A cached pointer that no compare-and-swap confirms makes the pipeline decide again."""

    def has_version_2(composition):
        return composition.model("101").version == "2"

    async def play(scene: Scene):
        await scene.batch(state_event(1, version="1"))
        assert kinds(await scene.batch(state_event(2, version="2"))) == ["dead-lettered"]

        assert scene.watcher.refusals == ["state-2"]

    scenario(journal_path, store, play, check=_refusing(has_version_2))


def test_a_state_with_unrenderable_text_is_a_dead_letter(journal_path, store):
    class Strict(Renderer):
        def render(self, composition, defaults, stamp, templates=None):
            if composition.model("101").version == "2":
                raise UnsafeText("models.txt", "a line must not hold this")
            return super().render(composition, defaults, stamp, templates)

    async def play(scene: Scene):
        outcomes = await scene.batch(state_event(1, version="1"), state_event(2, version="2"))

        assert kinds(outcomes) == ["published", "dead-lettered"]
        assert (await scene.pointer()).live.state == "state-1"

    scenario(journal_path, store, play, renderer=Strict())


def test_a_derived_state_that_fails_the_gate_dead_letters_only_the_faulty_event(
    journal_path, store
):
    def has_bad_model(composition):
        return any(model.id == "666" for model in composition.models)

    async def play(scene: Scene):
        await scene.batch(state_event(42))
        outcomes = await scene.batch(
            model_event("good", "101", "9"),
            complete_model_event("bad", "666", scopes=[GOLDEN]),
            model_event("fine", "102", "9"),
        )
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["published", "dead-lettered", "published"]
        composition = await _composition(scene)
        versions = {model["id"]: model["version"] for model in composition["models"]}
        assert versions["101"] == versions["102"] == "9"
        assert "666" not in versions
        assert str(pointer.live.revision) == "42.2"

    scenario(journal_path, store, play, check=_refusing(has_bad_model))


def test_an_event_for_several_scopes_settles_in_each_although_one_fails(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(42), state_event(7, scope=OTHER))
        broken = f"{OTHER}/pointer.json"
        stored = await store.get(broken)
        await store.replace(broken, Content(b"not a pointer"), stored.version)
        await scene.accept(complete_model_event("m", "104", scopes=[GOLDEN, OTHER]))
        worker = asyncio.create_task(scene.work())
        await scene.watcher.saw(lambda: scene.watcher.failures)
        await scene.watcher.saw(lambda: str(scene.watcher.changes[-1].live.revision) == "42.1")
        waiting = (await scene.journal.backlog()).lanes

        assert [lane.scope for lane in waiting] == [str(OTHER)], "the other scope blocks nothing"
        assert "pointer.json" in waiting[0].error
        broken_version = (await store.get(broken)).version
        await store.replace(broken, Content(stored.body), broken_version)
        await worker
        assert kinds(await scene.outcomes("m")) == ["published", "published"]

    scenario(journal_path, store, play)


def test_an_event_without_bundles_goes_to_every_scope_that_has_the_model(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(42), state_event(7, scope=OTHER))
        await scene.send(model_event("m", "101", "9"), model_event("none", "999", "1"))

        assert kinds(await scene.outcomes("m")) == ["published", "published"]
        assert kinds(await scene.outcomes("none")) == ["ignored", "ignored"]

    scenario(journal_path, store, play)


def test_an_event_without_bundles_finds_a_scope_that_an_earlier_one_creates(journal_path, store):
    async def play(scene: Scene):
        outcomes = await scene.send(state_event(42), model_event("m", "101", "9"))

        assert kinds(outcomes) == ["published", "published"]
        assert str((await scene.pointer()).live.revision) == "42.1"

    scenario(journal_path, store, play)


def test_a_replayed_dead_letter_is_folded_once_its_scope_exists(journal_path, store):
    async def play(scene: Scene):
        assert kinds(await scene.send(complete_model_event("m", "104", scopes=[GOLDEN]))) == [
            "dead-lettered"
        ]
        await scene.send(state_event(42))
        (letter,) = await scene.journal.dead_letters()
        await scene.journal.replay(letter.id, by="op")
        await scene.work()

        assert await scene.journal.dead_letters() == ()
        assert kinds(await scene.outcomes("m")) == ["published"]
        assert any(model["id"] == "104" for model in (await _composition(scene))["models"])

    scenario(journal_path, store, play)


def test_an_event_taken_out_of_a_stuck_lane_lets_the_next_one_pass(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(42))
        key = f"{GOLDEN}/pointer.json"
        good = await store.get(key)
        await store.replace(key, Content(b"{}"), good.version)
        accepted: list[Accepted] = await scene.accept(
            model_event("stuck", "101", "8"), model_event("next", "101", "9")
        )
        worker = asyncio.create_task(scene.work())
        await scene.watcher.saw(lambda: scene.watcher.failures)
        await scene.journal.take_out(str(accepted[0].position), None, reason="wrong model", by="op")
        await store.replace(key, Content(good.body), (await store.get(key)).version)
        await worker

        assert kinds(await scene.outcomes("stuck")) == ["dead-lettered"]
        assert kinds(await scene.outcomes("next")) == ["published"]
        assert str((await scene.pointer()).live.revision) == "42.1"

    scenario(journal_path, store, play)


def test_a_kill_between_commit_and_settling_publishes_once(journal_path, store):
    class Killed(BaseException):
        pass

    async def play():
        async with open_scene(journal_path, store) as scene:
            await scene.accept(state_event(42), model_event("m", "101", "9"))
            delivered = [await next_of(scene.journal), await next_of(scene.journal)]

            async def die(*_):
                raise Killed

            scene.journal.settle = die
            with pytest.raises(Killed):
                await scene.pipeline.process(GOLDEN, delivered[:1])
        async with open_scene(journal_path, store) as scene:
            await scene.work()
            pointer = await scene.pointer()

            assert kinds(await scene.outcomes("visual-anomaly/core-versions/state-42")) == [
                "published"
            ]
            assert kinds(await scene.outcomes("m")) == ["published"]
            assert pointer.retained[0].state == "state-42"
            assert pointer.sequence == 2

    run(play())


def test_a_lost_journal_restarts_and_is_never_compared_with_the_old_one(journal_path, store):
    async def play():
        async with open_scene(journal_path, store) as scene:
            await scene.send(*(state_event(number) for number in (1, 2, 3)))
        for file in journal_path.parent.glob("journal.db*"):
            file.unlink()
        async with open_scene(journal_path, store) as scene:
            outcomes = await scene.send(state_event(4))
            pointer = await scene.pointer()

            assert kinds(outcomes) == ["published"], (
                "position 1 of a new journal is not position 1 of the old one"
            )
            assert len(pointer.positions) == 2

    run(play())


def test_a_restored_journal_continues_under_a_new_id_and_loses_nothing(journal_path, store):
    backup = journal_path.parent / "backup"
    backup.mkdir()

    async def play():
        async with open_scene(journal_path, store) as scene:
            await scene.send(state_event(1))
            before = scene.journal.instance
        for file in journal_path.parent.glob("journal.db*"):
            shutil.copy2(file, backup / file.name)
        async with open_scene(journal_path, store) as scene:
            await scene.send(*(state_event(number) for number in (2, 3, 4)))
        for file in backup.iterdir():  # in place: the same inode, as a restore by content does
            (journal_path.parent / file.name).write_bytes(file.read_bytes())
        async with open_scene(journal_path, store) as scene:
            outcomes = await scene.send(state_event(5))

            assert kinds(outcomes) == ["published"], (
                "its position was already folded, under the old id"
            )
            assert scene.journal.instance != before

    run(play())


def test_a_copied_journal_gets_a_new_id(journal_path, store):
    async def play():
        async with open_scene(journal_path, store) as scene:
            await scene.send(state_event(1))
            before = scene.journal.instance
        copy = journal_path.parent / "copy.db"
        shutil.copy2(journal_path, copy)
        async with open_scene(copy, store) as scene:
            assert scene.journal.instance != before
            assert kinds(await scene.send(state_event(2))) == ["published"]

    run(play())


def test_two_journals_publish_concurrently_to_one_bucket(tmp_path, store):
    async def play():
        async with (
            open_scene(tmp_path / "one.db", store) as one,
            open_scene(tmp_path / "two.db", store) as two,
        ):
            for number in range(1, 16):
                await (one if number % 2 else two).accept(state_event(number))
                await (two if number % 2 else one).accept(
                    model_event(f"m{number}", "101", str(100 + number))
                )
            async with asyncio.TaskGroup() as group:
                group.create_task(one.work())
                group.create_task(two.work())
            pointer = await one.pointer()
            history = await one.reader.history(pointer)

            assert [entry.sequence for entry in history] == list(range(1, pointer.sequence + 1))
            assert pointer.highest_revision.producer == 15
            assert set(pointer.positions) == {one.journal.instance, two.journal.instance}
            for publication in pointer.retained:
                assert await two.reader.files(GOLDEN, publication)

    run(play())


def test_a_late_state_is_published_for_rollback_and_moves_nothing(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(42))
        outcomes = await scene.send(state_event(41, version="8"))
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["late"]
        assert pointer.live.state == "state-42"
        assert [(publication.state, publication.late) for publication in pointer.retained] == [
            ("state-42", False),
            ("state-41", True),
        ]

    scenario(journal_path, store, play)


TOGETHER = pytest.mark.parametrize(
    ("again", "outcome"),
    [
        pytest.param({"state": "state-42", "revision": 42}, "ignored", id="the very same state"),
        pytest.param(
            {"state": "state-42", "revision": 42, "version": "8"},
            "dead-lettered",
            id="another composition",
        ),
        pytest.param({"state": "state-42", "revision": 43}, "dead-lettered", id="another number"),
        pytest.param({"state": "other", "revision": 42}, "dead-lettered", id="another id"),
    ],
)


@TOGETHER
def test_id_revision_and_composition_belong_together(journal_path, store, again, outcome):
    async def play(scene: Scene):
        await scene.send(state_event(42), state_event(50))
        assert kinds(await scene.send(state_event(event_id="again", **again))) == [outcome]

    scenario(journal_path, store, play)


@TOGETHER
def test_id_and_composition_belong_together_after_a_collection_deleted_the_state(
    journal_path, store, again, outcome
):
    async def play(scene: Scene):
        await scene.send(state_event(42), state_event(50))
        gone = (await scene.pointer()).retained_of("state-42")[0]
        await scene.operations.carry_out(
            GOLDEN, lambda now, writing: protocol.collect(now, writing, {gone.id}), "cron"
        )
        for listed in await store.scan(f"{layout.states(GOLDEN)}state-42/"):
            await store.delete(listed.key, listed.version)

        assert kinds(await scene.send(state_event(event_id="again", **again))) == [outcome]

    scenario(journal_path, store, play)


@pytest.mark.parametrize("damaged", [b"{", None], ids=["damaged", "gone"])
def test_a_late_state_is_published_although_a_released_manifest_is_damaged(
    journal_path, store, damaged
):
    """History records revision and composition of a released state, so its manifest is no longer
    needed.
    """

    async def play(scene: Scene):
        for number in (10, 20, 30):
            await scene.batch(state_event(number, version=str(number)))
        base = await scene.reader.pointer(GOLDEN)
        [old] = base.pointer.retained_of("state-10")
        following = protocol.collect(base.pointer, scene.publisher.writing("ann"), [old.id])
        await scene.publisher.swap(GOLDEN, base, following)
        key = layout.manifest(GOLDEN, old.state, old.attempt)
        there = (await store.get(key)).version
        await (
            store.delete(key, there)
            if damaged is None
            else store.replace(key, Content(damaged), there)
        )

        async with open_scene(journal_path.with_name("other.db"), store) as later:
            outcomes = await later.batch(
                state_event(15, version="15"),
                state_event(10, version="10", event_id="the same again"),
                state_event(10, version="11", event_id="another of its name"),
            )

        assert kinds(outcomes) == ["late", "ignored", "dead-lettered"]

    scenario(journal_path, store, play)


def test_an_id_in_history_alone_is_used(journal_path, store):
    async def play(scene: Scene):
        for start in range(1, 121, 20):
            await scene.send(*(state_event(number) for number in range(start, start + 20)))
        pointer = await scene.pointer()
        assert not pointer.retained_of("state-1")

        same = await scene.send(state_event(1, event_id="same"))
        clash = await scene.send(state_event(1, state="new-id", event_id="clash"))

        assert kinds(same) == ["ignored"]
        assert kinds(clash) == ["dead-lettered"]

    scenario(journal_path, store, play)


def test_hold_keeps_live_while_desired_advances_and_resume_catches_up(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(2, version="8"))
        await scene.operations.carry_out(
            GOLDEN, operator_commands.rollback("state-1"), "op", "drift"
        )
        outcomes = await scene.send(state_event(3, version="9"))
        held = await scene.pointer()

        assert kinds(outcomes) == ["published"]
        assert (held.live.state, held.desired.state) == ("state-1", "state-3")
        resumed = (await scene.operations.carry_out(GOLDEN, protocol.resume, "op", "")).after
        assert (resumed.live.state, resumed.desired.state, resumed.hold) == (
            "state-3",
            "state-3",
            None,
        )

    scenario(journal_path, store, play)


def test_a_quarantined_composition_under_another_id_is_withheld(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(2, version="8"))
        command = operator_commands.quarantine("state-2", rollback_to="state-1")
        await scene.operations.carry_out(GOLDEN, command, "op", "bad scores")
        await scene.operations.carry_out(
            GOLDEN, operator_commands.rollback("state-1", discard_newer=True), "op", ""
        )
        outcomes = await scene.send(state_event(3, version="8"))
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["withheld"]
        assert (pointer.live.state, pointer.desired.state, pointer.hold) == (
            "state-1",
            "state-3",
            None,
        )
        with pytest.raises(Exception, match="quarantined"):
            await scene.operations.carry_out(GOLDEN, protocol.resume, "op", "")

    scenario(journal_path, store, play)


def test_a_rollback_request_ends_the_batch_before_it_and_holds(journal_path, store):
    async def play(scene: Scene):
        outcomes = await scene.batch(
            state_event(1),
            state_event(2, version="8"),
            rollback_event("r", "state-1"),
            state_event(3, version="9"),
        )
        pointer = await scene.pointer()

        assert kinds(outcomes) == ["published"] * 4
        assert (pointer.live.state, pointer.desired.state) == ("state-1", "state-3")
        assert [entry.kind for entry in pointer.history] == ["publish", "rollback", "publish"]
        assert pointer.positions == {scene.journal.instance: 4}

    scenario(journal_path, store, play)


def test_a_rollback_request_to_the_live_and_held_state_writes_nothing(journal_path, store):
    async def play(scene: Scene):
        await scene.send(
            state_event(1), state_event(2, version="8"), rollback_event("r", "state-1")
        )
        before = await scene.pointer()
        outcomes = await scene.send(rollback_event("again", "state-1"))

        assert kinds(outcomes) == ["ignored"]
        assert await scene.pointer() == before

    scenario(journal_path, store, play)


def test_a_state_lists_the_replaced_model_events_as_skipped_and_they_stay_superseded(
    journal_path, store
):
    async def play(scene: Scene):
        await scene.batch(state_event(1))
        await scene.batch(model_event("m", "101", "9"), state_event(2))
        pointer = await scene.pointer()
        manifest = await scene.reader.manifest(GOLDEN, pointer.live)
        delivered = (await scene.journal.find("m"))[-1]

        assert [(event.id, event.skipped) for event in manifest.events] == [
            ("m", True),
            (state_event(2).id, False),
        ]
        assert [str(lane.outcome.kind) for lane in delivered.lanes] == ["superseded"]

    scenario(journal_path, store, play)


class LateStore(MemoryStore):
    """Once armed, a replacement of the pointer gets no answer, and lands just before the next one."""

    def __init__(self):
        super().__init__(InlineRuntime())
        self.armed = False
        self.stalled = None

    async def replace(self, key, content, version):
        if key.endswith("/pointer.json") and self.armed:
            self.armed, self.stalled = False, (key, content, version)
            raise OutcomeUnknown("stalled")
        if key.endswith("/pointer.json") and self.stalled:
            stalled, self.stalled = self.stalled, None
            await super().replace(*stalled)
        return await super().replace(key, content, version)


def give_up_once(publisher, store):
    """The next swap is sent once, and given up."""
    swap = publisher.swap

    async def send_once(_scope, base, following, **_options):
        publisher.swap = swap
        store.armed = True
        with contextlib.suppress(OutcomeUnknown):
            await store.replace(
                f"{GOLDEN}/pointer.json", Content(pointers.encode(following)), base.version
            )
        raise OutcomeUnresolved("given up")

    publisher.swap = send_once


def test_a_commit_with_an_unknown_result_needs_a_pass(journal_path, store):
    async def play(scene: Scene):
        await scene.batch(state_event(1, version="1"))
        assert not scene.pipeline.needs_pass(GOLDEN)
        swap = scene.publisher.swap

        async def unheard(*args, **options):
            scene.publisher.swap = swap
            await swap(*args, **options)
            raise OutcomeUnresolved("it took effect, and its answer was lost")

        scene.publisher.swap = unheard
        await scene.accept(state_event(2, version="2"))
        waiting = [await next_of(scene.journal)]
        with pytest.raises(OutcomeUnresolved):
            await scene.pipeline.process(GOLDEN, waiting)
        await scene.pipeline.process(GOLDEN, waiting)

        assert scene.pipeline.needs_pass(GOLDEN)
        await scene.pipeline.reconcile(GOLDEN)
        assert not scene.pipeline.needs_pass(GOLDEN)
        assert (await scene.live_tree.survey(GOLDEN)).synced

    scenario(journal_path, store, play)


def test_outcomes_of_a_lost_write_are_withdrawn(journal_path, store):
    async def come_between(operation, key):
        if (operation, key) == ("replace", f"{GOLDEN}/pointer.json") and armed:
            armed.clear()
            async with open_scene(journal_path.with_name("other.db"), store) as other:
                await other.send(state_event(2, version="2"))

    armed = []

    async def play(scene: Scene):
        await scene.batch(state_event(1, version="1"))
        await scene.accept(state_event(2, version="3"))
        waiting = [await next_of(scene.journal)]
        armed.append("once")
        scene.store.forbidden = lambda _operation, key: "/states/state-2/" in key and not armed
        with pytest.raises(
            AssertionError, match="/states/"
        ):  # of the try that follows the lost one
            await scene.pipeline.process(GOLDEN, waiting)
        assert (
            await scene.journal.recorded(str(GOLDEN), [delivery.position for delivery in waiting])
            == {}
        )

    scenario(journal_path, FaultyStore(store, before=come_between), play)


def test_the_reported_outcome_is_that_of_the_write_that_landed(
    journal_path,
):
    """A write given up as unknown wins while a larger one is tried (found by the simulation)."""
    store = LateStore()

    async def play(scene: Scene):
        await scene.batch(state_event(1, version="1"))
        await scene.accept(model_event("first", "101", "2"))
        first = await next_of(scene.journal)
        give_up_once(scene.publisher, store)
        with pytest.raises(OutcomeUnresolved):
            await scene.pipeline.process(GOLDEN, [first])
        await scene.accept(model_event("second", "101", "3"))
        waiting = [first, await next_of(scene.journal)]
        done = await scene.pipeline.process(GOLDEN, waiting)
        assert done == {first.position}, "passed by the late write"
        await scene.pipeline.process(GOLDEN, waiting[1:])

        (reported,) = await scene.outcomes("first")
        pointer = await scene.pointer()
        published = [
            PublicationId.parse(name).state for entry in pointer.history for name in entry.published
        ]
        assert published[1:] == [reported.state, pointer.live.state]
        assert (await scene.reader.manifest(GOLDEN, pointer.live)).events[0].id == "second"

    scenario(journal_path, store, play)


async def bury(scene: Scene):
    """Change the pointer until all its present history has moved to chunks."""
    read = await scene.reader.pointer(GOLDEN)
    for _ in range(pointers.MOST_HISTORY + 2):
        read = await scene.publisher.swap(
            GOLDEN, read, protocol.hold(read.pointer, scene.publisher.writing("ann"))
        )


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("newest_is_made", [True, False])
def test_of_two_writes_interrupted_by_a_crash_the_lineage_shows_which_landed(
    journal_path, newest_is_made, in_chunks
):
    store = LateStore()
    other = Outcome(OutcomeKind.PUBLISHED, "by another batch", "state-9")

    async def play(scene: Scene):
        await scene.batch(state_event(5, version="5"))
        await scene.accept(state_event(3, version="3"))
        delivery = await next_of(scene.journal)

        async def record_another():
            await scene.journal.record(str(GOLDEN), "never made", {delivery.position: other})

        if newest_is_made:
            await record_another()
        give_up_once(scene.publisher, store)
        with pytest.raises(OutcomeUnresolved):
            await scene.pipeline.process(GOLDEN, [delivery])
        if not newest_is_made:
            await record_another()
        await MemoryStore.replace(store, *store.stalled)
        store.stalled = None
        if in_chunks:
            await bury(scene)
        await scene.pipeline.process(GOLDEN, [delivery])

        (reported,) = await scene.outcomes(f"{GOLDEN}/state-3")
        assert reported.kind is OutcomeKind.LATE, (
            "no manifest distinguishes it from a published one"
        )

    scenario(journal_path, store, play)


def test_a_cut_off_lineage_does_not_drop_a_dead_letter(journal_path):
    store = LateStore()
    unmade = [
        Outcome(OutcomeKind.DEAD_LETTERED, "does not fit"),
        Outcome(OutcomeKind.SUPERSEDED, "by state-9"),
    ]

    async def play(scene: Scene):
        await scene.batch(state_event(1, version="1"))
        await scene.accept(state_event(2, version="2"))
        delivery = await next_of(scene.journal)
        give_up_once(scene.publisher, store)
        with pytest.raises(OutcomeUnresolved):
            await scene.pipeline.process(GOLDEN, [delivery])
        await MemoryStore.replace(store, *store.stalled)
        store.stalled = None
        await scene.journal.withdraw(str(GOLDEN), (await scene.pointer()).write_id)
        for number, outcome in enumerate(unmade):
            await scene.journal.record(
                str(GOLDEN), f"cut off {number}", {delivery.position: outcome}
            )
        await bury(scene)
        older = (await scene.pointer()).previous_chunk
        await store.delete(older.key, (await store.get(older.key)).version)
        await scene.pipeline.process(GOLDEN, [delivery])

        assert [item.kind for item in await scene.outcomes(f"{GOLDEN}/state-2")] == [
            OutcomeKind.DEAD_LETTERED
        ]

    scenario(journal_path, store, play)


def refuse_to_read(store, key):
    """As if the daemon's user had no permission for one file."""
    get = store.get

    async def refusing(asked, *, max_bytes=None):
        if asked == key:
            raise StoreRefused(f"{key}: permission denied; chmod a+r")
        return await get(asked, max_bytes=max_bytes)

    store.get = refusing


@pytest.mark.parametrize("fault", ["damaged", "unreadable"])
@pytest.mark.parametrize("damaged", ["state-1", "state-2"])
def test_an_event_that_only_a_damaged_manifest_may_list_is_not_superseded(
    journal_path, damaged, fault
):
    store = LateStore()

    async def play(scene: Scene):
        await scene.batch(state_event(1, version="1"))
        await scene.accept(state_event(2, version="2"))
        delivery = await next_of(scene.journal)
        give_up_once(scene.publisher, store)
        with pytest.raises(OutcomeUnresolved):
            await scene.pipeline.process(GOLDEN, [delivery])
        await MemoryStore.replace(store, *store.stalled)
        store.stalled = None
        await scene.journal.withdraw(str(GOLDEN), (await scene.pointer()).write_id)
        (publication,) = (await scene.pointer()).retained_of(damaged)
        key = layout.manifest(GOLDEN, publication.state, publication.attempt)
        if fault == "damaged":
            await store.replace(key, Content(b"{}"), (await store.get(key)).version)
            expected, remedy = VerificationFailed, f"rebundle recover {GOLDEN} --reason"
        else:
            refuse_to_read(store, key)
            expected, remedy = StoreRefused, "chmod"
        if damaged == "state-2":
            with pytest.raises(expected, match=remedy):
                await scene.pipeline.process(GOLDEN, [delivery])
        else:
            await scene.pipeline.process(GOLDEN, [delivery])
            assert kinds(await scene.outcomes(state_event(2).id)) == ["published"]

    scenario(journal_path, store, play)


async def only_named_by_history(scene: Scene, state: str) -> PublicationId:
    """Removes a state from the pointer like releases whose history recorded no revisions and
    compositions.
    """
    base = await scene.reader.pointer(GOLDEN)
    [old] = base.pointer.retained_of(state)
    following = protocol.collect(base.pointer, scene.publisher.writing("ann"), [old.id])
    *others, last = following.history
    silent = last.model_copy(
        update={"change": {key: last.change[key] for key in last.change if key != "used"}}
    )
    await scene.publisher.swap(
        GOLDEN, base, following.model_copy(update={"history": (*others, silent)})
    )
    return old.id


@pytest.mark.parametrize(
    ("late", "outcome"),
    [
        pytest.param(
            {"revision": 15, "version": "15"}, "dead-lettered", id="it may have this number"
        ),
        pytest.param(
            {"revision": 10, "version": "10"}, "dead-lettered", id="it may be this very state"
        ),
        pytest.param(
            {"revision": 20, "version": "20"}, "ignored", id="the very same state as another one"
        ),
        pytest.param(
            {"revision": 20, "state": "other"}, "dead-lettered", id="the number of another one"
        ),
    ],
)
def test_an_unreadable_old_manifest_stops_no_independent_state(journal_path, store, late, outcome):
    async def play(scene: Scene):
        for number in (10, 20, 30):
            await scene.batch(state_event(number, version=str(number)))
        old = await only_named_by_history(scene, "state-10")
        key = layout.manifest(GOLDEN, old.state, old.attempt)
        async with open_scene(journal_path.with_name("other.db"), store) as later:
            readable = store.get
            refuse_to_read(store, key)
            [found, new] = await later.batch(
                state_event(event_id="late", **late), state_event(40, version="40")
            )
            assert [str(found.kind), str(new.kind)] == [outcome, "published"]
            depends = "chmod a+r" in found.reason
            assert depends == (late["revision"] in {10, 15})
            if depends:
                store.get = readable
                [letter] = await later.journal.dead_letters()
                await later.journal.replay(letter.id, by="ann")
                await later.work()
                [again] = await later.outcomes("late")
                assert str(again.kind) == ("ignored" if late["revision"] == 10 else "late")

    scenario(journal_path, store, play)


def test_a_dead_letter_stays_when_the_write_that_passed_it_lands_late(journal_path):
    """A write given up as unknown wins after all.

    The outcomes are its own and must not be withdrawn.
    """

    def has_version_2(composition):
        return composition.model("101").version == "2"

    store = LateStore()

    async def play(scene: Scene):
        await scene.batch(state_event(1, version="1"))
        await scene.accept(state_event(2, version="2"), state_event(3, version="3"))
        waiting = [await next_of(scene.journal), await next_of(scene.journal)]
        give_up_once(scene.publisher, store)
        with pytest.raises(OutcomeUnresolved):
            await scene.pipeline.process(GOLDEN, waiting)
        assert len(await scene.pipeline.process(GOLDEN, waiting)) == 2

        assert kinds(await scene.outcomes(state_event(2).id)) == ["dead-lettered"]
        assert kinds(await scene.outcomes(state_event(3).id)) == ["published"]
        assert len(await scene.journal.dead_letters()) == 1

    scenario(journal_path, store, play, check=_refusing(has_version_2))


@pytest.mark.parametrize(
    ("request_event", "outcome"),
    [
        pytest.param(rollback_event("r", "state-9"), OutcomeKind.DEAD_LETTERED, id="not retained"),
        pytest.param(
            rollback_event("r", "state-1", expected="state-7"),
            OutcomeKind.IGNORED,
            id="another is live",
        ),
        pytest.param(
            rollback_event("r", "state-1", scope=OTHER),
            OutcomeKind.DEAD_LETTERED,
            id="no such scope",
        ),
    ],
)
def test_a_rollback_request_with_a_failed_condition_changes_nothing(
    journal_path, store, request_event, outcome
):
    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(2, version="8"))
        before = await scene.pointer()

        assert [item.kind for item in await scene.send(request_event)] == [outcome]
        assert await scene.pointer() == before

    scenario(journal_path, store, play)


@pytest.mark.parametrize(
    ("key_of", "says"),
    [
        (layout.manifest, "does not match the digest in the pointer"),
        (layout.archive, "does not match its digest"),
    ],
)
def test_a_rollback_request_to_a_state_that_readers_refuse_changes_nothing(
    journal_path, store, key_of, says
):
    async def play(scene: Scene):
        await scene.send(state_event(1), state_event(2, version="8"))
        before = await scene.pointer()
        (first,) = before.retained_of("state-1")
        key = key_of(GOLDEN, first.state, first.attempt)
        await store.replace(key, Content(b"{}"), (await store.get(key)).version)
        async with open_scene(journal_path.with_name("other.db"), store) as later:
            (outcome,) = await later.send(rollback_event("r", "state-1"))

        assert (outcome.kind, says in outcome.reason) == (OutcomeKind.DEAD_LETTERED, True)
        assert await scene.pointer() == before

    scenario(journal_path, store, play)


def test_events_that_change_nothing_do_not_write_the_pointer(journal_path, store):
    async def play(scene: Scene):
        await scene.send(state_event(1))
        before = await scene.pointer()
        outcomes = await scene.send(
            model_event("unknown", "999", "1", scopes=(GOLDEN,)), model_event("low", "101", "1")
        )

        assert kinds(outcomes) == ["dead-lettered", "superseded"]
        assert await scene.pointer() == before

    scenario(journal_path, store, play)


@pytest.mark.parametrize("suffix", range(7))
def test_any_suffix_delivered_again_in_order_changes_nothing(journal_path, store, suffix):
    """A crash before settling, at any point (protocol 2).

    Model events would be folded again onto later states.
    """

    async def play(scene: Scene):
        events = [
            state_event(1),
            model_event("a", "101", "9"),
            complete_model_event("b", "104", scopes=[GOLDEN]),
            state_event(2, version="8"),
            model_event("c", "101", "7", updated=True),
            rollback_event("r", "state-1"),
        ]
        await scene.accept(*events)
        delivered = [await next_of(scene.journal) for _ in events]
        done: frozenset = frozenset()
        while waiting := [delivery for delivery in delivered if delivery.position not in done]:
            done |= await scene.pipeline.process(GOLDEN, waiting)
        before = await scene.pointer()
        again = delivered[suffix:]
        while again:
            settled = await scene.pipeline.process(GOLDEN, again)
            again = [item for item in again if item.position not in settled]

        assert await scene.pointer() == before

    scenario(journal_path, store, play)


def test_more_models_than_a_network_supports_are_published_with_a_warning(journal_path, store):
    async def play(scene: Scene):
        document = composition_document(901, bundle=OTHER.bundle, target=OTHER.target)
        event = state_event(1, scope=OTHER, models=document["models"])
        (outcome,) = await scene.batch(event, scope=OTHER)

        assert str(outcome.kind) == "published"
        assert scene.watcher.crowds == [901]

    scenario(journal_path, store, play)


def test_the_next_fold_does_not_read_this_daemons_publication_again(
    journal_path, store, monkeypatch
):
    parsed, real = [], Manifest.composition_value
    monkeypatch.setattr(
        Manifest,
        "composition_value",
        lambda manifest: parsed.append(manifest.state) or real(manifest),
    )

    async def play(scene: Scene):
        await scene.batch(state_event(42))
        await scene.batch(model_event("a", "101", "8"))
        await scene.batch(model_event("b", "101", "9"))

    scenario(journal_path, store, play)
    assert parsed == []

    async def again(scene: Scene):
        await scene.batch(model_event("c", "101", "10"))

    scenario(journal_path, store, again)
    assert len(parsed) == 1, "a daemon that starts has no cache"


def test_a_new_model_version_writes_state_pointer_marker_and_the_files_whose_bytes_changed(
    journal_path, store
):
    recording = FaultyStore(store)

    async def play(scene: Scene):
        await scene.batch(state_event(42))
        before = await _live_files(scene)
        recording.writes.clear()
        await scene.batch(model_event("m", "101", "9"))
        pointer, after = await scene.pointer(), await _live_files(scene)

        changed = {path for path, file in after.items() if before.get(path) != file}
        # The marker twice: "updating" before the files, "synced" after them.
        marker = f"{GOLDEN}/docker-compose-gen/.rebundle.json"
        assert Counter(recording.writes) == {
            ("create", layout.archive(GOLDEN, pointer.live.state, pointer.live.attempt)): 1,
            ("create", layout.manifest(GOLDEN, pointer.live.state, pointer.live.attempt)): 1,
            ("replace", layout.pointer(GOLDEN)): 1,
            ("replace", marker): 2,
        } | {("replace", layout.live_tree(GOLDEN, path)): 1 for path in changed}
        assert changed == {"base/.rebundle.json", "base/model-serving/model-download/models.txt"}

    scenario(journal_path, recording, play)


@pytest.mark.parametrize(
    "event",
    [
        model_event("again", "101", "9"),
        model_event("lower", "101", "1"),
        model_event("unknown", "999", "1"),
        state_event(43, event_id="told again", version="9"),
    ],
    ids=lambda event: event.id,
)
def test_an_event_that_changes_nothing_writes_nothing(journal_path, store, event):
    recording = FaultyStore(store)

    async def play(scene: Scene):
        await scene.batch(state_event(43, version="9"))
        recording.writes.clear()
        await scene.batch(event)

        assert recording.writes == []

    scenario(journal_path, recording, play)


def test_a_model_that_makes_a_bundle_too_large_is_a_dead_letter_and_changes_nothing(
    journal_path, store
):
    async def play(scene: Scene):
        await scene.batch(state_event(42))
        (refused,) = await scene.batch(complete_model_event("m", "104", scopes=[GOLDEN]))
        (moved,) = await scene.batch(model_event("n", "101", "9"))

        assert str(refused.kind) == "dead-lettered"
        assert scene.watcher.refusals == [], "not a fault of the renderer"
        assert "has 4 models; the limit is 3 (setting limits.models)" in refused.reason
        assert str(moved.kind) == "published"

    scenario(journal_path, store, play, limits=BundleLimits(models=3))


def test_history_above_its_limit_moves_to_chunks_and_stays_readable(journal_path, store):
    async def play(scene: Scene):
        for number in range(1, 141):
            await scene.send(state_event(number))
        pointer = await scene.pointer()
        history = await scene.reader.history(pointer)

        assert len(pointer.history) <= 128
        assert pointer.previous_chunk is not None
        assert [entry.sequence for entry in history] == list(range(1, 141))

    scenario(journal_path, store, play)


def _calls(recording: FaultyStore) -> list[tuple[str, str]]:
    """Every call from now on, in order."""
    calls: list[tuple[str, str]] = []

    async def note(operation: str, key: str) -> None:
        calls.append((operation, key))

    recording.before = note
    return calls


def test_an_event_that_follows_another_one_is_committed_with_three_writes_and_no_read(
    journal_path, store
):
    recording = FaultyStore(store)

    async def play(scene: Scene):
        await scene.batch(state_event(42))
        await scene.accept(model_event("m", "101", "9"))
        calls = _calls(recording)
        await scene.pipeline.process(GOLDEN, [await next_of(scene.journal)])

        live = (await scene.pointer()).live
        assert sorted(calls[:3]) == [
            ("create", layout.archive(GOLDEN, live.state, live.attempt)),
            ("create", layout.manifest(GOLDEN, live.state, live.attempt)),
            ("replace", layout.pointer(GOLDEN)),
        ]
        assert calls[2][0] == "replace"
        assert calls[3:] == [("get", layout.pointer(GOLDEN))], "that call was the test's own"

    scenario(journal_path, recording, play)


def test_an_event_is_not_ignored_because_of_an_outdated_pointer(tmp_path, store):
    async def play():
        async with (
            open_scene(tmp_path / "one.db", store) as one,
            open_scene(tmp_path / "two.db", store) as two,
        ):
            await one.batch(state_event(42))
            await two.batch(complete_model_event("joins", "104", scopes=[GOLDEN]))
            # In the pointer that the first daemon wrote last, the scope has no model 104.
            (outcome,) = await one.batch(model_event("moves", "104", "9"))

            assert str(outcome.kind) == "published"
            assert one.watcher.conflicts == 0

    run(play())


def test_a_lost_swap_costs_no_second_upload_of_the_same_state(tmp_path, store):
    recording = FaultyStore(store)

    async def play():
        async with (
            open_scene(tmp_path / "one.db", recording) as one,
            open_scene(tmp_path / "two.db", store) as two,
        ):
            await one.batch(state_event(42))
            await two.operations.carry_out(GOLDEN, protocol.hold, "operator")
            recording.writes.clear()
            await one.batch(model_event("m", "101", "9"))
            pointer = await one.pointer()

            assert one.watcher.conflicts == 1
            assert pointer.sequence == 3
            states = [key for _, key in recording.writes if "/states/" in key]
            assert len(states) == 2, "archive and manifest"
            assert await two.reader.files(GOLDEN, pointer.desired)

    run(play())


def test_a_collection_in_between_requires_a_new_upload(tmp_path, store):
    recording = FaultyStore(store)

    def collected(pointer, writing):
        held = protocol.hold(pointer, writing)
        return held.model_copy(update={"gc_epoch": pointer.gc_epoch + 1})

    async def play():
        async with (
            open_scene(tmp_path / "one.db", recording) as one,
            open_scene(tmp_path / "two.db", store) as two,
        ):
            await one.batch(state_event(42))
            await two.operations.carry_out(GOLDEN, collected, "operator")
            recording.writes.clear()
            await one.batch(model_event("m", "101", "9"))
            desired = (await one.pointer()).desired

            states = [key for _, key in recording.writes if "/states/" in key]
            assert len(states) == 4
            assert [desired.attempt in key for key in states].count(True) == 2

    run(play())


def test_nothing_is_published_on_a_restored_older_pointer(tmp_path, store):
    async def play():
        async with (
            open_scene(tmp_path / "one.db", store) as one,
            open_scene(tmp_path / "two.db", store) as two,
        ):
            await one.batch(state_event(42))
            old = await store.get(layout.pointer(GOLDEN))
            await one.batch(state_event(43))
            there = await store.get(layout.pointer(GOLDEN))
            await store.replace(layout.pointer(GOLDEN), Content(old.body), there.version)

            with pytest.raises(PointerLost, match="rebundle recover"):
                await two.batch(state_event(44))
            assert (await store.get(layout.pointer(GOLDEN))).body == old.body

    run(play())


def test_images_by_tag_are_a_dead_letter_where_digests_are_required(journal_path, store):
    async def play(scene: Scene):
        (refused,) = await scene.batch(state_event(42))

        assert str(refused.kind) == "dead-lettered"
        assert "not pinned by digest: image" in refused.reason
        assert scene.watcher.refusals == [], "not a fault of the renderer"
        assert (await scene.pointer()).sequence == 0

    scenario(journal_path, store, play, pinning="require")


def test_images_by_tag_are_reported_where_the_setting_requires_it(journal_path, store):
    async def play(scene: Scene):
        (published,) = await scene.batch(state_event(42))

        assert str(published.kind) == "published"
        ((state, found),) = scene.watcher.unpinned_states
        assert state == "state-42"
        assert {item.kind for item in found} >= {"image"}

    scenario(journal_path, store, play, pinning="warn")


async def _composition(scene: Scene):
    pointer = await scene.pointer()
    return (await scene.reader.manifest(GOLDEN, pointer.desired)).composition


async def _live_files(scene: Scene):
    """The files of the live tree by path, without the marker."""
    prefix = layout.live_tree(GOLDEN)
    keys = [entry.key for entry in await scene.store.scan(prefix)]
    return {
        key.removeprefix(prefix): (await scene.store.get(key)).body
        for key in keys
        if key != f"{prefix}{layout.MARKER}"
    }
