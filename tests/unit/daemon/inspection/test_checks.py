"""Contradictions between stored facts."""

import pytest

from daemon.inspection.checks import (
    NO_POLICY,
    NOT_FRESH,
    Check,
    Checks,
    history_problem,
    not_checked,
    pointer_problem,
)
from daemon.publishing import protocol
from tests.builders_publishing import make_publication, published, writing

POINTER = published(*(make_publication(f"state-{number}", number) for number in (1, 2, 3)))
ENTRIES = POINTER.history


def recovered(sequence):
    return ENTRIES[-1].model_copy(update={"kind": "recover", "sequence": sequence})


def test_a_complete_history_has_no_problem():
    assert (pointer_problem(POINTER), history_problem(POINTER, ENTRIES)) == (None, None)


@pytest.mark.parametrize(
    "entries",
    [
        ENTRIES[1:],
        ENTRIES[:-1],
        (ENTRIES[0], ENTRIES[2]),
        (*ENTRIES, ENTRIES[2]),
        (ENTRIES[1], ENTRIES[0], ENTRIES[2]),
        (),
    ],
    ids=["no first", "no last", "a gap", "a duplicate", "another order", "empty"],
)
def test_a_history_with_a_gap_or_a_duplicate_is_a_problem(entries):
    assert "has gaps or duplicates" in (history_problem(POINTER, entries) or "")


@pytest.mark.parametrize(("sequence", "complete"), [(3, True), (2, False)])
def test_entries_before_a_recovery_may_be_missing(sequence, complete):
    entries = (ENTRIES[0], recovered(sequence))

    assert (history_problem(POINTER, entries) is None) == complete


def test_entries_before_a_recovery_are_in_order():
    entries = (ENTRIES[1], ENTRIES[0], recovered(3))

    assert "has gaps or duplicates" in (history_problem(POINTER, entries) or "")


@pytest.mark.parametrize("changed", [{"sequence": 7}, {"write_id": "x"}, {"history": ()}])
def test_a_pointer_that_its_newest_entry_does_not_describe_is_a_problem(changed):
    assert pointer_problem(POINTER.model_copy(update=changed)) is not None
    assert pointer_problem(protocol.hold(POINTER, writing(4))) is None


@pytest.mark.parametrize(
    ("freshness", "missing"), [(None, (NO_POLICY,)), ("off", (NOT_FRESH,)), ("required", ())]
)
def test_what_a_machine_cannot_check_depends_on_its_policy(freshness, missing):
    assert not_checked(freshness) == missing


def test_one_failed_check_fails_all():
    passed, failed = Check.of("s", "pointer", None), Check.of("s", "history", "gap")

    assert Checks.of([passed, failed], ()).ok is False
    assert (Checks.of([passed], ()).ok, passed.ok, failed.problem) == (True, True, "gap")
