"""Formats tables, name-value pairs and ages for people. All text is escaped. Pure."""

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime

from daemon.inspection.escaping import plain

Rows = Iterable[Sequence[object]]


def columns(header: Sequence[str], rows: Rows) -> list[str]:
    """The lines of a table, with three spaces between columns; nothing is wrapped or truncated."""
    table = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    return ["   ".join(map(_padded, row, widths)).rstrip() for row in table]


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else plain(value)


def pairs(named: Iterable[tuple[str, object]]) -> list[str]:
    """Lines of names and aligned values; names without a value are left out."""
    shown = [(name, plain(value)) for name, value in named if value not in {None, ""}]
    width = max((len(name) for name, _ in shown), default=0) + 2
    return [f"{name + ':':<{width}} {value}" for name, value in shown]


def _width(text: str) -> int:
    """The columns that a text takes in a terminal."""
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.combining(character) else 1


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def age(since: str | None, now: datetime) -> str:
    """The age of an ISO 8601 time, rounded: 45s, 12m, 5h, 3d; "?" for a text without an offset."""
    if since is None:
        return "-"
    waited = seconds_since(since, now)
    if waited is None:
        return "?"
    seconds = int(waited)
    for unit, size, most in (("s", 1, 120), ("m", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{max(seconds, 0) // size}{unit}"
    return f"{seconds // 86_400}d"


def seconds_since(since: str, now: datetime) -> float | None:
    """The seconds since an ISO 8601 time; None for a text without an offset."""
    try:
        then = datetime.fromisoformat(since)
    except ValueError:
        return None
    return None if then.tzinfo is None else (now - then).total_seconds()
