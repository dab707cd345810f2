"""What is derived from the verdicts of a pass."""

import hashlib

import pytest

from daemon.publishing import layout
from daemon.publishing.live_tree.ownership import Blocked, Marker, Put, Remove
from daemon.publishing.live_tree.results import FinishedPass, PathReport, Restored, Survey
from daemon.stores.port import Version
from renderers.values import RenderedFile
from tests.builders_publishing import SCOPE

DEFAULT = RenderedFile("example/conf/bundle/a.env", b"default\n")
V1 = Version("1")


def survey(*verdicts, sequence=4, status="synced", marked=4):
    marker = Marker(sequence=marked, publication=None, status=status)
    return Survey(marker, PathReport(sequence, verdicts))


@pytest.mark.parametrize(
    ("replaced", "written", "kept"),
    [(None, True, False), (b"default\n", False, False), (b"edited\n", True, True)],
    ids=["absent", "equal", "edited"],
)
def test_a_restored_default_keeps_what_it_replaces(replaced, written, kept):
    restored = Restored(DEFAULT, replaced)
    copy = layout.replaced(SCOPE, DEFAULT.path, hashlib.sha256(b"edited\n").hexdigest())

    assert restored.written is written
    assert restored.kept_as(SCOPE) == (copy if kept else None)


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([], None),
        (["base/a"], "base/a is blocked: because"),
        (["base/a", "base/b", "base/c"], "base/a is blocked, and 2 more: because"),
    ],
)
def test_the_reason_names_the_first_path_and_counts_the_others(paths, reason):
    assert FinishedPass(1, tuple(Blocked(path, "because") for path in paths)).reason == reason


def test_a_blocked_default_holds_nothing_back():
    finished = FinishedPass(1, (Blocked(DEFAULT.path, "because"),))

    assert (finished.behind, finished.follows) == (None, True)


@pytest.mark.parametrize(
    ("found", "marked", "synced", "follows"),
    [
        (survey(), True, True, True),
        (survey(marked=3), False, False, True),
        (survey(status="updating"), False, False, True),
        (survey(Put("base/a", V1)), True, False, False),
        (survey(Remove("base/a", V1)), True, False, False),
        (survey(Blocked("base/a", "because")), True, False, False),
        (survey(Put(DEFAULT.path, None)), True, False, True),
        (Survey(None, PathReport(4)), False, False, True),
    ],
    ids=[
        "nothing to do",
        "older marker",
        "a pass at work",
        "a write",
        "a removal",
        "a blocked path",
        "a default",
        "no marker",
    ],
)
def test_a_tree_is_synced_by_its_marker_and_follows_by_its_files(found, marked, synced, follows):
    assert (found.marked, found.synced, found.follows) == (marked, synced, follows)


@pytest.mark.parametrize(("marked", "ahead"), [(3, False), (4, False), (5, True)])
def test_a_marker_is_ahead_if_it_has_a_higher_sequence(marked, ahead):
    assert survey(marked=marked).marker_is_ahead is ahead
