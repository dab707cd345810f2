"""Probes and metrics, for those who watch the process: no token, and nothing that changes anything (ADR 21).

An ASGI application of its own, in front of the framework: strangers may ask as often as they like, so an answer must
cost little. All but the metrics is answered from what is known; the metrics' text is made at most once a second.
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

_MOST_REQUESTS: Final = 16
_METRICS_SECONDS: Final = 1.0
_MOST_SHOWN: Final = 100
_NO_STORE: Final = {"cache-control": "no-store"}

PATHS: Final[dict[str, str]] = {
    "/livez": "503 when only a restart helps",
    "/readyz": "Whether events are taken, and what else is wrong; 503 when they are not, or the daemon stops",
    "/attention": "Conditions that have lasted a minute, each with its remedy; 503 when there are some",
    "/metrics": "Prometheus' text format",
}


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """What one dependency of the next request is like."""

    name: str
    ok: bool
    detail: str
    """In words for an operator; no secrets."""
    degraded: bool = False
    """Something is wrong that the next request does not need."""


class HealthSource(Protocol):
    """How the daemon does, from what is known: no call waits."""

    def fault(self) -> str | None:
        """Why only a restart helps; None: none is needed."""
        ...

    def checks(self) -> Sequence[ReadinessCheck]:
        """What the next request depends on, and what else is wrong."""
        ...

    def lasting(self) -> Sequence[Lasting]:
        """What has been wrong for a minute or longer."""
        ...


class Health:
    """Answers the probes, and gives every other path to `beyond`."""

    def __init__(self, beyond: ASGIApp, vitals: HealthSource, metrics: Metrics, runtime: Runtime, stop: Stop) -> None:
        """`runtime`: its threads make the metrics' text; they must not be those that wait for the bucket."""
        self._beyond = beyond
        self._vitals = vitals
        self._stop = stop
        self._exposition = _Exposition(metrics, runtime)
        self._free = _MOST_REQUESTS
        self._answers: dict[str, Callable[[], Awaitable[Response]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/attention": self._attention,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        answering = self._answers.get(scope["path"])
        if answering is None:
            await self._beyond(scope, receive, send)
        elif scope["method"] not in {"GET", "HEAD"}:
            refused = RequestRefused(
                HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", "only GET", headers={"allow": "GET, HEAD"}
            )
            await answer(refused)(scope, receive, send)
        else:
            await (await answering())(scope, receive, send)

    async def _livez(self) -> Response:
        fault = self._vitals.fault()
        if fault is None:
            return PlainTextResponse("ok\n")
        return answer(RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "restart-needed", fault))

    async def _readyz(self) -> Response:
        return await self._limited(self._readiness)

    async def _attention(self) -> Response:
        return await self._limited(self._conditions)

    async def _metrics(self) -> Response:
        return await self._limited(self._exposed)

    async def _limited(self, answering: Callable[[], Awaitable[Response]]) -> Response:
        if not self._free:
            return answer(unavailable("busy", "too many probes at a time: ask again", retry_after=1))
        self._free -= 1
        try:
            return await answering()
        finally:
            self._free += 1

    async def _readiness(self) -> Response:
        checks = [
            *self._vitals.checks(),
            ReadinessCheck("running", not self._stop.is_set, self._stop.reason or "takes events"),
        ]
        ready = all(check.ok for check in checks)
        body = {"ready": ready, "checks": [asdict(check) for check in checks]}
        return JSONResponse(body, 200 if ready else 503, _NO_STORE)

    async def _conditions(self) -> Response:
        lasting = self._vitals.lasting()
        body = {
            "attention": bool(lasting),
            "conditions": [asdict(each.condition) | {"seconds": round(each.seconds)} for each in lasting[:_MOST_SHOWN]],
            "more": max(0, len(lasting) - _MOST_SHOWN),
        }
        return JSONResponse(body, 503 if lasting else 200, _NO_STORE)

    async def _exposed(self) -> Response:
        return Response(await self._exposition.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Exposition:
    """The metrics' text, made at most once a second, and once for all who ask meanwhile."""

    def __init__(self, metrics: Metrics, runtime: Runtime) -> None:
        self._metrics = metrics
        self._runtime = runtime
        self._text = b""
        self._made: float | None = None
        self._making = asyncio.Lock()

    async def text(self) -> bytes:
        if self._is_old():
            async with self._making:
                if self._is_old():
                    asked = self._runtime.monotonic()
                    self._text = await self._runtime.run_in_thread(self._metrics.render)
                    self._made = asked
        return self._text

    def _is_old(self) -> bool:
        return self._made is None or self._runtime.monotonic() - self._made >= _METRICS_SECONDS


def described() -> dict[str, Any]:
    """The paths of this module, for the OpenAPI document."""
    return {
        path: {"get": {"summary": words, "responses": {"200": {"description": "OK"}}}} for path, words in PATHS.items()
    }
