"""Concurrent work: order, limit, and a failure that is raised unwrapped."""

import asyncio
from typing import TypeVar

import pytest

from daemon.concurrency import Places, ReadersWriterLock, both, concurrently

T = TypeVar("T")


class Failed(Exception):
    """The failure of one piece of work."""


def test_results_come_in_the_order_of_the_items() -> None:
    async def slower_first(number: int) -> int:
        for _ in range(10 - number):
            await asyncio.sleep(0)
        return number * number

    assert asyncio.run(concurrently(slower_first, range(10), limit=10)) == [
        item * item for item in range(10)
    ]
    assert asyncio.run(concurrently(slower_first, (), limit=1)) == []


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_the_number_of_concurrent_items_is_limited(limit: int) -> None:
    busy, most = 0, 0

    async def counted(_: int) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1

    asyncio.run(concurrently(counted, range(12), limit=limit))

    assert most == min(limit, 12)


def test_the_first_failure_is_raised_once_the_rest_has_ended() -> None:
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
    assert 4 not in begun  # the last one still waited for its turn


def test_two_different_calls_run_concurrently_and_return_their_results() -> None:
    async def met(mine: asyncio.Event, others: asyncio.Event, log: T) -> T:
        mine.set()
        await others.wait()
        return log

    async def two() -> tuple[str, int]:
        here, there = asyncio.Event(), asyncio.Event()
        async with asyncio.timeout(10):
            return await both(met(here, there, "one"), met(there, here, 2))

    assert asyncio.run(two()) == ("one", 2)


def test_the_failure_of_one_of_two_calls_ends_the_other() -> None:
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


def test_a_lock_is_shared_or_exclusive_and_a_waiting_writer_goes_first() -> None:
    async def play() -> list[str]:
        lock, log, go_on = ReadersWriterLock(), [], asyncio.Event()

        async def share(name: str) -> None:
            async with lock.shared():
                log.append(f"{name} in")
                await go_on.wait()
                log.append(f"{name} out")

        async def alone() -> None:
            async with lock.exclusive():
                log.append("alone in")
                await asyncio.sleep(0)
                log.append("alone out")

        async with asyncio.TaskGroup() as group:
            group.create_task(share("a"))
            group.create_task(share("b"))
            await asyncio.sleep(0)
            waiting = group.create_task(alone())
            await asyncio.sleep(0)
            group.create_task(share("c"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert log == ["a in", "b in"], "a writer waits, and later readers wait behind it"
            assert not waiting.done()
            go_on.set()
        return log[2:]

    assert asyncio.run(play()) == ["a out", "b out", "alone in", "alone out", "c in", "c out"]


def test_a_lock_is_free_after_a_failure_and_after_a_cancelled_wait() -> None:
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


def test_places_limit_concurrent_work_and_the_longest_waiting_comes_next() -> None:
    async def scenario() -> None:
        places, running, order, peak = Places(2, seconds=60), set[int](), list[int](), 0

        async def work(number: int) -> None:
            nonlocal peak
            async with places.hold():
                running.add(number)
                order.append(number)
                peak = max(peak, len(running))
                await asyncio.sleep(0)
                running.remove(number)

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(work(number))
        assert (peak, order) == (2, list(range(6)))

    asyncio.run(scenario())


def test_a_place_lapses_so_that_hanging_work_delays_no_other() -> None:
    async def scenario() -> None:
        places, done = Places(1, seconds=0.01), asyncio.Event()

        async def hang() -> None:
            async with places.hold():
                await done.wait()

        hanging = [asyncio.create_task(hang()) for _ in range(3)]
        async with asyncio.timeout(10):
            async with places.hold():
                pass
        done.set()
        await asyncio.gather(*hanging)
        # No place was released twice: the limit is still one.
        async with places.hold():
            waits = asyncio.create_task(hang())
            await asyncio.sleep(0)
            assert not waits.done()
            assert places._free.locked()
        await waits

    asyncio.run(scenario())


def test_a_place_is_released_after_an_error_and_a_cancellation() -> None:
    async def scenario() -> None:
        places = Places(1, seconds=60)
        with pytest.raises(Failed):
            async with places.hold():
                raise Failed
        holds = asyncio.create_task(_hold(places))
        waits = asyncio.create_task(_hold(places))
        await asyncio.sleep(0)
        holds.cancel()
        waits.cancel()
        await asyncio.gather(holds, waits, return_exceptions=True)
        async with asyncio.timeout(1), places.hold():
            pass

    asyncio.run(scenario())


async def _hold(places: Places) -> None:
    async with places.hold():
        await asyncio.Event().wait()
