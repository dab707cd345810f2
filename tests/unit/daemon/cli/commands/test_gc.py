"""`rebundle gc`: releases and deletes old publications, and reports what and why."""

import os
import time

import pytest

from daemon.publishing import layout, operator_commands
from daemon.publishing.pointer import MOST_HISTORY, Revision
from renderers.composition import Composition
from tests.support.buckets import SCOPE, composition_with, in_bucket, pointer

MONTHS = 100 * 86_400


@pytest.fixture
def aged(bucket, monkeypatch):
    """The bucket as if everything had been stored a hundred days ago, with only the newest
    publication kept.
    """
    monkeypatch.setenv("REBUNDLE_RETENTION__NEWEST", "1")
    monkeypatch.setenv("REBUNDLE_RETENTION__DAYS", "0")
    for path in bucket.rglob("states/**/*"):
        os.utime(path, (time.time() - MONTHS,) * 2)
    return bucket


def states(bucket):
    return sorted(
        path.parent.parent.name for path in bucket.glob(f"{SCOPE}/states/*/*/manifest.json")
    )


def test_gc_releases_and_deletes_and_reports_what_and_why(aged, rebundle):
    result = rebundle("gc", SCOPE, "--by", "cron", "--reason", "room", "-o", "json")

    [report] = result.json["scopes"]
    assert (result.code, result.json["dry_run"], result.json["errors"]) == (0, False, [])
    assert [deletable["state"] for deletable in report["deleted"]] == ["state-1", "state-2"]
    assert report["bytes"] == sum(deletable["bytes"] for deletable in report["deleted"]) > 0
    assert "superseded 0 days ago" in report["deleted"][0]["why"]
    assert [(kept["state"], kept["why"]) for kept in report["kept"]] == [("state-3", "live")]
    assert states(aged) == ["state-3"]
    entry = pointer(aged).history[-1]
    assert (entry.kind, entry.by, entry.reason, report["sequence"]) == (
        "gc",
        "cron",
        "room",
        entry.sequence,
    )
    assert "deleted visual-anomaly/core-versions state-1@" in result.err
    assert rebundle("verify", SCOPE).code == 0
    assert "nothing in the bucket needs attention" in rebundle("status", SCOPE).out


def test_a_dry_run_reports_the_same_and_changes_nothing(aged, rebundle):
    before = pointer(aged)

    result = rebundle("gc", "--all", "--dry-run")

    assert result.code == 0
    assert result.out.count("would be deleted") == 2
    assert "follow this machine's clock" in result.err
    assert (pointer(aged), states(aged)) == (before, ["state-1", "state-2", "state-3"])


def test_a_dry_run_of_one_part_reports_what_that_part_would_do(aged, rebundle):
    first = rebundle("gc", SCOPE, "--dry-run", "--only", "delete", "-o", "json").json["scopes"][0]
    assert (first["deleted"], len(first["left"]), first["released"]) == ([], 2, [])
    releasing = rebundle("gc", SCOPE, "--dry-run", "--only", "release", "-o", "json").json[
        "scopes"
    ][0]
    assert (releasing["deleted"], len(releasing["left"]), len(releasing["released"])) == ([], 2, 2)

    rebundle("gc", SCOPE, "--only", "release")
    deleting = rebundle("gc", SCOPE, "--dry-run", "--only", "delete")
    assert deleting.out.count("would be deleted") == 2
    assert "follow this machine's clock" not in deleting.err
    assert states(aged) == ["state-1", "state-2", "state-3"]


@pytest.mark.parametrize("daemon_deletes", [True, False])
def test_a_dry_run_reports_where_the_daemon_would_only_release(
    aged, rebundle, monkeypatch, daemon_deletes
):
    monkeypatch.setenv("REBUNDLE_RETENTION__DELETE", str(daemon_deletes).lower())

    report = [rebundle("gc", SCOPE, "--dry-run", *only).err for only in ((), ("--only", "release"))]
    assert ["the daemon only releases" in item for item in report] == [
        not daemon_deletes,
        False,
    ]


def test_a_collection_that_the_live_tree_does_not_follow_is_reported_as_done(aged, rebundle):
    (aged / layout.live_tree(SCOPE, layout.MARKER)).unlink(missing_ok=True)
    (aged / layout.live_tree(SCOPE, layout.MARKER)).mkdir()

    result = rebundle("gc", SCOPE)

    assert (result.code, result.out.count("deleted"), states(aged)) == (0, 2, ["state-3"])
    assert f"committed as sequence {pointer(aged).sequence}" in result.err


def test_old_copies_of_replaced_files_are_deleted_and_counted(bucket, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_RETENTION__DAYS", "30")
    for digest in ("1" * 64, "2" * 64):
        copy = bucket / layout.replaced(SCOPE, "base/bundle/docker-compose.yaml", digest)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(digest)
        os.utime(copy, (time.time() - MONTHS + int(digest[0]),) * 2)

    dry = rebundle("gc", SCOPE, "--dry-run")
    assert "1 copies of replaced files would be deleted" in dry.err
    assert len(list(copy.parent.iterdir())) == 2
    result = rebundle("gc", SCOPE, "-o", "json")

    [report] = result.json["scopes"]
    key = layout.replaced(SCOPE, "base/bundle/docker-compose.yaml", "1" * 64)
    assert (result.code, report["copies"], report["bytes"]) == (0, [{"key": key, "bytes": 64}], 64)
    assert [path.name for path in copy.parent.iterdir()] == ["2" * 64]


def test_an_empty_collection_is_reported_and_writes_nothing(bucket, rebundle):
    before = pointer(bucket)

    result = rebundle("gc", SCOPE)

    assert (result.code, result.out) == (0, "")
    assert "nothing to collect; 3 publications kept" in result.err
    assert pointer(bucket) == before


def test_releasing_and_deleting_can_be_two_commands(aged, rebundle):
    waits = rebundle("gc", SCOPE, "--only", "delete")
    assert (
        waits.code,
        waits.out.count("to be deleted"),
        "can be deleted after the next release" in waits.err,
    ) == (
        0,
        2,
        True,
    )
    assert len(states(aged)) == 3

    released = rebundle("gc", SCOPE, "--only", "release")
    assert (released.code, released.out.count("to be deleted"), len(states(aged))) == (0, 2, 3)
    before = pointer(aged)

    assert rebundle("gc", "--all", "--only", "delete").code == 0
    assert (states(aged), pointer(aged)) == (["state-3"], before)


def test_a_scope_that_cannot_be_read_does_not_stop_the_others(aged, rebundle):
    mine = composition_with("1")
    other = Composition(
        bundle=mine.bundle.model_copy(update={"target": "other"}),
        models=mine.models,
        proxy=mine.proxy,
    )
    in_bucket(aged, lambda published: published.publish(other, "state-1", 1))
    (aged / layout.pointer(SCOPE)).write_text("{")

    result = rebundle("gc", "--all", "-o", "json")

    assert (result.code, [error["scope"] for error in result.json["errors"]]) == (5, [str(SCOPE)])
    assert [row["scope"] for row in result.json["scopes"]] == [f"{SCOPE.bundle}/other"]
    assert rebundle("gc", SCOPE).code == 5


@pytest.fixture
def folders_of_others(aged):
    """A folder of somebody else, and a scope whose first publication was never committed."""
    notes = aged / "backup/2026/notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("x\n")
    mine = composition_with("1")
    begun = Composition(
        bundle=mine.bundle.model_copy(update={"target": "begun"}),
        models=mine.models,
        proxy=mine.proxy,
    )
    in_bucket(aged, lambda it: it.store_state(begun, "state-1", Revision(producer=1)))
    return [notes, *aged.glob(f"{SCOPE.bundle}/begun/states/state-1/*/manifest.json")]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_folder_without_a_publication_has_nothing_to_collect(
    aged, folders_of_others, rebundle, dry_run
):
    result = rebundle("gc", "--all", *(["--dry-run"] if dry_run else []), "-o", "json")

    assert (result.code, result.json["errors"]) == (0, []), result.err
    assert [view["scope"] for view in result.json["scopes"]] == [str(SCOPE)]
    assert states(aged) == (["state-1", "state-2", "state-3"] if dry_run else ["state-3"])
    assert all(path.exists() for path in folders_of_others)


def test_a_folder_that_is_named_and_a_pointer_that_was_lost_are_errors(
    aged, folders_of_others, rebundle
):
    assert rebundle("gc", "backup/2026").code == 3
    (aged / layout.pointer(SCOPE)).unlink()

    result = rebundle("gc", "--all", "-o", "json")

    assert (result.code, [error["scope"] for error in result.json["errors"]]) == (5, [str(SCOPE)])


def test_a_part_of_the_history_that_is_gone_is_an_error(aged, rebundle):
    async def changed(published):
        for number in range(MOST_HISTORY):
            pin = operator_commands.pin("state-1", pinned=number % 2 == 0)
            await published.operations.carry_out(SCOPE, pin, "ann")

    in_bucket(aged, changed)
    [chunk] = (aged / str(SCOPE) / "history").iterdir()
    chunk.unlink()

    result = rebundle("gc", "--all", "-o", "json")

    assert (result.code, [error["scope"] for error in result.json["errors"]]) == (5, [str(SCOPE)])


def test_keys_of_no_publication_are_named(bucket, rebundle):
    (bucket / layout.states(SCOPE) / "notes.txt").write_text("mine")

    assert f"{layout.states(SCOPE)}notes.txt" in rebundle("gc", SCOPE).err


@pytest.mark.parametrize(
    "arguments",
    [(), (SCOPE, "--all"), (SCOPE, "--only", "both"), (SCOPE, "--dry-run", "--only", "both")],
)
def test_contradicting_options_are_refused(bucket, rebundle, arguments):
    assert rebundle("gc", *arguments).code == 2


def test_a_scope_that_does_not_exist_is_not_found(bucket, rebundle):
    assert rebundle("gc", "no/such").code == 3
