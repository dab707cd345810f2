"""Runs code in a thread without root's file permissions, or with those of another user.

So a mode of 000 stops the thread as it stops any other user.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_VERSION_3: Final = 0x20080522
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2
_LONGEST_SECONDS: Final = 60


def as_an_ordinary_user(work: Callable[[], T]) -> T:
    """The result of `work` in a thread that file modes restrict, even if root runs the tests."""
    return _in_a_thread(_drop if os.geteuid() == 0 else _nothing, work)


def with_permissions_of(user: int, work: Callable[[], T]) -> T:
    """The result of `work` in a thread with the file permissions of this user and group.

    Needs root.
    """

    def become() -> None:
        # Of this thread alone. The kernel removes the file permissions of root with the user id.
        libc = ctypes.CDLL(None)
        libc.setfsgid(user)
        libc.setfsuid(user)
        assert libc.setfsuid(-1) == user

    return _in_a_thread(become, work)


def _nothing() -> None:
    pass


def _in_a_thread(prepare: Callable[[], None], work: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            prepare()
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # it is raised in the thread of the caller
            failures.append(error)

    # Capabilities belong to a thread, and this one ends. A blocked one must not block the end of
    # the tests.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_LONGEST_SECONDS)
    assert not thread.is_alive(), f"it still waits for something after {_LONGEST_SECONDS} s"
    if failures:
        raise failures[0]
    return results[0]


def _drop() -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (
        ctypes.c_uint32 * 6
    )()  # effective, permitted and inheritable; the lower 32 of each, then the upper
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")
