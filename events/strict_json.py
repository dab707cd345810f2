"""Parses untrusted JSON strictly. Pure.

The standard library's parser does the parsing. This module refuses what that parser accepts:
duplicate keys, NaN, numbers that other readers cannot hold, and invalid Unicode. It reports each
problem with its JSON path. It also formats paths and values for messages, so that all validation
messages look the same.

The number of problems is bounded, so that a hostile body cannot cause a much larger answer.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from pydantic import JsonValue

from events.errors import InvalidEvent, Problem

MAX_PROBLEMS: Final = 100
_SHOWN: Final = 80
_LARGEST: Final = 2**63 - 1  # the largest signed 64-bit integer (Go, Java, SQLite)
_BOM: Final = b"\xef\xbb\xbf"
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")


@dataclass(frozen=True, slots=True)
class _Refused:
    """A marker in the parsed tree for a value that is not allowed; `_problems` finds its path."""

    expected: str
    found: str


class _Duplicated(dict[str, Any]):
    """An object with a duplicate key."""

    key: str
    """The first key that occurs a second time."""


def loads(body: bytes, *, max_bytes: int, max_depth: int = 32) -> JsonValue:
    """The JSON value in `body`, which is UTF-8 without a byte order mark.

    Objects and arrays may nest `max_depth` levels. Integers are signed 64-bit.

    Raises:
        InvalidEvent: with the JSON path of each problem; `$` is the whole body.
    """
    if len(body) > max_bytes:
        raise InvalidEvent(
            Problem("$", f"must have at most {max_bytes} bytes", f"{len(body)} bytes")
        )
    too_deep = Problem("$", f"must nest at most {max_depth} levels")
    text = _text(body)
    try:
        parsed = _parser.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}: {error.msg}"
        raise InvalidEvent(Problem("$", "must be JSON", place)) from None
    except RecursionError:
        raise InvalidEvent(too_deep) from None
    # The parser refuses control characters, and UTF-8 has no halves of surrogate pairs: only an
    # escape can make a text unprintable.
    if "\\u" in text or not _is_free_of_problems(parsed, max_depth):
        problems = list(islice(_problems(parsed, max_depth), MAX_PROBLEMS))
        if problems:
            raise InvalidEvent(*problems)
    value: JsonValue = parsed
    return value


def below(path: str, key: str | int) -> str:
    """The JSON path of a member of the value at `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{described(key)}]"


def described(value: object) -> str:
    """A short description of a JSON value for messages: one line without control characters."""
    match value:
        case str():
            text = repr(value[:_SHOWN])
            return (
                text
                if len(value) <= _SHOWN
                else f"{text} and {len(value) - _SHOWN} more characters"
            )
        case dict():
            return f"an object with {len(value)} {'field' if len(value) == 1 else 'fields'}"
        case list() | tuple():
            return f"a list of {len(value)}"
        case None | bool() | int() | float():
            return json.dumps(value)[:_SHOWN]
        case _:
            return repr(value)[:_SHOWN]


def _text(body: bytes) -> str:
    if body.startswith(_BOM):
        raise InvalidEvent(Problem("$", "must be UTF-8 without a byte order mark"))
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{body[error.start]:02x} at {error.start}"
        raise InvalidEvent(Problem("$", "must be UTF-8", found)) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    duplicated = _Duplicated(plain)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            duplicated.key = key
            break
        seen.add(key)
    return duplicated


def _integer(digits: str) -> int | _Refused:
    # The length first: converting a million digits takes quadratic time.
    if len(digits) <= 20 and abs(number := int(digits)) <= _LARGEST:
        return number
    return _Refused("must be an integer of at most 64 bits, or a string", digits[:_SHOWN])


def _fraction(digits: str) -> float | _Refused:
    number = float(digits)
    if math.isfinite(number):
        return number
    return _Refused("must be a number that a double can hold", digits[:_SHOWN])


def _constant(name: str) -> _Refused:
    return _Refused("must be a JSON value", name)


_parser: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)


def _is_free_of_problems(root: Any, max_depth: int) -> bool:
    """Whether `_problems` finds none in the value of a text without escapes.

    It is faster, because it makes no paths and looks only into objects and arrays.
    """
    level = [root] if type(root) not in _SCALARS else []
    for _ in range(max_depth):
        nested: list[Any] = []
        for value in level:
            if type(value) not in (dict, list):
                return False
            children = value.values() if type(value) is dict else value
            nested += [child for child in children if type(child) not in _SCALARS]
        level = nested
    return not level


def _problems(root: Any, max_depth: int) -> Iterator[Problem]:
    """The problems in a parsed value. It does not recurse, because the depth is not checked yet."""
    waiting: list[tuple[str, Any, int]] = [("$", root, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        if isinstance(value, _Refused):
            yield Problem(path, value.expected, value.found)
        elif isinstance(value, str):
            yield from _unprintable(path, value)
        elif isinstance(value, dict | list):
            if depth == max_depth:
                yield Problem(path, f"must nest at most {max_depth} levels")
                continue
            if isinstance(value, _Duplicated):
                yield Problem(below(path, value.key), "must occur only once in its object")
            members = _members(path, value)
            waiting.extend((member, child, depth + 1) for member, child in reversed(members))
            if isinstance(value, dict):
                for key in value:
                    yield from _unprintable(path, key)


def _members(path: str, value: dict[str, Any] | list[Any]) -> list[tuple[str, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    # The parser's hooks have checked numbers, true, false and null already.
    return [
        (below(path, key), child)
        for key, child in entries
        if isinstance(child, str | dict | list | _Refused)
    ]


def _unprintable(path: str, text: str) -> Iterator[Problem]:
    if "\0" in text:
        yield Problem(path, "must have no NUL character", described(text))
    elif not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield Problem(path, "must have no half of a surrogate pair", described(text))
