"""The tag file of an object in a directory: which body carries which tag (pure; `store` reads and writes it).

A file has no room for a tag, and two files cannot change at once. So the tag file is written first and holds two
entries, of the body that is there and of the body that is to come; whichever a crash leaves is recognised by its
digest. A body that fits no entry was written by somebody else: it has an empty tag (protocol 5).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.stores.port import Version


@dataclass(frozen=True, slots=True)
class TagEntry:
    """The tag of one body. `id` is random: two writes of the same body are two versions."""

    sha256: str
    id: str
    tag: Mapping[str, str]


def version_of(sha256: str, entry: TagEntry | None) -> Version:
    """The version of a body, with the entry that fits it."""
    return Version(sha256 if entry is None else f"{sha256}-{entry.id}")


def fitting(entries: Sequence[TagEntry], sha256: str) -> TagEntry | None:
    """The newest entry for the body with this digest."""
    return next((entry for entry in reversed(entries) if entry.sha256 == sha256), None)


def encode_tags(entries: Sequence[TagEntry]) -> bytes:
    """The tag file, newest entry last."""
    document = [{"sha256": entry.sha256, "id": entry.id, "tag": dict(entry.tag)} for entry in entries]
    return json.dumps(document, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def decode_tags(raw: bytes) -> tuple[TagEntry, ...]:
    """The entries of a tag file. A damaged one has none: its body counts as somebody else's, which loses nothing."""
    try:
        entries = tuple(_entry(item) for item in json.loads(raw))
        encode_tags(entries)  # half of a surrogate pair could not be written again, and would stop the next write
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()
    return entries


def _entry(item: Mapping[str, object]) -> TagEntry:
    sha256, token, tag = item["sha256"], item["id"], item["tag"]
    if not (isinstance(sha256, str) and isinstance(token, str) and isinstance(tag, dict)):
        raise TypeError("not a tag entry")
    return TagEntry(sha256, token, {str(name): str(value) for name, value in tag.items()})
