"""Durable accepts, one event per request, against bare FastAPI on the same server (P19).

    python -m tests.benchmarks.accepts ours|bare|storing FOLDER     one server; it prints its port

The bare application reads the body and answers; nothing is validated or stored. The storing one
also inserts the body into SQLite, durably, in one transaction with all others that have arrived.
Ours validates the event and stores it durably; no worker publishes it. Each is a process, loaded in
turn by connections that send their next request when they have an answer.
"""

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from fastapi import FastAPI, Request
from starlette.types import ASGIApp

from daemon.changes import validate_data
from daemon.http.app import RequestLimits, create_app
from daemon.http.auth import Credentials
from daemon.http.connections import ConnectionLimits
from daemon.http.intake import Intake
from daemon.http.server import bind, serve
from daemon.lifecycle import Stop, SystemRuntime
from daemon.telemetry import Metrics
from events.dialects.cloudevents import DecodingLimits, decode_http
from events.journal import Journal, JournalLimits
from renderers.values import Scope
from tests.benchmarks.measure import ROOT, cpu_seconds
from tests.support.scenes import model_event

CONNECTIONS = 16
_SECONDS = 2.0
_LIMITS = ConnectionLimits(total=1_000, per_peer=1_000)


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per second, and milliseconds of CPU of the server for each."""

    a_second: float
    cpu: float


def rates(rounds: int) -> Mapping[str, Rate]:
    """Medians of rounds in which the servers are loaded in turn, by their names."""
    samples: dict[str, list[Rate]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder, ExitStack() as servers:
        started = {
            name: servers.enter_context(_server(name, Path(folder, name))) for name in samples
        }
        for number in range(rounds + 1):
            for name, (process, port) in started.items():
                cpu = cpu_seconds(process.pid)
                done = len(load(port, f"{name}-{number}", _SECONDS))
                taken = Rate(done / _SECONDS, (cpu_seconds(process.pid) - cpu) / done * 1e3)
                if number:  # the first round warms up
                    samples[name].append(taken)
    return {
        name: Rate(median(one.a_second for one in taken), median(one.cpu for one in taken))
        for name, taken in samples.items()
    }


@contextmanager
def bare() -> Iterator[int]:
    """The port of the bare application."""
    with (
        tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder,
        _server("bare", Path(folder, "bare")) as (_, port),
    ):
        yield port


@contextmanager
def _server(name: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.benchmarks.accepts", name, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            # The log goes to the same stream.
            yield process, int(next(line for line in process.stdout if line.strip().isdigit()))
        finally:
            process.kill()


def load(port: int, name: str, seconds: float) -> Sequence[float]:
    """The seconds of each request that was answered within a time, over all connections."""

    async def all_connections() -> Sequence[float]:
        until = time.perf_counter() + seconds
        names = [f"{name}-{number}" for number in range(CONNECTIONS)]
        taken = await asyncio.gather(*(_send(port, name, until) for name in names))
        return [each for connection in taken for each in connection]

    return asyncio.run(all_connections())


async def _send(port: int, name: str, until: float) -> Sequence[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken: list[float] = []
    while (begun := time.perf_counter()) < until:
        body = model_event(f"{name}-{len(taken)}", scopes=[Scope("bundle", "target")]).structured()
        head = (
            f"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {len(body)}\r\n"
            "content-type: application/cloudevents+json\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202"), answer
        lines = answer.lower().split(b"\r\n")
        (length,) = (line for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        taken.append(time.perf_counter() - begun)
    writer.close()
    return taken


# -- the servers


class _Healthy:
    """No check is due."""

    def fault(self) -> str | None:
        return None

    def checks(self) -> Sequence[object]:
        return ()

    def lasting(self) -> Sequence[object]:
        return ()


async def _ours(folder: Path) -> None:
    runtime, metrics, stop = SystemRuntime(2), Metrics.create("benchmark", "1"), Stop()
    journal = await Journal.open(
        folder / "journal.db",
        clock=runtime.now,
        token=runtime.random_id,
        run=True,
        limits=JournalLimits(max_unacknowledged=10_000_000),
    )
    decode = partial(decode_http, limits=DecodingLimits(), validate_data=validate_data)
    intake = Intake("http", decode, journal, runtime=runtime, metrics=metrics, stop=stop)
    app = create_app(
        intake,
        _Healthy(),  # type: ignore[arg-type]
        metrics,
        lambda: Credentials(None, None),
        RequestLimits(),
        runtime=runtime,
        stop=stop,
    )
    await _serve(app)


async def _bare(_folder: Path) -> None:
    app = FastAPI()

    @app.post("/v1/events", status_code=202)
    async def accept(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    await _serve(app)


async def _storing(folder: Path) -> None:
    app, loop = FastAPI(), asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1)
    waiting: list[tuple[bytes, asyncio.Future[None]]] = []
    arrived = asyncio.Event()

    def opened() -> sqlite3.Connection:
        db = sqlite3.connect(folder / "bodies.db", isolation_level=None)
        db.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE bodies (body BLOB)"
        )
        return db

    def store(bodies: Sequence[bytes]) -> None:
        db.execute("BEGIN")
        db.executemany("INSERT INTO bodies VALUES (?)", [(body,) for body in bodies])
        db.execute("COMMIT")

    async def store_all() -> None:
        while True:
            await arrived.wait()
            arrived.clear()
            now = waiting[:]
            waiting.clear()
            await loop.run_in_executor(thread, store, [body for body, _ in now])
            for _, stored in now:
                stored.set_result(None)

    db = await loop.run_in_executor(thread, opened)

    @app.post("/v1/events", status_code=202)
    async def accept(request: Request) -> dict[str, int]:
        body, stored = await request.body(), loop.create_future()
        waiting.append((body, stored))
        arrived.set()
        await stored
        return {"bytes": len(body)}

    async with asyncio.TaskGroup() as group:
        group.create_task(store_all())
        await _serve(app)


async def _serve(app: ASGIApp) -> None:
    sock = bind("127.0.0.1", 0)
    print(sock.getsockname()[1], flush=True)
    await serve(app, sock, Stop(), limits=_LIMITS)


SERVERS: Final = {"ours": _ours, "bare": _bare, "storing": _storing}

if __name__ == "__main__":
    kind, place = sys.argv[1:]
    asyncio.run(SERVERS[kind](Path(place)))
