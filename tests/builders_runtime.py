"""Runtimes for tests: one with real threads, time and randomness, and one without any of them."""

import asyncio
import functools
import hashlib
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def done(work: Awaitable[T]) -> T:
    """The result of `work`, in its own event loop."""

    async def run() -> T:
        return await work

    return asyncio.run(run())


def in_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """The test in its own event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class ThreadRuntime:
    """Implements daemon.runtime.Runtime. Close it, or use it in a `with`."""

    def __init__(self, threads: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="test-runtime")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def random_id(self) -> str:
        return uuid.uuid4().hex

    def jitter(self) -> float:
        return random.random()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def run_in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, functools.partial(work, *args, **kwargs)
        )


class InlineRuntime:
    """Implements daemon.runtime.Runtime without threads, time and randomness: work runs at once,
    sleep moves the clock.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._tokens = 0
        self.seconds = 1_000_000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds

    def random_id(self) -> str:
        self._tokens += 1
        return hashlib.sha256(f"{self._name}/{self._tokens}".encode()).hexdigest()[:32]

    def jitter(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)

    async def run_in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return work(*args, **kwargs)
