"""Creates and locks the journal's files for one `run`, and identifies them during the run.

`run` holds two locks. The lock on the file beside the journal remains effective if the database is
removed or replaced, and that file names the process that holds it. The lock on the inode of the
database remains effective if the file beside it is removed, or if the database is opened under
another name.

Files and their owners are handled as in `daemon.local_files`, which this package may not import.
"""

import errno
import fcntl
import os
import pwd
import re
import shlex
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from events.errors import JournalLocked, SourceUnavailable

MACHINE_ID: Final = Path("/etc/machine-id")
_SQLITE_SUFFIXES: Final = ("", "-wal", "-shm")
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A FIFO must not block the caller, and a link must not be followed to another file."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

FileId = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True)
class HeldFiles:
    """The two locks of a `run`, as open descriptors."""

    lock: int
    database: int
    """Opened before SQLite opens the file, and closed after SQLite has closed it.

    POSIX releases all locks that a process has on a file when the process closes any descriptor of
    that file, so closing this one earlier would release SQLite's locks.
    """

    def release(self) -> None:
        """Releases both locks."""
        os.close(self.database)
        os.close(self.lock)


def hold(path: Path) -> HeldFiles:
    """Locks the journal against another `run`; creates its file if it does not exist.

    A file that root creates gets the owner of its folder. So the user of a service can open the
    journal, even if an operator once started the daemon as root. SQLite gives its `-wal` and `-shm`
    files the owner of the database.

    Raises:
        JournalLocked: another `run` holds the lock.
        SourceUnavailable: the file system refuses it.
    """
    try:
        _make_folder(path.parent)
        lock = _locked(Path(f"{path}.lock"), path, is_written=True)
    except OSError as error:
        raise unusable(path, error) from error
    try:
        existed = path.exists()
        # Created here, with mode 0600: SQLite would use the umask, and gives the WAL the same mode.
        database = _locked(path, path)
        if not existed:
            _sync_directory(path.parent)
    except OSError as error:
        os.close(lock)
        raise unusable(path, error) from error
    except BaseException:
        os.close(lock)
        raise
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return HeldFiles(lock, database)


def refuse_links(path: Path) -> None:
    """Refuses a journal if one of its files is a symbolic link.

    A user who may write the folder could place a link there. A command of root would then create,
    lock or change files in a folder of that user's choice.

    Raises:
        SourceUnavailable: one of them is a link.
    """
    for file in (Path(f"{path}{suffix}") for suffix in _SQLITE_SUFFIXES):
        try:
            is_link = stat.S_ISLNK(file.lstat().st_mode)
        except OSError:
            continue  # opening the journal reports the error
        if is_link:
            raise SourceUnavailable(
                f"the journal {path} cannot be opened: {file} is a symbolic link, which is not "
                "followed; remove the link, or name the journal's own path"
            )


def identities(path: Path) -> tuple[FileId | None, ...]:
    """The ids of the database, its log and its index; None for a missing file."""
    return tuple(_identity(Path(f"{path}{suffix}")) for suffix in _SQLITE_SUFFIXES)


def machine_id(path: Path) -> str:
    """The id of this installation (machine-id(5)); empty if it has no valid one."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch("[0-9a-f]{32}", text) else ""


def _identity(path: Path) -> FileId | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _locked(file: Path, journal: Path, *, is_written: bool = False) -> int:
    descriptor = _opened(file)
    try:
        _check_file(descriptor, file, journal, is_written=is_written)
        _lock(descriptor, journal)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _opened(file: Path) -> int:
    try:
        with _folder(file.parent) as folder:
            try:
                return _created(folder, file.name)
            except FileExistsError:
                return os.open(file.name, _OPEN, dir_fd=folder)
    except OSError as error:
        error.filename = str(file)
        raise


def _created(folder: int, name: str) -> int:
    descriptor = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        _give_to_owner_of(folder, descriptor)
    except OSError:
        os.close(descriptor)
        os.unlink(name, dir_fd=folder)
        raise
    return descriptor


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with _folder(folder.parent) as above, suppress(FileExistsError):
        os.mkdir(folder.name, dir_fd=above)
        descriptor = os.open(folder.name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
        try:
            # Another user may have replaced it since mkdir: change the owner only if root owns it.
            if os.fstat(descriptor).st_uid == 0:
                _give_to_owner_of(above, descriptor)
        finally:
            os.close(descriptor)


def _give_to_owner_of(folder: int, descriptor: int) -> None:
    """Gives a file that root has just created the owner of its folder.

    By descriptor: the name may refer to another file a moment later.
    """
    if os.geteuid() == 0:
        owner = os.fstat(folder)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextmanager
def _folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_file(descriptor: int, file: Path, journal: Path, *, is_written: bool) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise SourceUnavailable(
            f"the journal {journal} cannot be opened: {file} is not a regular file; move it away"
        )
    if is_written and status.st_nlink > 1:
        # The other name may be a file of another user.
        raise SourceUnavailable(
            f"the journal {journal} cannot be opened: {file} has a second name (a hard link); "
            f"remove {file}"
        )


def _lock(descriptor: int, journal: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalLocked(
            f"the journal {journal} is in use by a running daemon ({_holder(journal)}): "
            "stop that one first, or configure another journal path for this one"
        ) from None


def _holder(journal: Path) -> str:
    try:
        return (
            Path(f"{journal}.lock").read_text(encoding="ascii")[:200].strip() or "another process"
        )
    except (OSError, UnicodeDecodeError):
        return "another process"


def _sync_directory(directory: Path) -> None:
    # SQLite syncs the folder after it creates its WAL, but not after it creates the database.
    with _folder(directory) as descriptor:
        os.fsync(descriptor)


def unusable(path: Path, error: OSError) -> SourceUnavailable:
    """The error for a journal whose files cannot be opened, with the command that helps."""
    if error.errno == errno.ELOOP:
        return SourceUnavailable(
            f"the journal {path} cannot be opened: {error.filename} is a symbolic link; remove it"
        )
    help_ = remedy(path) if error.errno == errno.EACCES else ""
    return SourceUnavailable(f"the journal {path} cannot be opened: {error.strerror}{help_}")


def remedy(path: Path) -> str:
    """What to do if this user lacks a permission that a journal needs; empty if it lacks none."""
    denied = next((place for place, needed in _needed(path) if not _may(place, needed)), None)
    if denied is None:
        return ""
    owner = denied.stat().st_uid  # works: this user may search every folder above it
    quoted = shlex.quote(str(denied))
    if denied.parent == path.parent and owner != path.parent.stat().st_uid:
        chown = f"sudo chown --reference={shlex.quote(str(path.parent))} {shlex.quote(str(path))}*"
        return f" ({denied} belongs to another user); give it to the owner of its folder: {chown}"
    if owner == os.geteuid():
        rights = "u+rwx" if denied.is_dir() else "u+rw"
        command = f"give it permission: chmod {rights} {quoted}"
    else:
        command = f"run this as a user that may use it: sudo -u {_name(owner)} …"
    return f"; {command}. {_name(os.geteuid())} may not use {denied}: ls -ld {quoted}"


def _needed(path: Path) -> Iterator[tuple[Path, int]]:
    """The existing files and folders that a journal uses, and the rights that it needs on them."""
    yield from ((folder, os.X_OK) for folder in reversed(path.parents))
    for suffix in (*_SQLITE_SUFFIXES, ".lock"):
        file = Path(f"{path}{suffix}")
        if os.path.lexists(file):
            yield file, os.R_OK | os.W_OK
    yield path.parent, os.W_OK


def _may(place: Path, rights: int) -> bool:
    return os.access(place, rights, effective_ids=os.access in os.supports_effective_ids)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
