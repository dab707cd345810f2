"""`rebundle send`: sends events from files to the daemon, in their order.

The daemon accepts a request as a whole or not at all. A request has at most 100 events and 512 kB.
The first rejected request ends the command, which then reports the events that were not sent.
Sending an event again is safe: the daemon recognises it.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby, starmap
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import Parameter

from daemon.changes import validate_data
from daemon.cli import failures
from daemon.cli.client import Answer, DaemonClient, local_url
from daemon.cli.failures import (
    CommandError,
    DaemonRefused,
    DaemonUnreachable,
    RequestInvalid,
    UsageError,
)
from daemon.cli.files import in_file, read_input
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PRINTING, SHARED, Place, Printing
from daemon.cli.output import Printer, error_document
from daemon.cli.session import load_settings, printer_of
from daemon.exit_codes import DONE, FAILED
from daemon.inspection.journal import NOWHERE
from daemon.publishing.wording import some
from events.dialects import cloudevents
from events.errors import InvalidEvent, Problem
from events.model import ROLLBACK_REQUESTED, Event, OutcomeKind

_MOST_EVENTS: Final = 100
_MOST_BYTES: Final = 512 << 10
_POLL_SECONDS: Final = 0.25
_SLOWEST_POLL: Final = 5.0
_MOST_SCOPES: Final = 3
"""Scopes with the same outcome above which they are only counted, except for dead letters."""
_MOST_LISTED: Final = 20
_TEMPORARY: Final = {429, 500, 502, 503, 504}
"""What a daemon that restarts answers, or a proxy before it."""

View = dict[str, Any]
"""The daemon's answer about one event, and the place of the event in its file."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One event of a file, and its place in the file."""

    event: Event
    body: bytes
    place: str


@dataclass(frozen=True, slots=True)
class Daemon:
    """The clients of a daemon: rollback requests need a separate token."""

    publishing: DaemonClient
    rolling_back: DaemonClient

    def client(self, events: Sequence[Sent]) -> DaemonClient:
        """The client with the token for the events of one request, which are all of one kind."""
        return self.rolling_back if _rolls_back(events[0]) else self.publishing


def send(
    *files: Annotated[
        str,
        Parameter(
            help="File with one event, an array of events, or one event per line; - for "
            "standard input.",
            allow_leading_hyphen=True,
        ),
    ],
    to: Annotated[
        str | None, Parameter(help="Address of the daemon. Default: the setting http.listen.")
    ] = None,
    token_file: Annotated[
        Path | None,
        Parameter(
            help="File with the token. Default: the token of the settings, unless --to is given."
        ),
    ] = None,
    wait: Annotated[
        bool, Parameter(negative=(), help="Wait until each event has an outcome in all its scopes.")
    ] = False,
    timeout: Annotated[float, Parameter(help="Maximum time for --wait, in seconds.")] = 300.0,
    config: Annotated[Path | None, Parameter(group=SHARED, help="Settings file (TOML).")] = None,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Send events and print the outcome of each."""
    if not files:
        raise UsageError("name a file with events, or - for standard input")
    if not timeout >= 0:  # also not a number
        raise UsageError(f"--timeout must be a number of seconds, not {timeout:g}")
    printer = printer_of(printing)
    waiting = [sent for name in files for sent in read_events(name)]
    daemon = _daemon(to, token_file, config)
    views: list[View] = []
    try:
        for request in requests(waiting):
            views += _post(daemon.client(request), request)
        if wait:
            views = wait_for(daemon.publishing, views, timeout)
    except CommandError as error:
        if len(views) < len(waiting):
            first, *later = waiting[len(views) :]
            printer.warn(
                f"{len(views)} of {len(waiting)} events were accepted; not confirmed: "
                f"{first.place}{' and later' if later else ''}"
            )
        if not views:
            raise
        printer.warn(str(error))
        code = failures.exit_code(error)
        printer.data({"events": views, **error_document(str(error), code)}, _lines(views))
        return code
    printer.data({"events": views}, _lines(views))
    ignored = [view for view in views if view.get("ignored")]
    if ignored:
        nearest = sorted(
            {str(view["nearest_type"]) for view in ignored if view.get("nearest_type")}
        )
        printer.warn(
            f"{len(ignored)} of {len(views)} events have an unknown type and were ignored: "
            f"{some([str(view['place']) for view in ignored])}\n"
            + (
                f"did you mean {' or '.join(nearest)}?"
                if nearest
                else "docs/events.md lists the types"
            )
        )
    _warn_of_ignored_fields(views, printer)
    # Without --wait the views have no `acknowledged_at`.
    if unfinished := [view for view in views if view.get("acknowledged_at", "") is None]:
        printer.warn(
            f"{len(unfinished)} of {len(views)} events have no outcome after {timeout:g} s; they "
            "are not lost: "
            f"`rebundle status {shlex.quote(str(unfinished[0]['id']))}` shows why the first one "
            "is waiting"
        )
    failed = ignored or unfinished or any(map(_is_dead_letter, views))
    return FAILED if failed else DONE


def _daemon(to: str | None, token_file: Path | None, config: Path | None) -> Daemon:
    http = load_settings(Place(config=config), secrets=True).http
    url = to or local_url(http.listen)
    if token_file is not None:
        token: str | None = read_input(str(token_file)).decode("utf-8", "replace").strip()
        return Daemon(DaemonClient(url, token=token), DaemonClient(url, token=token))
    # The token of the settings belongs to the configured daemon. It is not sent to another address.
    publishing = http.token.get_secret_value() if http.token and to is None else None
    rolling_back = (
        http.rollback_token.get_secret_value() if http.rollback_token and to is None else publishing
    )
    return Daemon(DaemonClient(url, token=publishing), DaemonClient(url, token=rolling_back))


def read_events(name: str) -> list[Sent]:
    """Read the events of a file.

    Raises:
        InvalidEvent: it lists every problem, each with the name of the file.
    """
    try:
        events = cloudevents.decode_many(read_input(name), validate_data=validate_data)
    except InvalidEvent as error:
        raise in_file(name, error) from None
    return [
        Sent(event, event.structured(), f"{name} event {n}")
        for n, event in enumerate(events, start=1)
    ]


def requests(waiting: Sequence[Sent]) -> Iterator[list[Sent]]:
    """Group the events into requests, in their order.

    Rollback requests are separate, because they need another token.
    """
    for _, same in groupby(waiting, key=_rolls_back):
        request: list[Sent] = []
        size = 0
        for sent in same:
            if request and (len(request) == _MOST_EVENTS or size + len(sent.body) > _MOST_BYTES):
                yield request
                request, size = [], 0
            request.append(sent)
            size += len(sent.body)
        yield request


def _rolls_back(sent: Sent) -> bool:
    return sent.event.type == ROLLBACK_REQUESTED


def _post(client: DaemonClient, request: Sequence[Sent]) -> list[View]:
    if len(request) == 1:
        answer = client.post("/v1/events", request[0].body, cloudevents.STRUCTURED)
    else:
        answer = client.post(
            "/v1/events", b"[" + b",".join(sent.body for sent in request) + b"]", cloudevents.BATCH
        )
    if answer.status != 202:
        raise _refusal(answer, request, client)
    accepted = answer.document.get("events", [])
    if (
        not isinstance(accepted, list)
        or len(accepted) != len(request)
        or not all(isinstance(event, dict) for event in accepted)
    ):
        raise _unexpected(client, answer)
    return [{"place": sent.place, **view} for sent, view in zip(request, accepted, strict=True)]


def _refusal(answer: Answer, request: Sequence[Sent], client: DaemonClient) -> Exception:
    """The answer as an error; its type distinguishes invalid events, a refusal and a retry."""
    if answer.status == HTTPStatus.UNAUTHORIZED and client.token is None:
        return DaemonRefused(f"{client.url} requires a token: pass --token-file FILE")
    if answer.status == 503:
        retry = f"; try again in {answer.retry_after} s" if answer.retry_after else ""
        return DaemonUnreachable(f"{answer.detail}{retry}")
    errors = answer.document.get("errors") or []
    problems = [_problem(error, request) for error in errors if isinstance(error, dict)]
    message = "\n".join([answer.detail, *map(str, problems)])
    if answer.status in {401, 403, 409}:
        return DaemonRefused(message)
    return DaemonUnreachable(message) if answer.status >= 500 else RequestInvalid(message)


def _problem(error: dict[str, Any], request: Sequence[Sent]) -> Problem:
    """A problem of a request, with its place in the file.

    In the answer, `$[3].id` is the id of the fourth event of the request.
    """
    path = str(error.get("path", "$"))
    index, bracket, rest = path.removeprefix("$[").partition("]")
    if path.startswith("$[") and bracket and index.isdecimal() and int(index) < len(request):
        place = f"{request[int(index)].place}: ${rest}"
    else:
        place = f"{request[0].place}: {path}" if len(request) == 1 else path
    return Problem(place, str(error.get("expected", "")), str(error.get("found", "")))


def wait_for(
    client: DaemonClient,
    views: Sequence[View],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[View]:
    """Add the outcome of each event to its view; `acknowledged_at`: null if it still waits.

    While a daemon does not answer, as during its restart, the wait continues: the events are
    durable.

    Raises:
        DaemonUnreachable: it did not answer at the end, or does not know an event.
    """
    until = clock() + seconds
    done: list[View] = []
    for view in views:
        pause = _POLL_SECONDS
        while (report := _report(client, view, until, clock))["acknowledged_at"] is None:
            if (left := until - clock()) <= 0:
                break
            sleep(min(pause, left))
            pause = min(pause * 2, _SLOWEST_POLL)
        done.append({**view, **report})
    return done


def _report(client: DaemonClient, view: View, until: float, clock: Callable[[], float]) -> View:
    if view.get("position") is None:
        return {"acknowledged_at": "never", "scopes": []}
    waiting: View = {"acknowledged_at": None, "scopes": []}
    try:
        answer = client.get(f"/v1/events/{quote(view['id'], safe='')}")
    except DaemonUnreachable:
        if clock() >= until:
            raise
        return waiting
    if answer.status in _TEMPORARY:
        return waiting
    if answer.status != HTTPStatus.OK:
        raise DaemonUnreachable(f"the outcome of {view['id']} cannot be read: {answer.detail}")
    # Not by position: a journal that was restored or copied has given the event another one. With
    # its replays, so that the outcome of each scope is the newest.
    found = answer.document.get("events")
    if not isinstance(found, list) or not all(map(_is_report, found)):
        raise _unexpected(client, answer)
    reports = [report for report in found if report.get("source") == view.get("source")]
    if not reports:
        raise DaemonUnreachable(f"{client.url} accepted {view['id']}, but no longer knows it")
    if any(report.get("acknowledged_at") is None for report in reports):
        return waiting
    outcomes = {scope["scope"]: scope for report in reports for scope in report["scopes"]}
    return {
        "acknowledged_at": reports[-1]["acknowledged_at"],
        "scopes": [outcomes[scope] for scope in sorted(outcomes)],
    }


def _is_report(report: object) -> bool:
    """Whether this has the form of a daemon's report on an event."""
    scopes = report.get("scopes") if isinstance(report, dict) else None
    return isinstance(scopes, list) and all(map(_is_outcome, scopes))


def _is_outcome(scope: object) -> bool:
    return (
        isinstance(scope, dict)
        and isinstance(scope.get("scope"), str)
        and isinstance(scope.get("outcome"), str | None)
        and isinstance(scope.get("reason"), str | None)
    )


def _unexpected(client: DaemonClient, answer: Answer) -> DaemonUnreachable:
    return DaemonUnreachable(
        f"{client.url} gave an unexpected answer (HTTP {answer.status}): check that it is a "
        "Rebundle daemon"
    )


def _warn_of_ignored_fields(views: Sequence[View], printer: Printer) -> None:
    having = [view for view in views if _ignored_fields(view)]
    for view in having[:_MOST_LISTED]:
        printer.warn(
            f"{view['place']}: these fields are unknown and have no effect: "
            f"{some(_ignored_fields(view))}"
        )
    if more := having[_MOST_LISTED:]:
        printer.warn(f"{len(more)} more events have unknown fields")


def _ignored_fields(view: View) -> list[object]:
    """The paths of unknown fields; a daemon of an older release reports none."""
    paths = view.get("ignored_fields")
    return paths if isinstance(paths, list) else []


def _is_dead_letter(view: View) -> bool:
    scopes = view.get("scopes", ())
    return any(scope.get("outcome") == OutcomeKind.DEAD_LETTERED for scope in scopes)


def _lines(views: Sequence[View]) -> Iterator[str]:
    yield from columns(("EVENT", "RESULT", "POSITION", "OUTCOME"), [_row(view) for view in views])


def _row(view: View) -> tuple[Any, ...]:
    result = "accepted"
    if view.get("ignored"):
        result = "ignored"
    elif view.get("known"):
        result = "already known"
    return view.get("id"), result, view.get("position"), _outcome(view)


def _outcome(view: View) -> str | None:
    if view.get("ignored"):
        return "none: the type is unknown"
    if "acknowledged_at" not in view:
        return None
    if view["acknowledged_at"] is None:
        return "still waiting"
    if not view["scopes"]:
        return NOWHERE
    alike: dict[tuple[str, str | None], list[View]] = {}
    for scope in view["scopes"]:
        # What a published event became is another state in each scope; `status` shows it.
        is_published = scope["outcome"] == OutcomeKind.PUBLISHED
        key = scope["outcome"], None if is_published else scope.get("reason")
        alike.setdefault(key, []).append(scope)
    return "; ".join(starmap(_in_scopes, alike.items()))


def _in_scopes(outcome: tuple[str, str | None], scopes: Sequence[View]) -> str:
    kind, reason = outcome
    names = [
        f"{scope['scope']} as dead letter {scope['dead_letter']}"
        if scope.get("dead_letter")
        else str(scope["scope"])
        for scope in scopes
    ]
    if len(scopes) == 1:
        reason = scopes[0].get("reason")
    is_listed = kind == OutcomeKind.DEAD_LETTERED or len(scopes) <= _MOST_SCOPES
    listed = some(names, _MOST_LISTED) if is_listed else f"{len(scopes)} scopes"
    return f"{kind} in {listed}" + (f" ({reason})" if reason else "")
