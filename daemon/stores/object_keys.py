"""Rules for keys and prefixes, the same for every store. Pure.

A bucket could not be moved if one store accepted a key that another refuses. So every store applies
the strictest rules: a key is a path of a POSIX file system and an object name of S3 and GCS.
"""

import re
from typing import Final

MAX_KEY_BYTES: Final = 1024
"""In bytes: the limit of S3 and of GCS."""
MAX_PART_BYTES: Final = 255
"""In bytes: the limit of a file name."""
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and lone surrogates, which cannot be encoded."""


def is_key(text: str) -> bool:
    """Whether this is a valid key."""
    try:
        check_key(text)
    except ValueError:
        return False
    return True


def check_key(key: str) -> str:
    """Return the key if it is valid.

    Raises:
        ValueError: a programming error of the caller, since no key comes from outside.
    """
    if not key:
        raise ValueError("a key must not be empty")
    _check_text(key)
    for part in key.split("/"):
        if part in {"", ".", ".."}:
            raise ValueError(f"key {key!r} must be relative and have no empty, '.' or '..' part")
        if len(part.encode()) > MAX_PART_BYTES:
            raise ValueError(f"key {key!r} has a part of more than {MAX_PART_BYTES} bytes")
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix if it is empty or the start of a valid key. Raises ValueError."""
    folder, _, _ = prefix.rpartition("/")
    if folder or prefix.startswith("/"):
        check_key(folder)
    _check_text(prefix)
    return prefix


def check_folder(prefix: str) -> str:
    """Return the prefix if it names a folder: it is empty or ends in `/`. Raises ValueError."""
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"folder {prefix!r} must be empty or end in '/'")
    return check_prefix(prefix)


def by_bytes(key: str) -> bytes:
    """Sort key for object keys, as servers sort them.

    Python's order of text differs above U+FFFF.
    """
    return key.encode()


def _check_text(text: str) -> None:
    if _FORBIDDEN.search(text):
        raise ValueError(f"{text!r} must be Unicode text without control characters")
    if len(text.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"key {text!r} has more than {MAX_KEY_BYTES} bytes")
