"""A power cut at any point of a publication and its pass: the pointer is whole and references only
whole objects.

The real pipeline works on a recorded disk in memory (`tests.support.powercut`). Every disk that a
cut may leave is opened by a reader, and by a daemon that gets the unsettled events again and must
reach the same result. Writes of the journal are durable when they return, as with SQLite; nothing
else is. As a check of the test, syncs are left out; it must fail.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.bucket import Bucket, bucket_on, open_store
from daemon.changes import interpret
from daemon.pipeline import Pipeline
from daemon.publishing import layout
from daemon.publishing.live_tree.results import FinishedPass
from daemon.publishing.pointer import Pointer
from daemon.rendering import Rendering
from daemon.stores.directory.filesystem import FileSystem
from events.model import Event, Identity, Outcome, Position
from events.source import Delivery, Recorded
from renderers import gate
from renderers.bundle import Customisation, Renderer
from tests.builders_runtime import InlineRuntime
from tests.support.crashes import OVERRIDDEN, OVERRIDE, STORIES, Story, read_whole
from tests.support.filesystems import (
    Exchange,
    Link,
    Mark,
    Operation,
    RecordingFileSystem,
    Rename,
    Sync,
    SyncFolder,
)
from tests.support.powercut import CrashState, SimulatedDisk, crash_states
from tests.support.scenes import GOLDEN, Watcher

BASE = Path("/srv")
ROOT = BASE / "bucket"
OVERRIDE_PATH = ROOT / layout.live_tree(GOLDEN, OVERRIDE)
RENDERER = Renderer()

Log = list[Operation | Mark]


class DurableSource:
    """The journal's records of a scope: outcomes, recorded and settled.

    Each is durable when the call returns.
    """

    instance = "journal:1"
    owns_instance = False
    """The daemon after a cut starts with empty records: those of the first one do not help it."""

    def __init__(self, mark: Callable[[str], None] = lambda _label: None) -> None:
        self._mark = mark
        self.kept: dict[Position, tuple[Recorded, ...]] = {}
        self.settled: set[Position] = set()

    async def recorded(
        self, _scope: str, positions: Sequence[Position]
    ) -> Mapping[Position, Sequence[Recorded]]:
        return {position: self.kept[position] for position in positions if self.kept.get(position)}

    async def record(self, _scope: str, commit: str, outcomes: Mapping[Position, Outcome]) -> None:
        self.kept |= {
            at: (*self.kept.get(at, ()), Recorded(outcome, commit))
            for at, outcome in outcomes.items()
        }

    async def withdraw(self, _scope: str, commit: str) -> None:
        self.kept = {
            at: tuple(
                outcome_record for outcome_record in records if outcome_record.write_id != commit
            )
            for at, records in self.kept.items()
        }

    async def settle(self, _scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        self.kept |= {at: (Recorded(outcome, None),) for at, outcome in outcomes.items()}
        self.settled |= set(outcomes)
        self._mark("settled")


def deliveries(events: Sequence[Event], first: int) -> list[Delivery]:
    found = []
    for offset, event in enumerate(events, first):
        change, identity = interpret(event), Identity("http", event.source, event.id)
        at = Position(DurableSource.instance, offset)
        found.append(
            Delivery(
                event, identity, change.digest, at, "2026-01-01T00:00:00+00:00", (str(GOLDEN),)
            )
        )
    return found


class Daemon:
    """One run of the scenario on a disk."""

    def __init__(self, name: str, disk: FileSystem, source: DurableSource) -> None:
        self.runtime = InlineRuntime(name)
        self.source = source
        self.bucket: Bucket = bucket_on(open_store(str(ROOT), self.runtime, disk), self.runtime)
        self.pipeline = Pipeline(
            source=source,  # type: ignore[arg-type]  # the part of it that a pipeline needs
            reader=self.bucket.reader,
            publisher=self.bucket.publisher,
            live_tree=self.bucket.live_tree,
            rendering=Rendering(RENDERER, gate.check, lambda _scope: Customisation()),
            runtime=self.runtime,
            observer=Watcher(),
            writer="test",
        )

    async def publish(self, waiting: Sequence[Delivery]) -> None:
        left = [delivery for delivery in waiting if delivery.position not in self.source.settled]
        while left:
            done = await self.pipeline.process(GOLDEN, left)
            left = [item for item in left if item.position not in done]
        assert isinstance(await self.pipeline.reconcile(GOLDEN), FinishedPass)

    async def account(self) -> dict[str, Any]:
        pointer = (await self.bucket.reader.pointer(GOLDEN)).pointer
        listed = await self.bucket.store.scan(f"{GOLDEN}/")
        tree = layout.live_tree(GOLDEN)
        return {
            "live": _summary(pointer, "live"),
            "desired": _summary(pointer, "desired"),
            "numbers": (
                pointer.highest_revision.producer,
                pointer.highest_revision.derived,
                dict(pointer.positions),
            ),
            "history": [entry.sequence for entry in pointer.history],
            "live tree": {
                item.key: hashlib.sha256((await self.bucket.store.get(item.key)).body).hexdigest()
                for item in listed
                if item.key.startswith(tree) and item.key != f"{tree}{layout.MARKER}"
            },
            # Truncated bytes of Rebundle must not be mistaken for those of another writer.
            "kept aside": [item.key for item in listed if "/replaced/" in item.key],
        }


def _summary(pointer: Pointer, which: str) -> Any:
    publication = getattr(pointer, which)
    return publication and (
        publication.state,
        str(publication.revision),
        publication.composition_digest,
    )


@dataclass
class Recorded:
    """A scenario on a recorded disk, and its result."""

    story: Story
    disk: SimulatedDisk = field(default_factory=lambda: SimulatedDisk(BASE))
    sequences: tuple[int, int] = (0, 0)
    account: dict[str, Any] = field(default_factory=dict)
    log: Log = field(default_factory=list)

    @property
    def begin(self) -> int:
        return self.log.index(Mark("begin"))

    @property
    def publication(self) -> Log:
        """The steps of the interrupted part."""
        return self.log[self.begin :]

    @property
    def waiting(self) -> list[Delivery]:
        return deliveries(self.story.events, 1 + len(self.story.before))

    async def play(self) -> None:
        recording = RecordingFileSystem(self.disk)
        self.log = recording.log
        daemon = Daemon("first", recording, DurableSource(recording.mark))
        if self.story.before:
            await daemon.publish(deliveries(self.story.before, 1))
            # An editor saves like this: a synced new file replaces the old one.
            recording.unlink(OVERRIDE_PATH)
            recording.write(OVERRIDE_PATH, OVERRIDDEN, mode=0o666)
            recording.sync(OVERRIDE_PATH)
            recording.sync_folder(OVERRIDE_PATH.parent)
        before = await daemon.bucket.reader.pointer(GOLDEN)
        recording.mark("begin")
        await daemon.publish(self.waiting)
        after = await daemon.bucket.reader.pointer(GOLDEN)
        self.sequences = before.pointer.sequence, after.pointer.sequence
        self.account = await daemon.account()

    def states(self, log: Log) -> Iterator[CrashState]:
        """Each different disk that a cut may leave after the beginning, once."""
        seen = set()
        for state in crash_states(log, BASE):
            if "begin" not in state.marks:
                continue
            snapshot = (frozenset(state.disk.files().items()), state.disk.folders(), state.marks)
            if snapshot not in seen:
                seen.add(snapshot)
                yield state

    async def violations(self, log: Log) -> AsyncIterator[str]:
        """The violation on each disk; an empty text if there is none."""
        for state in self.states(log):
            try:
                await self._check(state)
            except Exception as error:  # noqa: BLE001  # any error is caused by the cut
                yield f"at {state.position} of {len(log)}: {error!r}"[:2000]
            else:
                yield ""

    async def _check(self, state: CrashState) -> None:
        at_begin = state.marks.index("begin")
        settlements = state.marks[at_begin:].count("settled")
        source = DurableSource()
        all_settled = settlements == self._settlements
        daemon = Daemon("next", state.disk, source)
        pointer = await read_whole(daemon.bucket.store, daemon.runtime)
        sequence = pointer.sequence if pointer else 0
        assert self.sequences[0] <= sequence <= self.sequences[1], sequence
        assert sequence >= self.sequences[0] + settlements, "settled, but not in the pointer"
        if self.story.before:
            assert b"".join(state.disk.chunks(OVERRIDE_PATH)) == OVERRIDDEN
        await daemon.publish([] if all_settled else self.waiting)
        assert await daemon.account() == self.account

    @property
    def _settlements(self) -> int:
        return self.publication.count(Mark("settled"))


def recorded(story: Story) -> Recorded:
    made = Recorded(story)
    asyncio.run(made.play())
    return made


def named(name: str) -> Story:
    return next(story for story in STORIES if story.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_no_power_cut_loses_or_tears_a_publication(story: Story) -> None:
    async def replay() -> tuple[int, list[str]]:
        said = [violation async for violation in made.violations(made.log)]
        return len(said), [item for item in said if item]

    made = recorded(story)
    states, broken = asyncio.run(replay())
    print(f"{len(made.log)} steps, {states} different disks")

    assert broken == []
    assert states > 20


def bytes_of_staged_files(operation: Operation | Mark) -> bool:
    return isinstance(operation, Sync)


def names_of_objects(operation: Operation | Mark) -> bool:
    return (
        isinstance(operation, SyncFolder)
        and operation.folder.is_relative_to(ROOT)
        and ".rebundle" not in operation.folder.parts
    )


def names_of_the_folders_to_the_root(operation: Operation | Mark) -> bool:
    return isinstance(operation, SyncFolder) and ROOT.is_relative_to(operation.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("story", "left_out"),
    [
        ("the_first_publication_of_a_scope", bytes_of_staged_files),
        ("the_first_publication_of_a_scope", names_of_objects),
        ("the_first_publication_of_a_scope", names_of_the_folders_to_the_root),
        ("a_newer_state", bytes_of_staged_files),
        ("a_newer_state", names_of_objects),
        ("a_rollback_request", bytes_of_staged_files),
        ("a_rollback_request", names_of_objects),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_leaving_out_a_kind_of_sync_is_detected(
    story: str, left_out: Callable[[Operation | Mark], bool]
) -> None:
    made = recorded(named(story))

    assert first_violation(made, [step for step in made.publication if left_out(step)]) != ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("story", "file"),
    [
        ("a_newer_state", "bundle.tar.gz"),
        ("a_newer_state", "manifest.json"),
        ("a_newer_state", "pointer.json"),
        ("a_newer_state", "models.txt"),
        ("the_first_publication_of_a_scope", "nginx.conf"),
    ],
)
def test_leaving_out_the_sync_of_one_file_is_detected(story: str, file: str) -> None:
    """Syncs of single names and tags are redundant here: the next write syncs the folder again, or
    the next pass repairs the file. The test of the store detects each of them.
    """
    made = recorded(named(story))
    placed = {
        step.source
        for step in made.publication
        if isinstance(step, Link | Rename)
        and step.target.name == file
        and ".rebundle" not in step.target.parts
    }
    exchanged = {
        step.one
        for step in made.publication
        if isinstance(step, Exchange) and step.other.name == file
    }
    renamed = {
        step.source
        for step in made.publication
        if isinstance(step, Rename) and step.target in exchanged
    }
    staged = placed | renamed
    syncs = [step for step in made.publication if isinstance(step, Sync) and step.path in staged]

    assert len(syncs) == 1
    assert first_violation(made, syncs) != ""


def first_violation(made: Recorded, left_out: Sequence[Operation | Mark]) -> str:
    """The first violation of a publication without these steps; an empty text if there is none."""

    async def first() -> str:
        async for said in made.violations(
            [*made.log[: made.begin], *(step for step in made.publication if step not in dropped)]
        ):
            if said:
                return said
        return ""

    dropped = set(left_out)
    assert dropped
    return asyncio.run(first())
