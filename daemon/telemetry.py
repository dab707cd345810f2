"""Configuration of logs, and the catalogue of metrics.

Logs go to standard error, as JSON or for a terminal. Logs of libraries use the same formatter.
Registry text is hostile, and exceptions contain arguments. So an event is always one line, without
local variables and without text that looks like a secret. Code binds scope, event or state with
`bound` and logs with structlog. Each `Metrics` has its own registry, so that two of them in
one process are independent.
"""

import logging
import re
import sys
import traceback
from collections.abc import Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]

HIDDEN: Final = "[redacted]"
MOST_CHARACTERS: Final = 4096
"""Limit of one text in a log line: text from outside can have any length."""
MOST_VALUES: Final = 100
"""Limit of one list or mapping in a log line."""
_SECRET_KEY: Final = re.compile(
    r"(^|[_.-])(token|secret|password|passwd|authorization|credentials?|cookie|(api|private|access|secret)[_-]?key)$",
    re.IGNORECASE,
)
_SECRET_TEXT: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,31}://)[^\s/?#@\"']*@"
    r"|(?P<bearer>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<query>[?&](?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-Signature|sig|signature|token|password)=)"
    r"[^\s&#\"']+",
    re.IGNORECASE,
)
# These libraries log one line per request at their
# usual level: a hostile client could fill the log.
_LIBRARIES: Final = {
    "uvicorn": logging.ERROR,
    "asyncio": logging.WARNING,
    "botocore": logging.WARNING,
}


def configure_logging(chosen: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (default: standard error).

    The format `auto` means console on a terminal, else JSON.
    """
    stream = sys.stderr if stream is None else stream
    console = chosen == "console" or (chosen == "auto" and stream.isatty())
    shared: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console(colours=stream.isatty()) if console else _JSON),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, lowest in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(lowest, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def warning_logger() -> structlog.stdlib.BoundLogger:
    """A logger that writes warnings and errors to standard error, one line each, and nothing else.

    For commands, which configure no logs: their standard output has only data.
    """
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, *_console(colours=sys.stderr.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    return logger


def bound(
    *,
    scope: str | None = None,
    event_id: str | None = None,
    state_id: str | None = None,
    sequence: int | None = None,
) -> AbstractContextManager[None]:
    """Add these fields to all log events within the block.

    This includes events of libraries and of threads that the block starts with `run_in_thread`.
    """
    fields = {"scope": scope, "event_id": event_id, "state_id": state_id, "sequence": sequence}
    return bound_contextvars(**{name: value for name, value in fields.items() if value is not None})


def redacted(value: Any) -> Any:
    """Return `value` in a form that may be logged.

    The result has plain types and one-line texts of limited size, without recognisable secrets.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _printable(_shortened(_without_secrets(value)))
        case Mapping():
            pairs = {
                str(redacted(key)): HIDDEN if _SECRET_KEY.search(str(key)) else redacted(inner)
                for key, inner in islice(value.items(), MOST_VALUES)
            }
            return pairs | ({"…": _more(value)} if len(value) > MOST_VALUES else {})
        case list() | tuple() | set() | frozenset():
            shown = [redacted(inner) for inner in islice(value, MOST_VALUES)]
            return [*shown, _more(value)] if len(value) > MOST_VALUES else shown
        case _:
            return redacted(str(value))


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # The renderer needs the exception itself; its text is redacted when it is formatted.
    exception = {"exc_info": event.pop("exc_info")} if "exc_info" in event else {}
    cleaned: EventDict = redacted(event)
    return {**cleaned, **exception}


def _without_secrets(text: str) -> str:
    def hide(match: re.Match[str]) -> str:
        tail = "@" if match["scheme"] else ""
        return f"{match[match.lastgroup or 0]}{HIDDEN}{tail}"

    return _SECRET_TEXT.sub(hide, text)


def _shortened(text: str) -> str:
    # Call it after secrets are hidden: a secret that is cut in two might not be recognised.
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… and {len(text) - MOST_CHARACTERS} more characters"


def _more(values: Sized) -> str:
    return f"and {len(values) - MOST_VALUES} more"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_JSON: Final[list[Processor]] = [
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    _redact,
    structlog.processors.JSONRenderer(),
]


def _console(*, colours: bool) -> list[Processor]:
    return [
        _redact,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_write_traceback),
    ]


def _write_traceback(stream: TextIO, exc_info: _ExcInfo) -> None:
    # Indented, so that the message of an exception cannot look like a log line.
    text = "".join(traceback.format_exception(*exc_info))
    stream.writelines(f"\n    {redacted(line)}" for line in text.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The catalogue of metrics. `intake` is the name of a source; a state id is never a label."""

    registry: CollectorRegistry
    by_scope: Sequence[Counter | Gauge]
    """The metrics with a label `scope`."""
    events_accepted: Counter
    """By intake and type; an unknown type counts as `other`."""
    events_rejected: Counter
    """By intake and reason."""
    events_settled: Counter
    """By outcome (protocol 2)."""
    events_to_no_scope: Counter
    """Model events without scopes whose model no scope has."""
    publications: Counter
    """By scope and kind of pointer change (protocol 4)."""
    publish_conflicts: Counter
    """Lost compare-and-swaps, by scope."""
    publish_seconds: Histogram
    lane_waiting_events: Gauge
    lane_oldest_event_age_seconds: Gauge
    oldest_event_age_seconds: Gauge
    """Over all waiting events, including those that are not yet in a lane."""
    lane_failures: Counter
    dead_letters: Gauge
    journal_unacknowledged_events: Gauge
    pointer_sequence: Gauge
    last_publish_timestamp_seconds: Gauge
    live_tree_follows: Gauge
    """1 if base/ and README.md were equal to live at the last pass, else 0."""
    live_tree_blocked_paths: Gauge
    attention_conditions: Gauge
    """Lasting conditions, by kind (`daemon.attention`)."""
    bucket_threads_busy: Gauge
    bucket_oldest_call_seconds: Gauge
    """Age of the oldest running call to the bucket."""
    http_connections_closed: Counter
    """By reason; only connections that the server closed (`daemon.http.server`)."""
    deletion_refused_scopes: Gauge
    """Scopes where the last collection released objects but was not allowed to delete them."""

    @classmethod
    def create(cls, version: str, renderer: str) -> "Metrics":
        """Create a catalogue. `version` and `renderer` are labels of rebundle_build_info."""
        registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        Gauge(
            "rebundle_build_info", "Always 1.", ["version", "renderer"], registry=registry
        ).labels(version, renderer).set(1)

        by_scope: list[Counter | Gauge] = []

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            metric = Counter(f"rebundle_{name}", meaning, labels, registry=registry)
            if "scope" in labels:
                by_scope.append(metric)
            return metric

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            metric = Gauge(f"rebundle_{name}", meaning, labels, registry=registry)
            if "scope" in labels:
                by_scope.append(metric)
            return metric

        return cls(
            registry=registry,
            by_scope=by_scope,
            events_accepted=counter(
                "events_accepted_total", "Events made durable.", "intake", "type"
            ),
            events_rejected=counter(
                "events_rejected_total", "Requests refused.", "intake", "reason"
            ),
            events_settled=counter("events_settled_total", "Events settled in a scope.", "outcome"),
            publications=counter("publications_total", "Changes of a pointer.", "scope", "kind"),
            publish_conflicts=counter(
                "publish_conflicts_total", "Lost compare-and-swaps.", "scope"
            ),
            publish_seconds=Histogram(
                "rebundle_publish_seconds",
                "Time from the start of a batch until its outcomes are settled.",
                registry=registry,
                buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            ),
            lane_waiting_events=gauge("lane_waiting_events", "Events waiting in a lane.", "scope"),
            lane_oldest_event_age_seconds=gauge(
                "lane_oldest_event_age_seconds",
                "Age of the oldest waiting event; 0 if none waits.",
                "scope",
            ),
            oldest_event_age_seconds=gauge(
                "oldest_event_age_seconds", "Age of the oldest waiting event of all scopes."
            ),
            events_to_no_scope=counter(
                "events_to_no_scope_total",
                "Events without scopes that no scope got, because none has their model. "
                "During a backlog such an event goes to scopes that ignore it.",
            ),
            lane_failures=counter("lane_failures_total", "Failed tries of a lane.", "scope"),
            dead_letters=gauge("dead_letters", "Dead letters that no operator has settled."),
            journal_unacknowledged_events=gauge(
                "journal_unacknowledged_events", "Events in the journal that are not acknowledged."
            ),
            pointer_sequence=gauge(
                "pointer_sequence", "Sequence of the pointer at its last read.", "scope"
            ),
            last_publish_timestamp_seconds=gauge(
                "last_publish_timestamp_seconds",
                "Unix time of the last change of the pointer by this daemon.",
                "scope",
            ),
            live_tree_follows=gauge(
                "live_tree_follows", "Whether the live tree follows its pointer.", "scope"
            ),
            live_tree_blocked_paths=gauge(
                "live_tree_blocked_paths",
                "Paths of the live tree that could not be written or deleted.",
                "scope",
            ),
            attention_conditions=gauge(
                "attention_conditions",
                "Conditions that have lasted a minute; see /attention.",
                "kind",
            ),
            bucket_threads_busy=gauge("bucket_threads_busy", "Threads in a call to the bucket."),
            bucket_oldest_call_seconds=gauge(
                "bucket_oldest_call_seconds",
                "Age of the oldest running call to the bucket; 0 without one.",
            ),
            http_connections_closed=counter(
                "http_connections_closed_total",
                "Connections that the server closed or refused.",
                "reason",
            ),
            deletion_refused_scopes=gauge(
                "deletion_refused_scopes",
                "Scopes where collection releases objects but may not delete them.",
            ),
        )

    def remove_scope(self, scope: str) -> None:
        """Delete the series of a scope; they would stay forever."""
        for metric in self.by_scope:
            metric.remove_by_labels({"scope": scope})

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)
