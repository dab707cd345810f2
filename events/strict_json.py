"""Bytes -> JSON value, for text that a stranger wrote.

The standard library's parser does the parsing; this module refuses what it lets through (duplicate keys, NaN,
numbers no other reader can hold, text that is no text) and names each place by its JSON path. Pure. How a path and a
found value are spelled for people lives here, too, because everything that judges JSON says it the same way.

A problem list is bounded: a hostile body earns no answer larger than itself.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from events.errors import InvalidEvent, Problem

MOST_PROBLEMS: Final = 100
_SHOWN: Final = 80
_LARGEST: Final = 2**63 - 1  # what a signed 64-bit reader (Go, Java, SQLite) can hold
_BOM: Final = b"\xef\xbb\xbf"
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands in the parsed tree where the parser met something no event may hold; the walk finds its path."""

    expected: str
    found: str


class _Duplicated(dict[str, Any]):
    """An object of which one key came twice."""

    key: str


def loads(body: bytes, *, most_bytes: int, deepest: int = 32) -> JsonValue:
    """The JSON value that `body` (UTF-8, no byte order mark) holds.

    Objects and arrays may nest `deepest` levels; integers are signed 64-bit.

    Raises:
        InvalidEvent: with the JSON path of everything that is wrong, `$` being the whole body.
    """
    if len(body) > most_bytes:
        raise InvalidEvent(Problem("$", f"must have at most {most_bytes} bytes", f"{len(body)} bytes"))
    too_deep = Problem("$", f"must nest at most {deepest} levels")
    try:
        parsed = _parser.decode(_text(body))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}: {error.msg}"
        raise InvalidEvent(Problem("$", "must be JSON", place)) from None
    except RecursionError:
        raise InvalidEvent(too_deep) from None
    problems = []
    for problem in _problems(parsed, deepest):
        problems.append(problem)
        if len(problems) == MOST_PROBLEMS:
            break
    if problems:
        raise InvalidEvent(*problems)
    value: JsonValue = parsed
    return value


def below(path: str, key: str | int) -> str:
    """The path of a member of what `path` names."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{described(key)}]"


def described(value: object) -> str:
    """A short, harmless text for a JSON value, for messages: one line, no control characters."""
    match value:
        case str():
            text = repr(value[:_SHOWN])
            return text if len(value) <= _SHOWN else f"{text} and {len(value) - _SHOWN} more characters"
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
    duplicated.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add gives None: the key is new
    return duplicated


def _integer(digits: str) -> int | _Refused:
    # The length first: turning a million digits into a number takes the square of that.
    if len(digits) <= 20 and abs(number := int(digits)) <= _LARGEST:
        return number
    return _Refused("must be an integer of at most 64 bits, or a string", digits[:_SHOWN])


def _fraction(digits: str) -> float | _Refused:
    number = float(digits)
    return number if math.isfinite(number) else _Refused("must be a number that a double can hold", digits[:_SHOWN])


def _constant(name: str) -> _Refused:
    return _Refused("must be a JSON value", name)


_parser: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)


def _problems(root: Any, deepest: int) -> Iterator[Problem]:
    """Walks without recursion: the depth of the value is not to be trusted before it is known."""
    waiting: list[tuple[str, Any, int]] = [("$", root, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        if isinstance(value, _Refused):
            yield Problem(path, value.expected, value.found)
        elif isinstance(value, str):
            yield from _unprintable(path, value)
        elif isinstance(value, dict | list):
            if depth == deepest:
                yield Problem(path, f"must nest at most {deepest} levels")
                continue
            if isinstance(value, _Duplicated):
                yield Problem(below(path, value.key), "must stand only once in its object")
            members = _members(path, value)
            waiting.extend((member, child, depth + 1) for member, child in reversed(members))
            if isinstance(value, dict):
                for key in value:
                    yield from _unprintable(path, key)


def _members(path: str, value: dict[str, Any] | list[Any]) -> list[tuple[str, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    # Numbers, true, false and null were judged while parsing.
    return [(below(path, key), child) for key, child in entries if isinstance(child, str | dict | list | _Refused)]


def _unprintable(path: str, text: str) -> Iterator[Problem]:
    if "\0" in text:
        yield Problem(path, "must have no NUL character", described(text))
    elif not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield Problem(path, "must have no half of a surrogate pair", described(text))
