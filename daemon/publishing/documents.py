"""JSON documents of the bucket, as they are read. Pure.

Whoever verifies a signature takes a document only in the one form in which it is written (`canonical`): every changed
bit is then found, in white space and unknown parts as well, and no two readers can see two things in it.
"""

import json
from typing import Any

from renderers.model import canonical_json


class Malformed(ValueError):
    """No JSON document, or not in its one form."""


def parsed(body: bytes) -> Any:
    """The value in these bytes. Raises Malformed."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error).splitlines()[0]) from error


def written(value: object) -> bytes:
    """A value as every document here is written."""
    return (canonical_json(value) + "\n").encode()


def canonical(body: bytes) -> Any:
    """The value in these bytes. Raises Malformed, also where they are not what `written` would give."""
    value = parsed(body)
    try:
        same = written(value) == body
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise Malformed("it is not in the form in which it is written")
    return value
