"""Tags as an object's metadata on a server, where other tools keep theirs beside it (a file's time, say).

A header takes no more than ASCII, and trims spaces: values are percent-encoded. Pure.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

_OURS: Final = "rebundle-"
_KEPT_AS_IT_IS: Final = "!#$&'()*+,/:;=?@[]^_`{|}~.-"


def encoded(tag: Mapping[str, str]) -> dict[str, str]:
    """What is sent with an object."""
    return {_OURS + name: quote(value, safe=_KEPT_AS_IT_IS) for name, value in tag.items()}


def decoded(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tag among everything that came with an object."""
    return {name.removeprefix(_OURS): unquote(value) for name, value in metadata.items() if name.startswith(_OURS)}
