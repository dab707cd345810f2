"""Queries of the journal: events, backlog, pruning and the probe."""

import contextlib
import sqlite3

import pytest

from events.errors import JournalFull, SourceUnavailable
from events.journal import JournalLimits
from events.model import Outcome, OutcomeKind
from events.records import LaneBacklog
from tests.support.journals import next_of

GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")
BAD = Outcome(OutcomeKind.DEAD_LETTERED, "no")


def test_an_event_is_found_with_its_outcome_in_each_scope(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append(
                [bench.arrival("1", scopes=(scope, "a/waiting", "b/failed"))]
            )
            bench.clock.advance(seconds=5)
            await journal.record("a/waiting", "write", {accepted.position: GOOD})
            await journal.settle(scope, {accepted.position: GOOD})
            await journal.settle("b/failed", {accepted.position: BAD})
            for error in ("first", "second"):
                await journal.note_failure("a/waiting", [accepted.position], error)
            [status] = await journal.find("1")
            assert (status.position, status.acknowledged_at) == (accepted.position, None)
            assert status.accepted_at == "2026-11-22T10:00:00.000000Z"
            waiting, failed, published = status.lanes
            assert (waiting.outcome, waiting.failed_tries, waiting.error) == (None, 2, "second")
            assert (failed.outcome, failed.dead_letter) == (BAD, "1")
            assert (published.outcome, published.settled_at) == (
                GOOD,
                "2026-11-22T10:00:05.000000Z",
            )
            await journal.settle("a/waiting", {accepted.position: GOOD})
            [status] = await journal.find("1")
            assert status.acknowledged_at is not None
            assert status.lanes[0].error is None
            assert await journal.find("2") == ()

    play(story())


def test_the_backlog_counts_waiting_events_with_scope_and_age(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            assert (await journal.backlog()).oldest is None
            one, _ = await journal.append([bench.arrival("1"), bench.arrival("2", scopes=None)])
            bench.clock.advance(minutes=1)
            [three] = await journal.append([bench.arrival("3", scopes=(scope, "other/edge"))])
            await journal.note_failure(scope, [one.position], "bucket is away")
            await journal.note_failure(scope, [one.position, three.position], "bucket is full")
            backlog = await journal.backlog()
            assert (backlog.events, backlog.undispatched, backlog.oldest) == (
                3,
                1,
                "2026-11-22T10:00:00.000000Z",
            )
            assert backlog.lanes == (
                LaneBacklog("other/edge", 1, "2026-11-22T10:01:00.000000Z", 0, None),
                LaneBacklog(scope, 2, "2026-11-22T10:00:00.000000Z", 2, "bucket is full"),
            )
            await journal.settle(scope, {one.position: GOOD, three.position: GOOD})
            backlog = await journal.backlog()
            assert (backlog.events, [lane.scope for lane in backlog.lanes]) == (2, ["other/edge"])

    play(story())


def test_bodies_of_settled_events_are_removed_after_7_days_and_identities_after_30(
    bench, play, scope
):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            await journal.settle(scope, {accepted.position: GOOD})
            bench.clock.advance(days=7)
            assert await journal.prune() == 0
            bench.clock.advance(seconds=1)
            assert await journal.prune() == 1
            [known] = await journal.append([bench.arrival("1")])
            assert known.known
            bench.clock.advance(days=23)
            assert await journal.prune() == 0, "no newer event shows that the clock is right"
            await journal.append([bench.arrival("2")])
            assert await journal.prune() == 1
            [repeated] = await journal.append([bench.arrival("1")])
            assert not repeated.known
            assert repeated.position.offset > accepted.position.offset

    play(story())


def test_waiting_events_and_open_dead_letters_are_never_pruned(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            _waiting, failed = await journal.append([bench.arrival("1"), bench.arrival("2")])
            await journal.settle(scope, {failed.position: BAD})
            bench.clock.advance(days=400)
            assert await journal.prune() == 0
            [letter] = await journal.dead_letters()
            assert letter.event == bench.arrival("2").event
            assert (await next_of(journal)).event == bench.arrival("1").event
            replay = await journal.replay(letter.id, by="ann")
            bench.clock.advance(days=400)
            assert await journal.prune() == 0
            await journal.settle(scope, {replay: GOOD})
            bench.clock.advance(days=31)
            await journal.append([bench.arrival("3")])
            assert await journal.prune() > 0
            assert await journal.dead_letters(None) == ()
            assert await journal.find("2") == ()

    play(story())


def test_pruning_continues_until_nothing_is_left(bench, play):
    async def story():
        async with bench.journal(limits=JournalLimits(max_unacknowledged=5000)) as journal:
            await journal.append([bench.arrival(str(number), scopes=()) for number in range(2500)])
            assert (await journal.backlog()).events == 0
            bench.clock.advance(days=31)
            await journal.append([bench.arrival("newest")])
            assert await journal.prune() == 5000
            assert await journal.find("1") == ()

    play(story())


def test_a_clock_ahead_removes_no_identity(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            await journal.settle(scope, {accepted.position: GOOD})
            bench.clock.advance(days=31)
            await journal.prune()
            bench.clock.advance(days=-31)
            [again] = await journal.append([bench.arrival("1")])
            assert again.known

    play(story())


def test_a_disk_without_room_for_events_is_full_although_a_row_would_fit(bench, play):
    big = {"a": "x" * 20_000}

    async def story():
        async with bench.journal() as journal:
            # SQLite refuses to grow the database, as on a full disk.
            await journal._call(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
            await journal.probe()
            with pytest.raises(JournalFull, match="no space is left"):
                await journal.append([bench.arrival("1", data=big)])
            for _ in range(2):
                with pytest.raises(JournalFull, match="no space is left"):
                    await journal.probe()
            await journal._call(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchone())
            for _ in range(2):
                await journal.probe()
            await journal.append([bench.arrival("1", data=big)])
            with contextlib.closing(sqlite3.connect(bench.path)) as beside:
                assert beside.execute("SELECT length(at) < 100 FROM probe").fetchall() == [(1,)]

    play(story())


def test_a_probe_writes_durably_and_reports_when_it_cannot(bench, play):
    async def story():
        async with bench.journal() as journal:
            await journal.probe()
            bench.clock.advance(seconds=5)
            await journal.probe()
            with contextlib.closing(sqlite3.connect(bench.path)) as beside:
                written = beside.execute("SELECT at FROM probe").fetchall()
            assert written == [("2026-11-22T10:00:05.000000Z",)]
            await journal._call(lambda db: db.execute("PRAGMA query_only = 1"))
            with pytest.raises(SourceUnavailable):
                await journal.probe()

    play(story())
