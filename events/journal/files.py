"""The journal's files on disk: created and locked for one `run`, and recognised again while it lasts.

`run` holds two locks. The file beside the journal keeps out releases that know no other lock. The lock on the
database's own inode holds as well when somebody removes the file beside it, or reaches the database by another name.
"""

import errno
import fcntl
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from events.errors import JournalLocked, SourceUnavailable

MACHINE_ID: Final = Path("/etc/machine-id")
_KEPT_BY_SQLITE: Final = ("", "-wal", "-shm")
_OPEN: Final = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A FIFO must not block the caller, and a link must not lead to another file."""

FileId = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True)
class HeldFiles:
    """The two locks of a `run`, as open descriptors."""

    lock: int
    database: int
    """Opened before SQLite opens the file, and closed after SQLite has closed it. POSIX drops every lock that a process
    has on a file as soon as the process closes any descriptor of that file, so SQLite would lose its locks."""

    def release(self) -> None:
        """Let go of both."""
        os.close(self.database)
        os.close(self.lock)


def hold(path: Path) -> HeldFiles:
    """Create the journal's file if there is none, and lock it against another `run`.

    Raises:
        JournalLocked: another `run` holds it.
        SourceUnavailable: the file system does not allow it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(Path(f"{path}.lock"), path)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        existed = path.exists()
        # SQLite gives its WAL the mode of the database, and would create that by the umask.
        database = _locked(path, path)
        if not existed:
            _sync_directory(path.parent)
    except OSError as error:
        os.close(lock)
        raise _unusable(path, error) from error
    except BaseException:
        os.close(lock)
        raise
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return HeldFiles(lock, database)


def identities(path: Path) -> tuple[FileId | None, ...]:
    """Which files the database, its log and its index are; None for one that is not there."""
    return tuple(_identity(Path(f"{path}{suffix}")) for suffix in _KEPT_BY_SQLITE)


def machine_id(path: Path) -> str:
    """The id of this installation (machine-id(5)); empty if it has none, which proves nothing."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch("[0-9a-f]{32}", text) else ""


def _identity(path: Path) -> FileId | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _locked(file: Path, journal: Path) -> int:
    descriptor = os.open(file, _OPEN, 0o600)
    try:
        _lock(descriptor, file, journal)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, file: Path, journal: Path) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise SourceUnavailable(f"the journal {journal} cannot be opened: {file} is not a regular file; move it away")
    if file != journal and found.st_nlink > 1:
        # It is written below, and may be a file of somebody else.
        raise SourceUnavailable(f"the journal {journal} cannot be opened: {file} has another name, too; remove it")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalLocked(
            f"the journal {journal} belongs to a running `rebundle run` ({_holder(journal)}): "
            "stop that one first, or give this one a journal of its own"
        ) from None


def _holder(journal: Path) -> str:
    try:
        return Path(f"{journal}.lock").read_text(encoding="ascii")[:200].strip() or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"


def _sync_directory(directory: Path) -> None:
    # SQLite makes the names of its WAL durable, but not the name of the database itself.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError) -> SourceUnavailable:
    if error.errno == errno.ELOOP:
        return SourceUnavailable(f"the journal {path} cannot be opened: {error.filename} is a symbolic link; remove it")
    return SourceUnavailable(f"the journal {path} cannot be opened: {error.strerror}")
