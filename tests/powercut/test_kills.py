"""Writers that are killed by SIGKILL before, after and in the middle of every change they make to
the disk.

The writers run in a separate process, which forks one for each boundary: a fork needs a process
without threads.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.stores.directory.store import DirectoryStore
from daemon.stores.port import Content
from tests.builders_runtime import InlineRuntime

PROJECT = Path(__file__).parents[2]

WRITERS = """
import asyncio, json, os, sys
from pathlib import Path
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.directory.filesystem import RealFileSystem
from daemon.stores.port import Content
from tests.builders_runtime import InlineRuntime
from tests.support.filesystems import CountingFileSystem, KillingFileSystem

async def write(root, filesystem):
    store = DirectoryStore(root, InlineRuntime(), filesystem)
    version = await store.create("a/file", Content(b"one", tag={"n": "1"}))
    version = await store.replace("a/file", Content(b"second", tag={"n": "2", "mode": "0755"}), version)
    await store.create("a/other", Content(b"other"))
    await store.delete("a/file", version)

folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
counting = CountingFileSystem(RealFileSystem())
asyncio.run(write(folder / "counted", counting))
for n in range(1, counting.count + 1):
    child = os.fork()
    if child == 0:
        asyncio.run(write(folder / str(n), KillingFileSystem(RealFileSystem(), n, **options)))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FILE_1 = ("a/file", b"one", {"n": "1"})
FILE_2 = ("a/file", b"second", {"n": "2", "mode": "0755"})
OTHER = ("a/other", b"other", {})
STEPS = [[], [FILE_1], [FILE_2], [FILE_2, OTHER], [OTHER]]


async def objects(store: DirectoryStore) -> list[tuple[str, bytes, dict[str, str]]]:
    found = [(listed.key, await store.get(listed.key)) for listed in await store.scan("")]
    return [(key, stored.body, dict(stored.tag)) for key, stored in found]


async def finish(store: DirectoryStore) -> None:
    for listed in await store.scan(""):
        await store.delete(
            listed.key, (await store.replace(listed.key, Content(b"x"), listed.version))
        )
    await store.create("a/file", Content(b"again", tag={"n": "9"}))


@pytest.mark.parametrize("options", [{}, {"after": True}, {"torn": True}], ids=json.dumps)
def test_a_kill_at_any_boundary_leaves_whole_objects_and_a_usable_store(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    command = [sys.executable, "-c", WRITERS, str(tmp_path), json.dumps(options)]
    codes = subprocess.run(
        command, cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout.split()

    assert len(codes) > 40
    assert set(codes) == {"-9"}
    reached = set()
    for n in range(1, len(codes) + 1):
        store = DirectoryStore(tmp_path / str(n), InlineRuntime("after"))
        left = asyncio.run(objects(store))
        assert left in STEPS
        reached.add(STEPS.index(left))
        asyncio.run(finish(store))
        assert asyncio.run(objects(store)) == [("a/file", b"again", {"n": "9"})]
    assert reached == set(range(len(STEPS)))
