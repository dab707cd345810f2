"""The routes of the HTTP interface, with their authorisation and limits.

Access is denied by default: every path under /v1 belongs to a router that authorises the request.
The open paths are listed in `health`. Handlers only read the request and build the response; the
logic is in the other modules of this package.
"""

import difflib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp

from daemon.http.auth import Credentials, Roles, authorised
from daemon.http.body import read_body
from daemon.http.health import Health, HealthSource, described
from daemon.http.intake import Intake, Receipt
from daemon.http.problems import MEDIA_TYPE, RequestRefused, answer_everything, unavailable
from daemon.inspection.journal import EventReport
from daemon.lifecycle import Stop
from daemon.runtime import Runtime
from daemon.telemetry import Metrics
from events.dialects.cloudevents import BATCH, STRUCTURED
from events.model import KNOWN_TYPES

_log = structlog.get_logger(__name__)
_MAX_COMPARED_LENGTH: Final = 128
"""Characters of an unknown event type that are compared with the known ones."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of one request, and of all requests together."""

    max_body_bytes: int = 4 << 20
    body_seconds: float = 10.0
    max_requests: int = 64
    """Concurrent requests whose body is read or validated.

    Times `max_body_bytes`, it bounds the memory that unauthenticated clients can make us use.
    """


class AcceptedEvent(BaseModel):
    """One event of a request."""

    id: str
    source: str
    position: str | None
    """`<instance>@<offset>`; null if the event was ignored."""
    known: bool
    """Whether the event was accepted before; then it has no further effect."""
    ignored: bool = False
    """Whether the type is unknown; then the event is not stored and has no effect."""
    nearest_type: str | None = None
    """The known type that is most similar to the unknown type."""
    ignored_fields: list[str] = []
    """JSON paths of unknown fields of the event, which have no effect; the first 100."""


class AcceptedEvents(BaseModel):
    """The events of a request, in their order."""

    events: list[AcceptedEvent]


class EventReports(BaseModel):
    """All events with one id: several sources may use the same id."""

    events: list[EventReport]


def create_app(
    intake: Intake,
    health_source: HealthSource,
    metrics: Metrics,
    credentials: Callable[[], Credentials],
    limits: RequestLimits,
    *,
    runtime: Runtime,
    stop: Stop,
    version: str = "0",
) -> ASGIApp:
    """Build the application, and log the authorisation policy.

    `credentials` is called for each request, because tokens can change. `runtime` runs the threads
    of the intake.
    """
    # FastAPI's documentation pages load scripts from other sites. Its redirects turn a POST into a
    # GET.
    app = FastAPI(
        title="Rebundle",
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    answer_everything(app)
    app.include_router(_events_router(app, intake, metrics, credentials, limits))
    _log.info("http authorisation", policy=credentials().policy)
    return Health(app, health_source, metrics, runtime, stop)


_EVENT_SCHEMA: Final = {
    "schema": {"type": "object", "required": ["specversion", "id", "source", "type", "data"]}
}
_BODIES: Final = {
    "requestBody": {
        "required": True,
        "description": "CloudEvents 1.0: structured, a batch, or binary (ce- headers; the body "
        "is the data).",
        "content": {
            STRUCTURED: _EVENT_SCHEMA,
            BATCH: {"schema": {"type": "array", "items": _EVENT_SCHEMA["schema"]}},
            "application/json": {"schema": {"type": "object"}},
        },
    }
}


def _documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    problem = {"schema": {"type": "object", "required": ["type", "title", "status", "detail"]}}
    return {
        status.value: {"description": status.phrase, "content": {MEDIA_TYPE: problem}}
        for status in statuses
    }


_UNAUTHORISED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def _events_router(
    app: FastAPI,
    intake: Intake,
    metrics: Metrics,
    credentials: Callable[[], Credentials],
    limits: RequestLimits,
) -> APIRouter:
    slots = _Slots(limits.max_requests)

    router = APIRouter(
        prefix="/v1",
        route_class=_authorised_route(intake, metrics, credentials),
        responses=_documented(*_UNAUTHORISED),
    )

    @router.post(
        "/events",
        status_code=HTTPStatus.ACCEPTED,
        response_model=AcceptedEvents,
        summary="Accept events: all of them, or none",
        openapi_extra=_BODIES,
        responses=_documented(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    )
    async def post_events(request: Request) -> Response:
        roles: Roles = request.state.roles
        with _counted(metrics, intake):
            intake.check_open()
            async with slots.one():
                body = await read_body(
                    request.stream(),
                    request.headers.get("content-length"),
                    limits.max_body_bytes,
                    limits.body_seconds,
                )
                receipts = await intake.accept(request.scope["headers"], body, roles)
        accepted = AcceptedEvents(events=[_accepted(receipt) for receipt in receipts])
        # FastAPI would validate the model again.
        return Response(
            accepted.model_dump_json(), HTTPStatus.ACCEPTED, media_type="application/json"
        )

    @router.get(
        "/events/{event_id:path}",
        summary="The outcomes of an event",
        responses=_documented(HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def get_event(event_id: Annotated[str, Path(max_length=256)]) -> EventReports:
        found = await intake.find(event_id)
        return EventReports(events=[EventReport.of(status) for status in found])

    @router.get("/openapi.json", summary="The OpenAPI document", include_in_schema=False)
    async def openapi() -> Response:
        document = app.openapi()
        return JSONResponse({**document, "paths": document["paths"] | described()})

    return router


def _authorised_route(
    intake: Intake, metrics: Metrics, credentials: Callable[[], Credentials]
) -> type[APIRoute]:
    """The class of routes that authorise a request first, and store its roles in its state."""

    # Not a dependency: FastAPI spends more on solving one than the authorisation takes.
    class AuthorisedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def authorise_and_handle(request: Request) -> Response:
                with _counted(metrics, intake):
                    request.state.roles = authorised(
                        credentials(), _by_name(request), *_addresses(request)
                    )
                return await handle(request)

            return authorise_and_handle

    return AuthorisedRoute


class _Slots:
    """Limits the number of concurrent requests.

    Requests above the limit get 503 at once: a waiting request would hold memory, too.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        if not self._free:
            raise unavailable("busy", "too many concurrent requests: retry later", retry_after=5)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


@contextmanager
def _counted(metrics: Metrics, intake: Intake) -> Iterator[None]:
    try:
        yield
    except RequestRefused as refused:
        metrics.events_rejected.labels(intake.name, refused.reason).inc()
        raise


def _by_name(request: Request) -> Mapping[str, Sequence[str]]:
    headers: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in request.scope["headers"]:
        headers[name.decode("latin-1").lower()].append(value.decode("latin-1"))
    return headers


def _addresses(request: Request) -> tuple[str, str]:
    """The client's and the server's address of the connection; empty if the transport has none."""
    client, server = request.scope.get("client"), request.scope.get("server")
    return (client[0] if client else ""), (server[0] if server else "")


def _accepted(receipt: Receipt) -> AcceptedEvent:
    event, accepted = receipt.event, receipt.accepted
    if accepted is None:
        near = difflib.get_close_matches(
            event.type[:_MAX_COMPARED_LENGTH], KNOWN_TYPES, n=1, cutoff=0.8
        )
        nearest = near[0] if near else None
        return AcceptedEvent(
            id=event.id,
            source=event.source,
            position=None,
            known=False,
            ignored=True,
            nearest_type=nearest,
        )
    return AcceptedEvent(
        id=event.id,
        source=event.source,
        position=str(accepted.position),
        known=accepted.known,
        ignored_fields=list(receipt.ignored_fields),
    )
