"""The simulation's loop: virtual time, one order, and no access to the outside world."""

import asyncio
import datetime as dt
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
import uuid

import pytest

from daemon.lifecycle import SystemRuntime
from tests.simulation.loop import Refused, SimulatedLoop, Stuck, sealed


@pytest.fixture
def play():
    """Runs a coroutine in a new loop."""

    def run(main, seed="1", *, permute=True):
        loop = SimulatedLoop(seed, permute=permute)
        try:
            with sealed():
                return loop.run_until_complete(main())
        finally:
            loop.finish()

    return run


def test_time_jumps_to_the_next_timer(play):
    async def story():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(86_400)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_600):
                await loop.create_future()
        return loop.time()

    assert play(story) == 90_000


@pytest.mark.parametrize(
    "outside",
    [
        time.time, time.monotonic, lambda: time.sleep(0), random.random, lambda: secrets.token_hex(4), uuid.uuid4,
        lambda: os.urandom(4), lambda: random.SystemRandom().random(), lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: threading.Thread(target=print).start(), lambda: subprocess.Popen(["true"]), lambda: sqlite3.connect(":memory:"),
    ],
)  # fmt: skip
def test_a_running_simulation_refuses_real_input_and_output_and_restores_them_afterwards(
    play, outside
):
    async def story():
        with pytest.raises(Refused):
            outside() if outside.__name__ == "<lambda>" else getattr(
                _module(outside), outside.__name__
            )()

    play(story)
    assert time.time() > 0
    assert dt.datetime.now(dt.UTC)


def _module(function):
    return {"time": time, "monotonic": time, "random": random, "uuid4": uuid}[function.__name__]


def test_a_thread_and_the_real_runtimes_clock_are_refused(play):
    runtime = SystemRuntime()

    async def story():
        with pytest.raises(Refused):
            await asyncio.to_thread(print)
        with pytest.raises(Refused):
            runtime.now()
        with pytest.raises(Refused):
            runtime.random_id()

    play(story)
    runtime.close()


def test_a_world_in_which_nothing_can_happen_is_reported(play):
    async def story():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck, match="nothing will happen"):
        play(story)


def _order_of(play, seed, *, permute):
    async def story():
        order = []

        async def walk(name):
            for _ in range(3):
                order.append(name)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for name in "abcdef":
                group.create_task(walk(name))
        return "".join(order)

    return play(story, seed, permute=permute)


def test_a_seed_permutes_the_ready_tasks_in_a_reproducible_order(play):
    plain = _order_of(play, "1", permute=False)
    assert plain == "abcdef" * 3
    orders = {seed: _order_of(play, seed, permute=True) for seed in "12345678"}
    assert len(set(orders.values())) == len(orders)
    assert orders == {seed: _order_of(play, seed, permute=True) for seed in "12345678"}


def test_a_groups_tasks_are_cancelled_in_the_order_of_their_creation(play):
    async def story():
        order = []

        async def wait(name):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                order.append(name)

        async def fail():
            await asyncio.sleep(1)
            raise ValueError

        async def whole():
            async with asyncio.TaskGroup() as group:
                for name in range(6):
                    group.create_task(wait(name))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await whole()
        return order

    assert play(story, permute=False) == list(range(6))
