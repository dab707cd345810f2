"""SIGKILL at every write boundary of a publication on the directory store: nothing is lost or torn,
and the result is the same.

Boundaries are writes to the bucket's disk and to the journal. `entry` and `tests.support.crashes`
explain how they are reached and what is compared. A file system in memory makes it fast, and makes
no difference for kills.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.stores.directory.store import DirectoryStore
from tests.builders_runtime import InlineRuntime
from tests.support.crashes import STORIES, Story, read_whole, until_in_step
from tests.support.daemon_process import DaemonProcess, outcomes, post, until_settled
from tests.support.scenes import GOLDEN

PROJECT = Path(__file__).parents[2]
IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="rebundle-kills-", dir=IN_MEMORY))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def kills(folder: Path, story: Story) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.acceptance.entry", "kills", str(folder), story.name]
    # A killed process writes no coverage data; measuring it would only slow it down.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    run = subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_kill_at_any_write_loses_nothing_tears_nothing_and_ends_the_same(
    folder: Path, story: Story
) -> None:
    found = kills(folder, story)
    print({item: found[item] for item in ("kills", "unaccepted", "reads")})

    assert found["end"] == 0, "the last child was not killed, and succeeded"
    assert found["kills"] > 20
    # Before the append nothing was promised. After it, the event is accepted, though its answer may
    # be lost.
    assert found["unaccepted"] == 2
    assert found["reads"] > found["kills"]
    assert found["torn"] == []
    assert found["wrong"] == [], found["expected"]
    assert found["expected"]["waits"] == 0
    assert set(found["expected"]["outcomes"]) == {
        item.id for item in (*story.before, *story.events)
    }


@pytest.mark.slow
@pytest.mark.parametrize("boundary", [1, 20, 60, 100, 130])
def test_a_daemon_killed_in_a_publication_completes_it_at_its_next_start(
    tmp_path: Path, boundary: int
) -> None:
    """The same over HTTP, with whole processes: a few boundaries, because each takes seconds."""
    bucket, journal, story = tmp_path / "bucket", tmp_path / "journal.db", STORIES[0]
    entry = (
        sys.executable,
        "-m",
        "tests.acceptance.entry",
        "daemon",
        str(bucket),
        str(journal),
        str(boundary),
    )
    with DaemonProcess(bucket, journal, tmp_path / "first.log") as first:
        first.port()
        while (
            "publishes to this bucket from now on" not in first.log_text
        ):  # the id of the bucket is not part of this scenario
            assert first.runs
            time.sleep(0.02)
        assert first.stop() == 0
    with DaemonProcess(bucket, journal, tmp_path / "killed.log", command=entry) as killed:
        answer = post(killed.port(), *story.events)
        assert answer is not None
        assert answer.status == 202
        assert killed.ended() == -signal.SIGKILL
    with DaemonProcess(bucket, journal, tmp_path / "next.log") as daemon:
        daemon.port()
        until_settled(daemon, journal)
        asyncio.run(until_in_step(bucket, [GOLDEN]))
        assert daemon.stop() == 0

    reported = outcomes(journal, [event.id for event in story.events])
    assert [
        outcome and outcome.kind for lanes in reported.values() for outcome in lanes.values()
    ] == ["published"]
    pointer = asyncio.run(read_whole(DirectoryStore(bucket, InlineRuntime()), InlineRuntime()))
    assert pointer is not None
    assert (pointer.sequence, pointer.live and pointer.live.state) == (1, "state-1")
