"""The metadata of an object on a server: encodes tags, and decodes them. Pure.

Names get a prefix, because other tools store metadata of their own (for example a file's time).
Values are percent-encoded, because a header holds only ASCII and loses spaces at its ends.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

CACHE_CONTROL: Final = "no-store"
"""Of every object: a cache between readers and the bucket must not serve an old pointer."""
_PREFIX: Final = "rebundle-"
_UNENCODED: Final = "!#$&'()*+,/:;=?@[]^_`{|}~.-"


def encoded(tag: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata to send with an object."""
    return {_PREFIX + name: quote(value, safe=_UNENCODED) for name, value in tag.items()}


def decoded(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the tag that is part of an object's metadata."""
    return {
        name.removeprefix(_PREFIX): unquote(value)
        for name, value in metadata.items()
        if name.startswith(_PREFIX)
    }
