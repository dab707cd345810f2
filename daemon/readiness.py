"""How the daemon does, from what is known: liveness, readiness, and what needs an operator (ADR 21).

The next request needs the journal, and nothing else: with the bucket away, or a scope waiting for an operator, events
are accepted and wait, durable, and to take the intake away would lose the events that repair the scope. So only a
journal that cannot take events makes the daemon unready. A restart helps when threads hang or the dispatcher has ended,
and against nothing else. Everything else is a condition, which is reported once it has lasted.
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
from daemon.reporting import Reporter
from daemon.telemetry import Metrics, redacted
from daemon.worker import Worker
from events.errors import EventError
from events.journal import Backlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_JOURNAL_SECONDS: Final = 10.0
_STALE_SECONDS: Final = 30.0
_REFUSALS: Final = 3
"""Renderings refused in a row after which it is the renderer, not an event."""
_MOST_DETAIL: Final = 500
_RESTART: Final = "systemctl restart rebundle, or docker compose restart rebundle"


class Log(Protocol):
    """The journal, as far as readiness asks it. Each call may raise SourceUnavailable."""

    async def probe(self) -> None:
        """Write something small, durably."""
        ...

    async def backlog(self) -> Backlog:
        """What waits now."""
        ...


class Threads(Protocol):
    """Who runs calls to the bucket (`daemon.lifecycle.SystemRuntime`)."""

    @property
    def threads(self) -> int:
        """How many there are at most."""
        ...

    def monotonic(self) -> float:
        """The clock of `calls`."""
        ...

    def calls(self) -> Sequence[float]:
        """Since when each busy thread has been in its present call, the oldest first."""
        ...


class Precondition(Protocol):
    """Something that must be settled before anything is published."""

    @property
    def pending(self) -> str | None:
        """Why nothing is published, in words for an operator; None: nothing is in the way."""
        ...


class Failing(Protocol):
    """Something that is tried again and again, for several things or for one."""

    @property
    def failing(self) -> Mapping[str, str]:
        """What failed at the last try, and why; an empty name: all of it."""
        ...


class HealthChecks:
    """Implements `daemon.http.health.Vitals`."""

    def __init__(
        self,
        *,
        journal: Log,
        journal_path: Path,
        bucket: str,
        worker: Worker,
        reporter: Reporter,
        threads: Threads,
        call_seconds: float,
        metrics: Metrics,
        stop: Stop,
        gates: Mapping[str, Precondition] = MappingProxyType({}),
        tried: Mapping[ConditionKind, Failing] = MappingProxyType({}),
    ) -> None:
        """`bucket` and `journal_path` are part of suggested commands, so they name the same thing from any folder.

        `call_seconds`: the limit of one call to the bucket. `gates`: each by the verb that shows why it is closed.
        `tried`: timers and the like, each by the kind of condition that a failure of its last try is.
        """
        self._journal = journal
        self._journal_path = journal_path
        self._at_bucket = f"--bucket {shlex.quote(bucket)}"
        self._worker = worker
        self._reporter = reporter
        self._threads = threads
        self._hung_seconds = 2 * call_seconds
        self._metrics = metrics
        self._stop = stop
        self._gates = gates
        self._tried = tried
        self._attention = Attention()
        self._journal_fault: str | None = "not checked yet"
        self._looked = threads.monotonic()
        self._backlog: Backlog | None = None
        self._stalled: dict[str, int] = {}
        self._undispatched = 0
        self._refused_before = 0
        self._refused = 0

    # -- the probes

    def fault(self) -> str | None:
        """Why only a restart helps; None: none is needed. Never because of the bucket itself, nor of a drain."""
        if self._stop.is_set:
            return None
        if self._worker.dispatcher_ended:
            return "the task that hands out events has ended"
        if len(self._hung()) >= self._threads.threads:
            return f"every thread has been in one call to the bucket for {self._hung_seconds:g} s or longer"
        return None

    def checks(self) -> Sequence[ReadinessCheck]:
        """The journal, which the next request needs, then what else is wrong, by kind."""
        found = list(self.conditions())
        return (self._journal_check(), *(_check(kind, found) for kind in KINDS if kind != "journal"))

    def lasting(self) -> tuple[Lasting, ...]:
        """What has been wrong for a minute or longer."""
        return self._attention.lasting(self._threads.monotonic())

    # -- what is looked at every few seconds

    async def observe(self) -> None:
        """Look at everything once; say in the log what has lasted too long, and what is over."""
        await self._look_at_journal()
        refused = self._reporter.refused_connections
        self._refused, self._refused_before = refused - self._refused_before, refused
        now = self._threads.monotonic()
        change = self._attention.observe(now, self.conditions())
        for each in change.begun:
            log.warning("needs attention", kind=each.kind, subject=each.subject, detail=each.detail, remedy=each.remedy)
        for each in change.ended:
            log.info("needs no more attention", kind=each.kind, subject=each.subject)
        self._measure()

    async def _look_at_journal(self) -> None:
        try:
            async with asyncio.timeout(_JOURNAL_SECONDS):
                await self._journal.probe()
                backlog = await self._journal.backlog()
        except (EventError, TimeoutError) as error:
            self._journal_fault = str(error) or f"it does not answer within {_JOURNAL_SECONDS:g} s"
            log.warning("the journal cannot be written", error=self._journal_fault)
        else:
            self._journal_fault = None
            self._reporter.backlog(backlog)
            self._stalled = _stalled(self._backlog, backlog)
            self._undispatched = backlog.undispatched if _undispatched_stalled(self._backlog, backlog) else 0
            self._backlog = backlog
        self._looked = self._threads.monotonic()

    def _measure(self) -> None:
        lasting = self.lasting()
        for kind in KINDS:
            count = sum(each.condition.kind == kind for each in lasting)
            self._metrics.attention_conditions.labels(kind).set(count)
        calls = self._threads.calls()
        self._metrics.bucket_threads_busy.set(len(calls))
        self._metrics.bucket_oldest_call_seconds.set(self._threads.monotonic() - calls[0] if calls else 0)

    # -- from what is known to conditions

    def conditions(self) -> Iterator[Condition]:
        """Everything that is wrong now, however short."""
        yield from self._conditions_of_the_daemon()
        yield from self._dispatch_conditions()
        yield from self._lane_conditions()
        for name, reason in self._worker.unreadable.items():
            yield _condition("unreadable", name, reason, self._verify(name))
        for scope, reason in self._reporter.behind.items():
            if not self._follows_from_another_fault("live_tree", str(scope)):
                yield _condition("live_tree", str(scope), reason, f"rebundle status {scope} {self._at_bucket}")
        for kind, source in self._tried.items():
            for name, reason in source.failing.items():
                if not self._follows_from_another_fault(kind, name):
                    yield _condition(kind, name, reason, self._remedy(kind, name))

    def _follows_from_another_fault(self, kind: ConditionKind, name: str) -> bool:
        """Whether something failed because of a fault that is a condition already: one fault is reported once."""
        match kind:
            case "pruning":
                return self._journal_fault is not None
            case "live_tree" | "collection" | "freshness":
                return name in self._worker.unreadable
            case _:
                return False

    def _remedy(self, kind: ConditionKind, name: str) -> str:
        """What to do about something that is tried again and again."""
        match kind:
            case "token":
                return f"ls -l {shlex.quote(name)}"
            case "pruning":
                return self._look_at_journal_folder
            case "collection":
                return f"rebundle gc {name or '--all'} --dry-run {self._at_bucket}"
            case _:
                return self._verify(name)

    def _verify(self, name: str) -> str:
        """A scope is verified alone; a folder, or the bucket, with everything else."""
        return f"rebundle verify {name if '/' in name else '--all'} {self._at_bucket}"

    def _conditions_of_the_daemon(self) -> Iterator[Condition]:
        if self._journal_fault is not None:
            yield _condition("journal", "", self._journal_fault, self._look_at_journal_folder)
        for verb, gate in self._gates.items():
            if gate.pending is not None:
                journal = f" {self._at_journal}" if verb == "status" else ""
                yield _condition("bucket", "", gate.pending, f"rebundle {verb} {self._at_bucket}{journal}")
        if self._reporter.refused_in_a_row >= _REFUSALS:
            detail = f"the last {self._reporter.refused_in_a_row} renderings were refused"
            yield _condition("renderer", "", detail, f"rebundle dead-letters list {self._at_journal}")
        if hung := self._hung():
            age = self._threads.monotonic() - hung[0]
            threads = f"{len(hung)} of {self._threads.threads} threads"
            yield _condition("threads", "", f"{threads} are in calls that do not return, one for {age:.0f} s", _RESTART)
        if self._refused:
            detail = f"{self._refused} new connections were above http.max_connections or its share of one peer"
            yield _condition("connections", "", detail, "ss -Htn state established")

    def _dispatch_conditions(self) -> Iterator[Condition]:
        remedy = f"rebundle status {self._at_bucket} {self._at_journal}"
        if self._worker.failure is not None:
            yield _condition("dispatch", "", self._worker.failure.reason, remedy)
        elif self._undispatched:
            yield _condition("dispatch", "", f"{self._undispatched} accepted events are handed out to no scope", remedy)

    def _lane_conditions(self) -> Iterator[Condition]:
        failing = {str(lane.scope): lane.failure.reason for lane in self._worker.lanes if lane.failure is not None}
        waiting = {scope: f"{count} events wait, and none was settled" for scope, count in self._stalled.items()}
        for scope, detail in (waiting | failing).items():
            yield _condition("lane", scope, detail, f"rebundle status {scope} {self._at_bucket} {self._at_journal}")

    @property
    def _look_at_journal_folder(self) -> str:
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
            return ReadinessCheck("journal", ok=False, detail=_shown(self._journal_fault))
        age = self._threads.monotonic() - self._looked
        if age > _STALE_SECONDS:
            return ReadinessCheck("journal", ok=False, detail=f"not checked for {age:.0f} s")
        waits = self._backlog
        assert waits is not None, "known since there is no fault"
        return ReadinessCheck("journal", ok=True, detail=f"{waits.events} waiting, {waits.dead_letters} dead letters")


def _stalled(before: Backlog | None, now: Backlog) -> dict[str, int]:
    """Lanes whose oldest event waited before, too: how many events wait in each."""
    oldest = {lane.scope: lane.oldest for lane in before.lanes} if before else {}
    return {lane.scope: lane.waiting for lane in now.lanes if oldest.get(lane.scope) == lane.oldest}


def _undispatched_stalled(before: Backlog | None, now: Backlog) -> bool:
    """Whether events wait for the dispatcher, and no fewer than before."""
    return before is not None and now.undispatched >= before.undispatched > 0


def _condition(kind: ConditionKind, subject: str, detail: str, remedy: str) -> Condition:
    return Condition(kind, subject, _shown(detail), remedy)


def _shown(text: str) -> str:
    """A failure's text may quote what a bucket holds, at any length, and it is read without a token."""
    cleaned = str(redacted(text))
    return cleaned if len(cleaned) <= _MOST_DETAIL else f"{cleaned[:_MOST_DETAIL]}…"


def _check(kind: ConditionKind, found: Sequence[Condition]) -> ReadinessCheck:
    mine = [each for each in found if each.kind == kind]
    if not mine:
        return ReadinessCheck(kind, ok=True, detail="nothing is wrong")
    first = mine[0]
    more = f" (and {len(mine) - 1} more: /attention)" if len(mine) > 1 else ""
    named = f"{first.subject}: " if first.subject else ""
    return ReadinessCheck(kind, ok=True, degraded=True, detail=f"{named}{first.detail}{more}; {first.remedy}")
