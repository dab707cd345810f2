"""Readiness, liveness and attention: when the daemon is not ready, needs a restart, or needs an
operator.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from daemon.failures import Consequence, Failure
from daemon.lifecycle import Stop
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.wording import rebuild
from daemon.readiness import HealthChecks
from daemon.reporting import Reporter
from daemon.retry import Backoff
from daemon.stores.startup_probe import Admission
from daemon.telemetry import Metrics
from daemon.worker import Lane
from events.errors import JournalFull, SourceUnavailable
from events.records import Backlog, LaneBacklog
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore

SCOPE = Scope("visual-anomaly", "edge")
EMPTY = Backlog(
    events=3, bytes=1, oldest=None, undispatched=0, lanes=(), dead_letters=2, rejected=0
)
AWAY = Failure(Consequence.TRANSIENT, "bucket away", "StoreUnavailable")
STUCK = Failure(Consequence.OPERATOR_ACTION_NEEDED, "no permission", "StoreRefused")


@dataclass
class Log:
    """A journal that returns or raises what a test sets."""

    answer: Backlog | Exception = EMPTY

    async def probe(self) -> None:
        if isinstance(self.answer, Exception):
            raise self.answer

    async def backlog(self) -> Backlog:
        assert isinstance(self.answer, Backlog)
        return self.answer


@dataclass
class Worker:
    lanes: list[Lane] = field(default_factory=list)
    failure: Failure | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    dispatcher_ended: bool = False


class Clock(InlineRuntime):
    """Implements `daemon.readiness.Threads`: two threads, and calls that began at times that a test
    sets.
    """

    threads = 2

    def __init__(self) -> None:
        super().__init__()
        self.began: Sequence[float] = ()

    def calls(self) -> Sequence[float]:
        return self.began


@dataclass
class Trying:
    failing: Mapping[str, str]


class Daemon:
    """The parts that readiness checks, all set by a test."""

    def __init__(self, **others: object) -> None:
        self.log, self.worker, self.clock, self.stop = Log(), Worker(), Clock(), Stop()
        self.metrics = Metrics.create("0", "1")
        self.reporter = Reporter(self.metrics, self.clock)
        self.health = HealthChecks(
            source=self.log,
            journal_path=Path("/var/lib/my journal/journal.db"),
            bucket="/srv/my bundles",
            worker=self.worker,
            reporter=self.reporter,
            threads=self.clock,
            call_seconds=120,
            metrics=self.metrics,
            stop=self.stop,
            **others,
        )

    def observe(self, *, every: float = 5, for_seconds: float = 0) -> None:
        """Check, wait so many seconds, and check again."""
        end = self.clock.seconds + for_seconds
        asyncio.run(self.health.observe())
        while self.clock.seconds < end:
            self.clock.seconds += every
            asyncio.run(self.health.observe())

    @property
    def not_ready(self) -> list[str]:
        return [check.name for check in self.health.checks() if not check.ok]

    @property
    def degraded(self) -> list[str]:
        return [check.name for check in self.health.checks() if check.degraded]

    @property
    def lasting(self) -> list[tuple[str, str]]:
        return [
            (condition.condition.kind, condition.condition.subject)
            for condition in self.health.lasting()
        ]


def lane(failure: Failure | None) -> Lane:
    made = Lane(SCOPE)
    made.failure = failure
    return made


# -- readiness


@pytest.mark.parametrize(
    ("answer", "not_ready"),
    [
        pytest.param(EMPTY, [], id="all is well"),
        pytest.param(SourceUnavailable("disk"), ["journal"], id="the journal cannot take events"),
        pytest.param(JournalFull("no space is left"), ["journal"], id="the disk is full"),
        pytest.param(TimeoutError(), ["journal"], id="the journal does not answer"),
    ],
)
def test_only_the_journal_makes_the_daemon_unready(
    answer: Backlog | Exception, not_ready: list[str]
) -> None:
    daemon = Daemon()
    daemon.log.answer = answer
    daemon.worker.failure = STUCK
    daemon.worker.lanes = [lane(STUCK)]
    daemon.observe()
    assert daemon.not_ready == not_ready
    assert all(check.detail for check in daemon.health.checks())
    daemon.log.answer = EMPTY
    daemon.observe()
    assert daemon.not_ready == []


def test_a_journal_that_was_not_checked_for_long_is_not_ready() -> None:
    daemon = Daemon()
    assert daemon.not_ready == ["journal"]
    daemon.observe()
    daemon.clock.seconds += 30
    assert daemon.not_ready == []
    daemon.clock.seconds += 1
    assert daemon.not_ready == ["journal"]


def test_a_check_updates_the_gauges() -> None:
    daemon = Daemon()
    daemon.clock.began = (daemon.clock.seconds - 7,)
    daemon.observe()
    text = daemon.metrics.render()
    assert b"rebundle_journal_unacknowledged_events 3.0" in text
    assert b"rebundle_dead_letters 2.0" in text
    assert b"rebundle_bucket_threads_busy 1.0" in text
    assert b"rebundle_bucket_oldest_call_seconds 7.0" in text
    assert b'rebundle_attention_conditions{kind="lane"} 0.0' in text


# -- liveness


def test_only_hanging_threads_and_a_lost_dispatcher_call_for_a_restart() -> None:
    daemon = Daemon()
    daemon.log.answer = SourceUnavailable("disk")
    daemon.worker.failure, daemon.worker.lanes = STUCK, [lane(STUCK)]
    daemon.observe(for_seconds=600)
    assert daemon.health.fault() is None
    daemon.worker.dispatcher_ended = True
    assert "hands out events" in str(daemon.health.fault())


def test_every_thread_must_hang_for_twice_the_limit_of_a_call() -> None:
    daemon = Daemon()
    now = daemon.clock.seconds
    for began, restart in (
        ((now - 240, now - 240), True),
        ((now - 240, now - 239), False),
        ((now - 9999,), False),
        ((), False),
    ):
        daemon.clock.began = began
        assert (daemon.health.fault() is not None) is restart, began


def test_a_stopping_daemon_is_live() -> None:
    daemon = Daemon()
    daemon.worker.dispatcher_ended = True
    daemon.clock.began = (0.0, 0.0)
    daemon.stop.request("SIGTERM")
    assert daemon.health.fault() is None


# -- attention


def _waits(daemon: Daemon) -> None:
    daemon.worker.lanes = [lane(AWAY)]


def _dispatch(daemon: Daemon) -> None:
    daemon.worker.failure = STUCK


def _journal(daemon: Daemon) -> None:
    daemon.log.answer = JournalFull("no space is left")


def _behind(daemon: Daemon) -> None:
    daemon.reporter.reconciled(SCOPE, UnfinishedPass(3, "a folder is where base/.env belongs"))


def _unreadable(daemon: Daemon) -> None:
    daemon.worker.unreadable["lost+found"] = "Permission denied"


def _renderer(daemon: Daemon) -> None:
    daemon.reporter.refused_in_a_row = 3


def _thread(daemon: Daemon) -> None:
    daemon.clock.began = (daemon.clock.seconds - 240,)


@pytest.mark.parametrize(
    ("happens", "kind", "subject"),
    [
        (_waits, "lane", str(SCOPE)),
        (_dispatch, "dispatch", ""),
        (_journal, "journal", ""),
        (_behind, "live_tree", str(SCOPE)),
        (_unreadable, "unreadable", "lost+found"),
        (_renderer, "renderer", ""),
        (_thread, "threads", ""),
    ],
)
def test_a_fault_for_an_operator_is_degraded_at_once_and_reported_after_a_minute(
    happens, kind, subject
) -> None:
    daemon = Daemon()
    daemon.observe()
    happens(daemon)
    daemon.observe(for_seconds=55)
    assert daemon.degraded == ([kind] if kind != "journal" else [])
    assert daemon.lasting == []
    daemon.observe(for_seconds=10)
    assert daemon.lasting == [(kind, subject)]
    (lasting,) = daemon.health.lasting()
    assert lasting.condition.detail
    assert lasting.condition.remedy
    assert f'rebundle_attention_conditions{{kind="{kind}"}} 1.0'.encode() in daemon.metrics.render()


def test_a_live_tree_that_follows_again_ends_its_condition() -> None:
    daemon = Daemon()
    daemon.observe()
    daemon.reporter.reconciled(SCOPE, FinishedPass(3))
    daemon.reporter.unreconciled(SCOPE, "an older pointer was put back")
    daemon.observe(for_seconds=60)
    assert daemon.lasting == [("live_tree", str(SCOPE))]
    daemon.reporter.reconciled(SCOPE, FinishedPass(4))
    daemon.observe()
    assert (daemon.lasting, daemon.degraded) == ([], [])


def test_one_or_two_unrenderable_events_are_not_a_fault_of_the_renderer() -> None:
    daemon = Daemon()
    daemon.reporter.refused_in_a_row = 2
    daemon.observe()
    assert daemon.degraded == []


def backlog(oldest: str | None, *, undispatched: int = 0) -> Backlog:
    lanes = (LaneBacklog(str(SCOPE), 4, oldest, 0, None),) if oldest else ()
    return replace(EMPTY, lanes=lanes, undispatched=undispatched)


@pytest.mark.parametrize(
    ("consequence", "command"), [(Consequence.TRANSIENT, "status"), (Consequence.DAMAGED, "verify")]
)
def test_the_remedy_for_a_lane_fits_the_consequence_of_its_failure(consequence, command) -> None:
    daemon = Daemon()
    lane = Lane(SCOPE)
    lane.failure = Failure(consequence, "x", "X")
    daemon.worker.lanes = [lane]
    (condition,) = [
        condition for condition in daemon.health.conditions() if condition.kind == "lane"
    ]
    assert condition.remedy.startswith(f"rebundle {command} {SCOPE} --bucket ")


def test_a_lane_whose_oldest_event_never_settles_is_reported_without_a_failure() -> None:
    daemon = Daemon()
    daemon.log.answer = backlog("2026-01-01T00:00:00.000000Z")
    daemon.observe(for_seconds=65)
    assert daemon.lasting == [("lane", str(SCOPE))]


def test_a_lane_that_works_through_a_long_queue_is_not_reported() -> None:
    daemon = Daemon()
    for minute in range(3):
        for second in range(0, 60, 5):
            daemon.log.answer = backlog(f"2026-01-01T00:{minute:02}:{second:02}.000000Z")
            daemon.observe()
            daemon.clock.seconds += 5
    assert (daemon.lasting, daemon.degraded) == ([], [])


def test_events_that_are_not_dispatched_are_reported_without_a_failure() -> None:
    daemon = Daemon()
    daemon.log.answer = backlog(None, undispatched=2)
    daemon.observe(for_seconds=65)
    assert daemon.lasting == [("dispatch", "")]
    daemon.log.answer = backlog(None, undispatched=1)
    daemon.observe()
    assert daemon.degraded == []


def test_repeatedly_refused_connections_are_reported() -> None:
    daemon = Daemon()
    daemon.observe()
    for _ in range(14):
        daemon.reporter.connection_closed("peer")
        daemon.observe()
        daemon.clock.seconds += 5
    assert daemon.lasting == [("connections", "")]
    for reason in ("idle", "room", "pipelining", "framing"):
        daemon.reporter.connection_closed(reason)
    daemon.observe()
    assert daemon.degraded == []


def test_a_repeatedly_failing_job_is_reported_by_name() -> None:
    repeated_jobs = {
        "token": Trying({"/run/token": "is open to others"}),
        "freshness": Trying({"": "the bucket cannot be listed"}),
        "pruning": Trying({"": "disk I/O error"}),
        "collection": Trying({"": "no permission", str(SCOPE): "damaged"}),
    }
    daemon = Daemon(repeated_jobs=repeated_jobs)
    daemon.observe()
    daemon.observe(for_seconds=60)
    assert [
        (condition.condition.kind, condition.condition.subject, condition.condition.remedy)
        for condition in daemon.health.lasting()
    ] == [
        ("token", "/run/token", "ls -l /run/token"),
        ("freshness", "", "rebundle verify --all --bucket '/srv/my bundles'"),
        ("pruning", "", "df -h '/var/lib/my journal'; ls -la '/var/lib/my journal'"),
        ("collection", "", "rebundle gc --all --dry-run --bucket '/srv/my bundles'"),
        ("collection", str(SCOPE), f"rebundle gc {SCOPE} --dry-run --bucket '/srv/my bundles'"),
    ]
    assert b'rebundle_attention_conditions{kind="collection"} 2.0' in daemon.metrics.render()
    for item in repeated_jobs.values():
        item.failing = {}
    daemon.observe()
    assert daemon.lasting == []


@pytest.mark.parametrize("name", [str(SCOPE), ""])
def test_an_unreadable_scope_is_one_condition_despite_consequential_failures(name: str) -> None:
    failing = Trying({name: "damaged", "another/scope": "no permission"})
    daemon = Daemon(repeated_jobs={"freshness": failing, "collection": failing})
    daemon.observe()
    daemon.worker.unreadable = {name: "damaged"}
    if name:
        daemon.reporter.unreconciled(SCOPE, "damaged")
        daemon.worker.lanes = [lane(STUCK)]
    else:
        daemon.worker.failure = STUCK
    daemon.observe(for_seconds=60)
    assert daemon.lasting == [
        ("unreadable", name),
        ("freshness", "another/scope"),
        ("collection", "another/scope"),
    ]
    remedy = daemon.health.lasting()[0].condition.remedy
    assert remedy.startswith(f"rebundle verify {name or '--all'} --bucket ")


def test_a_damaged_state_is_one_condition_with_the_command_that_repairs_it() -> None:
    gone = f"the manifest is gone: `rebundle recover {SCOPE} --reason 'damaged manifest'`"
    repeated_jobs = {
        "damaged": Trying({str(SCOPE): gone, "other/edge": "it is a link: mv link aside"})
    }
    daemon = Daemon(repeated_jobs=repeated_jobs)
    daemon.observe(for_seconds=60)
    assert [
        (lasting.condition.kind, lasting.condition.subject, lasting.condition.remedy)
        for lasting in daemon.health.lasting()
    ] == [
        ("damaged", "other/edge", "rebundle verify other/edge --bucket '/srv/my bundles'"),
        (
            "damaged",
            str(SCOPE),
            f"rebundle recover {SCOPE} --reason 'damaged state' --bucket '/srv/my bundles'",
        ),
    ]
    repeated_jobs["damaged"].failing = {str(SCOPE): gone}
    daemon.reporter.unreconciled(SCOPE, gone)
    assert daemon.degraded == ["live_tree"]
    daemon.reporter.unreconciled(SCOPE, "README.md is blocked")
    assert daemon.degraded == ["live_tree", "damaged"]
    daemon.worker.lanes = [lane(replace(STUCK, reason=gone))]
    assert daemon.degraded == ["lane", "live_tree"]
    daemon.worker.unreadable = {str(SCOPE): "the pointer is damaged"}
    assert daemon.degraded == ["unreadable"]


def test_another_bucket_is_one_condition_whatever_fails_because_of_it() -> None:
    identity = SimpleNamespace(pending="there is no folder /srv/my bundles")
    failing = Trying({"": "there is no folder", str(SCOPE): "there is no folder"})
    daemon = Daemon(
        preconditions={"status": identity},
        repeated_jobs={"freshness": failing, "collection": failing},
    )
    daemon.worker.lanes, daemon.worker.failure = [lane(STUCK)], STUCK
    daemon.worker.unreadable = {"": "the bucket cannot be listed: there is no folder"}
    daemon.reporter.unreconciled(SCOPE, "there is no folder")
    daemon.observe(for_seconds=60)
    assert daemon.lasting == [("bucket", "")]
    identity.pending = None
    assert set(daemon.degraded) == {"unreadable", "lane", "live_tree", "collection", "freshness"}


def test_the_remedy_of_a_pointer_that_cannot_be_read_is_the_command_that_rebuilds_it() -> None:
    daemon = Daemon()
    daemon.worker.unreadable = {str(SCOPE): f"the pointer is damaged; {rebuild(SCOPE)}"}
    (condition,) = [c for c in daemon.health.conditions() if c.kind == "unreadable"]
    assert condition.remedy == (
        f"rebundle recover {SCOPE} --reason 'unreadable pointer' --bucket '/srv/my bundles'"
    )


def test_an_unwritable_journal_is_not_reported_again_for_failed_pruning() -> None:
    daemon = Daemon(repeated_jobs={"pruning": Trying({"": "no space is left"})})
    daemon.log.answer = JournalFull("no space is left")
    daemon.observe(for_seconds=60)
    assert daemon.lasting == [("journal", "")]


def test_a_bucket_that_is_not_probed_yet_does_not_close_the_intake() -> None:
    runtime = InlineRuntime()
    admission = Admission(MemoryStore(runtime), runtime, Backoff(1, 1))
    daemon = Daemon(preconditions={"doctor": admission})
    daemon.observe()
    (check,) = [check for check in daemon.health.checks() if check.name == "bucket"]
    assert (check.ok, check.degraded) == (True, True)
    assert "rebundle doctor --bucket '/srv/my bundles'" in check.detail
    asyncio.run(admission.probe_until_passed())
    assert daemon.degraded == []


def test_a_check_names_one_of_many_and_their_number() -> None:
    daemon = Daemon()
    daemon.worker.unreadable = {"one": "Permission denied", "another": "damaged"}
    (check,) = [check for check in daemon.health.checks() if check.name == "unreadable"]
    assert check.detail.startswith(
        "one: Permission denied (and 1 more: /attention); rebundle verify --all"
    )


def test_a_reason_is_short_one_line_and_without_secrets() -> None:
    daemon = Daemon()
    daemon.worker.failure = Failure(
        Consequence.OPERATOR_ACTION_NEEDED,
        "https://user:secret@host\n\x1b[31m" + "x" * 10_000,
        "StoreRefused",
    )
    (condition,) = daemon.health.conditions() if daemon.observe() is None else ()
    assert "secret" not in condition.detail
    assert condition.detail.isprintable()
    assert len(condition.detail) < 600


def test_the_log_reports_the_start_and_end_of_a_condition_once() -> None:
    daemon = Daemon()
    daemon.observe()
    with capture_logs() as logs:
        daemon.worker.unreadable = {"lost+found": "Permission denied"}
        daemon.observe(for_seconds=120)
        daemon.worker.unreadable = {}
        daemon.observe()
    assert [(line["event"], line["subject"]) for line in logs] == [
        ("needs attention", "lost+found"),
        ("needs no more attention", "lost+found"),
    ]


def test_another_bucket_is_shown_by_the_command_that_reads_the_journal() -> None:
    identity = SimpleNamespace(pending="this bucket has no .rebundle/bucket.json")
    daemon = Daemon(preconditions={"status": identity})
    daemon.observe()
    (check,) = [check for check in daemon.health.checks() if check.name == "bucket"]
    expected = (
        "rebundle status --bucket '/srv/my bundles' --journal '/var/lib/my journal/journal.db'"
    )
    assert check.detail.endswith(expected)
