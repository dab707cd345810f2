"""An HTTP server whose answers are scripted, for clients: the daemon's own server has its own tests."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer


@contextmanager
def server(answer):
    """A server at the process' edge: `answer(handler)` writes what it likes; the requests are kept."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.received = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.command, self.path, dict(self.headers.items()), self.received))
            answer(self)

        do_POST = do_GET  # noqa: N815  # the base class calls it by this name

        def log_message(self, *_):
            pass

    # Not HTTPServer, which asks for a host name when it binds.
    with TCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}", seen
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
        handler.wfile.write(body)

    return answer
