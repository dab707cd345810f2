"""Error responses as RFC 9457 problem documents: one exception, converted in one place."""

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
    """The request is refused; the response is a problem document."""

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
        """A keyword for programs and metrics, such as `too-large`."""
        self.detail = detail
        """What is wrong and what to do."""
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def unavailable(reason: str, detail: str, retry_after: int) -> RequestRefused:
    """A 503 response with Retry-After, without which senders give up early."""
    return RequestRefused(
        HTTPStatus.SERVICE_UNAVAILABLE, reason, detail, headers={"retry-after": str(retry_after)}
    )


def answer(refused: RequestRefused) -> Response:
    """The response: a problem document."""
    body: dict[str, Any] = {
        "type": f"urn:rebundle:problem:{refused.reason}",
        "title": refused.status.phrase,
        "status": refused.status,
        "detail": refused.detail,
    }
    if refused.errors:
        body["errors"] = [
            {"path": problem.path, "expected": problem.expected, "found": problem.found}
            for problem in refused.errors
        ]
    return JSONResponse(body, refused.status, refused.headers, MEDIA_TYPE)


def answer_everything(app: FastAPI) -> None:
    """Register handlers that convert every error, also the framework's, into a problem document."""

    async def on_refusal(_: Request, error: RequestRefused) -> Response:
        return answer(error)

    async def on_framework_error(_: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        reason = status.phrase.lower().replace(" ", "-")
        return answer(RequestRefused(status, reason, str(error.detail), headers=error.headers))

    async def on_invalid_parameters(_: Request, error: RequestValidationError) -> Response:
        problems = [
            Problem(".".join(map(str, problem["loc"])), problem["msg"])
            for problem in error.errors()
        ]
        detail = "the parameters of the request are invalid"
        return answer(
            RequestRefused(HTTPStatus.BAD_REQUEST, "bad-request", detail, errors=problems)
        )

    async def on_unexpected_error(request: Request, error: Exception) -> Response:
        _log.error("request failed", path=request.url.path, exc_info=error)
        detail = "internal error of Rebundle: see the daemon's log"
        # The server closes the connection after an exception, so the client must not reuse it.
        headers = {"connection": "close"}
        return answer(
            RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, headers=headers)
        )

    # Any: Starlette's type for a handler accepts Exception only, not a more precise type.
    handlers: dict[Any, Any] = {
        RequestRefused: on_refusal,
        HTTPException: on_framework_error,
        RequestValidationError: on_invalid_parameters,
        Exception: on_unexpected_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
