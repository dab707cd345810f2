"""What a key and a prefix may be, for every store alike.

A key that one store takes and another refuses would make a bucket that cannot be moved, so the strictest rules of
the adapters hold everywhere: a path of a POSIX file system, which is also an object name of S3 and GCS.
"""

import re
from typing import Final

LONGEST_KEY: Final = 1024
"""Bytes: the limit of S3 and of GCS."""
LONGEST_PART: Final = 255
"""Bytes: the limit of a file's name."""
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs, which no encoding holds."""


def is_key(text: str) -> bool:
    """Whether an object can have this name."""
    try:
        check_key(text)
    except ValueError:
        return False
    return True


def check_key(key: str) -> str:
    """The key itself. Raises ValueError, which is a programming error of the caller: no key comes from outside."""
    if not key:
        raise ValueError("a key must not be empty")
    _check_text(key)
    for part in key.split("/"):
        if part in {"", ".", ".."}:
            raise ValueError(f"key {key!r} must be relative and have no empty, '.' or '..' part")
        if len(part.encode()) > LONGEST_PART:
            raise ValueError(f"key {key!r} has a part of more than {LONGEST_PART} bytes")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself: the start of some key, or empty. Raises ValueError."""
    folder, _, _ = prefix.rpartition("/")
    if folder or prefix.startswith("/"):
        check_key(folder)
    _check_text(prefix)
    return prefix


def check_folder(prefix: str) -> str:
    """The prefix of a whole folder itself: empty, or ending in `/`. Raises ValueError."""
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"folder {prefix!r} must be empty or end in '/'")
    return check_prefix(prefix)


def by_bytes(key: str) -> bytes:
    """What keys are sorted by, as servers do; Python's own order of text differs above U+FFFF."""
    return key.encode()


def _check_text(text: str) -> None:
    if _FORBIDDEN.search(text):
        raise ValueError(f"{text!r} must be Unicode text without control characters")
    if len(text.encode()) > LONGEST_KEY:
        raise ValueError(f"key {text!r} has more than {LONGEST_KEY} bytes")
