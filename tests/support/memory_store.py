"""An object store in the memory of this process, for tests and simulations.

It has two modes, because GCS and S3 differ in their versions. GCS assigns a new generation at every
write. S3 uses a digest of the body: the version repeats after a change from A to B and back to A,
and a change of the tag alone does not change it (object-store rule 3). As in both clouds,
listings have no sha256.
"""

import hashlib
import threading
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from types import MappingProxyType

from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, ObjectTooBig
from daemon.stores.object_keys import by_bytes, check_folder, check_key, check_prefix
from daemon.stores.port import Content, Listed, Listing, Stored, Version

_AFTER_SLASH = "0"
"""The character after the slash."""


@dataclass(frozen=True, slots=True)
class _Object:
    content: Content
    version: Version
    modified: datetime

    def stored(self) -> Stored:
        return Stored(self.content.body, self.version, _frozen(self.content.tag))


class MemoryStore:
    """An ObjectStore of one process. Each operation yields to other tasks once before it acts."""

    def __init__(self, runtime: Runtime, *, versions_by_content: bool = False) -> None:
        self._runtime = runtime
        self._versions_by_content = versions_by_content
        self._objects: dict[str, _Object] = {}
        self._keys: list[str] = []
        """Sorted: the order of code points is that of the bytes in UTF-8."""
        self._writes = 0
        self._lock = threading.Lock()

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        """Read an object. Raises ObjectMissing, ObjectTooBig."""
        check_key(key)
        await self._yield_to_others()
        with self._lock:
            stored = self._existing(key).stored()
        if max_bytes is not None and len(stored.body) > max_bytes:
            raise ObjectTooBig(key, max_bytes)
        return stored

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        """The versions of those objects that exist."""
        await self._yield_to_others()
        with self._lock:
            return {key: self._objects[key].version for key in keys if key in self._objects}

    async def scan(self, prefix: str) -> Listing:
        """List all objects whose key starts with `prefix`, sorted by the bytes of their keys."""
        check_prefix(prefix)
        await self._yield_to_others()
        with self._lock:
            first = bisect_left(self._keys, prefix)
            keys = takewhile(lambda key: key.startswith(prefix), islice(self._keys, first, None))
            matching = [(key, self._objects[key]) for key in keys]
        return Listing(
            tuple(
                Listed(key, found.version, len(found.content.body), found.modified)
                for key, found in matching
            )
        )

    async def folders(self, prefix: str) -> Sequence[str]:
        """List the names of the folders in the folder `prefix`, sorted."""
        check_folder(prefix)
        await self._yield_to_others()
        found: list[str] = []
        with self._lock:
            at = bisect_left(self._keys, prefix)
            while at < len(self._keys) and self._keys[at].startswith(prefix):
                name, slash, _ = self._keys[at].removeprefix(prefix).partition("/")
                if slash:
                    found.append(name)
                    at = bisect_left(self._keys, f"{prefix}{name}{_AFTER_SLASH}", at)
                else:
                    at += 1
        return sorted(set(found), key=by_bytes)

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed."""
        check_key(key)
        await self._yield_to_others()
        with self._lock:
            if key in self._objects:
                raise ConditionFailed(f"object {key} exists already")
            return self._put(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version. Raises ConditionFailed, ObjectMissing."""
        check_key(key)
        await self._yield_to_others()
        with self._lock:
            self._check_version(key, version)
            return self._put(key, content)

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version. Raises ConditionFailed, ObjectMissing."""
        check_key(key)
        await self._yield_to_others()
        with self._lock:
            self._check_version(key, version)
            del self._objects[key]
            del self._keys[bisect_left(self._keys, key)]

    async def _yield_to_others(self) -> None:
        await self._runtime.sleep(0)

    def _existing(self, key: str) -> _Object:
        stored = self._objects.get(key)
        if stored is None:
            raise ObjectMissing(key)
        return stored

    def _check_version(self, key: str, version: Version) -> None:
        if self._existing(key).version != version:
            raise ConditionFailed(f"object {key} is no longer at version {version}")

    def _put(self, key: str, content: Content) -> Version:
        self._writes += 1
        digest = hashlib.sha256(content.body).hexdigest()
        version = Version(digest if self._versions_by_content else str(self._writes))
        copy = Content(content.body, content.content_type, _frozen(content.tag))
        if key not in self._objects:
            insort(self._keys, key)
        self._objects[key] = _Object(copy, version, self._runtime.now())
        return version


def _frozen(tag: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(tag))
