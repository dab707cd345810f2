"""What a failed try of a lane's batch means: try again soon, or only once an operator has acted. Pure.

No failure of the world ever settles an event: it waits in its lane, and the lane is seen waiting (metrics, readiness,
`rebundle status`). Only what an event says can make it a dead letter, and that is decided in `desired` and by the gate.
The one exception is a late state that cannot be compared with a state whose manifest may not be read: it moves nothing,
and would hold up what waits behind it (protocol 3).
"""

from dataclasses import dataclass
from typing import Final

from daemon.publishing.errors import OutcomeUnresolved, PointerMoved
from daemon.stores.errors import OutcomeUnknown, StoreUnavailable
from events.errors import SourceUnavailable

_PASSING: Final = (
    StoreUnavailable,
    OutcomeUnknown,
    PointerMoved,
    OutcomeUnresolved,
    SourceUnavailable,
    TimeoutError,
    ConnectionError,
)


@dataclass(frozen=True, slots=True)
class Transient:
    """Expected to pass by itself: the store is away, another writer was faster."""

    reason: str


@dataclass(frozen=True, slots=True)
class NeedsOperator:
    """Will not pass by itself: no permission, a lost pointer, a fault of ours. Tried again all the same, slowly."""

    reason: str


Failure = Transient | NeedsOperator


def classify(error: BaseException) -> Failure:
    """What this failure means. Of a group of errors the gravest counts."""
    if isinstance(error, BaseExceptionGroup):
        verdicts = [classify(each) for each in error.exceptions]
        return next((each for each in verdicts if isinstance(each, NeedsOperator)), verdicts[0])
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Transient(reason) if isinstance(error, _PASSING) else NeedsOperator(reason)
