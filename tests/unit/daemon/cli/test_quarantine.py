from tests.support.buckets import SCOPE, composition_with, in_bucket


def pointer(bucket):
    return in_bucket(bucket, lambda published: published.pointer())


def test_a_quarantined_composition_does_not_become_live_under_another_id(bucket, rebundle):
    assert rebundle("quarantine", SCOPE, "state-2", "--reason", "breaks the proxy", "--by", "alice").code == 0

    in_bucket(bucket, lambda published: published.publish(composition_with("2"), "state-4", 4))

    assert (pointer(bucket).live.state, pointer(bucket).desired.state) == ("state-3", "state-4")
    assert pointer(bucket).quarantined[0].by == "alice"


def test_the_live_composition_needs_a_state_to_go_back_to(bucket, rebundle):
    refused = rebundle("quarantine", SCOPE, "state-3", "--reason", "bad")
    assert refused.code == 4
    assert "--rollback-to" in refused.err

    result = rebundle("quarantine", SCOPE, "state-3", "--reason", "bad", "--rollback-to", "state-1", "-o", "json")

    assert (result.code, result.json["after"]["live"]["state"]) == (0, "state-1")
    assert result.json["after"]["hold"]["reason"] == "bad"


def test_lift_accepts_the_composition_again(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-2", "--reason", "bad")

    assert rebundle("quarantine", SCOPE, "state-2", "--reason", "fine", "--lift").code == 0
    assert pointer(bucket).quarantined == ()


def test_lift_and_rollback_to_do_not_go_together(bucket, rebundle):
    assert rebundle("quarantine", SCOPE, "state-2", "--reason", "x", "--lift", "--rollback-to", "state-1").code == 2
