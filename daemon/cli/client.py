"""HTTP client for a daemon, built on the standard library. Every call has a timeout.

It follows no redirects, because a redirect could send the token to another server. It ignores the
proxy variables of the environment, because a proxy would see the token.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from daemon.cli.failures import DaemonUnreachable, UsageError

_SECONDS: Final = 30.0
_MOST_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """The daemon's response."""

    status: int
    document: Mapping[str, Any]
    """Empty if the body was not a JSON object."""
    retry_after: str | None = None

    @property
    def detail(self) -> str:
        """The description of the problem."""
        return str(
            self.document.get("detail") or self.document.get("title") or f"HTTP {self.status}"
        )


@dataclass(frozen=True, slots=True)
class DaemonClient:
    """Client of one daemon. `url` is its root, such as http://127.0.0.1:8420."""

    url: str
    seconds: float = _SECONDS
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.query
            or parts.fragment
        ):
            raise UsageError(
                f"{self.url!r} is not a daemon address: expected http://HOST:PORT or https://HOST:PORT"
            )
        if parts.username is not None:
            raise UsageError(
                "the address must not contain a user or password: pass the token with --token-file"
            )

    def get(self, path: str) -> Answer:
        """Send a GET request. Raises DaemonUnreachable."""
        return self._call("GET", path, None, {})

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        """Send a POST request. Raises DaemonUnreachable."""
        return self._call("POST", path, body, {"Content-Type": content_type})

    def _call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        parts = _split(self.url)
        assert parts.hostname is not None
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=self.seconds, context=context
            )
        else:
            connection = http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=self.seconds
            )
        sent = {**headers, "Accept": "application/json"}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, sent)
            answer = connection.getresponse()
            received = answer.read(_MOST_BYTES)
            if answer.length and len(received) < _MOST_BYTES:
                raise http.client.IncompleteRead(received, answer.length)
            return Answer(answer.status, _document(received), answer.getheader("retry-after"))
        except ssl.SSLCertVerificationError as error:
            raise DaemonUnreachable(
                f"the certificate of {self.url} is not trusted ({error.verify_message}): set "
                "SSL_CERT_FILE to the certificate file of its authority"
            ) from error
        except ssl.SSLError as error:
            raise DaemonUnreachable(
                f"{self.url} does not speak TLS ({error.reason or error}): is the address http://, "
                "or the port that of the proxy with TLS?"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DaemonUnreachable(
                f"{self.url} does not answer ({reason}): is `rebundle run` running there?"
            ) from error
        finally:
            connection.close()


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not a valid address: {error}") from error
    return parts


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def local_url(listen: str) -> str:
    """The URL at which this machine reaches a daemon that listens at HOST:PORT."""
    host, _, port = listen.rpartition(":")
    reached = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"http://{reached}:{port}"
