"""The real application on a real socket with a real journal, and the events that tests send to it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from daemon.attention import Lasting
from daemon.changes import validate_data
from daemon.http.app import RequestLimits, create_app
from daemon.http.auth import Credentials
from daemon.http.connections import ConnectionLimits
from daemon.http.health import ReadinessCheck
from daemon.http.intake import Intake
from daemon.http.server import bind, serve
from daemon.lifecycle import Stop, SystemRuntime
from daemon.reporting import Reporter
from daemon.telemetry import Metrics
from events.dialects.cloudevents import DecodingLimits, decode_http
from events.journal import Journal, JournalLimits
from events.log import EventLog
from tests.builders import golden_document

TOKEN = "token-of-those-who-publish"
ROLLBACK = "token-of-those-who-roll-back"
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
BOTH = Credentials(TOKEN, ROLLBACK)
NO_CREDENTIALS = Credentials()
DEFAULT_LIMITS = RequestLimits()
DEFAULT_JOURNAL_LIMITS = JournalLimits()
DEFAULT_CONNECTIONS = ConnectionLimits()


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def state_event(revision: int = 1, **fields: Any) -> dict[str, Any]:
    data = golden_document() | {"state": {"id": f"state-{revision}", "revision": revision}}
    return {
        "specversion": "1.0",
        "id": f"visual-anomaly/core-versions/state-{revision}",
        "source": "https://registry.example.com/",
        "type": "io.rebundle.bundle_state.created.v1",
        "data": data,
    } | fields


def rollback_event(**fields: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "rollback-1",
        "source": "https://ops.example.com/",
        "type": "io.rebundle.bundle.rollback_requested.v1",
        "data": {
            "bundle": {"name": "visual-anomaly", "target": "core-versions"},
            "to": {"state_id": "state-1"},
        },
    } | fields


@dataclass
class FakeHealthSource:
    """Implements `daemon.http.health.HealthSource` with the values of a test."""

    reported: Sequence[ReadinessCheck] = (ReadinessCheck("journal", ok=True, detail="open"),)
    fatal: str | None = None
    lasts: Sequence[Lasting] = ()

    def fault(self) -> str | None:
        return self.fatal

    def checks(self) -> Sequence[ReadinessCheck]:
        return self.reported

    def lasting(self) -> Sequence[Lasting]:
        return self.lasts


class Requests:
    """The application, and the number of its requests that have ended.

    A client that leaves gets no answer, and its request ends later, because FastAPI runs part of it
    in a thread.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._changed = asyncio.Condition()
        self.ended = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            self.ended += 1
            async with self._changed:
                self._changed.notify_all()

    async def all_ended(self, count: int) -> None:
        """Returns once `count` requests have ended, even if their clients saw no answer."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: self.ended >= count)


@dataclass
class Service:
    port: int
    client: httpx.AsyncClient
    journal: Journal
    stop: Stop
    metrics: Metrics
    health_source: FakeHealthSource
    serving: "asyncio.Task[None]"
    requests: Requests

    async def raw(self, request: bytes, *, finish: bool = False) -> bytes:
        """What the server answers to these bytes, until it closes or resets the connection."""
        answer = bytearray()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            if finish:
                writer.write_eof()
            # A server that closes with bytes unread resets the connection.
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(20):
                    while chunk := await reader.read(65536):
                        answer += chunk
            return bytes(answer)
        finally:
            writer.close()

    async def backlog(self) -> int:
        return (await self.journal.backlog()).events

    def counted(self, metric: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(sample.labels.values()): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == metric
        }


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path,
    *,
    credentials: Credentials = BOTH,
    limits: RequestLimits = DEFAULT_LIMITS,
    journal_limits: JournalLimits = DEFAULT_JOURNAL_LIMITS,
    log: Callable[[Journal], EventLog] = lambda journal: journal,
    journal_seconds: float = 15.0,
    idle_seconds: float = 10.0,
    connections: ConnectionLimits = DEFAULT_CONNECTIONS,
) -> AsyncIterator[Service]:
    runtime, stop, closing, metrics = SystemRuntime(2), Stop(), Stop(), Metrics.create("test", "1")
    health_source = FakeHealthSource()
    journal = await Journal.open(
        tmp_path / "journal.db",
        clock=runtime.now,
        token=runtime.random_id,
        run=True,
        limits=journal_limits,
    )
    intake = Intake(
        "http",
        partial(
            decode_http,
            limits=DecodingLimits(limits.max_body_bytes),
            validate_data=validate_data,
        ),
        log(journal),
        runtime=runtime,
        metrics=metrics,
        stop=stop,
        journal_seconds=journal_seconds,
    )
    app = Requests(
        create_app(
            intake, health_source, metrics, lambda: credentials, limits, runtime=runtime, stop=stop
        )
    )
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    serving = asyncio.create_task(
        serve(
            app,
            sock,
            closing,
            idle_seconds=idle_seconds,
            limits=connections,
            closed=Reporter(metrics, runtime).connection_closed,
        )
    )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False
        ) as client:
            yield Service(port, client, journal, stop, metrics, health_source, serving, app)
    finally:
        closing.request("end of the test")
        await asyncio.wait([serving])
        await journal.close()
        runtime.close()
        if not serving.cancelled():
            serving.result()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(120):
            await scenario

    asyncio.run(limited())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
