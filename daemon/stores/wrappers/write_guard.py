"""Checks that a store honours `If-Match` before the first write, for processes without a probe.

A daemon runs the full probe at its start (`stores.probe`). Commands write rarely, and would wait
for it each time. This check is the minimum that protects a pointer from a wrong endpoint, or from a
proxy that drops conditions: it tries to replace an absent object. A store that ignores `If-Match`
accepts that, and would also overwrite a pointer blindly. `rebundle doctor` runs the full probe.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from daemon.runtime import Runtime
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
)
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version
from daemon.stores.probe import PREFIX, Finding, UnsafeStore, Verdict

_NEVER_A_VERSION: Final = Version("1")
"""A version that every store accepts: it has the form of a generation and of an ETag."""


class GuardedStore:
    """Wraps another `ObjectStore`.

    The first `create` or `replace` sends one more request. If the store ignores
    conditions, both raise UnsafeStore and write nothing.
    """

    def __init__(self, store: ObjectStore, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._lock = asyncio.Lock()
        self._finding: Finding | None = None

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
        await self._check_conditions()
        return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version."""
        await self._check_conditions()
        return await self._store.replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version.

        Not guarded: no rule depends on the condition of a deletion.
        """
        await self._store.delete(key, version)

    async def _check_conditions(self) -> None:
        # Of concurrent writers only one sends the request; the others wait for its result. If each
        # sent one, the failure of one might cancel another between its request and its clean-up,
        # and leave an object behind.
        async with self._lock:
            if self._finding is None:
                self._finding = await self._try_to_replace_absent()
        if self._finding.verdict is Verdict.REFUSED:
            raise UnsafeStore(self._finding)

    async def _try_to_replace_absent(self) -> Finding:
        step, key = "replace absent", f"{PREFIX}{self._runtime.random_id()[:2]}-absent"
        try:
            written = await self._store.replace(
                key, Content(b"must be refused\n", "text/plain"), _NEVER_A_VERSION
            )
        except (ConditionFailed, ObjectMissing):
            return Finding(step, Verdict.OK, "an absent object is not replaced")
        except OutcomeUnknown as error:
            raise StoreUnavailable(
                f"it could not be checked whether this store honours conditions: {error}"
            ) from error
        with suppress(StoreError):
            await self._store.delete(key, written)
        explanation = (
            "it replaced an absent object in spite of the condition: a write would "
            "overwrite any object"
        )
        return Finding(step, Verdict.REFUSED, explanation)
