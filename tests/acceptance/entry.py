"""Daemons that are killed at a chosen moment: the entry point of the crash tests. The product has
no switch for it.

`python -m tests.acceptance.entry kills FOLDER STORY` runs a scenario (`tests.support.crashes`) in
forked children, one per boundary: before every change of the bucket's disk, and before and after
every write of the journal. While a child lives, its parent reads pointer, manifests and archives as
an independent reader. After each killed child, another one runs to the end, and its `account` must
equal that of a run without a crash. One line of JSON reports the result.

Children instead of new processes, because a fork of this warm process starts in milliseconds and
the command in seconds. The parent has no thread, as a fork requires.

`python -m tests.acceptance.entry kills-on FOLDER STORY URL QUERY` does the same on a bucket of a
server, with kills before and after every write to the server and of the journal.

`python -m tests.acceptance.entry daemon BUCKET JOURNAL BOUNDARY` is the whole daemon with HTTP,
killed at one boundary of the bucket's disk.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon import service, settings
from daemon.stores.directory.filesystem import FileSystem, RealFileSystem
from daemon.stores.port import ObjectStore
from events.model import Event
from events.source import EventSource
from tests.builders_runtime import InlineRuntime
from tests.support.crashes import (
    OVERRIDDEN,
    STORIES,
    ServerSite,
    Story,
    Worksite,
    normal,
    read_whole,
)
from tests.support.filesystems import Operation, PassingFileSystem, Sync, SyncFolder

JOURNAL_WRITES = frozenset(
    {"append", "assign", "record", "withdraw", "settle", "note_failure", "compare"}
)


class Executioner:
    """Kills its own process at the n-th boundary, from 1. With n = 0 it only counts."""

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
    """A boundary before every call that changes something, except syncs: a kill before a sync
    leaves the same disk as a kill before the next change. The power-cut tests show what syncs are
    for.
    """

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


class DeadlyStore:
    """An ObjectStore with a boundary before and after every write."""

    def __init__(self, store: ObjectStore, executioner: Executioner) -> None:
        self._store = store
        self._executioner = executioner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in {"create", "replace", "delete"}:
            return found

        async def write(*args: Any) -> Any:
            self._executioner.boundary()
            result = await found(*args)
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
    except BaseException:  # noqa: BLE001  # reported to the parent by its exit code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def deadly(below: Any, executioner: Executioner) -> Any:
    if isinstance(below, RealFileSystem | PassingFileSystem):
        return DeadlyFileSystem(below, executioner)
    return DeadlyStore(below, executioner)


def play(site: Worksite, story: Story, n: int, accepted: Path) -> None:
    executioner = Executioner(n)

    async def work() -> None:
        await site.work(
            send=story.events,
            accepted=accepted.touch,
            around=lambda below: deadly(below, executioner),
            between=lambda source: DeadlySource(source, executioner),  # type: ignore[return-value]  # a wrapper
        )
        # The last boundary: all work is done, and no answer was sent.
        executioner.boundary()

    asyncio.run(work())


def recover(site: Worksite, again: Sequence[Event]) -> None:
    asyncio.run(site.work(send=again))


class Watch:
    """Reads what is published while children work."""

    def __init__(self, store: ObjectStore, seconds: float = 0.002) -> None:
        """Waits `seconds` between two reads: there are two processors, and the child needs one."""
        self._store = store
        self._seconds = seconds
        self.reads = 0
        self.torn: list[str] = []

    def until_the_end_of(self, child: int) -> int:
        """The exit code of a child."""
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            self._read()
            time.sleep(self._seconds)
            if ended:
                return os.waitstatus_to_exitcode(status)

    def _read(self) -> None:
        runtime = InlineRuntime()
        try:
            found = asyncio.run(read_whole(self._store, runtime))
        except Exception as error:  # noqa: BLE001  # no reader may get any unexpected error
            self.torn.append(repr(error))
        else:
            self.reads += found is not None


class Kills:
    """The results of a scenario that is interrupted at one boundary after the other."""

    def __init__(self, story: Story, accepted: Path, expected: Any) -> None:
        self._story = story
        self._accepted = accepted
        self.expected = expected
        self.killed = 0
        self.unaccepted = 0
        self.end = 0
        self.reads = 0
        self.torn: list[str] = []
        self.wrong: list[dict[str, Any]] = []

    def cut(self, site: Worksite, watch: Watch) -> bool:
        """Kill at the next boundary, then let another child finish.

        Returns whether there was a boundary left.
        """
        self._accepted.unlink(missing_ok=True)
        self.end = watch.until_the_end_of(
            in_child(lambda: play(site, self._story, self.killed + 1, self._accepted))
        )
        if self.end == -signal.SIGKILL:
            self.killed += 1
            # A sender without an answer sends again; one with an answer never does.
            again = () if self._accepted.exists() else self._story.events
            self.unaccepted += bool(again)
            recovery = watch.until_the_end_of(in_child(lambda: recover(site, again)))
            found = normal(site.account())
            if (
                recovery
                or found != self.expected
                or (self._story.before and site.overridden != OVERRIDDEN)
            ):
                self.wrong.append({"boundary": self.killed, "recovery": recovery, "found": found})
        self.reads += watch.reads
        self.torn += watch.torn
        return self.end == -signal.SIGKILL

    def report(self) -> dict[str, Any]:
        names = ("unaccepted", "end", "expected", "wrong", "reads", "torn")
        return {"kills": self.killed} | {name: getattr(self, name) for name in names}


def kill_at_every_boundary(folder: Path, story: Story) -> dict[str, Any]:
    site, aside, accepted = Worksite(folder / "site"), folder / "aside", folder / "accepted"
    assert Watch(site.shared).until_the_end_of(in_child(lambda: site.prepare(story))) == 0
    site.keep(aside)
    assert (
        Watch(site.shared).until_the_end_of(in_child(lambda: play(site, story, 0, accepted))) == 0
    )
    kills = Kills(story, accepted, normal(site.account()))
    site.restore(aside)
    # A store that has seen its folder refuses to read once it is gone, and `restore` removes it.
    while kills.cut(site, Watch(site.shared)):
        site.restore(aside)
    shutil.rmtree(folder, ignore_errors=True)
    return kills.report()


def kill_on_a_server(folder: Path, story: Story, url: str, query: str) -> dict[str, Any]:
    first, aside, accepted = (
        ServerSite(folder / "site", url, query, "before"),
        folder / "aside",
        folder / "accepted",
    )
    assert os.waitstatus_to_exitcode(os.waitpid(in_child(lambda: first.prepare(story)), 0)[1]) == 0
    first.keep(aside)

    def site(name: str) -> ServerSite:
        made = replace(first, name=name)
        first.copy_to(made)
        made.restore_journal(aside)
        return made

    def watch(site: ServerSite) -> Watch:
        return Watch(site.shared, 0.05)

    whole = site("whole")
    assert watch(whole).until_the_end_of(in_child(lambda: play(whole, story, 0, accepted))) == 0
    kills = Kills(story, accepted, normal(whole.account()))
    while kills.cut(cut := site(f"cut-{kills.killed}"), watch(cut)):
        pass
    return kills.report()


def daemon(bucket: str, journal: str, boundary: int) -> None:
    executioner = Executioner(boundary)
    given = {"bucket": bucket, "journal.path": journal, "http.listen": "127.0.0.1:0"}
    loaded = settings.load(given, {}, None).settings
    filesystem = DeadlyFileSystem(RealFileSystem(), executioner)
    asyncio.run(
        service.run(
            loaded, "test", announce=lambda line: print(line, flush=True), filesystem=filesystem
        )
    )


def main() -> None:
    match sys.argv[1:]:
        case ["kills", folder, name]:
            gc.freeze()
            story = next(item for item in STORIES if item.name == name)
            print(json.dumps(kill_at_every_boundary(Path(folder), story)))
        case ["kills-on", folder, name, url, query]:
            gc.freeze()
            story = next(item for item in STORIES if item.name == name)
            print(json.dumps(kill_on_a_server(Path(folder), story, url, query)))
        case ["daemon", bucket, journal, boundary]:
            daemon(bucket, journal, int(boundary))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
