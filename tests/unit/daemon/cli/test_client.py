"""The HTTP client of the command line: requests, tokens and unreachable daemons."""

import socket

import pytest

from daemon.cli.client import DaemonClient, local_url
from daemon.cli.failures import DaemonUnreachable, UsageError
from tests.support.certificates import self_signed
from tests.support.scripted_http import says, server


def test_a_post_carries_token_type_and_body_below_the_roots_path():
    with server(says(202, b'{"events": []}')) as (url, seen):
        answer = DaemonClient(f"{url}/rebundle/", token="t" * 16).post(
            "/v1/events", b"{}", "application/cloudevents+json"
        )

    ((method, path, headers, body),) = seen
    assert (method, path, body) == ("POST", "/rebundle/v1/events", b"{}")
    assert headers["Authorization"] == "Bearer " + "t" * 16
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert (answer.status, answer.document) == (202, {"events": []})


def test_without_a_token_none_is_sent():
    with server(says(200)) as (url, seen):
        DaemonClient(url).get("/livez")

    assert "Authorization" not in seen[0][2]


def test_a_redirect_is_not_followed():
    with server(says(307, location="http://127.0.0.1:1/")) as (url, seen):
        assert DaemonClient(url, token="t" * 16).get("/livez").status == 307

    assert len(seen) == 1


def test_a_proxy_of_the_environment_is_not_used(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    with server(says(200)) as (url, _):
        assert DaemonClient(url).get("/livez").status == 200


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"detail": "why"}', "why"),
        (b'{"title": "what"}', "what"),
        (b"<html>", "HTTP 500"),
        (b"[1]", "HTTP 500"),
    ],
)
def test_the_detail_is_the_message_of_the_problem_document(body, detail):
    with server(says(500, body)) as (url, _):
        assert DaemonClient(url).get("/x").detail == detail


def test_a_refused_connection_is_unreachable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        with pytest.raises(DaemonUnreachable, match="rebundle run"):
            DaemonClient(url).get("/livez")


def test_an_answer_that_is_not_http_is_unreachable():
    def garbage(handler):
        handler.wfile.write(b"220 smtp ready\r\n")

    with server(garbage) as (url, _), pytest.raises(DaemonUnreachable):
        DaemonClient(url).get("/livez")


def test_a_server_without_tls_and_an_untrusted_one_are_named(tmp_path):
    with server(says(200)) as (url, _):
        address = url.replace("http://", "https://")
        with pytest.raises(DaemonUnreachable, match=r"does not speak TLS .*: is the address http:"):
            DaemonClient(address).get("/livez")
    tls, _ = self_signed(tmp_path)
    with server(says(200), tls) as (url, _):
        address = url.replace("http://", "https://")
        with pytest.raises(DaemonUnreachable, match=r"is not trusted .*: set SSL_CERT_FILE"):
            DaemonClient(address).get("/livez")


def test_silence_is_unreachable_after_the_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(DaemonUnreachable, match="timed out"):
            DaemonClient(url, seconds=0.05).get("/livez")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8420",
        "ftp://host",
        "http://",
        "http://user:pw@host",
        "http://host?x=1",
        "http://host:port",
        "http://[::1",
    ],
)
def test_an_invalid_address_is_a_usage_error(url):
    with pytest.raises(UsageError):
        DaemonClient(url).get("/livez")


def test_a_token_is_never_shown():
    assert "secret" not in repr(DaemonClient("http://host", token="secret"))


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8420", "http://127.0.0.1:8420"),
        ("0.0.0.0:1", "http://127.0.0.1:1"),
        ("[::]:1", "http://[::1]:1"),
        ("[::1]:2", "http://[::1]:2"),
    ],
)
def test_a_wildcard_address_is_reached_over_loopback(listen, url):
    assert local_url(listen) == url
