"""What a failed call of the file system means for the write it was part of.

Before the object gets its name, nothing was written. While it gets it, only an error that the system answers without
trying proves that; afterwards the object is there, and what is unknown is whether it stays. Every `OSError` that leaves
the directory store goes through one of the three.
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
from daemon.stores.errors import ConditionFailed, OutcomeUnknown, StoreError, StoreRefused, StoreUnavailable

_ADVICE: Final = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "raise the quota or make room",
    errno.EFBIG: "the file is too large for this file system",
    errno.EROFS: "mount the file system for writing",
    errno.EACCES: "give this user permission to read and write the folder",
    errno.EPERM: "this user has to own it, without `chattr +i`, on a file system with hard links",
    errno.EOPNOTSUPP: "use a local file system with hard links, locks and fsync",
    errno.ENOLCK: "use a local file system with hard links, locks and fsync",
    errno.EXDEV: "keep the whole store, .rebundle too, on one file system",
    errno.EMLINK: "use a file system that allows more hard links",
    errno.ENAMETOOLONG: "use a shorter root path",
    errno.ELOOP: "replace the symbolic link, which is not followed",
    errno.ENOTDIR: "move away the file that stands where a folder is needed",
    errno.EISDIR: "move away the folder that stands where a file is needed",
}


_OF_THE_PROCESS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_EXCHANGE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def is_of_the_process(error: OSError) -> bool:
    """Whether a call failed because of this process or machine, so that it tells nothing about the path."""
    return error.errno in _OF_THE_PROCESS


def knows_no_exchange(error: OSError) -> bool:
    """Whether the kernel or the file system cannot let two names change places."""
    return error.errno in _NO_EXCHANGE


def unreadable(path: Path, error: OSError, kind: Kind) -> str:
    """Why a file or folder cannot be read, and what to do about it."""
    if not isinstance(error, PermissionError):
        return _text(error)
    rights = "a+rx" if kind is Kind.FOLDER else "a+r"
    return f"{path}: {error.strerror}; let this user read it: chmod {rights} {shlex.quote(str(path))}"


@contextmanager
def before_writing(key: str) -> Iterator[None]:
    """Nothing was written. Raises StoreRefused, StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise _failure(key, error) from error


@contextmanager
def while_writing(key: str) -> Iterator[None]:
    """The call that gives or takes the name. Raises ConditionFailed, StoreRefused, StoreUnavailable, OutcomeUnknown."""
    try:
        yield
    except FileExistsError as error:
        raise ConditionFailed(f"object {key} exists already") from error
    except FileNotFoundError as error:
        raise StoreUnavailable(f"{key}: {_text(error)}; somebody removed it meanwhile") from error
    except OSError as error:
        failure = _failure(key, error)
        if isinstance(failure, StoreUnavailable):
            raise OutcomeUnknown(f"{key}: {_text(error)}; it may have been written") from error
        raise failure from error


@contextmanager
def after_writing(key: str) -> Iterator[None]:
    """The object has changed, perhaps not durably. Raises OutcomeUnknown."""
    try:
        yield
    except OSError as error:
        raise OutcomeUnknown(f"{key}: {_text(error)}; it was written, but a power cut may undo that") from error


def _failure(key: str, error: OSError) -> StoreError:
    if isinstance(error, UnfitLock):
        return StoreRefused(f"{key}: {_text(error)}; remove it: rm -r {shlex.quote(str(error.filename))}")
    if error.errno == errno.EACCES and error.filename:
        return StoreRefused(f"{key}: {_text(error)}; {_permission(Path(os.fsdecode(error.filename)))}")
    advice = _ADVICE.get(error.errno or 0)
    if advice is None:
        return StoreUnavailable(f"{key}: {_text(error)}")
    return StoreRefused(f"{key}: {_text(error)}; {advice}")


def _permission(path: Path) -> str:
    """The command that lets this user do what the system denied at a path, and the one that shows why."""
    user = _user()
    closed = next((folder for folder in reversed(path.parents) if not _may(folder, os.X_OK)), None)
    if closed is not None:
        place, command = closed, "chmod a+x"
    elif os.path.lexists(path) and not _may(path, os.R_OK):
        place, command = path, "chmod a+rx" if path.is_dir() else "chmod a+r"
    else:
        place = path if path.is_dir() else path.parent
        command = "chmod u+rwx" if _is_owned(place) else f"chown {shlex.quote(user)}"
    quoted = shlex.quote(str(place))
    if _may(place, os.R_OK | os.W_OK | os.X_OK):  # not by its mode, or no longer
        return f"give this user ({user}) permission; what there is: ls -ld {quoted}; getfacl {quoted}"
    return f"let this user ({user}) do so: {command} {quoted} (its owner and mode: ls -ld {quoted})"


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
