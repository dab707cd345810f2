"""Authorises requests by bearer token or, if no token is configured, from this machine only.

Publishing, reading and rolling back are separate roles. Without a token the daemon listens on
loopback, and a request must come directly from this machine: not through a proxy, and not from a
web page in a local browser. Such a page can reach loopback by DNS rebinding or a cross-site POST.
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
    """A permission of a client."""

    READ = "read"
    PUBLISH = "publish"
    ROLLBACK = "rollback"


Roles = frozenset[Role]

_PUBLISHER_ROLES: Final[Roles] = frozenset({Role.READ, Role.PUBLISH})
_ROLLBACK_ROLES: Final[Roles] = frozenset({Role.READ, Role.ROLLBACK})
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_BROWSER_HEADERS: Final = ("origin", "sec-fetch-site")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The configured tokens; `repr` does not show them."""

    token: str | None = field(default=None, repr=False)
    rollback_token: str | None = field(default=None, repr=False)

    @property
    def policy(self) -> str:
        """A description of who is authorised, for the log."""
        publish = (
            "with a token"
            if self.token
            else "from this machine only, because no token is configured"
        )
        rollback = (
            "with a separate token"
            if self.rollback_token
            else "refused, because no token is configured"
        )
        return f"events {publish}; rollback requests {rollback}"


def authorised(
    credentials: Credentials, headers: Mapping[str, Sequence[str]], client: str, server: str
) -> Roles:
    """The roles of a request.

    `headers` are by lower-case name; `client` and `server` are the addresses of the connection.

    Raises:
        RequestRefused: 401 without a valid token; 403 if no token is configured and the request is
            not local.
    """
    match list(headers.get("authorization", ())):
        case [value]:
            return _by_token(credentials, value)
        case [] if credentials.token is None:
            _check_local(headers, client, server)
            return _PUBLISHER_ROLES
        case _:
            raise _unauthorised("send the header `Authorization: Bearer <token>` exactly once")


def _by_token(credentials: Credentials, authorization: str) -> Roles:
    scheme, _, token = authorization.partition(" ")
    # Both tokens are always compared, so that the response time does not reveal which is similar.
    publishes = _equal(token, credentials.token)
    rolls_back = _equal(token, credentials.rollback_token)
    if scheme.lower() != "bearer" or not (publishes or rolls_back):
        raise _unauthorised("the token is invalid")
    return _PUBLISHER_ROLES if publishes else _ROLLBACK_ROLES


def _equal(token: str, configured: str | None) -> bool:
    same = hmac.compare_digest(
        token.strip().encode("utf-8", "replace"), (configured or "").encode()
    )
    return same and configured is not None


def _unauthorised(detail: str) -> RequestRefused:
    return RequestRefused(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        detail,
        headers={"www-authenticate": 'Bearer realm="rebundle"'},
    )


def _check_local(headers: Mapping[str, Sequence[str]], client: str, server: str) -> None:
    if not (is_loopback(client) and is_loopback(server)):
        raise _forbidden("it comes from another machine")
    hosts = list(headers.get("host", ()))
    if len(hosts) != 1 or not _names_loopback(hosts[0]):
        raise _forbidden("its Host header does not name this machine's loopback address")
    if any(name in headers for name in _PROXY_HEADERS):
        raise _forbidden("it comes through a proxy")
    if any(name in headers for name in _BROWSER_HEADERS):
        raise _forbidden("it comes from a web page in a browser")


def _forbidden(reason: str) -> RequestRefused:
    detail = f"no token is configured, and this request is not local: {reason}. Set http.token_file"
    return RequestRefused(HTTPStatus.FORBIDDEN, "forbidden", detail)


def is_loopback(address: str) -> bool:
    """Whether an IP address is a loopback address, also an IPv4-mapped IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _names_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or is_loopback(name)
