"""A store with objects that cannot be read or written and folders that cannot be listed.

It behaves like the directory store: a listing shows what it can and never fails; a read or write of
such an object is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from daemon.stores.errors import StoreRefused
from daemon.stores.port import Content, Listed, Listing, Stored, UnreadableFolder, Version
from tests.support.faulty_store import FaultyStore

CHMOD = "permission denied; give the daemon's user permission to read it"


@dataclass
class TroubledStore(FaultyStore):
    """Implements daemon.stores.port.ObjectStore.

    Troubles are full keys; a closed folder has no `/` at its end.
    """

    unreadable: set[str] = field(default_factory=set)
    unwritable: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)

    def recover(self) -> None:
        """All troubles end."""
        for troubles in (self.unreadable, self.unwritable, self.closed):
            troubles.clear()

    async def scan(self, prefix: str) -> Listing:
        listing = await super().scan(prefix)
        shown = tuple(self._shown(entry) for entry in listing if not self._is_closed(entry.key))
        folders = (
            UnreadableFolder(key, f"{key}: {CHMOD}")
            for key in sorted(self.closed)
            if key.startswith(prefix)
        )
        return Listing(shown, tuple(folders))

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        with self._reading(key):
            return await super().get(key, max_bytes=max_bytes)

    async def create(self, key: str, content: Content) -> Version:
        with self._writing(key):
            return await super().create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        with self._reading(key), self._writing(key):
            return await super().replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        with self._reading(key), self._writing(key):
            await super().delete(key, version)

    def _shown(self, listed: Listed) -> Listed:
        if listed.key not in self.unreadable:
            return listed
        return replace(
            listed, version=Version("unread"), sha256=None, fault=f"{listed.key}: {CHMOD}"
        )

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        if key in self.unreadable or self._is_closed(key):
            raise StoreRefused(f"{key}: {CHMOD}")
        yield

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        if key in self.unwritable or self._is_closed(key):
            raise StoreRefused(f"{key}: a folder stands where a file belongs: move it away")
        yield

    def _is_closed(self, key: str) -> bool:
        return any(key.startswith(f"{folder}/") for folder in self.closed)
