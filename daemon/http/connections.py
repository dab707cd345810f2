"""Limits the number of connections, in total and per peer. Pure bookkeeping.

A client must not exclude others by opening connections (ADR 22). Each peer has a share of the
connections. An idle connection is closed for a new one before a new one is refused.
"""

import ipaddress
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

C = TypeVar("C")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_CUSTOMER_BITS: Final = 64
"""The smallest block assigned to a customer: one host can use any address in it (RFC 6177)."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The maximum number of open connections."""

    total: int = 1000
    per_peer: int | None = None
    """From one IPv4 address or one IPv6 /64; None: half of the total."""
    trusted_proxies: tuple[Network, ...] = ()
    """Peers without a per-peer limit: all clients of a proxy share its address."""

    def of_peer(self, peer: Network | None) -> int:
        """The limit of one peer."""
        if peer is not None and any(_contains(proxies, peer) for proxies in self.trusted_proxies):
            return self.total
        return max(1, self.total // 2) if self.per_peer is None else min(self.per_peer, self.total)


def _contains(proxies: Network, peer: Network) -> bool:
    # Not subnet_of, which raises if one network is IPv4 and the other IPv6.
    return proxies.version == peer.version and peer.network_address in proxies


@dataclass(frozen=True, slots=True)
class Admitted(Generic[C]):
    """The new connection is admitted."""

    closed: C | None = None
    """The idle connection to close for it."""


@dataclass(frozen=True, slots=True)
class TooMany:
    """The new connection must be closed, because all others within the limit serve requests."""

    limit: str
    """`total` or `peer`."""


class Connections(Generic[C]):
    """The open connections of a server. Every operation takes constant time."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._peers: dict[C, Network | None] = {}
        self._open: Counter[Network | None] = Counter()
        self._idle: OrderedDict[C, None] = OrderedDict()
        self._idle_of: defaultdict[Network | None, OrderedDict[C, None]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return len(self._peers)

    def open(self, connection: C, address: str) -> Admitted[C] | TooMany:
        """Add a new connection as idle. A connection to close for it is no longer counted."""
        peer = peer_of(address)
        closed: C | None = None
        if self._open[peer] >= self._limits.of_peer(peer):
            closed = next(iter(self._idle_of[peer]), None)
            if closed is None:
                return TooMany("peer")
        elif len(self._peers) >= self._limits.total:
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
        """Mark a connection as serving a request."""
        if connection in self._peers:
            self._idle.pop(connection, None)
            self._idle_of[self._peers[connection]].pop(connection, None)

    def idle(self, connection: C) -> None:
        """Mark a connection as idle since now."""
        if connection in self._peers:
            self.busy(connection)
            self._idle[connection] = None
            self._idle_of[self._peers[connection]][connection] = None

    def close(self, connection: C) -> None:
        """Remove a connection. Idempotent."""
        self.busy(connection)
        if connection in self._peers:
            peer = self._peers.pop(connection)
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
                del self._idle_of[peer]


def peer_of(address: str) -> Network | None:
    """The peer of an address: an IPv4 address, or the /64 of an IPv6 one; None if it is neither."""
    try:
        # The scope id names an interface of this host; it does not distinguish peers.
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return ipaddress.IPv6Network((parsed, _IPV6_CUSTOMER_BITS), strict=False)
        parsed = parsed.ipv4_mapped
    return ipaddress.IPv4Network(parsed)
