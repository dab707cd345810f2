"""The server on raw sockets: what a well-behaved client library cannot send."""

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from daemon.http.errors import ListenFailed
from daemon.http.server import bind
from tests.unit.daemon.http.service import TOKEN, run, running


def test_an_address_in_use_is_named_with_a_way_out() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenFailed, match=rf"127\.0\.0\.1 port {port} .*Address already in use.*--listen"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", "x" * 300, "a..b"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(ListenFailed, match="cannot listen on"):
        bind(host, 0)


def test_an_address_can_be_bound_again_right_after_a_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            port = service.port
            # The server closes first, so that its side of the connection lingers in the kernel.
            assert await service.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        bind("127.0.0.1", port).close()

    run(scenario())


def test_signals_stay_with_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        async with running(tmp_path) as service:
            await service.client.get("/livez")
            assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

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


def test_an_answer_does_not_say_what_the_server_is_made_of(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            answer = await service.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
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
def test_malformed_http_is_refused_and_its_connection_closed(tmp_path: Path, request_bytes: bytes) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=0.3) as service:
            answer = await service.raw(request_bytes)
            assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""
            assert (await service.client.get("/livez")).status_code == 200

    run(scenario())


SLOW = {
    "sends nothing": b"",
    "sends half a head": b"POST /v1/events HTTP/1.1\r\nhost: x\r\n",
    "asks, then sends half a head": b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HT",
}


@pytest.mark.parametrize("request_bytes", SLOW.values(), ids=SLOW)
def test_a_client_that_holds_a_connection_for_nothing_loses_it(tmp_path: Path, request_bytes: bytes) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=0.1) as service:
            answer = await service.raw(request_bytes)
            assert answer.count(b"HTTP/1.1 200 ") == request_bytes.count(b"\r\n\r\n")

    run(scenario())


def test_one_connection_too_many_is_closed_and_the_others_are_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, most_connections=2, idle_seconds=100) as service:
            held = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(2)]
            for reader, writer in held:
                writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            assert await service.raw(b"") == b""
            for _, writer in held:
                writer.close()

    run(scenario())


def test_a_client_that_goes_on_sending_a_refused_body_loses_its_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, idle_seconds=0.2) as service:
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(b"POST /v1/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
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
