"""The timer that prunes the journal, with a guard against steps of the wall clock (protocol 2).

Pruning deletes the identities of old events. If an identity is deleted too early, a repeated event
counts as new. So the wall clock is compared with the monotonic clock. After a step nothing is
deleted for a day, in which an operator can correct the clock.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from daemon.failures import reason_of
from daemon.runtime import Runtime
from daemon.timers import every

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 3600
_RETRY_SECONDS: Final = 300
"""Pause after a failure, which is reported until a run succeeds."""
_STEP_SECONDS: Final = 3600
"""A larger change of the difference between the clocks, from one round to the next, is a step."""
_PAUSE_SECONDS: Final = 86_400


class Prunable(Protocol):
    """The part of a journal that this timer needs."""

    async def prune(self) -> int:
        """Delete expired identities and bodies."""
        ...


class PruneTimer:
    """Prunes one journal every hour until it is cancelled."""

    def __init__(self, journal: Prunable, runtime: Runtime) -> None:
        self._journal = journal
        self._runtime = runtime
        self._difference = self._clock_difference()
        self._paused_until = runtime.monotonic()
        self.failing: Mapping[str, str] = {}
        """Why the last run failed, under an empty name; empty after a success."""

    async def run(self) -> None:
        """Repeat rounds, the first one at once."""
        await every(self._pause, self._runtime, self._round)

    def _pause(self) -> float:
        return _RETRY_SECONDS if self.failing else _EVERY_SECONDS

    async def _round(self) -> None:
        self._check_clock()
        if self._runtime.monotonic() >= self._paused_until:
            await self._try_prune()

    async def _try_prune(self) -> None:
        try:
            await self._journal.prune()
        except Exception as error:  # noqa: BLE001  # events are accepted and published all the same
            log.warning("journal not pruned, tried again later", error=reason_of(error))
            self.failing = {"": f"the journal cannot be pruned, so it grows: {reason_of(error)}"}
        else:
            self.failing = {}

    def _check_clock(self) -> None:
        before, self._difference = self._difference, self._clock_difference()
        step = self._difference - before
        if abs(step) > _STEP_SECONDS:
            self._paused_until = self._runtime.monotonic() + _PAUSE_SECONDS
            log.warning(
                "the wall clock stepped: the journal is not pruned for a day",
                seconds=round(step),
                hint="check the clock of this machine (timedatectl)",
            )

    def _clock_difference(self) -> float:
        return self._runtime.now().timestamp() - self._runtime.monotonic()
