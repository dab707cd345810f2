"""Reading a body within its limits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from daemon.http.body import read_body
from daemon.http.problems import RequestRefused


class Chunks:
    """A body in chunks that counts the chunks read. A chunk of None never arrives."""

    def __init__(self, *chunks: bytes | None) -> None:
        self._chunks = chunks
        self.asked = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            self.asked += 1
            if chunk is None:
                await asyncio.Event().wait()
            else:
                yield chunk


def read(chunks: Chunks, declared: str | None = None, most: int = 10, seconds: float = 60) -> bytes:
    return asyncio.run(read_body(aiter(chunks), declared, most, seconds))


@pytest.mark.parametrize("chunks", [[], [b""], [b"0123456789"], [b"01234", b"", b"56789"]])
def test_a_body_up_to_the_limit_arrives_whole(chunks: list[bytes]) -> None:
    assert read(Chunks(*chunks)) == b"".join(chunks)


def test_a_body_is_refused_at_the_first_chunk_above_the_limit() -> None:
    chunks = Chunks(b"01234", b"567890", None)
    with pytest.raises(RequestRefused, match="10 bytes") as refused:
        read(chunks)
    assert (refused.value.status, chunks.asked) == (413, 2)


@pytest.mark.parametrize("declared", ["11", "9" * 4000])
def test_a_declared_length_above_the_limit_is_refused_before_anything_is_read(
    declared: str,
) -> None:
    chunks = Chunks(b"x")
    with pytest.raises(RequestRefused) as refused:
        read(chunks, declared)
    assert (refused.value.status, chunks.asked) == (413, 0)


@pytest.mark.parametrize("declared", ["10", "-1", "x", "²", ""])
def test_a_declared_length_is_not_trusted_otherwise(declared: str) -> None:
    with pytest.raises(RequestRefused):
        read(Chunks(b"x" * 11), declared)


def test_a_body_that_does_not_arrive_is_refused_and_its_connection_closed() -> None:
    with pytest.raises(RequestRefused) as refused:
        read(Chunks(b"x", None), seconds=0.01)
    assert refused.value.status == 408
    assert refused.value.headers == {"connection": "close"}
