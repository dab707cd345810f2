"""An HTTP server with scripted answers, for tests of clients."""

import contextlib
import os
import socket
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer


@contextmanager
def server(answer, tls=None):
    """A server in this process.

    `answer(handler)` writes any response; the requests are kept. `tls`: a context.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("expect") == "100-continue":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.received = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.command, self.path, dict(self.headers.items()), self.received))
            answer(self)

        do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815  # the base class calls them by these names

        def log_message(self, *_):
            pass

    # Not HTTPServer, which resolves a host name when it binds.
    class Listening(TCPServer):
        def get_request(self):
            connection, address = super().get_request()
            # A client that refuses the certificate is an OSError here, which the server does not
            # count as a request.
            return (tls.wrap_socket(connection, server_side=True) if tls else connection), address

    with Listening(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{listening.server_address[1]}", seen
        finally:
            listening.shutdown()
            thread.join()


def says(status, body=b"", **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def streams(written, *, most=256 << 20, **headers):
    """An answer without a length that continues until its client leaves.

    `written` gets the number of bytes.
    """

    def answer(handler):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        piece, sent = bytes(1 << 16), 0
        with contextlib.suppress(OSError):
            while sent < most:
                sent += handler.wfile.write(piece)
        written.append(sent)

    return answer


def in_turn(*answers):
    """One answer after the other. The last one repeats."""
    waiting = list(answers)

    def answer(handler):
        (waiting.pop(0) if len(waiting) > 1 else waiting[0])(handler)

    return answer


def by_name(answers):
    """The answer of the first name that follows a slash in the path of the request."""

    def answer(handler):
        next(each for name, each in answers.items() if f"/{name}" in handler.path)(handler)

    return answer


def resets(handler):
    """The request has arrived; the connection is reset instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())


def breaks_off(body, **headers):
    """An answer that is one byte shorter than its declared length."""

    def answer(handler):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body) + 1))
        handler.end_headers()
        handler.wfile.write(body)

    return answer
