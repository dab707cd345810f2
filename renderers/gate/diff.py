"""Whether what a file says agrees with what it must say, exactly or as a template of the bundle's own may put it.

A template of the bundle's own may say more: keys in a mapping, entries in a list, comments, variables. It says all that
the composition says, in its order, and nothing of it a second time: no flag again, no other mount on the same place, no
word in a probe, no device more. It undoes nothing: no `disable`, no `replicas`. It adds no service, no anchor and no
tag, which the readers see to.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from renderers.gate.expectations import Default

_WHOLE: Final = frozenset({"test", "entrypoint", "devices", "capabilities", "device_ids"})
"""Lists that mean one thing as a whole: nothing can be put among their entries."""
_UNDOES: Final = frozenset(
    {"disable", "replicas", "scale", "profiles", "network_mode", "entrypoint", "extends", "build"}
)
"""Keys that undo what is said beside them: no health check, no container, not this image."""
_VARIABLE: Final = re.compile(r"\$\{[^}]*\}")


def difference(
    expected: Any, found: Any, path: tuple[str | int, ...], *, may_add: bool
) -> tuple[tuple[str | int, ...], str, str] | None:
    """The first place where two values differ, with what was expected and found; 1 is neither true nor 1.0."""
    match expected:
        case Default():
            is_same = expected.is_in(found)
        case dict() if isinstance(found, dict):
            more = [key for key in found if key not in expected and (not may_add or key in _UNDOES)]
            for key in (*expected, *more):
                if key not in found or key not in expected:
                    return (*path, key), shown(expected, key), shown(found, key)
                different = difference(expected[key], found[key], (*path, key), may_add=may_add)
                if different:
                    return different
            is_same = True
        case list() if isinstance(found, list) and len(expected) == len(found):
            pairs = enumerate(zip(expected, found, strict=True))
            steps = (difference(one, other, (*path, index), may_add=may_add) for index, (one, other) in pairs)
            return next((step for step in steps if step), None)
        case list() if isinstance(found, list) and may_add:
            return _of_lists(expected, found, path)
        case _:
            is_same = type(expected) is type(found) and expected == found
    return None if is_same else (path, repr(expected), repr(found))


def _of_lists(
    expected: list[Any], found: list[Any], path: tuple[str | int, ...]
) -> tuple[tuple[str | int, ...], str, str] | None:
    """What is missing of `expected`, in its order, or else what is there a second time in another form."""
    if path and path[-1] in _WHOLE:
        return path, repr(expected), repr(found)
    wanted, there = _with_values(expected), _with_values(found)
    rest = iter(enumerate(there))
    kept = set()
    for one in wanted:
        index = next((at for at, other in rest if difference(one, other, (), may_add=True) is None), None)
        if index is None:
            return path, repr(one), "nothing of it, or not in this order"
        kept.add(index)
    decided = {_slot(one) for one in wanted}
    for index, other in enumerate(there):
        if index not in kept and _slot(other) in decided:
            return path, "nothing a second time that the bundle itself decides", repr(other)
    return None


def _with_values(entries: list[Any]) -> list[Any]:
    """The entries, a flag and the value behind it as one: nothing may come between them."""
    joined: list[Any] = []
    for entry in entries:
        is_value = isinstance(entry, str) and not entry.startswith("-")
        before = joined[-1] if joined else None
        if is_value and isinstance(before, str) and before.startswith("-") and not set(before) & {"=", " "}:
            joined[-1] = f"{before} {entry}"
        else:
            joined.append(entry)
    return joined


def _slot(entry: Any) -> str:
    """What an entry of a list is about: the flag, the mount's target, the variable, the key."""
    if isinstance(entry, dict) and "target" in entry:
        return str(entry["target"]).rstrip("/")
    text = _VARIABLE.sub("", str(entry))
    if text.startswith("-"):
        return re.split("[= ]", text, maxsplit=1)[0]
    parts = text.split(":")
    return parts[1].rstrip("/") if len(parts) > 1 and parts[1].startswith("/") else text.partition("=")[0]


def shown(group: Mapping[str, Any], key: str) -> str:
    """What a message says of a value that may be missing."""
    return repr(group[key]) if key in group else "nothing"
