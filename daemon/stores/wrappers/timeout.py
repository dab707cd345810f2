"""Limits the duration of each operation of a store.

A call that hangs must not block its lane. A read that times out raises StoreUnavailable. A write
that times out may have been applied, and its thread may still write (protocol 4): it raises
OutcomeUnknown, and the caller reads back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from daemon.stores.errors import OutcomeUnknown, StoreUnavailable
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version

SLOW_SECONDS: Final = 5.0
_LISTING_CALLS: Final = 10
"""The limit of a listing, as a multiple of that of other operations.

A listing is one call per page, and the adapter limits each of them. This limit ends a listing that
would never end. It must allow long listings: a scope that could not be listed could not be
collected either.
"""


class TimeLimitedStore:
    """Wraps another `ObjectStore`.

    `seconds` is the limit of one operation. A listing has ten times that limit. `slow` is called
    for each operation that takes longer than SLOW_SECONDS, while it is still running.
    """

    def __init__(
        self, store: ObjectStore, seconds: float, slow: Callable[[], None] | None = None
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._slow = slow

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        """Read an object."""
        async with self._reading(key):
            return await self._store.get(key, max_bytes=max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        """Read the versions of some objects."""
        async with self._reading(f"the versions of {len(keys)} objects"):
            return await self._store.versions(keys)

    async def scan(self, prefix: str) -> Listing:
        """List all objects below a prefix."""
        async with self._reading(prefix, self._seconds * _LISTING_CALLS):
            return await self._store.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        """List the names of the folders in a folder."""
        async with self._reading(prefix):
            return await self._store.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object."""
        async with self._writing(key):
            return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version."""
        async with self._writing(key):
            return await self._store.replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version."""
        async with self._writing(key):
            await self._store.delete(key, version)

    @asynccontextmanager
    async def _reading(self, what: str, seconds: float | None = None) -> AsyncIterator[None]:
        limit = seconds or self._seconds
        try:
            with self._noticed():
                async with asyncio.timeout(limit):
                    yield
        except TimeoutError as error:
            raise StoreUnavailable(f"reading {what} took longer than {limit:g} s") from error

    @asynccontextmanager
    async def _writing(self, key: str) -> AsyncIterator[None]:
        try:
            with self._noticed():
                async with asyncio.timeout(self._seconds):
                    yield
        except TimeoutError as error:
            raise OutcomeUnknown(f"writing {key} took longer than {self._seconds:g} s") from error

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        if self._slow is None:
            yield
            return
        notice = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._slow)
        try:
            yield
        finally:
            notice.cancel()
