import io
import re

import pytest

from daemon.cli.changes import print_change
from daemon.cli.output import Printer
from daemon.publishing import operator_commands, protocol
from daemon.publishing.live_tree.ownership import Blocked, DeletedByOperator, Override, Put, Stray
from daemon.publishing.live_tree.sync import FinishedPass, UnfinishedPass
from daemon.publishing.operator_commands import ChangeResult
from daemon.publishing.protocol import Writing
from tests.support.buckets import SCOPE, in_bucket

WRITING = Writing("w" * 32, "2026-11-22T10:00:00.000Z", "alice", "freeze")


def told(bucket, verb, live_tree, *, dry_run=False):
    before = in_bucket(bucket, lambda published: published.pointer())
    printer = Printer("table", False, False, False, io.StringIO(), io.StringIO())
    print_change(
        printer,
        "verb",
        ChangeResult(before, verb(before, WRITING), True, live_tree),
        dry_run=dry_run,
    )
    return printer.stdout.getvalue()


def test_before_and_after_are_told_with_what_the_pass_did(bucket):
    tree = FinishedPass(
        4,
        (
            Put("base/a", None, keep_aside=True),
            Override("example/b\033"),
            DeletedByOperator("example/c"),
            Stray("base/d"),
        ),
    )

    assert told(bucket, operator_commands.rollback("state-1"), tree).splitlines() == [
        "visual-anomaly/core-versions: verb (sequence 3 → 4)",
        "  live       state-3 (3) → state-1 (1)",
        "  desired    state-3 (3)",
        "  hold       off → by alice: freeze",
        "  live tree  in sync, 1 file written",
        "             had foreign content, of which a copy is kept under .rebundle/replaced/: base/a",
        "             operator's override, not changed: example/b\\x1b",
        "             deleted by an operator, stays deleted: example/c",
        "             not written by Rebundle, not changed: base/d",
    ]


def test_a_live_tree_that_others_kept_changing_is_told(bucket):
    assert "not in sync: busy" in told(bucket, protocol.hold, UnfinishedPass(4, "busy"))


def test_a_blocked_path_is_named_with_what_to_do_beside_what_was_done(bucket):
    tree = FinishedPass(
        4,
        (Put("base/a", None), Blocked("base/b", "a \033link: move it away"), Override("example/c")),
    )

    text = told(bucket, protocol.hold, tree)

    assert "not in sync: base/b is blocked: a \\x1blink: move it away" in text
    assert "override, not changed: example/c" in text
    assert "base/b is blocked, and 1 more: x" in told(
        bucket, protocol.hold, FinishedPass(4, (Blocked("base/b", "x"), Blocked("base/c", "y")))
    )


def test_a_dry_run_says_would_and_nothing_of_the_live_tree(bucket):
    text = told(bucket, operator_commands.quarantine("state-2"), None, dry_run=True)

    assert "would be sequence 3 → 4" in text
    assert re.search(
        r"^  quarantined  composition [0-9a-f]{12} \(state-2\): no → yes$", text, re.MULTILINE
    )
    assert "live tree" not in text


@pytest.mark.parametrize(
    "verb",
    [
        ("hold", SCOPE, "--reason", "r"),
        ("resume", SCOPE),
        ("pin", SCOPE, "state-1"),
        ("rollback", SCOPE, "state-1", "--reason", "r"),
        ("quarantine", SCOPE, "state-3", "--reason", "r", "--rollback-to", "state-1"),
        ("retire", SCOPE, "--reason", "r"),
    ],
    ids=lambda verb: verb[0],
)
def test_a_dry_run_tells_what_would_be_and_changes_nothing(bucket, rebundle, verb):
    if verb[0] == "resume":
        rebundle("hold", SCOPE, "--reason", "r")
    before = {path: path.read_bytes() for path in bucket.rglob("*") if path.is_file()}
    result = rebundle(*verb, "--dry-run")

    assert (result.code, "would be sequence" in result.out) == (0, True)
    assert {path: path.read_bytes() for path in bucket.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "verb",
    [
        ("hold", SCOPE),
        ("resume", SCOPE),
        ("pin", SCOPE, "state-1"),
        ("rollback", SCOPE, "state-1", "-y"),
        ("quarantine", SCOPE, "state-1"),
        ("republish", SCOPE),
        ("retire", SCOPE, "-y"),
        ("recover", SCOPE, "-y"),
        ("gc", SCOPE),
        ("dead-letters", "drop", "1"),
        ("dead-letters", "add", "e1"),
    ],
    ids=lambda verb: verb[0],
)
def test_a_reason_or_a_name_that_is_too_long_to_record_is_a_usage_error(bucket, rebundle, verb):
    for flag, other in (("--reason", "--by"), ("--by", "--reason")):
        result = rebundle(*verb, flag, "x" * 2001, other, "ann")
        assert (result.code, "at most 2000 can be recorded" in result.err) == (2, True)
    assert rebundle(*verb, "--reason", "\udcff").code == 2


@pytest.mark.parametrize("text", ["x" * 2000, "\U0001f600" * 2000, "line\nline\033[31m\u202e\0"])
def test_the_longest_reason_and_name_can_be_read_back(bucket, rebundle, text):
    text = text.replace("\0", "")
    assert rebundle("hold", SCOPE, "--reason", text, "--by", text).code == 0

    hold = in_bucket(bucket, lambda published: published.pointer()).hold
    assert (hold.reason, hold.by) == (text, text)
    assert rebundle("status", SCOPE).code == 0
