"""Probes and metrics, through the application in front of the framework."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.attention import Condition, Lasting
from daemon.http.health import Health, ReadinessCheck
from daemon.lifecycle import Stop, SystemRuntime
from daemon.runtime import Runtime
from daemon.telemetry import Metrics
from tests.builders_runtime import InlineRuntime
from tests.unit.daemon.http.service import FakeHealthSource

GOOD, BAD = (
    ReadinessCheck("journal", ok=True, detail="open"),
    ReadinessCheck("journal", ok=False, detail="no space left on device"),
)
WAITS = Condition("lane", "a/b", "permission denied", "rebundle status a/b")


async def nothing_there(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"beyond"})


@asynccontextmanager
async def client_of(
    health_source: FakeHealthSource,
    *,
    stop: bool = False,
    metrics: Metrics | None = None,
    runtime: Runtime | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    stopping = Stop()
    if stop:
        stopping.request("SIGTERM")
    health = Health(
        nothing_there,
        health_source,
        metrics or Metrics.create("1", "1"),
        runtime or InlineRuntime(),
        stopping,
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(health), base_url="http://test"
    ) as client:
        yield client


def asked(
    path: str,
    health_source: FakeHealthSource,
    *,
    method: str = "GET",
    stop: bool = False,
    metrics: Metrics | None = None,
):
    async def ask() -> httpx.Response:
        async with client_of(health_source, stop=stop, metrics=metrics) as client:
            return await client.request(method, path)

    return asyncio.run(ask())


def test_livez_is_503_only_for_faults_that_a_restart_repairs() -> None:
    ill = FakeHealthSource(reported=[BAD], lasts=[Lasting(WAITS, 61.0)])
    assert asked("/livez", ill, stop=True).status_code == 200
    response = asked("/livez", FakeHealthSource(fatal="the task that hands out events has ended"))
    assert (response.status_code, response.json()["detail"]) == (
        503,
        "the task that hands out events has ended",
    )


def test_readyz_is_ready_when_the_journal_is() -> None:
    response = asked(
        "/readyz", FakeHealthSource(reported=[GOOD], fatal="threads", lasts=[Lasting(WAITS, 61.0)])
    )
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    assert response.json() == {
        "ready": True,
        "checks": [
            {"name": "journal", "ok": True, "detail": "open", "degraded": False},
            {"name": "running", "ok": True, "detail": "accepts events", "degraded": False},
        ],
    }


def test_readyz_names_the_dependency_that_is_not_ready() -> None:
    response = asked("/readyz", FakeHealthSource(reported=[BAD]))
    assert (response.status_code, response.json()["ready"]) == (503, False)
    assert response.json()["checks"][0]["detail"] == "no space left on device"


def test_readyz_is_503_while_the_daemon_stops() -> None:
    response = asked("/readyz", FakeHealthSource(), stop=True)
    assert response.status_code == 503
    assert response.json()["checks"][-1] == {
        "name": "running",
        "ok": False,
        "detail": "SIGTERM",
        "degraded": False,
    }


def test_attention_has_each_condition_with_its_remedy() -> None:
    response = asked("/attention", FakeHealthSource(lasts=[Lasting(WAITS, 61.4)]))
    assert (response.status_code, response.headers["cache-control"]) == (503, "no-store")
    assert response.json() == {
        "attention": True,
        "conditions": [
            {
                "kind": "lane",
                "subject": "a/b",
                "detail": "permission denied",
                "remedy": "rebundle status a/b",
                "seconds": 61,
            }
        ],
        "more": 0,
    }


def test_attention_is_200_when_nothing_needs_it_and_bounded_when_everything_does() -> None:
    assert asked("/attention", FakeHealthSource()).json() == {
        "attention": False,
        "conditions": [],
        "more": 0,
    }
    many = asked("/attention", FakeHealthSource(lasts=[Lasting(WAITS, 61.0)] * 150)).json()
    assert (len(many["conditions"]), many["more"]) == (100, 50)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/attention", "/metrics"])
def test_the_probes_only_read(path: str) -> None:
    assert asked(path, FakeHealthSource(), method="HEAD").status_code == 200
    response = asked(path, FakeHealthSource(), method="POST")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/livez/", "/LIVEZ", "//livez", "/v1/events"])
def test_every_other_path_is_served_by_the_framework(path: str) -> None:
    assert asked(path, FakeHealthSource()).text == "beyond"


def test_metrics_are_in_the_format_of_prometheus() -> None:
    metrics = Metrics.create("1", "1")
    metrics.pointer_sequence.labels("a/b").set(7)
    response = asked("/metrics", FakeHealthSource(), metrics=metrics)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [
        sample
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    ]
    assert [sample.value for sample in samples if sample.name == "rebundle_pointer_sequence"] == [7]


def test_the_metrics_text_is_made_once_a_second() -> None:
    metrics, runtime = Metrics.create("1", "1"), InlineRuntime()

    async def scenario() -> None:
        async with client_of(FakeHealthSource(), metrics=metrics, runtime=runtime) as client:

            async def dead_letters() -> bool:
                return b"rebundle_dead_letters 3.0" in (await client.get("/metrics")).content

            assert not await dead_letters()
            metrics.dead_letters.set(3)
            runtime.seconds += 0.9
            assert not await dead_letters()
            runtime.seconds += 0.1
            assert await dead_letters()

    asyncio.run(scenario())


def test_excess_requests_are_503_with_retry_after_and_livez_is_exempt() -> None:
    """The metrics text is computed once in a thread. Concurrent requests wait for that one."""
    metrics, runtime = Metrics.create("1", "1"), SystemRuntime(1)
    go_on = threading.Event()

    async def scenario() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def dead_letters() -> float:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(20)
            return 3

        metrics.dead_letters.set_function(dead_letters)
        async with client_of(FakeHealthSource(), metrics=metrics, runtime=runtime) as client:
            waiting = [asyncio.create_task(client.get("/metrics")) for _ in range(16)]
            await begun.wait()
            for path in ("/metrics", "/readyz", "/attention"):
                response = await client.get(path)
                assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert (await client.get("/livez")).status_code == 200
            go_on.set()
            answers = await asyncio.gather(*waiting)
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.content for answer in answers}) == 1
            assert (await client.get("/readyz")).status_code == 200

    try:
        asyncio.run(scenario())
    finally:
        go_on.set()
        runtime.close()
