"""Work side by side, in the shape of `asyncio.TaskGroup`: all of it has ended when a call returns or raises.

A group raises its failures in a group. Callers here branch by the type of a failure, so the first one is raised itself;
it has cancelled the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
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
