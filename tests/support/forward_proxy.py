"""A forward proxy that leads the names of public hosts to servers on loopback.

A client that honours HTTPS_PROXY and HTTP_PROXY asks for `storage.googleapis.com`, as on a host,
and reaches a test's server. Hosts without a route are refused. TLS ends here, with certificates of
the proxy's authority. Every request is kept.
"""

import contextlib
import http.client
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.services.processes import LOOPBACK
from tests.support.certificates import Authority

_LIMIT_SECONDS = 30
# Of one connection, not of the message.
_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked of a host."""

    scheme: str
    host: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    """Their names in lower case."""


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """A running proxy."""

    address: str
    authority: Authority
    routes: dict[str, str]
    """The address of a server by the name of a host; `*.example.com` stands for all names below."""
    requests: list[Request] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a client that uses this proxy and trusts the authority."""
        return {
            "HTTPS_PROXY": self.address,
            "HTTP_PROXY": self.address,
            "SSL_CERT_FILE": str(self.authority.file),
        }

    def server_of(self, host: str) -> str | None:
        """The address of the server for a host; None if there is no route."""
        wildcard = f"*.{host.partition('.')[2]}"
        return self.routes.get(host) or self.routes.get(wildcard)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ForwardProxy
    tunnel: str | None = None
    """The host of a CONNECT request."""

    def do_CONNECT(self) -> None:
        host = self.path.rpartition(":")[0]
        if self.proxy.server_of(host) is None:
            self.send_error(502, f"no route to {host}")
            return
        self.send_response(200)
        self.end_headers()
        self.tunnel = host
        # A client that refuses the certificate ends the connection: an OSError.
        self.request = self.proxy.authority.context(host).wrap_socket(
            self.connection, server_side=True
        )
        self.setup()
        self.close_connection = False

    def forward(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        host = self.tunnel or url.hostname or ""
        target = self.path if self.tunnel else urllib.parse.urlunsplit(("", "", *url[2:]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        scheme = "https" if self.tunnel else url.scheme
        self.proxy.requests.append(Request(scheme, host, target, headers))
        server = self.proxy.server_of(host)
        if server is None:
            self.send_error(502, f"no route to {host}")
            return
        body = self.rfile.read(int(headers.get("content-length", 0)))
        with contextlib.closing(_connection(server)) as connection:
            connection.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        length = answer.getheader("content-length") if self.command == "HEAD" else len(content)
        self.send_header("content-length", str(length or 0))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = forward  # noqa: N815  # the base class calls them so

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


def _connection(server: str) -> http.client.HTTPConnection:
    url = urllib.parse.urlsplit(server)
    if url.scheme == "https":
        # Its certificate is for another name than its address on loopback.
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection(url.netloc, timeout=_LIMIT_SECONDS, context=context)
    return http.client.HTTPConnection(url.netloc, timeout=_LIMIT_SECONDS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may leave at any time."""


@contextlib.contextmanager
def forward_proxy(authority: Authority, routes: dict[str, str]) -> Iterator[ForwardProxy]:
    """A proxy on loopback."""
    handler = type("Handler", (_Handler,), {})
    with _Server((LOOPBACK, 0), handler) as server:
        proxy = ForwardProxy(f"http://{LOOPBACK}:{server.server_port}", authority, routes)
        handler.proxy = proxy
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
