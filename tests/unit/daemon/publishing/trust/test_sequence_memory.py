"""The highest accepted sequence is never lowered, lost or mixed up between scopes and buckets."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from daemon import local_files
from daemon.lifecycle import SystemRuntime
from daemon.publishing.errors import SequenceMemoryUnusable
from daemon.publishing.trust.sequence_memory import (
    LOCK_SECONDS,
    FileSequences,
    HighestSequences,
    ProcessSequences,
)
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime, in_loop

SCOPE, OTHER = Scope("visual", "core"), Scope("visual", "edge")


def in_file(path: Path, bucket: str = "s3://bundles") -> FileSequences:
    return FileSequences(path, bucket, InlineRuntime())


@pytest.fixture(params=["process", "file"])
def accepted(request: pytest.FixtureRequest, tmp_path: Path) -> HighestSequences:
    return (
        ProcessSequences()
        if request.param == "process"
        else in_file(tmp_path / "state" / "accepted.json")
    )


@in_loop
async def test_the_highest_sequence_counts_and_is_separate_for_each_scope(
    accepted: HighestSequences,
) -> None:
    assert await accepted.highest(SCOPE) == 0
    for sequence in (3, 5, 4):
        await accepted.accept(SCOPE, sequence)
    await accepted.accept(OTHER, 1)

    assert (await accepted.highest(SCOPE), await accepted.highest(OTHER)) == (5, 1)


@in_loop
async def test_the_sequence_is_known_to_the_next_process_and_not_to_another_bucket(
    tmp_path: Path,
) -> None:
    path = tmp_path / "accepted.json"
    await in_file(path).accept(SCOPE, 7)

    assert await in_file(path).highest(SCOPE) == 7
    assert await in_file(path, "s3://others").highest(SCOPE) == 0


@in_loop
async def test_a_late_writer_lowers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    slow, quick = in_file(path), in_file(path)
    await slow.accept(SCOPE, 1)
    await quick.accept(SCOPE, 9)
    await slow.accept(SCOPE, 2)

    assert await in_file(path).highest(SCOPE) == 9
    assert await slow.highest(SCOPE) == 9, "sequences that other processes saw count, too"


@in_loop
async def test_concurrent_writers_lose_no_update(tmp_path: Path) -> None:
    path, runtime = tmp_path / "accepted.json", SystemRuntime()
    scopes = [Scope("visual", f"target-{number}") for number in range(40)]
    try:
        async with asyncio.TaskGroup() as group:
            for at, scope in enumerate((*scopes, *scopes)):
                group.create_task(
                    FileSequences(path, "s3://bundles", runtime).accept(scope, 1 + at)
                )
    finally:
        runtime.close()

    seen = in_file(path)
    assert [await seen.highest(scope) for scope in scopes] == list(range(41, 81))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": "1"}', '{"a": true}', "[" * 100_000])
@in_loop
async def test_a_damaged_file_is_refused_and_left_unchanged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "accepted.json"
    path.write_text(text)
    for act in (in_file(path).highest(SCOPE), in_file(path).accept(SCOPE, 1)):
        with pytest.raises(SequenceMemoryUnusable, match=r"accepted\.json"):
            await act

    assert path.read_text() == text


@in_loop
async def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SequenceMemoryUnusable, match=r"trust\.state_file"):
        await in_file(tmp_path / "file" / "accepted.json").accept(SCOPE, 1)


@in_loop
async def test_the_file_is_private_with_any_umask(tmp_path: Path) -> None:
    path, before = tmp_path / "state" / "accepted.json", os.umask(0)
    try:
        for sequence in (1, 2):
            await in_file(path).accept(SCOPE, sequence)
    finally:
        os.umask(before)
    modes = {
        item.name: item.stat().st_mode & 0o777 for item in (path.parent, *path.parent.iterdir())
    }
    assert modes == {"state": 0o700, "accepted.json": 0o600, "accepted.json.lock": 0o600}


@pytest.mark.parametrize("name", ["accepted.json.lock", "accepted.json"])
@in_loop
async def test_a_link_in_place_of_the_file_is_never_written_through(
    tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("{}")
    (tmp_path / name).symlink_to(precious)
    with contextlib.suppress(SequenceMemoryUnusable):
        await in_file(tmp_path / "accepted.json").accept(SCOPE, 1)
    assert precious.read_text() == "{}"


@pytest.mark.parametrize("name", ["accepted.json.lock", "accepted.json"])
@in_loop
async def test_a_fifo_in_place_of_the_file_is_reported_and_blocks_nothing(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(SequenceMemoryUnusable, match=f"{name}.*(plain|regular) file"):
        await in_file(tmp_path / "accepted.json").accept(SCOPE, 1)


@in_loop
async def test_a_lock_of_another_process_is_awaited_once_and_then_named(tmp_path: Path) -> None:
    path, runtime = tmp_path / "accepted.json", InlineRuntime()
    accepted, waited = FileSequences(path, "s3://bundles", runtime), []
    with local_files.lock(Path(f"{path}.lock")) as is_held:
        assert is_held
        for scope in (SCOPE, OTHER):
            began = runtime.seconds
            with pytest.raises(
                SequenceMemoryUnusable, match=f"held {path}.lock for 10 s.*`fuser -v {path}.lock`"
            ):
                await accepted.accept(scope, 1)
            waited.append(runtime.seconds - began)
    assert LOCK_SECONDS <= waited[0] < LOCK_SECONDS + 1
    assert waited[1] < 1, "a command that reads many scopes waits only once"
    assert await accepted.highest(SCOPE) == 0
    await accepted.accept(SCOPE, 1)
    began = runtime.seconds
    with local_files.lock(Path(f"{path}.lock")), pytest.raises(SequenceMemoryUnusable):
        await accepted.accept(OTHER, 1)
    assert runtime.seconds - began >= LOCK_SECONDS, "after a success it waits the full time again"


@in_loop
async def test_waiting_for_the_lock_does_not_exhaust_the_threads(tmp_path: Path) -> None:
    path, runtime = tmp_path / "accepted.json", SystemRuntime()
    try:
        with local_files.lock(Path(f"{path}.lock")):
            waiting = [
                asyncio.create_task(
                    FileSequences(path, "s3://bundles", runtime).accept(SCOPE, 1 + at)
                )
                for at in range(64)
            ]
            assert await runtime.run_in_thread(lambda: "a thread") == "a thread"
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)
    finally:
        runtime.close()
    assert await in_file(path).highest(SCOPE) == 64
