"""Where things are in a bucket (protocol 4). Keys are relative to the bucket's prefix."""

import re
from typing import Final

from renderers.model import Scope

BUCKET: Final = ".rebundle/bucket.json"
"""Has the id of the bucket: created once, never changed."""
LIVE_TREE: Final = "docker-compose-gen/"
MARKER: Final = ".rebundle.json"
ARCHIVE: Final = "bundle.tar.gz"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.dsse.json"
PUBLICATION: Final = frozenset({ARCHIVE, MANIFEST, SIGNATURE})
"""The names of the objects of a publication."""
_CHUNK: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,16}-[A-Za-z0-9._-]{0,128}\.json")


def pointer(scope: Scope) -> str:
    """The one mutable object of a scope."""
    return f"{scope}/pointer.json"


def history(scope: Scope, oldest: int, newest: int, write_id: str) -> str:
    """A chunk of older history entries: the sequences of its oldest and newest, and whose write of the pointer made it.

    Each try stores its own, so that no chunk of another lineage, damaged or left by a crash, is ever in the way. The
    sequences are told even if the bytes are lost.
    """
    return f"{scope}/history/{oldest}-{newest}-{write_id}.json"


def freshness(scope: Scope) -> str:
    """Tells, signed, that the pointer of a sequence is the newest."""
    return f"{scope}/freshness.json"


def histories(scope: Scope) -> str:
    """The folder of all chunks."""
    return f"{scope}/history/"


def is_history(scope: Scope, key: str) -> bool:
    """Whether a chunk of this scope, and nothing else, can have this key."""
    folder = histories(scope)
    return key.startswith(folder) and _CHUNK.fullmatch(key.removeprefix(folder)) is not None


def states(scope: Scope) -> str:
    """The folder of all publications."""
    return f"{scope}/states/"


def archive(scope: Scope, state: str, attempt: str) -> str:
    """The files of a publication."""
    return f"{scope}/states/{state}/{attempt}/{ARCHIVE}"


def manifest(scope: Scope, state: str, attempt: str) -> str:
    """The manifest of a publication."""
    return f"{scope}/states/{state}/{attempt}/{MANIFEST}"


def signature(scope: Scope, state: str, attempt: str) -> str:
    """The signature of a publication."""
    return f"{scope}/states/{state}/{attempt}/{SIGNATURE}"


def live_tree(scope: Scope, path: str = "") -> str:
    """A file that operators see, or the folder of all of them."""
    return f"{scope}/{LIVE_TREE}{path}"


def all_replaced(scope: Scope) -> str:
    """The folder of all bytes that were kept before a pass replaced them."""
    return f"{scope}/.rebundle/replaced/"


def replaced(scope: Scope, path: str, sha256: str) -> str:
    """Where the bytes with this digest, which stood at a path of the live tree, are kept."""
    return f"{scope}/.rebundle/replaced/{path}/{sha256}"
