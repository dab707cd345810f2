"""The server: uvicorn as one coroutine of ours, on a socket of ours.

Left to itself uvicorn takes the process's signals, exits the interpreter when it cannot bind, trusts forwarding headers
from loopback, waits for ever for a client that sends nothing or reads nothing, serves every request that a client has
sent in advance, and lets one peer have all connections. All of that is undone here.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon.http.connections import ConnectionLimits, Connections, TooMany
from daemon.http.errors import ListenFailed
from daemon.lifecycle import Stop

_MOST_HEADER_BYTES: Final = 32 << 10
_READ_BYTES: Final = 16 << 10
"""What is read from one connection before the others have their turn; the loop's own 256 KiB can take it 0.25 s."""
_MOST_FRAMING_BYTES: Final = 16 << 10
"""What the framing of a chunked body may have beyond the body's own length: each chunk costs, however small it is."""
_GRACE_SECONDS: Final = 5
_BACKLOG: Final = 1024
DEFAULT_LIMITS: Final = ConnectionLimits()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ListenFailed: the address is taken, not ours, or unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _listening(socket.socket(family, kind, protocol), address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ListenFailed(
            f"cannot listen on {host} port {port} ({why}): is another daemon running? Choose with --listen HOST:PORT"
        ) from error


def _listening(sock: socket.socket, address: Any) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


async def serve(
    app: ASGIApp,
    sock: socket.socket,
    stop: Stop,
    *,
    idle_seconds: float = 10.0,
    limits: ConnectionLimits = DEFAULT_LIMITS,
    closed: Callable[[str], None] = lambda _reason: None,
) -> None:
    """Serve until `stop`, then finish the requests under way, for at most 5 s. Closes `sock`.

    `idle_seconds`: how long a connection may be open without a whole request (head) being served. `closed` is called
    with the reason when the server closes a connection: `total` or `peer` (the limit it is above), `room` (it was idle,
    and another one came), `idle`, `pipelining` or `framing`.
    """
    shared = _Shared(idle_seconds, Connections(limits), closed, bytearray(_READ_BYTES))
    # uvicorn makes the protocols, and passes on nothing of ours.
    protocol = type("Protocol", (_Protocol,), {"shared": shared})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config, stop)
    try:
        await server.serve(sockets=[sock])
    finally:
        # Cancelled, uvicorn leaves its listeners open.
        for listener in getattr(server, "servers", ()):
            listener.close()
        sock.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: Stop) -> None:
        super().__init__(config)
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `daemon.lifecycle`'s."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Asked ten times a second whether to end."""
        return await super().on_tick(counter) or self._stop.is_set


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all connections of a server have in common."""

    idle_seconds: float
    connections: "Connections[_Protocol]"
    closed: Callable[[str], None]
    buffer: bytearray
    """Where the loop puts what it has read; it is passed on before the next read."""


class _Transport:
    """A connection's transport, whose end does not destroy the answer before it.

    Closing a socket that has something unread resets the connection, and a reset may overtake the answer on its way
    into the client's hands. So what the client still sends is read and thrown away for `seconds` (RFC 9112, 9.6).
    """

    def __init__(self, transport: asyncio.Transport, seconds: float, has_more_to_read: Callable[[], bool]) -> None:
        self._transport = transport
        self._seconds = seconds
        self._has_more_to_read = has_more_to_read
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._ended or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if self._has_more_to_read():
            self._ended = True
            self._transport.write_eof()
            self._transport.resume_reading()
            asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)
        else:
            self._transport.close()


class _Protocol(H11Protocol, asyncio.BufferedProtocol):
    """One connection: it is not held open for nothing, and costs no more than one request at a time.

    uvicorn has a limit only between requests: not before the first one, not for half a head, not for the rest of a
    body that was refused, not for an answer that nobody reads. A look now and then is enough for all of them.
    """

    shared: _Shared
    _SERVED_AT_MOST: Final = 6
    """Times as long as idle: the body's own limit and the journal's come first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        lingering = _Transport(transport, self.shared.idle_seconds, self._has_more_to_read)
        super().connection_made(cast("asyncio.Transport", lingering))
        self._since = self.loop.time()
        self._served = self.cycle
        self._received = self._body = 0
        self._chunked = self._deaf = False
        match self.shared.connections.open(self, self.client[0] if self.client else ""):
            case TooMany(limit=limit):
                self._abort(limit)
            case admitted:
                if admitted.closed is not None:
                    admitted.closed._abort("room")  # noqa: SLF001  # another one of this class
                self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.shared.connections.close(self)
        if hasattr(self, "_timer"):
            self._timer.cancel()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  # the loop's signature
        """Where the loop reads into."""
        return self.shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read; a connection that has sent enough is not listened to."""
        if not self._deaf and not self.transport.is_closing():
            self.data_received(bytes(memoryview(self.shared.buffer)[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Parse what came in: at most one request, and the next one not before the answer."""
        if self._has_whole_request():
            self._refuse_the_next_request()
            return
        before = 0 if self.cycle is None else len(self.cycle.body)
        super().data_received(data)
        if self.cycle is not self._served:
            self._begin_request()
            before = 0
        if self._chunked:
            self._count_framing(len(data), len(self.cycle.body) - before)
        if self._has_whole_request() and self.conn.trailing_data[0]:
            self._refuse_the_next_request()
        elif self.cycle is not None and not self.cycle.response_started:
            # An answer before the end of its body is the last one: the rest is thrown away, not parsed.
            self._say_whether_it_ends(ends=not self._has_whole_request())

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; a request of which it was to be the body gets no other answer."""
        super().send_400_response(msg)
        if self.cycle is not None and not self.cycle.response_complete:
            # As when the client leaves: the application is still reading the body.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _has_whole_request(self) -> bool:
        return self.conn.their_state in {h11.DONE, h11.MUST_CLOSE}

    def _has_more_to_read(self) -> bool:
        return self._deaf or self.conn.their_state in {h11.SEND_BODY, h11.ERROR}

    def _begin_request(self) -> None:
        self._served, self._since = self.cycle, self.loop.time()
        self._received = self._body = 0
        self._chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        self.shared.connections.busy(self)

    def _refuse_the_next_request(self) -> None:
        # One at a time: what was sent in advance would be served before other connections have their turn.
        self._deaf = True
        self.cycle.keep_alive = False
        if not self.cycle.response_started:
            self._say_whether_it_ends(ends=True)
        self.shared.closed("pipelining")

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        self.shared.connections.idle(self)
        super().on_response_complete()

    def _count_framing(self, received: int, body: int) -> None:
        self._received += received
        self._body += body
        # What is read first may begin with the head.
        if self._received > _READ_BYTES + _MOST_FRAMING_BYTES + 2 * self._body:
            self._abort("framing")

    def _say_whether_it_ends(self, *, ends: bool) -> None:
        headers = self.server_state.default_headers
        self.cycle.default_headers = [*headers, CLOSE_HEADER] if ends else headers

    def _abort(self, reason: str) -> None:
        # Not close(): that would wait for a client that does not read.
        self.transport.abort()
        self._deaf = True
        self.shared.closed(reason)

    def _look_again(self) -> None:
        self._timer = self.loop.call_later(self.shared.idle_seconds, self._look)

    def _look(self) -> None:
        serving = self.cycle is not None and not self.cycle.response_complete
        limit = self.shared.idle_seconds * (self._SERVED_AT_MOST if serving else 1)
        if self.loop.time() - self._since >= limit:
            self._abort("idle")
        else:
            self._look_again()
