"""Reading and writing the JSON documents of the bucket. Pure.

The code that verifies signatures accepts a document only in the one form in which it is written
(`canonical`). So every changed bit is detected, also in white space and in unknown fields, and two
readers cannot interpret one document differently.

The parser of events (`events.strict_json`) is another one: it lists every problem of a sender's
text with its JSON path. Here the first fault is enough, and documents are far larger.
"""

import json
import math
import re
from typing import Any, Final

from daemon.consequences import Damaged
from daemon.publishing.errors import OlderSchema
from daemon.publishing.sizes import LEVELS, MARKS
from renderers.values import canonical_json

SCHEMA: Final = 2
"""The schema number in every pointer, history chunk, manifest, live-tree marker and freshness.json
that this release writes (ADR 29)."""
_MOST_DIGITS: Final = 20
_LARGEST: Final = 2**63 - 1
# Takes linear time: it always matches at a quote, up to the end of the text if no second quote
# follows.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+["\\]?', re.DOTALL)
_PLAIN: Final = bytes(set(range(256)) - set(b'[]{},:"\\'))
"""The bytes without a meaning for the structure: not bracket, comma, colon, quote or backslash."""
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class Malformed(ValueError, Damaged):
    """The bytes are not a JSON document, or not in the one form in which it is written."""


def parse(body: bytes) -> Any:
    """The value in these bytes.

    Accepts less than JSON allows: UTF-8 only, no key twice in an object, no number beyond 64 bits,
    no unpaired surrogate in a text. So every accepted value can be written again.

    Raises:
        Malformed: the bytes are no such document.
    """
    if not body:
        raise Malformed("it is empty")
    try:
        text = body.decode()
        _check_structure(body)
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            canonical_json(value).encode()  # an unpaired surrogate cannot be encoded
    except UnicodeError:
        raise Malformed("it is no JSON: it has text that is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"it is no JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error).splitlines()[0]) from error
    return value


def check_schema(document: object, name: str, *, numbered: bool = True) -> None:
    """Checks the schema of a document, before its fields and its signatures are checked.

    A value that is no schema number is checked by the grammar, and a newer schema by the writers.

    Args:
        document: the parsed document.
        name: the document's name or key, for the message.
        numbered: whether documents of this kind had a field `schema` already in schema 1. In the
            other kinds, a document without this field has schema 1.

    Raises:
        OlderSchema: the document has schema 1.
        Malformed: the document has no schema, and should have one.
    """
    if not isinstance(document, dict):
        return
    if "schema" not in document and numbered:
        raise Malformed("schema: is missing")
    schema = document.get("schema", 1)
    if type(schema) is int and schema == 1:  # True == 1, and is no schema number
        raise OlderSchema(
            f"{name} has schema 1, and this release reads schema {SCHEMA} and later: a development "
            "version from before the first release wrote it. Use a new prefix of the bucket, a new "
            "journal and a new trust.state_file. Nothing is damaged; do not recover"
        )


def serialised(value: object) -> bytes:
    """The bytes of a value, in the one form in which documents are written."""
    return (canonical_json(value) + "\n").encode()


def canonical(body: bytes) -> Any:
    """The value in these bytes.

    Raises:
        Malformed: as `parse`, or the bytes are not those that `serialised` returns for the value.
    """
    value = parse(body)
    if serialised(value) != body:
        raise Malformed("it is not in the form in which it is written")
    return value


def _check_structure(body: bytes) -> None:
    """Check the nesting and the number of values before a parser recurses or allocates memory.

    Raises:
        Malformed: there are more than `sizes.LEVELS` levels or `sizes.MARKS` marks, or brackets do
            not match.
    """
    if b"\\" in body:
        marks = _STRING.sub(b"", body).translate(_ONE_KIND, _PLAIN)
    else:  # same result, five times faster: without plain characters, most texts are `""`
        marks = _STRING.sub(b"", body.translate(_ONE_KIND, _PLAIN).replace(b'""', b""))
    marks = marks.translate(None, b":")
    if len(marks) > MARKS:
        raise Malformed(f"it has more than {MARKS:,} brackets and commas")
    brackets = marks.translate(None, b",")
    for _ in range(LEVELS):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    if brackets.count(b"[") != brackets.count(b"]") or brackets.startswith(b"]"):
        raise Malformed("it is no JSON: its brackets do not match")
    if brackets:
        raise Malformed(f"it nests more than {LEVELS} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Malformed("an object has one key twice")
    return fields


def _integer(digits: str) -> int:
    # The length is checked first: int() takes quadratic time in the number of digits.
    if len(digits) > _MOST_DIGITS or abs(number := int(digits)) > _LARGEST:
        raise Malformed("a number has more than 64 bits")
    return number


def _fraction(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Malformed("a number is too large")
    return number


def _constant(name: str) -> None:
    raise Malformed(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)
