"""Contradictions between stored facts."""

import pytest

from daemon.inspection.checks import (
    NO_POLICY,
    NOT_FRESH,
    Check,
    Checks,
    check_composition,
    check_content,
    check_live_tree,
    history_problem,
    not_checked,
    pointer_problem,
)
from daemon.publishing import archive, manifest, protocol
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.live_tree.ownership import Blocked, Marker, Put
from daemon.publishing.live_tree.results import PathReport, Survey
from daemon.stores.port import Version
from renderers.values import Scope
from tests.builders_publishing import (
    AT,
    SCOPE,
    make_files,
    make_publication,
    make_state,
    published,
    writing,
)

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


def test_a_gap_is_reported_with_what_to_do():
    assert history_problem(POINTER, ENTRIES[1:]) == (
        "the history has gaps or duplicates: its sequences are 2, 3. Restore the last version of "
        "the pointer if the bucket keeps versions; publishing continues either way"
    )


@pytest.mark.parametrize(("sequence", "complete"), [(3, True), (2, False)])
def test_entries_before_a_recovery_may_be_missing(sequence, complete):
    entries = (ENTRIES[0], recovered(sequence))

    assert (history_problem(POINTER, entries) is None) == complete


def test_entries_before_a_recovery_are_in_order():
    entries = (ENTRIES[1], ENTRIES[0], recovered(3))

    assert "has gaps or duplicates" in (history_problem(POINTER, entries) or "")


@pytest.mark.parametrize("changed", [{"sequence": 7}, {"write_id": "x"}, {"history": ()}])
def test_a_pointer_that_its_newest_entry_does_not_describe_is_a_problem(changed):
    found = pointer_problem(POINTER.model_copy(update=changed))

    assert found == "its newest history entry does not describe its last change"
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


def described():
    state = make_state(1)
    members = archive.Packer().members(SCOPE, state.files)
    return manifest.decode(manifest.written(state, "a" * 32, AT, members, archive.pack(members)))


@pytest.mark.parametrize(
    ("digest", "scope"), [("0" * 64, None), (None, Scope("another", "target"))], ids=str
)
def test_a_manifest_of_another_composition_or_scope_is_refused(digest, scope):
    stored = described()
    own = stored.composition_value()

    check_composition(stored, own.digest, own.scope)
    with pytest.raises(VerificationFailed) as refused:
        check_composition(stored, digest or own.digest, scope or own.scope)

    assert str(refused.value) == "its composition does not match the pointer"


def test_other_files_than_those_of_the_manifest_are_refused():
    check_content(described(), make_files("1"))
    with pytest.raises(VerificationFailed) as refused:
        check_content(described(), make_files("2"))

    assert str(refused.value) == "the files do not match the content digest"


def survey(*verdicts, marked=4, status="synced"):
    marker = Marker(sequence=marked, publication=None, status=status)
    return Survey(marker, PathReport(4, verdicts))


EDITED = Put("base/a", Version("1"), keep_aside=True)
CHANGED = Put("base/b", Version("1"))
AHEAD = (
    "its marker names sequence 5, but the pointer has 4: an older pointer was restored, or another "
    f"writer wrote the marker; `rebundle recover {SCOPE} --reason '…'` writes a pointer that is "
    "newer than both"
)
COPIED = (
    "edited by hand: base/a; the next pass keeps a copy under .rebundle/replaced/ and restores the "
    "live state's files"
)
UNSIGNED = (
    "tree and marker are not signed: verify again after the daemon's next pass, in a few seconds"
)


@pytest.mark.parametrize(
    ("found", "signed", "problem"),
    [
        (survey(), True, None),
        (
            survey(marked=5),
            False,
            AHEAD,
        ),
        (
            survey(Blocked("base/a", "because"), Blocked("base/b", "reasons", AT)),
            False,
            f"base/a does not follow: because; base/b did not follow in the pass of {AT}: reasons",
        ),
        (
            survey(EDITED),
            False,
            COPIED,
        ),
        (survey(CHANGED), False, "marked as synced, but these paths differ from live: base/b"),
        (survey(CHANGED, status="updating"), False, None),
        (
            survey(CHANGED, status="updating"),
            True,
            f"these paths differ from live: base/b; {UNSIGNED}",
        ),
    ],
    ids=["follows", "ahead", "blocked", "edited", "marked", "behind", "behind and signed"],
)
def test_a_live_tree_that_contradicts_its_marker_is_a_problem(found, signed, problem):
    assert check_live_tree(SCOPE, found, signed=signed).problem == problem


@pytest.mark.parametrize(("number", "more"), [(5, ""), (7, "2 more paths do not follow")])
def test_a_few_blocked_paths_are_named_and_the_others_counted(number, more):
    blocked = (Blocked(f"base/{path}", "because") for path in range(number))

    problem = check_live_tree(SCOPE, survey(*blocked), signed=False).problem

    assert problem.split("; ")[5:] == ([more] if more else [])


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (survey(), None),
        (
            survey(CHANGED, status="updating"),
            "behind the pointer, as its marker records; the next pass continues",
        ),
    ],
)
def test_a_tree_that_is_behind_is_noted(found, note):
    check = check_live_tree(SCOPE, found, signed=False)

    assert (check.ok, check.what, check.scope, check.note) == (True, "live tree", str(SCOPE), note)
