"""daemon.runtime.Runtime in virtual time: no thread; random ids and jitter come from the seed."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.simulation.loop import EPOCH, SimulatedLoop


class SimulatedRuntime:
    """The outside world of one process. Its clock is `ahead` of the bucket's by so many seconds."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, *, ahead: float = 0) -> None:
        self._loop = loop
        self._chance = chance
        self._ahead = ahead

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.time() + self._ahead)

    def monotonic(self) -> float:
        return self._loop.time()

    def random_id(self) -> str:
        return f"{self._chance.getrandbits(128):032x}"

    def jitter(self) -> float:
        return self._chance.random()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def run_in_thread(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs at once, between two moments at which other tasks may run."""
        await asyncio.sleep(0)
        result = work(*args, **kwargs)
        await asyncio.sleep(0)
        return result
