"""What each field of a stored document may hold: one definition for every document (ADR 25). Pure.

A bucket is written by others, too, so a document is checked when it is decoded (`checked`). A value that breaks its
rule is damage of that document. Values that are made here come from checked parts.

The rules accept everything that any release has written since schema 2. They are wider than what this release writes
where a later one may differ (an attempt is 32 hex digits today), but never so wide that a part of a key could leave its
folder. Keys are built only from fields that have these types.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError, ValidationInfo

from daemon.stores.object_keys import is_key
from events.schemas import LARGEST_REVISION
from renderers.model import Scope

__all__ = [
    "MOST_SEQUENCE",
    "Attempt",
    "Count",
    "Id16",
    "Label",
    "PathText",
    "Position",
    "PublicationName",
    "Reason",
    "RevisionNumber",
    "ScopeText",
    "SequenceNumber",
    "Sha256",
    "StateId",
    "Time",
    "WriteId",
    "checked",
    "fault_of",
    "rule",
    "time_of",
    "timestamp",
]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_READ: Final = "read from a bucket"

MOST_SEQUENCE: Final = LARGEST_REVISION
"""Of a pointer, an epoch, a commit. A scope that changes a thousand times a second reaches it in 285,000 years."""
_LONGEST_PATH: Final = 256
"""Bytes: what a USTAR header has room for."""
_LONGEST_REASON: Final = 1 << 17
"""Characters: what Linux passes in one argument."""
_SHOWN: Final = 200

_STATE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ATTEMPT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_WRITE: Final = re.compile(r"[A-Za-z0-9._-]{0,128}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ID16: Final = re.compile(r"[0-9a-f]{16}")
_PUBLICATION: Final = re.compile(rf"{_STATE.pattern}@{_ATTEMPT.pattern}")
_TIME: Final = re.compile(
    r"(19|2[0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)


def time_of(text: str) -> datetime:
    """The time that a document tells. Raises ValueError: it has no offset, or lies outside of 1900 to 2999."""
    if not _TIME.fullmatch(text):
        raise ValueError("must be a time with its offset, such as 2026-01-31T12:00:00.000Z, from 1900 to 2999")
    return datetime.fromisoformat(text)


def timestamp(now: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond, as every document here writes it."""
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fault_of(error: ValidationError) -> str:
    """The first field that a document got wrong, and the rule that it breaks; bounded, whatever the document holds."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{where[:_SHOWN]}: {message[:_SHOWN]}"


def checked(kind: type[M], value: object) -> M:
    """The document of this kind that was read, with every rule of its fields. Raises ValidationError."""
    return kind.model_validate(value, context=_READ)


def rule(check: Callable[[T], None]) -> AfterValidator:
    """A rule of a field, which holds for what is read. `check` raises ValueError."""

    def validate(value: T, info: ValidationInfo) -> T:
        if info.context == _READ:
            check(value)
        return value

    return AfterValidator(validate)


def _matching(pattern: re.Pattern[str], words: str) -> AfterValidator:
    fits = pattern.fullmatch

    def validate(text: str, info: ValidationInfo) -> str:  # not by `rule`: most fields have such a rule
        if info.context == _READ and fits(text) is None:
            raise ValueError(f"must be {words}")
        return text

    return AfterValidator(validate)


def _at_most(largest: int) -> AfterValidator:
    def check(number: int) -> None:
        if number > largest:
            raise ValueError(f"must be at most {largest}")

    return rule(check)


def _time(text: str) -> None:
    time_of(text)


def _path(text: str) -> None:
    if not is_key(text) or len(text.encode()) > _LONGEST_PATH:
        raise ValueError(f"must be a relative path without empty, '.' or '..' parts, of at most {_LONGEST_PATH} bytes")


def _scope(text: str) -> None:
    Scope.parse(text)


_Text = Annotated[str, StringConstraints(strict=True)]

StateId = Annotated[_Text, _matching(_STATE, "letters, digits and . _ - (128 at most), the first no mark")]
"""As an event may name one (`events.schemas`)."""
Attempt = Annotated[_Text, _matching(_ATTEMPT, "letters, digits and . _ - (128 at most), the first no mark")]
"""Which upload of a state."""
WriteId = Annotated[_Text, _matching(_WRITE, "letters, digits and . _ - (128 at most)")]
"""Of one write of a pointer; empty only where nothing was written yet."""
Sha256 = Annotated[_Text, _matching(_SHA256, "64 lower-case hex digits")]
Id16 = Annotated[_Text, _matching(_ID16, "16 lower-case hex digits")]
"""The start of a sha256."""
PublicationName = Annotated[_Text, _matching(_PUBLICATION, "<state>@<attempt>")]
Time = Annotated[_Text, rule(_time)]
"""ISO 8601 with an offset; `time_of` gives the value."""
PathText = Annotated[_Text, rule(_path)]
"""Of a file below docker-compose-gen/."""
ScopeText = Annotated[_Text, rule(_scope)]
Label = Annotated[str, StringConstraints(strict=True, max_length=4096)]
"""Text of somebody else's that names something: an event's id, a source, a position's instance."""
Reason = Annotated[str, StringConstraints(strict=True, max_length=_LONGEST_REASON)]
"""Who changed something, and why."""
_Number = Annotated[int, Field(strict=True, ge=0)]
SequenceNumber = Annotated[_Number, _at_most(MOST_SEQUENCE)]
RevisionNumber = Annotated[_Number, _at_most(LARGEST_REVISION)]
Position = Annotated[_Number, _at_most(2**63 - 1)]
Count = Annotated[_Number, _at_most(2**63 - 1)]
