"""Any store, that must refuse one write before it gets the first: for a process that does not probe it.

A daemon probes at its start (`stores.probe`); a command that writes once in a while would wait for that each time. This
is the least that protects a pointer from a wrong endpoint, or from a proxy that drops conditions: one replacement of an
object that is not there. Whoever ignores `If-Match` takes it, and then takes a pointer's blindly, too. What it cannot
see, `rebundle doctor` can.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, OutcomeUnknown, StoreError, StoreUnavailable
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version
from daemon.stores.probe import PREFIX, Finding, UnsafeStore, Verdict

_NEVER_A_VERSION: Final = Version("1")
"""Of a form that every store takes: a generation, an ETag."""


class GuardedStore:
    """Implements `ObjectStore` by another one. Its first `create` or `replace` costs one request more.

    Both raise UnsafeStore, and have written nothing, where the store ignores conditions.
    """

    def __init__(self, store: ObjectStore, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._lock = asyncio.Lock()
        self._shown: Finding | None = None

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
        await self._see()
        return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version."""
        await self._see()
        return await self._store.replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version; unguarded, since no rule rests on a deletion's condition."""
        await self._store.delete(key, version)

    async def _see(self) -> None:
        # Side by side, one asks, and the others take its answer: its failure may cancel them, and who is cancelled
        # between the question and the clean-up leaves an object behind.
        async with self._lock:
            if self._shown is None:
                self._shown = await self._replacing_what_is_absent()
        if self._shown.verdict is Verdict.REFUSED:
            raise UnsafeStore(self._shown)

    async def _replacing_what_is_absent(self) -> Finding:
        clause, key = "replace absent", f"{PREFIX}{self._runtime.random_id()[:2]}-absent"
        try:
            written = await self._store.replace(key, Content(b"must be refused\n", "text/plain"), _NEVER_A_VERSION)
        except (ConditionFailed, ObjectMissing):
            return Finding(clause, Verdict.OK, "what is absent is not replaced")
        except OutcomeUnknown as error:
            raise StoreUnavailable(f"whether this store honours conditions could not be seen: {error}") from error
        with suppress(StoreError):
            await self._store.delete(key, written)
        means = "an absent object was replaced under a condition: a change would overwrite whatever is there"
        return Finding(clause, Verdict.REFUSED, means)
