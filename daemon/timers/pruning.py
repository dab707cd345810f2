"""The daemon's timer that lets the journal forget, and how it guards against a wall clock that jumps (protocol 2).

An event whose identity was forgotten too early is new when its sender sends it again. The wall clock is compared with
the monotonic one: after a step nothing is forgotten for a day, in which somebody may set the clock right.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from daemon.publishing.wording import reason_of
from daemon.runtime import Runtime
from daemon.timers import every

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 3600
_RETRY_SECONDS: Final = 300
"""After a failure: what is wrong then is reported until the next success."""
_STEP_SECONDS: Final = 3600
"""A larger difference between the two clocks, from one round to the next, is a step."""
_PAUSE_SECONDS: Final = 86_400


class Prunable(Protocol):
    """A journal, as far as this timer needs it."""

    async def prune(self) -> int:
        """Forget what is over."""
        ...


class PruneTimer:
    """Prunes one journal every hour until it is cancelled."""

    def __init__(self, journal: Prunable, runtime: Runtime) -> None:
        self._journal = journal
        self._runtime = runtime
        self._difference = self._clock_difference()
        self._paused_until = runtime.monotonic()
        self.failing: Mapping[str, str] = {}
        """Why the journal could not be pruned the last time, under an empty name; empty if it could."""

    async def run(self) -> None:
        """Round after round, the first at once."""
        await every(self._pause, self._runtime, self._round)

    def _pause(self) -> float:
        return _RETRY_SECONDS if self.failing else _EVERY_SECONDS

    async def _round(self) -> None:
        self._look_at_the_clock()
        if self._runtime.monotonic() >= self._paused_until:
            await self._try_prune()

    async def _try_prune(self) -> None:
        try:
            await self._journal.prune()
        except Exception as error:  # noqa: BLE001  # whatever it is, events are taken and published all the same
            log.warning("journal not pruned, tried again later", error=reason_of(error))
            self.failing = {"": f"the journal cannot be pruned, so it grows: {reason_of(error)}"}
        else:
            self.failing = {}

    def _look_at_the_clock(self) -> None:
        before, self._difference = self._difference, self._clock_difference()
        step = self._difference - before
        if abs(step) > _STEP_SECONDS:
            self._paused_until = self._runtime.monotonic() + _PAUSE_SECONDS
            log.warning(
                "the wall clock stepped: the journal forgets nothing for a day",
                seconds=round(step),
                hint="check the clock of this machine (timedatectl)",
            )

    def _clock_difference(self) -> float:
        return self._runtime.now().timestamp() - self._runtime.monotonic()
