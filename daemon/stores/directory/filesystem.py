"""The file-system port: all calls through which the directory store acts, and their implementation.

The port is small, so that tests can count the calls, kill the process at each one, and record them
to replay power cuts. No call syncs implicitly: bytes are durable after `sync` of the file, names
after `sync_folder` of the folder. Failures are plain OSErrors; the store translates them.

A user who may write the folders of a bucket must not be able to make this process wait, or act
elsewhere, even if it runs as root. So no call follows a symbolic link in any part of a path
(ELOOP), no call waits for the other end of a FIFO, and the owner of a new file is changed through
its descriptor, never by name.
"""

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from daemon.consequences import OperatorActionNeeded
from daemon.local_files import give_to_owner_of

_CHUNK_BYTES: Final = 1 << 20
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_RENAME_EXCHANGE: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
_OPENAT2: Final = 437  # on every architecture but Alpha
_AT_FDCWD: Final = -100
_RESOLVE_NO_SYMLINKS: Final = 4
_HOW: Final = {
    flags: (ctypes.c_uint64 * 3)(flags, 0, _RESOLVE_NO_SYMLINKS)
    for flags in (_FOLDER | os.O_PATH, _FOLDER | os.O_RDONLY, _READ)
}
"""struct open_how of openat2, by its flags: flags, mode, resolve."""
_HOW_BYTES: Final = 24


class Kind(enum.Enum):
    """The type of a directory entry. The value is its text in a message."""

    FILE = "a plain file"
    FOLDER = "a folder"
    LINK = "a symbolic link"
    FIFO = "a FIFO"
    SOCKET = "a socket"
    DEVICE = "a device"


_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.LINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}


class DirectoryEntry(NamedTuple):
    """A name in a folder, and the status of its file.

    Times are nanoseconds since 1970, by the file system's clock. A listing makes and compares two
    of these for each file, which takes a third of the time that it would with a dataclass.
    """

    name: str
    kind: Kind
    size: int
    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    """When bytes, mode, owner or a name of the file last changed. No program can set this time."""

    @property
    def modified(self) -> float:
        """Seconds since 1970."""
        return self.modified_ns / 1e9

    def is_same_file(self, other: "DirectoryEntry") -> bool:
        """Whether both are the same file with unchanged size and time, whatever its name."""
        same_inode = (self.device, self.inode) == (other.device, other.inode)
        return same_inode and (self.size, self.modified_ns) == (other.size, other.modified_ns)


class UnfitLock(OSError, OperatorActionNeeded):
    """The entry at the path of a lock file is not usable as one.

    Opening it might block, or it is another file with a second name.
    """


class FileSystem(Protocol):
    """The calls that a directory store needs of an operating system."""

    def status(self, path: Path) -> DirectoryEntry | None:
        """Return the entry at the path; None if there is none."""
        ...

    def entries(self, folder: Path) -> Iterable[DirectoryEntry]:
        """Yield the entries of a folder, in any order.

        A name that vanishes meanwhile is left out.
        """
        ...

    def chunks(self, path: Path) -> Iterable[bytes]:
        """Yield the bytes of a plain file in chunks."""
        ...

    def write(self, path: Path, body: bytes, *, mode: int) -> None:
        """Create a new file with these bytes. The process's umask applies to the mode."""
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
        """Move a file, over another one if there is one. Atomic."""
        ...

    def exchange(self, one: Path, other: Path) -> None:
        """Exchange two names. Atomic; raises FileNotFoundError if one is absent.

        Raises OSError with EINVAL, ENOSYS or EOPNOTSUPP if the file system or the kernel cannot do
        it.
        """
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
        """Hold a lock file, which is created if it is missing.

        Yields False at once if another thread or process holds it. The operating system releases
        the lock of a process that dies. Raises UnfitLock.
        """
        ...


class RealFileSystem:
    """The real file system. It must have hard links, flock and fsync.

    Every local file system of Linux has them.
    """

    def status(self, path: Path) -> DirectoryEntry | None:
        """Return the entry at the path; None if there is none."""
        try:
            with _parent(path) as folder:
                return _entry(path.name, os.stat(_name(path), dir_fd=folder, follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def entries(self, folder: Path) -> Iterator[DirectoryEntry]:
        """Yield the entries of a folder."""
        with _folder(folder, os.O_RDONLY) as descriptor, os.scandir(descriptor) as names:
            for name in names:
                try:
                    status = name.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    error.filename = str(folder)
                    raise
                yield _entry(name.name, status)

    def chunks(self, path: Path) -> Iterator[bytes]:
        """Yield the bytes of a plain file in chunks."""
        with _plain_file(path) as descriptor:
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                yield chunk

    def write(self, path: Path, body: bytes, *, mode: int) -> None:
        """Create a new file with these bytes."""
        with (
            _parent(path) as folder,
            _closing(
                os.open(_name(path), os.O_WRONLY | _CREATE, mode, dir_fd=folder)
            ) as descriptor,
        ):
            give_to_owner_of(folder, descriptor)
            left = memoryview(body)
            while left:
                left = left[os.write(descriptor, left) :]

    def sync(self, path: Path) -> None:
        """Make the bytes of a file durable."""
        with _plain_file(path) as descriptor:
            os.fsync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        with _folder(folder, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        with _parent(source) as here, _parent(target) as there:
            os.link(
                _name(source),
                _name(target),
                src_dir_fd=here,
                dst_dir_fd=there,
                follow_symlinks=False,
            )

    def rename(self, source: Path, target: Path) -> None:
        """Move a file, over another one if there is one."""
        with _parent(source) as here, _parent(target) as there:
            os.replace(_name(source), _name(target), src_dir_fd=here, dst_dir_fd=there)

    def exchange(self, one: Path, other: Path) -> None:
        """Exchange two names."""
        with _parent(one) as here, _parent(other) as there:
            _exchange(here, _name(one), there, _name(other))

    def unlink(self, path: Path) -> None:
        """Remove a name of a file."""
        with _parent(path) as folder:
            os.unlink(_name(path), dir_fd=folder)

    def mkdir(self, folder: Path) -> None:
        """Make a folder."""
        with _parent(folder) as above:
            os.mkdir(_name(folder), dir_fd=above)
            if os.geteuid() == 0:
                with _closing(_step(above, folder, os.O_RDONLY)) as descriptor:
                    # Another user may have replaced the folder
                    # since: only a folder of root's is given away.
                    if os.fstat(descriptor).st_uid == 0:
                        give_to_owner_of(above, descriptor)

    def rmdir(self, folder: Path) -> None:
        """Remove an empty folder."""
        with _parent(folder) as above:
            os.rmdir(_name(folder), dir_fd=above)

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[bool]:
        """Hold the lock file."""
        with _closing(_open_lock(path)) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                # A lock file that was removed since it was opened excludes no other process.
                yield _is_still_there(path, descriptor)


def _open_lock(path: Path) -> int:
    with _parent(path) as folder:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(_name(path), os.O_RDONLY | _CREATE, 0o666, dir_fd=folder)
            give_to_owner_of(folder, descriptor)
            return descriptor
        # Open for reading, which is enough for flock: the
        # file may belong to another user of the folder.
        try:
            descriptor = os.open(_name(path), _READ, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
                raise UnfitLock(
                    errno.EINVAL, "a lock file must be a plain file", str(path)
                ) from None
            raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    rule = "have one name only" if stat.S_ISREG(status.st_mode) else "be a plain file"
    raise UnfitLock(errno.EINVAL, f"a lock file must {rule}", str(path))


def _is_still_there(path: Path, descriptor: int) -> bool:
    with _parent(path) as folder:
        try:
            named = os.stat(_name(path), dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return os.path.samestat(named, os.fstat(descriptor))


def _entry(name: str, status: os.stat_result) -> DirectoryEntry:
    return DirectoryEntry(
        name,
        _KINDS.get(stat.S_IFMT(status.st_mode), Kind.DEVICE),
        status.st_size,
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


# ---- descriptors


@contextlib.contextmanager
def _parent(path: Path) -> Iterator[int]:
    """Open the folder of a path without following links.

    Errors that are raised inside the block get the whole path.
    """
    try:
        with _folder(path.parent, os.O_PATH) as folder:
            yield folder
    except OSError as error:
        if not str(error.filename or "").startswith("/"):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def _folder(folder: Path, flags: int) -> Iterator[int]:
    """Open a folder without following links."""
    descriptor = _opened_at_once(folder, _FOLDER | flags)
    if descriptor is None:
        # One by one: the kernel is too old, or the error must name the folder at fault.
        anchor, *steps = *reversed(folder.parents), folder
        descriptor = os.open(anchor, _FOLDER | (os.O_PATH if steps else flags))
        for step in steps:
            with _closing(descriptor):
                descriptor = _step(descriptor, step, flags if step is folder else os.O_PATH)
    with _closing(descriptor):
        yield descriptor


def _opened_at_once(path: Path, flags: int) -> int | None:
    """Open a path by one call of openat2 (Linux 5.6), without following links.

    None: it failed. Raises FileNotFoundError.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError(f"a path must not have a null byte: {str(path)!r}")
    descriptor: int = _libc.syscall(_OPENAT2, _AT_FDCWD, name, _HOW[flags], _HOW_BYTES)
    if descriptor >= 0:
        return descriptor
    if ctypes.get_errno() == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return None


def _step(above: int, folder: Path, flags: int) -> int:
    try:
        return os.open(_name(folder), flags | _FOLDER, dir_fd=above)
    except OSError as error:
        error.filename = str(folder)
        if error.errno == errno.ENOTDIR:
            status = os.stat(_name(folder), dir_fd=above, follow_symlinks=False)
            # The kernel answers ENOTDIR also for a symbolic link, because of O_DIRECTORY.
            if stat.S_ISLNK(status.st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder)) from None
        raise


@contextlib.contextmanager
def _plain_file(path: Path) -> Iterator[int]:
    """Open a plain file for reading, without following links."""
    descriptor = _opened_at_once(path, _READ)
    if descriptor is None:
        with _parent(path) as folder:
            descriptor = os.open(_name(path), _READ, dir_fd=folder)
    with _closing(descriptor):
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENXIO, "not a plain file", str(path))
        yield descriptor


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _name(path: Path) -> str:
    return path.name or "."


def _exchange(here: int, one: str, there: int, other: str) -> None:
    try:
        call = _libc.renameat2
    except AttributeError:  # an older C library does not have it
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if call(here, os.fsencode(one), there, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
