"""A proxy to a server, as a separate process: it delays every request by so many milliseconds, and
records it.

    python -m tests.benchmarks.wire PORT UPSTREAM_PORT MILLISECONDS

`GET /-/requests` returns the record as JSON and empties it. For each request it has the times of
its arrival and of the end of its answer, method, path, and the bytes of both bodies. It supports
HTTP/1.1 with lengths, as used by the SDKs.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.services.processes import LOOPBACK, free_port, serving

_RECORD = "/-/requests"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that passed the proxy. Times in seconds of one clock."""

    begun: float
    ended: float
    method: str
    path: str
    sent: int
    received: int


def in_a_row(requests: Sequence[Request]) -> int:
    """At least how many of them had to wait for one another: the longest run without overlap."""
    count, until = 0, float("-inf")
    for request in sorted(requests, key=lambda item: item.ended):
        if request.begun >= until:
            count, until = count + 1, request.ended
    return count


@dataclass(frozen=True, slots=True)
class Wire:
    """A running proxy."""

    address: str

    def taken(self) -> list[Request]:
        """Every request since the last call."""
        return [Request(*item) for item in httpx.get(self.address + _RECORD, timeout=30).json()]


@contextlib.contextmanager
def wire(upstream: str, milliseconds: float, log: Path) -> Iterator[Wire]:
    """A proxy to the server at this address."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.wire",
        str(port),
        upstream.rpartition(":")[2],
        str(milliseconds),
    ]
    with serving(command, port, log):
        yield Wire(f"http://{LOOPBACK}:{port}")


class _Server:
    def __init__(self, upstream: int, seconds: float) -> None:
        self._upstream = upstream
        self._seconds = seconds
        self._requests: list[tuple[float, float, str, str, int, int]] = []

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self._connection, LOOPBACK, port, limit=1 << 20)
        async with server:
            await server.serve_forever()

    async def _connection(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                head = await client.readuntil(b"\r\n\r\n")
                begun = time.perf_counter()
                method, path, _ = head.split(b" ", 2)
                if path == _RECORD.encode():
                    await self._tell(answer)
                    continue
                if b"expect: 100-continue" in head.lower():
                    answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    head = _without(head, b"expect")
                body = await client.readexactly(_length(head))
                await asyncio.sleep(self._seconds)
                upstream = upstream or await asyncio.open_connection(
                    LOOPBACK, self._upstream, limit=1 << 20
                )
                upstream[1].write(head + body)
                record, received = await _answer(upstream[0], method == b"HEAD")
                self._requests.append(
                    (
                        begun,
                        time.perf_counter(),
                        method.decode(),
                        path.decode(),
                        len(body),
                        len(received),
                    )
                )
                answer.write(record + received)
                await answer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            answer.close()
            if upstream:
                upstream[1].close()

    async def _tell(self, answer: asyncio.StreamWriter) -> None:
        record, self._requests = json.dumps(self._requests).encode(), []
        answer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(record), record))
        await answer.drain()


async def _answer(upstream: asyncio.StreamReader, is_head: bool) -> tuple[bytes, bytes]:
    head = await upstream.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if is_head or status in {204, 304}:
        return head, b""
    if b"transfer-encoding: chunked" in head.lower():
        return head, await _chunks(upstream)
    return head, await upstream.readexactly(_length(head))


async def _chunks(upstream: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        line = await upstream.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await upstream.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _without(head: bytes, name: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(name + b":"))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Server(int(sys.argv[2]), float(sys.argv[3]) / 1000).serve(int(sys.argv[1])))
