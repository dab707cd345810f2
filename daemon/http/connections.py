"""How many connections there may be, in all and from one peer, and which of them makes room. Pure bookkeeping.

A stranger must not keep everybody else out by opening connections (ADR 22): each peer has a share, and a connection
that serves no request at the moment makes room for a new one before a new one is refused.
"""

import ipaddress
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

C = TypeVar("C")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_CUSTOMER_BITS: Final = 64
"""The smallest block that a customer gets: one host chooses among all addresses in it (RFC 6177)."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open at a time."""

    most: int = 1000
    """In all."""
    per_peer: int | None = None
    """From one IPv4 address or one IPv6 /64; None: half of all."""
    trusted_proxies: tuple[Network, ...] = ()
    """Peers without a limit of their own: all clients of a proxy share its address."""

    def of_peer(self, peer: Network | None) -> int:
        """The limit of one peer."""
        if peer is not None and any(_contains(proxies, peer) for proxies in self.trusted_proxies):
            return self.most
        return max(1, self.most // 2) if self.per_peer is None else min(self.per_peer, self.most)


def _contains(proxies: Network, peer: Network) -> bool:
    # Not subnet_of: that raises where one of them is IPv4 and the other IPv6.
    return proxies.version == peer.version and peer.network_address in proxies


@dataclass(frozen=True, slots=True)
class Admitted(Generic[C]):
    """A new connection stays."""

    closed: C | None = None
    """The idle connection that has to be closed for it."""


@dataclass(frozen=True, slots=True)
class TooMany:
    """A new connection has to be closed: all that could make room are serving requests."""

    limit: str
    """`total` or `peer`."""


class Connections(Generic[C]):
    """The open connections of a server; every operation takes constant time."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._peers: dict[C, Network | None] = {}
        self._open: Counter[Network | None] = Counter()
        self._idle: OrderedDict[C, None] = OrderedDict()
        self._idle_of: defaultdict[Network | None, OrderedDict[C, None]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return len(self._peers)

    def open(self, connection: C, address: str) -> Admitted[C] | TooMany:
        """Take a new connection in, as idle. One that has to make room is no longer counted when this returns."""
        peer = peer_of(address)
        closed: C | None = None
        if self._open[peer] >= self._limits.of_peer(peer):
            closed = next(iter(self._idle_of[peer]), None)
            if closed is None:
                return TooMany("peer")
        elif len(self._peers) >= self._limits.most:
            closed = next(iter(self._idle), None)
            if closed is None:
                return TooMany("total")
        if closed is not None:
            self.close(closed)
        self._peers[connection] = peer
        self._open[peer] += 1
        self.idle(connection)
        return Admitted(closed)

    def busy(self, connection: C) -> None:
        """A request is being served on it."""
        if connection in self._peers:
            self._idle.pop(connection, None)
            self._idle_of[self._peers[connection]].pop(connection, None)

    def idle(self, connection: C) -> None:
        """No request is being served on it, from now on."""
        if connection in self._peers:
            self.busy(connection)
            self._idle[connection] = None
            self._idle_of[self._peers[connection]][connection] = None

    def close(self, connection: C) -> None:
        """It is gone. Idempotent."""
        self.busy(connection)
        if connection in self._peers:
            peer = self._peers.pop(connection)
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
                del self._idle_of[peer]


def peer_of(address: str) -> Network | None:
    """Who counts as one peer: an IPv4 address, or the /64 of an IPv6 one; None for what is no IP address."""
    try:
        # A scope id names an interface of this host, not another peer.
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return ipaddress.IPv6Network((parsed, _IPV6_CUSTOMER_BITS), strict=False)
        parsed = parsed.ipv4_mapped
    return ipaddress.IPv4Network(parsed)
