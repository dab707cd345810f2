"""The tag file of an object in a directory store maps bodies to tags. Pure.

A file cannot hold a tag, and two files cannot change in one step. So the tag file is written first
and has two entries: one for the current body and one for the next body. After a crash, the digest
of the body shows which entry applies. A body without an entry was written by another program and
has an empty tag (protocol 5).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.stores.port import Version


@dataclass(frozen=True, slots=True)
class TagEntry:
    """The tag of one body.

    `id` is random, so that two writes of the same body have two versions.
    """

    sha256: str
    id: str
    tag: Mapping[str, str]


def version_of(sha256: str, entry: TagEntry | None) -> Version:
    """Return the version of a body. `entry`: the tag entry of that body, if it has one."""
    return Version(sha256 if entry is None else f"{sha256}-{entry.id}")


def fitting(entries: Sequence[TagEntry], sha256: str) -> TagEntry | None:
    """Return the newest entry for the body with this digest."""
    return next((entry for entry in reversed(entries) if entry.sha256 == sha256), None)


def encode_tags(entries: Sequence[TagEntry]) -> bytes:
    """Return the content of the tag file, with the newest entry last."""
    document = [
        {"sha256": entry.sha256, "id": entry.id, "tag": dict(entry.tag)} for entry in entries
    ]
    return json.dumps(document, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def decode_tags(raw: bytes) -> tuple[TagEntry, ...]:
    """Return the entries of a tag file.

    A damaged tag file has no entries: its body counts as one of another program. Nothing is lost.
    """
    try:
        entries = tuple(_entry(item) for item in json.loads(raw))
        # A lone surrogate could not be encoded again: it would make the next write fail.
        encode_tags(entries)
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()
    return entries


def _entry(item: Mapping[str, object]) -> TagEntry:
    sha256, token, tag = item["sha256"], item["id"], item["tag"]
    if not (isinstance(sha256, str) and isinstance(token, str) and isinstance(tag, dict)):
        raise TypeError("not a tag entry")
    return TagEntry(sha256, token, {str(name): str(value) for name, value in tag.items()})
