"""An asyncio loop in which time, randomness and order come from a seed.

Time is virtual: when nothing is ready it jumps to the next timer. Ready callbacks run one by one,
in an order that the seed may permute. Tasks hash by the order of their creation, so that every
process iterates over the sets in which asyncio keeps them (a TaskGroup's, `all_tasks`) in the same
order. While the loop runs (`sealed`), threads, sockets, files' clocks, real time and real
randomness are refused: a call that could make two runs of one seed differ is an error, not a flake.
"""

import asyncio
import contextlib
import datetime as dt
import heapq
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from datetime import UTC
from typing import Any

_CONNECT = sqlite3.connect
EPOCH = dt.datetime(2026, 1, 1, tzinfo=UTC)
MOST_STEPS = 150_000


class Refused(BaseException):
    """The simulation asked for something that only the outside world has."""


class Stuck(Exception):
    """Nothing is ready, no timer is set, and the simulation is not over, or it does not end."""


class Broken(Exception):
    """An invariant does not hold."""


class Inline(Executor):
    """Runs a call at once, with files and databases allowed; then calls `after`."""

    def __init__(self) -> None:
        self.after: Callable[[], None] = lambda: None

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        with databases():
            try:
                done.set_result(work(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  # raised to the caller
                done.set_exception(error)
            self.after()
        return done


class SimulatedTask(asyncio.Task):
    """A task with a number, by which it hashes."""

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int, **options: Any) -> None:
        self._number = number  # before the base class puts the task into a WeakSet
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """All events of one simulated world."""

    def __init__(self, seed: str, *, permute: bool) -> None:
        super().__init__()
        self._order = random.Random(f"{seed}/order") if permute else None
        self._seconds = 0.0
        self._tasks_made = 0
        self.steps = 0
        self._ending = False
        self.broken: str | None = None
        """The first violated invariant. The run ends there."""
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._meet)

    def time(self) -> float:
        return self._seconds

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Runs at once in the simulation's executor.

        The waiting caller continues later, or never.
        """
        if not isinstance(executor, Inline):
            raise Refused("a thread")
        answer: asyncio.Future[Any] = self.create_future()
        try:
            answer.set_result(executor.submit(work, *args).result())
        except Exception as error:  # noqa: BLE001  # raised to the caller
            answer.set_exception(error)
            answer.exception()  # the caller may be gone
        return answer

    def call_soon_threadsafe(self, *_: object, **__: object) -> Any:
        raise Refused("another thread's call")

    def fail(self, what: str) -> None:
        """Record a violation. The first one stays."""
        if not self._ending:
            self.broken = self.broken or f"at {self._seconds:.3f} s: {what}"

    def finish(self) -> None:
        """Let every task end, even if it waits."""
        self._ending = True
        self.broken = None
        self.steps = 0
        for _ in range(5):  # a task that catches a cancellation gets another one
            left = [task for task in asyncio.all_tasks(self) if not task.done()]
            if not left:
                break
            for task in sorted(left, key=hash):
                task.cancel()
            self.run_until_complete(asyncio.wait(left, timeout=10))
        self.close()

    def _run_once(self) -> None:
        self.steps += 1
        if self.broken:
            raise Broken(self.broken)
        if self.steps > MOST_STEPS:
            raise Stuck(f"no end after {MOST_STEPS} steps, {self._seconds:.0f} s")
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._ready and not self._stopping:
            if not self._scheduled:
                raise Stuck(f"everything waits at {self._seconds:.3f} s, and nothing will happen")
            self._seconds = max(self._seconds, self._scheduled[0]._when)
        while self._scheduled and self._scheduled[0]._when <= self._seconds:
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            self._ready.append(handle)
        if self._order is not None and len(self._ready) > 1:
            self._ready.rotate(-self._order.randrange(len(self._ready)))
        if self._ready:
            handle = self._ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> SimulatedTask:
        self._tasks_made += 1
        return SimulatedTask(coro, self._tasks_made, loop=loop, **options)

    def _meet(self, _loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:
            self.fail(f"unhandled: {context.get('message')}: {error!r}")


def _refusing(what: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise Refused(what)

    return refuse


class _NoClock(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        raise Refused("datetime.now")

    @classmethod
    def utcnow(cls) -> Any:
        raise Refused("datetime.utcnow")


_NAMES: tuple[tuple[Any, str], ...] = (
    *(
        (time, name)
        for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep")
    ),
    *(
        (random, name)
        for name in ("random", "randint", "randrange", "choice", "choices", "shuffle", "uniform")
    ),
    *((random, name) for name in ("sample", "getrandbits", "SystemRandom")),
    *(
        (secrets, name)
        for name in ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice")
    ),
    *((uuid, name) for name in ("uuid1", "uuid4")),
    (os, "urandom"),
    *((socket, name) for name in ("socket", "create_connection", "getaddrinfo")),
    (threading.Thread, "start"),
    (subprocess, "Popen"),
    (sqlite3, "connect"),
)
_PRODUCT = ("daemon.", "events.", "renderers.")
_REFUSED = [
    (owner, name, getattr(owner, name), _refusing(f"{owner.__name__}.{name}"))
    for owner, name in _NAMES
]


def _imported_by_name() -> list[tuple[Any, str, Any, Any]]:
    """Replaces these names where a module of the product has imported them with `from … import`."""
    instead = {id(known): refuse for _, _, known, refuse in _REFUSED} | {id(dt.datetime): _NoClock}
    return [
        (module, name, value, instead[id(value)])
        for path, module in sorted(sys.modules.items())
        if path.startswith(_PRODUCT)
        for name, value in sorted(vars(module).items())
        if id(value) in instead
    ]


_found: tuple[int, list[tuple[Any, str, Any, Any]]] = (0, [])


@contextlib.contextmanager
def databases() -> Iterator[None]:
    """SQLite within a sealed simulation: its results depend on its file alone."""
    refusing = sqlite3.connect
    sqlite3.connect = _CONNECT
    try:
        yield
    finally:
        sqlite3.connect = refusing


@contextlib.contextmanager
def sealed() -> Iterator[None]:
    """Only the simulation's own clock, randomness, threads and sockets."""
    global _found  # noqa: PLW0603  # computed once
    if _found[0] != len(sys.modules):
        _found = (len(sys.modules), _imported_by_name())
    patches = (*_REFUSED, *_found[1])
    for owner, name, _, refuse in patches:
        setattr(owner, name, refuse)
    try:
        yield
    finally:
        for owner, name, known, _ in patches:
            setattr(owner, name, known)
