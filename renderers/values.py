"""What the rest of Rebundle needs of a bundle without knowing what it is made of.

The scope that names it, its rendered files, and canonical JSON, over which digests and signatures
are computed (protocol 1). `composition` has what a bundle is made of.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict

from renderers import identifiers as rules

_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def canonical_json(value: object) -> str:
    """The canonical text of a JSON value (protocol 1).

    Keys are sorted, there is no white space, and only what JSON requires is escaped.
    """
    return _CANONICAL.encode(value)


def canonical_digest(value: object) -> str:
    """sha256, in hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Value(BaseModel):
    """A frozen value. Unknown fields are ignored; the raw event keeps them."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy without the cached properties: pydantic would copy a digest of the old fields."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """`<bundle>/<target>`: the unit of ordering, locking and publishing."""

    bundle: str
    target: str

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """The scope that `text` names.

        Raises:
            ValueError: `text` is not `<bundle>/<target>` with both of them well formed.
        """
        bundle, slash, target = text.partition("/")
        if not slash:
            raise ValueError(f"{text!r} is not a scope: expected <bundle>/<target>")
        named = BundleName(name=bundle, target=target)
        return cls(named.name, named.target)

    def __str__(self) -> str:
        return f"{self.bundle}/{self.target}"


class BundleName(Value):
    """The name of a bundle and of one deployment flavour of it."""

    name: rules.BundleName
    target: rules.TargetName

    @property
    def scope(self) -> Scope:
        """The scope with this bundle and target."""
        return Scope(self.name, self.target)


STAMP_PATH: Final = "base/.rebundle.json"
"""A file with the id of the state. The content digest leaves it out, so that two states with equal
contents have equal content digests."""


@dataclass(frozen=True)
class RenderedFile:
    """One file below docker-compose-gen/. It has no slots, because it keeps its digest."""

    path: str
    body: bytes
    executable: bool = False

    @property
    def mode(self) -> str:
        """The file mode, as in the manifest."""
        return "0755" if self.executable else "0644"

    @cached_property
    def sha256(self) -> str:
        """The hex digest of the bytes. Cached: the stamp, the gate and the archive need it."""
        return hashlib.sha256(self.body).hexdigest()

    @cached_property
    def counted(self) -> bytes:
        """The entry that the content digest hashes."""
        return counted(self.path, self.mode, len(self.body), self.sha256)


def counted(path: str, mode: str, size: int, sha256: str) -> bytes:
    """The entry of a file that the content digest hashes, as canonical JSON."""
    return canonical_json([path, mode, size, sha256]).encode()


def content_digest(rows: Iterable[bytes]) -> str:
    """The hex SHA-256 over path, mode, size and digest of every file except the stamp (protocol 1).

    `rows` has the entry (`counted`) of each of these files, sorted by the bytes of their paths.
    """
    return hashlib.sha256(b"[%b]" % b",".join(rows)).hexdigest()


def known_fields(value: BaseModel) -> dict[str, Any]:
    """The fields with a value. An empty group is omitted, like an absent one."""
    dumped: dict[str, Any] = value.model_dump(mode="json", exclude_none=True)
    # The proxy defines the signature's document, and an empty object may have a meaning in it.
    unpruned = {"signature": dumped.pop("signature")} if "signature" in dumped else {}
    return _without_empty_groups(dumped) | unpruned


def _without_empty_groups(group: dict[str, Any]) -> dict[str, Any]:
    pruned = {}
    for key, child in group.items():
        value = _without_empty_groups(child) if isinstance(child, dict) else child
        if value != {}:
            pruned[key] = value
    return pruned
