"""The classification of a failed try of a lane."""

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
def test_errors_that_are_transient(error):
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
def test_errors_that_need_an_operator(error):
    assert isinstance(classify(error), NeedsOperator)


def test_the_reason_has_kind_and_message():
    assert classify(StoreUnavailable("away")).reason == "StoreUnavailable: away"
    assert classify(TimeoutError()).reason == "TimeoutError"


def test_the_most_severe_error_of_a_group_counts():
    group = ExceptionGroup(
        "both", [StoreUnavailable("away"), ExceptionGroup("inner", [StoreRefused("denied")])]
    )

    assert classify(group) == NeedsOperator("StoreRefused: denied")
    assert isinstance(classify(ExceptionGroup("one", [StoreUnavailable("away")])), Transient)
