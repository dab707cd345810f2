"""Work side by side: order, bound, and one failure that is raised as itself."""

import asyncio
from typing import TypeVar

import pytest

from daemon.concurrency import ReadersWriterLock, both, concurrently

T = TypeVar("T")


class Failed(Exception):
    """Of one piece of work."""


def test_results_come_in_the_order_of_the_items_whoever_ends_first() -> None:
    async def slower_first(number: int) -> int:
        for _ in range(10 - number):
            await asyncio.sleep(0)
        return number * number

    assert asyncio.run(concurrently(slower_first, range(10), limit=10)) == [
        each * each for each in range(10)
    ]
    assert asyncio.run(concurrently(slower_first, (), limit=1)) == []


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_no_more_are_worked_on_than_may_be(limit: int) -> None:
    busy, most = 0, 0

    async def counted(_: int) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1

    asyncio.run(concurrently(counted, range(12), limit=limit))

    assert most == min(limit, 12)


def test_the_first_failure_is_raised_itself_once_the_rest_has_ended() -> None:
    begun, ended = [], []

    async def work(number: int) -> None:
        begun.append(number)
        try:
            await asyncio.sleep(0 if number == 1 else 60)
            raise Failed(str(number))
        finally:
            ended.append(number)

    with pytest.raises(Failed, match="1") as raised:
        asyncio.run(concurrently(work, range(5), limit=3))

    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert sorted(ended) == sorted(begun)
    assert 4 not in begun  # the last one still waited for a place


def test_of_two_different_ones_both_are_under_way_and_each_has_its_result() -> None:
    async def met(mine: asyncio.Event, others: asyncio.Event, told: T) -> T:
        mine.set()
        await others.wait()
        return told

    async def two() -> tuple[str, int]:
        here, there = asyncio.Event(), asyncio.Event()
        async with asyncio.timeout(10):
            return await both(met(here, there, "one"), met(there, here, 2))

    assert asyncio.run(two()) == ("one", 2)


def test_of_two_different_ones_the_failure_of_one_ends_the_other() -> None:
    ended = []

    async def failing() -> None:
        raise Failed

    async def waiting() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(Failed):
        asyncio.run(both(waiting(), failing()))
    assert ended


def test_a_lock_is_shared_by_many_or_held_by_one_who_goes_first() -> None:
    async def play() -> list[str]:
        lock, told, go_on = ReadersWriterLock(), [], asyncio.Event()

        async def share(name: str) -> None:
            async with lock.shared():
                told.append(f"{name} in")
                await go_on.wait()
                told.append(f"{name} out")

        async def alone() -> None:
            async with lock.exclusive():
                told.append("alone in")
                await asyncio.sleep(0)
                told.append("alone out")

        async with asyncio.TaskGroup() as group:
            group.create_task(share("a"))
            group.create_task(share("b"))
            await asyncio.sleep(0)
            waiting = group.create_task(alone())
            await asyncio.sleep(0)
            group.create_task(share("c"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert told == ["a in", "b in"], (
                "whoever wants it alone waits, and the next one behind that"
            )
            assert not waiting.done()
            go_on.set()
        return told[2:]

    assert asyncio.run(play()) == ["a out", "b out", "alone in", "alone out", "c in", "c out"]


def test_a_lock_is_free_again_after_a_failure_and_after_a_wait_that_was_given_up() -> None:
    async def play() -> None:
        lock = ReadersWriterLock()
        for turn in (lock.shared, lock.exclusive):
            with pytest.raises(Failed):
                async with turn():
                    raise Failed
        async with lock.shared():

            async def alone() -> None:
                async with lock.exclusive():
                    pass

            waiting = asyncio.create_task(alone())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            async with lock.shared():
                pass
        async with lock.exclusive():
            pass

    asyncio.run(play())
