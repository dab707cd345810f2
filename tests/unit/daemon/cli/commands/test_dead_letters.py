"""`rebundle dead-letters`: lists, shows, adds, replays and drops dead letters."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest

from events.errors import Problem
from tests.support.journals import SCOPE, in_journal


def test_open_dead_letters_are_listed_with_their_reason_escaped(journal, rebundle):
    (letter,) = rebundle("dead-letters", "list", "-o", "json").json["dead_letters"]
    table = rebundle("dead-letters", "list").out

    assert (letter["event"], letter["scope"], letter["status"]) == ("e1", SCOPE, "open")
    assert "is used\\x1b already" in table


def test_rejected_events_are_listed_with_their_problems(journal, rebundle):
    (rejected,) = rebundle("dead-letters", "list", "--rejected", "-o", "json").json["rejected"]

    assert rejected["problems"] == [{"path": "$.id", "expected": "is required", "found": "\033"}]
    assert "$.id: is required (found \\x1b)" in rebundle("dead-letters", "list", "--rejected").out


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"id": "e\\u001b1", "specversion": "2"}', ", e\\x1b1"),
        (b'[{"id": "e1"}, {"id": 7}, 3, {"id": "e2"}]', ", e1, e2"),
        (b'[{"id": "e1"}, {"id', ""),
        (b"7", ""),
    ],
)
def test_a_rejected_request_names_its_events(journal, rebundle, body, named):
    async def reject(opened):
        await opened.reject("http", body, [Problem("$", "must be an event")])

    in_journal(journal, reject)

    (first, *_) = rebundle("dead-letters", "list", "--rejected").out.splitlines()

    assert first.endswith(f"from http, {len(body)} bytes{named}")


def test_the_ids_of_a_rejected_request_are_bounded(journal, rebundle):
    body = json.dumps([{"id": "x" * 1_000}] * 1_000).encode()

    async def reject(opened):
        await opened.reject("http", body, [Problem("$", "must be an event")])

    in_journal(journal, reject)

    first = rebundle("dead-letters", "list", "--rejected", "-o", "json").json["rejected"][0]

    assert first["events"] == ["x" * 256] * 20


def test_a_replay_is_shown_at_both_ends(journal, rebundle):
    position = rebundle("dead-letters", "replay", 1, "-o", "json").json["position"]

    letter = rebundle("dead-letters", "show", 1, "-o", "json").json
    first, replay = rebundle("status", letter["event"], "-o", "json").json["events"]

    assert letter["replayed_as"] == replay["position"] == position
    assert (first["replay_of"], replay["replay_of"]) == (None, first["position"])
    table = rebundle("status", letter["event"]).out
    assert "replay of:" in table
    assert "DEAD LETTER" in table


def test_an_unknown_id_is_refused_with_the_command_that_lists_them(journal, rebundle):
    for unknown in ("9", "e1"):
        refused = rebundle("dead-letters", "show", unknown)
        assert (refused.code, "`rebundle dead-letters list --all`" in refused.err) == (3, True)


def test_show_has_the_whole_event(journal, rebundle):
    view = rebundle("dead-letters", "show", 1, "-o", "json").json

    assert (view["id"], view["body"]["data"]) == ("1", {"a": 1})
    assert '"data"' in rebundle("dead-letters", "show", 1).out


def test_an_unknown_id_is_not_found(journal, rebundle):
    for command in (["show", 9], ["replay", 9], ["drop", 9, "--reason", "x"]):
        assert rebundle("dead-letters", *command).code == 3


def test_add_takes_a_stuck_event_out_of_its_lane(journal, rebundle):
    result = rebundle(
        "dead-letters", "add", "e2", "--reason", "stuck", "--by", "alice", "-o", "json"
    )

    (letter,) = result.json["dead_letters"]
    assert (result.code, letter["event"], letter["by"], letter["reason"]) == (
        0,
        "e2",
        "alice",
        "stuck",
    )
    (event,) = rebundle("status", "e2", "-o", "json").json["events"]
    assert event["scopes"][0]["outcome"] == "dead-lettered"


def test_an_id_of_digits_is_an_id_and_a_position_has_an_at_sign(journal, rebundle):
    by_id = rebundle(
        "dead-letters", "add", "42", "--scope", "other/target", "--reason", "stuck", "-o", "json"
    )
    by_position = rebundle("dead-letters", "add", "@2", "--reason", "stuck", "-o", "json")

    assert [(letter["event"], letter["scope"]) for letter in by_id.json["dead_letters"]] == [
        ("42", "other/target")
    ]
    assert [letter["event"] for letter in by_position.json["dead_letters"]] == ["e2"]


def test_add_of_an_event_that_does_not_wait_is_refused(journal, rebundle):
    assert rebundle("dead-letters", "add", "e1", "--reason", "x").code == 4


def test_replay_queues_the_event_behind_all_waiting_events(journal, rebundle):
    result = rebundle("dead-letters", "replay", 1, "-o", "json")

    assert (result.code, result.json["scope"]) == (0, SCOPE)
    assert rebundle("dead-letters", "show", 1, "-o", "json").json["status"] == "replaying"
    assert rebundle("dead-letters", "replay", 1).code == 4


def test_drop_gives_up_with_a_reason(journal, rebundle):
    assert rebundle("dead-letters", "drop", 1, "--reason", "obsolete", "--by", "alice").code == 0

    (letter,) = rebundle("dead-letters", "list", "--all", "-o", "json").json["dead_letters"]
    assert (letter["status"], letter["closed_by"], letter["closed_reason"]) == (
        "dropped",
        "alice",
        "obsolete",
    )
    assert rebundle("dead-letters", "list", "-o", "json").json["dead_letters"] == []


def test_without_a_journal_there_is_nothing_to_read(bucket, tmp_path, rebundle):
    result = rebundle("dead-letters", "list", "--journal", tmp_path / "absent.db")

    assert result.code == 6
    assert not (tmp_path / "absent.db").exists()


def test_a_file_that_is_no_journal_is_a_backend_failure(bucket, tmp_path, rebundle):
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)

    assert rebundle("dead-letters", "list", "--journal", tmp_path / "x.db").code == 6


def test_the_journal_is_read_beside_a_daemon_that_holds_it(journal, rebundle):
    async def look(_):
        return await asyncio.to_thread(rebundle, "dead-letters", "list", "-o", "json")

    assert in_journal(journal, look, run=True).code == 0


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        ("UPDATE dead_letters SET status = 'zzz'", ("list", "--all")),
        ("UPDATE dead_letters SET status = 'zzz'", ("show", 1)),
        ("UPDATE dead_letters SET at = x'ff'", ("list",)),
        ("UPDATE rejected SET problems = '{'", ("list", "--rejected")),
        ("UPDATE rejected SET problems = '7'", ("list", "--rejected")),
        ("UPDATE rejected SET problems = '[[1]]'", ("list", "--rejected")),
        ("UPDATE rejected SET intake = x'ff'", ("list", "--rejected")),
    ],
)
def test_content_that_no_release_writes_is_a_damaged_journal(journal, rebundle, change, arguments):
    with closing(sqlite3.connect(journal)) as db:
        db.execute(change)
        db.commit()

    result = rebundle("dead-letters", *arguments, "-o", "json")

    assert (result.code, result.json["exit_code"]) == (6, 6)
    assert "has a value that no release writes" in result.err
    assert "Restore it from a backup" in result.err


@pytest.mark.parametrize("body", ["'{'", "'[]'", "'{}'", "x'ff'"])
def test_a_dead_letter_whose_event_is_damaged_is_shown_without_it(journal, rebundle, body):
    with closing(sqlite3.connect(journal)) as db:
        db.execute(f"UPDATE events SET body = {body}")
        db.commit()

    assert rebundle("dead-letters", "show", 1, "-o", "json").json["body"] is None
    assert "damaged" in rebundle("dead-letters", "show", 1).out
    assert rebundle("dead-letters", "list").code == 0
    refused = rebundle("dead-letters", "replay", 1)
    assert refused.code != 0
    assert "send it again" in refused.err


def test_an_outcome_that_no_release_writes_is_a_damaged_journal(journal, rebundle):
    with closing(sqlite3.connect(journal)) as db:
        db.execute("UPDATE lanes SET kind = 'zzz' WHERE settled_at IS NOT NULL")
        db.commit()

    result = rebundle("status", "e1")

    assert (result.code, "has a value that no release writes" in result.err) == (6, True)
