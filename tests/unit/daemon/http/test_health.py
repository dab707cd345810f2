"""Probes and metrics, through the router alone."""

import asyncio
from collections.abc import Sequence

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from daemon.http.health import Check, Readiness, health_router
from daemon.lifecycle import Stop
from daemon.telemetry import Metrics


class Told:
    """A readiness that says what it was told, or nothing at all."""

    def __init__(self, *told: Check) -> None:
        self.told = told
        self.asked = 0

    async def checks(self) -> Sequence[Check]:
        self.asked += 1
        if not self.told:
            await asyncio.Event().wait()
        return self.told


def asked(path: str, readiness: Readiness, stop: bool = False, metrics: Metrics | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        stopping = Stop()
        if stop:
            stopping.request("SIGTERM")
        app = FastAPI()
        app.include_router(health_router(readiness, metrics or Metrics.create("1", "1"), stopping, seconds=0.01))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(ask())


GOOD, BAD = Check("journal", ok=True, detail="open"), Check("bucket", ok=False, detail="permission denied")


def test_livez_asks_nobody() -> None:
    readiness = Told()
    assert asked("/livez", readiness, stop=True).status_code == 200
    assert readiness.asked == 0


def test_readyz_is_ready_when_every_dependency_is() -> None:
    response = asked("/readyz", Told(GOOD))
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert response.json() == {
        "ready": True,
        "checks": [
            {"name": "journal", "ok": True, "detail": "open", "degraded": False},
            {"name": "running", "ok": True, "detail": "takes events", "degraded": False},
        ],
    }


def test_readyz_names_the_dependency_that_is_not_ready() -> None:
    response = asked("/readyz", Told(GOOD, BAD))
    assert (response.status_code, response.json()["ready"]) == (503, False)
    assert {"name": "bucket", "ok": False, "detail": "permission denied", "degraded": False} in response.json()[
        "checks"
    ]


def test_readyz_says_no_while_the_daemon_stops() -> None:
    response = asked("/readyz", Told(GOOD), stop=True)
    assert response.status_code == 503
    assert response.json()["checks"][-1] == {"name": "running", "ok": False, "detail": "SIGTERM", "degraded": False}


def test_readyz_does_not_wait_for_a_dependency_that_hangs() -> None:
    response = asked("/readyz", Told())
    assert response.status_code == 503
    assert response.json()["checks"][0]["name"] == "readiness"


def test_metrics_are_what_prometheus_reads() -> None:
    metrics = Metrics.create("1", "1")
    metrics.pointer_sequence.labels("a/b").set(7)
    response = asked("/metrics", Told(), metrics=metrics)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [each for family in text_string_to_metric_families(response.text) for each in family.samples]
    assert [each.value for each in samples if each.name == "rebundle_pointer_sequence"] == [7]
