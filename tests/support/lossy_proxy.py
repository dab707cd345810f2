"""An HTTP proxy between an SDK and a real server that loses, delays and invents answers, as networks and servers do.

A `Rule` names requests and what becomes of them: the server gets the request before the client is told (`AFTER` it was
applied), never (`BEFORE`), or once the test says so (`LATE`); the client is told nothing and cut off (`RESET`), nothing
and kept waiting (`STALL`), or something else (`Told`). Everything that comes by is counted, in order.

It speaks HTTP/1.1 with lengths, in the event loop of the test. What it does is known from its rules alone; what is
stored is asked of the server, never through here.
"""

import asyncio
import contextlib
import json
import re
import urllib.parse
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus

from tests.services.processes import LOOPBACK

_LIMIT = 1 << 20
ALWAYS = 1 << 30


class When(Enum):
    """When the server gets a request, beside what its client is told."""

    BEFORE = auto()
    """Never: the client is told before it was applied."""
    AFTER = auto()
    """At once: the client is told after it was applied."""
    LATE = auto()
    """When `LossyProxy.release` is called."""


class Silence(Enum):
    """A client that gets no answer."""

    RESET = auto()
    STALL = auto()


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that the server did not give, with the error's code as S3 words it."""

    status: int
    code: str = "InternalError"


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of a request."""

    when: When
    told: Silence | Told


@dataclass(slots=True)
class Rule:
    """Which requests a fault hits: by method, by a pattern in `key?query`, from the nth on, so many times."""

    method: str
    pattern: str
    fault: Fault
    nth: int = 1
    times: int = 1
    header: str = ""
    """A pattern in the head of the request."""
    upon: int | None = None
    """Only when the server has answered with this status (with `When.AFTER`)."""
    once: "Rule | None" = None
    """Only once this other rule has hit."""
    matched: int = 0
    hits: int = 0

    def takes(self, request: "Request") -> bool:
        """Whether it is this request's turn."""
        if request.method != self.method or not re.search(self.pattern, request.subject):
            return False
        if self.once is not None and not self.once.hits:
            return False
        if not re.search(self.header, request.head.decode("latin-1"), re.IGNORECASE):
            return False
        self.matched += 1
        return self.matched >= self.nth and self.hits < self.times


@dataclass(frozen=True, slots=True)
class Request:
    """One that came by."""

    method: str
    subject: str
    """Key, in GCS's words or S3's, and query: `/bucket/a/pointer.json?x=1`."""
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)


class _Cut(Exception):
    """The client's connection is to be reset."""


class LossyProxy:
    """A running one; `lossy_proxy` starts it."""

    def __init__(self, upstream: str, seconds: float) -> None:
        self._upstream = urllib.parse.urlsplit(upstream)
        self._seconds = seconds
        self._released = asyncio.Event()
        self._late: list[asyncio.Task[bytes]] = []
        self.address = ""
        self.rules: list[Rule] = []
        self.requests: list[Request] = []
        self.late_answers: list[int] = []

    async def release(self) -> None:
        """What was held goes to the server now, and is answered; whoever was kept waiting is cut off."""
        self._released.set()
        self.late_answers += [_status(answer) for answer in await asyncio.gather(*self._late)]
        self._late.clear()

    async def connection(self, client: asyncio.StreamReader, answering: asyncio.StreamWriter) -> None:
        """Everything that one client's connection asks for."""
        try:
            while True:
                request = await _request(client, answering)
                self.requests.append(request)
                await asyncio.sleep(self._seconds)
                answering.write(await self._answer(request))
                await answering.drain()
        except _Cut:
            answering.transport.abort()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            answering.close()

    async def _answer(self, request: Request) -> bytes:
        rule = next((rule for rule in self.rules if rule.takes(request)), None)
        if rule is None:
            return await self._forward(request)
        match rule.fault.when:
            case When.AFTER:
                answer = await self._forward(request)
                if rule.upon not in {None, _status(answer)}:
                    return answer
            case When.LATE:
                self._late.append(asyncio.create_task(self._forward_late(request)))
            case When.BEFORE:
                pass
        rule.hits += 1
        return await self._told(rule.fault.told)

    async def _told(self, told: Silence | Told) -> bytes:
        if isinstance(told, Told):
            return _invented(told)
        if told is Silence.STALL:
            await self._released.wait()
        raise _Cut

    async def _forward_late(self, request: Request) -> bytes:
        await self._released.wait()
        return await self._forward(request)

    async def _forward(self, request: Request) -> bytes:
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port, limit=_LIMIT)
        try:
            writer.write(request.head + request.body)
            head = await _until_blank(reader)
            return head + await _body(reader, head, is_head=request.method == "HEAD")
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def lossy_proxy(upstream: str, seconds: float = 0) -> AsyncIterator[LossyProxy]:
    """A way to the server at the address `upstream`; each request takes so many seconds longer."""
    proxy = LossyProxy(upstream, seconds)
    clients: set[asyncio.Task[None]] = set()

    def connected(client: asyncio.StreamReader, answering: asyncio.StreamWriter) -> None:
        clients.add(asyncio.create_task(proxy.connection(client, answering)))

    server = await asyncio.start_server(connected, LOOPBACK, 0, limit=_LIMIT)
    proxy.address = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.release()
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _request(client: asyncio.StreamReader, answering: asyncio.StreamWriter) -> Request:
    head = await _until_blank(client)
    if b"\r\nexpect:" in head.lower():
        answering.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
    body = await client.readexactly(_length(head))
    method, target = head.decode("latin-1").split(" ", 2)[:2]
    return Request(method, _subject(target, body), head, body)


def _subject(target: str, body: bytes) -> str:
    path, _, query = target.partition("?")
    if path.startswith("/upload/"):
        # GCS has the name in the first part of the body.
        named = re.search(rb'"name": ?("(?:[^"\\]|\\.)*")', body)
        path = f"{path}/{json.loads(named[1])}" if named else path
    return urllib.parse.unquote(f"{path}?{query}")


def _until_blank(reader: asyncio.StreamReader) -> Coroutine[None, None, bytes]:
    return reader.readuntil(b"\r\n\r\n")


async def _body(reader: asyncio.StreamReader, head: bytes, *, is_head: bool) -> bytes:
    if is_head or _status(head) in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return b""
    if b"\r\ntransfer-encoding: chunked" in head.lower():
        parts = []
        while not parts or parts[-2] != b"0\r\n":
            line = await reader.readuntil(b"\r\n")
            parts += [line, await reader.readexactly(int(line.split(b";")[0], 16) + 2)]
        return b"".join(parts)
    return await reader.readexactly(_length(head))


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def _invented(told: Told) -> bytes:
    body = f"<Error><Code>{told.code}</Code><Message>on the way</Message></Error>".encode()
    reason = HTTPStatus(told.status).phrase
    return (
        f"HTTP/1.1 {told.status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
