"""The server: uvicorn as one coroutine of ours, on a socket of ours.

Left to itself uvicorn takes the process's signals, exits the interpreter when it cannot bind, trusts forwarding headers
from loopback, and waits for ever for a client that sends nothing or reads nothing. All four are undone here.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon.http.errors import ListenFailed
from daemon.lifecycle import Stop

MOST_CONNECTIONS: Final = 1_000
_MOST_HEADER_BYTES: Final = 32 << 10
_GRACE_SECONDS: Final = 5
_BACKLOG: Final = 1024


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
    app: FastAPI,
    sock: socket.socket,
    stop: Stop,
    *,
    idle_seconds: float = 10.0,
    most_connections: int = MOST_CONNECTIONS,
) -> None:
    """Serve until `stop`, then finish the requests under way, for at most 5 s. Closes `sock`.

    `idle_seconds`: how long a connection may stand without a whole request (head) being served.
    """
    # uvicorn makes the protocols, and passes on nothing of ours.
    protocol = type("Protocol", (_Protocol,), {"idle_seconds": idle_seconds, "most_connections": most_connections})
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


class _Protocol(H11Protocol):
    """One connection that nobody holds open for nothing.

    uvicorn has a limit only between requests: not before the first one, not for half a head, not for the rest of a
    body that was refused, not for an answer that nobody reads. A look now and then is enough for all of them.
    """

    idle_seconds: float
    most_connections: int
    _SERVED_AT_MOST: Final = 6
    """Times as long as idle: the body's own limit and the journal's come first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._since = self.loop.time()
        self._served = self.cycle
        if len(self.connections) > self.most_connections:
            transport.abort()
        else:
            self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if hasattr(self, "_timer"):
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not self._served:
            self._served, self._since = self.cycle, self.loop.time()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def _look_again(self) -> None:
        self._timer = self.loop.call_later(self.idle_seconds, self._look)

    def _look(self) -> None:
        serving = self.cycle is not None and not self.cycle.response_complete
        limit = self.idle_seconds * (self._SERVED_AT_MOST if serving else 1)
        if self.loop.time() - self._since >= limit:
            # Not close(): that would wait for a client that does not read.
            self.transport.abort()
        else:
            self._look_again()
