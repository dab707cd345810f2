"""Two ways to send an ETag, with quotes and without, as one store that finds out which of them the server compares.

AWS compares `If-Match` with the ETag in quotes, as it shows it. Ceph answers 412 to that always, and takes it without
(object-store protocol 1.1). So a replacement that is refused although the object is at just that version is a doubt,
and the doubt is settled with a small object of its own, below `.rebundle/probe/`: never by trying on the object that
counts, since a server that ignores what it does not understand would write it blindly. The form that was found holds
as long as the process.
"""

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final, Protocol

from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, StoreError
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version
from daemon.stores.probe import Bare

_NEVER_A_VERSION: Final = Version("0" * 32)


class Form(StrEnum):
    """How the server wants the ETag."""

    QUOTED = "quoted"
    UNQUOTED = "unquoted"


class Client(ObjectStore, Bare, Protocol):
    """One form of one bucket."""


class QuotingStore:
    """Implements `ObjectStore` by two clients of one bucket, which differ in the form alone."""

    def __init__(self, quoted: Client, unquoted: Client, runtime: Runtime) -> None:
        self._stores = {Form.QUOTED: quoted, Form.UNQUOTED: unquoted}
        self._runtime = runtime
        self.form: Form | None = None
        """None: no replacement has shown it yet."""

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
        return await self._store.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version."""
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
        """Remove exactly this version."""
        await self._store.delete(key, version)

    async def refuses_damage(self, key: str) -> bool:
        """Whether the server compares digests."""
        return await self._store.refuses_damage(key)

    async def refuses_stale_deletion(self, key: str, version: Version) -> bool:
        """Whether the server compares versions when it deletes."""
        return await self._store.refuses_stale_deletion(key, version)

    @property
    def _store(self) -> Client:
        return self._stores[self.form or Form.QUOTED]

    async def _find_form(self) -> Form | None:
        """The form that the server compares, or None: it takes neither, or ignores one."""
        token = self._runtime.random_id()
        key = f".rebundle/probe/{token[:2]}-quotes"
        before, after = (Content(f"{token} {step}".encode()) for step in ("before", "after"))
        try:
            version = await self._store.create(key, before)
        except ConditionFailed:  # a crash has left it, or whoever may not delete
            version = (await self._store.get(key)).version
        form = await self._compared(key, before, after, version)
        # Who may not delete leaves it, and it is used again.
        with suppress(StoreError):
            store = self._stores[form or Form.QUOTED]
            await store.delete(key, (await store.get(key)).version)
        return form

    async def _compared(self, key: str, before: Content, after: Content, version: Version) -> Form | None:
        quoted, unquoted = self._stores[Form.QUOTED], self._stores[Form.UNQUOTED]
        if await _takes(quoted, key, after, version):
            return Form.QUOTED
        if await _takes(unquoted, key, before, _NEVER_A_VERSION) or not await _takes(unquoted, key, after, version):
            return None
        return Form.UNQUOTED


async def _takes(store: ObjectStore, key: str, content: Content, version: Version) -> bool:
    try:
        await store.replace(key, content, version)
    except (ConditionFailed, ObjectMissing):
        return False
    return True
