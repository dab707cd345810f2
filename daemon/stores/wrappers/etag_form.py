"""Finds out whether a server compares `If-Match` with the quoted or the unquoted ETag.

AWS compares it with the ETag in quotes, as in its responses. Ceph always answers 412 to that, and
accepts the ETag without quotes (object-store rule 3). So if a replacement is refused although the
object has the expected version, the store tests both forms on a small object below
`.rebundle/probe/`. It never tests on the object to be replaced: a server that ignores a condition
that it does not understand would overwrite it. The result is used until the process ends.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final, Protocol

from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, StoreError
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version
from daemon.stores.probe import Bare

_NEVER_A_VERSION: Final = Version("0" * 32)


class Form(StrEnum):
    """The form of the ETag that the server compares."""

    QUOTED = "quoted"
    UNQUOTED = "unquoted"


class Client(ObjectStore, Bare, Protocol):
    """A store of one bucket that sends ETags in one form."""


class EtagFormStore:
    """Wraps two clients of one bucket that differ only in the form of the ETag."""

    def __init__(self, quoted: Client, unquoted: Client, runtime: Runtime) -> None:
        self._stores = {Form.QUOTED: quoted, Form.UNQUOTED: unquoted}
        self._runtime = runtime
        self.form: Form | None = None
        """None: not known yet, because no replacement has shown it."""

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
        return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version."""
        store = self._store
        try:
            written = await store.replace(key, content, version)
        except ConditionFailed:
            if self.form is None and (await store.get(key)).version == version:
                self.form = await self._find_form()
            if self._store is store:
                raise
            return await self._store.replace(key, content, version)
        self.form = self.form or Form.QUOTED
        return written

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version."""
        await self._store.delete(key, version)

    async def refuses_damage(self, key: str) -> bool:
        """Whether the server refuses a body that does not match its digest."""
        return await self._store.refuses_damage(key)

    async def refuses_stale_deletion(self, key: str, version: Version) -> bool:
        """Whether the server refuses to delete an old version."""
        return await self._store.refuses_stale_deletion(key, version)

    @property
    def _store(self) -> Client:
        return self._stores[self.form or Form.QUOTED]

    async def _find_form(self) -> Form | None:
        """Return the form that the server compares; None if it accepts neither, or ignores one."""
        token = self._runtime.random_id()
        key = f".rebundle/probe/{token[:2]}-quotes"
        before, after = (Content(f"{token} {step}".encode()) for step in ("before", "after"))
        try:
            version = await self._store.create(key, before)
        except ConditionFailed:  # left by a crash, or by a process without delete permission
            version = (await self._store.get(key)).version
        form = await self._compared_form(key, before, after, version)
        # Without delete permission the object stays and is reused.
        with suppress(StoreError):
            store = self._stores[form or Form.QUOTED]
            await store.delete(key, (await store.get(key)).version)
        return form

    async def _compared_form(
        self, key: str, before: Content, after: Content, version: Version
    ) -> Form | None:
        quoted, unquoted = self._stores[Form.QUOTED], self._stores[Form.UNQUOTED]
        if await _replaces(quoted, key, after, version):
            return Form.QUOTED
        # A server that replaces a version that never existed ignores unquoted ETags.
        if await _replaces(unquoted, key, before, _NEVER_A_VERSION):
            return None
        if not await _replaces(unquoted, key, after, version):
            return None
        return Form.UNQUOTED


async def _replaces(store: ObjectStore, key: str, content: Content, version: Version) -> bool:
    try:
        await store.replace(key, content, version)
    except (ConditionFailed, ObjectMissing):
        return False
    return True
