"""`rebundle recover`: rebuilds or repairs a pointer, and reports everything it did."""

import json
import re
import shlex
import shutil

import pytest

from daemon.publishing import layout
from daemon.publishing.pointer import Revision
from tests.support.buckets import SCOPE, composition_with, in_bucket, pointer

ASKED = ("recover", SCOPE, "--reason", "disk died", "--by", "ann")


@pytest.fixture
def lost(bucket):
    """The bucket without its pointer."""
    (bucket / layout.pointer(SCOPE)).unlink()
    return bucket


def test_a_lost_pointer_is_recovered_and_everything_is_reported(lost, rebundle):
    assert "rebundle recover" in rebundle("states", SCOPE).err

    result = rebundle(*ASKED, "--yes", "-o", "json")

    assert result.code == 0
    assert result.json["before"] is None
    assert "is gone" in result.json["damage"]
    assert result.json["after"]["live"]["state"] == "state-3"
    assert result.json["after"]["hold"]["reason"] == "recovered: disk died"
    assert result.json["traces"]["the live tree's marker"] == 3
    assert (result.json["did"] != [], result.json["unknown"] != [], result.json["damaged"]) == (
        True,
        True,
        [],
    )
    assert result.json["live_tree"]["synced"]
    verified = rebundle("verify", SCOPE)
    assert verified.code == 0, verified.out
    assert rebundle("resume", SCOPE, "--reason", "looked", "--yes").code == 0
    assert [entry.kind for entry in pointer(lost).history] == ["recover", "resume"]


def test_a_gap_that_came_after_a_recovery_is_found(lost, rebundle):
    rebundle(*ASKED, "--yes")
    for reason in ("one", "two"):
        assert rebundle("hold", SCOPE, "--reason", reason).code == 0
    assert rebundle("verify", SCOPE).code == 0
    path = lost / layout.pointer(SCOPE)
    document = json.loads(path.read_bytes())
    del document["signed"]["history"][-2]
    path.write_text(json.dumps(document))

    result = rebundle("verify", SCOPE)

    assert (result.code, "gaps or duplicates" in result.out) == (5, True)


def test_a_dry_run_reports_the_same_and_writes_nothing(lost, rebundle):
    result = rebundle(*ASKED, "--dry-run")

    assert result.code == 0
    assert "would be recovered" in result.out
    assert "the live tree's marker: sequence 3" in result.out
    assert "unknown" in result.out
    assert not (lost / layout.pointer(SCOPE)).exists()


def test_nothing_is_written_without_a_yes(lost, rebundle):
    assert rebundle(*ASKED).code == 2
    assert not (lost / layout.pointer(SCOPE)).exists()


def test_no_hold_counts_where_live_is_desired(lost, rebundle):
    assert rebundle(*ASKED, "--yes", "--no-hold").code == 0
    found = pointer(lost)
    assert (found.hold, found.live.state, found.desired.state) == (None, "state-3", "state-3")


def test_a_live_state_other_than_desired_is_always_held(lost, rebundle):
    result = rebundle(*ASKED, "--yes", "--no-hold", "--live", "state-2")
    found = pointer(lost)
    assert (result.code, "held in spite of --no-hold" in result.out) == (0, True)
    assert (found.hold.by, found.live.state, found.desired.state) == ("ann", "state-2", "state-3")


def test_a_damaged_pointer_and_a_damaged_state_are_named(bucket, rebundle):
    (bucket / layout.pointer(SCOPE)).write_text("{")
    [archive] = bucket.glob(f"{SCOPE}/states/state-1/*/bundle.tar.gz")
    archive.write_text("no archive")

    result = rebundle(*ASKED, "--yes")

    assert (result.code, "is damaged" in result.out, "left out state-1@" in result.out) == (
        0,
        True,
        True,
    )
    assert [publication.state for publication in pointer(bucket).retained] == ["state-2", "state-3"]


@pytest.mark.parametrize("garbage", [b"\x93\x01 random [", b"[[[", b"words", b'{"signed":'])
def test_a_pointer_of_random_bytes_is_reported_as_invalid_json(bucket, rebundle, garbage):
    (bucket / layout.pointer(SCOPE)).write_bytes(garbage)

    result = rebundle("states", SCOPE)

    assert (result.code, f"pointer.json of {SCOPE} is damaged (it is no JSON: " in result.err) == (
        5,
        True,
    )
    [command] = re.findall(r"`rebundle (recover .*)`", result.err)
    assert rebundle(*shlex.split(command), "--yes").code == 0


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_archive_is_reported_with_the_command_that_leaves_its_state_out(
    bucket, rebundle, damage
):
    [archive] = bucket.glob(f"{SCOPE}/states/state-1/*/bundle.tar.gz")
    archive.write_text("no archive") if damage == "changed" else archive.unlink()

    result = rebundle("diff", SCOPE, "state-1", "live")

    assert result.code == 5
    [command] = re.findall(r"`rebundle (recover .*)`", result.err)
    assert rebundle(*shlex.split(command), "--yes").code == 0
    assert "state-1" not in [publication.state for publication in pointer(bucket).retained]


def test_a_healthy_scope_is_left_alone_without_a_question(bucket, rebundle):
    before = pointer(bucket)

    result = rebundle(*ASKED)

    assert (result.code, "nothing to recover" in result.out) == (0, True)
    assert pointer(bucket) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("recover", SCOPE), 2),
        (("recover", "no/such", "--reason", "x"), 3),
        ((*ASKED, "--yes", "--live", "state-9"), 3),
    ],
)
def test_impossible_recoveries_are_refused(lost, rebundle, arguments, code):
    assert rebundle(*arguments).code == code


def test_a_live_tree_that_cannot_follow_is_reported_beside_the_written_pointer(lost, rebundle):
    tree = lost / layout.live_tree(SCOPE)
    shutil.rmtree(tree / "base")
    (tree / "base").write_text("in the way of its files")

    result = rebundle(*ASKED, "--yes", "--wait", "0.1")

    assert (result.code, "  live tree not synced\n" in result.out) == (1, True), result.out
    assert "reason: base/.rebundle.json is blocked" in result.err
    assert pointer(lost).sequence == 132


def test_a_first_publication_in_progress_is_not_published_unless_it_is_named(lost, rebundle):
    """The state is uploaded. Pointer, history and live tree do not exist yet."""
    shutil.rmtree(lost / layout.live_tree(SCOPE))
    shutil.rmtree(lost / ".rebundle" / "store" / layout.live_tree(SCOPE), ignore_errors=True)

    result = rebundle(*ASKED, "--yes")

    assert (result.code, "there is no trace of an earlier pointer" in result.out) == (0, True)
    assert not (lost / layout.pointer(SCOPE)).exists()
    [*_, command] = re.findall(r"`rebundle (recover .*)`", result.out)
    named = re.search(r"--live (\S+)", command)[1]
    assert rebundle(*shlex.split(command), "--yes").code == 0
    assert [str(publication.id) for publication in pointer(lost).retained] == [named]


@pytest.mark.parametrize("name", ["manifest.json", "bundle.tar.gz"])
def test_an_old_state_behind_a_symbolic_link_is_left_out_with_the_command_that_helps(
    lost, rebundle, name
):
    [linked] = lost.glob(f"{SCOPE}/states/state-1/*/{name}")
    moved = linked.with_name("elsewhere")
    linked.rename(moved)
    linked.symlink_to(moved)

    result = rebundle(*ASKED, "--yes")

    assert result.code == 0
    assert re.search(
        r"left out state-1@\w+, which cannot be read: .* symbolic link .* mv ", result.out
    )
    found = pointer(lost)
    assert ([publication.state for publication in found.retained], found.live.state) == (
        ["state-2", "state-3"],
        "state-3",
    )


def test_a_state_behind_a_symbolic_link_stays_in_a_healthy_pointer_and_is_reported(
    bucket, rebundle
):
    [linked] = bucket.glob(f"{SCOPE}/states/state-1/*/manifest.json")
    linked.rename(linked.with_name("elsewhere"))
    linked.symlink_to("elsewhere")
    before = pointer(bucket)

    result = rebundle(*ASKED, "--yes")

    assert (result.code, "cannot be read: " in result.out, pointer(bucket)) == (0, True, before)
    [hidden] = rebundle(*ASKED, "-o", "json").json["unreadable"]
    assert (hidden["publication"].partition("@")[0], "mv " in hidden["why"]) == ("state-1", True)


def test_a_recovery_stops_where_the_state_that_has_to_be_live_is_a_symbolic_link(lost, rebundle):
    [linked] = lost.glob(f"{SCOPE}/states/state-3/*/manifest.json")
    linked.rename(linked.with_name("elsewhere"))
    linked.symlink_to("elsewhere")

    result = rebundle(*ASKED, "--yes")

    assert (result.code, "state-3@" in result.err, "mv " in result.err) == (6, True, True)
    assert not (lost / layout.pointer(SCOPE)).exists()
    assert rebundle(*ASKED, "--yes", "--live", "state-2").code == 0
    assert pointer(lost).live.state == "state-2"


def test_unreferenced_uploads_are_listed_with_the_command_that_adopts_one(bucket, rebundle):
    stored = in_bucket(
        bucket, lambda it: it.store_state(composition_with("9"), "state-9", Revision(producer=9))
    )

    result = rebundle(*ASKED, "--yes")

    assert result.code == 0
    assert "nothing to recover" in result.out
    assert rebundle(*ASKED, "-o", "json").json["unnamed"] == [str(stored.id)]
    assert pointer(bucket).sequence == 3
    [command] = re.findall(r"`rebundle (recover .*)`", result.out)
    taken = rebundle(*shlex.split(command), "--yes")
    assert taken.code == 0
    assert pointer(bucket).live.id == stored.id
    assert "unreferenced uploads" not in taken.out
