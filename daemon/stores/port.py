"""The store port: six operations, each atomic for its key.

Keys are relative, `/`-separated, without empty, `.` or `..` parts. A key never is the folder of another one.
A version is opaque. Contents that go A, B, A may show the same version again (an S3 ETag does), so a key that is
changed by `replace` must carry something unique in its body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol, overload

from daemon.stores.errors import StoreRefused

Version = NewType("Version", str)


@dataclass(frozen=True, slots=True)
class Content:
    """What is to be stored. `tag` is metadata that is read back with the object and vouches for nothing by itself."""

    body: bytes
    content_type: str = "application/octet-stream"
    cache_control: str = "no-store"
    tag: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was read: body, version and tag belong together."""

    body: bytes
    version: Version
    tag: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing shows it."""

    key: str
    version: Version
    size: int
    modified: datetime
    """When it was written, by the store's clock, in UTC."""
    sha256: str | None = None
    """Digest of the body, where the store knows it at no cost."""
    fault: str | None = None
    """Why the body cannot be read, and what to do about it, where the listing shows that."""


@dataclass(frozen=True, slots=True)
class UnreadableFolder:
    """A folder that the store may not list: what is below it is unknown. Only a directory store has any."""

    key: str
    """Its path, without a `/` at the end."""
    reason: str
    """What is wrong, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Listing(Sequence[Listed]):
    """The objects of a listing, sorted by the key's bytes, and the folders that could not be listed."""

    objects: tuple[Listed, ...] = ()
    unreadable: tuple[UnreadableFolder, ...] = ()

    def complete(self) -> "Listing":
        """The listing itself, for callers that must know every object.

        Raises:
            StoreRefused: a folder could not be listed.
        """
        for folder in self.unreadable:
            raise StoreRefused(f"{folder.key}/ cannot be listed: {folder.reason}")
        return self

    def __len__(self) -> int:
        return len(self.objects)

    @overload
    def __getitem__(self, index: int) -> Listed: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Listed, ...]: ...
    def __getitem__(self, index: int | slice) -> Listed | tuple[Listed, ...]:
        return self.objects[index]


class ObjectStore(Protocol):
    """A bucket, or a prefix of one. Strongly consistent: a read or listing that starts after a write was answered
    shows it.

    Every operation may raise StoreUnavailable (try again) or StoreRefused (the operator must act).
    """

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object. `most_bytes`: the largest body the caller accepts; None accepts any.

        Raises:
            ObjectMissing: there is none. ObjectTooBig: it is larger than `most_bytes`; no more than that was read.
        """
        ...

    async def scan(self, prefix: str) -> Listing:
        """All objects whose key starts with `prefix`.

        One that cannot be read is listed with its fault. So is, in a directory, a symbolic link, FIFO, socket or
        device under a name that an object could have: its key cannot be read, created, replaced or deleted, nor
        anything below it. A folder below the one of the prefix that cannot be listed is in `Listing.unreadable`;
        if the folder of the prefix cannot be listed, StoreRefused is raised. The version of an object without a fault
        is the one that `get`, `replace` and `delete` go by, whether or not the listing read it.
        """
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix` (empty, or ending in `/`), sorted: what a listing
        with the delimiter `/` gives. A folder that cannot be listed may hold objects and is among them; only if
        `prefix` itself cannot be listed, StoreRefused is raised."""
        ...

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed if there is one, OutcomeUnknown."""
        ...

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        ...

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown.

        Only a bonus on many S3-compatible stores, which ignore the condition: nothing's safety may rest on it.
        """
        ...
