"""The file-system port: the few calls that the directory store acts through.

Small, so that a test can count and kill at every one, and record them to replay each power cut. A call is durable only
after the `sync` of the file (its bytes) and the `sync_folder` of the folder (its names): nothing here syncs by itself.
Nothing here follows a symbolic link in the last part of a path. Failures are plain OSErrors; the store translates them.
"""

import contextlib
import enum
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Kind(enum.Enum):
    """What stands under a name."""

    FILE = "file"
    FOLDER = "folder"
    OTHER = "other"
    """A symbolic link, a socket, a device: nothing that a store reads or writes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder."""

    name: str
    kind: Kind
    size: int
    modified: float
    """Seconds since 1970, by the clock of the file system."""


class FileSystem(Protocol):
    """What a directory store needs of an operating system."""

    def status(self, path: Path) -> Entry | None:
        """What stands at the path; None if nothing does."""
        ...

    def entries(self, folder: Path) -> Sequence[Entry]:
        """What stands in the folder, in no order. A name that vanishes meanwhile is left out."""
        ...

    def read(self, path: Path) -> bytes:
        """The bytes of a file."""
        ...

    def write(self, path: Path, body: bytes, *, executable: bool) -> None:
        """Make a new file with these bytes; its mode is 0666 or 0777 less the process's umask, as for any program."""
        ...

    def sync(self, path: Path) -> None:
        """Make the bytes of a file durable."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Atomic; raises FileExistsError if the name is taken."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Move a file over another one. Atomic."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name of a file."""
        ...

    def mkdir(self, folder: Path) -> None:
        """Make a folder."""
        ...

    def rmdir(self, folder: Path) -> None:
        """Remove an empty folder."""
        ...

    def lock(self, path: Path) -> AbstractContextManager[bool]:
        """Hold the lock file, which is made where it is missing; False at once if another thread or process holds it.

        The operating system takes the lock back from a process that dies.
        """
        ...


class RealFileSystem:
    """The operating system's own file system. It must have hard links, flock and fsync: any local one of Linux does."""

    def status(self, path: Path) -> Entry | None:
        """What stands at the path; None if nothing does."""
        try:
            return _entry(path.name, os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def entries(self, folder: Path) -> Sequence[Entry]:
        """What stands in the folder."""
        found = []
        with os.scandir(folder) as names:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found.append(_entry(name.name, name.stat(follow_symlinks=False)))
        return found

    def read(self, path: Path) -> bytes:
        """The bytes of a file."""
        # A pipe that somebody put there must not hang the reader: opened without waiting, it reads as empty.
        with (
            _opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            return file.read()

    def write(self, path: Path, body: bytes, *, executable: bool) -> None:
        """Make a new file with these bytes."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with (
            _opened(path, flags, 0o777 if executable else 0o666) as descriptor,
            open(descriptor, "wb", closefd=False) as file,
        ):
            file.write(body)
        _give_to_owner_of_folder(path)

    def sync(self, path: Path) -> None:
        """Make the bytes of a file durable."""
        with _opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            os.fsync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            os.fsync(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file over another one."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a name of a file."""
        path.unlink()

    def mkdir(self, folder: Path) -> None:
        """Make a folder."""
        folder.mkdir()
        _give_to_owner_of_folder(folder)

    def rmdir(self, folder: Path) -> None:
        """Remove an empty folder."""
        folder.rmdir()

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[bool]:
        """Hold the lock file."""
        # Opened for reading: the file may belong to another user of the same folder, and flock needs no more.
        with _opened(path, os.O_RDONLY | os.O_CREAT, 0o666) as descriptor:
            _give_to_owner_of_folder(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def _give_to_owner_of_folder(path: Path) -> None:
    """What root makes here belongs to whoever owns the folder: else an operator's verb locks the daemon's user out."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _entry(name: str, found: os.stat_result) -> Entry:
    if stat.S_ISREG(found.st_mode):
        kind = Kind.FILE
    elif stat.S_ISDIR(found.st_mode):
        kind = Kind.FOLDER
    else:
        kind = Kind.OTHER
    return Entry(name, kind, found.st_size, found.st_mtime)


@contextlib.contextmanager
def _opened(path: Path, flags: int, mode: int = 0) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
