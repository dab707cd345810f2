"""Any store, with a limit on how long each of its operations may take.

A call that hangs must not hang its lane. A read that takes too long is a store that is away; a write may have been
applied, and its thread may still write (protocol 4): it is unknown, and looked for.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from daemon.stores.errors import OutcomeUnknown, StoreUnavailable
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version

_LISTING_CALLS: Final = 10
"""A listing is as many calls as it has pages, each of which the adapter limits. This ends one that would not end, and
must let one through that is long: whoever could not list a scope could never make it smaller."""


class LimitedStore:
    """Implements `ObjectStore` by another one; `seconds` is the limit of one operation, a listing has ten times it."""

    def __init__(self, store: ObjectStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object."""
        async with self._reading(key):
            return await self._store.get(key, most_bytes=most_bytes)

    async def scan(self, prefix: str) -> Listing:
        """All objects below a prefix."""
        async with self._reading(prefix, self._seconds * _LISTING_CALLS):
            return await self._store.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below a prefix."""
        async with self._reading(prefix):
            return await self._store.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object."""
        async with self._writing(key):
            return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version."""
        async with self._writing(key):
            return await self._store.replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version."""
        async with self._writing(key):
            await self._store.delete(key, version)

    @asynccontextmanager
    async def _reading(self, what: str, seconds: float | None = None) -> AsyncIterator[None]:
        limit = seconds or self._seconds
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(f"reading {what} took longer than {limit:g} s") from error

    @asynccontextmanager
    async def _writing(self, key: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError as error:
            raise OutcomeUnknown(f"writing {key} took longer than {self._seconds:g} s") from error
