"""A network that loses answers: a proxy between the real SDK and a real server, with chosen faults.

The fault of a write has two parts that are chosen separately: when the server gets the request (at
once, never, late), and which answer the client gets. Examples: a write is applied and its answer is
lost; a write arrives after the client has given it up. The proxy also sends answers that no test
can provoke on a server: 409 while another write is in progress, 500 to the loser of a race, 429,
and the ETag that must not have quotes (object-store rules 2 and 3).

It recognises operations and keys, lets other writers act in the middle of a request, and signals
when a late request arrives.

It runs in the test's own event loop, because the SDKs are called in threads. It records the
server's requests and answers, so that a test can distinguish what was applied from what a client
assumes. HTTP/1.1 with content lengths is all that the SDKs use here.
"""

import asyncio
import contextlib
import json
import socket
import struct
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from fnmatch import fnmatchcase
from http import HTTPStatus

from tests.services.processes import LOOPBACK

_HEAD_LIMIT = 1 << 20


class Operation(StrEnum):
    """The operation of a request, in the terms of the store's port."""

    CREATE = auto()
    REPLACE = auto()
    DELETE = auto()
    READ = auto()
    LIST = auto()


class Applied(StrEnum):
    """When the server gets a request."""

    FIRST = auto()
    """Before the client gets any answer."""
    NEVER = auto()
    BEFORE_THE_NEXT = auto()
    """The client is answered at once; the server gets the request before the next write to the key.
    """
    WHEN_RELEASED = auto()
    """The client is answered at once; the server gets the request when the test releases it."""


class Reply(StrEnum):
    """The answer for the client instead of the real one: none, or a status with each dialect's
    code.
    """

    RESET = auto()
    SILENCE = auto()
    UNAVAILABLE = auto()
    BUSY = auto()
    CONFLICT = auto()
    FAILED = auto()
    REFUSED = auto()
    TRUTH = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of a request."""

    applied: Applied
    reply: Reply
    only_losers: bool = False
    """The real answer, unless that is a failed condition."""
    before: Callable[[], Awaitable[object]] | None = None
    """Called before the server gets the request."""
    after: Callable[[], Awaitable[object]] | None = None
    """Called before the client gets the answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """A pending request."""

    operation: Operation
    key: str
    """With the prefix, without the bucket; of a list, its prefix."""
    method: str
    head: bytes
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Passed:
    """An answered request."""

    operation: Operation
    key: str
    status: int

    @property
    def wrote(self) -> bool:
        """Whether it changed something."""
        return (
            self.operation in {Operation.CREATE, Operation.REPLACE, Operation.DELETE}
            and self.status < 300
        )


@dataclass
class Rule:
    """The requests that get a fault: of one operation, with a key like this, `times` of them from
    the `nth` on.
    """

    operation: Operation
    keys: str
    fault: Fault
    nth: int = 1
    times: int = 1
    seen: int = 0

    @property
    def met(self) -> int:
        """How many requests have matched."""
        return max(0, min(self.seen - self.nth + 1, self.times))

    def meets(self, request: Request) -> bool:
        """Whether this request gets the fault. Counts it."""
        if request.operation is not self.operation or not fnmatchcase(request.key, self.keys):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class Dialect(Enum):
    """The protocol of the server."""

    S3 = auto()
    GCS = auto()


@dataclass
class LossyNetwork:
    """A running one."""

    upstream: int
    dialect: Dialect
    silence_seconds: float
    """How long a client waits without an answer.

    Then the connection is closed, because its thread is needed again.
    """
    address: str = ""
    compares_without_quotes: bool = False
    """Whether a condition in quotes never holds."""
    rules: list[Rule] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    _late: list[tuple[Applied, Request]] = field(default_factory=list)
    _closing: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    def on(
        self, operation: Operation, keys: str, fault: Fault, *, nth: int = 1, times: int = 1
    ) -> Rule:
        """Requests like this get the fault from now on. `keys` is a shell pattern."""
        rule = Rule(operation, keys, fault, nth, times)
        self.rules.append(rule)
        return rule

    async def release(self) -> list[Passed]:
        """Let the server get every late request, in the order of sending. Returns its answers."""
        late, self._late = self._late, []
        return [await self._forward_alone(request) for _, request in late]

    def writes(self, keys: str = "*") -> list[Passed]:
        """The writes, in the order of the server's answers."""
        return [
            request for request in self.passed if request.wrote and fnmatchcase(request.key, keys)
        ]

    # ---- one connection

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Serve a client until it leaves, or its connection is closed."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = answers
        upstream: _Upstream | None = None
        try:
            while True:
                request = _parsed(self.dialect, *await _read_request(client, answers))
                upstream = upstream or await _Upstream.open(self.upstream)
                answer = await self._answered(request, upstream)
                if answer is None:
                    return
                answers.write(answer)
                await answers.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            del self._connections[task]
            _hang_up(answers)
            if upstream is not None:
                upstream.close()

    async def close(self) -> None:
        """Close every connection."""
        self._closing.set()
        connections = dict(self._connections)
        for answers in connections.values():
            _hang_up(answers)
        await asyncio.gather(*connections)

    async def _answered(self, request: Request, upstream: "_Upstream") -> bytes | None:
        """The bytes of an answer. None: the connection is closed."""
        if request.operation in {Operation.CREATE, Operation.REPLACE, Operation.DELETE}:
            await self._arrive_before(request)
        if self.compares_without_quotes and request.headers.get("if-match", "").startswith('"'):
            return _refusal(self.dialect, HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
        # Every rule counts, and the first one that is due applies.
        due = [rule.fault for rule in self.rules if rule.meets(request)]
        fault = due[0] if due else Fault(Applied.FIRST, Reply.TRUTH)
        if fault.before is not None:
            await fault.before()
        answer = b""
        match fault.applied:
            case Applied.FIRST:
                status, answer = await self._forward(request, upstream)
                if fault.only_losers and status != HTTPStatus.PRECONDITION_FAILED:
                    return answer
            case Applied.NEVER:
                pass
            case Applied.BEFORE_THE_NEXT | Applied.WHEN_RELEASED:
                self._late.append((fault.applied, request))
        if fault.after is not None:
            await fault.after()
        return await self._replied(fault.reply, answer)

    async def _replied(self, reply: Reply, answer: bytes) -> bytes | None:
        match reply:
            case Reply.RESET:
                return None
            case Reply.SILENCE:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self.silence_seconds)
                return None
            case Reply.UNAVAILABLE:
                return _refusal(self.dialect, HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable")
            case Reply.BUSY:
                is_s3 = self.dialect is Dialect.S3
                status = HTTPStatus.SERVICE_UNAVAILABLE if is_s3 else HTTPStatus.TOO_MANY_REQUESTS
                return _refusal(self.dialect, status, "SlowDown")
            case Reply.CONFLICT:
                return _refusal(self.dialect, HTTPStatus.CONFLICT, "ConditionalRequestConflict")
            case Reply.FAILED:
                return _refusal(self.dialect, HTTPStatus.INTERNAL_SERVER_ERROR, "UnknownError")
            case Reply.REFUSED:
                return _refusal(self.dialect, HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
            case Reply.TRUTH:
                return answer

    async def _arrive_before(self, request: Request) -> None:
        due = [
            (when, late)
            for when, late in self._late
            if when is Applied.BEFORE_THE_NEXT and late.key == request.key
        ]
        self._late = [item for item in self._late if item not in due]
        for _, late in due:
            await self._forward_alone(late)

    async def _forward_alone(self, request: Request) -> Passed:
        upstream = await _Upstream.open(self.upstream)
        try:
            await self._forward(request, upstream)
        finally:
            upstream.close()
        return self.passed[-1]

    async def _forward(self, request: Request, upstream: "_Upstream") -> tuple[int, bytes]:
        status, answer = await upstream.ask(request)
        self.passed.append(Passed(request.operation, request.key, status))
        return status, answer


@contextlib.asynccontextmanager
async def lossy_network(
    upstream: str, dialect: Dialect, silence_seconds: float = 1
) -> AsyncIterator[LossyNetwork]:
    """A proxy to the server at this address, on loopback."""
    network = LossyNetwork(int(upstream.rpartition(":")[2]), dialect, silence_seconds)
    server = await asyncio.start_server(network.serve, LOOPBACK, 0, limit=_HEAD_LIMIT)
    network.address = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    try:
        yield network
    finally:
        server.close()
        await network.close()
        await server.wait_closed()


# ---- HTTP


class _Upstream:
    """A connection to the server."""

    def __init__(self, answers: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        self._answers = answers
        self._requests = requests

    @classmethod
    async def open(cls, port: int) -> "_Upstream":
        return cls(*await asyncio.open_connection(LOOPBACK, port, limit=_HEAD_LIMIT))

    async def ask(self, request: Request) -> tuple[int, bytes]:
        """Status and bytes of the answer."""
        self._requests.write(request.head + request.body)
        head = await self._answers.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if request.method == "HEAD" or status in {204, 304}:
            return status, head
        headers = _headers(head)
        if headers.get("transfer-encoding", "") == "chunked":
            return status, head + await self._chunks()
        return status, head + await self._answers.readexactly(
            int(headers.get("content-length", "0"))
        )

    async def _chunks(self) -> bytes:
        parts = []
        while True:
            line = await self._answers.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            parts += [line, await self._answers.readexactly(size + 2)]
            if size == 0:
                return b"".join(parts)

    def close(self) -> None:
        self._requests.close()


async def _read_request(
    client: asyncio.StreamReader, answers: asyncio.StreamWriter
) -> tuple[bytes, bytes]:
    head = await client.readuntil(b"\r\n\r\n")
    if b"expect: 100-continue" in head.lower():
        answers.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        lines = head.split(b"\r\n")
        head = b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))
    return head, await client.readexactly(int(_headers(head).get("content-length", "0")))


def _headers(head: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in lines}


def _parsed(dialect: Dialect, head: bytes, body: bytes) -> Request:
    method, target, _ = head.decode("latin-1").split(" ", 2)
    url = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    headers = _headers(head)
    parse = _s3 if dialect is Dialect.S3 else _gcs
    operation, key = parse(method, url.path, query, headers, body)
    return Request(operation, key, method, head, body, headers)


def _s3(
    method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], _body: bytes
) -> tuple[Operation, str]:
    key = urllib.parse.unquote(path).lstrip("/").partition("/")[2]
    match method:
        case "PUT":
            return Operation.REPLACE if "if-match" in headers else Operation.CREATE, key
        case "DELETE":
            return Operation.DELETE, key
        case _:
            return (Operation.READ, key) if key else (Operation.LIST, query.get("prefix", ""))


def _gcs(
    method: str, path: str, query: Mapping[str, str], _headers: Mapping[str, str], body: bytes
) -> tuple[Operation, str]:
    key = urllib.parse.unquote(path.partition("/o/")[2])
    match method:
        case "POST":
            # The first part of a multipart upload describes the second one.
            described = body.split(b"\r\n\r\n", 2)[1].rpartition(b"\r\n--")[0]
            is_new = query.get("ifGenerationMatch") == "0"
            return Operation.CREATE if is_new else Operation.REPLACE, json.loads(described)["name"]
        case "DELETE":
            return Operation.DELETE, key
        case _:
            return (Operation.READ, key) if key else (Operation.LIST, query.get("prefix", ""))


def _refusal(dialect: Dialect, status: HTTPStatus, code: str) -> bytes:
    if dialect is Dialect.S3:
        kind, body = (
            "application/xml",
            f"<Error><Code>{code}</Code><Message>by the network</Message></Error>",
        )
    else:
        kind, body = (
            "application/json",
            json.dumps({"error": {"code": int(status), "message": code, "errors": []}}),
        )
    head = f"HTTP/1.1 {int(status)} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _hang_up(answers: asyncio.StreamWriter) -> None:
    """With a reset, so that a client does not take it for the end of an answer."""
    connection = answers.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answers.transport.abort()
