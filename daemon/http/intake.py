"""From a request's body to rows of the journal: judge, then append, all or nothing.

What can be judged from the events alone is judged here, with every problem of the request at once (protocol 2); what
needs the scope is judged later, in its lane. What an authenticated sender got rejected is kept in the journal's ring.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, NoReturn, Protocol, assert_never

import structlog

from daemon.changes import Change, ModelVersionChanged, RollbackRequested, StateCreated, interpret, validate_data
from daemon.http.auth import Role, Roles
from daemon.http.problems import RequestRefused, unavailable
from daemon.lifecycle import Stop
from daemon.runtime import Runtime
from daemon.telemetry import Metrics
from events.dialects.cloudevents import Decoded, DecodingLimits, decode_http
from events.errors import EventError, IdentityConflict, InvalidEvent, JournalFull, Problem, UnsupportedContentType
from events.journal.records import Accepted, Arrival, EventStatus
from events.model import KNOWN_TYPES, Event, Identity
from events.strict_json import MOST_PROBLEMS
from renderers.limits import DEFAULT_LIMITS, BundleLimits

INTAKE: Final = "http"
# Judging this much takes a few milliseconds; more leaves the loop. Less is not worth waiting for a thread,
# all of which may be busy with a slow bucket.
_INLINE_BYTES: Final = 64 << 10
_JOURNAL_SECONDS: Final = 15.0

_log = structlog.get_logger(__name__)


class EventLog(Protocol):
    """The journal, as an intake needs it. Each call may raise SourceUnavailable: try again."""

    async def append(self, arrivals: Sequence[Arrival], /) -> Sequence[Accepted]:
        """Keep all of them durably, or none. Raises IdentityConflict, JournalFull."""
        ...

    async def reject(self, intake: str, body: bytes, problems: Sequence[Problem], /) -> None:
        """Keep what was not accepted, in a ring."""
        ...

    async def find(self, event_id: str, /) -> Sequence[EventStatus]:
        """What became of the events with this id; the id alone need not be unique."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one event of a request."""

    event: Event
    accepted: Accepted | None
    """None: its type is unknown here, and it was passed over."""


@dataclass(frozen=True, slots=True)
class _ValidEvent:
    place: str
    """The event's own JSON path in the request."""
    event: Event
    change: Change | None


class Intake:
    """Takes in the events of one request after another."""

    def __init__(
        self,
        log: EventLog,
        runtime: Runtime,
        metrics: Metrics,
        stop: Stop,
        limits: DecodingLimits,
        *,
        bundle_limits: BundleLimits = DEFAULT_LIMITS,
        journal_seconds: float = _JOURNAL_SECONDS,
    ) -> None:
        self._journal = log
        self._runtime = runtime
        self._metrics = metrics
        self._stop = stop
        self._limits = limits
        self._bundle_limits = bundle_limits
        self._journal_seconds = journal_seconds

    def check_open(self) -> None:
        """Raises Refused (503) while the daemon stops."""
        if self._stop.is_set:
            raise unavailable("stopping", "the daemon is stopping: send again later", retry_after=20)

    async def accept(self, headers: Sequence[tuple[bytes, bytes]], body: bytes, roles: Roles) -> list[Receipt]:
        """Each event of the request, kept durably or known before.

        Raises:
            Refused: nothing of the request was kept.
        """
        try:
            judged = await self._judge(headers, body)
            _check_roles([each.change for each in judged if each.change], roles)
            return await self._append(judged)
        except InvalidEvent as error:
            detail = "no event of this request was accepted; `rebundle dead-letters list --rejected` shows it again"
            refused = RequestRefused(HTTPStatus.BAD_REQUEST, "invalid", detail, errors=error.problems)
            await self._reject(body, refused)
        except UnsupportedContentType as error:
            await self._reject(body, RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", str(error)))
        except RequestRefused as refused:
            if refused.status != HTTPStatus.SERVICE_UNAVAILABLE:
                await self._reject(body, refused)
            raise

    async def find(self, event_id: str) -> Sequence[EventStatus]:
        """What became of the events with this id.

        Raises:
            Refused: 404, or 503 while the journal cannot tell.
        """
        async with self._journal_call():
            found = await self._journal.find(event_id)
        if not found:
            detail = "no event with this id is known; those settled long ago are forgotten"
            raise RequestRefused(HTTPStatus.NOT_FOUND, "unknown-event", detail)
        return found

    async def _judge(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> list[_ValidEvent]:
        if len(body) <= _INLINE_BYTES:
            return _validate(headers, body, self._limits, self._bundle_limits)
        return await self._runtime.run_in_thread(_validate, headers, body, self._limits, self._bundle_limits)

    async def _append(self, judged: Sequence[_ValidEvent]) -> list[Receipt]:
        folded = [each for each in judged if each.change]
        arrivals = [_arrival(each.event, each.change) for each in folded if each.change]
        try:
            async with self._journal_call():
                accepted = iter(await self._journal.append(arrivals) if arrivals else ())
        except IdentityConflict as error:
            expected = "must be new, or the event the same as the one known by it"
            problem = Problem(f"{folded[error.index].place}.id", expected, error.event_id)
            raise RequestRefused(HTTPStatus.CONFLICT, "conflict", str(error), errors=[problem]) from error
        receipts = [Receipt(each.event, next(accepted) if each.change else None) for each in judged]
        for receipt in receipts:
            if receipt.accepted is None or not receipt.accepted.known:
                kind = receipt.event.type if receipt.event.type in KNOWN_TYPES else "other"
                self._metrics.events_accepted.labels(INTAKE, kind).inc()
        return receipts

    async def _reject(self, body: bytes, refused: RequestRefused) -> NoReturn:
        """Keep the request among the rejected, if that can be done, and refuse it in any case."""
        try:
            async with asyncio.timeout(self._journal_seconds):
                await self._journal.reject(INTAKE, body, refused.errors or [Problem("$", refused.detail)])
        except (EventError, TimeoutError) as error:
            _log.warning("a rejected request could not be kept", error=str(error))
        raise refused

    @asynccontextmanager
    async def _journal_call(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._journal_seconds):
                yield
        except JournalFull as error:
            raise unavailable("journal-full", str(error), retry_after=30) from error
        except TimeoutError as error:
            detail = "the journal does not answer: send again; an event that was kept is then known"
            raise unavailable("journal-slow", detail, retry_after=10) from error
        except (IdentityConflict, InvalidEvent):
            raise
        except EventError as error:
            _log.error("the journal cannot be used", error=str(error))
            raise unavailable("journal-unavailable", "the journal cannot be used now", retry_after=10) from error


def _validate(
    headers: Sequence[tuple[bytes, bytes]], body: bytes, limits: DecodingLimits, bundle_limits: BundleLimits
) -> list[_ValidEvent]:
    decoded = decode_http(headers, body, limits, validate_data)
    judged: list[_ValidEvent] = []
    problems: list[Problem] = []
    for place, event in _places(decoded):
        try:
            # A type nobody here knows is no fault of the sender: a later release may know it.
            change = interpret(event, bundle_limits) if event.type in KNOWN_TYPES else None
            judged.append(_ValidEvent(place, event, change))
        except InvalidEvent as error:
            problems += [replace(each, path=place + each.path.removeprefix("$")) for each in error.problems]
    if problems:
        raise InvalidEvent(*problems[:MOST_PROBLEMS])
    return judged


def _places(decoded: Decoded) -> Iterator[tuple[str, Event]]:
    for index, event in enumerate(decoded.events):
        yield f"$[{index}]" if decoded.batch else "$", event


def _check_roles(changes: Sequence[Change], roles: Roles) -> None:
    """Raises Refused (403) if there is one among them that the sender may not ask for."""
    for change in changes:
        match change:
            case RollbackRequested() if Role.ROLLBACK not in roles:
                detail = (
                    "a rollback request needs the token of http.rollback_token_file; "
                    "`rebundle rollback SCOPE STATE --reason '…'` needs only the bucket"
                )
                raise RequestRefused(HTTPStatus.FORBIDDEN, "forbidden", detail)
            case StateCreated() | ModelVersionChanged() if Role.PUBLISH not in roles:
                detail = "this token is for rollback requests only: use that of http.token_file"
                raise RequestRefused(HTTPStatus.FORBIDDEN, "forbidden", detail)
            case RollbackRequested() | StateCreated() | ModelVersionChanged():
                pass
            case _:
                assert_never(change)


def _arrival(event: Event, change: Change) -> Arrival:
    return Arrival(event, Identity(INTAKE, event.source, event.id), change.digest, change.scopes)
