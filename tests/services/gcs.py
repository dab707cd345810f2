"""A Cloud Storage server (fake-gcs-server, a Go module), and a token endpoint for service accounts.

rclone exchanges an assertion, signed with the key of the service account, for a token. The endpoint
checks the signature and remembers the account. The storage server itself requires no token. Its
address can be given in REBUNDLE_GCS.
"""

import base64
import contextlib
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.services.goprograms import go_module
from tests.services.processes import LOOPBACK, free_port, serving

MODULE = "github.com/fsouza/fake-gcs-server@v1.56.1"
_LIMIT_SECONDS = 30
_EMAIL = "model-download@example.iam.gserviceaccount.com"


@dataclass(frozen=True, slots=True)
class Gcs:
    """A running server."""

    address: str

    @property
    def endpoint(self) -> str:
        """The value for RCLONE_GCS_ENDPOINT."""
        return f"{self.address}/storage/v1/"

    def create_bucket(self, bucket: str) -> None:
        """An empty bucket of this name."""
        self._post("/storage/v1/b", json.dumps({"name": bucket}).encode(), "application/json")

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """An object."""
        self._post(
            f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={urllib.parse.quote(key, safe='')}",
            body,
        )

    def _post(self, path: str, body: bytes, kind: str = "application/octet-stream") -> None:
        headers = {"Content-Type": kind}
        httpx.post(
            self.address + path, content=body, headers=headers, timeout=_LIMIT_SECONDS
        ).raise_for_status()


@contextlib.contextmanager
def gcs(folder: Path) -> Iterator[Gcs]:
    """A server with its objects and its log in `folder`. Raises Unavailable."""
    if address := os.environ.get("REBUNDLE_GCS"):
        yield Gcs(address)
        return
    port = free_port()
    address = f"http://{LOOPBACK}:{port}"
    # Links to the bodies of objects use the public host.
    places = (
        "-host",
        LOOPBACK,
        "-port",
        str(port),
        "-external-url",
        address,
        "-public-host",
        f"{LOOPBACK}:{port}",
    )
    command = [str(go_module(MODULE)), "-scheme", "http", "-backend", "memory", *places]
    with serving(command, port, folder / "gcs.log"):
        yield Gcs(address)


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """The token endpoint, with the only service account that it knows."""

    address: str
    key: rsa.RSAPrivateKey
    let_in: list[str] = field(default_factory=list)
    """The e-mail address in each assertion that was signed with the key."""

    @property
    def service_account(self) -> str:
        """gcs.json, as Google Cloud gives it out."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": "example",
                "private_key_id": "1",
                "private_key": pem.decode(),
                "client_email": _EMAIL,
                "client_id": "1",
                "token_uri": self.address,
            }
        )

    def admit(self, form: str) -> bool:
        """Whether the assertion in a form is signed with the key."""
        (assertion,) = urllib.parse.parse_qs(form)["assertion"]
        signed, _, signature = assertion.rpartition(".")
        try:
            self.key.public_key().verify(
                _decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return False
        self.let_in.append(json.loads(_decoded(signed.partition(".")[2]))["iss"])
        return True


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextlib.contextmanager
def token_endpoint() -> Iterator[TokenEndpoint]:
    """A token endpoint on loopback, with a service account whose key was made for it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            is_known = endpoint.admit(self.rfile.read(int(self.headers["content-length"])).decode())
            token = {"access_token": "t", "token_type": "Bearer", "expires_in": 3600}
            body = json.dumps(token if is_known else {"error": "invalid_grant"}).encode()
            self.send_response(200 if is_known else 400)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests clean."""

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        endpoint = TokenEndpoint(f"http://{LOOPBACK}:{server.server_port}/token", key)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
