"""Probes and metrics, for those who watch the process: no token, no registry text, nothing that changes anything."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from daemon.lifecycle import Stop
from daemon.telemetry import Metrics

_READINESS_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """What one dependency of the next request is like."""

    name: str
    ok: bool
    detail: str
    """In words for an operator; no secrets, nothing a registry wrote."""
    degraded: bool = False
    """Something is wrong that the next request does not need."""


class Readiness(Protocol):
    """What the daemon depends on. Answers within a second or two, from what is known rather than by new calls."""

    async def checks(self) -> Sequence[Check]:
        """One for each dependency."""
        ...


def health_router(readiness: Readiness, metrics: Metrics, stop: Stop, seconds: float = _READINESS_SECONDS) -> APIRouter:
    """`/livez` asks nobody, `/readyz` asks each dependency, `/metrics` tells what was counted."""
    router = APIRouter()

    @router.get("/livez", summary="The process answers")
    async def livez() -> Response:
        return PlainTextResponse("ok\n")

    @router.get("/readyz", summary="Each dependency; 503 when one is not ready, or the daemon stops")
    async def readyz() -> Response:
        checks = [*await _asked(readiness, seconds), Check("running", not stop.is_set, stop.reason or "takes events")]
        ready = all(check.ok for check in checks)
        body = {"ready": ready, "checks": [asdict(check) for check in checks]}
        return JSONResponse(body, 200 if ready else 503, headers={"cache-control": "no-store"})

    @router.get("/metrics", summary="Prometheus' text format")
    async def exposition() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


async def _asked(readiness: Readiness, seconds: float) -> Sequence[Check]:
    try:
        async with asyncio.timeout(seconds):
            return await readiness.checks()
    except TimeoutError:
        return [Check("readiness", ok=False, detail=f"no answer within {seconds:g} s")]
