"""What a failed try of a lane means."""

import pytest

from daemon.failures import NeedsOperator, Transient, classify
from daemon.publishing.errors import (
    OutcomeUnresolved,
    PointerLost,
    PointerMoved,
    VerificationFailed,
)
from daemon.stores.errors import OutcomeUnknown, StoreRefused, StoreUnavailable
from events.errors import JournalFull, SourceUnavailable


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("away"),
        OutcomeUnknown("perhaps"),
        PointerMoved("faster"),
        OutcomeUnresolved("perhaps"),
        SourceUnavailable("busy"),
        JournalFull("full"),
        TimeoutError(),
        ConnectionResetError("reset"),
    ],
)
def test_what_passes_by_itself(error):
    assert isinstance(classify(error), Transient)


@pytest.mark.parametrize(
    "error",
    [
        StoreRefused("no permission"),
        PointerLost("gone"),
        VerificationFailed("bits"),
        KeyError("a fault of ours"),
    ],
)
def test_what_waits_for_an_operator(error):
    assert isinstance(classify(error), NeedsOperator)


def test_the_reason_is_the_message_and_the_class_is_kept_for_the_log():
    assert classify(StoreUnavailable("away")) == Transient("away", "StoreUnavailable")
    assert classify(TimeoutError()) == Transient("no answer within the time limit", "TimeoutError")
    assert classify(ConnectionResetError("reset")).reason == "reset"


def test_the_reason_of_a_bug_names_its_class():
    assert classify(KeyError("odd")) == NeedsOperator(
        "unexpected KeyError: 'odd' (please report this)", "KeyError"
    )


def test_of_a_group_the_gravest_counts():
    group = ExceptionGroup(
        "both", [StoreUnavailable("away"), ExceptionGroup("inner", [StoreRefused("denied")])]
    )

    assert classify(group) == NeedsOperator("denied", "StoreRefused")
    assert isinstance(classify(ExceptionGroup("one", [StoreUnavailable("away")])), Transient)
