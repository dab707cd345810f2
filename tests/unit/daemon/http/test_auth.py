"""Authorisation: which role a request has, without a network."""

import pytest

from daemon.http.auth import Credentials, Role, authorised, is_loopback
from daemon.http.problems import RequestRefused

TOKEN, ROLLBACK = "token-of-those-who-publish", "token-of-those-who-roll-back"
BOTH = Credentials(TOKEN, ROLLBACK)
ONLY_ROLLBACK = Credentials(None, ROLLBACK)
NEITHER = Credentials()
LOCAL = {"host": ["localhost"]}


def roles(
    credentials: Credentials,
    *authorization: str,
    client: str = "127.0.0.1",
    server: str = "127.0.0.1",
) -> set[Role] | int:
    headers = LOCAL | ({"authorization": list(authorization)} if authorization else {})
    try:
        return set(authorised(credentials, headers, client, server))
    except RequestRefused as refused:
        return int(refused.status)


PUBLISHER, ROLLER = {Role.READ, Role.PUBLISH}, {Role.READ, Role.ROLLBACK}


@pytest.mark.parametrize(
    ("credentials", "authorization", "expected"),
    [
        (BOTH, [f"Bearer {TOKEN}"], PUBLISHER),
        (BOTH, [f"bearer {TOKEN}"], PUBLISHER),
        (BOTH, [f"Bearer {ROLLBACK}"], ROLLER),
        (BOTH, [], 401),
        (BOTH, ["Bearer"], 401),
        (BOTH, ["Bearer "], 401),
        (BOTH, [f"Basic {TOKEN}"], 401),
        (BOTH, [f"Bearer {TOKEN}", f"Bearer {TOKEN}"], 401),
        (BOTH, [f"Bearer {TOKEN}\udcff"], 401),
        (BOTH, ["Bearer ü"], 401),
        (Credentials(TOKEN), [f"Bearer {ROLLBACK}"], 401),
        (Credentials(TOKEN), ["Bearer "], 401),
        (ONLY_ROLLBACK, [f"Bearer {ROLLBACK}"], ROLLER),
        (ONLY_ROLLBACK, [], PUBLISHER),
        (ONLY_ROLLBACK, ["Bearer "], 401),
        (NEITHER, [], PUBLISHER),
        (NEITHER, ["Bearer "], 401),
    ],
)
def test_roles_come_from_the_token(
    credentials: Credentials, authorization: list[str], expected: object
) -> None:
    assert roles(credentials, *authorization) == expected


@pytest.mark.parametrize(
    ("client", "server", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", PUBLISHER),
        ("::1", "::1", PUBLISHER),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", PUBLISHER),
        ("192.0.2.1", "127.0.0.1", 403),
        ("127.0.0.1", "192.0.2.1", 403),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1", 403),
        ("", "", 403),
    ],
)
def test_without_a_token_both_ends_must_be_loopback(
    client: str, server: str, expected: object
) -> None:
    assert roles(NEITHER, client=client, server=server) == expected


@pytest.mark.parametrize("client", ["127.0.0.1", "192.0.2.1"])
def test_a_token_counts_from_anywhere_and_is_needed_from_everywhere(client: str) -> None:
    assert roles(BOTH, f"Bearer {TOKEN}", client=client, server="192.0.2.7") == PUBLISHER
    assert roles(BOTH, client=client) == 401


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8420", "127.0.0.1", "127.8.8.8:1", "[::1]", "[::1]:8420"]
)
def test_without_a_token_the_host_header_may_name_loopback(host: str) -> None:
    assert authorised(NEITHER, {"host": [host]}, "127.0.0.1", "127.0.0.1")


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["localhost", "localhost"],
        [""],
        ["evil.example"],
        ["localhost.evil.example"],
        ["192.0.2.1"],
        ["[::2]"],
        ["::1"],
    ],
)
def test_without_a_token_any_other_host_header_is_refused(hosts: list[str]) -> None:
    with pytest.raises(RequestRefused, match="Host header"):
        authorised(NEITHER, {"host": hosts}, "127.0.0.1", "127.0.0.1")


@pytest.mark.parametrize(
    "header",
    [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-real-ip",
        "via",
        "origin",
        "sec-fetch-site",
    ],
)
def test_without_a_token_proxies_and_pages_are_refused(header: str) -> None:
    with pytest.raises(RequestRefused, match=r"proxy|browser"):
        authorised(NEITHER, LOCAL | {header: [""]}, "127.0.0.1", "127.0.0.1")


def test_credentials_are_never_shown_and_their_policy_is_reported() -> None:
    assert TOKEN not in repr(BOTH)
    assert ROLLBACK not in repr(BOTH)
    assert "this machine only" in NEITHER.policy
    assert "this machine only" not in BOTH.policy
    assert TOKEN not in BOTH.policy


def test_a_host_name_is_not_an_address() -> None:
    assert not is_loopback("localhost")
