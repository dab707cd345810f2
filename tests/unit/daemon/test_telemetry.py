"""Logs that hostile text cannot forge and that reveal no secret, and the catalogue of metrics."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from daemon.telemetry import (
    HIDDEN,
    MOST_CHARACTERS,
    LogFormat,
    Metrics,
    bound,
    configure_logging,
    redacted,
)

SECRET = "hunter2-hunter2-hunter2"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("uvicorn", "asyncio", "botocore"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def logged(
    chosen: LogFormat = "json", level: str = "info", stream: io.StringIO | None = None
) -> io.StringIO:
    stream = stream or io.StringIO()
    configure_logging(chosen, level, stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_time_in_utc_its_level_and_bound_values() -> None:
    stream = logged()
    with bound(scope="anomaly/edge", event_id="e-1"), bound(state_id="s-1", sequence=7):
        structlog.get_logger("daemon.pipeline").info("published", files=3)
    structlog.get_logger("daemon.pipeline").info("idle")
    published, idle = lines(stream)
    assert published.pop("timestamp").endswith("Z")
    assert published == {
        "event": "published",
        "level": "info",
        "logger": "daemon.pipeline",
        "scope": "anomaly/edge",
        "event_id": "e-1",
        "state_id": "s-1",
        "sequence": 7,
        "files": 3,
    }
    assert "scope" not in idle


def test_libraries_log_through_the_same_formatter() -> None:
    stream = logged()
    with bound(scope="a/b"):
        logging.getLogger("aiokafka.consumer").warning("lost %s", "partition", extra={"topic": "t"})
    (line,) = lines(stream)
    assert (line["event"], line["scope"], line["topic"], line["level"]) == (
        "lost partition",
        "a/b",
        "t",
        "warning",
    )


def test_a_level_applies_to_rebundle_and_libraries_and_verbose_ones_are_limited() -> None:
    stream = logged(level="warning")
    structlog.get_logger("x").info("no")
    logging.getLogger("aiokafka").info("no")
    logging.getLogger("uvicorn.error").warning("no")
    structlog.get_logger("x").warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


@pytest.mark.parametrize("chosen", ["json", "console"])
def test_hostile_text_never_starts_a_new_line(chosen: LogFormat) -> None:
    stream = logged(chosen)
    hostile = "x\n2026-01-01T00:00:00Z [info] forged\r\x1b[2J\u2028\u202e\ud800\x85"
    structlog.get_logger("x").info(
        hostile, name=hostile, inner={hostile: [hostile]}, raw=hostile.encode("utf-8", "replace")
    )
    logging.getLogger("y").warning(hostile)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert not any(character in text for character in "\r\x1b\u2028\u202e\x85")


@pytest.mark.parametrize("chosen", ["json", "console"])
def test_an_exception_shows_no_local_variables_no_secrets_and_no_forged_lines(
    chosen: LogFormat,
) -> None:
    stream = logged(chosen)

    def publish(password: str) -> None:
        innocent = f"a local variable with {password}"
        assert innocent
        raise ValueError(f"https://user:{SECRET}@bucket/x refused\n2026-01-01 forged")

    for log in (structlog.get_logger("x"), logging.getLogger("y")):
        try:
            publish(SECRET)
        except ValueError:
            log.exception("failed")
    text = stream.getvalue()
    assert SECRET not in text
    assert text.count("ValueError") >= 2
    assert "publish" in text
    assert not [line for line in text.splitlines() if line.startswith("2026-01-01 forged")]


@pytest.mark.parametrize("chosen", ["json", "console"])
def test_secrets_are_hidden_everywhere(chosen: LogFormat) -> None:
    stream = logged(chosen)
    structlog.get_logger("x").info(
        f"sent Bearer {SECRET}",
        token=SECRET,
        http_token=SECRET,
        Authorization=f"Basic {SECRET}",
        aws_secret_access_key=SECRET,
        inner=[{"password": SECRET, "url": f"postgres://me:{SECRET}@db/x"}],
        link=f"https://b.example/k?X-Amz-Signature={SECRET}&x=1",
    )
    text = stream.getvalue()
    assert SECRET not in text
    assert "b.example" in text
    assert "x=1" in text


def test_redaction_keeps_text_that_is_not_secret() -> None:
    harmless = {
        "event": "s3://models/a@b/7",
        "tokens": 3,
        "uri": "gs://models/x",
        "at": "mail@example.com",
        "nothing": None,
        "share": 0.5,
        "yes": True,
        "bearer": "Bearer of news",
    }
    assert redacted(harmless) == harmless
    assert redacted({"k": (1, frozenset({"a"}), object)}) == {"k": [1, ["a"], str(object)]}
    assert redacted("ftp://me@host/x") == f"ftp://{HIDDEN}@host/x"


@pytest.mark.parametrize("chosen", ["json", "console"])
def test_a_line_is_bounded_for_any_input(chosen: LogFormat) -> None:
    stream = logged(chosen)
    reasons = "; ".join(["key 0123 is not in the trust policy"] * 100_000)
    structlog.get_logger("x").error(
        "refused",
        error=reasons,
        exc_info=ValueError(reasons),
        many=["x"] * 5000,
        table=dict.fromkeys(range(5000)),
    )
    assert len(stream.getvalue()) < 100_000
    assert "more characters" in stream.getvalue()
    assert stream.getvalue().count("and 4900 more") == 2


def test_a_text_is_shortened_only_after_its_secrets_are_hidden() -> None:
    text = "x" * (MOST_CHARACTERS - 10) + f" https://me:{SECRET}@host/"
    assert SECRET[:4] not in redacted(text)
    assert redacted("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    assert (
        redacted("x" * (MOST_CHARACTERS + 2)) == "x" * MOST_CHARACTERS + "… and 2 more characters"
    )


def test_a_long_text_is_searched_for_secrets_in_one_pass() -> None:
    assert redacted("a" * 3_000_000).endswith("more characters")


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        configure_logging("auto", "info", stream)
        structlog.get_logger("x").info("hello")
    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "hello"


NAMES = {
    "rebundle_events_accepted",
    "rebundle_events_rejected",
    "rebundle_events_settled",
    "rebundle_events_to_no_scope",
    "rebundle_publications",
    "rebundle_publish_conflicts",
    "rebundle_publish_seconds",
    "rebundle_lane_waiting_events",
    "rebundle_lane_oldest_event_age_seconds",
    "rebundle_oldest_event_age_seconds",
    "rebundle_lane_failures",
    "rebundle_dead_letters",
    "rebundle_journal_unacknowledged_events",
    "rebundle_pointer_sequence",
    "rebundle_last_publish_timestamp_seconds",
    "rebundle_live_tree_blocked_paths",
    "rebundle_live_tree_follows",
    "rebundle_attention_conditions",
    "rebundle_bucket_threads_busy",
    "rebundle_bucket_oldest_call_seconds",
    "rebundle_http_connections_closed",
    "rebundle_deletion_refused_scopes",
    "rebundle_build_info",
}


def test_the_exposition_has_every_metric_of_the_catalogue_and_no_state_id() -> None:
    text = Metrics.create("1.2.3", "1").render().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {
        name for name in families if name.startswith("rebundle_") and not name.endswith("_created")
    } == NAMES
    assert families["rebundle_build_info"].samples[0].labels == {
        "version": "1.2.3",
        "renderer": "1",
    }
    assert not any(
        "state" in sample.labels for family in families.values() for sample in family.samples
    )


def test_two_catalogues_are_independent_and_hostile_label_values_stay_values() -> None:
    first, second = Metrics.create("1", "1"), Metrics.create("1", "1")
    first.events_accepted.labels("http", 'x"} 1\nrebundle_forged 9').inc()
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(first.render().decode())
        for sample in family.samples
    }
    assert samples["rebundle_events_accepted_total"].labels["type"] == 'x"} 1\nrebundle_forged 9'
    assert "rebundle_forged" not in samples
    assert b"rebundle_events_accepted_total{" not in second.render()
