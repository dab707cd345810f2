"""The process around the work: clock and threads, the request to stop, its time limit, and the service manager.

The first SIGTERM or SIGINT asks for a drain, the second one ends the process at once. A drain that takes too long
is cut: what is not settled is delivered again at the next start, so leaving is safe where waiting is not. What a
drain does is the business of those who wait for `Stop`.
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
    """The real clock, the real chance, and one bounded pool of threads."""

    def __init__(self, threads: int = 16) -> None:
        self.threads = threads
        """How many there are at most."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="runtime")
        self._random = random.SystemRandom()
        self._began: dict[int, float] = {}
        self._guard = threading.Lock()

    def now(self) -> datetime:
        """The time, in UTC with its zone."""
        return datetime.now(UTC)  # noqa: TID251  # the one place

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def random_id(self) -> str:
        """32 random hex digits."""
        return secrets.token_hex(16)

    def jitter(self) -> float:
        """A random number from 0 to 1."""
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def run_in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, done in a thread that sees the caller's context variables.

        A cancelled caller does not stop the thread: a write in it may still take effect, and it counts as busy.
        """
        context = copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: self._timed(partial(context.run, work, *args, **kwargs)))

    def calls(self) -> tuple[float, ...]:
        """Since when each busy thread has been in its present call, by `monotonic`, the oldest first."""
        with self._guard:
            return tuple(sorted(self._began.values()))

    def close(self) -> None:
        """Take no more work, and wait for none. The interpreter still joins running threads: see `finish`."""
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
    """A request to stop: asked for once, seen by everyone who waits."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._reason: str | None = None

    def request(self, reason: str) -> None:
        """Ask; the first reason counts. From another thread only through the loop."""
        if self._reason is None:
            self._reason = reason
        self._asked.set()

    @property
    def is_set(self) -> bool:
        """Whether somebody has asked."""
        return self._asked.is_set()

    @property
    def reason(self) -> str | None:
        """Why, in words for the log."""
        return self._reason

    async def wait(self) -> None:
        """Returns when somebody asks, or has asked."""
        await self._asked.wait()


@contextmanager
def stop_on_signals(stop: Stop, drain_seconds: float = DRAIN_SECONDS) -> Iterator[None]:
    """SIGTERM and SIGINT ask `stop`, and start the drain's clock; from the running loop's own thread only.

    The second signal ends the process at once, with 128 plus its number: 143 or 130. A drain that is not over after
    `drain_seconds` ends it with 0. Both hold while the loop is blocked, too: plain signal handlers, not the loop's.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        name = signal.Signals(number).name
        if asked:
            _tell(f"rebundle: second signal ({name}), leaving at once\n")
            os._exit(128 + number)
        asked = True
        signal.setitimer(signal.ITIMER_REAL, drain_seconds)
        loop.call_soon_threadsafe(stop.request, name)

    def cut(_number: int, _frame: FrameType | None) -> None:
        _tell(
            f"rebundle: not drained after {drain_seconds:g} s, leaving; unsettled events come again at the next start\n"
        )
        os._exit(0)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, cut)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def finish(code: int) -> NoReturn:
    """End the process now, with its output flushed.

    A return from `main` would wait for every thread of a pool, also for one that hangs in a call to a bucket.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _tell(line: str) -> None:
    # Not a logger: a signal may have interrupted one that holds its stream.
    with suppress(OSError):
        os.write(2, line.encode())


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """systemd's notify protocol (sd_notify(3)); without a socket every message goes nowhere."""

    address: str | None = None
    watchdog_seconds: float | None = None
    """How often the manager wants to hear from us, at least; None: it does not."""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> "ServiceManager":
        """The manager that NOTIFY_SOCKET and WATCHDOG_USEC name. Unusable values count as absent."""
        address = environ.get("NOTIFY_SOCKET") or None
        period = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        usable = address is not None and meant and period.isascii() and period.isdigit() and int(period) > 0
        return cls(address, int(period) / 1_000_000 if usable else None)

    def notify(self, state: str) -> bool:
        """Send `READY=1`, `STOPPING=1`, `WATCHDOG=1` or another state; False when nobody got it."""
        if self.address is None or self.address[0] not in "@/":
            return False
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # A manager that does not read must not hold the loop.
            channel.setblocking(False)
            channel.sendto(state.encode(), address)
            return True
        return False

    async def feed_watchdog(self, runtime: Runtime, is_live: Callable[[], bool]) -> None:
        """Tell the manager, twice in its period and for as long as it is true, that the daemon lives.

        Without it the manager restarts the daemon. Returns at once if there is no watchdog.
        """
        if self.watchdog_seconds is None:
            return
        while True:
            if is_live():
                self.notify("WATCHDOG=1")
            await runtime.sleep(self.watchdog_seconds / 2)
