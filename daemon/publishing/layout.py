"""The keys of objects in a bucket (protocol 4), relative to the bucket's prefix."""

import re
from typing import Final

from renderers.values import Scope

BUCKET: Final = ".rebundle/bucket.json"
"""The object with the id of the bucket. It is created once and never changed."""
LIVE_TREE: Final = "docker-compose-gen/"
CREDENTIALS: Final = "example/creds/"
"""The folder of a live tree with the credentials of operators."""
MARKER: Final = ".rebundle.json"
ARCHIVE: Final = "bundle.tar.gz"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.dsse.json"
PUBLICATION: Final = frozenset({ARCHIVE, MANIFEST, SIGNATURE})
"""The names of the objects of a publication."""
_CHUNK: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,16}-[A-Za-z0-9._-]{0,128}\.json")


def is_credential(key: str) -> bool:
    """Whether the object under this key must not be read, printed or compared (protocol 5)."""
    return f"/{LIVE_TREE}{CREDENTIALS}" in key


def pointer(scope: Scope) -> str:
    """The key of the pointer of a scope, which decides what is published in it."""
    return f"{scope}/pointer.json"


def history(scope: Scope, oldest: int, newest: int, write_id: str) -> str:
    """The key of a chunk of older history entries.

    It has the sequences of the oldest and the newest entry, and the id of the pointer write that
    stored the chunk. Every try stores its own chunk, so a chunk of another lineage, a damaged one,
    or one that a crash left behind never blocks it. The sequences are known even if the bytes are
    lost.
    """
    return f"{scope}/history/{oldest}-{newest}-{write_id}.json"


def freshness(scope: Scope) -> str:
    """The key of the signed statement that a pointer was the newest one at a certain time."""
    return f"{scope}/freshness.json"


def histories(scope: Scope) -> str:
    """The folder of all history chunks of a scope."""
    return f"{scope}/history/"


def is_history(scope: Scope, key: str) -> bool:
    """Whether this key has the form of a history chunk of this scope, which no other object has."""
    folder = histories(scope)
    return key.startswith(folder) and _CHUNK.fullmatch(key.removeprefix(folder)) is not None


def states(scope: Scope) -> str:
    """The folder of all publications of a scope."""
    return f"{scope}/states/"


def archive(scope: Scope, state: str, attempt: str) -> str:
    """The key of the archive of a publication, which has its files."""
    return f"{scope}/states/{state}/{attempt}/{ARCHIVE}"


def manifest(scope: Scope, state: str, attempt: str) -> str:
    """The key of the manifest of a publication."""
    return f"{scope}/states/{state}/{attempt}/{MANIFEST}"


def signature(scope: Scope, state: str, attempt: str) -> str:
    """The key of the signature of a publication."""
    return f"{scope}/states/{state}/{attempt}/{SIGNATURE}"


def live_tree(scope: Scope, path: str = "") -> str:
    """The key of a file in the live tree; without `path`, the folder of the live tree."""
    return f"{scope}/{LIVE_TREE}{path}"


def all_replaced(scope: Scope) -> str:
    """The folder of the copies of files in the live tree that a pass kept before replacing them."""
    return f"{scope}/.rebundle/replaced/"


def replaced(scope: Scope, path: str, sha256: str) -> str:
    """The key of the copy of a replaced file, by its path in the live tree and its digest."""
    return f"{scope}/.rebundle/replaced/{path}/{sha256}"
