"""Concurrent work on top of `asyncio.TaskGroup`.

All tasks have ended when a call returns or raises. A task group raises an ExceptionGroup. Callers
here branch by the type of a failure, so the functions raise the first failure itself. It has
cancelled the other tasks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def concurrently(
    work: Callable[[T], Awaitable[U]], items: Iterable[T], *, limit: int
) -> list[U]:
    """Return the results of `work` for all items, in order; at most `limit` run concurrently."""
    slots = asyncio.Semaphore(limit)

    async def one(item: T) -> U:
        async with slots:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Run two coroutines concurrently and return both results."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(one), group.create_task(other)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return tasks[0].result(), tasks[1].result()


class Places:
    """A number of places for work, each of which lapses after some seconds.

    Work that takes longer continues without a place, so that it delays no other work. The work that
    has waited longest gets the next place.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._free = asyncio.Semaphore(limit)
        self._seconds = seconds

    @property
    def has_free(self) -> bool:
        """Whether `hold` would not wait now."""
        return not self._free.locked()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it at most for its seconds."""
        await self._free.acquire()
        released = False

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self._free.release()

        lapse = asyncio.get_running_loop().call_later(self._seconds, release)
        try:
            yield
        finally:
            lapse.cancel()
            release()


class ReadersWriterLock:
    """A lock that either any number of tasks share, or one task holds exclusively.

    A task that waits for exclusive use has precedence over later shared uses. The lock is not
    reentrant: a task that holds it must not request it again.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._shares = 0
        self._unshared = asyncio.Event()
        self._unshared.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold the lock together with other tasks that share it."""
        async with self._turn:
            self._shares += 1
            self._unshared.clear()
        try:
            yield
        finally:
            self._shares -= 1
            if not self._shares:
                self._unshared.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock exclusively."""
        # Holding `_turn` while waiting keeps out new shared uses.
        async with self._turn:
            await self._unshared.wait()
            yield
