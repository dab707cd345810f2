"""`rebundle send`: events of files to the daemon, in their order.

A request is all or nothing, so events go in requests of at most 100 and 512 kB; the first one that is refused ends the
sending, and what was not sent is said. An event that is known already is fine: sending again is safe.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import Parameter

from daemon.changes import validate_data
from daemon.cli import failures
from daemon.cli.client import Answer, DaemonClient, local_url
from daemon.cli.codes import DONE, FAILED
from daemon.cli.failures import CommandError, DaemonRefused, DaemonUnreachable, UsageError
from daemon.cli.files import read_input
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PRINTING, SHARED, Place, Printing
from daemon.cli.output import error_document
from daemon.cli.session import load_settings, printer_of
from daemon.inspection.views import View
from daemon.publishing.wording import some
from events.dialects import cloudevents
from events.errors import InvalidEvent, Problem
from events.model import ROLLBACK_REQUESTED, Event

_MOST_EVENTS: Final = 100
_MOST_BYTES: Final = 512 << 10
_POLL_SECONDS: Final = 0.25
_SLOWEST_POLL: Final = 5.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One event of a file, and where in the file it stood."""

    event: Event
    body: bytes
    place: str


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where events go: rollback requests need a token of their own."""

    publishing: DaemonClient
    rolling_back: DaemonClient

    def client(self, events: Sequence[Sent]) -> DaemonClient:
        """The one whose token fits the events of one request, all of one kind."""
        return self.rolling_back if _rolls_back(events[0]) else self.publishing


def send(
    *files: Annotated[
        str,
        Parameter(help="One event, an array, or one event to a line; - for standard input.", allow_leading_hyphen=True),
    ],
    to: Annotated[str | None, Parameter(help="The daemon's address; else http.listen of the settings.")] = None,
    token_file: Annotated[
        Path | None, Parameter(help="File with the token; else that of the settings, but not for --to.")
    ] = None,
    wait: Annotated[bool, Parameter(negative=(), help="Wait until each event has settled in all its scopes.")] = False,
    timeout: Annotated[float, Parameter(help="Seconds that --wait may take.")] = 300.0,
    config: Annotated[Path | None, Parameter(group=SHARED, help="Settings file (TOML).")] = None,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Send events, and say what became of each."""
    if not files:
        raise UsageError("name a file with events, or - for standard input")
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
            first = waiting[len(views)].place
            printer.warn(f"{len(views)} of {len(waiting)} events were accepted, none from {first} on")
        if not views:
            raise
        printer.warn(str(error))
        code = failures.exit_code(error)
        printer.data({"events": views, **error_document(str(error), code)}, _lines(views))
        return code
    printer.data({"events": views}, _lines(views))
    ignored = [view for view in views if view.get("ignored")]
    if ignored:
        nearest = sorted({str(view["nearest_type"]) for view in ignored if view.get("nearest_type")})
        printer.warn(
            f"{len(ignored)} of {len(views)} events have a type that the daemon does not know, and were not kept: "
            f"{some([str(view['place']) for view in ignored])}\n"
            + (f"did you mean {' or '.join(nearest)}?" if nearest else "docs/events.md lists the types")
        )
    if waits := [view for view in views if view.get("settled_at", "") is None]:
        printer.warn(
            f"{len(waits)} of {len(views)} events have not settled within {timeout:g} s, and are not lost: "
            f"`rebundle status {shlex.quote(str(waits[0]['id']))}` shows why the first one waits"
        )
    undone = bool(waits) or any(map(_is_dead, views))
    return FAILED if ignored or undone else DONE


def _daemon(to: str | None, token_file: Path | None, config: Path | None) -> Daemon:
    http = load_settings(Place(config=config), secrets=True).http
    url = to or local_url(http.listen)
    if token_file is not None:
        token: str | None = read_input(str(token_file)).decode("utf-8", "replace").strip()
        return Daemon(DaemonClient(url, token=token), DaemonClient(url, token=token))
    # The token of these settings belongs to their own daemon, and goes nowhere else by itself.
    publishing = http.token.get_secret_value() if http.token and to is None else None
    rolling_back = http.rollback_token.get_secret_value() if http.rollback_token and to is None else publishing
    return Daemon(DaemonClient(url, token=publishing), DaemonClient(url, token=rolling_back))


def read_events(name: str) -> list[Sent]:
    """The events of a file.

    Raises:
        InvalidEvent: with every problem, each with the file's name.
    """
    try:
        events = cloudevents.decode_many(read_input(name), judge_data=validate_data)
    except InvalidEvent as error:
        problems = (Problem(f"{name}: {each.path}", each.expected, each.found) for each in error.problems)
        raise InvalidEvent(*problems) from None
    return [Sent(event, event.structured(), f"{name} event {n}") for n, event in enumerate(events, start=1)]


def requests(waiting: Sequence[Sent]) -> Iterator[list[Sent]]:
    """The events in requests, in their order; rollback requests apart, since they need another token."""
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
        answer = client.post("/v1/events", b"[" + b",".join(sent.body for sent in request) + b"]", cloudevents.BATCH)
    if answer.status != 202:
        raise _refusal(answer, request, client)
    taken = answer.document.get("events", [])
    if not isinstance(taken, list) or len(taken) != len(request) or not all(isinstance(each, dict) for each in taken):
        raise DaemonUnreachable(f"{client.url} gave an answer that is none of Rebundle's (HTTP {answer.status})")
    return [{"place": sent.place, **view} for sent, view in zip(request, taken, strict=True)]


def _refusal(answer: Answer, request: Sequence[Sent], client: DaemonClient) -> Exception:
    """The answer as an error: who called needs to know whether to mend, to ask, or to come again."""
    if answer.status == HTTPStatus.UNAUTHORIZED and client.token is None:
        return DaemonRefused(f"{client.url} requires a token: pass --token-file FILE")
    if answer.status == 503:
        later = f"; try again in {answer.retry_after} s" if answer.retry_after else ""
        return DaemonUnreachable(f"{answer.detail}{later}")
    errors = answer.document.get("errors") or []
    told = [_problem(each, request) for each in errors if isinstance(each, dict)]
    words = "\n".join([answer.detail, *map(str, told)])
    if answer.status in {401, 403, 409}:
        return DaemonRefused(words)
    return DaemonUnreachable(words) if answer.status >= 500 else CommandError(words)


def _problem(error: dict[str, Any], request: Sequence[Sent]) -> Problem:
    """A problem of a request, told by the file's own events: `$[3].id` is that of the request's fourth."""
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
    """The views with what became of each event; one that has not settled in time has `settled_at` null."""
    until = clock() + seconds
    done: list[View] = []
    for view in views:
        pause = _POLL_SECONDS
        while (report := _report(client, view))["settled_at"] is None and clock() < until:
            sleep(pause)
            pause = min(pause * 2, _SLOWEST_POLL)
        done.append({**view, **report})
    return done


def _report(client: DaemonClient, view: View) -> View:
    if view.get("position") is None:
        return {"settled_at": "never", "scopes": []}
    answer = client.get(f"/v1/events/{quote(view['id'], safe='')}")
    if answer.status == 503:
        return {"settled_at": None, "scopes": []}
    if answer.status != 200:
        raise DaemonUnreachable(f"what became of {view['id']} cannot be looked up: {answer.detail}")
    for report in answer.document.get("events", []):
        if report.get("position") == view["position"]:
            return {"settled_at": report.get("settled_at"), "scopes": report.get("scopes", [])}
    raise DaemonUnreachable(f"{client.url} took {view['id']} and does not know it any more")


def _is_dead(view: View) -> bool:
    return any(scope.get("outcome") == "dead-lettered" for scope in view.get("scopes", ()))


def _lines(views: Sequence[View]) -> Iterator[str]:
    yield from columns(("EVENT", "TAKEN", "POSITION", "BECAME"), [_row(view) for view in views])


def _row(view: View) -> tuple[Any, ...]:
    taken = "ignored" if view.get("ignored") else ("known already" if view.get("known") else "accepted")
    return view.get("id"), taken, view.get("position"), _became(view)


def _became(view: View) -> str | None:
    if view.get("ignored"):
        return "nothing: its type is unknown"
    if "settled_at" not in view:
        return None
    if view["settled_at"] is None:
        return "still waiting"
    return "; ".join(
        f"{scope['scope']}: {scope['outcome']}" + (f" ({scope['reason']})" if scope.get("reason") else "")
        for scope in view["scopes"]
    )
