"""Reads and writes local files that other users must not read or change: secrets, trust, state.

A command that root runs may work in a folder of another user, such as the daemon's. No function
here that writes lets that user make it wait or act elsewhere (docs/operations.md).

Tokens and signing keys have one rule: only the owner may read and write, and one group may read.
The secrets of a pod belong to root and the pod's group (`fsGroup`, `defaultMode: 0440`).
Credentials of systemd have the same form.
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

from daemon.consequences import OperatorActionNeeded

SHORTEST_TOKEN: Final = 16
LONGEST_TOKEN: Final = 4096

_OPEN_TO_OTHERS: Final = stat.S_IRWXO | stat.S_IWGRP
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH

_OPEN_FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: opening a FIFO would otherwise wait for a writer."""
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Unsafe(OperatorActionNeeded):
    """A file that other users may read or change. The message has the command that ends that."""


def read_secret(path: Path, max_bytes: int) -> bytes:
    """Read the file of a secret, at most one byte beyond `max_bytes`.

    Raises:
        Unsafe: others may read it, a group may write it, or it is not a regular file.
        OSError: it cannot be read.
    """
    with _open_plain(path) as opened:
        if os.fstat(opened.fileno()).st_mode & _OPEN_TO_OTHERS:
            raise Unsafe(
                f"{path} is open to others: chmod 600 {_quoted(path)} (640 if one group has "
                "to read it)"
            )
        return opened.read(max_bytes + 1)


def read_token(path: Path) -> str:
    """Read a token from a file, without the newline at the end.

    Raises:
        Unsafe, OSError: as `read_secret`.
        ValueError: it is not a valid token; the message does not contain it.
    """
    token = read_secret(path, LONGEST_TOKEN + 1).decode("utf-8", "replace").rstrip("\r\n")
    check_token(token)
    return token


def check_token(token: str) -> None:
    """Validate a token.

    Raises:
        ValueError: the token is too short or too long, or cannot be sent in a header. The message
            does not contain it.
    """
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN or not all(
        "!" <= character <= "~" for character in token
    ):
        raise ValueError(
            f"must be {SHORTEST_TOKEN} to {LONGEST_TOKEN} ASCII characters without white space: "
            "try `openssl rand -hex 32`"
        )


def check_writers(path: Path, *, also: frozenset[int] = frozenset()) -> None:
    """Refuse a file that another user may change or replace, and so decide its content.

    The check includes its folder and, if the file is a link, the target of the link. Root, the user
    of this process and the users `also` may write. On a file system that is mounted read-only no
    user can write.

    Raises:
        Unsafe: another user may write it.
        OSError: its permissions cannot be read.
    """
    target = path.resolve(strict=True)
    owners = frozenset({0, os.geteuid()}) | also
    for checked in dict.fromkeys((target, target.parent, path.parent)):
        _check_writers_of(checked, owners)


def _check_writers_of(path: Path, owners: frozenset[int]) -> None:
    status = path.stat()
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise Unsafe(f"{path} may be written by others: chmod go-w {_quoted(path)}")
    if status.st_uid not in owners:
        command = f"chown {os.geteuid()} {_quoted(path)}"
        raise Unsafe(f"{path} belongs to another user (uid {status.st_uid}): {command}")


def make_folder(folder: Path) -> None:
    """Create a folder with mode 0700, and the missing folders above it.

    Raises:
        OSError: it cannot be created.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with _open_folder(folder.parent) as above, contextlib.suppress(FileExistsError):
        os.mkdir(folder.name, 0o700, dir_fd=above)
        descriptor = os.open(folder.name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=above)
        try:
            # Another user may have replaced the folder
            # since: only a folder of root's is given away.
            if os.fstat(descriptor).st_uid == 0:
                give_to_owner_of(above, descriptor)
        finally:
            os.close(descriptor)


def read_plain(path: Path, max_bytes: int) -> bytes:
    """Read a regular file, at most one byte beyond `max_bytes`. Never waits for a FIFO.

    Raises:
        Unsafe: it is not a regular file.
        OSError: it cannot be read.
    """
    with _open_plain(path) as opened:
        return opened.read(max_bytes + 1)


def replace(path: Path, body: bytes, *, mode: int = 0o600) -> None:
    """Write a file atomically and durably, with exactly this mode, over any file of that name.

    Another user may be able to write to the folder. So the bytes go into a new file with a random
    name, a link at the path is replaced and not followed, and every call uses the descriptor of the
    folder.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    with _open_folder(path.parent) as folder:
        temporary = f".{path.name}.{secrets.token_hex(8)}"
        descriptor = _create(folder, temporary, mode)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor
                file.write(body)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a lock file, which is created if it is missing.

    Yields False at once if another process or thread holds it.

    Raises:
        Unsafe: the entry at the path is not a regular file, or has a second name.
        OSError: it cannot be opened.
    """
    descriptor = _open_lock(path)
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
    """Return a message: other processes held a lock file for so many seconds, and what to do."""
    return (
        f"other processes held {path} for {seconds:.0f} s: find the stopped one with `fuser -v "
        f"{_quoted(path)}`, then "
        "continue it (kill -CONT PID) or end it"
    )


def _open_lock(path: Path) -> int:
    with _open_folder(path.parent) as folder:
        try:
            return _create(folder, path.name, 0o600)
        except FileExistsError:
            try:
                descriptor = os.open(path.name, _OPEN_FILE | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENXIO}:
                    raise _unfit_lock(path) from None
                raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _unfit_lock(path)


def _unfit_lock(path: Path) -> Unsafe:
    return Unsafe(
        f"{path} must be a plain file with one name: remove it (rm {_quoted(path)}); it is "
        "created again"
    )


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
    """If this process is root's, give a new file to the owner of its folder. Raises OSError.

    Otherwise a command that an operator runs as root would lock out the daemon's user. `folder`: a
    path or an open descriptor.
    """
    if os.geteuid() == 0:
        owner = os.stat(folder)  # noqa: PTH116  # may be a descriptor
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, _OPEN_FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_plain(path: Path) -> BinaryIO:
    opened = open(os.open(path, _OPEN_FILE), "rb")  # noqa: PTH123, SIM115  # a descriptor, which the caller closes
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise Unsafe(f"{path} is not a regular file")
    return opened


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
