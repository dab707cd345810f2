"""The timer that compares what is stored of live and desired with their pointer, in a real directory."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from daemon.publishing import layout, operator_commands
from daemon.publishing.pointer import Publication
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import StoreUnavailable
from daemon.stores.port import ObjectStore
from daemon.timers.stored_states import StoredStatesTimer
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore

Change = Callable[[Path], None]


class Rounds(InlineRuntime):
    """Acts before each round, and stops the timer after the last one."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__("timer")
        self._acts = list(acts)
        self.waits: list[float] = []
        self.failing: list[Mapping[str, str]] = []
        self.timer: StoredStatesTimer | None = None

    async def sleep(self, seconds: float) -> None:
        if self.timer is not None:
            self.failing.append(dict(self.timer.failing))
            if not self._acts:
                raise asyncio.CancelledError
            self.waits.append(seconds)
            self._acts.pop(0)()
        await super().sleep(seconds)


async def published(root: Path, states: int = 3) -> Bucket:
    """A scope with these states: the last one is desired, the one before is live and held."""
    runtime = InlineRuntime()
    bucket = Bucket(DirectoryStore(root, runtime), runtime)
    await bucket.publish(*(make_state(number) for number in range(1, states + 1)))
    await bucket.live_tree.reconcile(SCOPE)
    await bucket.operations.carry_out(
        SCOPE, operator_commands.rollback(f"state-{states - 1}"), "ann"
    )
    return bucket


async def run(root: Path, runtime: Rounds, store: ObjectStore | None = None) -> None:
    """Repeat rounds in a process that has read every state before."""
    bucket = Bucket(store or DirectoryStore(root, runtime), runtime)
    for publication in (await bucket.pointer()).retained:
        await bucket.reader.files(SCOPE, publication)
    runtime.timer = StoredStatesTimer(bucket.reader, runtime)
    with contextlib.suppress(asyncio.CancelledError):
        await runtime.timer.run()


def nothing() -> None:
    pass


def changed(path: Path) -> None:
    path.write_bytes(b"{")


def same_size(path: Path) -> None:
    path.write_bytes(bytes(reversed(path.read_bytes())))


def gone(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def of(root: Path, publication: Publication | None, name: str) -> Path:
    assert publication is not None
    return root / layout.states(SCOPE) / publication.state / publication.attempt / name


@pytest.mark.parametrize("change", [changed, same_size, gone, link])
@pytest.mark.parametrize("name", [layout.MANIFEST, layout.ARCHIVE])
@pytest.mark.parametrize("role", ["live", "desired"])
def test_a_damaged_object_of_live_or_desired_is_reported_until_it_is_whole(
    tmp_path: Path, role: str, name: str, change: Change
) -> None:
    async def scenario() -> None:
        pointer = await (await published(tmp_path)).pointer()
        path = of(tmp_path, getattr(pointer, role), name)
        body = path.read_bytes()

        def repair() -> None:
            path.unlink(missing_ok=True)
            path.write_bytes(body)

        runtime = Rounds(nothing, lambda: change(path), nothing, repair)
        await run(tmp_path, runtime)
        whole, *damaged, repaired = runtime.failing[1:]
        assert (whole, repaired, len(damaged)) == ({}, {}, 2)
        for failing in damaged:
            assert list(failing) == [str(SCOPE)]
            remedy = "mv " if change is link else f"rebundle recover {SCOPE} --reason"
            assert remedy in failing[str(SCOPE)]
        assert runtime.waits == [900, 900, 200, 200]

    asyncio.run(scenario())


def test_a_round_reads_only_live_and_desired_however_many_states_there_are(tmp_path: Path) -> None:
    async def reads(root: Path, states: int) -> list[str]:
        pointer = await (await published(root, states)).pointer()
        for publication in pointer.retained:
            if publication.id not in {pointer.live.id, pointer.desired.id}:
                of(root, publication, layout.MANIFEST).write_bytes(b"{")
        keys: list[str] = []

        async def note(_operation: str, key: str) -> None:
            keys.append(key)

        runtime = Rounds(nothing)
        store = FaultyStore(DirectoryStore(root, runtime), before=note)
        bucket = Bucket(store, runtime)
        runtime.timer = StoredStatesTimer(bucket.reader, runtime)
        with contextlib.suppress(asyncio.CancelledError):
            await runtime.timer.run()
        assert runtime.failing == [{}, {}]
        return keys

    few = asyncio.run(reads(tmp_path / "few", 2))
    many = asyncio.run(reads(tmp_path / "many", 9))
    assert len(few) == len(many) == 7, "two listings of folders, the pointer, two for each state"


def test_a_store_that_does_not_answer_is_no_damage_and_keeps_what_was_found(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        pointer = await (await published(tmp_path)).pointer()
        path = of(tmp_path, pointer.live, layout.MANIFEST)
        away: list[bool] = []

        async def answer(_operation: str, key: str) -> None:
            if away and key.startswith(layout.states(SCOPE)):
                raise StoreUnavailable("away")

        runtime = Rounds(
            lambda: away.append(True), away.clear, lambda: changed(path), lambda: away.append(True)
        )
        await run(tmp_path, runtime, FaultyStore(DirectoryStore(tmp_path, runtime), before=answer))
        assert [list(failing) for failing in runtime.failing[1:]] == [
            [],
            [],
            [str(SCOPE)],
            [str(SCOPE)],
        ]

    asyncio.run(scenario())
