"""The timer that prunes the journal: every hour, and not for a day after a step of the clock."""

import asyncio
import contextlib
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from daemon.timers.pruning import PruneTimer
from events.errors import SourceUnavailable
from tests.builders_runtime import InlineRuntime

HOUR = 3600


class Clocks(InlineRuntime):
    """Steps the wall clock by these seconds, one after each wait, and stops the timer after the
    last.
    """

    def __init__(self, *steps: float) -> None:
        super().__init__("clocks")
        self._steps = list(steps)
        self._ahead = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._ahead)

    async def sleep(self, seconds: float) -> None:
        if not self._steps:
            raise asyncio.CancelledError
        await super().sleep(seconds)
        self._ahead += self._steps.pop(0)


class Pruned:
    """Records when it was pruned, in hours from the start."""

    def __init__(self, runtime: InlineRuntime) -> None:
        self._runtime = runtime
        self._start = runtime.monotonic()
        self.hours: list[float] = []
        self.fault: Exception | None = None

    async def prune(self) -> int:
        self.hours.append((self._runtime.monotonic() - self._start) / HOUR)
        if self.fault is not None:
            raise self.fault
        return 0


def pruned(runtime: Clocks, journal: Pruned) -> PruneTimer:
    timer = PruneTimer(journal, runtime)

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await timer.run()

    asyncio.run(run())
    return timer


def test_a_journal_is_pruned_every_hour() -> None:
    runtime = Clocks(0, 0)
    journal = Pruned(runtime)
    assert pruned(runtime, journal).failing == {}
    assert journal.hours == [0, 1, 2]


@pytest.mark.parametrize("fault", [SourceUnavailable("away"), ValueError("away")])
def test_a_fault_is_reported_and_pruning_is_tried_again_soon(fault: Exception) -> None:
    runtime = Clocks(0, 0)
    journal = Pruned(runtime)
    journal.fault = fault
    with capture_logs() as logs:
        timer = pruned(runtime, journal)
    assert [round(hour * 60) for hour in journal.hours] == [0, 5, 10]
    assert ["away" in entry["error"] for entry in logs] == [True] * 3
    assert "away" in timer.failing[""]


def test_the_next_success_ends_the_reported_fault() -> None:
    class Recovers(Pruned):
        async def prune(self) -> int:
            self.fault = None if self.hours else SourceUnavailable("away")
            return await super().prune()

    runtime = Clocks(0)
    journal = Recovers(runtime)
    assert pruned(runtime, journal).failing == {}
    assert len(journal.hours) == 2


@pytest.mark.parametrize("step", [31 * 24 * HOUR, -31 * 24 * HOUR, HOUR + 1])
def test_nothing_is_pruned_for_a_day_after_the_wall_clock_stepped(step: float) -> None:
    runtime = Clocks(0, step, *[0] * 25)
    journal = Pruned(runtime)
    with capture_logs() as logs:
        pruned(runtime, journal)
    assert journal.hours == [0, 1, 26, 27]
    assert [(line["log_level"], line["seconds"]) for line in logs] == [("warning", step)]


def test_a_slewed_clock_has_not_stepped() -> None:
    runtime = Clocks(HOUR - 1, -HOUR + 1)
    journal = Pruned(runtime)
    pruned(runtime, journal)
    assert journal.hours == [0, 1, 2]


def test_another_step_restarts_the_day() -> None:
    runtime = Clocks(2 * HOUR, *[0] * 11, -2 * HOUR, *[0] * 24)
    journal = Pruned(runtime)
    pruned(runtime, journal)
    assert journal.hours == [0, 37]
