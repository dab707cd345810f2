"""Exit codes of errors, also of several errors in a group."""

import pytest
from cyclopts import CycloptsError

from daemon.cli import failures
from daemon.http.errors import ListenFailed
from daemon.publishing import errors as publishing
from daemon.settings import SettingProblem, SettingsError
from daemon.stores import errors as stores
from events import errors as events
from renderers import errors as rendering


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CycloptsError(), 2),
        (SettingsError(SettingProblem("bucket", "default", "is wrong")), 2),
        (failures.UsageError("x"), 2),
        (publishing.KeyUnusable("x"), 2),
        (rendering.TemplateFault("a.yaml", 1, "x"), 2),
        (publishing.NotFound("x"), 3),
        (events.JournalMissing("x"), 6),
        (publishing.OperationRefused("x"), 4),
        (publishing.PointerMoved("x"), 4),
        (publishing.NewerSchema("x"), 4),
        (publishing.OlderSchema("x"), 4),
        (publishing.NewerRenderer("x"), 4),
        (stores.ConditionFailed("x"), 4),
        (stores.ObjectMissing("x"), 4),
        (events.IdentityConflict("x"), 4),
        (events.NotWaiting("x"), 4),
        (failures.DaemonRefused("x"), 4),
        (publishing.VerificationFailed("x"), 5),
        (publishing.PointerLost("x"), 5),
        (publishing.CannotSign("x"), 5),
        (publishing.PolicyUnusable("x"), 5),
        (publishing.SequenceMemoryUnusable("x"), 5),
        (stores.ObjectTooBig("x", 1), 5),
        (rendering.GateFailure("base/a", 1, "b", "c"), 5),
        (stores.ObjectDamaged("x"), 5),
        (stores.StoreUnavailable("x"), 6),
        (stores.StoreRefused("x"), 6),
        (publishing.OutcomeUnresolved("x"), 6),
        (events.JournalDamaged("x"), 6),
        (events.JournalOfOtherSchema("x"), 4),
        (events.JournalFull("x"), 6),
        (events.JournalDisplaced("x"), 6),
        (events.JournalLocked("x"), 6),
        (publishing.WrongBucket("x"), 6),
        (publishing.StateUnreadable("x"), 6),
        (ListenFailed("x"), 6),
        (failures.BucketMissing("x"), 6),
        (TimeoutError("x"), 6),
        (failures.DaemonUnreachable("x"), 6),
        (events.InvalidEvent(events.Problem("$", "x")), 1),
        (rendering.UnsafeText("yaml", "x"), 1),
        (failures.RequestInvalid("x"), 1),
        (failures.Declined("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_known_error_has_its_documented_exit_code(error, code):
    assert failures.known(error) is error
    assert failures.exit_code(error) == code


def test_a_programming_error_is_unknown_and_fails():
    assert failures.known(KeyError("x")) is None
    assert failures.exit_code(KeyError("x")) == 1


def test_the_most_severe_known_error_of_a_group_is_reported():
    grave = stores.StoreUnavailable("grave")
    group = ExceptionGroup(
        "several", [publishing.NotFound("mild"), ExceptionGroup("inner", [grave])]
    )

    assert failures.known(group) is grave
    assert failures.exit_code(group) == 6


def test_known_errors_do_not_hide_a_programming_error_in_a_group():
    assert (
        failures.known(ExceptionGroup("several", [publishing.NotFound("mild"), KeyError("ours")]))
        is None
    )
