"""The options of a service: lines that an operator enables by deleting their `#`.

Below a service, a comment `#x` is an option, and `# x` is a remark. Options form groups, which are
enabled as a whole: in consecutive comment lines, the lines further in belong to the line above
them, and in `command` and `entrypoint` a value belongs to its flag. Each group alone and all
together must give a valid service that differs from the one without only by what they add.

These rules need no list of options, so they hold for custom templates too. The options of a
built-in template are also compared with `expectations`. Most services of a bundle have the same
options, so a result is cached by the service's text without what cannot change it.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from renderers.cache import Cache
from renderers.gate import parsers
from renderers.gate.custom_services import Mount, mounts

_COMMANDS: Final = ("command", "entrypoint")
_BY_KEY: Final = ("environment", "labels", "sysctls", "extra_hosts")
"""Lists of `KEY=value`, or mappings."""
_KEY: Final = re.compile(r"    ([^\s#-][^:]*):")
_VALUE: Final = re.compile(
    r"""(\ +(?:-\ )?(?!target:)(?:[\w.-]+|"[^"]*"):)
        \ (?:"[^"]*"|'[^']*'|[^"'|>&*!{\[\#].*)
    | (\ +-\ "?--?[\w-]+=).*
    | (\ +-\ )"(?![-"])[^"/:=]*["]""",
    re.VERBOSE,
)
"""A line with a value, of a key or a flag, or with a word: none of them decides about an option."""

_passed: Final = Cache[bool](4 << 20)
"""Services whose options passed before, by their text without its values."""
_ENTRY_SIZE: Final = 512
"""Bytes that an entry of the cache counts for."""


@dataclass(frozen=True, slots=True)
class Group:
    """Options that are enabled together."""

    lines: tuple[int, ...]
    """Their line numbers in the service, counted from 1."""
    text: str
    """The first of them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An option that cannot be used."""

    line: int
    """Counted from 1."""
    what: str
    found: str


def fault(service: str, expected: Sequence[str], *, model_id: str = "") -> Fault | None:
    """The first option of a service that cannot be used. The service alone must be valid.

    `expected` has the options of the built-in template: where one of them has a value for its flag,
    every template needs one. `model_id` is the text that differs between two services of a kind.
    """
    if "#" not in service:
        return None
    needs_value = _flags_with_value(tuple(_without_id(option, model_id) for option in expected))
    lines = _without_id(service, model_id).split("\n")
    skeleton = "\n".join(map(_without_value, lines))
    key = (needs_value, hashlib.sha256(skeleton.encode()).digest())
    if _passed.get(key):
        return None
    found = _first_fault(service, needs_value)
    if found is None:
        _passed.put(key, value=True, size=_ENTRY_SIZE)
    return found


def groups(service: str) -> list[Group]:
    """The groups of options of a service, from the top."""
    found: list[list[parsers.Comment]] = []
    first: parsers.Comment | None = None
    last_line, flag_above = 0, False
    sections = _sections(service)
    for comment in parsers.comments(service):
        if comment.line != last_line + 1:
            first = None
        last_line = comment.line
        if not comment.is_option:
            continue
        item = _item(comment.text[1:]) if sections[comment.line] in _COMMANDS else None
        is_value = item is not None and not item.startswith("-")
        if first is None:
            joins = False
        elif comment.column == first.column:
            joins = is_value and flag_above
        else:
            joins = comment.column > first.column
        if joins:
            found[-1].append(comment)
            flag_above = False
        else:
            found.append([comment])
            first = comment
            flag_above = item is not None and _is_bare(item)
    return [
        Group(tuple(comment.line for comment in lines), lines[0].text) for lines in found if lines
    ]


def enabled(service: str, chosen: Iterable[Group]) -> str:
    """The service with these groups enabled."""
    lines = service.split("\n")
    for group in chosen:
        for number in group.lines:
            lines[number - 1] = lines[number - 1].replace("#", "", 1)
    return "\n".join(lines)


def _without_id(text: str, model_id: str) -> str:
    return text.replace(model_id, "\0") if model_id else text


@lru_cache(maxsize=8192)
def _without_value(line: str) -> str:
    found = _VALUE.fullmatch(line)
    return found[found.lastindex or 0] if found else line


def _first_fault(service: str, needs_value: frozenset[str]) -> Fault | None:
    base, every = _parsed(service), groups(service)
    added: Counter[str] = Counter()
    for group in every:
        try:
            added += _addition(base, _parsed(enabled(service, [group])), needs_value)
        except _Unusable as error:
            what = f"an option that can be enabled alone in {group.text!r}"
            return Fault(group.lines[0], f"{what} (a remark has a blank behind its #)", str(error))
    if len(every) < 2 or _conflict(base, service, every, added) is None:
        return None
    # Only now each of them in turn, to name the first one that does not go with those above it.
    for count in range(2, len(every) + 1):
        partly = sum(
            (
                _addition(base, _parsed(enabled(service, [group])), needs_value)
                for group in every[:count]
            ),
            Counter[str](),
        )
        found = _conflict(base, service, every[:count], partly)
        if found is not None:
            group = every[count - 1]
            what = f"an option that can be enabled together with those above in {group.text!r}"
            return Fault(group.lines[0], what, found)
    raise AssertionError("the groups conflict only if all of them are enabled")


class _Unusable(Exception):
    """What is wrong with a service that has options enabled."""


def _conflict(
    base: dict[str, Any], service: str, chosen: Sequence[Group], added: Counter[str]
) -> str | None:
    """Why these groups cannot be enabled together, if they cannot.

    `added` are the words that they add to the commands if each of them is enabled alone.
    """
    try:
        together = _addition(base, _parsed(enabled(service, chosen)), frozenset())
    except _Unusable as error:
        return str(error)
    missing = added - together
    return f"{next(iter(missing))!r} with another value behind it" if missing else None


def _parsed(service: str) -> dict[str, Any]:
    try:
        value = parsers.yaml_text(f"services:\n{service}").value
    except parsers.Unreadable as error:
        raise _Unusable(f"{error.found} instead of {error.what}") from error
    match value:
        case {"services": dict(services)} if len(value) == 1 and len(services) == 1:
            (found,) = services.values()
            return found if isinstance(found, dict) else {}
        case _:
            raise _Unusable("another service or a key outside of it")


def _addition(
    base: dict[str, Any], found: dict[str, Any], needs_value: frozenset[str]
) -> Counter[str]:
    """The words that `found` has in addition in its commands, each flag with its value.

    Raises:
        _Unusable: `found` does more or less than adding to `base`.
    """
    if found == base:
        raise _Unusable("nothing that it sets")
    changed = next((key for key in base if not _is_kept(base[key], found.get(key), key)), None)
    if changed is not None:
        raise _Unusable(f"{changed} with another value than without it")
    _refuse_twice(base, found)
    added: Counter[str] = Counter()
    for key in _COMMANDS:
        before, after = _units(base.get(key)), _units(found.get(key))
        swallowed = next(iter(Counter(before) - Counter(after)), None)
        if swallowed is not None:
            raise _Unusable(f"{swallowed!r} no longer as it is without it: a flag takes its value")
        added += Counter(after) - Counter(before)
    alone = next((unit for unit in added if _is_bare(unit) and _flag(unit) in needs_value), None)
    if alone is not None:
        raise _Unusable(f"{alone!r} without its value: it takes the next word")
    return added


def _is_kept(before: Any, after: Any, key: str = "") -> bool:
    """Whether `after` has all of `before`, in its order; commands are compared by `_units`."""
    if before is None:
        return True  # a key that had nothing but options below it
    if isinstance(before, dict) and isinstance(after, dict):
        return all(name in after and _is_kept(before[name], after[name]) for name in before)
    if isinstance(before, list) and isinstance(after, list):
        if key in _COMMANDS:
            return True
        rest = iter(after)
        return all(any(_is_kept(entry, other) for other in rest) for entry in before)
    return type(before) is type(after) and bool(before == after)


def _refuse_twice(base: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises _Unusable for a flag, mount target or key that an option sets a second time."""
    for what, names_of in _NAMES:
        before, after = Counter(names_of(base)), Counter(names_of(found))
        twice = next((name for name in after if after[name] > max(1, before[name])), None)
        if twice is not None:
            raise _Unusable(f"{what} {twice!r} twice")


def _flags(service: Mapping[str, Any]) -> list[str]:
    units = [unit for key in _COMMANDS for unit in _units(service.get(key))]
    return [_flag(unit) for unit in units if unit.startswith("-")]


def _targets(service: Mapping[str, Any]) -> list[str]:
    return [
        entry.target if isinstance(entry, Mount) else str(entry).rstrip("/")
        for entry in mounts(service)
    ]


def _keys(service: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}.{str(entry).partition('=')[0]}"
        for key in _BY_KEY
        if isinstance(service.get(key), list | dict)
        for entry in service[key]
    ]


_NAMES: Final = (("flag", _flags), ("mount at", _targets), ("key", _keys))


def _units(words: Any) -> list[str]:
    """The words of a command, with a flag and the value behind it joined."""
    units: list[str] = []
    for word in map(str, words) if isinstance(words, list) else ():
        if units and _is_bare(units[-1]) and not word.startswith("-"):
            units[-1] = f"{units[-1]} {word}"
        else:
            units.append(word)
    return units


def _is_bare(unit: str) -> bool:
    """Whether it is a flag that has no value yet."""
    return unit.startswith("-") and not set(unit) & {"=", " "}


def _flag(unit: str) -> str:
    return re.split("[= ]", unit, maxsplit=1)[0].lstrip("-")


@lru_cache(maxsize=64)
def _flags_with_value(comments: tuple[str, ...]) -> frozenset[str]:
    """The flags that have a value, behind `=` or in the next line, in these options."""
    units = _units([item for comment in comments if (item := _item(comment[1:])) is not None])
    return frozenset(_flag(unit) for unit in units if unit.startswith("-") and not _is_bare(unit))


def _item(text: str) -> str | None:
    """The text of a list's entry; None for any other line."""
    try:
        value = parsers.yaml_text(text).value
    except parsers.Unreadable:
        return None
    return str(value[0]) if isinstance(value, list) and not isinstance(value[0], dict) else None


def _sections(service: str) -> Mapping[int, str]:
    """The key of the service that each line is below."""
    return dict(enumerate(_section_of_lines(service), 1))


def _section_of_lines(service: str) -> Iterator[str]:
    section = ""
    for line in service.split("\n"):
        key = _KEY.match(line)
        section = key[1] if key else section
        yield section
