"""An S3 server in this process with one chosen defect of real servers.

Tests can start no server with such a defect. Ceph compares ETags without quotes, some servers and
proxies ignore conditions, some check first and write later, some refuse to delete certain keys.

It implements only what the adapter sends, and checks no credentials. It records every request, for
tests that evaluate them.
"""

import contextlib
import hashlib
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import escape

from tests.services.processes import LOOPBACK

BUCKET = "bucket"
_GAP_SECONDS = 0.03


class Defect(Enum):
    NONE = auto()
    IGNORES_CONDITIONS = auto()
    COMPARES_WITHOUT_QUOTES = auto()
    FORBIDS_DELETION = auto()
    FORBIDS_WRITES = auto()
    LOSES_RACES = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived: method, key (empty: of the bucket itself), query, headers in lower
    case.
    """

    method: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Object:
    body: bytes
    metadata: Mapping[str, str]
    at: datetime

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"'


@dataclass
class FaultyS3:
    """The server's side."""

    defect: Defect
    address: str = ""
    objects: dict[str, Object] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, prefix: str = "") -> str:
        """The bucket's URL for the settings."""
        return f"s3://{BUCKET}/{prefix}?endpoint={self.address}&region=us-east-1"

    def refuses(self, key: str, headers: Mapping[str, str]) -> bool:
        """Whether a condition of a write fails."""
        if self.defect is Defect.IGNORES_CONDITIONS:
            return False
        found = self.objects.get(key)
        if headers.get("if-none-match") == "*":
            return found is not None
        wanted = headers.get("if-match")
        if wanted is None:
            return False
        there = "" if found is None else found.etag
        return wanted != (
            there.strip('"') if self.defect is Defect.COMPARES_WITHOUT_QUOTES else there
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server3: FaultyS3

    def do_PUT(self) -> None:
        key, headers = self._arrived()
        assert "aws-chunked" not in headers.get("content-encoding", "")
        body = self.rfile.read(int(headers["content-length"]))
        metadata = {
            name: value for name, value in headers.items() if name.startswith("x-amz-meta-")
        }
        if self.server3.defect is Defect.FORBIDS_WRITES:
            self._error(403, "AccessDenied")
            return
        if self.server3.defect is Defect.LOSES_RACES and not self.server3.refuses(key, headers):
            # A request that passes here has passed, even if other writes follow meanwhile.
            time.sleep(_GAP_SECONDS)
            headers = {}
        with self.server3.lock:
            if self.server3.refuses(key, headers):
                self._error(412, "PreconditionFailed")
                return
            made = self.server3.objects[key] = Object(body, metadata, datetime.now(UTC))
        self._answer(200, headers={"ETag": made.etag})

    def do_GET(self) -> None:
        key, _ = self._arrived()
        if not key:
            self._list()
            return
        found = self.server3.objects.get(key)
        if found is None:
            self._error(404, "NoSuchKey")
        else:
            self._answer(200, found.body, {"ETag": found.etag, **found.metadata})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        key, headers = self._arrived()
        if self.server3.defect is Defect.FORBIDS_DELETION:
            self._error(403, "AccessDenied")
            return
        with self.server3.lock:
            if self.server3.refuses(key, headers):
                self._error(412, "PreconditionFailed")
                return
            self.server3.objects.pop(key, None)
        self._answer(204)

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""

    def _arrived(self) -> tuple[str, Mapping[str, str]]:
        parts = urllib.parse.urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        bucket, _, key = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        assert bucket == BUCKET
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        self.server3.requests.append(Request(self.command, key, query, headers))
        return key, headers

    def _list(self) -> None:
        query = self.server3.requests[-1].query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        with self.server3.lock:
            found = sorted(
                (key, held) for key, held in self.server3.objects.items() if key.startswith(prefix)
            )
        items, folders = "", set()
        for key, held in found:
            rest = key.removeprefix(prefix)
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            items += (
                f"<Contents><Key>{urllib.parse.quote(key)}</Key><ETag>{escape(held.etag)}</ETag><Size>{len(held.body)}</Size>"
                f"<LastModified>{held.at:%Y-%m-%dT%H:%M:%S}.000Z</LastModified></Contents>"
            )
        items += "".join(
            f"<CommonPrefixes><Prefix>{urllib.parse.quote(folder)}</Prefix></CommonPrefixes>"
            for folder in folders
        )
        encoding = "<EncodingType>url</EncodingType>"
        body = f"<ListBucketResult>{encoding}<IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>odd</Message></Error>".encode())

    def _answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    # Many simultaneous clients would wait a second for their second try.
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report everything but a client that has disconnected."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def faulty_s3(defect: Defect, port: int = 0) -> Iterator[FaultyS3]:
    """A server with an empty bucket, on loopback."""
    served = FaultyS3(defect)
    handler = type("Handler", (_Handler,), {"server3": served})
    with _Listening((LOOPBACK, port), handler) as server:
        served.address = f"http://{LOOPBACK}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
