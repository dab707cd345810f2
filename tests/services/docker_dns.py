"""Imitates Docker's embedded DNS for the router: names of services, answers with a TTL of 600 s.

It listens on a free loopback port, because the engine's own address and port 53 need root.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping

from tests.services.processes import LOOPBACK

_TTL_SECONDS = 600
_TYPE_A = 1
_NO_SUCH_NAME = b"\x81\x83"
_ANSWERED = b"\x81\x80"


@contextlib.contextmanager
def docker_dns(zone: Mapping[str, str]) -> Iterator[int]:
    """The UDP port of a server that answers from `zone`, which may be changed meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((LOOPBACK, 0))
        server.settimeout(0.1)
        ended = threading.Event()
        thread = threading.Thread(target=_answer_all, args=(server, zone, ended))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def _answer_all(server: socket.socket, zone: Mapping[str, str], ended: threading.Event) -> None:
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            query, asker = server.recvfrom(2048)
            server.sendto(_answer(query, zone), asker)


def _answer(query: bytes, zone: Mapping[str, str]) -> bytes:
    name, end = _question(query)
    (kind,) = struct.unpack_from("!H", query, end)
    question = query[12 : end + 4]
    address = zone.get(name)
    if address is None:
        return query[:2] + _NO_SUCH_NAME + struct.pack("!HHHH", 1, 0, 0, 0) + question
    records = [
        struct.pack("!HHHIH", 0xC00C, _TYPE_A, 1, _TTL_SECONDS, 4) + socket.inet_aton(address)
    ]
    answers = records if kind == _TYPE_A else []
    return (
        query[:2]
        + _ANSWERED
        + struct.pack("!HHHH", 1, len(answers), 0, 0)
        + question
        + b"".join(answers)
    )


def _question(query: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += length + 1
    return ".".join(labels), at + 1
