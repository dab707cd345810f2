"""Any store, with at most one write of a key in so many seconds.

GCS takes one write of an object name in a second and answers 429 beyond that (protocol 4, never softened 8). So
whoever writes a key waits for its turn, counted from the end of the write before; other keys are not held up.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from daemon.runtime import Runtime
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version

_PRUNED_BEYOND: Final = 1024


@dataclass(slots=True)
class _Turn:
    """Who may write a key, and from when on."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    writers: int = 0
    free_at: float = 0


class PacedStore:
    """Implements `ObjectStore` by another one, for one process; other processes are met with `StoreBusy`."""

    def __init__(self, store: ObjectStore, runtime: Runtime, seconds: float) -> None:
        self._store = store
        self._runtime = runtime
        self._seconds = seconds
        self._turns: dict[str, _Turn] = {}

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object."""
        return await self._store.get(key, most_bytes=most_bytes)

    async def scan(self, prefix: str) -> Listing:
        """All objects below a prefix."""
        return await self._store.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below a prefix."""
        return await self._store.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object."""
        async with self._turn(key):
            return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version."""
        async with self._turn(key):
            return await self._store.replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version."""
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
                    # Also after a failure: what timed out may still be written.
                    turn.free_at = self._runtime.monotonic() + self._seconds
        finally:
            turn.writers -= 1
            self._forget()

    def _forget(self) -> None:
        """Keys nobody waits for any more; archives and manifests are written once."""
        if len(self._turns) > _PRUNED_BEYOND:
            now = self._runtime.monotonic()
            self._turns = {key: turn for key, turn in self._turns.items() if turn.writers or turn.free_at > now}
