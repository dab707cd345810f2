"""The bucket of a simulated world: its objects, and the atomic check of each condition.

There are two kinds, like the two clouds. A version is either a generation
that rises at every write, or a digest of the body, so that contents that change from A to B and
back to A have the same version. Observers are called at every change.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from daemon.stores.errors import ConditionFailed, ObjectMissing
from daemon.stores.object_keys import by_bytes, check_key
from daemon.stores.port import Content, Listed, Listing, Stored, Version


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """An object, and who wrote it."""

    content: Content
    version: Version
    modified: datetime
    writer: str

    @property
    def body(self) -> bytes:
        return self.content.body


@dataclass(frozen=True, slots=True)
class Change:
    """One key before and after a write."""

    key: str
    before: Held | None
    after: Held | None
    writer: str


class Bucket:
    """Objects by key."""

    def __init__(
        self, clock: Callable[[], datetime], *, versions_by_content: bool, deletes_blindly: bool
    ) -> None:
        self.now = clock
        self.versions_by_content = versions_by_content
        self._deletes_blindly = deletes_blindly
        self._writes = 0
        self.objects: dict[str, Held] = {}
        self.watch: Callable[[Change], None] = lambda change: None

    def get(self, key: str) -> Stored:
        held = self._present(key)
        return Stored(held.body, held.version, held.content.tag)

    def scan(self, prefix: str) -> Listing:
        return Listing(
            tuple(
                Listed(key, held.version, len(held.body), held.modified)
                for key, held in sorted(self.objects.items(), key=lambda item: by_bytes(item[0]))
                if key.startswith(prefix)
            )
        )

    def folders(self, prefix: str) -> list[str]:
        rests = [key.removeprefix(prefix) for key in self.objects if key.startswith(prefix)]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def create(self, key: str, content: Content, writer: str) -> Version:
        check_key(key)
        if key in self.objects:
            raise ConditionFailed(f"{key} is there")
        return self._put(key, content, writer)

    def replace(self, key: str, content: Content, version: Version, writer: str) -> Version:
        self._expect(key, version)
        return self._put(key, content, writer)

    def delete(self, key: str, version: Version, writer: str) -> None:
        before = self._present(key)
        if not self._deletes_blindly:
            self._expect(key, version)
        del self.objects[key]
        self.watch(Change(key, before, None, writer))

    def put(self, key: str, body: bytes, writer: str) -> None:
        """Like a save in an editor: no condition, no tag."""
        self._put(key, Content(body), writer)

    def remove(self, key: str, writer: str) -> None:
        """Like a deletion in a file manager."""
        before = self.objects.pop(key, None)
        if before is not None:
            self.watch(Change(key, before, None, writer))

    def _present(self, key: str) -> Held:
        held = self.objects.get(key)
        if held is None:
            raise ObjectMissing(key)
        return held

    def _expect(self, key: str, version: Version) -> None:
        if self._present(key).version != version:
            raise ConditionFailed(f"{key} is not at {version}")

    def _put(self, key: str, content: Content, writer: str) -> Version:
        self._writes += 1
        digest = hashlib.sha256(content.body).hexdigest()
        version = Version(digest if self.versions_by_content else str(self._writes))
        before = self.objects.get(key)
        after = self.objects[key] = Held(content, version, self.now(), writer)
        self.watch(Change(key, before, after, writer))
        return version
