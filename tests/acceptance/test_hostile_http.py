"""Ten thousand malformed requests of every kind against the real application on a real socket.

No request may be answered with 5xx, leave a traceback in the log or grow the process, and the next
valid event must be accepted as usual. All requests come from one seed, so a failure can be
reproduced.
"""

import asyncio
import copy
import gc
import io
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from daemon.http.app import RequestLimits
from daemon.telemetry import configure_logging
from tests.unit.daemon.http.service import (
    ROLLBACK,
    TOKEN,
    Service,
    rollback_event,
    run,
    running,
    state_event,
)

REQUESTS = 10_000
AT_A_TIME = 16
WARM_UP = 2_000
MOST_GROWTH = 8 << 20

HOSTILE_TEXT = [
    "", " ", "\0", "\n", "\r\nx: y", "$(id)", "${X}", "{{7*7}}", "../../etc/passwd", "'; DROP TABLE events; --", "\u202e",
    "\ud800", "a" * 5000, "😀", "-", "_", "NaN", "%00", "<script>", "s3://", "s3://b/../x", "gs://u:p@b/x", "derived-1",
]  # fmt: skip
HOSTILE_VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, 1e308, [], {}, [[]], [None] * 50, {"": ""}, {"uri": 1}, *HOSTILE_TEXT,
]  # fmt: skip


def request(
    body: bytes,
    *,
    method: str = "POST",
    path: str = "/v1/events",
    token: str | None = TOKEN,
    kind: str | None = "application/cloudevents+json",
    extra: list[tuple[bytes, bytes]] | None = None,
) -> bytes:
    headers: list[tuple[bytes, bytes]] = [(b"host", b"localhost"), (b"connection", b"close")]
    if token is not None:
        headers.append((b"authorization", b"Bearer " + token.encode()))
    if kind is not None:
        headers.append((b"content-type", kind.encode()))
    headers += [*(extra or []), (b"content-length", str(len(body)).encode())]
    lines = [
        f"{method} {path} HTTP/1.1".encode(),
        *(name + b": " + value for name, value in headers),
        b"",
        b"",
    ]
    return b"\r\n".join(lines) + body


def spelled(value: Any) -> bytes:
    return json.dumps(value).encode()


def bytes_flipped(chance: random.Random) -> bytes:
    body = bytearray(spelled(state_event()))
    for _ in range(chance.randint(1, 8)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    # At least one of them is never JSON.
    body[0] = chance.choice(b"\x00\xff[(}x")
    return request(bytes(body))


def cut_short(chance: random.Random) -> bytes:
    whole = request(spelled(state_event()))
    return whole[: chance.randrange(1, len(whole))]


def body_cut(chance: random.Random) -> bytes:
    body = spelled(state_event())
    return request(body[: chance.randrange(len(body))])


def field_spoilt(chance: random.Random) -> bytes:
    event = copy.deepcopy(state_event() if chance.random() < 0.8 else rollback_event())
    *way, last = chance.choice([path for path in places(event) if path != ("time",)])
    at: Any = event
    for step in way:
        at = at[step]
    at[last] = chance.choice(HOSTILE_VALUES)
    event["specversion"] = chance.choice(["0.3", 1, None, "1.0 "])
    return request(spelled(event), token=chance.choice([TOKEN, ROLLBACK]))


def places(tree: Any) -> Iterator[tuple[Any, ...]]:
    children = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for name, child in children:
        yield (name,)
        yield from ((name, *rest) for rest in places(child))


def odd_json(chance: random.Random) -> bytes:
    deep = chance.randint(33, 100_000)
    return request(
        chance.choice(
            [
                b"[" * deep,
                b'{"a":' * deep,
                b'{"id":"1","id":"2"}',
                b'{"specversion":"1.0","data":NaN}',
                b'{"n":' + b"9" * chance.randint(20, 9000) + b"}",
                b"\xef\xbb\xbf{}",
                b'"\\ud800"',
                b"\xff\xfe{\x00}\x00",
                b'{"\\u0000":1}',
                b"1" * 5000,
                b" " * 9000,
                b"nul",
            ]
        )
    )


def odd_batch(chance: random.Random) -> bytes:
    count = chance.choice([101, 1000, 5000])
    body = chance.choice(
        [spelled([{}] * count), spelled([chance.choice(HOSTILE_VALUES), 1]), spelled({}), b"[,]"]
    )
    return request(body, kind="application/cloudevents-batch+json")


def odd_binary(chance: random.Random) -> bytes:
    names = [
        b"ce-id",
        b"ce-source",
        b"ce-type",
        b"ce-specversion",
        b"ce-time",
        b"ce-data",
        b"ce-\xe4",
        b"ce-",
        b"CE-ID",
    ]
    values = [
        b"",
        b"x",
        b"%",
        b"%00",
        b"%ff",
        b"%C3%28",
        b"a" * 3000,
        b'"',
        b"1.0",
        b"\xe4\xf6",
        b"0",
    ]
    extra = [(chance.choice(names), chance.choice(values)) for _ in range(chance.randint(0, 8))]
    return request(spelled({"a": 1}), kind="application/json", extra=extra)


def odd_content_type(chance: random.Random) -> bytes:
    kinds = [
        "text/plain",
        "",
        "a",
        "application/cloudevents+xml",
        "application/json; charset=utf-16",
        ";",
        "multipart/form-data",
    ]
    return request(spelled(state_event()), kind=chance.choice(kinds))


def odd_token(chance: random.Random) -> bytes:
    tokens = [None, "", TOKEN[:-1], TOKEN + "x", "\t", "a" * 9000, "ü", ROLLBACK + ROLLBACK]
    return request(spelled(state_event()), token=chance.choice(tokens))


def odd_path(chance: random.Random) -> bytes:
    paths = [
        "/", "/v1", "/v1/events/", "/v1/events/%00", "/v1/events/%ff%fe", "/v1/events/../../etc/passwd", "/v1/events/" + "a" * 300,
        "//v1/events", "/v1/events?x=%", "/docs", "*", "http://evil/v1/events", "/%", "/v1/events/x%0d%0aa:b", "/metrics/..",
    ]  # fmt: skip
    methods = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW", "POST"]
    path = chance.choice(paths)
    return request(b"", method=chance.choice(methods), path=path)


def too_large(chance: random.Random) -> bytes:
    declared = str(chance.choice([70_000, 10**9, 10**18, "1" * 300])).encode()
    head = request(b"").replace(b"content-length: 0", b"content-length: " + declared)
    chunked = request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    return chance.choice(
        [head, head + b"x" * 70_000, chunked + b"11170\r\n" + b"x" * 70_000 + b"\r\n0\r\n\r\n"]
    )


def broken_http(chance: random.Random) -> bytes:
    return chance.choice(
        [
            bytes(chance.randrange(256) for _ in range(chance.randint(1, 200))),
            b"POST /v1/events HTTP/9.9\r\n\r\n",
            b"POST  /v1/events\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v1/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFFFF\r\n",
            b"GET /v1/events HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /livez HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(5000)) + b"\r\n",
        ]
    )


KINDS: list[Callable[[random.Random], bytes]] = [
    bytes_flipped, cut_short, body_cut, field_spoilt, odd_json, odd_batch, odd_binary, odd_content_type, odd_token, odd_path,
    too_large, broken_http,
]  # fmt: skip


async def answer_to(service: Service, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionError:
        # Closed while the client was still sending: as good as an answer of 400.
        return b""
    finally:
        writer.close()


async def storm(service: Service, first: int, last: int, answers: Counter[str]) -> None:
    numbers = iter(range(first, last))

    async def sender() -> None:
        for number in numbers:
            sent = KINDS[number % len(KINDS)](random.Random(number))
            answer = await answer_to(service, sent)
            status = answer[9:12].decode("latin-1") if answer else "closed"
            assert status == "closed" or (answer.startswith(b"HTTP/1.1 ") and status[0] in "24"), (
                number,
                sent[:200],
                answer,
            )
            assert b"Traceback" not in answer
            answers[status] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(sender())


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.slow
def test_ten_thousand_malformed_requests_change_nothing(tmp_path: Path, log: io.StringIO) -> None:
    async def scenario() -> None:
        answers: Counter[str] = Counter()
        # A short timeout, so that truncated requests end soon.
        limits = RequestLimits(max_body_bytes=64 << 10, body_seconds=0.2)
        async with running(tmp_path, limits=limits, idle_seconds=0.2) as service:
            await storm(service, 0, WARM_UP, answers)
            before = resident_bytes()
            await storm(service, WARM_UP, REQUESTS, answers)
            grown = resident_bytes() - before
            headers = {
                "content-type": "application/cloudevents+json",
                "authorization": f"Bearer {TOKEN}",
            }
            good = await service.client.post("/v1/events", json=state_event(), headers=headers)
            assert good.status_code == 202
            assert await service.backlog() == 1
            assert (await service.client.get("/readyz")).status_code == 200
            assert len(await service.journal.rejected(10_000)) <= 1_000
        assert answers.total() == REQUESTS
        assert {"400", "401", "404", "405", "408", "413", "415", "closed"} <= set(answers), answers
        assert answers["202"] == 0, answers
        assert answers["400"] > REQUESTS / 4, answers
        assert grown < MOST_GROWTH, f"grew by {grown} bytes"
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        assert [
            line for line in lines if line["level"] not in {"info", "debug"} or "exception" in line
        ] == []
        print(dict(answers), f"grew by {grown} bytes")

    run(scenario())
