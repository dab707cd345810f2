"""The server on raw sockets: requests that a well-behaved client library cannot send."""

import asyncio
import json
import logging
import signal
import socket
from pathlib import Path

import pytest

from daemon.http.app import RequestLimits
from daemon.http.connections import ConnectionLimits
from daemon.http.errors import ListenFailed
from daemon.http.server import bind
from events.journal import Journal
from events.model import Position
from events.records import Accepted
from tests.unit.daemon.http.service import TOKEN, Service, run, running, state_event


def test_an_address_in_use_is_named_with_a_remedy() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ListenFailed, match=rf"127\.0\.0\.1 port {port} .*Address already in use.*--listen"
        ):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", "x" * 300, "a..b"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(ListenFailed, match="cannot listen on"):
        bind(host, 0)


def test_an_address_can_be_bound_again_right_after_a_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            port = service.port
            # The server closes first, so its side of the connection lingers in the kernel.
            assert await service.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        bind("127.0.0.1", port).close()

    run(scenario())


def test_signals_stay_with_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        async with running(tmp_path) as service:
            await service.client.get("/livez")
            assert [
                signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
            ] == before

    run(scenario())


def test_a_cancelled_server_leaves_no_listener_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            await service.client.get("/livez")
            service.serving.cancel()
            await asyncio.wait([service.serving])
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", service.port)

    run(scenario())


def test_an_answer_does_not_name_the_server_software(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            answer = await service.raw(
                b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            )
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"server:" not in answer.lower()

    run(scenario())


MALFORMED = {
    "no request line": b"\r\n\r\n\r\n",
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    "a header without a colon": b"GET /livez HTTP/1.1\r\nhost: x\r\nbroken\r\n\r\n",
    "a header folded": b"GET /livez HTTP/1.1\r\nhost: x\r\na: b\r\n\x00c\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a negative length": b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "an unknown encoding": b"POST /v1/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
    "a bad chunk": f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
    "transfer-encoding: chunked\r\n\r\nZZ\r\n\r\n".encode(),
    "an endless head": b"GET /livez HTTP/1.1\r\nhost: x\r\na: " + b"x" * 70_000,
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
def test_malformed_http_is_refused_and_its_connection_closed(
    tmp_path: Path, request_bytes: bytes
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=0.3) as service:
            answer = await service.raw(request_bytes)
            assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""
            assert (await service.client.get("/livez")).status_code == 200

    run(scenario())


@pytest.mark.parametrize(
    "spoilt", [b"ZZ\r\n\r\n", b"5\r\nhelloZZ"], ids=["a bad length", "no end of a chunk"]
)
def test_a_body_that_is_not_http_is_answered_once(
    tmp_path: Path, spoilt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(
            tmp_path, limits=RequestLimits(body_seconds=0.5), idle_seconds=100
        ) as service:
            reader, writer = await connected(service)
            writer.write(CHUNKED + b"5\r\nhello\r\n" + spoilt)
            answer = await reader.read()
            assert answer.count(b"HTTP/1.1 ") == 1
            assert answer.startswith(b"HTTP/1.1 400 ")
            while not (rejected := service.counted("rebundle_events_rejected_total")):
                assert (await service.client.get("/livez")).status_code == 200
            assert rejected == {("http", "gone"): 1}, (
                "the application learns at once that nothing more will arrive"
            )
            writer.close()

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert caplog.records == []


SLOW = {
    "sends nothing": b"",
    "sends half a head": b"POST /v1/events HTTP/1.1\r\nhost: x\r\n",
    "asks, then sends half a head": b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HT",
}


@pytest.mark.parametrize("request_bytes", SLOW.values(), ids=SLOW)
def test_an_idle_client_loses_its_connection(tmp_path: Path, request_bytes: bytes) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=0.1) as service:
            answer = await service.raw(request_bytes)
            assert answer.count(b"HTTP/1.1 200 ") == request_bytes.count(b"\r\n\r\n")

    run(scenario())


GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
UNFINISHED = f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 9\r\n\r\n".encode()


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    """The next answer on a connection that stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.partition(b":")[2]))


async def connected(
    service: Service, client: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", service.port, local_addr=(client, 0))


async def closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def test_an_idle_connection_is_closed_for_a_new_one_of_its_peer_and_others_stay(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(
            tmp_path, connections=ConnectionLimits(10, 2), idle_seconds=100
        ) as service:
            other_reader, other = await connected(service, "127.0.0.2")
            held = [await connected(service) for _ in range(2)]
            for reader, writer in held:
                writer.write(GET)
                assert (await one_answer(reader)).startswith(b"HTTP/1.1 200 ")
            late_reader, late = await connected(service)
            late.write(GET)
            assert (await one_answer(late_reader)).startswith(b"HTTP/1.1 200 ")
            assert await closed(held[0][0])
            for reader, writer in ((held[1][0], held[1][1]), (other_reader, other)):
                writer.write(GET)
                assert (await one_answer(reader)).startswith(b"HTTP/1.1 200 ")
            assert service.counted("rebundle_http_connections_closed_total") == {("room",): 1}
            for writer in (late, other, *(item for _, item in held)):
                writer.close()

    run(scenario())


def test_a_peer_whose_connections_are_all_busy_gets_no_more_and_others_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(
            tmp_path, connections=ConnectionLimits(10, 2), idle_seconds=100
        ) as service:
            held = [await connected(service) for _ in range(2)]
            for _, writer in held:
                writer.write(UNFINISHED)
            # They are in progress once a later request of another peer is answered.
            first_reader, first = await connected(service, "127.0.0.3")
            first.write(GET)
            assert await one_answer(first_reader)
            reader, writer = await connected(service)
            assert await closed(reader)
            assert service.counted("rebundle_http_connections_closed_total") == {("peer",): 1}
            other_reader, other = await connected(service, "127.0.0.2")
            other.write(GET)
            assert (await one_answer(other_reader)).startswith(b"HTTP/1.1 200 ")
            for item in (writer, first, other, *(item for _, item in held)):
                item.close()

    run(scenario())


PIPELINED = {
    "in one piece": [GET * 3],
    "half a request behind": [GET + GET[:9]],
    "behind a body": [UNFINISHED + b"123456789" + GET],
}


@pytest.mark.parametrize("pieces", PIPELINED.values(), ids=PIPELINED)
def test_of_requests_sent_in_advance_the_first_is_answered_and_the_connection_closed(
    tmp_path: Path, pieces: list[bytes]
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=100) as service:
            answer = await service.raw(b"".join(pieces))
            assert answer.count(b"HTTP/1.1 ") == 1
            assert b"\r\nconnection: close\r\n" in answer
            assert service.counted("rebundle_http_connections_closed_total") == {("pipelining",): 1}

    run(scenario())


@pytest.mark.parametrize("header", ["", "connection: close\r\n"], ids=["kept", "to be closed"])
def test_a_request_that_arrives_during_another_one_is_not_parsed(
    tmp_path: Path, header: str
) -> None:
    async def scenario() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        class Slow:
            def __init__(self, journal: Journal) -> None:
                self.reject, self.find = journal.reject, journal.find

            async def append(self, arrivals: object, /) -> list[Accepted]:
                asked.set()
                await go_on.wait()
                return [Accepted(Position("journal:test", 1), known=False)]

        async with running(tmp_path, log=Slow, idle_seconds=100) as service:
            reader, writer = await connected(service)
            body = json.dumps(state_event()).encode()
            head = (
                f"POST /v1/events HTTP/1.1\r\nhost: x\r\n{header}authorization: Bearer {TOKEN}\r\n"
            )
            head += (
                f"content-type: application/cloudevents+json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await asked.wait()
            writer.write(GET * 10_000)
            while not service.counted("rebundle_http_connections_closed_total"):
                assert (await service.client.get("/livez")).status_code == 200
            go_on.set()
            assert (await one_answer(reader)).startswith(b"HTTP/1.1 202 ")
            assert await closed(reader)
            writer.close()

    run(scenario())


def test_a_client_that_waits_for_each_answer_keeps_its_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=100) as service:
            reader, writer = await connected(service)
            for _ in range(50):
                writer.write(GET)
                assert (await one_answer(reader)).startswith(b"HTTP/1.1 200 ")
            assert service.counted("rebundle_http_connections_closed_total") == {}
            writer.close()

    run(scenario())


def chunks(size: int, count: int) -> bytes:
    return (f"{size:x}\r\n".encode() + b"x" * size + b"\r\n") * count


CHUNKED = (
    f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
    "content-type: application/cloudevents+json\r\ntransfer-encoding: chunked\r\n\r\n"
).encode()


CLOSING = CHUNKED.replace(b"host: x", b"host: x\r\nconnection: close")


def test_a_body_that_is_nearly_all_framing_is_refused_and_loses_its_connection(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=100) as service:
            reader, writer = await connected(service)
            writer.write(CHUNKED + chunks(1, 50_000) + b"0\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"the chunks of the body are too small: send larger ones" in answer
            writer.close()
            assert service.counted("rebundle_http_connections_closed_total") == {("framing",): 1}
            accepted = await service.raw(CLOSING + chunks(64, 10_000) + b"0\r\n\r\n")
            assert accepted.startswith(b"HTTP/1.1 400 ")

    run(scenario())


REFUSED = {
    "chunked": CHUNKED.replace(TOKEN.encode(), b"another") + chunks(4096, 500),
    "of a length": UNFINISHED.replace(TOKEN.encode(), b"another").replace(b": 9", b": 9999999")
    + b"x" * 2_000_000,
}


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED)
def test_the_answer_to_a_refused_body_arrives_and_the_rest_is_discarded(
    tmp_path: Path, request_bytes: bytes
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=100) as service:
            answer = await service.raw(request_bytes)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"\r\nconnection: close\r\n" in answer

    run(scenario())


def test_a_request_whose_body_arrives_after_its_head_keeps_its_connection(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=100) as service:
            reader, writer = await connected(service)
            writer.write(UNFINISHED)
            # The head has arrived once a later request is answered.
            assert (await service.client.get("/livez")).status_code == 200
            writer.write(b"123456789")
            answer = await one_answer(reader)
            assert answer.startswith(b"HTTP/1.1 415 ")
            assert b"connection: close" not in answer
            writer.write(GET)
            assert (await one_answer(reader)).startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(scenario())


def test_a_client_that_keeps_sending_a_refused_body_loses_its_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=0.2) as service:
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(
                b"POST /v1/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")

            async def drip() -> None:
                while True:
                    writer.write(b"1\r\nx\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)

            with pytest.raises(ConnectionError):
                await drip()
            writer.close()

    run(scenario())


def test_a_stop_answers_the_request_under_way_and_closes_idle_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        rest = await reader.read()
        assert rest.endswith(b"ok\n")
        writer.close()
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", service.port)) != 0

    run(scenario())
