"""The store port: six operations, each atomic for its key.

Keys are relative, `/`-separated, without empty, `.` or `..` parts. A key never is the folder of another one.
A version is opaque. Contents that go A, B, A may show the same version again (an S3 ETag does), so a key that is
changed by `replace` must carry something unique in its body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol

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


class ObjectStore(Protocol):
    """A bucket, or a prefix of one. Strongly consistent: a read or listing that starts after a write was answered
    shows it.

    Every operation may raise StoreUnavailable (try again) or StoreRefused (the operator must act).
    """

    async def get(self, key: str) -> Stored:
        """The object. Raises ObjectMissing."""
        ...

    async def scan(self, prefix: str) -> Sequence[Listed]:
        """All objects whose key starts with `prefix`, sorted by the key's bytes."""
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix` (empty, or ending in `/`), sorted: what a listing
        with the delimiter `/` gives."""
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
