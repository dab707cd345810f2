"""Reading a body that a stranger sends: counted while it comes in, before anything is parsed, and within a time."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

from starlette.requests import ClientDisconnect

from daemon.http.problems import RequestRefused


async def read_body(chunks: AsyncIterator[bytes], declared: str | None, most_bytes: int, seconds: float) -> bytes:
    """The whole body; `declared` is the Content-Length header.

    Raises:
        Refused: 413 above `most_bytes`, 408 after `seconds`, 400 (which nobody reads) when the sender left.
    """
    # Asked before the first chunk: a client that waits for `100 Continue` then sends nothing at all.
    if declared is not None and declared.isascii() and declared.isdigit() and int(declared[:20]) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                body += chunk
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError:
        detail = f"the body did not come in within {seconds:g} s"
        # The rest of it is still to come: this connection is of no more use.
        raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "too-slow", detail, headers={"connection": "close"}) from None
    except ClientDisconnect:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "gone", "the sender left before the body was whole") from None
    return bytes(body)


def _too_large(most_bytes: int) -> RequestRefused:
    detail = f"a body may have {most_bytes} bytes: raise http.max_body_bytes, or send fewer events at a time"
    return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", detail)
