"""Retries while the store throttles writes (429, SlowDown)."""

import asyncio

import pytest

from daemon.publishing.retry import patiently
from daemon.stores.errors import StoreBusy, StoreUnavailable
from tests.builders_runtime import InlineRuntime


class Writes:
    """Fails with the given errors, one per try, then succeeds."""

    def __init__(self, *ends: Exception) -> None:
        self.tries = 0
        self._ends = list(ends)

    async def __call__(self) -> str:
        self.tries += 1
        if self._ends:
            raise self._ends.pop(0)
        return "written"


def waited(writes: Writes, waits: int) -> tuple[str, float]:
    runtime = InlineRuntime()
    began = runtime.seconds
    return asyncio.run(patiently(runtime, writes, waits)), runtime.seconds - began


def test_an_immediate_success_does_not_wait() -> None:
    assert waited(Writes(), 3) == ("written", 0)


def test_a_busy_store_is_retried_with_delays_that_double_up_to_a_limit() -> None:
    writes = Writes(*[StoreBusy("429")] * 6)
    written, seconds = waited(writes, 6)
    assert (written, writes.tries) == ("written", 7)
    assert seconds == pytest.approx(0.4 + 0.8 + 1.6 + 3.2 + 5 + 5)


def test_a_store_that_stays_busy_is_reported() -> None:
    writes = Writes(*[StoreBusy("429")] * 100)
    with pytest.raises(StoreBusy):
        waited(writes, 2)
    assert writes.tries == 3


def test_any_other_failure_is_raised_at_once() -> None:
    writes = Writes(StoreBusy("429"), StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable, match="away"):
        waited(writes, 5)
    assert writes.tries == 2
