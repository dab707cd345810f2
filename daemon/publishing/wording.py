"""Parts of messages that several modules share. Pure."""

from collections.abc import Iterable
from typing import Final

MOST_NAMED: Final = 5
RENEW: Final = (
    "a daemon that signs writes it again, with signing.key_file and signing.freshness_minutes"
)
"""The remedy for a freshness.json that cannot be used."""


def leave_out(scope: object, damaged: str = "manifest") -> str:
    """The remedy for a damaged or missing object of a publication."""
    return (
        f"restore the object if the bucket keeps versions, else `rebundle recover {scope} --reason "
        f"'damaged {damaged}'` takes the state out of the pointer"
    )


def rebuild(scope: object) -> str:
    """The remedy for a pointer that cannot be used."""
    return (
        f"`rebundle recover {scope} --reason '…'` rebuilds it, unless the bucket keeps a "
        "version to restore"
    )


def cut_off(scope: object) -> str:
    """The remedy for a damaged or missing chunk of the history."""
    return (
        f"restore the object if the bucket keeps versions, else `rebundle recover {scope} --reason "
        "'damaged history'` cuts the history off there"
    )


def some(values: Iterable[object], most: int = MOST_NAMED) -> str:
    """At most `most` of the values, and the number of the others."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, in the plural unless the number is 1.

    `plural`: needed if it does not only add an "s".
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
