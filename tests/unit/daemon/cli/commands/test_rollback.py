"""`rebundle rollback`: makes an earlier state live and sets a hold."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.buckets import SCOPE, composition_with, in_bucket, live_file, pointer

ENV = "example/conf/bundle/.env"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_rollback_makes_the_state_live_holds_it_and_leaves_overrides(bucket, rebundle):
    live_file(bucket, ENV).write_bytes(b"MINE=1\n")

    result = rebundle(
        "rollback", SCOPE, "state-1", "--reason", "bad", "--yes", "--by", "alice", "-o", "json"
    )

    assert result.code == 0
    view = result.json
    assert (view["before"]["live"]["state"], view["after"]["live"]["state"]) == (
        "state-3",
        "state-1",
    )
    assert (view["after"]["desired"]["state"], view["after"]["hold"]["by"]) == ("state-3", "alice")
    assert view["live_tree"]["overrides"] == [ENV]
    assert live_file(bucket, ENV).read_bytes() == b"MINE=1\n"
    assert b'"state-1"' in live_file(bucket, "base/.rebundle.json").read_bytes()


def test_the_difference_and_the_targets_age_come_first(bucket, rebundle):
    shown = rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "--yes").err

    assert "published" in shown
    assert "- 102 1" in shown
    assert "~ 101 2 → 1" in shown


def test_a_dry_run_shows_what_would_change_and_changes_nothing(bucket, rebundle):
    before = pointer(bucket)

    result = rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "--dry-run", "-o", "json")

    assert (result.code, result.json["dry_run"], result.json["after"]["live"]["state"]) == (
        0,
        True,
        "state-1",
    )
    assert pointer(bucket) == before


def test_without_a_terminal_the_flag_yes_is_needed(bucket, rebundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    result = rebundle("rollback", SCOPE, "state-1", "--reason", "bad")

    assert (result.code, pointer(bucket).sequence) == (2, 3)
    assert "--yes" in result.err


@pytest.mark.parametrize(
    ("answer", "code", "live"), [("y\n", 0, "state-1"), ("n\n", 1, "state-3"), ("", 1, "state-3")]
)
def test_at_a_terminal_it_asks(bucket, rebundle, monkeypatch, answer, code, live):
    monkeypatch.setattr("sys.stdin", Terminal(answer))

    assert rebundle("rollback", SCOPE, "state-1", "--reason", "bad").code == code
    assert pointer(bucket).live.state == live


def test_a_confirmed_rollback_is_refused_once_another_state_is_live(bucket, rebundle, monkeypatch):
    class Slow(Terminal):
        """Another writer publishes while the operator reads the question."""

        def readline(self):
            thread = ThreadPoolExecutor(1)
            thread.submit(
                in_bucket, bucket, lambda it: it.publish(composition_with("9"), "state-9", 9)
            ).result()
            thread.shutdown()
            return "y\n"

    monkeypatch.setattr("sys.stdin", Slow())

    result = rebundle("rollback", SCOPE, "state-1", "--reason", "bad")

    assert result.code == 4
    assert "live is state-9, not state-3" in result.err
    assert pointer(bucket).live.state == "state-9"


def test_an_unexpected_live_state_is_a_conflict(bucket, rebundle):
    result = rebundle(
        "rollback", SCOPE, "state-1", "--reason", "bad", "--yes", "--expected-live", "state-2"
    )

    assert (result.code, pointer(bucket).sequence) == (4, 3)


def test_discard_newer_drops_desired_and_reports_what_a_waiting_event_does(bucket, rebundle):
    result = rebundle(
        "rollback", SCOPE, "state-1", "--reason", "bad", "--yes", "--discard-newer", "--quiet"
    )

    assert "still waiting apply to this state" in result.err
    now = pointer(bucket)
    assert (now.live.state, now.desired.state, now.hold) == ("state-1", "state-1", None)


def test_the_same_rollback_again_changes_nothing_and_does_not_ask(bucket, rebundle):
    rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "--yes")

    result = rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "-o", "json")

    assert (result.code, result.json["changed"], pointer(bucket).sequence) == (0, False, 4)


def test_a_state_that_is_not_retained_is_not_found(bucket, rebundle):
    assert rebundle("rollback", SCOPE, "nope", "--reason", "bad", "--yes").code == 3


@pytest.mark.parametrize("name", ["fine-2026", "fine-2026-11"])
def test_a_unique_prefix_is_resolved_where_the_user_sees_the_result(
    bucket, rebundle, monkeypatch, name
):
    in_bucket(bucket, lambda it: it.publish(composition_with("3"), "fine-2026-11", 4))
    in_bucket(bucket, lambda it: it.publish(composition_with("4"), "state-5", 5))
    shown = rebundle("rollback", SCOPE, name, "--reason", "bad", "--dry-run", "-o", "json")
    assert shown.json["after"]["live"]["state"] == "fine-2026-11"
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))

    result = rebundle("rollback", SCOPE, name, "--reason", "bad")

    assert (result.code, pointer(bucket).live.state) == (0, "fine-2026-11")
    assert f"Roll {SCOPE} back to fine-2026-11?" in result.err


@pytest.mark.parametrize("command", ["rollback", "pin", "quarantine"])
def test_a_command_that_does_not_ask_accepts_no_prefix(bucket, rebundle, command):
    in_bucket(bucket, lambda it: it.publish(composition_with("3"), "fine-2026-11", 4))
    in_bucket(bucket, lambda it: it.publish(composition_with("4"), "state-5", 5))

    result = rebundle(
        command, SCOPE, "fine", "--reason", "r", *(["--yes"] if command == "rollback" else [])
    )

    assert (result.code, "is fine-2026-11 meant?" in result.err, pointer(bucket).sequence) == (
        3,
        True,
        5,
    )


def test_an_ambiguous_prefix_is_refused_with_the_number_of_matches(bucket, rebundle):
    for number in range(4, 8):
        in_bucket(
            bucket, lambda it, n=number: it.publish(composition_with(str(n)), f"state-{n}", n)
        )

    result = rebundle("rollback", SCOPE, "state", "--reason", "bad", "--dry-run")

    assert result.code == 3
    assert (
        "state is the beginning of 7 states, state-1, state-2, state-3, state-4, state-5 and 2 more"
        in result.err
    )


def test_a_state_with_its_attempt_is_used_as_given(bucket, rebundle):
    attempt = pointer(bucket).retained_of("state-1")[0].attempt

    result = rebundle(
        "rollback", SCOPE, f"state-1@{attempt[:9]}", "--reason", "r", "--dry-run", "-o", "json"
    )

    assert result.json["after"]["live"]["attempt"] == attempt


def test_a_quarantined_state_is_refused(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-1", "--reason", "bad")

    assert rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "--yes").code == 4


def test_a_missing_live_state_does_not_prevent_a_rollback(bucket, rebundle):
    for archive in (bucket / str(SCOPE) / "states/state-3").glob("*/bundle.tar.gz"):
        archive.unlink()

    result = rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "--yes")

    assert (result.code, pointer(bucket).live.state) == (0, "state-1")
    assert "the difference cannot be shown" in result.err


def test_a_rollback_reactivates_a_retired_scope(bucket, rebundle):
    rebundle("retire", SCOPE, "--reason", "gone", "--yes")

    result = rebundle("rollback", SCOPE, "state-2", "--reason", "needed after all", "--yes")

    assert (result.code, pointer(bucket).live.state) == (0, "state-2")
    assert "live: nothing → state-2 (2)" in result.err


def test_a_damaged_target_is_found_before_it_is_live(bucket, rebundle):
    for archive in (bucket / str(SCOPE) / "states/state-1").glob("*/bundle.tar.gz"):
        archive.write_bytes(archive.read_bytes()[:-9])

    assert rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "--yes").code == 5
    assert (
        rebundle(
            "quarantine", SCOPE, "state-3", "--reason", "bad", "--rollback-to", "state-1", "-y"
        ).code
        == 5
    )
    assert pointer(bucket).sequence == 3


def test_a_reason_is_required(bucket, rebundle):
    result = rebundle("rollback", SCOPE, "state-1", "--yes")

    assert result.code == 2
    assert "--reason" in result.err
