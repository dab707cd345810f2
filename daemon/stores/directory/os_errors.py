"""Maps OSErrors of the directory store to store errors, by the step of the write that failed.

- Before the object gets its name, nothing was written.
- While it gets its name, only an error that the system returns without trying proves that nothing
  was written.
- Afterwards the object exists, but a power cut may undo the write.

Every `OSError` that leaves the directory store passes through one of these three context managers.
`key` is the object, `root` the root of the store.
"""

import errno
import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from daemon.stores.directory.filesystem import Kind, UnfitLock
from daemon.stores.errors import (
    ConditionFailed,
    OutcomeUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.remedies import move_file

_ADVICE_BY_ERRNO: Final = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "raise the quota or make room",
    errno.EFBIG: "the file is too large for this file system",
    errno.EROFS: "mount the file system for writing",
    errno.EACCES: "give this user permission to read and write the folder",
    errno.EPERM: "make this user its owner, remove `chattr +i`, and use a file system with "
    "hard links",
    errno.EOPNOTSUPP: "use a local file system with hard links, locks and fsync",
    errno.ENOLCK: "use a local file system with hard links, locks and fsync",
    errno.EXDEV: "keep the whole store, with .rebundle, on one file system",
    errno.EMLINK: "use a file system that allows more hard links",
    errno.ENAMETOOLONG: "use a shorter root path",
    errno.ELOOP: "replace the symbolic link: links are not followed",
    errno.ENOTDIR: "move away the file that is in the place of a folder",
    errno.EISDIR: "move away the folder that is in the place of a file",
}


_PROCESS_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_EXCHANGE_ERRNOS: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def is_of_the_process(error: OSError) -> bool:
    """Whether a call failed because of this process or machine, not because of the path."""
    return error.errno in _PROCESS_ERRNOS


def knows_no_exchange(error: OSError) -> bool:
    """Whether the kernel or the file system cannot exchange two names atomically."""
    return error.errno in _NO_EXCHANGE_ERRNOS


def unreadable(path: Path, error: OSError, kind: Kind) -> str:
    """Return why a file or folder cannot be read, and what to do about it."""
    if not isinstance(error, PermissionError):
        return _text(error)
    rights = "a+rx" if kind is Kind.FOLDER else "a+r"
    return (
        f"{path}: {error.strerror}; let this user read it: chmod {rights} {shlex.quote(str(path))}"
    )


@contextmanager
def before_writing(key: str, root: Path) -> Iterator[None]:
    """For calls before anything is written. Raises StoreRefused, StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise _failure(key, error, root) from error


@contextmanager
def while_writing(key: str, root: Path) -> Iterator[None]:
    """For the call that gives or removes the name.

    Raises ConditionFailed, StoreRefused, StoreUnavailable, OutcomeUnknown.
    """
    try:
        yield
    except FileExistsError as error:
        raise ConditionFailed(f"object {key} exists already") from error
    except FileNotFoundError as error:
        raise StoreUnavailable(
            f"{key}: {_text(error)}; another program removed it meanwhile"
        ) from error
    except OSError as error:
        failure = _failure(key, error, root)
        if isinstance(failure, StoreUnavailable):
            raise OutcomeUnknown(f"{key}: {_text(error)}; it may have been written") from error
        raise failure from error


@contextmanager
def after_writing(key: str) -> Iterator[None]:
    """For calls after the object has changed, perhaps not durably. Raises OutcomeUnknown."""
    try:
        yield
    except OSError as error:
        raise OutcomeUnknown(
            f"{key}: {_text(error)}; it was written, but a power cut may undo that"
        ) from error


def _failure(key: str, error: OSError, root: Path) -> StoreError:
    if isinstance(error, UnfitLock):
        return StoreRefused(
            f"{key}: {_text(error)}; remove it: rm -r {shlex.quote(str(error.filename))}"
        )
    link = Path(os.fsdecode(error.filename or ""))
    if error.errno == errno.ELOOP and root in link.parents:
        return StoreRefused(
            f"{key}: {link} is a symbolic link, which is not followed; move it away: "
            f"{move_file(root, link)}"
        )
    if error.errno == errno.EACCES and error.filename:
        return StoreRefused(
            f"{key}: {_text(error)}; {_permission(Path(os.fsdecode(error.filename)))}"
        )
    advice = _ADVICE_BY_ERRNO.get(error.errno or 0)
    if advice is None:
        return StoreUnavailable(f"{key}: {_text(error)}")
    return StoreRefused(f"{key}: {_text(error)}; {advice}")


def _permission(path: Path) -> str:
    """Return the command that gives the missing permission, and one that shows the mode."""
    user = _user()
    closed = next((folder for folder in reversed(path.parents) if not _may(folder, os.X_OK)), None)
    # The topmost folder that this user may not enter hides the state of everything below it.
    if closed is not None:
        place, command = closed, "chmod a+x"
    elif os.path.lexists(path) and not _may(path, os.R_OK):
        place, command = path, "chmod a+rx" if path.is_dir() else "chmod a+r"
    else:
        place = path if path.is_dir() else path.parent
        command = "chmod u+rwx" if _is_owned(place) else f"chown {shlex.quote(user)}"
    quoted = shlex.quote(str(place))
    if _may(place, os.R_OK | os.W_OK | os.X_OK):  # denied by something else, or no longer
        return (
            f"give this user ({user}) permission; to see what it has: ls -ld {quoted}; "
            f"getfacl {quoted}"
        )
    return (
        f"give this user ({user}) permission: {command} {quoted} (its owner and mode: ls "
        f"-ld {quoted})"
    )


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _is_owned(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _text(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{place}"
