"""Health probes and metrics: read-only, and without a token (ADR 21).

This ASGI application runs in front of the framework. Any client can send requests at any rate, so a
response must be cheap. Probes report what is in memory; the text of the metrics is rendered at most
once a second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol

from fastapi import Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon.attention import Lasting
from daemon.http.problems import RequestRefused, answer, unavailable
from daemon.lifecycle import Stop
from daemon.runtime import Runtime
from daemon.telemetry import Metrics

_MAX_REQUESTS: Final = 16
_METRICS_SECONDS: Final = 1.0
_MAX_SHOWN: Final = 100
_NO_STORE: Final = {"cache-control": "no-store"}

PATHS: Final[dict[str, str]] = {
    "/livez": "Whether the process works; 503 if it needs a restart",
    "/readyz": "Whether events are accepted, and other problems; 503 if not, or if the daemon "
    "is stopping",
    "/attention": "Conditions that have lasted a minute, each with its remedy; 503 if there "
    "are any",
    "/metrics": "Metrics in the Prometheus text format",
}


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """The state of one dependency of the next request."""

    name: str
    ok: bool
    detail: str
    """A message for operators, without secrets."""
    degraded: bool = False
    """Whether there is a problem that does not affect the next request."""


class HealthSource(Protocol):
    """The health of the daemon, as it is known in memory: no method waits."""

    def fault(self) -> str | None:
        """Why the daemon needs a restart; None if it does not."""
        ...

    def checks(self) -> Sequence[ReadinessCheck]:
        """The dependencies of the next request, and other problems."""
        ...

    def lasting(self) -> Sequence[Lasting]:
        """The conditions that have lasted a minute or longer."""
        ...


class Health:
    """Answers the probes and passes every other path to the application `inner`."""

    def __init__(
        self,
        inner: ASGIApp,
        health_source: HealthSource,
        metrics: Metrics,
        runtime: Runtime,
        stop: Stop,
    ) -> None:
        """`runtime` renders the metrics; its threads must not be those that wait for the bucket."""
        self._inner = inner
        self._health_source = health_source
        self._stop = stop
        self._exposition = _Exposition(metrics, runtime)
        self._free = _MAX_REQUESTS
        self._answers: dict[str, Callable[[], Awaitable[Response]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/attention": self._attention,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        handler = self._answers.get(scope["path"])
        if handler is None:
            await self._inner(scope, receive, send)
        elif scope["method"] not in {"GET", "HEAD"}:
            refused = RequestRefused(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "only GET",
                headers={"allow": "GET, HEAD"},
            )
            await answer(refused)(scope, receive, send)
        else:
            await (await handler())(scope, receive, send)

    async def _livez(self) -> Response:
        fault = self._health_source.fault()
        if fault is None:
            return PlainTextResponse("ok\n")
        return answer(RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "restart-needed", fault))

    async def _readyz(self) -> Response:
        return await self._limited(self._readiness)

    async def _attention(self) -> Response:
        return await self._limited(self._conditions)

    async def _metrics(self) -> Response:
        return await self._limited(self._exposed)

    async def _limited(self, handler: Callable[[], Awaitable[Response]]) -> Response:
        if not self._free:
            return answer(
                unavailable("busy", "too many concurrent probes: retry later", retry_after=1)
            )
        self._free -= 1
        try:
            return await handler()
        finally:
            self._free += 1

    async def _readiness(self) -> Response:
        checks = [
            *self._health_source.checks(),
            ReadinessCheck("running", not self._stop.is_set, self._stop.reason or "accepts events"),
        ]
        ready = all(check.ok for check in checks)
        body = {"ready": ready, "checks": [asdict(check) for check in checks]}
        return JSONResponse(body, 200 if ready else 503, _NO_STORE)

    async def _conditions(self) -> Response:
        lasting = self._health_source.lasting()
        body = {
            "attention": bool(lasting),
            "conditions": [
                asdict(condition.condition) | {"seconds": round(condition.seconds)}
                for condition in lasting[:_MAX_SHOWN]
            ],
            "more": max(0, len(lasting) - _MAX_SHOWN),
        }
        return JSONResponse(body, 503 if lasting else 200, _NO_STORE)

    async def _exposed(self) -> Response:
        return Response(await self._exposition.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Exposition:
    """The text of the metrics, rendered at most once a second and shared by all requests."""

    def __init__(self, metrics: Metrics, runtime: Runtime) -> None:
        self._metrics = metrics
        self._runtime = runtime
        self._text = b""
        self._rendered_at: float | None = None
        self._rendering = asyncio.Lock()

    async def text(self) -> bytes:
        if self._is_outdated():
            async with self._rendering:
                # Another request may have rendered the text while this one waited for the lock.
                if self._is_outdated():
                    started = self._runtime.monotonic()
                    self._text = await self._runtime.run_in_thread(self._metrics.render)
                    self._rendered_at = started
        return self._text

    def _is_outdated(self) -> bool:
        rendered_at = self._rendered_at
        return rendered_at is None or self._runtime.monotonic() - rendered_at >= _METRICS_SECONDS


def described() -> dict[str, Any]:
    """The paths of this module, for the OpenAPI document."""
    return {
        path: {"get": {"summary": summary, "responses": {"200": {"description": "OK"}}}}
        for path, summary in PATHS.items()
    }
