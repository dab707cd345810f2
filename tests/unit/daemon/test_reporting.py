"""Metrics and log lines for what the daemon did."""

import json
import logging
from dataclasses import replace
from datetime import timedelta
from io import StringIO

import pytest
import structlog

from daemon.publishing.live_tree.ownership import Blocked, Put, Stray
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.pointer import PublicationId
from daemon.publishing.reader import DamagedManifest, PointerRead
from daemon.reporting import Reporter
from daemon.telemetry import Metrics, configure_logging
from events.model import Identity, Outcome, OutcomeKind, Position
from events.records import Backlog, LaneBacklog
from events.source import Delivery
from renderers.values import Scope
from tests.builders_publishing import make_publication, published
from tests.builders_runtime import InlineRuntime
from tests.support.scenes import state_event

SCOPE = Scope("visual-anomaly", "core-versions")


@pytest.fixture
def logged():
    """The log lines as JSON. The logging of the process is restored afterwards."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    stream = StringIO()
    configure_logging("json", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def metrics():
    return Metrics.create("0", "1")


@pytest.fixture
def reporter(metrics):
    return Reporter(metrics, InlineRuntime())


def lines(metrics, start):
    return [line for line in metrics.render().decode().splitlines() if line.startswith(start)]


def delivery():
    event = state_event(1)
    return Delivery(
        event,
        Identity("http", event.source, event.id),
        "d",
        Position("journal:x", 7),
        "2026-11-22T10:00:00Z",
    )


def test_a_won_compare_and_swap_is_counted_and_clears_an_earlier_refusal(reporter, metrics, logged):
    reporter.refused_by_gate(SCOPE, "state-9", "image is another one")
    assert reporter.refused_in_a_row == 1
    pointer = published(make_publication())
    reporter.published(SCOPE, PointerRead(pointer, None), pointer.retained)

    assert reporter.refused_in_a_row == 0
    assert lines(metrics, "rebundle_publications_total")[0].endswith(" 1.0")
    assert lines(metrics, "rebundle_pointer_sequence")[0].endswith(f" {float(pointer.sequence)}")
    assert [line["event"] for line in logged()] == [
        "rendering refused by the gate",
        "pointer changed",
    ]


def test_a_batch_is_logged_in_one_line_and_its_dead_letters_in_one_each(reporter, metrics, logged):
    good = Outcome(OutcomeKind.PUBLISHED, "published as state-1", "state-1")
    batch = [
        (delivery(), outcome) for outcome in (good, good, Outcome(OutcomeKind.IGNORED, "same"))
    ]
    reporter.settled(
        SCOPE, [*batch, (delivery(), Outcome(OutcomeKind.DEAD_LETTERED, "no such scope"))]
    )

    dead, others = logged()
    assert (dead["event"], dead["outcome"], dead["level"]) == (
        "event settled",
        "dead-lettered",
        "warning",
    )
    assert (others["event"], others["events"], others["level"]) == ("events settled", 3, "info")
    assert others["outcomes"] == {"published": 2, "ignored": 1}
    event_id = state_event(1).id
    assert others["event_ids"] == {"published": [event_id] * 2, "ignored": [event_id]}
    assert others["reasons"] == [{"event_id": event_id, "reason": "same"}]
    assert others["not_listed"] == 0
    assert others["state_ids"] == ["state-1"]
    assert lines(metrics, 'rebundle_events_settled_total{outcome="published"}')[0].endswith(" 2.0")


def test_an_event_alone_is_logged_with_its_id_and_outcome(reporter, metrics, logged):
    reporter.settled(SCOPE, [(delivery(), Outcome(OutcomeKind.DEAD_LETTERED, "no such scope"))])

    (line,) = logged()
    assert (line["event_id"], line["outcome"], line["level"]) == (
        state_event(1).id,
        "dead-lettered",
        "warning",
    )
    assert lines(metrics, 'rebundle_events_settled_total{outcome="dead-lettered"}')[0].endswith(
        " 1.0"
    )


def test_a_pass_without_changes_is_not_logged(reporter, metrics, logged):
    reporter.reconciled(SCOPE, FinishedPass(3))
    assert logged() == []
    reporter.reconciled(SCOPE, FinishedPass(3, (Put("base/a", None), Stray("base/b"))))
    reporter.reconciled(SCOPE, UnfinishedPass(4, "kept changing"))

    assert [line["event"] for line in logged()] == ["live tree synced", "live tree not synced"]
    assert lines(metrics, "rebundle_live_tree_follows")[0].endswith(" 0.0")


def test_a_failed_pass_is_logged_and_measured(reporter, metrics, logged):
    reporter.reconciled(SCOPE, FinishedPass(3))
    reporter.unreconciled(SCOPE, "the marker is ahead")

    assert [line["event"] for line in logged()] == ["live tree not synced, tried again later"]
    assert lines(metrics, "rebundle_live_tree_follows")[0].endswith(" 0.0")


def test_blocked_paths_are_logged_once_for_each_change_and_counted(reporter, metrics, logged):
    env, compose = Blocked("example/.env", "a link: remove it"), Blocked("base/a", "chmod a+r")
    for blocked in ((env,), (env,), (env, compose), (env, compose), (), ()):
        reporter.reconciled(SCOPE, FinishedPass(3, blocked))
        assert reporter.blocked.get(SCOPE, ()) == blocked
        assert lines(metrics, "rebundle_live_tree_blocked_paths")[0].endswith(
            f" {float(len(blocked))}"
        )
        followed = compose not in blocked
        assert lines(metrics, "rebundle_live_tree_follows")[0].endswith(f" {float(followed)}")
        assert (SCOPE in reporter.behind) is not followed

    log_lines = logged()
    assert [line["event"] for line in log_lines] == ["live tree paths blocked"] * 2 + [
        "live tree paths no longer blocked"
    ]
    assert [line.get("paths") for line in log_lines] == [
        {"example/.env": "a link: remove it"},
        {"example/.env": "a link: remove it", "base/a": "chmod a+r"},
        None,
    ]


def test_a_tree_with_blocked_paths_is_not_called_synced(reporter, logged):
    reporter.reconciled(
        SCOPE, FinishedPass(3, (Put("base/a", None), Blocked("base/b", "chmod a+r")))
    )

    assert [line["event"] for line in logged()] == [
        "live tree paths blocked",
        "live tree written, some paths blocked",
    ]


def test_a_damaged_manifest_is_logged_once_with_the_command_that_helps(reporter, logged):
    damaged = DamagedManifest(PublicationId(state="state-1", attempt="a"), "it is not the one")
    for found in ((damaged,), (damaged,), (), (damaged,)):
        reporter.reconciled(SCOPE, FinishedPass(3, damaged=found))

    log_lines = logged()
    assert [line["publication"] for line in log_lines] == ["state-1@a"] * 2
    assert log_lines[0]["remedy"] == f"rebundle recover {SCOPE} --reason 'damaged manifest'"


def test_a_rollback_publishes_nothing_and_clears_no_refusal(reporter):
    reporter.refused_by_gate(SCOPE, "state-9", "image is another one")
    reporter.published(SCOPE, PointerRead(published(), None), ())

    assert reporter.refused_in_a_row == 1


def test_the_backlog_shows_every_lane_including_emptied_ones(reporter, metrics):
    oldest = (InlineRuntime().now() - timedelta(seconds=90)).isoformat()
    lane = LaneBacklog(scope=str(SCOPE), waiting=3, oldest=oldest, failed_tries=0, error=None)
    full = Backlog(
        events=3, bytes=1, oldest=oldest, undispatched=0, lanes=(lane,), dead_letters=2, rejected=0
    )
    reporter.backlog(full)
    assert lines(metrics, "rebundle_lane_waiting_events")[0].endswith(" 3.0")
    assert lines(metrics, "rebundle_lane_oldest_event_age_seconds")[0].endswith(" 90.0")
    assert lines(metrics, "rebundle_oldest_event_age_seconds")[0].endswith(" 90.0")
    assert lines(metrics, "rebundle_dead_letters")[0].endswith(" 2.0")
    reporter.backlog(replace(full, events=0, oldest=None, lanes=()))

    for name in (
        "lane_waiting_events",
        "lane_oldest_event_age_seconds",
        "oldest_event_age_seconds",
    ):
        assert lines(metrics, f"rebundle_{name}")[0].endswith(" 0.0")


def test_events_that_go_to_no_scope_are_logged_in_one_line_and_counted(reporter, metrics, logged):
    reporter.dispatched_to_no_scope([f"m{number}" for number in range(25)])

    (line,) = logged()
    assert (line["events"], line["event_ids"][-1], line["not_listed"]) == (25, "m19", 5)
    assert lines(metrics, "rebundle_events_to_no_scope_total")[0].endswith(" 25.0")


def test_lost_swaps_failures_and_crowded_scopes_are_reported(reporter, metrics, logged):
    reporter.lost(SCOPE)
    reporter.failed(str(SCOPE))
    reporter.processed(0.2)
    reporter.crowded(SCOPE, 901)

    assert lines(metrics, "rebundle_publish_conflicts_total")[0].endswith(" 1.0")
    assert lines(metrics, "rebundle_lane_failures_total")[0].endswith(" 1.0")
    assert lines(metrics, "rebundle_publish_seconds_count")[0].endswith(" 1.0")
    assert logged()[-1]["models"] == 901


def test_a_scope_that_only_events_name_gets_no_series(reporter, metrics):
    reporter.reconciled(SCOPE, FinishedPass(0))

    assert lines(metrics, "rebundle_live_tree_follows") == []


def test_a_crowded_scope_is_reported_once_per_scope(reporter, logged):
    other = Scope("visual-anomaly", "edge")
    for scope in (SCOPE, SCOPE, other, SCOPE, other):
        reporter.crowded(scope, 901)
    assert [line["scope"] for line in logged()] == [str(SCOPE), str(other)]


def test_scopes_without_delete_permission_are_counted_as_of_the_last_round(reporter, metrics):
    for scopes in (3, 0, 2):
        reporter.deletion_refused(scopes)

    assert lines(metrics, "rebundle_deletion_refused_scopes")[0].endswith(" 2.0")


def test_the_series_of_a_removed_scope_are_removed(reporter, metrics):
    kept = Scope("texture", "edge")
    for scope in (SCOPE, kept):
        reporter.failed(str(scope))
        reporter.lost(scope)
        reporter.published(scope, PointerRead(published(make_publication()), None), ())
        reporter.unreconciled(scope, "away")
    reporter.backlog(backlog_of(SCOPE, kept))
    assert len(lines(metrics, "rebundle_lane_waiting_events{")) == 2

    reporter.removed(SCOPE)
    reporter.backlog(backlog_of())
    assert [line for line in lines(metrics, "rebundle_") if str(SCOPE) in line] == []
    assert lines(metrics, "rebundle_lane_waiting_events{") == [
        f'rebundle_lane_waiting_events{{scope="{kept}"}} 0.0'
    ]
    assert set(reporter.behind) == {kept}


def backlog_of(*scopes):
    lanes = tuple(LaneBacklog(str(scope), 1, "2026-11-22T10:00:00Z", 0, None) for scope in scopes)
    return Backlog(len(lanes), 1, None, 0, lanes, 0, 0)
