"""Formats tables and name-value pairs for people. All text is escaped. Pure."""

import unicodedata
from collections.abc import Iterable, Sequence

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
