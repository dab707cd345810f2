"""A real server of Azure Blob Storage: Azurite, Microsoft's own emulator, an npm package.

It checks the signature of a shared key. Of an OAuth token it checks issuer, audience and times, not
the signature. Its accounts are known by the first label of the host, as in Azure.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import ssl
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from tests.services.environments import npm_environment
from tests.services.processes import LOOPBACK, free_port, serving
from tests.services.tools import tool
from tests.support.certificates import Authority

ACCOUNT = "rebundletest"
KEY = base64.b64encode(b"the key of the account in tests").decode()
HOST = f"{ACCOUNT}.blob.core.windows.net"
_VERSION = "2021-08-06"
_LIMIT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Azurite:
    """A running server with the account above."""

    address: str
    """Over TLS; the certificate is for HOST."""

    def create_container(self, container: str) -> None:
        """An empty container of this name."""
        self._put(f"/{container}", {}, b"", query="restype=container")

    def put(self, container: str, key: str, body: bytes) -> None:
        """A blob."""
        path = f"/{container}/{urllib.parse.quote(key)}"
        self._put(path, {"x-ms-blob-type": "BlockBlob"}, body)

    def _put(self, path: str, headers: dict[str, str], body: bytes, query: str = "") -> None:
        ours = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION} | headers
        # https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        length = str(len(body)) if body else ""
        named = "".join(f"{name}:{value}\n" for name, value in sorted(ours.items()))
        resource = f"/{ACCOUNT}{path}" + (f"\n{query.replace('=', ':')}" if query else "")
        signed = "\n".join(["PUT", "", "", length, *[""] * 8, named]) + resource
        signature = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
        ours["authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
        ours["host"] = HOST
        server = urllib.parse.urlsplit(self.address).netloc
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(server, timeout=_LIMIT_SECONDS, context=context)
        with contextlib.closing(connection):
            connection.request("PUT", f"{path}?{query}" if query else path, body, ours)
            answer = connection.getresponse()
            assert answer.status == 201, answer.read()


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    """A server with its log in `folder`. Raises Unavailable."""
    node = tool("node", package="nodejs")
    program = npm_environment("azurite") / "node_modules/azurite/dist/src/blob/main.js"
    port = free_port()
    certificate = str(Authority.create(folder).issue(HOST))
    # rclone sends versions of the protocol that a release of Azurite may not list yet.
    options = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent")
    places = ("--blobHost", LOOPBACK, "--blobPort", str(port))
    tls = ("--oauth", "basic", "--cert", certificate, "--key", certificate)
    command = [str(node), str(program), *options, *places, *tls]
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    accounts = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with serving(command, port, folder / "azurite.log", env=clean | accounts):
        yield Azurite(f"https://{LOOPBACK}:{port}")
