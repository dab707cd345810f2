"""The life of the process: clock and threads, stop requests and their time limit, service manager.

The first SIGTERM or SIGINT requests a drain. The second one ends the process at once. A drain that
takes too long is cut off: unacknowledged events are delivered again at the next start, so ending is
safe. The tasks that wait for `Stop` perform the drain.
"""

import asyncio
import os
import random
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import Final, NoReturn, ParamSpec, TypeVar

from daemon.runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")

DRAIN_SECONDS: Final = 25.0


class SystemRuntime:
    """The real clock, real randomness, and one bounded pool of threads."""

    def __init__(self, threads: int = 16) -> None:
        self.threads = threads
        """The largest number of threads."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="runtime")
        self._random = random.SystemRandom()
        self._began: dict[int, float] = {}
        self._guard = threading.Lock()

    def now(self) -> datetime:
        """Return the time, in UTC with its zone."""
        return datetime.now(UTC)  # noqa: TID251  # the one place

    def monotonic(self) -> float:
        """Return the seconds of a clock that never goes back."""
        return time.monotonic()

    def random_id(self) -> str:
        """Return 32 random hex digits."""
        return secrets.token_hex(16)

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def run_in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread that sees the caller's context variables. Return its result.

        Cancelling the caller does not stop the thread: it counts as busy, and a write in it may
        still take effect.
        """
        context = copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pool, lambda: self._timed(partial(context.run, work, *args, **kwargs))
        )

    def calls(self) -> tuple[float, ...]:
        """Return when each running call began, by `monotonic`, the oldest first."""
        with self._guard:
            return tuple(sorted(self._began.values()))

    def close(self) -> None:
        """Accept no more work, and do not wait for running work.

        The interpreter still joins running threads: see `finish`.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[], T]) -> T:
        thread = threading.get_ident()
        with self._guard:
            self._began[thread] = self.monotonic()
        try:
            return work()
        finally:
            with self._guard:
                del self._began[thread]


class Stop:
    """A request to stop. It is made once and wakes all tasks that wait for it."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._reason: str | None = None

    def request(self, reason: str) -> None:
        """Request the stop.

        The first reason is kept. Other threads must call it through the loop.
        """
        if self._reason is None:
            self._reason = reason
        self._asked.set()

    @property
    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self._asked.is_set()

    @property
    def reason(self) -> str | None:
        """The reason, in words for the log."""
        return self._reason

    async def wait(self) -> None:
        """Wait until a stop is requested."""
        await self._asked.wait()


@contextmanager
def stop_on_signals(stop: Stop, drain_seconds: float = DRAIN_SECONDS) -> Iterator[None]:
    """Make SIGTERM and SIGINT request `stop` and start the time limit of the drain.

    The second signal ends the process at once, with 128 plus its number: 143 or 130. If the drain
    is not complete after `drain_seconds`, the process ends with 0. Both also work while the loop is
    blocked, because these are plain signal handlers, not the loop's. Call it in the thread of the
    running loop.
    """
    loop = asyncio.get_running_loop()
    requested = False

    def request(number: int, _frame: FrameType | None) -> None:
        nonlocal requested
        name = signal.Signals(number).name
        if requested:
            _write_to_stderr(f"rebundle: second signal ({name}), ending at once\n")
            os._exit(128 + number)
        requested = True
        signal.setitimer(signal.ITIMER_REAL, drain_seconds)
        loop.call_soon_threadsafe(stop.request, name)

    def end_drain(_number: int, _frame: FrameType | None) -> None:
        _write_to_stderr(
            f"rebundle: not drained after {drain_seconds:g} s, ending; "
            "unacknowledged events are delivered again at the next start\n"
        )
        os._exit(0)

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, end_drain)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def finish(code: int) -> NoReturn:
    """End the process now, with its output flushed.

    A return from `main` would wait for every thread of a pool, even for one that hangs in a call to
    a bucket.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _write_to_stderr(line: str) -> None:
    # Not by a logger: the signal may have interrupted a logger that holds the lock of its stream.
    with suppress(OSError):
        os.write(2, line.encode())


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """systemd's notify protocol (sd_notify(3)). Without a socket, messages are discarded."""

    address: str | None = None
    watchdog_seconds: float | None = None
    """The watchdog period: a longer silence means a restart. None: no watchdog."""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> "ServiceManager":
        """Return the manager of NOTIFY_SOCKET and WATCHDOG_USEC. Invalid values count as absent."""
        address = environ.get("NOTIFY_SOCKET") or None
        period = environ.get("WATCHDOG_USEC", "")
        is_for_us = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        usable = (
            address is not None
            and is_for_us
            and period.isascii()
            and period.isdigit()
            and int(period) > 0
        )
        return cls(address, int(period) / 1_000_000 if usable else None)

    def notify(self, state: str) -> bool:
        """Send `READY=1`, `STOPPING=1`, `WATCHDOG=1` or another state.

        Return whether it was sent.
        """
        if self.address is None or self.address[0] not in "@/":
            return False
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            # A manager that does not read must not block the loop.
            channel.setblocking(False)
            channel.sendto(state.encode(), address)
            return True
        return False

    async def feed_watchdog(self, runtime: Runtime, is_live: Callable[[], bool]) -> None:
        """Report to the manager, twice in each period, that the daemon is live.

        While `is_live` returns False nothing is sent, and the manager restarts the daemon. Without
        a watchdog this returns at once.
        """
        if self.watchdog_seconds is None:
            return
        while True:
            if is_live():
                self.notify("WATCHDOG=1")
            await runtime.sleep(self.watchdog_seconds / 2)
