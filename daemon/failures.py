"""Maps every failure to one of five consequences, and these to what is done about them. Pure.

A failure of a store or of the source never settles an event. The event waits in its lane, and
metrics, readiness and `rebundle status` show the waiting lane. Only the content of an event can
make it a dead letter; `folding` and the gate decide that.

There is one exception: a late state that cannot be compared with a state whose manifest cannot be
read becomes a dead letter. It would move nothing, and it would delay the events behind it
(protocol 3).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from daemon import consequences, exit_codes
from daemon.publishing import errors as publishing
from events import errors as events
from renderers import errors as renderers


class Consequence(Enum):
    """What a failure asks for (`daemon.consequences`, ADR 30)."""

    TRANSIENT = "transient"
    CONFLICT = "conflict"
    OPERATOR_ACTION_NEEDED = "operator action needed"
    INVALID = "invalid"
    DAMAGED = "damaged"
    BUG = "bug"
    """The error has no consequence: it was not expected, so Rebundle is at fault."""


_CONSEQUENCES: Final[Mapping[type[BaseException], Consequence]] = {
    consequences.Transient: Consequence.TRANSIENT,
    events.Transient: Consequence.TRANSIENT,
    TimeoutError: Consequence.TRANSIENT,
    ConnectionError: Consequence.TRANSIENT,
    consequences.Conflict: Consequence.CONFLICT,
    events.Conflict: Consequence.CONFLICT,
    consequences.OperatorActionNeeded: Consequence.OPERATOR_ACTION_NEEDED,
    events.OperatorActionNeeded: Consequence.OPERATOR_ACTION_NEEDED,
    consequences.Invalid: Consequence.INVALID,
    events.Invalid: Consequence.INVALID,
    renderers.Invalid: Consequence.INVALID,
    consequences.Damaged: Consequence.DAMAGED,
    events.Damaged: Consequence.DAMAGED,
    renderers.Damaged: Consequence.DAMAGED,
}


@dataclass(frozen=True, slots=True)
class Reaction:
    """What is done about a failure."""

    needs_operator: bool
    """A lane repeats its batch in any case. This decides what it logs: a warning that it retries,
    or an error that it waits for an operator."""
    command: Literal["status", "verify"]
    """The command that `/readyz` and `/attention` suggest for a lane that fails."""
    exit_code: int
    """Of a command, unless `_EXIT_CODES` has another one."""


_REACTIONS: Final[Mapping[Consequence, Reaction]] = {
    Consequence.TRANSIENT: Reaction(
        needs_operator=False, command="status", exit_code=exit_codes.BACKEND
    ),
    Consequence.CONFLICT: Reaction(
        needs_operator=False, command="status", exit_code=exit_codes.CONFLICT
    ),
    Consequence.OPERATOR_ACTION_NEEDED: Reaction(
        needs_operator=True, command="status", exit_code=exit_codes.BACKEND
    ),
    Consequence.INVALID: Reaction(
        needs_operator=True, command="status", exit_code=exit_codes.FAILED
    ),
    Consequence.DAMAGED: Reaction(
        needs_operator=True, command="verify", exit_code=exit_codes.VERIFICATION
    ),
    Consequence.BUG: Reaction(needs_operator=True, command="status", exit_code=exit_codes.FAILED),
}

_EXIT_CODES: Final[Mapping[type[BaseException], int]] = {
    # Scripts tell these apart from others with the same consequence.
    publishing.NotFound: exit_codes.NOT_FOUND,
    publishing.KeyUnusable: exit_codes.USAGE,
    renderers.TemplateFault: exit_codes.USAGE,
    # The bucket can be used; the rules of a scope or a release refuse the command.
    publishing.OperationRefused: exit_codes.CONFLICT,
    publishing.OlderSchema: exit_codes.CONFLICT,
    publishing.NewerSchema: exit_codes.CONFLICT,
    publishing.NewerRenderer: exit_codes.CONFLICT,
    events.JournalOfOtherSchema: exit_codes.CONFLICT,
    # Nothing can be verified or signed as the policy demands.
    publishing.CannotSign: exit_codes.VERIFICATION,
    publishing.PolicyUnusable: exit_codes.VERIFICATION,
    publishing.SequenceMemoryUnusable: exit_codes.VERIFICATION,
    # No published data is damaged.
    events.JournalDamaged: exit_codes.BACKEND,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure with its consequence."""

    consequence: Consequence
    reason: str
    """A message for operators."""
    error: str
    """The class of the error, for the log."""

    @property
    def reaction(self) -> Reaction:
        """What is done about it."""
        return _REACTIONS[self.consequence]


def consequence(error: BaseException) -> Consequence:
    """The consequence of one error that is not a group."""
    return next(
        (_CONSEQUENCES[kind] for kind in type(error).__mro__ if kind in _CONSEQUENCES),
        Consequence.BUG,
    )


def exit_code(error: BaseException) -> int:
    """The exit code of one error that is not a group."""
    return next(
        (_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES),
        _REACTIONS[consequence(error)].exit_code,
    )


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group and of the groups in it; an error that is no group itself."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaves(member)
    else:
        yield error


def classify(error: BaseException) -> Failure:
    """The failure that an error is. In a group, the first error that needs an operator decides."""
    failures = [_failure(leaf) for leaf in leaves(error)]
    return next((failure for failure in failures if failure.reaction.needs_operator), failures[0])


def _failure(error: BaseException) -> Failure:
    return Failure(consequence(error), reason_of(error), type(error).__name__)


def reason_of(error: BaseException) -> str:
    """The message of an error for operators. Only that of a bug has the class of the error."""
    if consequence(error) is Consequence.BUG:
        return f"unexpected {type(error).__name__}: {error} (please report this)"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer within the time limit"
    return str(error) or type(error).__name__
