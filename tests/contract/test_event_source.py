"""The contract of every event source (`events.source`), on each adapter.

The log of the simulation is tested beside the journal, because results of simulated worlds rely on
this contract.
"""

import asyncio
import itertools
from datetime import UTC, datetime

import pytest

from events.journal import Arrival, Journal
from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.source import Delivery, Recorded
from tests.simulation.source import Log
from tests.support.journals import next_of

ONE, TWO = "visual-anomaly/edge", "visual-anomaly/core"
GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")
ACCEPTED = "2026-11-22T10:00:00.000000Z"
LATE = Outcome(OutcomeKind.LATE, "behind 42", "state-0")


def _event(event_id):
    return Event(event_id, "urn:x", "t", {})


def _delivery(event_id, position, scopes):
    identity = Identity("http", "urn:x", event_id)
    return Delivery(_event(event_id), identity, "d", position, ACCEPTED, scopes)


class LogBench:
    def __init__(self):
        self._log = Log("memory:1")

    async def append(self, event_id, scopes=(ONE,)):
        return self._log.append(
            _event(event_id), Identity("http", "urn:x", event_id), "d", ACCEPTED, scopes
        )

    async def restart(self):
        self.source = self._log.open()

    async def close(self):
        pass


class JournalBench:
    def __init__(self, path):
        self._path = path
        self._tokens = itertools.count()

    async def restart(self):
        if hasattr(self, "source"):
            await self.source.close()
        self.source = await Journal.open(
            self._path,
            clock=lambda: datetime(2026, 11, 22, 10, tzinfo=UTC),
            token=lambda: f"{next(self._tokens):032x}",
            run=True,
        )

    async def append(self, event_id, scopes=(ONE,)):
        arrival = Arrival(_event(event_id), Identity("http", "urn:x", event_id), "d", scopes)
        [accepted] = await self.source.append([arrival])
        return accepted.position

    async def close(self):
        await self.source.close()


@pytest.fixture(params=["log", "journal"])
def play(request, tmp_path):
    """Runs a scenario on a bench with this adapter.

    `bench.source` is the source, also after a restart.
    """

    def run(story):
        async def whole():
            bench = LogBench() if request.param == "log" else JournalBench(tmp_path / "journal.db")
            await bench.restart()
            try:
                async with asyncio.timeout(20):
                    await story(bench)
            finally:
                await bench.close()

        asyncio.run(whole())

    return run


def test_deliveries_come_in_order_and_complete(play):
    async def story(bench):
        positions = [
            await bench.append("1"),
            await bench.append("2", None),
            await bench.append("3", (TWO, ONE)),
        ]
        deliveries = [await next_of(bench.source) for _ in range(3)]
        assert deliveries == [
            _delivery(str(number), position, scopes)
            for number, position, scopes in zip(
                (1, 2, 3), positions, ((ONE,), None, (TWO, ONE)), strict=True
            )
        ]
        assert {position.instance for position in positions} == {bench.source.instance}
        assert sorted(position.offset for position in positions) == [
            position.offset for position in positions
        ]

    play(story)


def test_all_available_events_come_at_once_up_to_the_limit(play):
    async def story(bench):
        for number in range(5):
            await bench.append(str(number), None if number == 2 else (ONE,))
        first = await bench.source.take(3)
        rest = await bench.source.take(3)
        taken = (*first.deliveries, *rest.deliveries)
        assert [delivery.event.id for delivery in taken] == list("01234")
        assert (len(first.deliveries), first.more, rest.more) == (3, True, False)
        for number in range(5, 9):
            await bench.append(str(number))
        assert (await bench.source.take(2)).more
        assert not (await bench.source.take(2)).more

    play(story)


def test_the_scopes_of_several_events_are_assigned_in_one_call(play):
    async def story(bench):
        one, two = await bench.append("1", None), await bench.append("2", None)
        await bench.source.assign({one: [ONE], two: [TWO, ONE], Position("other:1", 1): [TWO]})
        assert [delivery.position for delivery in await bench.source.waiting(ONE)] == [one, two]
        assert [delivery.position for delivery in await bench.source.waiting(TWO)] == [two]

    play(story)


def test_a_delivery_comes_once_and_the_next_call_waits(play):
    async def story(bench):
        await bench.append("1")
        assert (await next_of(bench.source)).event.id == "1"
        waiting = asyncio.ensure_future(next_of(bench.source))
        await bench.append("2")
        assert (await waiting).event.id == "2"

    play(story)


def test_an_unacknowledged_event_is_delivered_again_after_a_restart(play):
    async def story(bench):
        half, done, untouched = [await bench.append(number, (ONE, TWO)) for number in "123"]
        await bench.source.settle(ONE, {half: GOOD, done: GOOD})
        await bench.source.settle(TWO, {done: LATE})
        await bench.restart()
        assert [(await next_of(bench.source)).position for _ in range(2)] == [half, untouched]
        assert {delivery.position for delivery in await bench.source.waiting(ONE)} & {
            half,
            done,
            untouched,
        } == {untouched}
        assert {delivery.position for delivery in await bench.source.waiting(TWO)} & {
            half,
            done,
            untouched,
        } == {
            half,
            untouched,
        }

    play(story)


def test_the_waiting_events_of_a_scope_come_in_order_up_to_a_position(play):
    async def story(bench):
        one, elsewhere, two, three = [
            await bench.append(number, scopes)
            for number, scopes in (("1", (ONE,)), ("2", (TWO,)), ("3", (ONE, TWO)), ("4", (ONE,)))
        ]
        assert [delivery.position for delivery in await bench.source.waiting(ONE)] == [
            one,
            two,
            three,
        ]
        assert [delivery.position for delivery in await bench.source.waiting(ONE, two)] == [
            one,
            two,
        ]
        assert [delivery.position for delivery in await bench.source.waiting(ONE, three, 1)] == [
            one
        ]
        assert [delivery.scopes for delivery in await bench.source.waiting(TWO)] == [(TWO,), (TWO,)]
        assert list(await bench.source.waiting(ONE, Position("other:1", 99))) == []
        assert elsewhere not in [delivery.position for delivery in await bench.source.waiting(ONE)]

    play(story)


def test_the_scopes_of_an_event_are_remembered_and_the_first_assignment_stays(play):
    async def story(bench):
        position = await bench.append("1", None)
        await bench.source.assign({position: [TWO, ONE]})
        await bench.source.assign({position: ["other/edge"]})
        await bench.restart()
        assert (await next_of(bench.source)).scopes == (TWO, ONE)
        assert {delivery.position for delivery in await bench.source.waiting("other/edge")} & {
            position
        } == set()

    play(story)


def test_an_event_without_a_scope_is_not_delivered_again(play):
    async def story(bench):
        await bench.source.assign({await bench.append("1", None): []})
        later = await bench.append("2")
        assert (await next_of(bench.source)).position == later

    play(story)


def test_a_recorded_outcome_is_known_after_a_restart_and_the_event_still_waits(play):
    async def story(bench):
        position = await bench.append("1")
        assert await bench.source.recorded(ONE, [position]) == {}
        await bench.source.record(ONE, "first", {position: LATE})
        await bench.source.record(ONE, "second", {position: GOOD})
        await bench.restart()
        both = Recorded(LATE, "first"), Recorded(GOOD, "second")
        assert await bench.source.recorded(ONE, [position]) == {position: both}
        assert await bench.source.recorded(TWO, [position]) == {}
        assert {delivery.position for delivery in await bench.source.waiting(ONE)} & {position} == {
            position
        }
        assert (await next_of(bench.source)).position == position

    play(story)


def test_outcomes_of_a_withdrawn_commit_are_removed_and_settled_ones_stay(play):
    async def story(bench):
        lost, settled = await bench.append("1", (ONE, TWO)), await bench.append("2")
        await bench.source.record(ONE, "lost", {lost: GOOD, settled: GOOD})
        await bench.source.record(ONE, "unknown", {lost: LATE})
        await bench.source.record(TWO, "lost", {lost: GOOD})
        await bench.source.settle(ONE, {settled: GOOD})
        await bench.source.withdraw(ONE, "lost")
        expected = {lost: (Recorded(LATE, "unknown"),), settled: (Recorded(GOOD, None),)}
        assert await bench.source.recorded(ONE, [lost, settled]) == expected
        assert await bench.source.recorded(TWO, [lost]) == {lost: (Recorded(GOOD, "lost"),)}

    play(story)


def test_settling_is_idempotent_and_the_first_outcome_stays(play):
    async def story(bench):
        position = await bench.append("1", (ONE, TWO))
        await bench.source.settle(ONE, {position: GOOD})
        await bench.source.settle(ONE, {position: LATE})
        await bench.source.record(ONE, "write", {position: LATE})
        assert await bench.source.recorded(ONE, [position]) == {position: (Recorded(GOOD, None),)}

    play(story)


def test_a_failure_leaves_an_event_waiting(play):
    async def story(bench):
        position = await bench.append("1")
        await bench.source.note_failure(ONE, [position], "bucket is away")
        assert {delivery.position for delivery in await bench.source.waiting(ONE)} & {position} == {
            position
        }

    play(story)


def test_a_reinstated_source_delivers_waiting_events_under_a_new_instance(play):
    async def story(bench):
        done, waiting = await bench.append("1"), await bench.append("2")
        await bench.source.settle(ONE, {done: GOOD})
        await bench.source.record(ONE, "write", {waiting: GOOD})
        assert (await next_of(bench.source)).position == waiting
        before = bench.source.instance
        await bench.source.reinstate(100)
        again = await next_of(bench.source)
        assert again.event.id == "2"
        assert again.position.instance == bench.source.instance != before
        assert await bench.source.recorded(ONE, [again.position]) == {}
        # Positions of the old instance no longer count.
        assert {delivery.position for delivery in await bench.source.waiting(ONE)} & {
            waiting
        } == set()

    play(story)


def test_scopes_with_a_publication_are_known_after_a_restart(play):
    async def story(bench):
        one, two = await bench.append("1", (ONE, TWO)), await bench.append("2", ("other/edge",))
        await bench.source.settle(ONE, {one: GOOD})
        await bench.source.settle(TWO, {one: Outcome(OutcomeKind.IGNORED, "no such scope")})
        await bench.source.record("other/edge", "write", {two: GOOD})
        await bench.restart()
        assert await bench.source.published_scopes() == {ONE}

    play(story)
