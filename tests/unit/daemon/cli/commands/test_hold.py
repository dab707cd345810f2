"""`rebundle hold` and `rebundle resume`: keep live, and make desired live again."""

import io
from concurrent.futures import ThreadPoolExecutor

from tests.support.buckets import SCOPE, composition_with, in_bucket, pointer


class Terminal(io.StringIO):
    def isatty(self):
        return True


def publish_next(bucket):
    in_bucket(bucket, lambda published: published.publish(composition_with("5", "1"), "state-5", 5))


def test_a_hold_keeps_live_and_resume_makes_desired_live_after_showing_the_difference(
    bucket, rebundle
):
    assert rebundle("hold", SCOPE, "--reason", "freeze", "--by", "alice").code == 0
    publish_next(bucket)
    assert pointer(bucket).live.state == "state-3"

    result = rebundle("resume", SCOPE, "--yes")

    assert result.code == 0
    assert "~ 101 2 → 5" in result.err
    assert (pointer(bucket).live.state, pointer(bucket).hold) == ("state-5", None)


def test_a_dry_run_of_resume_changes_nothing(bucket, rebundle):
    rebundle("hold", SCOPE, "--reason", "freeze")

    assert rebundle("resume", SCOPE, "--dry-run").code == 0
    assert pointer(bucket).hold is not None


def test_resume_asks_and_no_cancels_it(bucket, rebundle, monkeypatch):
    rebundle("hold", SCOPE, "--reason", "freeze")
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))

    assert rebundle("resume", SCOPE).code == 1
    assert pointer(bucket).hold is not None


def test_a_confirmed_resume_is_refused_once_desired_has_changed(bucket, rebundle, monkeypatch):
    class Slow(Terminal):
        def readline(self):
            with ThreadPoolExecutor(1) as thread:
                thread.submit(publish_next, bucket).result()
            return "y\n"

    rebundle("hold", SCOPE, "--reason", "freeze")
    monkeypatch.setattr("sys.stdin", Slow())

    result = rebundle("resume", SCOPE)

    assert result.code == 4
    assert "newer state" in result.err
    assert pointer(bucket).live.state == "state-3"


def test_resume_without_a_hold_changes_nothing(bucket, rebundle):
    result = rebundle("resume", SCOPE, "-o", "json")

    assert (result.code, result.json["changed"], pointer(bucket).sequence) == (0, False, 3)


def test_resume_is_refused_while_desired_is_quarantined(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-3", "--reason", "bad", "--rollback-to", "state-1", "-y")

    assert rebundle("resume", SCOPE, "--yes").code == 4


def test_a_blank_reason_is_a_usage_error(bucket, rebundle):
    result = rebundle("hold", SCOPE, "--reason", " ")

    assert result.code == 2
    assert "must not be blank" in result.err


def test_resume_of_a_retired_scope_says_how_it_becomes_active(bucket, rebundle):
    rebundle("retire", SCOPE, "--reason", "gone", "--yes")

    result = rebundle("resume", SCOPE)

    assert result.code == 0
    assert f"{SCOPE} is retired: `rebundle rollback {SCOPE} STATE --reason '…'` or a" in result.err
    assert "nothing would be live" not in result.err
