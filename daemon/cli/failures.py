"""The errors of the command line, and the message and exit code of every error.

The text of an expected error says what is wrong and what to do next; it is shown without a stack
trace. `daemon.failures` maps errors to exit codes. Concurrent work raises exception groups: the
error with the highest exit code represents its group.
"""

from typing import Final

from cyclopts import CycloptsError

from daemon import failures
from daemon.consequences import Conflict, Invalid, OperatorActionNeeded, Transient
from daemon.exit_codes import FAILED, INTERRUPTED, USAGE
from daemon.failures import Consequence
from daemon.settings import SettingsError


class CommandError(Exception):
    """Base class of the errors that the command line itself raises."""


class UsageError(CommandError, Invalid):
    """The command was used incorrectly (exit 2)."""


class Declined(CommandError, Invalid):
    """The operator declined the confirmation: nothing was changed."""


class OutputUnwritable(CommandError, Invalid):
    """The folder that the command names for its output cannot be written."""


class BucketMissing(CommandError, OperatorActionNeeded):
    """The directory of the bucket does not exist, or is a file."""


class DaemonUnreachable(CommandError, Transient):
    """The daemon does not answer, or gives an invalid answer."""


class DaemonRefused(CommandError, Conflict):
    """The daemon refused the request: no permission, or a conflict."""


class RequestInvalid(CommandError, Invalid):
    """The daemon found the request invalid."""


_USAGE: Final = (CycloptsError, SettingsError, UsageError)


def known(error: BaseException) -> BaseException | None:
    """The expected error to report; None if the error is a bug in Rebundle."""
    members = list(failures.leaves(error))
    if any(_code(member) is None for member in members):
        return None
    return max(members, key=lambda member: _code(member) or 0)


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


def _code(error: BaseException) -> int | None:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, _USAGE):
        return USAGE
    if failures.consequence(error) is Consequence.BUG:
        return None
    return failures.exit_code(error)
