"""Work that is repeated: how often, after which errors, and after which pauses."""

import asyncio

import pytest

from daemon.retry import Backoff, retry
from tests.builders_runtime import InlineRuntime


class Clock(InlineRuntime):
    """Records the pauses. `chance` is the random number of each."""

    def __init__(self, chance: float = 0.5) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._chance = chance

    def jitter(self) -> float:
        return self._chance

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


class Work:
    """Fails `failures` times with `error`, then succeeds."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return f"call {self.calls}"


def test_the_result_is_that_of_the_first_success_and_the_pauses_double_up_to_the_longest():
    runtime = Clock()
    work = Work(5, KeyError("x"))
    assert asyncio.run(retry(work, KeyError, Backoff(0.5, 4), runtime)) == "call 6"
    assert runtime.pauses == [0.5, 1, 2, 4, 4]


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 1.0), (1.0, 3.0)])
def test_jitter_changes_a_pause_by_up_to_a_half(chance, pause):
    runtime = Clock(chance)
    asyncio.run(retry(Work(1, KeyError("x")), KeyError, Backoff(2, 2), runtime))
    assert runtime.pauses == [pause]


def test_work_that_fails_for_weeks_is_still_repeated():
    runtime = Clock()
    asyncio.run(retry(Work(3_000, KeyError("x")), KeyError, Backoff(0.5, 60), runtime))
    assert runtime.pauses[-1] == 60


def test_the_last_of_a_limited_number_of_tries_raises_its_error_without_a_pause():
    runtime = Clock()
    work = Work(9, KeyError("x"))
    with pytest.raises(KeyError):
        asyncio.run(retry(work, KeyError, Backoff(1, 1), runtime, tries=3))
    assert work.calls == 3
    assert runtime.pauses == [1, 1]


def test_an_error_of_another_kind_is_raised_at_once():
    runtime = Clock()
    work = Work(1, ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        asyncio.run(retry(work, KeyError, Backoff(1, 1), runtime))
    assert work.calls == 1


def test_each_failure_that_is_followed_by_a_pause_is_reported_before_it():
    runtime = Clock()
    reports: list[tuple[str, int]] = []

    async def failed(error: Exception) -> None:
        reports.append((str(error), len(runtime.pauses)))

    work = Work(9, ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        asyncio.run(retry(work, ValueError, Backoff(1, 1), runtime, tries=3, failed=failed))
    assert reports == [("x", 0), ("x", 1)]
