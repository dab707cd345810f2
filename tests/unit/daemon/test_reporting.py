"""What is counted and said of what happened."""

import json
import logging
from io import StringIO

import pytest
import structlog

from daemon.publishing.livetree import Synced, Unfinished
from daemon.publishing.ownership import Put, Stray
from daemon.publishing.reader import PointerRead
from daemon.reporting import Reporter
from daemon.telemetry import Metrics, configure_logging
from events.model import Identity, Outcome, OutcomeKind, Position
from events.source import Delivery
from renderers.model import Scope
from tests.builders_publishing import published
from tests.builders_runtime import InlineRuntime
from tests.support.scenes import state_event

SCOPE = Scope("visual-anomaly", "core-versions")


@pytest.fixture
def logged():
    """The log's lines as JSON; the process's logging is put back afterwards."""
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
        event, Identity("http", event.source, event.id), "d", Position("journal:x", 7), "2026-11-22T10:00:00Z"
    )


def test_a_won_compare_and_swap_is_counted_and_clears_an_earlier_refusal(reporter, metrics, logged):
    reporter.refused_by_gate(SCOPE, "state-9", "image is another one")
    assert reporter.gate_refused_last
    pointer = published()
    reporter.published(SCOPE, PointerRead(pointer, None), pointer.retained)

    assert not reporter.gate_refused_last
    assert lines(metrics, "rebundle_publications_total")[0].endswith(" 1.0")
    assert lines(metrics, "rebundle_pointer_sequence")[0].endswith(f" {float(pointer.sequence)}")
    assert [line["event"] for line in logged()] == ["rendering refused by the gate", "pointer changed"]


def test_each_settled_event_is_said_with_its_id_and_outcome(reporter, metrics, logged):
    reporter.settled(SCOPE, delivery(), Outcome(OutcomeKind.DEAD_LETTERED, "no such scope"))

    (line,) = logged()
    assert (line["event_id"], line["outcome"], line["level"]) == (state_event(1).id, "dead-lettered", "warning")
    assert lines(metrics, 'rebundle_events_settled_total{outcome="dead-lettered"}')[0].endswith(" 1.0")


def test_a_live_tree_that_had_nothing_to_do_is_not_said(reporter, metrics, logged):
    reporter.reconciled(SCOPE, Synced(3))
    assert logged() == []
    reporter.reconciled(SCOPE, Synced(3, (Put("base/a", None), Stray("base/b"))))
    reporter.reconciled(SCOPE, Unfinished(4, "kept changing"))

    assert [line["event"] for line in logged()] == ["live tree synced", "live tree not synced"]
    assert lines(metrics, "rebundle_live_tree_synced")[0].endswith(" 0.0")


def test_a_lane_shows_its_length_and_the_age_of_its_oldest(reporter, metrics):
    runtime = InlineRuntime()
    oldest = runtime.now()
    reporter.waiting(str(SCOPE), 3, oldest)
    assert lines(metrics, "rebundle_lane_waiting_events")[0].endswith(" 3.0")
    reporter.waiting(str(SCOPE), 0, None)

    assert lines(metrics, "rebundle_lane_oldest_event_age_seconds")[0].endswith(" 0.0")


def test_lost_swaps_failures_and_crowded_scopes_are_told(reporter, metrics, logged):
    reporter.lost(SCOPE)
    reporter.failed(str(SCOPE))
    reporter.crowded(SCOPE, 901)

    assert lines(metrics, "rebundle_publish_conflicts_total")[0].endswith(" 1.0")
    assert lines(metrics, "rebundle_lane_failures_total")[0].endswith(" 1.0")
    assert logged()[-1]["models"] == 901
