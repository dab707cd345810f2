"""What the daemon depends on, told from what is known, for `/readyz` (docs/operations.md).

A store that is away does not make the daemon unready by itself: events are accepted and wait in the journal. What
makes it unready is what would lose or hide work: a journal that cannot take events, a lane that waits for an operator,
a renderer whose every result the gate refuses.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from daemon.http.health import Check
from daemon.outcomes import NeedsOperator
from daemon.reporting import Reporter
from daemon.telemetry import Metrics
from daemon.worker import Worker
from events.errors import EventError
from events.journal import Backlog

_ANSWER_SECONDS: Final = 2.0


class Log(Protocol):
    """The journal, as far as readiness asks it."""

    async def backlog(self) -> Backlog:
        """What waits now."""
        ...


class Vitals:
    """Implements `daemon.http.health.Readiness`."""

    def __init__(self, journal: Log, worker: Worker, reporter: Reporter, metrics: Metrics) -> None:
        self._journal = journal
        self._worker = worker
        self._reporter = reporter
        self._metrics = metrics

    async def checks(self) -> Sequence[Check]:
        """One for each dependency."""
        return (await self._journal_check(), self._lanes_check(), self._renderer_check())

    async def _journal_check(self) -> Check:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                backlog = await self._journal.backlog()
        except (EventError, TimeoutError) as error:
            return Check("journal", ok=False, detail=str(error) or "does not answer")
        self._metrics.journal_unsettled_events.set(backlog.events)
        self._metrics.dead_letters.set(backlog.dead_letters)
        return Check("journal", ok=True, detail=f"{backlog.events} waiting, {backlog.dead_letters} dead letters")

    def _lanes_check(self) -> Check:
        stuck = [lane for lane in self._worker.lanes if isinstance(lane.failure, NeedsOperator)]
        if not stuck:
            waiting = sum(lane.failure is not None for lane in self._worker.lanes)
            return Check("lanes", ok=True, detail=f"{len(self._worker.lanes)} lanes, {waiting} waiting for the bucket")
        names = ", ".join(str(lane.scope) for lane in stuck[:5])
        return Check("lanes", ok=False, detail=f"{len(stuck)} wait for an operator: {names}; see `rebundle status`")

    def _renderer_check(self) -> Check:
        if self._reporter.gate_refused_last:
            return Check(
                "renderer", ok=False, detail="the gate refuses what is rendered; see `rebundle dead-letters list`"
            )
        return Check("renderer", ok=True, detail="the gate passes what is rendered")
