"""Mutations that keep the outer form of an input, so that half of all inputs reach the code behind
the first check.
"""

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

from renderers.values import canonical_json

Mutate = Callable[[bytes, int], bytes]
"""The fuzzer's own mutation: an input and the longest result."""
_MOST_UNPACKED = 1 << 20
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**53, 2**63, 10**400, 1e308, float("nan"), "", "\0", "\ud800", "\x1b[31m", "é", "..", "/",
    "a/../b", "x" * 300, "0001-01-01T00:00:00", "9999-12-31T23:59:59.999Z", [], {}, [[]], {"": None},
)  # fmt: skip


def of_json(body: bytes, longest: int, seed: int, mutate: Mutate) -> bytes:
    """A JSON document with one value replaced, removed, copied or mutated."""
    chance = random.Random(seed)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return mutate(body, longest)
    if chance.random() < 0.3:
        return mutate(body, longest)
    places = list(_places(document))
    if not places:
        return mutate(body, longest)
    holder, key = chance.choice(places)
    match chance.randrange(4):
        case 0:
            holder[key] = chance.choice(_ODD)
        case 1:
            del holder[key]
        case 2:
            other_holder, other_key = chance.choice(places)
            holder[key] = other_holder[other_key]
        case _:
            holder[key] = _mutated(holder[key], mutate)
    try:
        return (canonical_json(document) + "\n").encode()[:longest]
    except (ValueError, RecursionError):
        # NaN or half of a surrogate pair, or a value that contains itself, which JSON cannot
        # express.
        try:
            return json.dumps(document).encode()[:longest]
        except (ValueError, RecursionError):
            return mutate(body, longest)


def of_gzip(body: bytes, longest: int, seed: int, mutate: Mutate) -> bytes:
    """A compressed archive, changed below the compression."""
    try:
        inner = zlib.decompressobj(wbits=31).decompress(body, _MOST_UNPACKED)
    except zlib.error:
        return mutate(body, longest)
    if seed % 10 == 0:
        return mutate(body, longest)
    return gzip.compress(mutate(inner, _MOST_UNPACKED), compresslevel=1, mtime=0)[:longest]


def of_text(body: bytes, longest: int, _seed: int, mutate: Mutate) -> bytes:
    """Anything: the fuzzer's own mutation."""
    return mutate(body, longest)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a document: its container and its key or index."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            keys: Any = list(container)
        elif isinstance(container, list):
            keys = range(len(container))
        else:
            continue
        for key in keys:
            found.append((container, key))
            waiting.append(container[key])
    return found


def _mutated(value: Any, mutate: Mutate) -> Any:
    if isinstance(value, str):
        return mutate(value.encode("utf-8", "surrogatepass"), 4 * len(value) + 16).decode(
            "utf-8", "replace"
        )
    if isinstance(value, int | float):
        text = mutate(str(value).encode(), 24).decode("ascii", "ignore")
        try:
            return int(text)
        except ValueError:
            return text
    return [value]
