"""When the daemon is not ready: when it would lose or hide work, not when the bucket is away."""

import asyncio
from dataclasses import dataclass, field

import pytest

from daemon.http.health import Check
from daemon.outcomes import Failure, NeedsOperator, Passing
from daemon.publishing.livetree import Synced
from daemon.readiness import Vitals
from daemon.reporting import Reporter
from daemon.stores.admission import Admission
from daemon.stores.memory import MemoryStore
from daemon.telemetry import Metrics
from daemon.worker import Lane
from events.errors import SourceUnavailable
from events.journal import Backlog
from renderers.model import Scope
from tests.builders_runtime import InlineRuntime


@dataclass
class Log:
    answer: Backlog | Exception

    async def backlog(self) -> Backlog:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass
class Worker:
    lanes: list[Lane] = field(default_factory=list)
    failure: Failure | None = None


def lane(failure: Failure | None) -> Lane:
    made = Lane(Scope("visual-anomaly", "edge"))
    made.failure = failure
    return made


WAITING = Backlog(events=3, bytes=1, oldest=None, undispatched=0, lanes=(), dead_letters=2, rejected=0)


AWAY, STUCK = Passing("bucket away"), NeedsOperator("no permission")


@pytest.mark.parametrize(
    ("answer", "lane_failure", "dispatch_failure", "refused", "not_ready", "degraded"),
    [
        pytest.param(WAITING, None, None, 0, [], [], id="all is well"),
        pytest.param(WAITING, AWAY, None, 0, [], ["lanes"], id="the bucket is away: events wait, durable"),
        pytest.param(WAITING, STUCK, None, 0, [], ["lanes"], id="a lane waits for an operator"),
        pytest.param(WAITING, None, STUCK, 0, [], ["dispatch"], id="no event is handed out"),
        pytest.param(WAITING, None, None, 2, [], [], id="an event or two that cannot be rendered"),
        pytest.param(WAITING, None, None, 3, [], ["renderer"], id="nothing that is rendered passes the gate"),
        pytest.param(SourceUnavailable("disk"), None, None, 0, ["journal"], [], id="the journal cannot take events"),
        pytest.param(TimeoutError(), None, None, 0, ["journal"], [], id="the journal does not answer"),
    ],
)
def test_what_is_not_ready(answer, lane_failure, dispatch_failure, refused, not_ready, degraded):
    reporter = Reporter(Metrics.create("0", "1"), InlineRuntime())
    reporter.refused_in_a_row = refused
    vitals = Vitals(Log(answer), Worker([lane(lane_failure)], dispatch_failure), reporter)
    checks = asyncio.run(vitals.checks())

    assert [check.name for check in checks if not check.ok] == not_ready
    assert [check.name for check in checks if check.degraded] == degraded
    assert all(check.detail for check in checks)


def test_a_live_tree_that_does_not_follow_is_told_until_it_does():
    reporter = Reporter(Metrics.create("0", "1"), InlineRuntime())
    vitals = Vitals(Log(WAITING), Worker(), reporter)
    scope = Scope("visual-anomaly", "edge")
    reporter.reconciled(scope, Synced(3))
    reporter.unreconciled(scope, "an older pointer was put back")
    (degraded,) = [check for check in asyncio.run(vitals.checks()) if check.degraded]
    assert (degraded.name, degraded.ok, str(scope) in degraded.detail) == ("live_trees", True, True)
    reporter.reconciled(scope, Synced(4))
    assert not any(check.degraded for check in asyncio.run(vitals.checks()))


def test_asking_updates_the_gauges_of_the_journal():
    metrics = Metrics.create("0", "1")
    asyncio.run(Vitals(Log(WAITING), Worker(), Reporter(metrics, InlineRuntime())).checks())

    assert b"rebundle_journal_unsettled_events 3.0" in metrics.render()
    assert b"rebundle_dead_letters 2.0" in metrics.render()


def test_a_bucket_that_is_not_probed_yet_is_told_and_takes_no_intake_away():
    runtime = InlineRuntime()
    admission = Admission(MemoryStore(runtime), runtime, first=1, longest=1)
    vitals = Vitals(Log(WAITING), Worker(), Reporter(Metrics.create("0", "1"), runtime), admission)

    def bucket() -> Check:
        return next(check for check in asyncio.run(vitals.checks()) if check.name == "bucket")

    assert (bucket().ok, bucket().degraded) == (True, True)
    assert "rebundle doctor" in bucket().detail

    asyncio.run(admission.granted())

    assert (bucket().ok, bucket().degraded) == (True, False)
