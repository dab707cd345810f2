"""`rebundle status`: what needs attention in bucket and journal, and the status of events."""

import asyncio
import os
import re
import shlex
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.reader import Reader
from daemon.stores.errors import StoreUnavailable
from events.journal import Journal
from events.model import Event, Identity
from events.records import Arrival
from tests.builders import make_composition
from tests.support.buckets import SCOPE, composition_with, in_bucket, live_file
from tests.support.journals import arrival, in_journal, next_of, waiting_in
from tests.support.odd_entries import OBSTACLES, put
from tests.support.privileges import as_an_ordinary_user

OTHER = make_composition(1, bundle="other", target="edge")

ENV = "example/conf/bundle/.env"
COMPOSE = "base/bundle/docker-compose.yaml"


def scope_of(result):
    return next(row for row in result.json["scopes"] if row["scope"] == str(SCOPE))


def contents(bucket):
    return {path: path.read_bytes() for path in bucket.rglob("*") if path.is_file()}


def test_a_healthy_bucket_needs_no_attention_and_is_not_modified(bucket, rebundle):
    before = contents(bucket)

    result = rebundle("status", "-o", "json")

    assert (scope_of(result)["live_tree"]["synced"], scope_of(result)["attention"]) == (True, [])
    assert "nothing in the bucket needs attention" in rebundle("status").out
    assert contents(bucket) == before


def test_overrides_and_deleted_files_are_named(bucket, rebundle):
    live_file(bucket, ENV).write_text("MINE=1\n")
    live_file(bucket, "example/.env").unlink()

    tree_view = scope_of(rebundle("status", "-o", "json"))["live_tree"]

    assert (tree_view["overrides"], tree_view["deleted_by_operator"]) == ([ENV], ["example/.env"])
    table = rebundle("status", SCOPE).out
    assert f"{ENV}: operator's override" in table
    assert "example/.env: deleted by an operator" in table


def test_a_hold_with_a_waiting_state_needs_attention(bucket, rebundle):
    rebundle("hold", SCOPE, "--reason", "freeze", "--by", "alice")
    in_bucket(bucket, lambda published: published.publish(composition_with("5"), "state-5", 5))

    (why,) = scope_of(rebundle("status", "-o", "json"))["attention"]

    assert why.startswith("held by alice since ")
    assert why.endswith(f": freeze; state-5 is waiting: `rebundle resume {SCOPE}` makes it live")


def test_a_hold_of_the_newest_state_names_the_command_that_ends_it(bucket, rebundle):
    rebundle("hold", SCOPE, "--reason", "freeze", "--by", "alice")

    (why,) = scope_of(rebundle("status", "-o", "json"))["attention"]

    assert why.endswith(f": freeze; `rebundle resume {SCOPE}` ends the hold")


def test_a_quarantined_desired_needs_attention_until_it_becomes_live(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-2", "--reason", "bad", "--by", "alice")
    in_bucket(bucket, lambda published: published.publish(composition_with("2"), "state-5", 5))
    (why,) = scope_of(rebundle("status", "-o", "json"))["attention"]
    assert why.startswith("desired state state-5 is quarantined by alice: bad; ")
    (lift,) = re.findall(r"`rebundle (quarantine [^`]*)`", why)

    assert rebundle(*shlex.split(lift)).code == 0

    assert "rebundle resume" in scope_of(rebundle("status", "-o", "json"))["attention"][0]


def test_the_status_of_a_scope_names_its_quarantines(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-2", "--reason", "b\033ad", "--by", "alice")

    table = rebundle("status", SCOPE).out

    assert "is quarantined by alice: b\\x1bad; " in table
    (lift,) = re.findall(r"`rebundle (quarantine [^`]*)`", table)
    assert rebundle(*shlex.split(lift)).code == 0
    assert "quarantined by" not in rebundle("status", SCOPE).out


def test_a_hold_does_not_hide_that_the_waiting_state_is_quarantined(bucket, rebundle):
    in_bucket(bucket, lambda published: published.publish(composition_with("5"), "state-5", 5))
    quarantined = rebundle(
        "quarantine", SCOPE, "state-5", "--reason", "bad", "--rollback-to", "state-1", "-y"
    )
    assert quarantined.code == 0, quarantined.err

    (why,) = scope_of(rebundle("status", "-o", "json"))["attention"]

    assert "state-5 is waiting, and is quarantined: lift that first with `rebundle" in why
    assert "or wait for a state with another composition" in why


def test_edited_unknown_and_missing_files_of_base_need_attention(bucket, rebundle):
    live_file(bucket, COMPOSE).write_text("mine\n")
    live_file(bucket, "base/notes.txt").write_text("mine\n")
    live_file(bucket, "base/bundle/nginx/models.map").unlink()

    view = scope_of(rebundle("status", "-o", "json"))

    assert view["live_tree"]["synced"] is False
    assert view["live_tree"]["foreign"] == [COMPOSE]
    assert view["live_tree"]["strays"] == ["base/notes.txt"]
    assert set(view["live_tree"]["pending"]) == {COMPOSE, "base/bundle/nginx/models.map"}
    behind, edited, strays = view["attention"]
    (sync,) = re.findall(r"`rebundle (resume [^`]*)` now", behind)
    assert "the live tree is behind (2 files): " in behind
    assert "the next pass of a running daemon (within 5 minutes)" in behind
    assert edited.startswith(f"edited by hand in base/: {COMPOSE}; ")
    assert strays.endswith(": base/notes.txt; move them elsewhere")
    assert "base/notes.txt: not written by Rebundle" in rebundle("status", SCOPE).out
    assert rebundle(*shlex.split(sync)).code == 0
    assert scope_of(rebundle("status", "-o", "json"))["live_tree"]["follows"] is True


@pytest.mark.parametrize(
    ("name", "shown"), [(b"two\nlines", "base/two\\nlines"), (b"\xff", "base/\\udcff")]
)
def test_a_file_whose_name_is_no_valid_key_is_reported(bucket, rebundle, name, shown):
    """Hosts copy it, too."""
    live_file(bucket, f"base/{os.fsdecode(name)}").write_text("mine\n")
    live_file(bucket, f"example/{os.fsdecode(name)}").write_text("an operator's\n")

    table = rebundle("status", SCOPE).out

    assert f"hosts copy: {shown}; move them elsewhere" in table
    assert f"{shown}: not written by Rebundle" in table
    assert table.count("not written by Rebundle") == 1
    assert rebundle("hold", SCOPE, "--reason", "a pass").code == 0
    assert live_file(bucket, f"base/{os.fsdecode(name)}").exists()


def test_a_file_beside_base_is_not_said_to_be_in_base(bucket, rebundle):
    live_file(bucket, "mine.txt").write_text("mine\n")

    (why,) = scope_of(rebundle("status", "-o", "json"))["attention"]

    assert why == (
        "files in the live tree that Rebundle did not write, and that hosts copy: mine.txt; "
        "move them elsewhere"
    )


@pytest.mark.parametrize("put", ["link", "large file"])
def test_the_command_of_a_blocked_path_lets_the_tree_follow(bucket, rebundle, put):
    path = live_file(bucket, "base/bundle/nginx/models.map")
    path.unlink()
    if put == "link":
        path.symlink_to("/nowhere")
    else:
        path.write_bytes(b"x" * ((8 << 20) + 1))
    rebundle("hold", SCOPE, "--reason", "to have a pass")
    [blocked] = scope_of(rebundle("status", "-o", "json"))["live_tree"]["blocked"]

    command = re.search(r'mkdir -p .*/XXXXXX\)"', blocked["reason"])[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert rebundle("hold", SCOPE, "--reason", "to have a pass").code == 0

    view = scope_of(rebundle("status", "-o", "json"))["live_tree"]
    assert (view["follows"], view["blocked"]) == (True, [])
    assert [item.name for item in (bucket / ".rebundle/aside").glob("*/*")] == ["models.map"]
    assert not [*path.parent.glob("models.map?*")], "hosts copy what is in base/"


def test_an_unwritable_path_is_named_with_a_remedy(bucket, rebundle):
    link = live_file(bucket, "base/bundle/nginx/models.map")
    link.unlink()
    link.symlink_to("/nowhere")
    result = rebundle("hold", SCOPE, "--reason", "to have a pass")
    assert "not synced: base/bundle/nginx/models.map is blocked" in result.out

    view = scope_of(rebundle("status", "-o", "json"))

    assert (
        view["live_tree"]["synced"],
        view["live_tree"]["follows"],
        view["live_tree"]["pending"],
    ) == (
        False,
        False,
        [],
    )
    [blocked] = view["live_tree"]["blocked"]
    assert (blocked["path"], "move it away" in blocked["reason"]) == (
        "base/bundle/nginx/models.map",
        True,
    )
    assert any(
        "does not follow at base/bundle/nginx/models.map" in why for why in view["attention"]
    )
    assert not any("next pass" in why for why in view["attention"])
    table = rebundle("status", SCOPE).out
    assert "  blocked  " in table
    assert "base/bundle/nginx/models.map: blocked: " in table
    assert table.count("move it away") == 1
    verified = rebundle("verify", SCOPE)
    assert (verified.code, "models.map does not follow: " in verified.out) == (5, True)


@pytest.mark.parametrize("held", [False, True])
def test_faults_that_only_a_pass_sees_are_reported_with_time_and_remedy(bucket, rebundle, held):
    """A folder at the path of a file is in no listing.

    Only a write shows whether it is still there.
    """
    if held:
        rebundle("hold", SCOPE, "--reason", "test")
    file = live_file(bucket, COMPOSE)
    file.unlink()
    file.mkdir()
    state = scope_of(rebundle("status", "-o", "json"))["live"]
    again = (
        ("rollback", SCOPE, f"{state['state']}@{state['attempt']}", "--reason", "r")
        if held
        else ("resume", SCOPE)
    )
    assert rebundle(*again, "--wait", "0", "-o", "json").json["changed"] is False
    (file / "mine.txt").write_text("mine\n")
    attention = scope_of(rebundle("status", "-o", "json"))["attention"]
    assert len([why for why in attention if "move" in why]) == 1
    (file / "mine.txt").unlink()
    seen_at = scope_of(rebundle("status", "-o", "json"))["live_tree"]["blocked"][0]["seen_at"]
    assert datetime.fromisoformat(seen_at).tzinfo is not None

    file.rmdir()
    view = scope_of(rebundle("status", "-o", "json"))

    why = view["attention"][-1]
    assert f"did not follow at {COMPOSE} in the pass of {seen_at}: " in why
    assert f"within 5 minutes), or `rebundle {again[0]} {SCOPE}" in why
    assert f"{COMPOSE}: blocked in the pass of {seen_at}: " in rebundle("status", SCOPE).out
    assert f"{COMPOSE} did not follow in the pass of {seen_at}: " in rebundle("verify", SCOPE).out
    command = why.split("`")[-2]
    assert rebundle(*shlex.split(command)[1:]).code == 0
    assert scope_of(rebundle("status", "-o", "json"))["live_tree"]["blocked"] == []


def test_a_damaged_manifest_of_an_old_state_stops_no_tree_and_is_named_with_a_remedy(
    bucket, rebundle
):
    live_file(bucket, ENV).write_text("MINE=1\n")
    (manifest,) = (bucket / str(SCOPE) / "states/state-2").glob("*/manifest.json")
    manifest.write_bytes(manifest.read_bytes() + b"x")

    assert rebundle("rollback", SCOPE, "state-1", "--reason", "bad model", "-y").code == 0

    view = scope_of(rebundle("status", "-o", "json"))
    assert (view["error"], view["live"]["state"], view["live_tree"]["overrides"]) == (
        None,
        "state-1",
        [ENV],
    )
    assert (view["live_tree"]["synced"], view["live_tree"]["follows"]) == (True, True)
    assert [
        damaged_manifest["publication"].partition("@")[0]
        for damaged_manifest in view["live_tree"]["damaged_manifests"]
    ] == ["state-2"]
    why = view["attention"][-1]
    assert why.startswith(
        f"{manifest.relative_to(bucket)} is damaged: it does not match the digest"
    )
    assert why.count(f"`rebundle recover {SCOPE} --reason 'damaged manifest'`") == 1
    assert b'"state-1"' in live_file(bucket, "base/.rebundle.json").read_bytes()


def test_a_lost_pointer_needs_attention_and_hides_no_other_scope(bucket, rebundle):
    broken = bucket / "other/target/docker-compose-gen"
    broken.mkdir(parents=True)
    (broken / ".rebundle.json").write_text("{}")

    result = rebundle("status", "-o", "json")

    (lost,) = [row for row in result.json["scopes"] if row["scope"] == "other/target"]
    assert "is gone" in lost["attention"][0]
    assert scope_of(result)["attention"] == []
    assert "unreadable" in rebundle("status").out


def test_a_lost_archive_of_live_needs_attention(bucket, rebundle):
    for archive in (bucket / str(SCOPE) / "states/state-3").glob("*/bundle.tar.gz"):
        archive.unlink()

    result = rebundle("status", "-o", "json")

    assert result.code == 5
    assert "cannot be compared with the live state: " in scope_of(result)["attention"][0]
    assert "gone from the bucket" in scope_of(result)["attention"][0]
    table = rebundle("status").out
    assert "state-3 (3)   state-3 (3)" in table, "the pointer is readable, so it is shown"
    assert ("not compared" in table, "unreadable" in table) == (True, False)


@pytest.mark.parametrize(
    ("fault", "code"), [(KeyError("odd"), 1), (StoreUnavailable("the bucket is away"), 6)]
)
def test_an_error_of_one_scope_is_its_own_row_and_sets_the_exit_code(
    bucket, rebundle, monkeypatch, fault, code
):
    in_bucket(bucket, lambda it: it.publish(OTHER, "state-1", 1))
    survey = LiveTree.survey

    async def faulty(self, scope, **more):
        if scope == SCOPE:
            raise fault
        return await survey(self, scope, **more)

    monkeypatch.setattr(LiveTree, "survey", faulty)
    result = rebundle("status", "-o", "json")

    assert result.code == code
    views = {row["scope"]: row for row in result.json["scopes"]}
    assert views[str(SCOPE)]["live"]["state"] == "state-3"
    assert views[str(SCOPE)]["live_tree_error"] is not None
    assert views[str(OTHER.scope)]["attention"] == []
    assert (
        "Traceback" in rebundle("status").err,
        "Traceback" in rebundle("status", "--debug").err,
    ) == (False, True)


def test_an_unexpected_error_of_a_pointer_hides_no_other_scope(bucket, rebundle, monkeypatch):
    in_bucket(bucket, lambda it: it.publish(OTHER, "state-1", 1))
    existing = Reader.existing

    async def faulty(self, scope):
        if scope == SCOPE:
            raise ValueError("odd")
        return await existing(self, scope)

    monkeypatch.setattr(Reader, "existing", faulty)
    for command in ("status", "scopes"):
        result = rebundle(command, "-o", "json")
        assert result.code == 1
        errors = {row["scope"]: row["error"] for row in result.json["scopes"]}
        assert errors[str(OTHER.scope)] is None
        assert errors[str(SCOPE)].startswith("unexpected ValueError: odd (--debug")


def test_the_exit_code_shows_whether_something_needs_attention(bucket, rebundle):
    assert rebundle("status", "--exit-code").code == 0
    rebundle("hold", SCOPE, "--reason", "freeze")

    assert (rebundle("status").code, rebundle("status", "--exit-code").code) == (0, 1)


def test_the_journals_backlog_comes_with_age_and_last_error(journal, rebundle):
    async def fail(opened):
        delivery = await next_of(opened)
        await opened.note_failure(str(SCOPE), [delivery.position], "the bucket is away")

    in_journal(journal, fail)

    result = rebundle("status", "-o", "json")
    waiting = result.json["journal"]

    assert (waiting["events"], waiting["dead_letters"], waiting["rejected"]) == (2, 1, 1)
    lane = next(item for item in waiting["lanes"] if item["scope"] == str(SCOPE))
    assert (lane["waiting"], lane["failed_tries"]) == (2, 1)
    assert "the bucket is away" in scope_of(result)["attention"][0]
    table = rebundle("status").out
    assert "2 events wait" in table
    assert "1 failed try; the last one: " in table
    assert table.count("1 dead letter:") == 1
    assert table.count("the bucket is away") == 1


def test_a_scope_has_only_its_own_lane_and_dead_letters_and_each_error_once(journal, rebundle):
    async def fail(opened):
        for scope in (str(SCOPE), "other/target"):
            await opened.note_failure(scope, [(await next_of(opened)).position], "away")

    in_journal(journal, fail)
    own = rebundle("status", SCOPE, "-o", "json").json["journal"]

    assert ([lane["scope"] for lane in own["lanes"]], own["events"], own["dead_letters"]) == (
        [str(SCOPE)],
        2,
        1,
    )
    every = rebundle("status").out
    assert (
        every.count("away"),
        rebundle("status", SCOPE).out.count("away"),
    ) == (
        2,
        1,
    )
    assert "other/target" not in rebundle("status", SCOPE).out


def test_an_error_of_the_pointer_is_not_repeated_for_its_lane(journal, bucket, rebundle):
    (bucket / str(SCOPE) / "pointer.json").write_text("{}")
    (why,) = scope_of(rebundle("status", "-o", "json"))["attention"]

    async def fail(opened):
        await opened.note_failure(str(SCOPE), [(await next_of(opened)).position], why)

    in_journal(journal, fail)
    first, second = scope_of(rebundle("status", "-o", "json"))["attention"]

    assert (first, second.endswith("1 failed try")) == (why, True)
    assert rebundle("status").out.count(why) == 1


def test_an_event_that_waits_for_long_without_a_try_needs_attention(bucket, rebundle, tmp_path):
    path = tmp_path / "stopped.db"
    long_ago = datetime.now(UTC) - timedelta(minutes=6)

    async def wait(scopes):
        journal = await Journal.open(path, clock=lambda: long_ago, token=lambda: "1" * 32, run=True)
        async with journal:
            await journal.append([arrival("e1", *scopes)])

    asyncio.run(wait([str(SCOPE), "other/target"]))

    result = rebundle("status", "--journal", path, "-o", "json")
    waits = "1 event has waited for 6m: is the daemon running? `rebundle healthcheck` shows it"
    assert scope_of(result)["attention"] == [waits]
    table = rebundle("status", "--journal", path).out
    assert f"{SCOPE}: {waits}" in table
    assert f"other/target: {waits}" in table, "nothing is published in this scope"
    assert ": 1 event waiting, the oldest for 6m" in table
    assert rebundle("status", "--journal", path, "--exit-code").code == 1


def test_an_old_event_that_no_scope_got_needs_attention(bucket, rebundle, tmp_path):
    path = tmp_path / "stopped.db"
    long_ago = datetime.now(UTC) - timedelta(minutes=6)

    async def wait():
        journal = await Journal.open(path, clock=lambda: long_ago, token=lambda: "1" * 32, run=True)
        async with journal:
            await journal.append([replace(arrival("e1"), scopes=None)])

    asyncio.run(wait())

    assert (
        "1 accepted event not assigned to a scope yet: is the daemon running?"
        in rebundle("status", "--journal", path).out
    )


def test_an_event_that_just_arrived_needs_no_attention(bucket, rebundle, tmp_path):
    path = tmp_path / "new.db"
    in_journal(path, lambda opened: opened.append([arrival("e1")]), run=True)

    assert rebundle("status", "--journal", path).out.splitlines()[-1] == "nothing needs attention"


def test_without_a_journal_status_claims_nothing_about_events(bucket, rebundle):
    last = rebundle("status", "--journal", bucket / "no.db").out.splitlines()[-1]

    assert last == "nothing in the bucket needs attention; events were not checked"


@pytest.mark.parametrize("path", ["a file", "a file/below"])
def test_a_file_in_the_place_of_the_bucket_is_an_error(bucket, rebundle, tmp_path, path):
    (tmp_path / "a file").write_text("")

    result = rebundle("status", "--bucket", tmp_path / path)

    assert (result.code, result.out) == (6, "")
    assert f"{tmp_path / path} (flag --bucket) is a file or below one" in result.err


def test_a_held_scope_without_a_live_state_needs_attention_for_that(bucket, rebundle):
    assert rebundle("retire", SCOPE, "--reason", "r", "-y").code == 0
    assert scope_of(rebundle("status", "-o", "json"))["attention"] == []
    assert rebundle("hold", SCOPE, "--reason", "wait").code == 0

    held, nothing = scope_of(rebundle("status", "-o", "json"))["attention"]

    assert held.endswith(f": wait; `rebundle resume {SCOPE}` ends the hold")
    assert nothing.startswith(f"nothing is live: `rebundle states {SCOPE}` lists the states")


def test_a_scope_may_end_in_the_slash_that_a_shell_completes(bucket, rebundle):
    assert rebundle("status", f"{SCOPE}/").out == rebundle("status", SCOPE).out


def test_the_status_of_a_scope_counts_what_is_not_pinned_and_names_the_command_that_lists_it(
    bucket, rebundle
):
    lines = rebundle("status", SCOPE).out.splitlines()

    (line,) = [line for line in lines if "not pinned" in line]
    assert line == (
        "  images and artifacts that are not pinned by a digest: 6; "
        f"`rebundle show {SCOPE}` lists them"
    )


def test_a_scope_that_only_the_journal_knows_is_reported_from_there(journal, rebundle):
    lanes = rebundle("status", "-o", "json").json["journal"]["lanes"]

    assert "other/target" in [lane["scope"] for lane in lanes]


def test_a_scope_without_a_pointer_whose_events_wait_is_shown(journal, bucket, rebundle):
    (bucket / "other").symlink_to("/nowhere")

    async def fail(opened):
        events = [delivery.position for delivery in await waiting_in(opened, "other/target")]
        await opened.note_failure("other/target", events, "Permission denied: chmod")

    in_journal(journal, fail)
    result = rebundle("status", "other/target", "--exit-code")

    assert (result.code, "other/target" in result.out) == (1, True)
    assert "1 event waiting since" in result.out
    assert "Permission denied: chmod" in result.out
    document = rebundle("status", "other/target", "-o", "json").json
    assert [lane["scope"] for lane in document["journal"]["lanes"]] == ["other/target"]


def a_file_for_a_tree(tree):
    tree.rename(tree.with_name("elsewhere"))
    tree.write_text("x")


def a_link_for_a_tree(tree):
    tree.rename(tree.with_name("elsewhere"))
    tree.symlink_to("elsewhere")


def a_folder_for_a_marker(tree):
    (tree / ".rebundle.json").unlink()
    (tree / ".rebundle.json").mkdir()


@pytest.mark.parametrize("change", [a_file_for_a_tree, a_link_for_a_tree, a_folder_for_a_marker])
def test_what_is_in_the_way_of_a_whole_tree_is_named_with_the_command_that_moves_it(
    bucket, rebundle, change
):
    change(live_file(bucket, ""))

    [why] = scope_of(rebundle("status", "-o", "json"))["attention"]
    assert "next pass" not in why
    command = re.search(r'mkdir -p .*/XXXXXX\)"', why)[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert rebundle("hold", SCOPE, "--reason", "to have a pass").code == 0

    assert scope_of(rebundle("status", "-o", "json"))["live_tree"]["follows"] is True
    assert live_file(bucket, COMPOSE).is_file()


def test_an_unusable_journal_does_not_hide_the_bucket(bucket, tmp_path, rebundle):
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)

    result = rebundle("status", "--journal", tmp_path / "x.db", "-o", "json")

    assert result.code == 6
    assert "cannot be used" in result.json["journal"]["error"]
    assert rebundle("status", "--journal", tmp_path / "x.db", "--exit-code").code == 6
    assert scope_of(result)["live"]["state"] == "state-3"
    assert "cannot be used" in rebundle("status", "--journal", tmp_path / "x.db").out


def test_a_journal_of_another_schema_has_the_exit_code_that_every_command_gives_it(
    journal, rebundle
):
    with closing(sqlite3.connect(journal, isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = '3' WHERE key = 'schema'")

    assert rebundle("dead-letters", "list").code == 4
    assert rebundle("status").code == 4


def test_a_bucket_that_the_journal_did_not_publish_to_needs_attention(journal, rebundle):
    assert rebundle("status", "-o", "json").json["journal"]["wrong_bucket"] is None
    in_journal(journal, lambda opened: opened.remember_bucket("1" * 32))
    assert (
        "is its volume not mounted"
        in rebundle("status", "-o", "json").json["journal"]["wrong_bucket"]
    )
    output = rebundle("status").out
    assert "bucket: this bucket has no .rebundle/bucket.json" in output
    assert "rebundle run --new-bucket" in output


def test_an_event_is_reported_for_each_scope(journal, rebundle):
    (dead,) = rebundle("status", "e1", "-o", "json").json["events"]
    (waiting,) = rebundle("status", "42", "-o", "json").json["events"]

    assert [(lane["outcome"], lane["dead_letter"]) for lane in dead["scopes"]] == [
        ("dead-lettered", "1")
    ]
    assert {lane["scope"]: lane["outcome"] for lane in waiting["scopes"]} == {
        str(SCOPE): None,
        "other/target": None,
    }
    table = rebundle("status", "e1").out
    assert "dead-lettered" in table
    assert "\033" not in table


def test_an_event_that_went_to_no_scope_is_explained(journal, rebundle):
    event = Event("nowhere", "urn:x", "io.rebundle.model_version.created.v1", {})
    arrival = Arrival(event, Identity("http", "urn:x", "nowhere"), "d", ())
    in_journal(journal, lambda opened: opened.append([arrival]))

    assert "status:    acknowledged\nno scope had its model" in rebundle("status", "nowhere").out


def test_a_name_of_neither_scope_nor_event_is_not_found(journal, rebundle):
    assert rebundle("status", "nobody/nothing").code == 3


def test_without_a_journal_an_event_is_not_found(bucket, rebundle):
    assert rebundle("status", "e1").code == 3


ID = '{"schema":1,"id":"' + "1" * 32 + '","created_at":"2026-01-01T00:00:00.000Z"}'


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("thing", OBSTACLES, ids=lambda thing: thing.__name__)
def test_what_is_in_the_place_of_the_buckets_id_is_reported_with_the_command_that_helps(
    journal, bucket, rebundle, thing, remembered
):
    if remembered:
        in_journal(journal, lambda opened: opened.remember_bucket("1" * 32))
    path = bucket / ".rebundle/bucket.json"
    path.write_text(ID)

    def told():
        result = as_an_ordinary_user(lambda: rebundle("status", "-o", "json"))
        return result.json["journal"]["wrong_bucket"]

    assert told() is None
    path.unlink()
    with put(path, thing):
        reason = told()
        assert str(path) in reason or "is damaged" in reason
        if command := re.search(r"(mv|chmod a\+r) [^()`;]*", reason):
            assert "--new-bucket" not in reason
            subprocess.run(["sh", "-c", command[0]], check=True)
    path.write_text(ID)
    assert told() is None


def test_a_default_that_cannot_be_read_is_no_operators_edit(bucket, rebundle):
    env = "example/conf/bundle/.env"
    live_file(bucket, env).unlink()
    live_file(bucket, env).symlink_to("elsewhere")

    shown = rebundle("status", SCOPE).out

    assert f"  {env}: not read, so it counts as an operator's override: " in shown
    assert "is a symbolic link" in shown
    assert f"{env}: operator's override" not in shown
