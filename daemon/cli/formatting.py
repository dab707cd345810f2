"""Text for people: escaped, aligned, ages in words. Pure."""

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime

from daemon.inspection.escaping import plain

Rows = Iterable[Sequence[object]]


def columns(header: Sequence[str], rows: Rows) -> list[str]:
    """Lines of a table without rules, columns three blanks apart; nothing is wrapped or cut."""
    cells = [list(header), *([plain("-" if each is None or each == "" else each) for each in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return ["   ".join(map(_padded, row, widths)).rstrip() for row in cells]


def pairs(named: Iterable[tuple[str, object]]) -> list[str]:
    """Lines of names and values, the values one below the other; absent ones are left out."""
    told = [(name, plain(value)) for name, value in named if value not in {None, ""}]
    width = max((len(name) for name, _ in told), default=0) + 2
    return [f"{name + ':':<{width}} {value}" for name, value in told]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else not unicodedata.combining(each) for each in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def age(since: str | None, now: datetime) -> str:
    """How long ago a time of ours was, roughly: 45s, 12m, 5h, 3d; "?" for a text that is no time with an offset."""
    if since is None:
        return "-"
    try:
        then = datetime.fromisoformat(since)
    except ValueError:
        return "?"
    if then.tzinfo is None:
        return "?"
    seconds = int((now - then).total_seconds())
    for unit, size, most in (("s", 1, 120), ("m", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{max(seconds, 0) // size}{unit}"
    return f"{seconds // 86_400}d"
