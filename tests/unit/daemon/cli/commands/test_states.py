"""`rebundle states`: lists the publications of a scope with revision and status."""

from daemon.publishing import operator_commands, protocol
from tests.support.buckets import SCOPE, composition_with, in_bucket


def statuses(rebundle):
    return {
        state["state"]: state["status"]
        for state in rebundle("states", SCOPE, "-o", "json").json["states"]
    }


def test_states_are_listed_newest_first_with_revision_and_status(bucket, rebundle):
    states = rebundle("states", SCOPE, "-o", "json").json["states"]

    assert [(state["state"], state["revision"], state["status"]) for state in states] == [
        ("state-3", "3", "live"),
        ("state-2", "2", "superseded"),
        ("state-1", "1", "superseded"),
    ]


def test_every_reason_not_to_be_live_is_named(bucket, rebundle):
    async def spoil(published):
        carry_out = published.operations.carry_out
        await carry_out(SCOPE, operator_commands.quarantine("state-2"), "op", "breaks the proxy")
        await published.publish(composition_with("1", "7"), "state-0", 2, late=True)
        await carry_out(SCOPE, operator_commands.pin("state-1", pinned=True), "op", "")
        await carry_out(SCOPE, protocol.hold, "op", "release freeze")
        await published.publish(composition_with("3", "3"), "state-4", 4)

    in_bucket(bucket, spoil)

    assert statuses(rebundle) == {
        "state-4": "held",
        "state-0": "late",
        "state-3": "live",
        "state-2": "quarantined",
        "state-1": "superseded",
    }
    table = rebundle("states", SCOPE).out
    assert "held,desired" in table
    assert "by op: release freeze" in table
    assert "by op: breaks the proxy" in table
    assert "superseded,pinned" in table


def test_a_lifted_quarantine_leaves_desired_waiting_for_resume(bucket, rebundle):
    async def lift(published):
        carry_out = published.operations.carry_out
        await carry_out(SCOPE, operator_commands.quarantine("state-2"), "op", "bad")
        await published.publish(composition_with("2"), "state-4", 4)
        await carry_out(SCOPE, operator_commands.lift_quarantine("state-4"), "op", "fine after all")

    in_bucket(bucket, lift)

    assert statuses(rebundle)["state-4"] == "waiting for resume"
    assert rebundle("resume", SCOPE, "--yes").code == 0
    assert statuses(rebundle)["state-4"] == "live"


def test_an_unknown_scope_is_not_found_and_a_missing_argument_is_a_usage_error(bucket, rebundle):
    assert rebundle("states", "no/where").code == 3
    assert rebundle("states", "nowhere").code == 2
    assert rebundle("states", "../etc/x").code == 2
