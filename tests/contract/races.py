"""Writers that race for one object of a real server: whole requests on raw sockets, all but the
last byte sent, then the last bytes at once. No SDK is in between, because its pools and threads
would serialise the writers.

A round has one key, one base and `WRITERS` writers with a body each. It must end with exactly one
successful writer, whose body is stored. Every other writer must get a refusal that its server is
declared to use.
"""

import http.client
import json
import socket
import struct
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import boto3
import httpx
from botocore.config import Config

WRITERS = 12
_LIMIT_SECONDS = 30
_SIZES = (1_500, 60_000)
"""Bytes of a young pointer, and of one that is full."""


class Arena(Protocol):
    """A bucket of some server, in the server's own protocol."""

    @property
    def address(self) -> str:
        """`http://host:port`."""
        ...

    def create(self, key: str, body: bytes) -> bytes:
        """The whole request that stores `body` if there is no object."""
        ...

    def replace(self, key: str, body: bytes, version: str) -> bytes:
        """The whole request that stores `body` over exactly this version."""
        ...

    def read(self, key: str) -> tuple[bytes, str]:
        """Body and version."""
        ...


class S3Arena:
    """Presigned PUTs, which S3 accepts from every holder."""

    def __init__(self, address: str, bucket: str, *, access_key: str, secret_key: str) -> None:
        self.address = address
        self._bucket = bucket
        # A checksum of the body could not be signed before there is a body.
        config = Config(signature_version="s3v4", request_checksum_calculation="when_required")
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=config,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def create(self, key: str, body: bytes) -> bytes:
        """See `Arena`."""
        return self._put(key, body, "IfNoneMatch", "If-None-Match", "*")

    def replace(self, key: str, body: bytes, version: str) -> bytes:
        """See `Arena`."""
        return self._put(key, body, "IfMatch", "If-Match", version)

    def read(self, key: str) -> tuple[bytes, str]:
        """See `Arena`; the version is the ETag with its quotes."""
        answer = self._client.get_object(Bucket=self._bucket, Key=key)
        with answer["Body"] as body:
            return body.read(), answer["ETag"]

    def _put(self, key: str, body: bytes, parameter: str, header: str, value: str) -> bytes:
        url = self._client.generate_presigned_url(
            "put_object", Params={"Bucket": self._bucket, "Key": key, parameter: value}
        )
        return _request("PUT", url, {header: value}, body)


class GcsArena:
    """Multipart uploads of the JSON API, like those that the SDK sends for up to 8 MiB."""

    def __init__(self, address: str, bucket: str) -> None:
        self.address = address
        self._bucket = bucket

    def create(self, key: str, body: bytes) -> bytes:
        """See `Arena`."""
        return self.replace(key, body, "0")

    def replace(self, key: str, body: bytes, version: str) -> bytes:
        """See `Arena`."""
        query = urllib.parse.urlencode({"uploadType": "multipart", "ifGenerationMatch": version})
        described = json.dumps({"name": key, "contentType": "application/octet-stream"}).encode()
        parts = b"--part\r\ncontent-type: application/json\r\n\r\n%b\r\n" % described
        parts += b"--part\r\ncontent-type: application/octet-stream\r\n\r\n%b\r\n--part--" % body
        url = f"{self.address}/upload/storage/v1/b/{self._bucket}/o?{query}"
        return _request("POST", url, {"Content-Type": "multipart/related; boundary=part"}, parts)

    def read(self, key: str) -> tuple[bytes, str]:
        """See `Arena`; the version is the generation."""
        url = f"{self.address}/storage/v1/b/{self._bucket}/o/{urllib.parse.quote(key, safe='')}"
        described = httpx.get(url, timeout=_LIMIT_SECONDS).raise_for_status().json()
        body = (
            httpx.get(url, params={"alt": "media"}, timeout=_LIMIT_SECONDS)
            .raise_for_status()
            .content
        )
        return body, str(described["generation"])


@dataclass(frozen=True, slots=True)
class Round:
    """The result of a round: the status and the body of each writer, and the stored body."""

    statuses: tuple[int, ...]
    bodies: tuple[bytes, ...]
    stored: bytes

    def fault(self, losers: frozenset[int]) -> str | None:
        """The fault of the round, if losers may get these statuses."""
        winners = [
            writer for writer, status in enumerate(self.statuses) if status == http.HTTPStatus.OK
        ]
        if len(winners) != 1:
            return f"{len(winners)} of {len(self.statuses)} writers succeeded: {self.statuses}"
        if self.stored != self.bodies[winners[0]]:
            return "the stored body is not that of the successful writer"
        if strange := {status for status in self.statuses if status != http.HTTPStatus.OK} - losers:
            return f"losers got {sorted(strange)}, which this server is not known for"
        return None


def races_to_create(arena: Arena, rounds: int, writers: int = WRITERS) -> list[Round]:
    """Rounds for keys that do not exist."""
    run = uuid4().hex
    ended = []
    for turn in range(rounds):
        key, bodies = f"create/{run}/{turn}", _bodies(turn, writers)
        statuses = _released_together(arena.address, [arena.create(key, body) for body in bodies])
        ended.append(Round(statuses, bodies, arena.read(key)[0]))
    return ended


def races_to_replace(arena: Arena, rounds: int, writers: int = WRITERS) -> list[Round]:
    """Rounds for one object, each over the version of the previous round."""
    key = f"replace/{uuid4().hex}"
    [statuses] = _released_together(arena.address, [arena.create(key, b"start")])
    assert statuses == http.HTTPStatus.OK, statuses
    _, version = arena.read(key)
    ended = []
    for turn in range(rounds):
        bodies = _bodies(turn, writers)
        statuses_of_losers = _released_together(
            arena.address, [arena.replace(key, body, version) for body in bodies]
        )
        stored, version = arena.read(key)
        ended.append(Round(statuses_of_losers, bodies, stored))
    return ended


def faults(ended: Sequence[Round], losers: frozenset[int]) -> list[str]:
    """The faults, round by round."""
    found = ((turn, item.fault(losers)) for turn, item in enumerate(ended))
    return [f"round {turn}: {fault}" for turn, fault in found if fault is not None]


def _bodies(turn: int, writers: int) -> tuple[bytes, ...]:
    size = _SIZES[turn % len(_SIZES)]
    # An ETag is a digest of the body: no two of a run may be equal.
    return tuple(f"{turn} by {writer} ".encode().ljust(size, b".") for writer in range(writers))


def _released_together(address: str, requests: Sequence[bytes]) -> tuple[int, ...]:
    """The statuses of the answers."""
    host, port = urllib.parse.urlsplit(address).hostname, urllib.parse.urlsplit(address).port
    sockets = [socket.create_connection((host, port), _LIMIT_SECONDS) for _ in requests]
    try:
        for item, request in zip(sockets, requests, strict=True):
            item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Closing must leave nothing behind: ten thousand rounds would use up the ports.
            item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            item.sendall(request[:-1])
        for item, request in zip(sockets, requests, strict=True):
            item.send(request[-1:])
        return tuple(map(_status, sockets))
    finally:
        for item in sockets:
            item.close()


def _status(answering: socket.socket) -> int:
    with http.client.HTTPResponse(answering) as answer:
        answer.begin()
        answer.read()
        return answer.status


def _request(method: str, url: str, headers: dict[str, str], body: bytes) -> bytes:
    parts = urllib.parse.urlsplit(url)
    lines = [
        f"{method} {parts.path}?{parts.query} HTTP/1.1",
        f"Host: {parts.netloc}",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
