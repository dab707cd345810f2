"""`rebundle retire`: leaves a scope without a live state and deletes nothing."""

import io

from tests.support.buckets import SCOPE, composition_with, in_bucket


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_retire_leaves_nothing_live_deletes_nothing_and_a_new_state_reactivates_the_scope(
    bucket, rebundle
):
    before = sorted(path for path in bucket.rglob("*") if "states" in path.parts)

    assert rebundle("retire", SCOPE, "--reason", "gone", "--yes").code == 0

    pointer = in_bucket(bucket, lambda published: published.pointer())
    assert (pointer.live, pointer.desired, pointer.sequence) == (None, None, 4)
    assert sorted(path for path in bucket.rglob("*") if "states" in path.parts) == before
    assert "retired" in rebundle("status").out
    assert rebundle("show", SCOPE).code == 3

    after = in_bucket(
        bucket, lambda published: published.publish(composition_with("8"), "state-8", 8)
    )
    assert (after.live.state, after.sequence) == ("state-8", 5)


def test_retire_needs_a_confirmation_by_flag_or_prompt(bucket, rebundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())

    assert rebundle("retire", SCOPE, "--reason", "gone").code == 2

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert rebundle("retire", SCOPE, "--reason", "gone").code == 1
    assert in_bucket(bucket, lambda published: published.pointer()).sequence == 3


def test_retire_asks_only_about_a_scope_that_it_would_change(bucket, rebundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())

    mistyped = rebundle("retire", f"{SCOPE}x", "--reason", "gone")
    assert (mistyped.code, "will have no live" in mistyped.err) == (3, False)
    assert "nothing is published in" in mistyped.err

    rebundle("retire", SCOPE, "--reason", "gone", "--yes")
    again = rebundle("retire", SCOPE, "--reason", "gone")
    assert (again.code, "nothing to change" in again.err) == (0, True)
