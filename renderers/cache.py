"""A least-recently-used cache bounded in bytes, shared by threads and scopes.

Two threads that miss the same key both make the value; it is the same value, so nobody waits.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class Cache(Generic[V]):
    """Values by key; the bytes each is counted with are told by whoever puts it in."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes; 0 keeps nothing."""
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> V | None:
        """The value, now the most recently used one."""
        return self.get_all([key])[0]

    def get_all(self, keys: Iterable[Hashable]) -> list[V | None]:
        """The value of each key or None, at the price of one lock."""
        with self._lock:
            return [self._used(key) for key in keys]

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Keeps `value`; the least recently used ones make room. One that would take all the room is not kept."""
        with self._lock:
            self._held -= self._entries.pop(key, (value, 0))[1]
            if size > self._limit:
                return
            self._held += size
            self._entries[key] = (value, size)
            while self._held > self._limit:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._held -= dropped

    def pop(self, key: Hashable) -> V | None:
        """The value, which is not kept any more."""
        with self._lock:
            value, size = self._entries.pop(key, (None, 0))
            self._held -= size
            return value

    def _used(self, key: Hashable) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def __len__(self) -> int:
        return len(self._entries)
