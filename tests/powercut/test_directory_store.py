"""The directory store through every power cut: acknowledged writes stay, others are there as a
whole or not at all.

A kill cannot show a missing fsync, because the page cache outlives the process. The replay of a
recorded log can. As a check of the test, each sync of the log is left out once, and the replay must
then find a broken promise.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import ConditionFailed, StoreError
from daemon.stores.port import Content, Version
from tests.builders_runtime import InlineRuntime
from tests.support.filesystems import (
    Exchange,
    Mark,
    Operation,
    RecordingFileSystem,
    Rename,
    Sync,
    SyncFolder,
    Write,
    perform,
)
from tests.support.powercut import CrashState, SimulatedDisk, crash_states

BASE = Path("/srv")
ROOT = BASE / "new" / "bucket"

Snapshot = dict[str, tuple[bytes, dict[str, str], Version]]
Log = list[Operation | Mark]


class History:
    """A store at work on a recorded disk, and its promises after each of its writes."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk(BASE)
        self.recording = RecordingFileSystem(self.disk)
        self.store = DirectoryStore(ROOT, InlineRuntime(), self.recording)
        self.promised: list[Snapshot] = [{}]

    @property
    def log(self) -> Log:
        return self.recording.log

    async def write(self, act: Awaitable[object]) -> None:
        self.recording.mark("begin")
        await act
        self.promised.append(await snapshot(self.disk))
        self.recording.mark("done")

    async def version(self, key: str) -> Version:
        return (await self.store.get(key)).version


async def snapshot(disk: SimulatedDisk) -> Snapshot:
    store = DirectoryStore(ROOT, InlineRuntime("reader"), disk)
    found = {listed.key: (await store.get(listed.key), listed) for listed in await store.scan("")}
    assert all(stored.version == listed.version for stored, listed in found.values())
    return {
        key: (stored.body, dict(stored.tag), stored.version) for key, (stored, _) in found.items()
    }


async def violations(promised: Sequence[Snapshot], log: Log) -> AsyncIterator[str]:
    """Each crash state that breaks a promise."""
    for state in crash_states(log, BASE):
        try:
            left = await snapshot(state.disk)
            kept = _kept(promised, left, state)
            await _stays_usable(state.disk, left)
        except (StoreError, AssertionError) as error:
            yield f"at {state.position}: {error!r}"
        else:
            if not kept:
                yield f"at {state.position}: {sorted(left)}"


def _kept(promised: Sequence[Snapshot], left: Snapshot, state: CrashState) -> bool:
    done, begun = state.marks.count("done"), state.marks.count("begin")
    return left in promised[done : begun + 1]


async def _stays_usable(disk: SimulatedDisk, left: Snapshot) -> None:
    """A store that is started after the cut can change every object that it finds."""
    store = DirectoryStore(ROOT, InlineRuntime("successor"), disk)
    for key, (_, _, version) in left.items():
        newer = await store.replace(key, Content(b"after", tag={"by": "successor"}), version)
        assert (await store.get(key)).tag == {"by": "successor"}
        await store.delete(key, newer)
    await store.create("a/b/c/new", Content(b"new"))
    assert list(await snapshot(disk)) == ["a/b/c/new"]


async def objects_without_tags(at: History) -> None:
    await at.write(at.store.create("a/b/pointer", Content(b"one")))
    await at.write(
        at.store.replace("a/b/pointer", Content(b"second"), await at.version("a/b/pointer"))
    )
    await at.write(at.store.delete("a/b/pointer", await at.version("a/b/pointer")))
    await at.write(at.store.create("a/b/pointer", Content(b"third")))


async def objects_with_tags(at: History) -> None:
    await at.write(at.store.create("a/b/file", Content(b"one", tag={"n": "1", "mode": "0755"})))
    await at.write(
        at.store.replace(
            "a/b/file", Content(b"second", tag={"n": "2"}), await at.version("a/b/file")
        )
    )
    await at.write(
        at.store.replace("a/b/file", Content(b"one", tag={"n": "3"}), await at.version("a/b/file"))
    )
    await at.write(
        at.store.replace("a/b/file", Content(b"one", tag={"n": "4"}), await at.version("a/b/file"))
    )
    await at.write(at.store.replace("a/b/file", Content(b"no tag"), await at.version("a/b/file")))
    await at.write(at.store.delete("a/b/file", await at.version("a/b/file")))
    await at.write(at.store.create("a/b/file", Content(b"one", tag={"n": "5"})))


async def a_folder_that_another_writer_created_and_never_synced(at: History) -> None:
    await at.write(at.store.create("first", Content(b"1")))
    for folder in ("shared", "shared/deep"):
        at.recording.mkdir(ROOT / folder)
    await at.write(at.store.create("shared/deep/key", Content(b"2", tag={"n": "1"})))


async def an_object_whose_creator_was_killed_before_its_last_sync(at: History) -> None:
    await at.write(at.store.create("first", Content(b"1")))
    staged = ROOT / ".rebundle/tmp/of-the-killed"
    at.recording.mark("begin")
    at.recording.write(staged, b"2", mode=0o666)
    at.recording.sync(staged)
    at.recording.mkdir(ROOT / "a")
    at.recording.link(staged, ROOT / "a/key")
    at.promised.append(await snapshot(at.disk))
    await at.write(at.store.replace("a/key", Content(b"3"), await at.version("a/key")))
    at.recording.mark("done")


async def a_root_that_another_writer_created_and_never_synced(at: History) -> None:
    at.recording.mkdir(ROOT.parent)
    at.recording.mkdir(ROOT)
    await at.write(at.store.create("key", Content(b"1")))
    await at.write(at.store.create("other", Content(b"2")))


Scenario = Callable[[History], Awaitable[None]]

SCENARIOS: list[Scenario] = [
    objects_without_tags,
    objects_with_tags,
    a_folder_that_another_writer_created_and_never_synced,
    an_object_whose_creator_was_killed_before_its_last_sync,
    a_root_that_another_writer_created_and_never_synced,
]


async def history_of(scenario: Scenario) -> History:
    at = History()
    await scenario(at)
    return at


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_no_power_cut_breaks_a_promise(scenario: Scenario) -> None:
    async def replay() -> list[str]:
        at = await history_of(scenario)
        return [violation async for violation in violations(at.promised, at.log)]

    assert asyncio.run(replay()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "harmless"),
    [
        (objects_without_tags, []),
        # The rename of the same bytes, and folders that a deletion left empty and the same write
        # recreates.
        (objects_with_tags, [ROOT / "a/b", ROOT]),
        # The names in the root, which the same write syncs for the tag and again for the body.
        (a_folder_that_another_writer_created_and_never_synced, [ROOT]),
        (an_object_whose_creator_was_killed_before_its_last_sync, []),
        (a_root_that_another_writer_created_and_never_synced, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_leaving_out_any_sync_is_detected(scenario: Scenario, harmless: list[Path]) -> None:
    async def unmissed() -> list[Operation | Mark]:
        at = await history_of(scenario)
        return [
            at.log[position]
            for position in working_syncs(at.log)
            if await anext(
                violations(at.promised, at.log[:position] + at.log[position + 1 :]), None
            )
            is None
        ]

    assert asyncio.run(unmissed()) == [SyncFolder(folder) for folder in harmless]


class EditedRecording(RecordingFileSystem):
    """An editor saves the file, durably, between the store's last check and its rename."""

    saved = False

    def change(self, operation: Operation) -> None:
        match operation:
            case Exchange(_, path) | Rename(path, _) if path == ROOT / "a/file" and not self.saved:
                self.saved = True
                fresh = path.with_name("fresh~")
                super().change(Write(fresh, b"saved", 0o666))
                super().change(Sync(fresh))
                super().change(Rename(fresh, path))
                super().change(SyncFolder(path.parent))
                self.mark("saved")
            case _:
                pass
        super().change(operation)


@pytest.mark.parametrize("operation", ["replace", "delete"])
def test_no_power_cut_loses_a_save_at_the_last_moment(operation: str) -> None:
    async def scenario() -> Log:
        recording = EditedRecording(SimulatedDisk(BASE))
        store = DirectoryStore(ROOT, InlineRuntime(), recording)
        version = await store.create("a/file", Content(b"old", tag={"n": "1"}))
        new = Content(b"new", tag={"n": "2"})
        write = (
            store.replace("a/file", new, version)
            if operation == "replace"
            else store.delete("a/file", version)
        )
        with pytest.raises(ConditionFailed):
            await write
        return recording.log

    states = [
        state for state in crash_states(asyncio.run(scenario()), BASE) if "saved" in state.marks
    ]

    assert len(states) > 3
    for state in states:
        held = {path for path, (body, _) in state.disk.files().items() if body == b"saved"}
        assert held, state.position
        # A file below tmp with a name that shows that it has no bytes of the store.
        assert ROOT / "a/file" in held or {path.name.count(".") for path in held} <= {1, 2}


def working_syncs(log: Log) -> list[int]:
    """Syncs that narrowed what a cut may leave.

    The others (of an unchanged folder) cannot be detected.
    """
    disk, found = SimulatedDisk(BASE), []
    for position, step in enumerate(log):
        if isinstance(step, Mark):
            continue
        if isinstance(step, Sync | SyncFolder):
            before = disk.open_questions()
            perform(disk, step)
            if disk.open_questions() != before:
                found.append(position)
        else:
            perform(disk, step)
    return found
