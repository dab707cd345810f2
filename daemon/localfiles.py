"""Files of this machine that hold secrets, or decide what is trusted: nobody else may read, or change, them.

One rule for tokens and signing keys: the owner, and one group that may read. A pod's secrets belong to root and to the
pod's group (`fsGroup`, `defaultMode: 0440`), and systemd's credentials are like that, too.
"""

import os
import shlex
import stat
from pathlib import Path
from typing import Final

SHORTEST_TOKEN: Final = 16
LONGEST_TOKEN: Final = 4096

_OPEN_TO_OTHERS: Final = stat.S_IRWXO | stat.S_IWGRP
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class Unsafe(Exception):
    """A file that somebody else may read or change; the message says which command ends that."""


def read_secret(path: Path, most_bytes: int) -> bytes:
    """What a secret's file holds, at most one byte beyond `most_bytes`.

    Raises:
        Unsafe: others may read it, or a group may write it; or it is no regular file.
        OSError: it cannot be read.
    """
    # Opening a FIFO would block until somebody writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:  # noqa: PTH123  # a descriptor
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unsafe(f"{path} is no regular file")
        if found.st_mode & _OPEN_TO_OTHERS:
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


def create_private(path: Path) -> int:
    """A descriptor of a new, empty file that only its owner may read: this user, or for root the folder's owner.

    Raises:
        FileExistsError: there is something of that name. OSError: it cannot be made.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner_of(path.parent, descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def give_to_owner_of(folder: Path | int, descriptor: int) -> None:
    """What root has just created belongs to the owner of its folder: otherwise a command that an operator runs as root
    would lock out the daemon's user. `folder`: a path or an open descriptor. Raises OSError."""
    if os.geteuid() == 0:
        owner = os.stat(folder)  # noqa: PTH116  # perhaps a descriptor
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def open_lock(path: Path) -> int:
    """A descriptor of a lock file, which is made if need be. A link or a FIFO in its place is refused, not followed.

    Raises:
        Unsafe: it is no regular file. OSError: it cannot be opened.
    """
    try:
        return create_private(path)
    except FileExistsError:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unsafe(f"{path} is no regular file: remove it (rm {_quoted(path)})")
    return descriptor


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
