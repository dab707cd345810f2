"""Classifies the failure of a batch: transient, or in need of an operator. Pure.

A failure of a store or of the source never settles an event. The event waits in its lane, and
metrics, readiness and `rebundle status` show the waiting lane. Only the content of an event can
make it a dead letter; `folding` and the gate decide that.

There is one exception: a late state that cannot be compared with a state whose manifest cannot be
read becomes a dead letter. It would move nothing, and it would delay the events behind it
(protocol 3).
"""

from dataclasses import dataclass
from typing import Final

from daemon.publishing.errors import OutcomeUnresolved, PointerMoved, PublishingError
from daemon.stores.errors import OutcomeUnknown, StoreError, StoreUnavailable
from events.errors import EventError, SourceUnavailable
from renderers.errors import RenderError

_TRANSIENT: Final = (
    StoreUnavailable,
    OutcomeUnknown,
    PointerMoved,
    OutcomeUnresolved,
    SourceUnavailable,
    TimeoutError,
    ConnectionError,
)
_EXPECTED: Final = (PublishingError, StoreError, EventError, RenderError, OSError)
"""Errors whose message is for operators. A TimeoutError is an OSError."""


@dataclass(frozen=True, slots=True)
class Transient:
    """Ends without an operator: the store is unavailable, or another writer was faster."""

    reason: str
    """A message for operators."""
    error: str
    """The class of the error, for the log."""


@dataclass(frozen=True, slots=True)
class NeedsOperator:
    """An operator has to act: no permission, a lost pointer, a bug. The batch is still retried."""

    reason: str
    """A message for operators."""
    error: str
    """The class of the error, for the log."""


Failure = Transient | NeedsOperator


def classify(error: BaseException) -> Failure:
    """The consequence of an error. A group that has an error for an operator needs an operator."""
    if isinstance(error, BaseExceptionGroup):
        failures = [classify(member) for member in error.exceptions]
        return next(
            (failure for failure in failures if isinstance(failure, NeedsOperator)), failures[0]
        )
    failure = Transient if isinstance(error, _TRANSIENT) else NeedsOperator
    return failure(reason_of(error), type(error).__name__)


def reason_of(error: BaseException) -> str:
    """The message of an error for operators. Only that of a bug has the class of the error."""
    if not isinstance(error, _EXPECTED):
        return f"unexpected {type(error).__name__}: {error} (please report this)"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer within the time limit"
    return str(error) or type(error).__name__
