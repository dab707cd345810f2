"""Output of commands that change a pointer: before, after, and the result of the pass."""

import io
import re

import pytest

from daemon.cli.output import Printer
from daemon.cli.pointer_changes import print_change
from daemon.publishing import operator_commands, protocol
from daemon.publishing.live_tree.ownership import Blocked, DeletedByOperator, Override, Put, Stray
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.operator_commands import ChangeResult
from daemon.publishing.protocol import Writing
from tests.support.buckets import SCOPE, in_bucket

WRITING = Writing("w" * 32, "2026-11-22T10:00:00.000Z", "alice", "freeze")


def report_of(bucket, command, live_tree, *, dry_run=False):
    before = in_bucket(bucket, lambda published: published.pointer())
    printer = Printer("table", False, False, False, io.StringIO(), io.StringIO())
    print_change(
        printer,
        "operation",
        ChangeResult(before, command(before, WRITING), True, live_tree),
        dry_run=dry_run,
    )
    return printer.stdout.getvalue()


def test_before_and_after_are_reported_with_the_result_of_the_pass(bucket):
    tree = FinishedPass(
        4,
        (
            Put("base/a", None, keep_aside=True),
            Override("example/b\033"),
            DeletedByOperator("example/c"),
            Stray("base/d"),
        ),
    )

    assert report_of(bucket, operator_commands.rollback("state-1"), tree).splitlines() == [
        "visual-anomaly/core-versions: operation (sequence 3 → 4)",
        "  live       state-3 (3) → state-1 (1)",
        "  desired    state-3 (3)",
        "  hold       off → by alice: freeze",
        "  live tree  synced, 1 file written",
        "             had foreign content, of which a copy is kept under .rebundle/replaced/: base/a",
        "             operator's override, not changed: example/b\\x1b",
        "             deleted by an operator, stays deleted: example/c",
        "             not written by Rebundle, not changed: base/d",
    ]


def test_a_live_tree_that_others_kept_changing_is_reported(bucket):
    assert "not synced: busy" in report_of(bucket, protocol.hold, UnfinishedPass(4, "busy"))


def test_a_blocked_path_is_named_with_its_remedy_beside_the_result(bucket):
    tree = FinishedPass(
        4,
        (Put("base/a", None), Blocked("base/b", "a \033link: move it away"), Override("example/c")),
    )

    text = report_of(bucket, protocol.hold, tree)

    assert "not synced: base/b is blocked: a \\x1blink: move it away" in text
    assert "override, not changed: example/c" in text
    assert "base/b is blocked, and 1 more: x" in report_of(
        bucket, protocol.hold, FinishedPass(4, (Blocked("base/b", "x"), Blocked("base/c", "y")))
    )


def test_a_dry_run_prints_would_and_omits_the_live_tree(bucket):
    text = report_of(bucket, operator_commands.quarantine("state-2"), None, dry_run=True)

    assert "would be sequence 3 → 4" in text
    assert re.search(
        r"^  quarantined  composition [0-9a-f]{12} \(state-2\): no → yes$", text, re.MULTILINE
    )
    assert "live tree" not in text


@pytest.mark.parametrize(
    "command",
    [
        ("hold", SCOPE, "--reason", "r"),
        ("resume", SCOPE),
        ("pin", SCOPE, "state-1"),
        ("rollback", SCOPE, "state-1", "--reason", "r"),
        ("quarantine", SCOPE, "state-3", "--reason", "r", "--rollback-to", "state-1"),
        ("retire", SCOPE, "--reason", "r"),
    ],
    ids=lambda command: command[0],
)
def test_a_dry_run_reports_the_result_and_changes_nothing(bucket, rebundle, command):
    if command[0] == "resume":
        rebundle("hold", SCOPE, "--reason", "r")
    before = {path: path.read_bytes() for path in bucket.rglob("*") if path.is_file()}
    result = rebundle(*command, "--dry-run")

    assert (result.code, "would be sequence" in result.out) == (0, True)
    assert {path: path.read_bytes() for path in bucket.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
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
    ids=lambda command: command[0],
)
def test_a_reason_or_a_name_that_is_too_long_to_record_is_a_usage_error(bucket, rebundle, command):
    for flag, other in (("--reason", "--by"), ("--by", "--reason")):
        result = rebundle(*command, flag, "x" * 2001, other, "ann")
        assert (result.code, "at most 2000 can be recorded" in result.err) == (2, True)
    assert rebundle(*command, "--reason", "\udcff").code == 2


@pytest.mark.parametrize("text", ["x" * 2000, "\U0001f600" * 2000, "line\nline\033[31m\u202e\0"])
def test_the_longest_reason_and_name_can_be_read_back(bucket, rebundle, text):
    text = text.replace("\0", "")
    assert rebundle("hold", SCOPE, "--reason", text, "--by", text).code == 0

    hold = in_bucket(bucket, lambda published: published.pointer()).hold
    assert (hold.reason, hold.by) == (text, text)
    assert rebundle("status", SCOPE).code == 0
