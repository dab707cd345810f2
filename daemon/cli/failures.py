"""Maps errors to exit codes and messages.

The text of an expected error says what is wrong and what to do next; it is shown without a stack
trace. Concurrent work raises exception groups: the error with the highest exit code represents
its group.
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
    JournalOfOtherSchema,
    NotWaiting,
    SourceUnavailable,
)
from renderers.errors import GateFailure, RenderError, TemplateFault


class CommandError(Exception):
    """Root of the errors that the command line itself raises (exit 1)."""


class UsageError(CommandError):
    """The command was used incorrectly (exit 2)."""


class Declined(CommandError):
    """The operator declined the confirmation (exit 1)."""


class BucketMissing(CommandError):
    """The directory of the bucket does not exist (exit 6)."""


class DaemonUnreachable(CommandError):
    """The daemon does not answer, or gives an invalid answer (exit 6)."""


class DaemonRefused(CommandError):
    """The daemon refused the request: no permission, or a conflict (exit 4)."""


_REFUSED: Final = (
    OperationRefused,
    PointerMoved,
    NewerSchema,
    OlderSchema,
    JournalOfOtherSchema,
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
# The first matching row decides.
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
    """The expected error to report; None if the error is a bug in Rebundle."""
    leaves = list(_leaves(error))
    if any(_code(leaf) is None for leaf in leaves):
        return None
    return max(leaves, key=lambda leaf: _code(leaf) or 0)


def words(error: BaseException) -> str:
    """The message of an error; an unexpected error is marked as such."""
    expected = known(error)
    if expected is None:
        return (
            f"unexpected {type(error).__name__}: {error} (--debug shows a stack trace; please "
            "report this)"
        )
    return str(expected).strip() or type(expected).__name__


def exit_code(error: BaseException) -> int:
    """The exit code of an error; 1 for an unexpected one."""
    expected = known(error)
    return FAILED if expected is None else _code(expected) or FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _code(error: BaseException) -> int | None:
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), None)
