import re

from tests.support.buckets import SCOPE, in_bucket


def pinned(bucket):
    pointer = in_bucket(bucket, lambda published: published.pointer())
    return [publication.state for publication in pointer.retained if publication.pinned]


def test_a_pin_keeps_a_state_until_it_is_lifted(bucket, rebundle):
    assert rebundle("pin", SCOPE, "state-1").code == 0
    assert pinned(bucket) == ["state-1"]

    assert rebundle("pin", SCOPE, "state-1", "--lift").code == 0
    assert pinned(bucket) == []


def test_pinning_again_changes_nothing_and_reports_that(bucket, rebundle):
    rebundle("pin", SCOPE, "state-1")

    result = rebundle("pin", SCOPE, "state-1", "-o", "json")

    assert (result.code, result.json["changed"]) == (0, False)
    assert "nothing to change" in result.err


def test_a_pin_says_what_it_changes(bucket, rebundle):
    for also, step in (("--dry-run", "no → yes"), ("", "no → yes"), ("--lift", "yes → no")):
        result = rebundle("pin", SCOPE, "state-1", *filter(None, [also]))
        [line] = [line for line in result.out.splitlines() if line.startswith("  pinned ")]
        assert re.fullmatch(rf"  pinned     state-1@[0-9a-f]+: {step}", line)
    again = rebundle("pin", SCOPE, "state-1", "--lift", "-o", "json")
    assert again.json["pins"] == []
