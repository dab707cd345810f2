"""Properties of the whole journal: waiting, instances, two processes, and kills."""

import asyncio
import gc
import sqlite3
import subprocess
import sys
import textwrap
import threading
import weakref
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest

from events.errors import (
    EventError,
    IdentityConflict,
    JournalFull,
    JournalLocked,
    SourceUnavailable,
)
from events.journal import JournalLimits, inserts, lanes
from events.model import Event, Identity, Outcome, OutcomeKind
from events.source import Recorded
from tests.support.journals import next_of, waiting_in

GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")


def test_an_append_wakes_the_waiting_reader(bench, play):
    async def story():
        async with bench.journal() as journal:
            journal._poll = 3600.0
            waiting = asyncio.ensure_future(next_of(journal))
            await journal.backlog()
            assert not waiting.done()
            [accepted] = await journal.append([bench.arrival("1")])
            assert (await waiting).position == accepted.position

    play(story())


def test_an_append_by_another_process_is_noticed(bench, play):
    async def story():
        async with bench.journal() as journal, bench.journal(run=False) as beside:
            waiting = asyncio.ensure_future(next_of(journal))
            await journal.backlog()
            [accepted] = await beside.append([bench.arrival("1")])
            assert (await waiting).position == accepted.position

    play(story())


def test_waiting_can_be_cancelled_without_losing_an_event(bench, play):
    async def story():
        async with bench.journal() as journal:
            waiting = asyncio.ensure_future(next_of(journal))
            await journal.backlog()
            waiting.cancel()
            await asyncio.wait([waiting])
            [accepted] = await journal.append([bench.arrival("1")])
            waiting = asyncio.ensure_future(next_of(journal))
            await asyncio.sleep(0)  # its query is queued
            waiting.cancel()
            await asyncio.wait([waiting])
            assert (await next_of(journal)).position == accepted.position

    play(story())


def test_a_restored_journal_gets_a_new_instance_and_delivers_again(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            done, waiting = await journal.append([bench.arrival("1"), bench.arrival("2")])
            await journal.settle(scope, {done.position: GOOD})
            await journal.record(scope, "write", {waiting.position: GOOD})
            first = await next_of(journal)
            old = journal.instance
            assert await journal.compare(scope, {old: waiting.position.offset}, nullcontext) is None
            difference = await journal.compare(scope, {old: 100}, nullcontext)
            assert difference is not None
            assert "the journal was restored" in difference
            assert journal.instance != old
            again = await next_of(journal)
            assert again.event == first.event
            assert again.position.instance == journal.instance
            assert await journal.recorded(scope, [again.position]) == {}
            [new] = await journal.append([bench.arrival("3")])
            assert new.position.offset == 101
            renewed = journal.instance
        async with bench.journal() as journal:
            assert journal.instance == renewed
            assert await journal.compare(scope, {renewed: 101}, nullcontext) is None
            assert await journal.compare(scope, {renewed: 102}, nullcontext) is not None

    play(story())


def test_an_empty_restored_journal_continues_above_the_recorded_positions(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            assert await journal.compare(scope, {journal.instance: 0}, nullcontext) is None
            assert await journal.compare(scope, {journal.instance: 2**63}, nullcontext) is not None
            [accepted] = await journal.append([bench.arrival("1")])
            assert accepted.position.offset == 2**53 + 1

    play(story())


def test_a_delivery_read_during_a_change_of_instance_is_read_again(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival("1"), bench.arrival("2")])
            assert (await next_of(journal)).event.id == "1"
            passed = {journal.instance: 100}
            comparing = asyncio.ensure_future(journal.compare(scope, passed, nullcontext))
            await asyncio.sleep(0)
            # Its query is queued behind the change, and still has the old place and instance.
            delivery = await next_of(journal)
            await comparing
            delivered = [delivery, await next_of(journal)]
            assert [item.event.id for item in delivered] == ["1", "2"]
            assert {item.position.instance for item in delivered} == {journal.instance}

    play(story())


def test_a_closed_journal_raises_an_error_and_can_be_closed_again(bench, play):
    async def story():
        async with bench.journal() as journal:
            waiting = asyncio.ensure_future(next_of(journal))
            await journal.backlog()
            await journal.close()
            await journal.close()
            with pytest.raises(SourceUnavailable, match="is closed"):
                await waiting
            with pytest.raises(SourceUnavailable):
                await journal.append([bench.arrival("1")])

    play(story())


def test_every_part_of_an_event_is_stored(bench, play):
    async def story():
        event = Event(
            id="ä/\U0001f600",
            source="urn:x",
            type="t",
            data={"z": 1, "a": [None, True, 1.5, 2**63 - 1, "\u2028"]},
            subject="s",
            time="2026-11-22T10:00:00+01:00",
            extensions={"partitionkey": "k", "traced": True, "dataschema": "https://x/y"},
        )
        arrival = bench.arrival("1")
        arrival = type(arrival)(event, Identity("http", "urn:x", event.id), "digest", None)
        async with bench.journal() as journal:
            await journal.append([arrival])
        async with bench.journal() as journal:
            delivery = await next_of(journal)
            assert (delivery.event, delivery.identity) == (event, arrival.identity)
            assert (delivery.digest, delivery.scopes, delivery.replay_of) == ("digest", None, None)
            assert delivery.accepted_at == "2026-11-22T10:00:00.000000Z"

    play(story())


KILLED = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from events.journal import Journal
from events.records import Arrival
from events.model import Event, Identity, Outcome, OutcomeKind

GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")

def arrival(number):
    return Arrival(Event(number, "urn:x", "t", {}), Identity("http", "urn:x", number), "d", ("a/b", "c/d"))

async def main():
    journal = await Journal.open(Path(sys.argv[1]), clock=lambda: datetime.now(UTC), token=lambda: "0" * 32, run=True)
    STEPS
    os._exit(9)

asyncio.run(main())
"""


def kill_after(path: Path, steps: str) -> None:
    script = KILLED.replace("STEPS", textwrap.indent(textwrap.dedent(steps), "    ").strip())
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 9, done.stderr


def test_an_event_survives_a_kill_right_after_its_append(bench, play):
    kill_after(bench.path, 'await journal.append([arrival("1"), arrival("2")])')

    async def story():
        async with bench.journal() as journal:
            assert [(await next_of(journal)).event.id for _ in range(2)] == ["1", "2"]

    play(story())


def test_a_kill_during_an_append_leaves_nothing_of_the_batch(bench, play):
    kill_after(
        bench.path,
        """
        await journal.append([arrival("0")])
        def cut(db):
            db.create_function("cut", 0, lambda: os._exit(9))
            db.execute("CREATE TEMP TRIGGER t AFTER INSERT ON main.events WHEN NEW.id = '2' BEGIN SELECT cut(); END")
        await journal._call(cut)
        await journal.append([arrival("1"), arrival("2"), arrival("3")])
        """,
    )

    async def story():
        async with bench.journal() as journal:
            assert (await next_of(journal)).event.id == "0"
            assert (await journal.backlog()).events == 1
            assert await journal.find("1") == ()

    play(story())


def test_an_outcome_recorded_before_a_kill_survives_and_its_event_is_delivered_again(bench, play):
    kill_after(
        bench.path,
        """
        await journal.append([arrival("1")])
        [delivery] = (await journal.take(1)).deliveries
        await journal.record("a/b", "write", {delivery.position: GOOD})
        """,
    )

    async def story():
        async with bench.journal() as journal:
            delivery = await next_of(journal)
            assert await journal.recorded("a/b", [delivery.position]) == {
                delivery.position: (Recorded(GOOD, "write"),)
            }
            assert {item.position for item in await waiting_in(journal, "a/b")} & {
                delivery.position
            } == {delivery.position}

    play(story())


def test_of_many_pending_commits_the_newest_sixteen_are_remembered(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            for number in range(20):
                await journal.record(scope, f"write-{number}", {accepted.position: GOOD})
            recorded = (await journal.recorded(scope, [accepted.position]))[accepted.position]
            assert [record.write_id for record in recorded] == [
                f"write-{number}" for number in range(4, 20)
            ]
            await journal.settle(scope, {accepted.position: GOOD})
            await journal.record(scope, "late", {accepted.position: GOOD})
        with closing(sqlite3.connect(bench.path)) as db:
            assert db.execute("SELECT count(*) FROM recorded").fetchone() == (0,), (
                "nothing refers to them any more"
            )

    play(story())


def test_a_settled_event_is_never_delivered_again_and_a_half_settled_one_still_waits(bench, play):
    kill_after(
        bench.path,
        """
        one, two = await journal.append([arrival("1"), arrival("2")])
        await journal.settle("a/b", {one.position: GOOD, two.position: GOOD})
        await journal.settle("c/d", {one.position: GOOD})
        """,
    )

    async def story():
        async with bench.journal() as journal:
            delivery = await next_of(journal)
            assert delivery.event.id == "2"
            assert {item.position for item in await waiting_in(journal, "a/b")} & {
                delivery.position
            } == set()
            assert {item.position for item in await waiting_in(journal, "c/d")} & {
                delivery.position
            } == {delivery.position}
            assert (await journal.backlog()).events == 1

    play(story())


def test_a_kill_releases_the_lock(bench, play):
    kill_after(bench.path, "pass")

    async def story():
        async with bench.journal():
            pass

    play(story())


def test_an_event_in_many_scopes_is_decoded_once_and_cached_only_while_referenced(bench, play):
    async def story():
        scopes = [f"texture/t{number}" for number in range(3)]
        async with bench.journal() as journal:
            await journal.append([bench.arrival("1", scopes=scopes)])
            held = [(await waiting_in(journal, name))[0].event for name in scopes]
            assert {id(event) for event in held} == {id(held[0])}
            gone = weakref.ref(held[0])
            held.clear()
            await journal.backlog()  # the journal's thread keeps the last value that it returned
            gc.collect()
            assert gone() is None
            [again] = await waiting_in(journal, scopes[0])
            assert again.event == bench.arrival("1").event

    play(story())


def test_requests_that_arrive_together_share_a_transaction(bench, play, monkeypatch):
    transactions = []
    together = inserts._append_together

    def counted(db, now, limits, requests):
        transactions.append(len(requests))
        return together(db, now, limits, requests)

    monkeypatch.setattr(inserts, "_append_together", counted)

    async def story():
        async with bench.journal() as journal:
            accepted = await asyncio.gather(
                *(journal.append([bench.arrival(str(number))]) for number in range(20))
            )
            assert [acceptance.position.offset for [acceptance] in accepted] == list(range(1, 21))
            assert transactions == [20]
            assert (await journal.backlog()).events == 20

    play(story())


def test_a_refused_request_is_refused_alone(bench, play):
    async def story():
        limits = JournalLimits(max_unacknowledged=4)
        async with bench.journal(limits=limits) as journal:
            await journal.append([bench.arrival("known")])
            results = await asyncio.gather(
                journal.append([bench.arrival("1"), bench.arrival("2")]),
                journal.append([bench.arrival("3"), bench.arrival("known", digest="other")]),
                journal.append([bench.arrival("4"), bench.arrival("5")]),
                journal.append([bench.arrival("6")]),
                return_exceptions=True,
            )
            assert [type(result) for result in results] == [
                list,
                IdentityConflict,
                JournalFull,
                list,
            ]
            waiting = [delivery.event.id for delivery in (await journal.take(100)).deliveries]
            assert waiting == ["known", "1", "2", "6"]

    play(story())


def test_a_fault_of_the_disk_with_one_request_does_not_refuse_the_others(bench, play, monkeypatch):
    insert = inserts.insert

    def full(db, now, arrival):
        if arrival.identity.id == "large":
            raise sqlite3.OperationalError("database or disk is full")
        return insert(db, now, arrival)

    monkeypatch.setattr(inserts, "insert", full)

    async def story():
        async with bench.journal() as journal:
            results = await asyncio.gather(
                journal.append([bench.arrival("small")]),
                journal.append([bench.arrival("large")]),
                journal.append([bench.arrival("smaller")]),
                return_exceptions=True,
            )
            assert [isinstance(result, list) for result in results] == [True, False, True]
            assert isinstance(results[1], EventError)
            assert [delivery.event.id for delivery in (await journal.take(9)).deliveries] == [
                "small",
                "smaller",
            ]

    play(story())


def test_a_caller_that_leaves_does_not_stop_the_others(bench, play):
    async def story():
        async with bench.journal() as journal:
            leaving = asyncio.ensure_future(journal.append([bench.arrival("1")]))
            staying = asyncio.ensure_future(journal.append([bench.arrival("2")]))
            await asyncio.sleep(0)
            leaving.cancel()
            [accepted] = await staying
            assert not accepted.known

    play(story())


def test_requests_that_wait_at_the_close_are_answered(bench, play):
    async def story():
        async with bench.journal() as journal:
            waiting = [
                asyncio.ensure_future(journal.append([bench.arrival(str(number))]))
                for number in range(3)
            ]
            await asyncio.sleep(0)
            await journal.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, list | SourceUnavailable) for result in results)

    play(story())


def test_a_fault_of_one_request_that_is_no_fault_of_the_disk_refuses_it_alone(bench, play):
    async def story():
        async with bench.journal() as journal:
            results = await asyncio.gather(
                *(journal.append([bench.arrival(event_id)]) for event_id in ("1", "\ud800", "2")),
                return_exceptions=True,
            )
            assert [isinstance(result, list) for result in results] == [True, False, True]

    play(story())


def test_a_cancelled_close_leaves_no_caller_without_an_answer(bench, play):
    async def story():
        async with bench.journal() as journal:
            waiting = asyncio.ensure_future(journal.append([bench.arrival("1")]))
            await asyncio.sleep(0)
            closing_ = asyncio.ensure_future(journal.close())
            await asyncio.sleep(0)
            closing_.cancel()
            async with asyncio.timeout(5):
                await asyncio.gather(waiting, return_exceptions=True)
        # The file is closed and its lock released soon, although nobody waited for that.
        async with asyncio.timeout(5):
            while True:
                with suppress(JournalLocked):
                    async with bench.journal():
                        break
                await asyncio.sleep(0.05)

    play(story())


def test_what_is_taken_at_once_is_limited_by_its_size(bench, play, monkeypatch):
    monkeypatch.setattr(lanes, "_MAX_TAKEN_BYTES", 5_000)

    async def story():
        async with bench.journal() as journal:
            await journal.append(
                [bench.arrival(str(number), data={"a": "x" * 2_000}) for number in range(7)]
            )
            taken = [await journal.take(100) for _ in range(3)]
            assert [len(item.deliveries) for item in taken] == [3, 3, 1]
            assert [item.more for item in taken] == [True, True, False]

    play(story())


async def call_in_progress(journal):
    """A call that occupies the journal's thread until the event is set, and the event."""
    begun, finish = threading.Event(), threading.Event()

    def work(_db):
        begun.set()
        assert finish.wait(10)

    call = asyncio.create_task(journal._call(work))
    assert await asyncio.to_thread(begun.wait, 10)
    return call, finish


def test_a_request_is_stored_before_the_calls_that_queue(bench, play):
    def count(db):
        return db.execute("SELECT count(*) FROM events").fetchone()[0]

    async def story():
        async with bench.journal() as journal:
            first, finish = await call_in_progress(journal)
            queued = asyncio.create_task(journal._call(count))
            await asyncio.sleep(0)
            appends = [asyncio.create_task(journal.append([bench.arrival(f"{n}")])) for n in (1, 2)]
            await asyncio.sleep(0)
            finish.set()
            await asyncio.gather(first, *appends)
            assert await queued == 2

    play(story())


def test_a_request_is_stored_although_the_call_before_it_fails_or_is_cancelled(bench, play):
    def fails(_db):
        raise KeyError("ours")

    async def story():
        async with bench.journal() as journal:
            cancelled = asyncio.create_task(journal._call(lambda _db: None))
            append = asyncio.create_task(journal.append([bench.arrival("1")]))
            failing = asyncio.create_task(journal._call(fails))
            await asyncio.sleep(0)
            cancelled.cancel()
            results = await asyncio.gather(append, failing, cancelled, return_exceptions=True)
            assert [accepted.known for accepted in results[0]] == [False]
            assert isinstance(results[1], KeyError)

    play(story())


def test_a_loop_that_ends_leaves_no_request_without_an_answer(bench, play):
    async def story():
        async with bench.journal() as journal:
            blocking, finish = await call_in_progress(journal)
            append = asyncio.create_task(journal.append([bench.arrival("1")]))
            await asyncio.sleep(0)
            journal._appending.cancel()
            with pytest.raises(SourceUnavailable, match="send the events again"):
                await append
            finish.set()
            await blocking
            [accepted] = await journal.append([bench.arrival("1")])
            assert not accepted.known

    play(story())
