"""Connection limits: which connections stay open, decided without a network."""

from ipaddress import ip_network

import pytest

from daemon.http.connections import Admitted, ConnectionLimits, Connections, TooMany, peer_of


def opened(connections: Connections[str], address: str, *names: str) -> list[object]:
    return [connections.open(name, address) for name in names]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::1", True),
        ("fe80::%eth0", "fe80::1%eth1", True),
        ("", "/run/socket", True),
    ],
)
def test_addresses_of_one_peer(one: str, other: str, *, same: bool) -> None:
    assert (peer_of(one) == peer_of(other)) is same


def test_one_peer_has_half_of_all_connections_by_default() -> None:
    peer = peer_of("192.0.2.1")
    assert ConnectionLimits(total=1000).of_peer(peer) == 500
    assert ConnectionLimits(total=9).of_peer(peer) == 4
    assert ConnectionLimits(total=1).of_peer(peer) == 1
    assert ConnectionLimits(total=1000, per_peer=3).of_peer(peer) == 3
    assert ConnectionLimits(total=10, per_peer=30).of_peer(peer) == 10


def test_a_trusted_proxy_has_no_limit_per_peer() -> None:
    limits = ConnectionLimits(9, 1, (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
    assert limits.of_peer(peer_of("192.0.2.77")) == 9
    assert limits.of_peer(peer_of("::ffff:192.0.2.77")) == 9
    assert limits.of_peer(peer_of("2001:db8::1")) == 9
    assert limits.of_peer(peer_of("192.0.3.1")) == 1
    assert limits.of_peer(peer_of("")) == 1


def test_connections_of_a_trusted_proxy_are_admitted_up_to_the_total_limit() -> None:
    connections: Connections[str] = Connections(
        ConnectionLimits(3, 1, (ip_network("192.0.2.0/24"),))
    )
    assert opened(connections, "192.0.2.77", "a", "b", "c") == [Admitted()] * 3


def test_below_the_limits_every_connection_stays() -> None:
    connections: Connections[str] = Connections(ConnectionLimits(4, 2))
    assert opened(connections, "192.0.2.1", "a", "b") == [Admitted()] * 2
    assert opened(connections, "192.0.2.2", "c", "d") == [Admitted()] * 2
    assert len(connections) == 4


def test_a_peer_above_its_limit_loses_its_longest_idle_connection() -> None:
    connections: Connections[str] = Connections(ConnectionLimits(10, 3))
    opened(connections, "192.0.2.9", "of another")
    opened(connections, "192.0.2.1", "a", "b", "c")
    connections.busy("a")
    connections.idle("a")
    connections.busy("c")
    assert opened(connections, "192.0.2.1", "d", "e") == [Admitted("b"), Admitted("a")]
    assert len(connections) == 4


def test_a_connection_that_becomes_idle_again_is_idle_from_now_on() -> None:
    connections: Connections[str] = Connections(ConnectionLimits(2, 2))
    opened(connections, "192.0.2.1", "a", "b")
    connections.idle("a")
    assert connections.open("c", "192.0.2.1") == Admitted("b")


def test_at_the_total_limit_the_longest_idle_connection_of_any_peer_is_closed() -> None:
    connections: Connections[str] = Connections(ConnectionLimits(3, 3))
    opened(connections, "192.0.2.1", "a", "b")
    opened(connections, "192.0.2.2", "c")
    assert connections.open("d", "192.0.2.3") == Admitted("a")


def test_a_connection_that_serves_a_request_is_never_closed_for_another() -> None:
    connections: Connections[str] = Connections(ConnectionLimits(3, 2))
    opened(connections, "192.0.2.1", "a", "b")
    connections.busy("a")
    connections.busy("b")
    assert connections.open("c", "192.0.2.1") == TooMany("peer")
    assert connections.open("d", "192.0.2.2") == Admitted()
    connections.busy("d")
    assert connections.open("e", "192.0.2.3") == TooMany("total")
    assert len(connections) == 3


def test_a_closed_connection_no_longer_counts() -> None:
    connections: Connections[str] = Connections(ConnectionLimits(2, 1))
    connections.open("a", "192.0.2.1")
    connections.busy("a")
    for _ in range(2):
        connections.close("a")
    assert connections.open("b", "192.0.2.1") == Admitted()
    connections.idle("a")
    connections.busy("a")
    assert connections.open("c", "192.0.2.1") == Admitted("b")
    assert len(connections) == 1


def test_peers_without_connections_use_no_memory() -> None:
    limits = ConnectionLimits(9, 9)
    connections: Connections[str] = Connections(limits)
    for number in range(9):
        connections.open(f"{number}", f"192.0.2.{number}")
    for number in range(9):
        connections.close(f"{number}")
    assert str(vars(connections)) == str(vars(Connections(limits)))
