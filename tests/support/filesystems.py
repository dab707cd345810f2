"""File systems under a directory store that count, kill at, or record every changing call.

Pass one to `DirectoryStore(root, runtime, filesystem)` or, for a whole daemon, to
`daemon.service.run(…, filesystem=filesystem)`. `tests.support.powercut` replays a record with every
power cut.
"""

import os
import signal
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from daemon.stores.directory.filesystem import DirectoryEntry, FileSystem


@dataclass(frozen=True, slots=True)
class Write:
    path: Path
    body: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Sync:
    path: Path


@dataclass(frozen=True, slots=True)
class SyncFolder:
    folder: Path


@dataclass(frozen=True, slots=True)
class Link:
    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Rename:
    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Exchange:
    one: Path
    other: Path


@dataclass(frozen=True, slots=True)
class Unlink:
    path: Path


@dataclass(frozen=True, slots=True)
class Mkdir:
    folder: Path


@dataclass(frozen=True, slots=True)
class Rmdir:
    folder: Path


Operation = Write | Sync | SyncFolder | Link | Rename | Exchange | Unlink | Mkdir | Rmdir


@dataclass(frozen=True, slots=True)
class Mark:
    """Not an operation: a mark that a test sets, such as that a write has been acknowledged."""

    label: str


def perform(filesystem: FileSystem, operation: Operation) -> None:
    match operation:
        case Write(path, body, mode):
            filesystem.write(path, body, mode=mode)
        case Sync(path):
            filesystem.sync(path)
        case SyncFolder(folder):
            filesystem.sync_folder(folder)
        case Link(source, target):
            filesystem.link(source, target)
        case Rename(source, target):
            filesystem.rename(source, target)
        case Exchange(one, other):
            filesystem.exchange(one, other)
        case Unlink(path):
            filesystem.unlink(path)
        case Mkdir(folder):
            filesystem.mkdir(folder)
        case Rmdir(folder):
            filesystem.rmdir(folder)
        case _:
            assert_never(operation)


class PassingFileSystem:
    """A FileSystem that passes every call on. `change` sees each one that changes something."""

    def __init__(self, inner: FileSystem) -> None:
        self.inner = inner

    def change(self, operation: Operation) -> None:
        perform(self.inner, operation)

    def status(self, path: Path) -> DirectoryEntry | None:
        return self.inner.status(path)

    def entries(self, folder: Path) -> Iterable[DirectoryEntry]:
        return self.inner.entries(folder)

    def chunks(self, path: Path) -> Iterable[bytes]:
        return self.inner.chunks(path)

    def lock(self, path: Path) -> AbstractContextManager[bool]:
        return self.inner.lock(path)

    def write(self, path: Path, body: bytes, *, mode: int) -> None:
        self.change(Write(path, body, mode))

    def sync(self, path: Path) -> None:
        self.change(Sync(path))

    def sync_folder(self, folder: Path) -> None:
        self.change(SyncFolder(folder))

    def link(self, source: Path, target: Path) -> None:
        self.change(Link(source, target))

    def rename(self, source: Path, target: Path) -> None:
        self.change(Rename(source, target))

    def exchange(self, one: Path, other: Path) -> None:
        self.change(Exchange(one, other))

    def unlink(self, path: Path) -> None:
        self.change(Unlink(path))

    def mkdir(self, folder: Path) -> None:
        self.change(Mkdir(folder))

    def rmdir(self, folder: Path) -> None:
        self.change(Rmdir(folder))


class CountingFileSystem(PassingFileSystem):
    """Counts the calls that change something, which is the number of boundaries for kills."""

    def __init__(self, inner: FileSystem) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.count = 0

    def change(self, operation: Operation) -> None:
        with self._lock:
            self.count += 1
        super().change(operation)


class KillingFileSystem(PassingFileSystem):
    """Kills its own process by SIGKILL at the n-th call that changes something (from 1): before it,
    or right after it.

    With `torn`, a write that is killed leaves the first half of its bytes.
    """

    def __init__(
        self, inner: FileSystem, n: int, *, after: bool = False, torn: bool = False
    ) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._left = n
        self._after = after
        self._torn = torn

    def change(self, operation: Operation) -> None:
        with self._lock:
            self._left -= 1
            due = self._left == 0
            if due:
                self._die(operation)
        super().change(operation)

    def _die(self, operation: Operation) -> None:
        if self._after:
            with suppress(OSError):
                super().change(operation)
        elif self._torn and isinstance(operation, Write):
            super().change(
                Write(operation.path, operation.body[: len(operation.body) // 2], operation.mode)
            )
        os.kill(os.getpid(), signal.SIGKILL)


class RecordingFileSystem(PassingFileSystem):
    """Records every call that changed something, in the order in which they took place."""

    def __init__(self, inner: FileSystem) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.log: list[Operation | Mark] = []

    def mark(self, label: str) -> None:
        with self._lock:
            self.log.append(Mark(label))

    def change(self, operation: Operation) -> None:
        with self._lock:
            super().change(operation)
            self.log.append(operation)


class FailingFileSystem(PassingFileSystem):
    """Raises an OSError at one kind of call: instead of it, or after it took place."""

    def __init__(
        self, inner: FileSystem, kind: type[Operation], number: int, *, after: bool = False
    ) -> None:
        super().__init__(inner)
        self.kind: type[Operation] | None = kind
        self._number = number
        self._after = after

    def change(self, operation: Operation) -> None:
        due = self.kind is not None and isinstance(operation, self.kind)
        if not due or self._after:
            super().change(operation)
        if due:
            raise OSError(self._number, os.strerror(self._number))
