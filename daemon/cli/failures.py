"""What an error means to whoever called the command: an exit code, and words.

Known errors carry their own words, also on what to do next, and never a trace. Of a group of errors the gravest counts:
concurrent work reports in groups.
"""

from collections.abc import Iterator
from typing import Final

from cyclopts import CycloptsError

from daemon.cli.codes import BACKEND, CONFLICT, FAILED, INTERRUPTED, NOT_FOUND, USAGE, VERIFICATION
from daemon.http.errors import ListenFailed
from daemon.publishing.errors import (
    CannotSign,
    KeyUnusable,
    NewerRenderer,
    NewerSchema,
    NotFound,
    OlderSchema,
    OperationRefused,
    OutcomeUnresolved,
    PointerLost,
    PointerMoved,
    PolicyUnusable,
    PublishingError,
    SequenceMemoryUnusable,
    StateUnreadable,
    VerificationFailed,
)
from daemon.settings import SettingsError
from daemon.stores.errors import ConditionFailed, ObjectDamaged, StoreError
from events.errors import (
    EventError,
    IdentityConflict,
    InvalidEvent,
    JournalDamaged,
    JournalLocked,
    JournalMissing,
    NotWaiting,
    SourceUnavailable,
)
from renderers.errors import GateFailure, RenderError, TemplateFault


class CommandError(Exception):
    """Root of what the command line itself raises; by itself, a failure without a closer name."""


class UsageError(CommandError):
    """The command cannot be carried out as it was given (exit 2)."""


class Declined(CommandError):
    """Whoever was asked said no (exit 1)."""


class BucketMissing(CommandError):
    """There is no folder where the bucket should be (exit 6)."""


class DaemonUnreachable(CommandError):
    """The daemon does not answer, or not as it should (exit 6)."""


class DaemonRefused(CommandError):
    """The daemon refuses: no permission, or a conflict (exit 4)."""


_REFUSED: Final = (
    OperationRefused,
    PointerMoved,
    NewerSchema,
    OlderSchema,
    NewerRenderer,
    ConditionFailed,
    IdentityConflict,
    NotWaiting,
    DaemonRefused,
)
_DAMAGED: Final = (
    VerificationFailed,
    CannotSign,
    PointerLost,
    PolicyUnusable,
    SequenceMemoryUnusable,
    GateFailure,
    ObjectDamaged,
)
_UNUSABLE: Final = (
    OutcomeUnresolved,
    StateUnreadable,
    StoreError,
    SourceUnavailable,
    JournalDamaged,
    JournalLocked,
    ListenFailed,
    BucketMissing,
    DaemonUnreachable,
)
# The first row that fits counts.
_CODES: Final[tuple[tuple[tuple[type[BaseException], ...], int], ...]] = (
    ((KeyboardInterrupt,), INTERRUPTED),
    ((CycloptsError, SettingsError, UsageError, TemplateFault, KeyUnusable), USAGE),
    ((NotFound, JournalMissing), NOT_FOUND),
    (_REFUSED, CONFLICT),
    (_DAMAGED, VERIFICATION),
    (_UNUSABLE, BACKEND),
    ((InvalidEvent, RenderError, EventError, PublishingError, CommandError), FAILED),
)


def known(error: BaseException) -> BaseException | None:
    """The error to report, if it is one that is expected; None for a fault of ours."""
    leaves = list(_leaves(error))
    if any(_code(leaf) is None for leaf in leaves):
        return None
    return max(leaves, key=lambda leaf: _code(leaf) or 0)


def words(error: BaseException) -> str:
    """What is wrong, in one text; an error that is not expected is marked as such."""
    expected = known(error)
    if expected is None:
        return f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)"
    return str(expected).strip() or type(expected).__name__


def exit_code(error: BaseException) -> int:
    """Of an expected error; 1 for any other."""
    expected = known(error)
    return FAILED if expected is None else _code(expected) or FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _code(error: BaseException) -> int | None:
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), None)
