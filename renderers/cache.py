"""A least-recently-used cache, bounded by the sizes of its values and safe for threads.

Two threads that miss the same key both compute the value. The results are equal, so neither waits.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class Cache(Generic[V]):
    """Values by key. The caller of `put` specifies the size of each value."""

    def __init__(self, limit: int) -> None:
        """`limit`: the largest sum of sizes, in the unit of the owner; 0 disables the cache."""
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> V | None:
        """The value, or None. It becomes the most recently used one."""
        with self._lock:
            return self._used(key)

    def get_all(self, keys: Iterable[Hashable]) -> list[V | None]:
        """The value of each key, or None; the lock is taken once for all."""
        found: list[V | None] = []
        with self._lock:
            # Not by `_used`: its calls would cost as much as the rest, for thousands of keys.
            entries = self._entries
            for key in keys:
                entry = entries.get(key)
                if entry is None:
                    found.append(None)
                else:
                    entries.move_to_end(key)
                    found.append(entry[0])
        return found

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Stores `value`, and drops the least recently used ones beyond the limit.

        A value that is larger than the limit is not stored.
        """
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
        """Removes the value and returns it; None if there is none."""
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
