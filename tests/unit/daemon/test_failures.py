"""Every error has one consequence, and a lane, readiness and the command line follow from it."""

import importlib
import inspect
import pkgutil

import pytest

import daemon
import events
import renderers
from daemon import consequences, failures
from daemon.cli import failures as cli
from daemon.failures import Consequence, Failure, classify
from daemon.http.problems import RequestRefused
from daemon.publishing.errors import (
    NewerSchema,
    NotFound,
    OutcomeUnresolved,
    PointerLost,
    PointerMoved,
    VerificationFailed,
)
from daemon.stores.errors import (
    ConditionFailed,
    ObjectDamaged,
    OutcomeUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from events import errors as event_errors
from events.errors import EventError, JournalDisplaced, JournalFull, SourceUnavailable
from renderers import errors as render_errors
from renderers.errors import RenderError

NAMES = ("Transient", "Conflict", "OperatorActionNeeded", "Invalid", "Damaged")
BASES = {
    getattr(module, name): Consequence[
        {"OperatorActionNeeded": "OPERATOR_ACTION_NEEDED"}.get(name, name.upper())
    ]
    for module in (consequences, event_errors, render_errors)
    for name in NAMES
    if hasattr(module, name)
}
ROOTS = {EventError, RenderError, StoreError, cli.CommandError, failures.publishing.PublishingError}
EXIT_CODES = {
    Consequence.TRANSIENT: {6},
    Consequence.CONFLICT: {4},
    Consequence.OPERATOR_ACTION_NEEDED: {4, 5, 6},
    Consequence.INVALID: {1, 2, 3},
    Consequence.DAMAGED: {5, 6},
}


def errors() -> list[type[Exception]]:
    """Every exception class of the three packages that can leave its module."""
    found = set()
    for package in (daemon, events, renderers):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            found |= {
                kind
                for name, kind in inspect.getmembers(module, inspect.isclass)
                if issubclass(kind, BaseException)
                and kind.__module__ == info.name
                and not name.startswith("_")
            }
    # An HTTP answer, which problems.answer_everything converts.
    return sorted(found - ROOTS - BASES.keys() - {RequestRefused}, key=str)


ERRORS = errors()


def instance(kind: type[Exception]) -> Exception:
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_exactly_one_consequence(kind):
    bases = {base for base in kind.__mro__ if base in BASES}
    assert len(bases) == 1
    assert failures.consequence(instance(kind)) is BASES[bases.pop()]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_a_lane_and_the_command_line_agree_about_every_error(kind):
    consequence = failures.consequence(instance(kind))
    code = failures.exit_code(instance(kind))
    assert code in EXIT_CODES[consequence]
    retried = not Failure(consequence, "", "").reaction.needs_operator
    assert retried == (consequence in {Consequence.TRANSIENT, Consequence.CONFLICT})
    if retried:
        # What a lane repeats without an operator is never reported as damage or as wrong input.
        assert code in {4, 6}


def test_the_walk_finds_the_errors_of_every_package():
    assert {kind.__module__.split(".")[0] for kind in ERRORS} == {"daemon", "events", "renderers"}
    assert {ObjectDamaged, JournalDisplaced, PointerLost, cli.UsageError} <= set(ERRORS)


@pytest.mark.parametrize(
    ("error", "consequence"),
    [
        (StoreUnavailable("away"), Consequence.TRANSIENT),
        (OutcomeUnknown("perhaps"), Consequence.TRANSIENT),
        (OutcomeUnresolved("perhaps"), Consequence.TRANSIENT),
        (SourceUnavailable("busy"), Consequence.TRANSIENT),
        (JournalFull("full"), Consequence.TRANSIENT),
        (TimeoutError(), Consequence.TRANSIENT),
        (ConnectionResetError("reset"), Consequence.TRANSIENT),
        (PointerMoved("faster"), Consequence.CONFLICT),
        (ConditionFailed("faster"), Consequence.CONFLICT),
        (StoreRefused("no permission"), Consequence.OPERATOR_ACTION_NEEDED),
        (JournalDisplaced("moved"), Consequence.OPERATOR_ACTION_NEEDED),
        (NewerSchema("3"), Consequence.OPERATOR_ACTION_NEEDED),
        (NotFound("no state"), Consequence.INVALID),
        (PointerLost("gone"), Consequence.DAMAGED),
        (VerificationFailed("bits"), Consequence.DAMAGED),
        (ObjectDamaged("bits"), Consequence.DAMAGED),
        (KeyError("a bug"), Consequence.BUG),
    ],
)
def test_consequences_of_some_errors(error, consequence):
    assert classify(error).consequence is consequence


@pytest.mark.parametrize(
    ("consequence", "needs_operator", "command", "exit_code"),
    [
        (Consequence.TRANSIENT, False, "status", 6),
        (Consequence.CONFLICT, False, "status", 4),
        (Consequence.OPERATOR_ACTION_NEEDED, True, "status", 6),
        (Consequence.INVALID, True, "status", 1),
        (Consequence.DAMAGED, True, "verify", 5),
        (Consequence.BUG, True, "status", 1),
    ],
)
def test_what_is_done_about_each_consequence(consequence, needs_operator, command, exit_code):
    reaction = Failure(consequence, "", "").reaction
    assert (reaction.needs_operator, reaction.command) == (needs_operator, command)
    assert reaction.exit_code == exit_code


def test_the_reason_is_the_message_and_the_class_is_kept_for_the_log():
    assert classify(StoreUnavailable("away")) == Failure(
        Consequence.TRANSIENT, "away", "StoreUnavailable"
    )
    assert classify(TimeoutError()).reason == "no answer within the time limit"
    assert classify(ConnectionResetError("reset")).reason == "reset"


def test_the_reason_of_a_bug_names_its_class():
    assert classify(KeyError("odd")) == Failure(
        Consequence.BUG, "unexpected KeyError: 'odd' (please report this)", "KeyError"
    )


def test_the_first_error_of_a_group_that_needs_an_operator_decides():
    group = ExceptionGroup(
        "both", [StoreUnavailable("away"), ExceptionGroup("inner", [StoreRefused("denied")])]
    )

    assert classify(group).reason == "denied"
    assert classify(ExceptionGroup("one", [StoreUnavailable("away")])) == Failure(
        Consequence.TRANSIENT, "away", "StoreUnavailable"
    )
