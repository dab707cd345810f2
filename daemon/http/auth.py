"""Who may do what: bearer tokens, or, where none is configured, this machine alone.

Publishing, reading and rolling back are separate roles. Without a token the daemon listens on loopback, and a request
must then come from there by itself: not through a proxy, not from a page in a browser on this machine (which can reach
loopback by DNS rebinding or a cross-site post).
"""

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from daemon.http.problems import RequestRefused


class Role(StrEnum):
    """What a sender may do."""

    READ = "read"
    PUBLISH = "publish"
    ROLLBACK = "rollback"


Roles = frozenset[Role]

_PUBLISHER: Final[Roles] = frozenset({Role.READ, Role.PUBLISH})
_ROLLER: Final[Roles] = frozenset({Role.READ, Role.ROLLBACK})
_THROUGH_A_PROXY: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_FROM_A_PAGE: Final = ("origin", "sec-fetch-site")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The configured tokens; never shown."""

    token: str | None = field(default=None, repr=False)
    rollback_token: str | None = field(default=None, repr=False)

    @property
    def policy(self) -> str:
        """Who gets in, in words for the log at start-up."""
        publishing = "with a token" if self.token else "from this machine only, because no token is configured"
        rolling = "with a token of their own" if self.rollback_token else "refused, because no token is configured"
        return f"events {publishing}; rollback requests {rolling}"


def authorised(credentials: Credentials, headers: Mapping[str, Sequence[str]], client: str, server: str) -> Roles:
    """The roles of a request; `headers` by lower-case name, `client` and `server` the connection's own addresses.

    Raises:
        Refused: 401 without a valid token, 403 where none would help.
    """
    match list(headers.get("authorization", ())):
        case [value]:
            return _by_token(credentials, value)
        case [] if credentials.token is None:
            _check_it_is_local(headers, client, server)
            return _PUBLISHER
        case _:
            raise _unauthorised("send the header `Authorization: Bearer <token>` once")


def _by_token(credentials: Credentials, authorization: str) -> Roles:
    scheme, _, given = authorization.partition(" ")
    # Both are always compared, so that the time tells nothing about which one came close.
    publishes = _equal(given, credentials.token)
    rolls_back = _equal(given, credentials.rollback_token)
    if scheme.lower() != "bearer" or not (publishes or rolls_back):
        raise _unauthorised("the token is not one of those configured")
    return _PUBLISHER if publishes else _ROLLER


def _equal(given: str, configured: str | None) -> bool:
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), (configured or "").encode())
    return same and configured is not None


def _unauthorised(detail: str) -> RequestRefused:
    return RequestRefused(
        HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers={"www-authenticate": 'Bearer realm="rebundle"'}
    )


def _check_it_is_local(headers: Mapping[str, Sequence[str]], client: str, server: str) -> None:
    if not (is_loopback(client) and is_loopback(server)):
        raise _forbidden("it comes from another machine")
    hosts = list(headers.get("host", ()))
    if len(hosts) != 1 or not _names_loopback(hosts[0]):
        raise _forbidden("its Host header does not name this machine's loopback address")
    if any(name in headers for name in _THROUGH_A_PROXY):
        raise _forbidden("it comes through a proxy")
    if any(name in headers for name in _FROM_A_PAGE):
        raise _forbidden("it comes from a page in a browser")


def _forbidden(why: str) -> RequestRefused:
    detail = f"no token is configured, and without one this request is refused: {why}. Set http.token_file"
    return RequestRefused(HTTPStatus.FORBIDDEN, "forbidden", detail)


def is_loopback(address: str) -> bool:
    """Whether an IP address, also an IPv4 one in IPv6's clothes, is this machine's own."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _names_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or is_loopback(name)
