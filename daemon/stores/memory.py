"""A store in this process's memory: for tests, simulations and trials; everything is gone when the process ends.

It has two flavours, because the two clouds differ where it hurts. GCS counts a generation up at every write. S3 shows
a digest of the body, so that contents that go A, B, A show the same version again, and another tag alone shows no
change at all (object-store protocol 1.1). Like both clouds, its listings know no sha256.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, ObjectTooBig
from daemon.stores.object_keys import by_bytes, check_folder, check_key, check_prefix
from daemon.stores.port import Content, Listed, Listing, Stored, Version


@dataclass(frozen=True, slots=True)
class _Object:
    content: Content
    version: Version
    modified: datetime

    def stored(self) -> Stored:
        return Stored(self.content.body, self.version, _frozen(self.content.tag))


class MemoryStore:
    """An ObjectStore of one process. Each operation gives way once before it acts, so that others can come between."""

    def __init__(self, runtime: Runtime, *, versions_by_content: bool = False) -> None:
        self._runtime = runtime
        self._versions_by_content = versions_by_content
        self._objects: dict[str, _Object] = {}
        self._writes = 0
        self._lock = threading.Lock()

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object. Raises ObjectMissing."""
        check_key(key)
        await self._give_way()
        with self._lock:
            stored = self._present(key).stored()
        if most_bytes is not None and len(stored.body) > most_bytes:
            raise ObjectTooBig(key, most_bytes)
        return stored

    async def scan(self, prefix: str) -> Listing:
        """All objects whose key starts with `prefix`, sorted by the key's bytes."""
        check_prefix(prefix)
        await self._give_way()
        with self._lock:
            found = {key: held for key, held in self._objects.items() if key.startswith(prefix)}
        return Listing(
            tuple(
                Listed(key, held.version, len(held.content.body), held.modified)
                for key, held in sorted(found.items(), key=lambda item: by_bytes(item[0]))
            )
        )

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix`, sorted."""
        check_folder(prefix)
        await self._give_way()
        with self._lock:
            rests = [key.removeprefix(prefix) for key in self._objects if key.startswith(prefix)]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest}, key=by_bytes)

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed."""
        check_key(key)
        await self._give_way()
        with self._lock:
            if key in self._objects:
                raise ConditionFailed(f"object {key} exists already")
            return self._put(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version. Raises ConditionFailed, ObjectMissing."""
        check_key(key)
        await self._give_way()
        with self._lock:
            self._expect(key, version)
            return self._put(key, content)

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version. Raises ConditionFailed, ObjectMissing."""
        check_key(key)
        await self._give_way()
        with self._lock:
            self._expect(key, version)
            del self._objects[key]

    async def _give_way(self) -> None:
        await self._runtime.sleep(0)

    def _present(self, key: str) -> _Object:
        held = self._objects.get(key)
        if held is None:
            raise ObjectMissing(key)
        return held

    def _expect(self, key: str, version: Version) -> None:
        if self._present(key).version != version:
            raise ConditionFailed(f"object {key} is not at version {version} any more")

    def _put(self, key: str, content: Content) -> Version:
        self._writes += 1
        digest = hashlib.sha256(content.body).hexdigest()
        version = Version(digest if self._versions_by_content else str(self._writes))
        held = Content(content.body, content.content_type, content.cache_control, _frozen(content.tag))
        self._objects[key] = _Object(held, version, self._runtime.now())
        return version


def _frozen(tag: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(tag))
