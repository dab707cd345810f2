"""`every`: when the first run is, how long the pauses are, and what ends the repetition."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from daemon.timers import every
from tests.builders_runtime import InlineRuntime


class Pauses(InlineRuntime):
    """Records each pause between the runs, and raises a cancellation in the fourth one."""

    def __init__(self, chance: float = 0.5) -> None:
        super().__init__("every")
        self.steps: list[float | str] = []
        self._chance = chance

    def jitter(self) -> float:
        return self._chance

    async def sleep(self, seconds: float) -> None:
        if sum(step != "run" for step in self.steps) == 3:
            raise asyncio.CancelledError
        self.steps.append(seconds)
        await super().sleep(seconds)

    async def run(self) -> None:
        self.steps.append("run")


def repeat(
    runtime: Pauses,
    period: float | Callable[[], float],
    job: Callable[[], Awaitable[None]] | None = None,
    **options: bool,
) -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(every(period, runtime, job or runtime.run, **options))


def test_the_first_run_is_at_once_and_a_pause_follows_each() -> None:
    runtime = Pauses()
    repeat(runtime, 10)
    assert runtime.steps == ["run", 10, "run", 10, "run", 10, "run"]


def test_the_first_run_can_wait() -> None:
    runtime = Pauses()
    repeat(runtime, 10, wait_first=True)
    assert runtime.steps == [10, "run", 10, "run", 10, "run"]


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 5), (1.0, 15)])
def test_jitter_spreads_a_pause_from_half_a_period_to_one_and_a_half(
    chance: float, pause: float
) -> None:
    runtime = Pauses(chance)
    repeat(runtime, 10, jitter=True)
    assert runtime.steps[1] == pause


def test_a_changing_period_is_read_after_each_run() -> None:
    runtime = Pauses()
    repeat(runtime, lambda: 10 * len(runtime.steps))
    assert runtime.steps == ["run", 10, "run", 30, "run", 50, "run"]


def test_an_error_of_the_job_ends_the_repetition() -> None:
    async def fail() -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        asyncio.run(every(10, Pauses(), fail))
