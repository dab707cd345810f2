"""Words that messages share. Pure."""

from collections.abc import Iterable
from typing import Final

MOST_NAMED: Final = 5


def some(values: Iterable[object], most: int = MOST_NAMED) -> str:
    """The first values, and how many more there are."""
    shown = [str(value) for value in values]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def reason_of(error: BaseException) -> str:
    """What an error says; its kind, if it says nothing."""
    return str(error) or type(error).__name__
