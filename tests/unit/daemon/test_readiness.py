"""When the daemon is not ready: when it would lose or hide work, not when the bucket is away."""

import asyncio
from dataclasses import dataclass, field

import pytest

from daemon.outcomes import Failure, NeedsOperator, Passing
from daemon.readiness import Vitals
from daemon.reporting import Reporter
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


def lane(failure: Failure | None) -> Lane:
    made = Lane(Scope("visual-anomaly", "edge"))
    made.failure = failure
    return made


WAITING = Backlog(events=3, bytes=1, oldest=None, undispatched=0, lanes=(), dead_letters=2, rejected=0)


@pytest.mark.parametrize(
    ("answer", "failure", "refused", "not_ready"),
    [
        pytest.param(WAITING, None, False, [], id="all is well"),
        pytest.param(WAITING, Passing("bucket away"), False, [], id="the bucket is away: events wait, durable"),
        pytest.param(WAITING, NeedsOperator("no permission"), False, ["lanes"], id="a lane waits for an operator"),
        pytest.param(SourceUnavailable("disk"), None, False, ["journal"], id="the journal cannot take events"),
        pytest.param(TimeoutError(), None, False, ["journal"], id="the journal does not answer"),
        pytest.param(WAITING, None, True, ["renderer"], id="the gate refuses what is rendered"),
    ],
)
def test_what_is_not_ready(answer, failure, refused, not_ready):
    metrics = Metrics.create("0", "1")
    reporter = Reporter(metrics, InlineRuntime())
    reporter.gate_refused_last = refused
    checks = asyncio.run(Vitals(Log(answer), Worker([lane(failure)]), reporter, metrics).checks())

    assert [check.name for check in checks if not check.ok] == not_ready
    assert all(check.detail for check in checks)


def test_asking_updates_the_gauges_of_the_journal():
    metrics = Metrics.create("0", "1")
    asyncio.run(Vitals(Log(WAITING), Worker(), Reporter(metrics, InlineRuntime()), metrics).checks())

    assert b"rebundle_journal_unsettled_events 3.0" in metrics.render()
    assert b"rebundle_dead_letters 2.0" in metrics.render()
