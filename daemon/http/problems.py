"""Refusals, as RFC 9457 problem documents: one exception, raised anywhere, answered in one place."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from events.errors import Problem

MEDIA_TYPE: Final = "application/problem+json"

_log = structlog.get_logger(__name__)


class RequestRefused(Exception):
    """The request is answered with this instead."""

    def __init__(
        self,
        status: HTTPStatus,
        reason: str,
        detail: str,
        *,
        errors: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        """One word or two for programs and metrics, such as `too-large`."""
        self.detail = detail
        """What is wrong and what to do, for people."""
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def unavailable(reason: str, detail: str, retry_after: int) -> RequestRefused:
    """503 that says when to come again; never without it, since senders give up early otherwise."""
    return RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, reason, detail, headers={"retry-after": str(retry_after)})


def answer(refused: RequestRefused) -> Response:
    """The problem document."""
    body: dict[str, Any] = {
        "type": f"urn:rebundle:problem:{refused.reason}",
        "title": refused.status.phrase,
        "status": refused.status,
        "detail": refused.detail,
    }
    if refused.errors:
        body["errors"] = [
            {"path": each.path, "expected": each.expected, "found": each.found} for each in refused.errors
        ]
    return JSONResponse(body, refused.status, refused.headers, MEDIA_TYPE)


def answer_everything(app: FastAPI) -> None:
    """Make every refusal of the app, the framework's own among them, a problem document."""

    async def refused(_: Request, error: RequestRefused) -> Response:
        return answer(error)

    async def of_the_framework(_: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        reason = status.phrase.lower().replace(" ", "-")
        return answer(RequestRefused(status, reason, str(error.detail), headers=error.headers))

    async def of_the_parameters(_: Request, error: RequestValidationError) -> Response:
        problems = [Problem(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        return answer(
            RequestRefused(HTTPStatus.BAD_REQUEST, "bad-request", "the request's parameters", errors=problems)
        )

    async def failed(request: Request, error: Exception) -> Response:
        _log.error("request failed", path=request.url.path, exc_info=error)
        detail = "a fault of Rebundle: its log has more"
        # The server closes the connection after an exception: a client must not send its next request on it.
        headers = {"connection": "close"}
        return answer(RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, headers=headers))

    # Starlette types a handler by the root of all exceptions, and so takes none of a more precise one.
    handlers: dict[Any, Any] = {
        RequestRefused: refused,
        HTTPException: of_the_framework,
        RequestValidationError: of_the_parameters,
        Exception: failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
