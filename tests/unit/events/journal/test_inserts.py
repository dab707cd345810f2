"""Appending events: positions, repeated events, conflicts and the limits of the journal."""

import pytest

from events.errors import IdentityConflict, JournalFull, Problem
from events.journal import JournalLimits


def test_an_event_gets_a_position_above_the_one_before(bench, play):
    async def story():
        async with bench.journal() as journal:
            [one] = await journal.append([bench.arrival("1")])
            two, three = await journal.append([bench.arrival("2"), bench.arrival("3")])
            assert not one.known
            assert one.position.offset < two.position.offset < three.position.offset
            assert {delivery.position.instance for delivery in (one, two, three)} == {
                journal.instance
            }

    play(story())


def test_a_repeated_event_is_recognised_with_its_first_position(bench, play):
    async def story():
        async with bench.journal() as journal:
            [first] = await journal.append([bench.arrival("1")])
            [again] = await journal.append([bench.arrival("1")])
            assert (again.position, again.known) == (first.position, True)
            assert (await journal.backlog()).events == 1

    play(story())


def test_one_event_twice_in_a_batch_is_appended_once(bench, play):
    async def story():
        async with bench.journal() as journal:
            first, again = await journal.append([bench.arrival("1"), bench.arrival("1")])
            assert (first.known, again.known, again.position) == (False, True, first.position)

    play(story())


@pytest.mark.parametrize("other", [{"intake": "webhook"}, {"source": "urn:y"}])
def test_the_same_id_of_another_intake_or_source_is_another_event(bench, play, other):
    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival("1")])
            [accepted] = await journal.append([bench.arrival("1", digest="other", **other)])
            assert not accepted.known

    play(story())


def test_a_known_id_with_different_content_is_a_conflict_and_nothing_of_the_batch_is_kept(
    bench, play
):
    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival("1")])
            with pytest.raises(IdentityConflict) as caught:
                await journal.append(
                    [bench.arrival("2"), bench.arrival("1", digest="other"), bench.arrival("3")]
                )
            assert (caught.value.index, caught.value.event_id) == (1, "1")
            assert (await journal.backlog()).events == 1
            assert await journal.find("2") == ()

    play(story())


def test_a_full_journal_accepts_nothing_new_but_recognises_its_events(bench, play, scope):
    async def story():
        async with bench.journal(limits=JournalLimits(max_unacknowledged=2)) as journal:
            await journal.append([bench.arrival("1")])
            with pytest.raises(JournalFull):
                await journal.append([bench.arrival("2"), bench.arrival("3")])
            assert (await journal.backlog()).events == 1
            await journal.append([bench.arrival("2")])
            [known] = await journal.append([bench.arrival("1")])
            assert known.known
            with pytest.raises(JournalFull):
                await journal.append([bench.arrival("3")])
            await journal.assign({known.position: [scope]})
            await journal.take_out("1", None, reason="r", by="b")
            await journal.append([bench.arrival("3")])

    play(story())


def test_the_limit_of_bytes_counts_waiting_events(bench, play):
    async def story():
        async with bench.journal(limits=JournalLimits(max_unacknowledged_bytes=1000)) as journal:
            with pytest.raises(JournalFull):
                await journal.append([bench.arrival("1", data={"a": "x" * 1000})])
            assert (await journal.backlog()).bytes == 0
            await journal.append([bench.arrival("1")])
            assert (await journal.backlog()).bytes == len(bench.arrival("1").event.structured())

    play(story())


def test_rejected_events_are_listed_newest_first_with_their_problems(bench, play):
    async def story():
        problems = (Problem("$.id", "is required"), Problem("$.data.a", "must be text", "7"))
        async with bench.journal() as journal:
            await journal.reject("http", b"one", problems)
            await journal.reject("mlflow", b"\xff\x00", ())
            newest, oldest = await journal.rejected()
            assert (newest.intake, newest.body, newest.size, newest.problems) == (
                "mlflow",
                b"\xff\x00",
                2,
                (),
            )
            assert (oldest.body, oldest.problems, oldest.at) == (
                b"one",
                problems,
                "2026-11-22T10:00:00.000000Z",
            )
            assert await journal.rejected(limit=1) == (newest,)

    play(story())


def test_the_ring_of_rejected_is_bounded_in_entries(bench, play):
    async def story():
        async with bench.journal(limits=JournalLimits(max_rejected=3)) as journal:
            for number in range(5):
                await journal.reject("http", str(number).encode(), ())
            assert [rejected.body for rejected in await journal.rejected()] == [b"4", b"3", b"2"]
            assert (await journal.backlog()).rejected == 3

    play(story())


def test_the_ring_of_rejected_is_bounded_in_bytes_and_shortens_too_large_entries(bench, play):
    async def story():
        async with bench.journal(limits=JournalLimits(max_rejected_bytes=10)) as journal:
            await journal.reject("http", b"12345", ())
            await journal.reject("http", b"67890", ())
            assert [rejected.body for rejected in await journal.rejected()] == [b"67890", b"12345"]
            await journal.reject("http", b"x" * 50, ())
            [kept] = await journal.rejected()
            assert (kept.body, kept.size) == (b"x" * 10, 50)

    play(story())
