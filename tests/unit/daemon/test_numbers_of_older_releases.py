"""States that a release with numbers of 31 bits published keep their numbers (ADR 37).

The bucket and the events in tests/data/stored are that release's.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.changes import interpret, received
from daemon.stores.port import Content
from events.dialects.cloudevents import decode_structured
from events.model import Event
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore
from tests.support.scenes import (
    GOLDEN,
    Scene,
    complete_model_event,
    event,
    open_scene,
    state_event,
)

STORED = Path(__file__).parents[2] / "data" / "stored" / "numbers-of-31-bits"
FORMER = {"101": 1357866173, "102": 1, "103": 1968470297, "104": 607490383}


def stored_events() -> list[tuple[str, Event]]:
    """The events of that release, each with the digest that its journal recorded."""
    return [
        (entry["digest"], decode_structured(json.dumps(entry["event"]).encode()))
        for entry in json.loads((STORED / "events.json").read_text())
    ]


EVENTS = [stored for _, stored in stored_events()]


async def stored_bucket() -> MemoryStore:
    store = MemoryStore(InlineRuntime())
    for path in sorted((STORED / "bucket").rglob("*")):
        if path.is_file():
            key = str(path.relative_to(STORED / "bucket"))
            await store.create(key, Content(path.read_bytes()))
    return store


def state_of(stored: Event, revision: int, **versions: str) -> Event:
    """A later state of the same models; some with other versions."""
    data = json.loads(json.dumps(stored.data))
    data["state"] = {"id": f"state-{revision}", "revision": revision}
    for model in data["models"]:
        model["version"] = versions.get(f"m{model['id']}", model["version"])
    return event(f"later-{revision}", stored.type, data)


def without_model(stored: Event, model: str, revision: int) -> Event:
    data = dict(stored.data) | {
        "models": [entry for entry in stored.data["models"] if entry["id"] != model],
        "state": {"id": f"state-{revision}", "revision": revision},
    }
    return event(f"later-{revision}", stored.type, data)


def play(tmp_path: Path, script: Any) -> None:
    async def body() -> None:
        async with open_scene(tmp_path / "journal.db", await stored_bucket()) as scene:
            await script(scene)

    asyncio.run(body())


async def numbers(scene: Scene, state: str = "") -> dict[str, int]:
    """The numbers of the desired state, or of the newest retained publication of `state`."""
    pointer = await scene.pointer()
    found = [kept for kept in pointer.retained if kept.state == state]
    publication = found[-1] if state else pointer.desired
    assert publication is not None
    composition = (await scene.reader.manifest(GOLDEN, publication)).composition_value()
    return {model.id: model.serving_version for model in composition.models}


@pytest.mark.parametrize(
    ("digest", "stored"), stored_events(), ids=["state-41", "state-42", "model-104"]
)
def test_an_event_sent_again_has_the_digest_that_its_journal_recorded(
    digest: str, stored: Event
) -> None:
    assert interpret(stored).digest == received(stored).change.digest == digest


@pytest.mark.parametrize("same_id", [True, False], ids=["same event", "another event"])
def test_states_sent_again_are_known_and_a_model_keeps_its_number(
    tmp_path: Path, same_id: bool
) -> None:
    async def script(scene: Scene) -> None:
        before = await scene.pointer()
        for stored in EVENTS:
            again = stored if same_id else event(f"again-{stored.id}", stored.type, stored.data)
            (outcome,) = await scene.send(again)
            assert str(outcome.kind) in {"published", "ignored"}, outcome
        after = await scene.pointer()
        assert (after.sequence, after.desired) == (before.sequence, before.desired)

    play(tmp_path, script)


def test_a_state_whose_manifest_is_gone_is_known_by_the_number_that_was_derived(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> None:
        for kept in (await scene.pointer()).retained:
            key = f"{GOLDEN}/states/{kept.state}/{kept.attempt}/manifest.json"
            if kept.state == "state-41":
                await scene.store.delete(key, (await scene.store.get(key)).version)
        (outcome,) = await scene.send(event("again", EVENTS[0].type, EVENTS[0].data))
        assert (str(outcome.kind), outcome.state) == ("ignored", "state-41")

    play(tmp_path, script)


def test_a_later_state_and_a_model_event_keep_the_numbers_of_unchanged_models(
    tmp_path: Path,
) -> None:
    async def script(scene: Scene) -> None:
        await scene.send(complete_model_event("new", "105", scopes=[GOLDEN], version="2" * 18))
        assert await numbers(scene) == FORMER | {"105": int("2" * 18)}
        await scene.send(state_of(EVENTS[1], 43, m102="20261129101501"))
        changed = {name: FORMER[name] for name in ("101", "103")} | {"102": 20261129101501}
        assert await numbers(scene) == changed

    play(tmp_path, script)


def test_a_model_that_returns_later_gets_its_version_as_its_number(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.send(without_model(EVENTS[1], "101", 43), state_of(EVENTS[1], 44))
        assert (await numbers(scene))["101"] == 20261129101500

    play(tmp_path, script)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "one batch"])
def test_a_state_of_old_and_new_numbers_is_known_when_it_is_sent_again(
    tmp_path: Path, together: bool
) -> None:
    mixed = state_of(EVENTS[1], 43, m102="20261129101501")
    later = without_model(EVENTS[1], "101", 44)
    again = event("again", mixed.type, mixed.data)

    async def script(scene: Scene) -> None:
        if together:
            outcomes = await scene.batch(mixed, later, again)
        else:
            outcomes = [*await scene.send(mixed), *await scene.send(later)]
            outcomes += await scene.send(again)
        assert [str(outcome.kind) for outcome in outcomes] == ["published", "published", "ignored"]
        assert await numbers(scene, "state-43") == {
            "101": FORMER["101"],
            "102": 20261129101501,
            "103": FORMER["103"],
        }

    play(tmp_path, script)


def test_a_late_state_has_the_numbers_of_the_desired_one(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        await scene.send(state_of(EVENTS[1], 50))
        (outcome,) = await scene.send(state_of(EVENTS[1], 45, m102="20261129101501"))
        assert str(outcome.kind) == "late"
        assert (await numbers(scene, "state-45"))["101"] == FORMER["101"]

    play(tmp_path, script)


def test_a_number_that_the_producer_chooses_is_used(tmp_path: Path) -> None:
    chosen = state_of(EVENTS[1], 43)
    chosen.data["models"][0]["serving_version"] = 20261129101500

    async def script(scene: Scene) -> None:
        await scene.send(chosen)
        assert (await numbers(scene))["101"] == 20261129101500

    play(tmp_path, script)


def test_the_other_composition_under_a_known_id_is_a_dead_letter(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        other = state_of(EVENTS[1], 42, m102="7")
        (outcome,) = await scene.send(other)
        assert str(outcome.kind) == "dead-lettered"
        (outcome,) = await scene.send(state_event(60))
        assert str(outcome.kind) == "published"

    play(tmp_path, script)
