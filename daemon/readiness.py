"""What the daemon depends on, told from what is known, for `/readyz` (docs/operations.md).

The next request needs the journal, and nothing else: with the bucket away, or a scope waiting for an operator, events
are accepted and wait, durable, and to take the intake away would lose the events that mend it. So these are told as
degraded; only a journal that cannot take events makes the daemon unready.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from daemon.http.health import Check
from daemon.outcomes import NeedsOperator
from daemon.publishing.identity import BucketIdentity
from daemon.reporting import Reporter
from daemon.stores.admission import Admission
from daemon.worker import Worker
from events.errors import EventError
from events.journal import Backlog

_ANSWER_SECONDS: Final = 2.0
_NAMED: Final = 5
_REFUSALS: Final = 3
"""Renderings refused in a row after which it is the renderer, not an event."""


class Log(Protocol):
    """The journal, as far as readiness asks it."""

    async def backlog(self) -> Backlog:
        """What waits now."""
        ...


class Vitals:
    """Implements `daemon.http.health.Readiness`. `admission`: None for a bucket that needs no probe."""

    def __init__(
        self,
        journal: Log,
        worker: Worker,
        reporter: Reporter,
        admission: Admission | None = None,
        identity: BucketIdentity | None = None,
    ) -> None:
        self._journal = journal
        self._worker = worker
        self._reporter = reporter
        self._admission = admission
        self._identity = identity

    async def checks(self) -> Sequence[Check]:
        """One for each dependency."""
        return (
            await self._journal_check(),
            self._bucket_check(),
            self._dispatch_check(),
            self._lanes_check(),
            self._live_trees_check(),
            self._renderer_check(),
        )

    async def _journal_check(self) -> Check:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                backlog = await self._journal.backlog()
        except (EventError, TimeoutError) as error:
            return Check("journal", ok=False, detail=str(error) or "does not answer")
        self._reporter.backlog(backlog)
        return Check("journal", ok=True, detail=f"{backlog.events} waiting, {backlog.dead_letters} dead letters")

    def _bucket_check(self) -> Check:
        if self._admission is not None and self._admission.pending is not None:
            detail = "nothing is published until the bucket has been probed; see the log and `rebundle doctor`"
        elif self._identity is not None and self._identity.pending is not None:
            detail = (
                "nothing is published: the bucket is not known to be the right one; see the log and `rebundle status`"
            )
        else:
            return Check("bucket", ok=True, detail="may be written to")
        return Check("bucket", ok=True, degraded=True, detail=detail)

    def _dispatch_check(self) -> Check:
        failure = self._worker.failure
        if failure is None:
            return Check("dispatch", ok=True, detail="events are handed out")
        return Check("dispatch", ok=True, degraded=True, detail="no event is handed out; see the log")

    def _lanes_check(self) -> Check:
        lanes = self._worker.lanes
        stuck = [lane for lane in lanes if isinstance(lane.failure, NeedsOperator)]
        waiting = sum(lane.failure is not None for lane in lanes) - len(stuck)
        if not stuck:
            return Check("lanes", ok=True, degraded=bool(waiting), detail=f"{len(lanes)} lanes, {waiting} try again")
        names = ", ".join(str(lane.scope) for lane in stuck[:_NAMED])
        detail = f"{len(stuck)} wait for an operator: {names}; see `rebundle status`"
        return Check("lanes", ok=True, degraded=True, detail=detail)

    def _live_trees_check(self) -> Check:
        behind = sorted(self._reporter.behind)
        if not behind:
            return Check("live_trees", ok=True, detail="none is known to be behind")
        names = ", ".join(map(str, behind[:_NAMED]))
        detail = f"{len(behind)} did not follow at the last pass: {names}; see `rebundle status`"
        return Check("live_trees", ok=True, degraded=True, detail=detail)

    def _renderer_check(self) -> Check:
        refused = self._reporter.refused_in_a_row
        if refused < _REFUSALS:
            return Check("renderer", ok=True, detail="what is rendered passes the gate")
        detail = f"the last {refused} renderings were refused; see `rebundle dead-letters list`"
        return Check("renderer", ok=True, degraded=True, detail=detail)
