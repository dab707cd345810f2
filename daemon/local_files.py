"""Files of this machine that hold secrets, or decide what is trusted: nobody else may read, or change, them.

A command of root may work in the folder of another user, such as a daemon's. No function here that writes lets that
user make it wait or act elsewhere (docs/operations.md).

One rule for tokens and signing keys: the owner, and one group that may read. A pod's secrets belong to root and to the
pod's group (`fsGroup`, `defaultMode: 0440`), and systemd's credentials are like that, too.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

SHORTEST_TOKEN: Final = 16
LONGEST_TOKEN: Final = 4096

_OPEN_TO_OTHERS: Final = stat.S_IRWXO | stat.S_IWGRP
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH

_OPEN_FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""A FIFO would hold whoever opens it until somebody writes into it."""
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Unsafe(Exception):
    """A file that somebody else may read or change; the message says which command ends that."""


def read_secret(path: Path, most_bytes: int) -> bytes:
    """What a secret's file holds, at most one byte beyond `most_bytes`.

    Raises:
        Unsafe: others may read it, or a group may write it; or it is no regular file.
        OSError: it cannot be read.
    """
    with _opened_plain(path) as opened:
        if os.fstat(opened.fileno()).st_mode & _OPEN_TO_OTHERS:
            raise Unsafe(f"{path} is open to others: chmod 600 {_quoted(path)} (640 if one group has to read it)")
        return opened.read(most_bytes + 1)


def read_token(path: Path) -> str:
    """The token in a file; a newline at its end does not belong to it.

    Raises:
        Unsafe, OSError: as `read_secret`. ValueError: it is no token; the message never holds it.
    """
    token = read_secret(path, LONGEST_TOKEN + 1).decode("utf-8", "replace").rstrip("\r\n")
    check_token(token)
    return token


def check_token(token: str) -> None:
    """Raises ValueError, without the token, if it is too short to be one or cannot be in a header."""
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN or not all("!" <= each <= "~" for each in token):
        raise ValueError(
            f"must be {SHORTEST_TOKEN} to {LONGEST_TOKEN} ASCII characters without white space: "
            "try `openssl rand -hex 32`"
        )


def check_writers(path: Path, *, also: frozenset[int] = frozenset()) -> None:
    """Refuse a file that another user may change, or put another one in the place of: that user decides what it says.

    Its folder counts, and where it is a link, what that leads to. Root and this process's user may write, and the
    users `also`. What lies on a file system that is mounted read-only can be written by nobody here.

    Raises:
        Unsafe: another user may write it. OSError: it cannot be looked at.
    """
    target = path.resolve(strict=True)
    for each in dict.fromkeys((target, target.parent, path.parent)):
        _check_writers_of(each, frozenset({0, os.geteuid()}) | also)


def _check_writers_of(path: Path, owners: frozenset[int]) -> None:
    found = path.stat()
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise Unsafe(f"{path} may be written by others: chmod go-w {_quoted(path)}")
    if found.st_uid not in owners:
        raise Unsafe(f"{path} belongs to another user (uid {found.st_uid}): chown {os.geteuid()} {_quoted(path)}")


def make_folder(folder: Path) -> None:
    """Create the folder with mode 0700, and those above it that are missing.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with _opened_folder(folder.parent) as above, contextlib.suppress(FileExistsError):
        os.mkdir(folder.name, 0o700, dir_fd=above)
        descriptor = os.open(folder.name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=above)
        try:
            # Another user may have put another folder under the name since: none of a third user is given away.
            if os.fstat(descriptor).st_uid == 0:
                give_to_owner_of(above, descriptor)
        finally:
            os.close(descriptor)


def read_plain(path: Path, most_bytes: int) -> bytes:
    """What a plain file holds, at most one byte beyond `most_bytes`. Never waits for the other end of a FIFO.

    Raises:
        Unsafe: it is no regular file. OSError: it cannot be read.
    """
    with _opened_plain(path) as opened:
        return opened.read(most_bytes + 1)


def replace(path: Path, body: bytes, *, mode: int = 0o600) -> None:
    """Write a file whole, durably and with exactly this mode, in the place of what has its name.

    Another user may be able to write the folder. So the bytes go into a new file under a name that nobody can guess,
    a link in the place of the file is replaced and not followed, and every call goes through the folder's descriptor.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    with _opened_folder(path.parent) as folder:
        half = f".{path.name}.{secrets.token_hex(8)}"
        descriptor = _create(folder, half, mode)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor
                file.write(body)
                file.flush()
                os.fsync(descriptor)
            os.replace(half, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(half, dir_fd=folder)
            raise
        os.fsync(folder)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a lock file, which is made if need be; False at once if another process or thread holds it.

    Raises:
        Unsafe: what is in its place is no plain file, or has a second name. OSError: it cannot be opened.
    """
    descriptor = _opened_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def held_for(path: Path, seconds: float) -> str:
    """Says that other processes held a lock file for so long, and what to do."""
    return (
        f"other processes held {path} for {seconds:.0f} s: find the stopped one with `fuser -v {_quoted(path)}`, then "
        "continue it (kill -CONT PID) or end it"
    )


def _opened_lock(path: Path) -> int:
    with _opened_folder(path.parent) as folder:
        try:
            return _create(folder, path.name, 0o600)
        except FileExistsError:
            try:
                descriptor = os.open(path.name, _OPEN_FILE | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENXIO}:
                    raise _unfit_lock(path) from None
                raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _unfit_lock(path)


def _unfit_lock(path: Path) -> Unsafe:
    return Unsafe(f"{path} must be a plain file with one name: remove it (rm {_quoted(path)}), it is made again")


def _create(folder: int, name: str, mode: int) -> int:
    descriptor = os.open(name, _CREATE, mode, dir_fd=folder)
    try:
        os.fchmod(descriptor, mode)
        give_to_owner_of(folder, descriptor)
    except OSError:
        os.close(descriptor)
        os.unlink(name, dir_fd=folder)
        raise
    return descriptor


def give_to_owner_of(folder: Path | int, descriptor: int) -> None:
    """What root has just created belongs to the owner of its folder: otherwise a command that an operator runs as root
    would lock out the daemon's user. `folder`: a path or an open descriptor. Raises OSError."""
    if os.geteuid() == 0:
        owner = os.stat(folder)  # noqa: PTH116  # perhaps a descriptor
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, _OPEN_FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened_plain(path: Path) -> BinaryIO:
    opened = open(os.open(path, _OPEN_FILE), "rb")  # noqa: PTH123, SIM115  # a descriptor, which the caller closes
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise Unsafe(f"{path} is no regular file")
    return opened


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
