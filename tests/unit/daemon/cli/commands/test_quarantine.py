"""`rebundle quarantine`: rejects a composition, or lifts the rejection."""

from tests.support.buckets import SCOPE, composition_with, in_bucket, pointer


def test_a_quarantined_composition_does_not_become_live_under_another_id(bucket, rebundle):
    assert (
        rebundle(
            "quarantine", SCOPE, "state-2", "--reason", "breaks the proxy", "--by", "alice"
        ).code
        == 0
    )

    in_bucket(bucket, lambda published: published.publish(composition_with("2"), "state-4", 4))

    assert (pointer(bucket).live.state, pointer(bucket).desired.state) == ("state-3", "state-4")
    assert pointer(bucket).quarantined[0].by == "alice"


def test_quarantining_the_live_composition_needs_a_state_to_roll_back_to(bucket, rebundle):
    refused = rebundle("quarantine", SCOPE, "state-3", "--reason", "bad")
    assert refused.code == 4
    assert "--rollback-to" in refused.err

    result = rebundle(
        "quarantine",
        SCOPE,
        "state-3",
        "--reason",
        "bad",
        "--rollback-to",
        "state-1",
        "-y",
        "-o",
        "json",
    )

    assert (result.code, result.json["after"]["live"]["state"]) == (0, "state-1")
    assert result.json["after"]["hold"]["reason"] == "bad"


def test_a_quarantine_that_changes_live_asks_first(bucket, rebundle):
    pointer = bucket / str(SCOPE) / "pointer.json"
    before = pointer.read_bytes()
    refused = rebundle(
        "quarantine", SCOPE, "state-3", "--reason", "bad", "--rollback-to", "state-1"
    )

    assert (refused.code, "--yes" in refused.err) == (2, True), "there is no terminal here"
    assert pointer.read_bytes() == before
    assert (
        rebundle(
            "quarantine", SCOPE, "state-3", "--reason", "b", "--rollback-to", "state-1", "--dry-run"
        ).code
        == 0
    )
    assert rebundle("quarantine", SCOPE, "state-1", "--reason", "bad").code == 0, (
        "a state that is not live needs no confirmation"
    )


def test_lift_accepts_the_composition_again(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-2", "--reason", "bad")

    assert rebundle("quarantine", SCOPE, "state-2", "--reason", "fine", "--lift").code == 0
    assert pointer(bucket).quarantined == ()


def test_lift_and_rollback_to_are_mutually_exclusive(bucket, rebundle):
    assert (
        rebundle(
            "quarantine", SCOPE, "state-2", "--reason", "x", "--lift", "--rollback-to", "state-1"
        ).code
        == 2
    )


def test_a_quarantine_without_any_state_left_is_lifted_by_the_digest_of_the_composition(
    bucket, rebundle, monkeypatch
):
    rebundle("quarantine", SCOPE, "state-2", "--reason", "bad")
    digest = pointer(bucket).quarantined[0].composition_digest
    monkeypatch.setenv("REBUNDLE_RETENTION__NEWEST", "1")
    monkeypatch.setenv("REBUNDLE_RETENTION__DAYS", "0")
    assert rebundle("gc", SCOPE).code == 0
    assert rebundle("quarantine", SCOPE, "state-2", "--reason", "fine", "--lift").code == 3
    assert rebundle("quarantine", SCOPE, digest[:11], "--reason", "fine", "--lift").code == 3

    assert rebundle("quarantine", SCOPE, digest[:12], "--reason", "fine", "--lift").code == 0
    assert pointer(bucket).quarantined == ()
    table = rebundle("history", SCOPE).out
    assert ("gc, 2 released" in table, "lift quarantine" in table) == (True, True)
