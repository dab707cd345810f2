"""`rebundle history`: the changes of a pointer, with author, time and reason."""

from tests.support.buckets import SCOPE


def test_history_shows_who_when_and_why_newest_first(bucket, rebundle):
    rebundle("hold", SCOPE, "--reason", "release freeze", "--by", "alice@laptop")

    newest, *_ = changes = rebundle("history", SCOPE, "-o", "json").json["history"]

    assert [change["sequence"] for change in changes] == [4, 3, 2, 1]
    assert (newest["kind"], newest["by"], newest["reason"]) == (
        "hold",
        "alice@laptop",
        "release freeze",
    )
    assert newest["change"]["hold"]["reason"] == "release freeze"


def test_history_is_limited_when_asked(bucket, rebundle):
    assert len(rebundle("history", SCOPE, "--limit", 2, "-o", "json").json["history"]) == 2


def test_a_reason_with_control_characters_cannot_steer_the_terminal(bucket, rebundle):
    rebundle("hold", SCOPE, "--reason", "a\033[2Jb\nc")

    table = rebundle("history", SCOPE).out

    assert "a\\x1b[2Jb\\nc" in table
    assert "\033" not in table


def test_history_shows_pins_and_quarantines_and_their_ends(bucket, rebundle):
    for command in (
        ("pin", SCOPE, "state-1"),
        ("pin", SCOPE, "state-1", "--lift"),
        ("quarantine", SCOPE, "state-1", "--reason", "bad scores"),
        ("quarantine", SCOPE, "state-1", "--reason", "it was the camera", "--lift"),
    ):
        assert rebundle(*command).code == 0, command
    table = rebundle("history", SCOPE).out

    for expected in ("pin state-1", "unpin state-1", "quarantine ", "lift quarantine "):
        assert expected in table


def test_a_limit_below_one_is_a_usage_error(bucket, rebundle):
    assert rebundle("history", SCOPE, "--limit", 0).code == 2
