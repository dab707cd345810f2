"""Accepts the events of a request: validates them, then appends them to the journal, all or none.

The intake checks what can be validated from the events alone, and reports all problems of a request
at once (protocol 2). Checks that need the scope follow later, in its lane. Rejected requests of
authenticated clients are kept in a ring buffer of the journal.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, NoReturn, assert_never

import structlog

from daemon.changes import (
    Change,
    ModelVersionChanged,
    RollbackRequested,
    StateCreated,
    received,
)
from daemon.http.auth import Role, Roles
from daemon.http.problems import RequestRefused, unavailable
from daemon.lifecycle import Stop
from daemon.runtime import Runtime
from daemon.telemetry import Metrics
from events.dialects.cloudevents import Decoded
from events.errors import (
    EventError,
    IdentityConflict,
    InvalidEvent,
    JournalFull,
    Problem,
    UnsupportedContentType,
)
from events.log import EventLog
from events.model import KNOWN_TYPES, Event, Identity
from events.records import Accepted, Arrival, EventStatus
from events.strict_json import MAX_PROBLEMS
from renderers.limits import DEFAULT_LIMITS, BundleLimits

Decoder = Callable[[Sequence[tuple[bytes, bytes]], bytes], Decoded]
"""The events of a request, by its headers and its body.

Raises:
    UnsupportedContentType: the content type is not known.
    InvalidEvent: with all problems.
"""

# Validating a body of this size takes a few milliseconds; a larger one is validated in a thread.
# For a smaller one a thread is not worth the wait: all threads may be busy with a slow bucket.
_INLINE_BYTES: Final = 64 << 10
_JOURNAL_SECONDS: Final = 15.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result for one event of a request."""

    event: Event
    accepted: Accepted | None
    """None if the event was ignored, because its type is unknown."""
    ignored_fields: tuple[str, ...] = ()
    """JSON paths of unknown fields of the event, which have no effect."""


@dataclass(frozen=True, slots=True)
class _ValidEvent:
    place: str
    """The JSON path of the event in the request."""
    event: Event
    change: Change | None
    """None if the type of the event is unknown."""
    ignored_fields: tuple[str, ...] = ()


class Intake:
    """Accepts the events of requests."""

    def __init__(
        self,
        name: str,
        decode: Decoder,
        log: EventLog,
        *,
        runtime: Runtime,
        metrics: Metrics,
        stop: Stop,
        bundle_limits: BundleLimits = DEFAULT_LIMITS,
        journal_seconds: float = _JOURNAL_SECONDS,
    ) -> None:
        """Create an intake.

        `name`: part of the identity of its events, and in metrics. `journal_seconds`: the limit of
        one call of `log`.
        """
        self.name = name
        self._decode = decode
        self._journal = log
        self._runtime = runtime
        self._metrics = metrics
        self._stop = stop
        self._bundle_limits = bundle_limits
        self._journal_seconds = journal_seconds

    def check_open(self) -> None:
        """Raises RequestRefused (503) while the daemon is stopping."""
        if self._stop.is_set:
            raise unavailable("stopping", "the daemon is stopping: retry later", retry_after=20)

    async def accept(
        self, headers: Sequence[tuple[bytes, bytes]], body: bytes, roles: Roles
    ) -> list[Receipt]:
        """Store the events of a request durably; known events are not stored again.

        Raises:
            RequestRefused: no event of the request was stored.
        """
        try:
            events = await self._validated(headers, body)
            _check_roles([event.change for event in events if event.change], roles)
            return await self._append(events)
        except InvalidEvent as error:
            detail = (
                "no event of this request was accepted; `rebundle dead-letters list "
                "--rejected` lists it"
            )
            refused = RequestRefused(
                HTTPStatus.BAD_REQUEST, "invalid", detail, errors=error.problems
            )
            await self._reject(body, refused)
        except UnsupportedContentType as error:
            await self._reject(
                body, RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", str(error))
            )
        except RequestRefused as refused:
            if refused.status != HTTPStatus.SERVICE_UNAVAILABLE:
                await self._reject(body, refused)
            raise

    async def find(self, event_id: str) -> Sequence[EventStatus]:
        """The status of the events with this id.

        Raises:
            RequestRefused: 404, or 503 while the journal is unavailable.
        """
        async with self._journal_call():
            statuses = await self._journal.find(event_id)
        if not statuses:
            detail = "no event with this id is known; events that settled long ago are removed"
            raise RequestRefused(HTTPStatus.NOT_FOUND, "unknown-event", detail)
        return statuses

    async def _validated(
        self, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> list[_ValidEvent]:
        if len(body) <= _INLINE_BYTES:
            return self._decoded(headers, body)
        return await self._runtime.run_in_thread(self._decoded, headers, body)

    def _decoded(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> list[_ValidEvent]:
        return _validate(self._decode(headers, body), self._bundle_limits)

    async def _append(self, events: Sequence[_ValidEvent]) -> list[Receipt]:
        known = [event for event in events if event.change]
        arrivals = [
            _arrival(self.name, event.event, event.change) for event in known if event.change
        ]
        try:
            async with self._journal_call():
                accepted = iter(await self._journal.append(arrivals) if arrivals else ())
        except IdentityConflict as error:
            expected = "must be new, or the event must equal the one that has this id"
            problem = Problem(f"{known[error.index].place}.id", expected, error.event_id)
            raise RequestRefused(
                HTTPStatus.CONFLICT, "conflict", str(error), errors=[problem]
            ) from error
        receipts = [
            Receipt(event.event, next(accepted) if event.change else None, event.ignored_fields)
            for event in events
        ]
        for receipt in receipts:
            if receipt.accepted is None or not receipt.accepted.known:
                kind = receipt.event.type if receipt.event.type in KNOWN_TYPES else "other"
                self._metrics.events_accepted.labels(self.name, kind).inc()
        return receipts

    async def _reject(self, body: bytes, refused: RequestRefused) -> NoReturn:
        """Store the request among the rejected ones if possible, and refuse it in any case."""
        try:
            async with asyncio.timeout(self._journal_seconds):
                await self._journal.reject(
                    self.name, body, refused.errors or [Problem("$", refused.detail)]
                )
        except (EventError, TimeoutError) as error:
            _log.warning("a rejected request could not be stored", error=str(error))
        raise refused

    @asynccontextmanager
    async def _journal_call(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._journal_seconds):
                yield
        except JournalFull as error:
            raise unavailable("journal-full", str(error), retry_after=30) from error
        except TimeoutError as error:
            # The append may still complete. That is safe: a repeated event is recognised.
            detail = (
                "the journal does not answer: send the request again; events that were "
                "stored are recognised"
            )
            raise unavailable("journal-slow", detail, retry_after=10) from error
        except (IdentityConflict, InvalidEvent):
            raise
        except EventError as error:
            _log.error("the journal cannot be used", error=str(error))
            detail = (
                "the journal cannot be used, see the daemon's log: send the request again later; "
                "events that were stored are recognised"
            )
            raise unavailable("journal-unavailable", detail, retry_after=10) from error


def _validate(decoded: Decoded, bundle_limits: BundleLimits) -> list[_ValidEvent]:
    valid: list[_ValidEvent] = []
    problems: list[Problem] = []
    for place, event in _with_places(decoded):
        try:
            # An unknown type is not an error of the sender: a later release may know it.
            if event.type not in KNOWN_TYPES:
                valid.append(_ValidEvent(place, event, None))
                continue
            new = received(event, bundle_limits)
            valid.append(_ValidEvent(place, event, new.change, new.ignored_fields))
        except InvalidEvent as error:
            problems += [
                replace(problem, path=place + problem.path.removeprefix("$"))
                for problem in error.problems
            ]
    if problems:
        raise InvalidEvent(*problems[:MAX_PROBLEMS])
    return valid


def _with_places(decoded: Decoded) -> Iterator[tuple[str, Event]]:
    for index, event in enumerate(decoded.events):
        yield f"$[{index}]" if decoded.batch else "$", event


def _check_roles(changes: Sequence[Change], roles: Roles) -> None:
    """Raises RequestRefused (403) if the roles do not permit one of the changes."""
    for change in changes:
        match change:
            case RollbackRequested() if Role.ROLLBACK not in roles:
                detail = (
                    "a rollback request requires the token of http.rollback_token_file; "
                    "`rebundle rollback SCOPE STATE --reason '…'` requires access to the "
                    "bucket only"
                )
                raise RequestRefused(HTTPStatus.FORBIDDEN, "forbidden", detail)
            case StateCreated() | ModelVersionChanged() if Role.PUBLISH not in roles:
                detail = (
                    "this token is for rollback requests only: use the token of http.token_file"
                )
                raise RequestRefused(HTTPStatus.FORBIDDEN, "forbidden", detail)
            case RollbackRequested() | StateCreated() | ModelVersionChanged():
                pass
            case _:
                assert_never(change)


def _arrival(intake: str, event: Event, change: Change) -> Arrival:
    return Arrival(event, Identity(intake, event.source, event.id), change.digest, change.scopes)
