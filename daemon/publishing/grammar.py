"""The types of the fields of stored documents, with their rules (ADR 25). Pure.

Rebundle is not the only writer of a bucket, so a document is checked when it is decoded
(`checked`). A document with a value that breaks its rule is damaged. Values that this process
creates come from checked parts and are not checked again.

The rules accept everything that any release has written since schema 2. Where a later release may
differ, they are wider than what this release writes (an attempt is 32 hex digits today). No rule
is so wide that a part of a key could leave its folder: keys are built only from fields that have
these types.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from daemon.stores.object_keys import is_key
from events.model import LARGEST_REVISION
from renderers.values import Scope

__all__ = [
    "MOST_SEQUENCE",
    "Attempt",
    "Count",
    "Id16",
    "Label",
    "Offset",
    "PathText",
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
"""The largest sequence of a pointer, and the largest epoch and commit number.

A scope that changes a thousand times a second reaches it in 285,000 years.
"""
_LONGEST_PATH: Final = 256
"""Bytes that a USTAR header has room for."""
_LONGEST_REASON: Final = 1 << 17
"""Characters that Linux passes in one argument."""
_SHOWN: Final = 200

# Repeats the rule of `events.schemas` on purpose: what senders may use can become stricter, and
# what is stored must stay readable.
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
    """The time that this text of a document means.

    Raises:
        ValueError: it has no offset, or is outside of the years 1900 to 2999.
    """
    if not _TIME.fullmatch(text):
        raise ValueError(
            "must be a time with its offset, such as 2026-01-31T12:00:00.000Z, from 1900 to 2999"
        )
    return datetime.fromisoformat(text)


def timestamp(now: datetime) -> str:
    """The text of a time as every stored document has it: ISO 8601 in UTC, to the millisecond."""
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fault_of(error: ValidationError) -> str:
    """The first invalid field of a document, and the rule that it breaks.

    The length of the text is bounded, whatever the document holds.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{where[:_SHOWN]}: {message[:_SHOWN]}"


def checked(kind: type[M], value: object) -> M:
    """The document of this kind, with the rules of all its fields checked.

    Raises:
        ValidationError: a field breaks its rule.
    """
    return kind.model_validate(value, context=_READ)


def rule(check: Callable[[T], None]) -> AfterValidator:
    """A rule of a field, enforced only on documents that are read. `check` raises ValueError."""

    def validate(value: T, info: ValidationInfo) -> T:
        if info.context == _READ:
            check(value)
        return value

    return AfterValidator(validate)


def _matching(pattern: re.Pattern[str], words: str) -> AfterValidator:
    fits = pattern.fullmatch

    # Not made with `rule`, to save one call: most fields have such a rule.
    def validate(text: str, info: ValidationInfo) -> str:
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
        raise ValueError(
            "must be a relative path without empty, '.' or '..' parts, of at most "
            f"{_LONGEST_PATH} bytes"
        )


def _scope(text: str) -> None:
    Scope.parse(text)


_Text = Annotated[str, StringConstraints(strict=True)]

StateId = Annotated[
    _Text, _matching(_STATE, "letters, digits and . _ - (128 at most), the first no mark")
]
"""A state id, in the form that an event may have (`events.schemas`)."""
Attempt = Annotated[
    _Text, _matching(_ATTEMPT, "letters, digits and . _ - (128 at most), the first no mark")
]
"""The id of an attempt."""
WriteId = Annotated[_Text, _matching(_WRITE, "letters, digits and . _ - (128 at most)")]
"""The id of one write of a pointer. It is empty only while nothing was written."""
Sha256 = Annotated[_Text, _matching(_SHA256, "64 lower-case hex digits")]
Id16 = Annotated[_Text, _matching(_ID16, "16 lower-case hex digits")]
"""The first 16 digits of a sha256."""
PublicationName = Annotated[_Text, _matching(_PUBLICATION, "<state>@<attempt>")]
Time = Annotated[_Text, rule(_time)]
"""ISO 8601 with an offset. `time_of` returns the value."""
PathText = Annotated[_Text, rule(_path)]
"""The path of a file below docker-compose-gen/."""
ScopeText = Annotated[_Text, rule(_scope)]
Label = Annotated[str, StringConstraints(strict=True, max_length=4096)]
"""A name from outside of Rebundle: the id of an event, a source, the instance of a position."""
Reason = Annotated[str, StringConstraints(strict=True, max_length=_LONGEST_REASON)]
"""The actor of a change, or its reason."""
_Number = Annotated[int, Field(strict=True, ge=0)]
SequenceNumber = Annotated[_Number, _at_most(MOST_SEQUENCE)]
RevisionNumber = Annotated[_Number, _at_most(LARGEST_REVISION)]
Offset = Annotated[_Number, _at_most(2**63 - 1)]
Count = Annotated[_Number, _at_most(2**63 - 1)]
