"""Limits the rate of writes to each key of a store.

GCS accepts one write per object and second, and answers 429 to more (protocol 4, absolute rule 8).
So a write waits until a given time after the end of the previous write of its key. Other keys are
not delayed.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from daemon.runtime import Runtime
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version

_MAX_KEYS: Final = 1024


@dataclass(slots=True)
class _Turn:
    """The queue of writers of one key, and the time of the next write."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    writers: int = 0
    free_at: float = 0


class RateLimitedStore:
    """Wraps another `ObjectStore` and spaces the writes of this process.

    Writes of other processes are not counted: they may still cause `StoreBusy`.
    """

    def __init__(self, store: ObjectStore, runtime: Runtime, seconds: float) -> None:
        self._store = store
        self._runtime = runtime
        self._seconds = seconds
        self._turns: dict[str, _Turn] = {}

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        """Read an object."""
        return await self._store.get(key, max_bytes=max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        """Read the versions of some objects."""
        return await self._store.versions(keys)

    async def scan(self, prefix: str) -> Listing:
        """List all objects below a prefix."""
        return await self._store.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        """List the names of the folders in a folder."""
        return await self._store.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object."""
        async with self._turn(key):
            return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version."""
        async with self._turn(key):
            return await self._store.replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version."""
        async with self._turn(key):
            await self._store.delete(key, version)

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.writers += 1
        try:
            async with turn.lock:
                if (wait := turn.free_at - self._runtime.monotonic()) > 0:
                    await self._runtime.sleep(wait)
                try:
                    yield
                finally:
                    # Also after a failure: a write that timed out may still be applied.
                    turn.free_at = self._runtime.monotonic() + self._seconds
        finally:
            turn.writers -= 1
            self._forget_unused()

    def _forget_unused(self) -> None:
        """Remove unused keys, once there are many: archives and manifests are written only once."""
        if len(self._turns) > _MAX_KEYS:
            now = self._runtime.monotonic()
            self._turns = {
                key: turn for key, turn in self._turns.items() if turn.writers or turn.free_at > now
            }
