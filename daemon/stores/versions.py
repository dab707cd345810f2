"""Reads the versions of many objects from a store that has one request for each."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from daemon.concurrency import concurrently
from daemon.stores.errors import StoreError
from daemon.stores.object_keys import check_key
from daemon.stores.port import Version

_CONCURRENT_READS: Final = 4
"""Two calls at a time leave half of the threads to other callers."""


async def read_versions(
    read: Callable[[str], Awaitable[Version]], keys: Sequence[str]
) -> dict[str, Version]:
    """The versions of those objects that can be read.

    Each object fails alone: a server may be slow, or refuse, for one of them only.
    """
    for key in keys:
        check_key(key)

    async def readable(key: str) -> Version | None:
        try:
            return await read(key)
        except StoreError:
            return None

    found = await concurrently(readable, keys, limit=_CONCURRENT_READS)
    return {key: version for key, version in zip(keys, found, strict=True) if version is not None}
