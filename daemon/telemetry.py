"""Logs and metrics: how a line is written, and every metric there is.

Logs go to standard error, as JSON or for a terminal, those of libraries through the same formatter. Registry text is
hostile and exceptions carry arguments, so a line never breaks in two, never shows local variables, and never shows
what looks like a secret. Who has something to say binds its scope, event or state with `bound` and logs with
structlog. Metrics live in a registry of their own: two of them in one process do not meet.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import stamina.instrumentation
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]

HIDDEN: Final = "[redacted]"
MOST_CHARACTERS: Final = 4096
"""Of one text in a line of the log: what others wrote can be of any length."""
MOST_VALUES: Final = 100
"""Of one list or mapping in a line of the log."""
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
# Too talkative for our own level: a hostile client must not fill the log with a line a request.
_LIBRARIES: Final = {"uvicorn": logging.ERROR, "asyncio": logging.WARNING, "botocore": logging.WARNING}


def configure_logging(chosen: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error); `auto` is console on a terminal, else JSON."""
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
    # Whoever tries again says so, with its reason: a second line for each try says less.
    stamina.instrumentation.set_on_retry_hooks([])
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


@contextmanager
def warnings_for_people() -> Iterator[None]:
    """Inside, warnings and worse go to standard error, a line each: standard output has the data of a verb."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, *_console(colours=sys.stderr.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def bound(
    *, scope: str | None = None, event_id: str | None = None, state_id: str | None = None, sequence: int | None = None
) -> AbstractContextManager[None]:
    """Everything logged inside, also by libraries and in offloaded threads, carries these."""
    given = {"scope": scope, "event_id": event_id, "state_id": state_id, "sequence": sequence}
    return bound_contextvars(**{name: value for name, value in given.items() if value is not None})


def redacted(value: Any) -> Any:
    """`value` as it may be logged: plain types, one-line text, bounded, no secrets that can be recognised."""
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
    kept = {"exc_info": event.pop("exc_info")} if "exc_info" in event else {}
    cleaned: EventDict = redacted(event)
    return {**cleaned, **kept}


def _without_secrets(text: str) -> str:
    def hide(match: re.Match[str]) -> str:
        tail = "@" if match["scheme"] else ""
        return f"{match[match.lastgroup or 0]}{HIDDEN}{tail}"

    return _SECRET_TEXT.sub(hide, text)


def _shortened(text: str) -> str:
    # After secrets are hidden: cut in two, one might not be recognised.
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… and {len(text) - MOST_CHARACTERS} more characters"


def _more(values: Sized) -> str:
    return f"and {len(values) - MOST_VALUES} more"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_JSON: Final[list[Processor]] = [
    structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    _redact,
    structlog.processors.JSONRenderer(),
]


def _console(*, colours: bool) -> list[Processor]:
    return [_redact, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_write_traceback)]


def _write_traceback(stream: TextIO, exc_info: _ExcInfo) -> None:
    # Indented: a message of an exception cannot pose as a line of the log.
    text = "".join(traceback.format_exception(*exc_info))
    stream.writelines(f"\n    {redacted(line)}" for line in text.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The catalogue. `intake` is a configured source's name; a state id is never a label."""

    registry: CollectorRegistry
    events_accepted: Counter
    """By intake and type; a type nobody here knows counts as `other`."""
    events_rejected: Counter
    """By intake and reason."""
    events_settled: Counter
    """By outcome (protocol 2)."""
    publications: Counter
    """By scope and kind of pointer change (protocol 4)."""
    publish_conflicts: Counter
    """Lost compare-and-swaps, by scope."""
    publish_seconds: Histogram
    lane_waiting_events: Gauge
    lane_oldest_event_age_seconds: Gauge
    oldest_event_age_seconds: Gauge
    """Of all that wait, also of what no lane has yet."""
    lane_failures: Counter
    dead_letters: Gauge
    journal_unsettled_events: Gauge
    pointer_sequence: Gauge
    last_publish_timestamp_seconds: Gauge
    live_tree_synced: Gauge
    """1 when base/ and README.md equal live since the last pass, else 0."""
    live_tree_blocked_paths: Gauge
    attention_conditions: Gauge
    """Conditions that last, by kind (`daemon.attention`)."""
    bucket_threads_busy: Gauge
    bucket_oldest_call_seconds: Gauge
    """Of the calls to the bucket that are under way."""
    http_connections_closed: Counter
    """By reason, where the server ended it (`daemon.http.server`)."""
    deletion_refused_scopes: Gauge
    """Where the last round of collections released and was not allowed to delete."""

    @classmethod
    def create(cls, version: str, renderer: str) -> "Metrics":
        """A fresh catalogue; `version` and `renderer` are what rebundle_build_info tells."""
        registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        Gauge("rebundle_build_info", "Always 1.", ["version", "renderer"], registry=registry).labels(
            version, renderer
        ).set(1)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"rebundle_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"rebundle_{name}", meaning, labels, registry=registry)

        return cls(
            registry=registry,
            events_accepted=counter("events_accepted_total", "Events made durable.", "intake", "type"),
            events_rejected=counter("events_rejected_total", "Requests refused.", "intake", "reason"),
            events_settled=counter("events_settled_total", "Events settled in a scope.", "outcome"),
            publications=counter("publications_total", "Changes of a pointer.", "scope", "kind"),
            publish_conflicts=counter("publish_conflicts_total", "Lost compare-and-swaps.", "scope"),
            publish_seconds=Histogram(
                "rebundle_publish_seconds",
                "From the start of a batch to its outcomes, settled.",
                registry=registry,
                buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            ),
            lane_waiting_events=gauge("lane_waiting_events", "Events waiting in a lane.", "scope"),
            lane_oldest_event_age_seconds=gauge(
                "lane_oldest_event_age_seconds", "Age of the oldest waiting event; 0 when none waits.", "scope"
            ),
            oldest_event_age_seconds=gauge("oldest_event_age_seconds", "Age of the oldest waiting event of all."),
            lane_failures=counter("lane_failures_total", "Tries of a lane that failed.", "scope"),
            dead_letters=gauge("dead_letters", "Dead letters that nobody has settled."),
            journal_unsettled_events=gauge("journal_unsettled_events", "Events in the journal that have not settled."),
            pointer_sequence=gauge("pointer_sequence", "Sequence of the pointer as last seen.", "scope"),
            last_publish_timestamp_seconds=gauge(
                "last_publish_timestamp_seconds", "Unix time of the last change of the pointer made here.", "scope"
            ),
            live_tree_synced=gauge("live_tree_synced", "Whether the live tree follows its pointer.", "scope"),
            live_tree_blocked_paths=gauge(
                "live_tree_blocked_paths", "Paths of the live tree that could not be written or deleted.", "scope"
            ),
            attention_conditions=gauge(
                "attention_conditions", "Conditions that have lasted a minute; /attention has them.", "kind"
            ),
            bucket_threads_busy=gauge("bucket_threads_busy", "Threads that are in a call to the bucket."),
            bucket_oldest_call_seconds=gauge(
                "bucket_oldest_call_seconds", "How long the oldest call to the bucket has taken; 0 without one."
            ),
            http_connections_closed=counter(
                "http_connections_closed_total", "Connections that the server ended or refused.", "reason"
            ),
            deletion_refused_scopes=gauge(
                "deletion_refused_scopes", "Scopes where collection releases and may not delete."
            ),
        )

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)
