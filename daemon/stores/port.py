"""The object-store port: seven operations, each atomic for its key.

Keys are relative and `/`-separated, without empty, `.` or `..` parts. No key is the folder of
another key. A version is opaque. After a change from A to B and back to A, an object may have its
first version again (an S3 ETag does). So every object that is changed by `replace` must have
something unique in its body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol, overload

from daemon.stores.errors import StoreRefused

Version = NewType("Version", str)


@dataclass(frozen=True, slots=True)
class Content:
    """An object to store.

    `tag` is metadata that is read back with the object. It is not evidence of anything.
    """

    body: bytes
    content_type: str = "application/octet-stream"
    tag: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as read. Body, version and tag belong together."""

    body: bytes
    version: Version
    tag: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing."""

    key: str
    version: Version
    size: int
    modified: datetime
    """Time of the last write, by the store's clock, in UTC."""
    sha256: str | None = None
    """Digest of the body, if the store has it without another request."""
    fault: str | None = None
    """Why the body cannot be read, and what to do about it; None if the listing shows no fault."""


@dataclass(frozen=True, slots=True)
class UnreadableFolder:
    """A folder that could not be listed: its objects are unknown.

    Only a directory store has these.
    """

    key: str
    """Path of the folder, without a `/` at the end."""
    reason: str
    """What is wrong, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Listing(Sequence[Listed]):
    """The objects below a prefix, sorted by the bytes of their keys, and what else is there."""

    objects: tuple[Listed, ...] = ()
    unreadable: tuple[UnreadableFolder, ...] = ()
    invalid: tuple[str, ...] = ()
    """Names that are not valid keys, sorted; what is not Unicode in them is escaped.

    No operation accepts them. In a directory a name that ends in `/` is a folder, and what is below
    it is not listed.
    """

    def complete(self) -> "Listing":
        """Return the listing itself. For callers that must see every object.

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
    """A bucket, or a prefix of one.

    Strongly consistent: a read or listing that starts after the answer to a write shows that write.
    Every operation may raise StoreUnavailable (try again) or StoreRefused (the operator must act).
    """

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        """Read an object. `max_bytes`: the largest body that the caller accepts; None: any size.

        Raises:
            ObjectMissing: there is no such object.
            ObjectTooBig: the body is larger than `max_bytes`; no more than that was read.
        """
        ...

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        """Read the versions of some objects, without their bodies if the store can do that.

        An object that is missing or cannot be read is left out. The order in which the objects are
        read is undefined: this operation is atomic for each key, not for all. Raises StoreError if
        the store as a whole cannot be read.
        """
        ...

    async def scan(self, prefix: str) -> Listing:
        """List all objects whose key starts with `prefix`.

        An object that cannot be read is listed with its fault. In a directory, a symbolic link,
        FIFO, socket or device whose name is a valid key is also listed with a fault. Its key, and
        every key below it, cannot be read, created, replaced or deleted.

        A subfolder that cannot be listed is in `Listing.unreadable`. If the folder of the prefix
        itself cannot be listed, StoreRefused is raised. An object whose name is not a valid key is
        in `Listing.invalid`. Objects such as `folder/`, which web consoles create, are left out.

        The version of an object without a fault is the one that `get`, `replace` and `delete` use,
        whether or not the listing read the body.
        """
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """List the names of the folders in the folder `prefix`, sorted.

        `prefix` is empty or ends in `/`. The result is that of a listing with the delimiter `/`. A
        folder that cannot be listed may hold objects, so it is included. If `prefix` itself cannot
        be listed, StoreRefused is raised.
        """
        ...

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed if the key exists, OutcomeUnknown."""
        ...

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        ...

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown.

        Many S3-compatible stores ignore the condition, so no safety rule may depend on it.
        """
        ...
