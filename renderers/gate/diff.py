"""Compares the value of a file with the expected value, exactly or with additions allowed.

The output of a custom template may hold more than is expected: keys in a mapping, entries in a
list, comments, variables. It must hold everything that is expected, in the same order. It must not
repeat any of it: no second value for a flag, no other mount at the same path. It must not revoke
anything, as `disable` and `replicas` do. It must not add a service, an anchor or a tag; the parsers
refuse those. `custom_services` reduces a service to what is expected of a custom template.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from renderers.gate.custom_services import Condition, Mount
from renderers.gate.expectations import Default

_WHOLE: Final = frozenset({"test", "entrypoint", "devices", "capabilities", "device_ids"})
"""Lists with one meaning as a whole: an additional entry would change it."""
_UNDOES: Final = frozenset(
    {
        *("disable", "replicas", "scale", "profiles", "network_mode", "entrypoint", "extends"),
        *("build", "required"),
    }
)
"""Keys that revoke their neighbours: no health check, no container, another image."""
_SETS_AGAIN: Final = {"cpus": "deploy", "mem_limit": "deploy", "mem_reservation": "deploy"}
"""Keys that set what another key of the same mapping sets; Compose refuses both."""
_VARIABLE: Final = re.compile(r"\$\{[^}]*\}")


def difference(
    expected: Any, found: Any, path: tuple[str | int, ...], *, may_add: bool
) -> tuple[tuple[str | int, ...], str, str] | None:
    """The first path where two values differ, with the expected and the actual text.

    Types count: 1 equals neither true nor 1.0.
    """
    match expected:
        case Default() | Condition():
            is_same = expected.is_in(found)
        case dict() if isinstance(found, dict):
            more = [
                key
                for key in found
                if key not in expected
                and (not may_add or key in _UNDOES or _SETS_AGAIN.get(key) in expected)
            ]
            for key in (*expected, *more):
                if key not in found or key not in expected:
                    return (*path, key), shown(expected, key), shown(found, key)
                different = difference(expected[key], found[key], (*path, key), may_add=may_add)
                if different:
                    return different
            is_same = True
        case list() if isinstance(found, list) and len(expected) == len(found):
            pairs = enumerate(zip(expected, found, strict=True))
            steps = (
                difference(one, other, (*path, index), may_add=may_add)
                for index, (one, other) in pairs
            )
            return next((step for step in steps if step), None)
        case list() if isinstance(found, list) and may_add:
            return _list_difference(expected, found, path)
        case _:
            is_same = type(expected) is type(found) and expected == found
    return None if is_same else (path, repr(expected), repr(found))


def _list_difference(
    expected: list[Any], found: list[Any], path: tuple[str | int, ...]
) -> tuple[tuple[str | int, ...], str, str] | None:
    """The first expected entry that is missing or out of order, else an entry that repeats one."""
    if path and path[-1] in _WHOLE:
        return path, repr(expected), repr(found)
    wanted, actual = _with_values(expected), _with_values(found)
    # One iterator for all entries: each search continues behind the entry found before.
    rest = iter(enumerate(actual))
    matched = set()
    for entry in wanted:
        matches = (at for at, other in rest if difference(entry, other, (), may_add=True) is None)
        index = next(matches, None)
        if index is None:
            return path, repr(entry), "nothing of it, or not in this order"
        matched.add(index)
    decided = {_slot(entry) for entry in wanted}
    for index, other in enumerate(actual):
        if index not in matched and not decided.isdisjoint({_slot(other), _positive(_slot(other))}):
            return path, "no second entry for what the bundle decides", repr(other)
    return None


def _with_values(entries: list[Any]) -> list[Any]:
    """The entries, with a flag and the value after it joined: nothing may come between them."""
    joined: list[Any] = []
    for entry in entries:
        is_value = isinstance(entry, str) and not entry.startswith("-")
        before = joined[-1] if joined else None
        if (
            is_value
            and isinstance(before, str)
            and before.startswith("-")
            and not set(before) & {"=", " "}
        ):
            joined[-1] = f"{before} {entry}"
        else:
            joined.append(entry)
    return joined


def _slot(entry: Any) -> str:
    """What an entry of a list sets: the flag, the target of the mount, the variable or the key."""
    if isinstance(entry, Mount):
        return entry.target
    if isinstance(entry, dict) and "target" in entry:
        return str(entry["target"]).rstrip("/")
    text = _VARIABLE.sub("", str(entry))
    if text.startswith("-"):
        # Engines read -name and --name alike.
        return "--" + re.split("[= ]", text, maxsplit=1)[0].lstrip("-")
    parts = text.split(":")
    return (
        parts[1].rstrip("/")
        if len(parts) > 1 and parts[1].startswith("/")
        else text.partition("=")[0]
    )


def _positive(slot: str) -> str:
    """A flag without the `no` that some engines read as "off"."""
    return f"--{slot.removeprefix('--no')}" if slot.startswith("--no") else slot


def shown(group: Mapping[str, Any], key: str) -> str:
    """The text for a value that may be missing, in a message."""
    return repr(group[key]) if key in group else "nothing"
