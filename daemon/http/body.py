"""Reads a request body within a limit of size and time, before anything is parsed."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

from starlette.requests import ClientDisconnect

from daemon.http.problems import RequestRefused


async def read_body(
    chunks: AsyncIterator[bytes], declared: str | None, max_bytes: int, seconds: float
) -> bytes:
    """Read the whole body; `declared` is the Content-Length header.

    Raises:
        RequestRefused: 413 above `max_bytes`, 408 after `seconds`, 400 if the client disconnected
            (it does not see this response).
    """
    # Checked before the first chunk: a client that waits for `100 Continue` then sends no body.
    if (
        declared is not None
        and declared.isascii()
        and declared.isdigit()
        and int(declared[:20]) > max_bytes
    ):
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        detail = f"the body did not arrive within {seconds:g} s"
        # The rest of the body may still arrive, so the connection cannot be reused.
        raise RequestRefused(
            HTTPStatus.REQUEST_TIMEOUT, "too-slow", detail, headers={"connection": "close"}
        ) from None
    except ClientDisconnect:
        detail = "the client disconnected before the body was complete"
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "gone", detail) from None
    return bytes(body)


def _too_large(max_bytes: int) -> RequestRefused:
    detail = (
        f"the body is larger than {max_bytes} bytes: send fewer events per request, "
        "or raise http.max_body_bytes"
    )
    return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", detail)
