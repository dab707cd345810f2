"""Daemons that are killed at a chosen moment: the test entry point. The product has no switch for it.

`python -m tests.acceptance.entry kills FOLDER STORY` plays a story (`tests.support.crashes`) in forked children, one for
each boundary: before every change of the bucket's disk, and before and after every write of the journal. While a child
lives, its parent reads pointer, manifests and archives on its own. Each is followed by a child that is not killed, whose
account must be that of the story without a crash. One line of JSON tells what was found.

Children instead of whole processes: a fork of this warm process starts in milliseconds, the command in seconds. The parent
has no thread, which a fork needs.

`python -m tests.acceptance.entry daemon BUCKET JOURNAL BOUNDARY` is the whole daemon with HTTP, killed at one boundary of
the bucket's disk.
"""

import asyncio
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from daemon import settings, wiring
from daemon.stores.directory import DirectoryStore
from daemon.stores.filesystem import FileSystem, RealFileSystem
from events.model import Event
from events.source import EventSource
from tests.builders_runtime import InlineRuntime
from tests.support.crashes import OVERRIDDEN, STORIES, Story, UnsyncedFileSystem, Worksite, normal, read_whole
from tests.support.filesystems import Operation, PassingFileSystem, Sync, SyncFolder

JOURNAL_WRITES = frozenset({"append", "assign", "record", "withdraw", "settle", "note_failure", "reinstate"})


class Executioner:
    """Kills its own process at the n-th boundary that is reached, from 1; counts only, if n is 0."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._lock = threading.Lock()
        self.reached = 0

    def boundary(self) -> None:
        with self._lock:
            self.reached += 1
            if self.reached == self._n:
                os.kill(os.getpid(), signal.SIGKILL)


class DeadlyFileSystem(PassingFileSystem):
    """A boundary before every call that changes something. A sync is none: a kill before it leaves the very disk that a
    kill before the next change leaves; what syncs are for, the power cuts show."""

    def __init__(self, inner: FileSystem, executioner: Executioner) -> None:
        super().__init__(inner)
        self._executioner = executioner

    def change(self, operation: Operation) -> None:
        if not isinstance(operation, Sync | SyncFolder):
            self._executioner.boundary()
        super().change(operation)


class DeadlySource:
    """An EventSource with a boundary before and after every write."""

    def __init__(self, source: EventSource, executioner: Executioner) -> None:
        self._source = source
        self._executioner = executioner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._source, name)
        if name not in JOURNAL_WRITES:
            return found

        async def write(*args: Any, **kwargs: Any) -> Any:
            self._executioner.boundary()
            result = await found(*args, **kwargs)
            self._executioner.boundary()
            return result

        return write


def in_child(work: Callable[[], None]) -> int:
    """The process id of a fork that does the work and ends with 0, or with 1 and a traceback."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # noqa: BLE001  # told to the parent by its exit code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def play(site: Worksite, story: Story, n: int, accepted: Path) -> None:
    executioner = Executioner(n)

    async def work() -> None:
        await site.work(
            send=story.events,
            accepted=accepted.touch,
            filesystem=DeadlyFileSystem(UnsyncedFileSystem(RealFileSystem()), executioner),
            between=lambda source: DeadlySource(source, executioner),  # type: ignore[return-value]  # it passes all on
        )
        # The last boundary: everything done, nothing said.
        executioner.boundary()

    asyncio.run(work())


def recover(site: Worksite, again: Sequence[Event]) -> None:
    asyncio.run(site.work(send=again))


class Watch:
    """Reads what is published while children work."""

    def __init__(self, site: Worksite) -> None:
        self._site = site
        self.reads = 0
        self.torn: list[str] = []

    def until_the_end_of(self, child: int) -> int:
        """The exit code of a child."""
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            self._read()
            time.sleep(0.002)  # two processors, and the child needs one
            if ended:
                return os.waitstatus_to_exitcode(status)

    def _read(self) -> None:
        runtime = InlineRuntime()
        try:
            found = asyncio.run(read_whole(DirectoryStore(self._site.bucket, runtime), runtime))
        except Exception as error:  # noqa: BLE001  # whatever it is, no reader may meet it
            self.torn.append(repr(error))
        else:
            self.reads += found is not None


def kill_at_every_boundary(folder: Path, story: Story) -> dict[str, Any]:
    site, aside, accepted = Worksite(folder / "site"), folder / "aside", folder / "accepted"
    watch = Watch(site)

    def run(work: Callable[[], None]) -> int:
        return watch.until_the_end_of(in_child(work))

    assert run(lambda: site.prepare(story)) == 0
    site.keep(aside)
    assert run(partial(play, site, story, 0, accepted)) == 0
    expected = normal(site.account())
    killed, unaccepted, wrong = 0, 0, []
    while True:
        site.restore(aside)
        accepted.unlink(missing_ok=True)
        code = run(partial(play, site, story, killed + 1, accepted))
        if code != -signal.SIGKILL:
            break
        killed += 1
        # Who has got no answer sends again; who has got one never does.
        again = () if accepted.exists() else story.events
        unaccepted += bool(again)
        recovery = run(partial(recover, site, again))
        found = normal(site.account())
        if recovery or found != expected or (story.before and site.override.read_bytes() != OVERRIDDEN):
            wrong.append({"boundary": killed, "recovery": recovery, "found": found})
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "kills": killed,
        "unaccepted": unaccepted,
        "end": code,
        "expected": expected,
        "wrong": wrong,
        "reads": watch.reads,
        "torn": watch.torn,
    }


def daemon(bucket: str, journal: str, boundary: int) -> None:
    executioner = Executioner(boundary)
    given = {"bucket": bucket, "journal.path": journal, "http.listen": "127.0.0.1:0"}
    loaded = settings.load(given, {}, None).settings
    filesystem = DeadlyFileSystem(RealFileSystem(), executioner)
    asyncio.run(wiring.run(loaded, "test", announce=lambda line: print(line, flush=True), filesystem=filesystem))


def main() -> None:
    match sys.argv[1:]:
        case ["kills", folder, name]:
            gc.freeze()
            story = next(each for each in STORIES if each.name == name)
            print(json.dumps(kill_at_every_boundary(Path(folder), story)))
        case ["daemon", bucket, journal, boundary]:
            daemon(bucket, journal, int(boundary))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
