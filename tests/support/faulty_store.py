"""A wrapper of a store that fails, pauses, counts and forbids operations for tests.

The faults are those of conditional writes on a real network: an answer that is lost after or before
the write was applied, a write that is applied late, and a success that is answered with a failed
condition because a device on the way sent the request twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    OutcomeUnknown,
    StoreBusy,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version

Before = Callable[[str, str], Awaitable[None]]
"""Called with operation and key before the operation reaches the store, to pause it or to let other
writers act.
"""


class Fault(Enum):
    """The result of one write."""

    NONE = auto()
    LOST_AFTER = auto()
    """Applied; the answer is lost."""
    LOST_BEFORE = auto()
    """Never applied; the answer is lost."""
    LATE = auto()
    """The answer is lost; applied when the next write to the key arrives, in front of it."""
    OWN_SUCCESS = auto()
    """Applied, and answered with a failed condition."""
    AWAY = auto()
    """Never applied, with a certain error."""
    BUSY = auto()
    """Never applied: throttled."""
    REFUSED = auto()
    """Never applied: no permission."""
    REFUSED_AGAIN = auto()
    """Applied; a repeated request of the client found no permission."""


@dataclass
class FaultyStore:
    """Implements daemon.stores.port.ObjectStore."""

    inner: ObjectStore
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """By the end of a key, the faults of the next writes to it; later writes succeed."""
    forbidden: Callable[[str, str], bool] = lambda operation, key: False
    """Operations (with their key) that must never happen."""
    before: Before | None = None
    writes: list[tuple[str, str]] = field(default_factory=list)
    """Operation and key of every requested write."""
    _late: dict[str, list[Callable[[], Awaitable[object]]]] = field(default_factory=dict)

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        await self._before("get", key)
        return await self.inner.get(key, max_bytes=max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        for key in keys:
            await self._before("get", key)
        return await self.inner.versions(keys)

    async def scan(self, prefix: str) -> Listing:
        await self._before("scan", prefix)
        return await self.inner.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        await self._before("folders", prefix)
        return await self.inner.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        return await self._write("create", key, lambda: self.inner.create(key, content))

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        return await self._write("replace", key, lambda: self.inner.replace(key, content, version))

    async def delete(self, key: str, version: Version) -> None:
        await self._write("delete", key, lambda: self._delete(key, version))

    async def arrive(self) -> None:
        """Let every pending write arrive."""
        for key in list(self._late):
            await self._arrive(key)

    async def _delete(self, key: str, version: Version) -> Version:
        await self.inner.delete(key, version)
        return version

    async def _before(self, operation: str, key: str) -> None:
        assert not self.forbidden(operation, key), f"{operation} of {key} must never happen"
        if self.before is not None:
            await self.before(operation, key)

    async def _arrive(self, key: str) -> None:
        for write in self._late.pop(key, []):
            try:
                await write()
            except (ConditionFailed, ObjectMissing):
                continue

    async def _write(
        self, operation: str, key: str, write: Callable[[], Awaitable[Version]]
    ) -> Version:
        self.writes.append((operation, key))
        await self._before(operation, key)
        await self._arrive(key)
        match self._next_fault(key):
            case Fault.NONE:
                return await write()
            case Fault.LOST_AFTER:
                await write()
                raise OutcomeUnknown(key)
            case Fault.LOST_BEFORE:
                raise OutcomeUnknown(key)
            case Fault.LATE:
                self._late.setdefault(key, []).append(write)
                raise OutcomeUnknown(key)
            case Fault.OWN_SUCCESS:
                await write()
                raise ConditionFailed(key)
            case Fault.AWAY:
                raise StoreUnavailable(key)
            case Fault.BUSY:
                raise StoreBusy(key)
            case Fault.REFUSED:
                raise StoreRefused(key)
            case Fault.REFUSED_AGAIN:
                await write()
                raise StoreRefused(key)

    def _next_fault(self, key: str) -> Fault:
        for ending, faults in self.faults.items():
            if key.endswith(ending) and faults:
                return faults.pop(0)
        return Fault.NONE


class Gate:
    """Stops the first operation that `matches` until the test opens it."""

    def __init__(self, matches: Callable[[str, str], bool]) -> None:
        self._matches = matches
        self._opened = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, operation: str, key: str) -> None:
        if not self.reached.is_set() and self._matches(operation, key):
            self.reached.set()
            await self._opened.wait()

    def open(self) -> None:
        self._opened.set()
