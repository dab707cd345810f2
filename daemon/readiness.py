"""Health of the daemon: liveness, readiness, and the conditions that need an operator (ADR 21).

The daemon is unready only if the journal cannot take events. While the bucket is unavailable or a
scope waits for an operator, events are accepted and wait durably. Without the intake, the events
that repair a scope would be lost.

The daemon is not live if all threads hang or the dispatcher has ended: only then a restart helps.
Every other fault is a condition, which is reported once it has lasted.
"""

import asyncio
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

import structlog

from daemon.attention import KINDS, Attention, Condition, ConditionKind, Lasting
from daemon.http.health import ReadinessCheck
from daemon.lifecycle import Stop
from daemon.publishing.wording import counted
from daemon.reporting import Reporter
from daemon.telemetry import Metrics, redacted
from daemon.worker import Worker
from events.errors import EventError
from events.log import SourceHealth
from events.records import Backlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_JOURNAL_SECONDS: Final = 10.0
_STALE_SECONDS: Final = 30.0
_REFUSALS: Final = 3
"""Consecutive refused renderings from which the renderer is at fault, not an event."""
_MAX_DETAIL: Final = 500
_RESTART: Final = "systemctl restart rebundle, or docker compose restart rebundle"


class Threads(Protocol):
    """The threads that run calls to the bucket (`daemon.lifecycle.SystemRuntime`)."""

    @property
    def threads(self) -> int:
        """The highest number of threads."""
        ...

    def monotonic(self) -> float:
        """The clock of `calls`."""
        ...

    def calls(self) -> Sequence[float]:
        """When the current call of each busy thread began, the oldest first."""
        ...


class Precondition(Protocol):
    """A check that must succeed before anything is published."""

    @property
    def pending(self) -> str | None:
        """Why nothing is published, in words for an operator; None after success."""
        ...


class RepeatedJob(Protocol):
    """A job that is repeated, for one or several subjects."""

    @property
    def failing(self) -> Mapping[str, str]:
        """Subjects that failed in the last run, and why; an empty name: all of them."""
        ...


class HealthChecks:
    """Collects the conditions, and implements `daemon.http.health.HealthSource`."""

    def __init__(
        self,
        *,
        source: SourceHealth,
        journal_path: Path,
        bucket: str,
        worker: Worker,
        reporter: Reporter,
        threads: Threads,
        call_seconds: float,
        metrics: Metrics,
        stop: Stop,
        preconditions: Mapping[str, Precondition] = MappingProxyType({}),
        repeated_jobs: Mapping[ConditionKind, RepeatedJob] = MappingProxyType({}),
    ) -> None:
        """Create the checks; `observe` has to be called before the first probe.

        `bucket` and `journal_path` are part of suggested commands, so both have to be valid in any
        working directory. `call_seconds`: the limit of one call to the bucket. `preconditions`:
        each by the command that shows its state. `repeated_jobs`: each by the kind of condition
        that its failure is.
        """
        self._source = source
        self._journal_path = journal_path
        self._at_bucket = f"--bucket {shlex.quote(bucket)}"
        self._worker = worker
        self._reporter = reporter
        self._threads = threads
        self._hung_seconds = 2 * call_seconds
        self._metrics = metrics
        self._stop = stop
        self._preconditions = preconditions
        self._repeated_jobs = repeated_jobs
        self._attention = Attention()
        self._journal_fault: str | None = "not checked yet"
        self._checked_at = threads.monotonic()
        self._backlog: Backlog | None = None
        self._stalled: dict[str, int] = {}
        self._undispatched = 0
        self._refused_before = 0
        self._refused = 0

    # -- the probes

    def fault(self) -> str | None:
        """Why a restart is needed; None if it is not. The bucket and a drain are never a reason."""
        if self._stop.is_set:
            return None
        if self._worker.dispatcher_ended:
            return "the task that hands out events has ended"
        if len(self._hung()) >= self._threads.threads:
            return (
                f"every thread has been in one call to the bucket for {self._hung_seconds:g} "
                "s or longer"
            )
        return None

    def checks(self) -> Sequence[ReadinessCheck]:
        """The check of the journal, which the next request needs, then one check per kind."""
        current = list(self.conditions())
        others = (_check(kind, current) for kind in KINDS if kind != "journal")
        return (self._journal_check(), *others)

    def lasting(self) -> tuple[Lasting, ...]:
        """The conditions that have held for a minute or longer."""
        return self._attention.lasting(self._threads.monotonic())

    @property
    def waiting_events(self) -> int | None:
        """The events without an outcome at the last check; None if the journal was never read."""
        return self._backlog.events if self._backlog else None

    # -- observed every few seconds

    async def observe(self) -> None:
        """Check everything once. Log the conditions that have lasted, and those that ended."""
        await self._check_journal()
        refused = self._reporter.refused_connections
        self._refused, self._refused_before = refused - self._refused_before, refused
        now = self._threads.monotonic()
        change = self._attention.observe(now, self.conditions())
        for condition in change.begun:
            log.warning(
                "needs attention",
                kind=condition.kind,
                subject=condition.subject,
                detail=condition.detail,
                remedy=condition.remedy,
            )
        for condition in change.ended:
            log.info("needs no more attention", kind=condition.kind, subject=condition.subject)
        self._measure()

    async def _check_journal(self) -> None:
        try:
            async with asyncio.timeout(_JOURNAL_SECONDS):
                await self._source.probe()
                backlog = await self._source.backlog()
        except (EventError, TimeoutError) as error:
            self._journal_fault = str(error) or f"it does not answer within {_JOURNAL_SECONDS:g} s"
            log.warning("the journal cannot be written", error=self._journal_fault)
        else:
            self._journal_fault = None
            self._reporter.backlog(backlog)
            self._stalled = _stalled(self._backlog, backlog)
            self._undispatched = (
                backlog.undispatched if _undispatched_stalled(self._backlog, backlog) else 0
            )
            self._backlog = backlog
        self._checked_at = self._threads.monotonic()

    def _measure(self) -> None:
        lasting = self.lasting()
        for kind in KINDS:
            count = sum(entry.condition.kind == kind for entry in lasting)
            self._metrics.attention_conditions.labels(kind).set(count)
        calls = self._threads.calls()
        self._metrics.bucket_threads_busy.set(len(calls))
        self._metrics.bucket_oldest_call_seconds.set(
            self._threads.monotonic() - calls[0] if calls else 0
        )

    # -- conditions

    def conditions(self) -> Iterator[Condition]:
        """All conditions of now, also those that have just begun."""
        for condition in self._all_conditions():
            if not self._follows_from_another_fault(condition.kind, condition.subject):
                yield condition

    def _all_conditions(self) -> Iterator[Condition]:
        yield from self._conditions_of_the_daemon()
        yield from self._dispatch_conditions()
        yield from self._lane_conditions()
        for name, reason in self._worker.unreadable.items():
            yield _condition("unreadable", name, reason, self._repair(name, reason))
        for scope, reason in self._reporter.behind.items():
            yield _condition(
                "live_tree", str(scope), reason, f"rebundle status {scope} {self._at_bucket}"
            )
        for kind, source in self._repeated_jobs.items():
            for name, reason in source.failing.items():
                yield _condition(kind, name, reason, self._remedy(kind, name))

    def _follows_from_another_fault(self, kind: ConditionKind, name: str) -> bool:
        """Whether another condition caused this failure, so that it is not reported twice."""
        match kind:
            case "pruning":
                return self._journal_fault is not None
            case "unreadable":
                return self._nothing_is_published
            case "dispatch" | "lane" | "live_tree" | "collection" | "freshness":
                return self._nothing_is_published or name in self._worker.unreadable
            case "damaged":
                unreadable = self._nothing_is_published or name in self._worker.unreadable
                return unreadable or self._is_reported(name)
            case _:
                return False

    def _is_reported(self, scope: str) -> bool:
        """Whether the live tree or the lane of a scope reports its damaged state already."""
        reasons = {reason for name, reason in self._reporter.behind.items() if str(name) == scope}
        reasons |= {
            lane.failure.reason
            for lane in self._worker.lanes
            if lane.failure is not None and str(lane.scope) == scope
        }
        return self._repeated_jobs["damaged"].failing[scope] in reasons

    @property
    def _nothing_is_published(self) -> bool:
        """Whether there is a condition of the kind `bucket`."""
        return any(gate.pending is not None for gate in self._preconditions.values())

    def _remedy(self, kind: ConditionKind, name: str) -> str:
        """A command for the failure of a repeated job."""
        match kind:
            case "token":
                return f"ls -l {shlex.quote(name)}"
            case "pruning":
                return self._list_journal_folder
            case "damaged" if "rebundle recover" in self._repeated_jobs[kind].failing[name]:
                return f"rebundle recover {name} --reason 'damaged state' {self._at_bucket}"
            case "collection":
                return f"rebundle gc {name or '--all'} --dry-run {self._at_bucket}"
            case _:
                return self._verify(name)

    def _repair(self, name: str, reason: str) -> str:
        """The command that repairs a scope that cannot be read, if the reason names it."""
        if f"`rebundle recover {name} --reason '…'`" in reason:
            return f"rebundle recover {name} --reason 'unreadable pointer' {self._at_bucket}"
        return self._verify(name)

    def _verify(self, name: str) -> str:
        """Verify one scope; for a folder or the bucket, all scopes."""
        return f"rebundle verify {name if '/' in name else '--all'} {self._at_bucket}"

    def _status(self, scope: str) -> str:
        return f"rebundle status {scope} {self._at_bucket} {self._at_journal}"

    def _conditions_of_the_daemon(self) -> Iterator[Condition]:
        if self._journal_fault is not None:
            yield _condition("journal", "", self._journal_fault, self._list_journal_folder)
        for command, gate in self._preconditions.items():
            if gate.pending is not None:
                journal = f" {self._at_journal}" if command == "status" else ""
                yield _condition(
                    "bucket", "", gate.pending, f"rebundle {command} {self._at_bucket}{journal}"
                )
        if self._reporter.refused_in_a_row >= _REFUSALS:
            detail = f"the last {self._reporter.refused_in_a_row} renderings were refused"
            yield _condition(
                "renderer", "", detail, f"rebundle dead-letters list {self._at_journal}"
            )
        if hung := self._hung():
            age = self._threads.monotonic() - hung[0]
            threads = f"{len(hung)} of {self._threads.threads} threads"
            yield _condition(
                "threads",
                "",
                f"{threads} are in calls that do not return, one for {age:.0f} s",
                _RESTART,
            )
        if self._refused:
            detail = (
                f"{self._refused} new connections were above http.max_connections or its "
                "share of one peer"
            )
            yield _condition("connections", "", detail, "ss -Htn state established")

    def _dispatch_conditions(self) -> Iterator[Condition]:
        remedy = f"rebundle status {self._at_bucket} {self._at_journal}"
        if self._worker.failure is not None:
            yield _condition("dispatch", "", self._worker.failure.reason, remedy)
        elif self._undispatched:
            yield _condition(
                "dispatch",
                "",
                f"{counted(self._undispatched, 'accepted event')} not assigned to a scope",
                remedy,
            )

    def _lane_conditions(self) -> Iterator[Condition]:
        failing = {
            str(lane.scope): lane.failure for lane in self._worker.lanes if lane.failure is not None
        }
        waiting = {
            scope: f"{counted(count, 'event')} waiting, and none was settled since the last check"
            for scope, count in self._stalled.items()
        }
        for scope, detail in waiting.items():
            if scope not in failing:
                yield _condition("lane", scope, detail, self._status(scope))
        for scope, failure in failing.items():
            remedy = (
                self._verify(scope) if failure.reaction.command == "verify" else self._status(scope)
            )
            yield _condition("lane", scope, failure.reason, remedy)

    @property
    def _list_journal_folder(self) -> str:
        folder = shlex.quote(str(self._journal_path.parent))
        return f"df -h {folder}; ls -la {folder}"

    @property
    def _at_journal(self) -> str:
        return f"--journal {shlex.quote(str(self._journal_path))}"

    def _hung(self) -> Sequence[float]:
        now = self._threads.monotonic()
        return [began for began in self._threads.calls() if now - began >= self._hung_seconds]

    def _journal_check(self) -> ReadinessCheck:
        if self._journal_fault is not None:
            return ReadinessCheck("journal", ok=False, detail=_displayed(self._journal_fault))
        age = self._threads.monotonic() - self._checked_at
        if age > _STALE_SECONDS:
            return ReadinessCheck("journal", ok=False, detail=f"not checked for {age:.0f} s")
        backlog = self._backlog
        assert backlog is not None, "set together with the fault"
        return ReadinessCheck(
            "journal",
            ok=True,
            detail=f"{backlog.events} waiting, {counted(backlog.dead_letters, 'dead letter')}",
        )


def _stalled(before: Backlog | None, now: Backlog) -> dict[str, int]:
    """Lanes whose oldest event is the same as before, and how many events wait in each."""
    oldest = {lane.scope: lane.oldest for lane in before.lanes} if before else {}
    return {lane.scope: lane.waiting for lane in now.lanes if oldest.get(lane.scope) == lane.oldest}


def _undispatched_stalled(before: Backlog | None, now: Backlog) -> bool:
    """Whether events wait for the dispatcher, and at least as many as before."""
    return before is not None and now.undispatched >= before.undispatched > 0


def _condition(kind: ConditionKind, subject: str, detail: str, remedy: str) -> Condition:
    return Condition(kind, subject, _displayed(detail), remedy)


def _displayed(text: str) -> str:
    """Redacted and cut: a failure may quote a bucket at any length, and probes need no token."""
    cleaned = str(redacted(text))
    return cleaned if len(cleaned) <= _MAX_DETAIL else f"{cleaned[:_MAX_DETAIL]}…"


def _check(kind: ConditionKind, conditions: Sequence[Condition]) -> ReadinessCheck:
    matching = [condition for condition in conditions if condition.kind == kind]
    if not matching:
        return ReadinessCheck(kind, ok=True, detail="nothing is wrong")
    first = matching[0]
    more = f" (and {len(matching) - 1} more: /attention)" if len(matching) > 1 else ""
    subject = f"{first.subject}: " if first.subject else ""
    return ReadinessCheck(
        kind, ok=True, degraded=True, detail=f"{subject}{first.detail}{more}; {first.remedy}"
    )
