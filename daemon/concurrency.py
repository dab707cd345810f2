"""Work side by side, in the shape of `asyncio.TaskGroup`: all of it has ended when a call returns or raises.

A group raises its failures in a group. Callers here branch by the type of a failure, so the first one is raised itself;
it has cancelled the rest.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def concurrently(work: Callable[[T], Awaitable[U]], items: Iterable[T], *, at_once: int) -> list[U]:
    """What `work` makes of each item, in their order; no more than `at_once` are worked on at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(item: T) -> U:
        async with gate:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """The results of two, side by side."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(one), group.create_task(other)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return tasks[0].result(), tasks[1].result()


class ReadersWriterLock:
    """Any number of tasks share it, or one has it alone. A task that waits to have it alone goes first. Neither may be
    asked for by a task that has the lock already."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._shares = 0
        self._unshared = asyncio.Event()
        self._unshared.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Beside others that share it."""
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
        """Alone."""
        async with self._turn:
            await self._unshared.wait()
            yield
