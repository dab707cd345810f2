"""SIGKILL at every write boundary of a publication on the directory store: nothing lost, nothing torn, the same end.

The boundaries are those of the bucket's disk and of the journal's writes; how they are reached, and what is compared:
`entry` and `tests.support.crashes`. A disk in memory, where there is one, makes it quick: no kill can tell the difference.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.crashes import STORIES, Story

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
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_kill_at_any_write_loses_nothing_tears_nothing_and_ends_the_same(folder: Path, story: Story) -> None:
    found = kills(folder, story)
    print({each: found[each] for each in ("kills", "unaccepted", "reads")})

    assert found["end"] == 0, "the last one was not killed, and ended well"
    assert found["kills"] > 40
    # Before the append nothing was promised; after it, the acceptance stands though its answer may be lost.
    assert found["unaccepted"] == 2
    assert found["reads"] > found["kills"]
    assert found["torn"] == []
    assert found["wrong"] == [], found["expected"]
    assert found["expected"]["waits"] == 0
    assert set(found["expected"]["outcomes"]) == {each.id for each in (*story.before, *story.events)}
