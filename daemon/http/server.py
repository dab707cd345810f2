"""Runs uvicorn as a coroutine, on a socket that this module binds, with limits for slow clients.

By default uvicorn handles the signals of the process, exits the interpreter if it cannot bind,
trusts forwarding headers from loopback, waits forever for a client that does not send or read,
serves every pipelined request, and lets one peer use all connections. This module changes that.
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

_MAX_HEADER_BYTES: Final = 32 << 10
_READ_BYTES: Final = 16 << 10
"""Bytes to read from one connection before the others get a turn. Processing asyncio's default of
256 KiB can take 0.25 s."""
_MAX_FRAMING_BYTES: Final = 16 << 10
"""Maximum size of the framing of a chunked body, beyond the length of the body. Every chunk costs
time, however small it is."""
_GRACE_SECONDS: Final = 5
_BACKLOG: Final = 1024
DEFAULT_LIMITS: Final = ConnectionLimits()


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 selects a free port.

    Raises:
        ListenFailed: the address is in use, not local, or unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _listening(socket.socket(family, kind, protocol), address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ListenFailed(
            f"cannot listen on {host} port {port} ({reason}): stop the other process that uses it, "
            "or choose another address with --listen HOST:PORT"
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
    """Serve until `stop` is set, then complete the running requests within 5 s. Closes `sock`.

    `idle_seconds` is how long a connection may be open without serving a request whose head is
    complete. `closed` is called with the reason when the server closes a connection: `total` or
    `peer` (the limit that was exceeded), `room` (it was idle and made room for another one),
    `idle`, `pipelining` or `framing`.
    """
    shared = _Shared(idle_seconds, Connections(limits), closed, bytearray(_READ_BYTES))
    # uvicorn creates the protocol objects without arguments of ours, so a subclass carries them.
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
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config, stop)
    try:
        await server.serve(sockets=[sock])
    finally:
        # When it is cancelled, uvicorn leaves its listeners open.
        for listener in getattr(server, "servers", ()):
            listener.close()
        sock.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: Stop) -> None:
        super().__init__(config)
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: `daemon.lifecycle` handles signals."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; uvicorn calls this ten times a second."""
        return await super().on_tick(counter) or self._stop.is_set


@dataclass(frozen=True, slots=True)
class _Shared:
    """The objects that all connections of a server share."""

    idle_seconds: float
    connections: "Connections[_Protocol]"
    closed: Callable[[str], None]
    buffer: bytearray
    """The read buffer. The loop passes its content on before the next read of any connection."""


class _Transport:
    """A transport with a lingering close, so that the client receives the last response.

    Closing a socket with unread data resets the connection, and a reset can destroy a response that
    the client has not read yet. So incoming data is read and discarded for `seconds` after the end
    of the response (RFC 9112, 9.6).
    """

    def __init__(
        self, transport: asyncio.Transport, seconds: float, has_more_to_read: Callable[[], bool]
    ) -> None:
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
    """One connection, with an idle timeout and one request at a time.

    uvicorn has a timeout between requests only: not before the first request, for an incomplete
    head, for the rest of a refused body, or for a response that the client does not read. One
    periodic check covers all of these.
    """

    shared: _Shared
    _SERVING_FACTOR: Final = 6
    """The timeout while serving, as a multiple of `idle_seconds`: the limits of the body and the
    journal expire first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        lingering = _Transport(transport, self.shared.idle_seconds, self._has_more_to_read)
        super().connection_made(cast("asyncio.Transport", lingering))
        self._since = self.loop.time()
        self._served = self.cycle
        self._received = self._body = 0
        self._chunked = self._discarding = False
        match self.shared.connections.open(self, self.client[0] if self.client else ""):
            case TooMany(limit=limit):
                self._abort(limit)
            case admitted:
                if admitted.closed is not None:
                    admitted.closed._abort("room")  # noqa: SLF001  # an object of this class
                self._schedule_check()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.shared.connections.close(self)
        if hasattr(self, "_timer"):
            self._timer.cancel()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  # the loop's signature
        """The buffer for the next read."""
        return self.shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle `nbytes` in the buffer; data after the last request is discarded."""
        if not self._discarding and not self.transport.is_closing():
            self.data_received(bytes(memoryview(self.shared.buffer)[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Parse received data: at most one request; the next one only after the response."""
        if self._has_whole_request():
            self._refuse_the_next_request()
            return
        before = 0 if self.cycle is None else len(self.cycle.body)
        super().data_received(data)
        if self.cycle is not self._served:
            self._begin_request()
            before = 0
        if self._chunked and self._has_too_much_framing(len(data), len(self.cycle.body) - before):
            self._refuse_the_framing()
        elif self._has_whole_request() and self.conn.trailing_data[0]:
            self._refuse_the_next_request()
        elif self.cycle is not None and not self.cycle.response_started:
            # A response before the end of the request body is the last one on this connection: the
            # rest of the body is discarded, not parsed.
            self._announce_close(closes=not self._has_whole_request())

    def send_400_response(self, msg: str) -> None:
        """Respond to invalid HTTP. If it was in a body, that request gets no other response."""
        super().send_400_response(msg)
        if self.cycle is not None and not self.cycle.response_complete:
            # As after a disconnect: the application is still waiting for the body.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _has_whole_request(self) -> bool:
        return self.conn.their_state in {h11.DONE, h11.MUST_CLOSE}

    def _has_more_to_read(self) -> bool:
        return self._discarding or self.conn.their_state in {h11.SEND_BODY, h11.ERROR}

    def _begin_request(self) -> None:
        self._served, self._since = self.cycle, self.loop.time()
        self._received = self._body = 0
        self._chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        self.shared.connections.busy(self)

    def _refuse_the_next_request(self) -> None:
        # No pipelining: pipelined requests would be served before other connections get a turn.
        self._discarding = True
        self.cycle.keep_alive = False
        if not self.cycle.response_started:
            self._announce_close(closes=True)
        self.shared.closed("pipelining")

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        self.shared.connections.idle(self)
        super().on_response_complete()

    def _has_too_much_framing(self, received: int, body: int) -> bool:
        self._received += received
        self._body += body
        # The first read may contain the head.
        return self._received > _READ_BYTES + _MAX_FRAMING_BYTES + 2 * self._body

    def _refuse_the_framing(self) -> None:
        if self.cycle.response_started:
            self._abort("framing")
            return
        self._discarding = True
        self.shared.closed("framing")
        self.send_400_response("the chunks of the body are too small: send larger ones")

    def _announce_close(self, *, closes: bool) -> None:
        headers = self.server_state.default_headers
        self.cycle.default_headers = [*headers, CLOSE_HEADER] if closes else headers

    def _abort(self, reason: str) -> None:
        # Not close(), which would wait for a client that does not read.
        self.transport.abort()
        self._discarding = True
        self.shared.closed(reason)

    def _schedule_check(self) -> None:
        self._timer = self.loop.call_later(self.shared.idle_seconds, self._check_idle)

    def _check_idle(self) -> None:
        serving = self.cycle is not None and not self.cycle.response_complete
        limit = self.shared.idle_seconds * (self._SERVING_FACTOR if serving else 1)
        if self.loop.time() - self._since >= limit:
            self._abort("idle")
        else:
            self._schedule_check()
