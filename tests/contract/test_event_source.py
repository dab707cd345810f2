"""The contract of event sources (`events.source`), in two parts: every source, and a source with
durable memory.

It runs on the journal and on the logs of the simulation, because results of simulated worlds rely
on it. One of these logs remembers as little as Kafka: acknowledged events and dead letters.
"""

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime

import pytest

from events.journal import Journal
from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.records import Arrival
from events.source import Delivery, Recorded
from tests.simulation.source import Log
from tests.support.journals import next_of, waiting_in

ONE, TWO = "visual-anomaly/edge", "visual-anomaly/core"
GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")
DEAD = Outcome(OutcomeKind.DEAD_LETTERED, "no such model")
ACCEPTED = "2026-11-22T10:00:00.000000Z"
LATE = Outcome(OutcomeKind.LATE, "behind 42", "state-0")


def _event(event_id):
    return Event(event_id, "urn:x", "t", {})


def _delivery(event_id, position, scopes):
    identity = Identity("http", "urn:x", event_id)
    return Delivery(_event(event_id), identity, "d", position, ACCEPTED, scopes)


class LogBench:
    def __init__(self, *instances, durable):
        self.log = Log(*instances, durable=durable)

    async def append(self, event_id, scopes=(ONE,), instance=None):
        identity = Identity("http", "urn:x", event_id)
        return self.log.append(_event(event_id), identity, "d", ACCEPTED, scopes, instance)

    async def restart(self):
        self.source = self.log.open()

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


BENCHES = {
    "journal": lambda path: JournalBench(path / "journal.db"),
    "log": lambda _path: LogBench("log:0", durable=True),
    "partitions": lambda _path: LogBench("log:0", "log:1", "log:2", durable=True),
    "forgetful": lambda _path: LogBench("log:0", "log:1", "log:2", durable=False),
}
EVERY = pytest.mark.parametrize("adapter", list(BENCHES))
DURABLE = pytest.mark.parametrize("adapter", ["journal", "log", "partitions"])
SEVERAL = pytest.mark.parametrize("adapter", ["partitions", "forgetful"])


@pytest.fixture
def play(tmp_path, adapter):
    """Runs a scenario on a bench with this adapter.

    `bench.source` is the source, also after a restart.
    """

    def run(story):
        async def whole():
            bench = BENCHES[adapter](tmp_path)
            await bench.restart()
            try:
                async with asyncio.timeout(20):
                    await story(bench)
            finally:
                await bench.close()

        asyncio.run(whole())

    return run


async def positions_in(bench, scope):
    """What waits in a scope when everything available was taken."""
    return [delivery.position for delivery in await waiting_in(bench.source, scope)]


async def take(bench, count):
    return [await next_of(bench.source) for _ in range(count)]


# -- every source


@EVERY
def test_deliveries_come_in_order_and_complete(play):
    async def story(bench):
        positions = [
            await bench.append("1"),
            await bench.append("2", None),
            await bench.append("3", (TWO, ONE)),
        ]
        assert await take(bench, 3) == [
            _delivery(str(number), position, scopes)
            for number, position, scopes in zip(
                (1, 2, 3), positions, ((ONE,), None, (TWO, ONE)), strict=True
            )
        ]
        assert len({position.instance for position in positions}) == 1
        assert sorted(position.offset for position in positions) == [
            position.offset for position in positions
        ]

    play(story)


@EVERY
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


@EVERY
def test_a_delivery_comes_once_and_the_next_call_waits(play):
    async def story(bench):
        await bench.append("1")
        assert (await next_of(bench.source)).event.id == "1"
        waiting = asyncio.ensure_future(next_of(bench.source))
        await bench.append("2")
        assert (await waiting).event.id == "2"

    play(story)


@EVERY
def test_an_event_waits_once_it_was_taken(play):
    async def story(bench):
        one = await bench.append("1")
        assert list(await bench.source.waiting(ONE, 10)) == []
        await take(bench, 1)
        assert [item.position for item in await bench.source.waiting(ONE, 10)] == [one]

    play(story)


@EVERY
def test_an_event_does_not_wait_before_an_earlier_one_has_scopes(play):
    async def story(bench):
        before, unnamed, named = [
            await bench.append("1"),
            await bench.append("2", None),
            await bench.append("3"),
        ]
        await take(bench, 3)
        assert [item.position for item in await bench.source.waiting(ONE, 10)] == [before]
        await bench.source.assign({unnamed: [TWO]})
        assert [item.position for item in await bench.source.waiting(ONE, 10)] == [before, named]
        assert [item.position for item in await bench.source.waiting(TWO, 10)] == [unnamed]

    play(story)


@EVERY
def test_the_waiting_events_of_a_scope_come_in_order_up_to_a_limit(play):
    async def story(bench):
        one, elsewhere, two, three = [
            await bench.append(number, scopes)
            for number, scopes in (("1", (ONE,)), ("2", (TWO,)), ("3", (ONE, TWO)), ("4", (ONE,)))
        ]
        await take(bench, 4)
        source = bench.source
        assert [item.position for item in await source.waiting(ONE, 10)] == [one, two, three]
        assert [item.position for item in await source.waiting(ONE, 2)] == [one, two]
        assert [item.position for item in await source.waiting(TWO, 10)] == [elsewhere, two]
        assert [item.scopes for item in await source.waiting(TWO, 10)] == [(TWO,), (TWO,)]

    play(story)


@EVERY
def test_the_scopes_of_several_events_are_assigned_in_one_call_and_the_first_ones_stay(play):
    async def story(bench):
        one, two = await bench.append("1", None), await bench.append("2", None)
        await take(bench, 2)
        await bench.source.assign({one: [ONE], two: [TWO, ONE], Position("other:1", 1): [TWO]})
        await bench.source.assign({one: ["other/edge"]})
        assert await positions_in(bench, ONE) == [one, two]
        assert await positions_in(bench, TWO) == [two]
        assert await positions_in(bench, "other/edge") == []

    play(story)


@EVERY
def test_events_that_are_not_acknowledged_come_again_after_a_restart(play):
    async def story(bench):
        done, half, untouched = [await bench.append(number, (ONE, TWO)) for number in "123"]
        await take(bench, 3)
        await bench.source.settle(ONE, {half: GOOD, done: GOOD})
        await bench.source.settle(TWO, {done: LATE})
        await bench.restart()
        assert [delivery.position for delivery in await take(bench, 2)] == [half, untouched]
        assert await positions_in(bench, TWO) == [half, untouched]
        assert untouched in await positions_in(bench, ONE)

    play(story)


@EVERY
def test_an_event_without_a_scope_is_not_delivered_again(play):
    async def story(bench):
        nowhere = await bench.append("1", None)
        await take(bench, 1)
        await bench.source.assign({nowhere: []})
        later = await bench.append("2")
        await bench.restart()
        assert (await next_of(bench.source)).position == later

    play(story)


@EVERY
def test_the_recorded_outcomes_of_an_event_are_those_of_the_writes_that_were_not_lost(play):
    async def story(bench):
        lost, settled = await bench.append("1", (ONE, TWO)), await bench.append("2")
        await take(bench, 2)
        assert await bench.source.recorded(ONE, [lost]) == {}
        await bench.source.record(ONE, "lost", {lost: GOOD, settled: GOOD})
        await bench.source.record(ONE, "unknown", {lost: LATE})
        await bench.source.record(ONE, "newer", {lost: DEAD})
        await bench.source.record(TWO, "lost", {lost: GOOD})
        await bench.source.settle(ONE, {settled: GOOD})
        await bench.source.withdraw(ONE, "lost")
        both = Recorded(LATE, "unknown"), Recorded(DEAD, "newer")
        expected = {lost: both, settled: (Recorded(GOOD, None),)}
        recorded = await bench.source.recorded(ONE, [lost, settled])
        assert {at: set(items) for at, items in recorded.items()} == {
            at: set(items) for at, items in expected.items()
        }
        assert await bench.source.recorded(TWO, [lost]) == {lost: (Recorded(GOOD, "lost"),)}

    play(story)


@EVERY
def test_a_recorded_dead_letter_is_known_after_a_restart(play):
    async def story(bench):
        position = await bench.append("1")
        await take(bench, 1)
        await bench.source.record(ONE, "write", {position: DEAD})
        await bench.source.record(ONE, "lost", {position: DEAD})
        await bench.source.withdraw(ONE, "lost")
        await bench.restart()
        await take(bench, 1)
        expected = {position: (Recorded(DEAD, "write"),)}
        assert await bench.source.recorded(ONE, [position]) == expected

    play(story)


@EVERY
def test_settling_is_idempotent_and_the_first_outcome_stays(play):
    async def story(bench):
        position = await bench.append("1", (ONE, TWO))
        await take(bench, 1)
        await bench.source.settle(ONE, {position: GOOD})
        await bench.source.settle(ONE, {position: LATE})
        await bench.source.record(ONE, "write", {position: LATE})
        assert await bench.source.recorded(ONE, [position]) == {position: (Recorded(GOOD, None),)}
        assert await positions_in(bench, ONE) == []
        assert await positions_in(bench, TWO) == [position]
        assert await bench.source.published_scopes() == {ONE}

    play(story)


@EVERY
def test_positions_that_the_source_does_not_know_are_skipped(play):
    async def story(bench):
        known = await bench.append("1")
        await take(bench, 1)
        for unknown in (Position(known.instance, 99), Position("other:1", known.offset)):
            await bench.source.record(ONE, "write", {unknown: GOOD})
            await bench.source.settle(ONE, {unknown: GOOD})
            await bench.source.note_failure(ONE, [unknown], "bucket is away")
            await bench.source.assign({unknown: [TWO]})
            assert await bench.source.recorded(ONE, [unknown]) == {}
        assert await positions_in(bench, ONE) == [known]
        assert await positions_in(bench, TWO) == []

    play(story)


@EVERY
def test_a_failure_leaves_an_event_waiting(play):
    async def story(bench):
        position = await bench.append("1")
        await take(bench, 1)
        await bench.source.note_failure(ONE, [position], "bucket is away")
        assert await positions_in(bench, ONE) == [position]

    play(story)


@EVERY
def test_a_pointer_that_is_not_ahead_changes_nothing(play):
    async def story(bench):
        one, two = await bench.append("1"), await bench.append("2")
        await bench.restart()
        await take(bench, 2)
        for positions in ({}, {one.instance: one.offset}, {two.instance: 2, "other:1": 99}):
            assert await bench.source.compare(ONE, positions, contextlib.nullcontext) is None
        assert await positions_in(bench, ONE) == [one, two]

    play(story)


@EVERY
def test_no_event_is_delivered_at_a_position_that_another_source_has_used(play):
    async def story(bench):
        first = await bench.append("1")
        await take(bench, 1)
        passed = {first.instance: 3}
        difference = await bench.source.compare(ONE, passed, contextlib.nullcontext)
        assert difference is not None
        assert ONE in difference
        for number in range(2, 6):
            await bench.append(str(number))
        waiting = await waiting_in(bench.source, ONE)
        assert [
            item
            for item in waiting
            if item.position.offset <= passed.get(item.position.instance, 0)
        ] == []

    play(story)


@SEVERAL
def test_the_events_of_each_instance_come_in_order(play):
    async def story(bench):
        sent = {
            instance: [
                await bench.append(f"{instance}-{number}", (ONE,), instance) for number in range(4)
            ]
            for instance in ("log:0", "log:1", "log:2")
        }
        taken = [delivery.position for delivery in (await bench.source.take(100)).deliveries]
        assert await positions_in(bench, ONE) == taken
        for instance, positions in sent.items():
            assert [item for item in taken if item.instance == instance] == positions
        await bench.source.settle(ONE, dict.fromkeys(sent["log:1"], GOOD))
        await bench.restart()
        again = {delivery.position for delivery in (await bench.source.take(100)).deliveries}
        assert again == {*sent["log:0"], *sent["log:2"]}

    play(story)


@SEVERAL
def test_a_comparison_stops_only_the_instance_that_is_behind(play):
    async def story(bench):
        behind = await bench.append("1", (ONE,), "log:0")
        other = await bench.append("2", (ONE,), "log:1")
        await bench.source.take(10)
        assert await bench.source.compare(ONE, {"log:0": 9}, contextlib.nullcontext) is not None
        assert behind not in await positions_in(bench, ONE)
        assert other in await positions_in(bench, ONE)

    play(story)


@SEVERAL
def test_the_scopes_of_a_revoked_event_are_not_assigned(play):
    async def story(bench):
        position = await bench.append("1", None, "log:1")
        await take(bench, 1)
        bench.source.revoke("log:1")
        await bench.source.assign({position: [TWO]})
        bench.source.give("log:1")
        assert (await next_of(bench.source)).scopes is None

    play(story)


@SEVERAL
def test_a_revoked_instance_waits_with_its_new_reader_only(play):
    async def story(bench):
        stays = await bench.append("1", (ONE,), "log:0")
        moves = await bench.append("2", (ONE,), "log:1")
        await bench.source.take(10)
        old, bench.source = bench.source, bench.log.open(instances=["log:1"])
        old.revoke("log:1")
        assert [item.position for item in await old.waiting(ONE, 10)] == [stays]
        assert await positions_in(bench, ONE) == [moves]
        # The write of the old reader may still take effect.
        await old.record(ONE, "write", {moves: DEAD})
        expected = {moves: (Recorded(DEAD, "write"),)}
        assert await bench.source.recorded(ONE, [moves]) == expected
        await bench.source.settle(ONE, {moves: GOOD})
        old.give("log:1")
        assert [item.position for item in await waiting_in(old, ONE)] == [stays]

    play(story)


# -- a source with durable memory


@DURABLE
def test_an_event_does_not_come_again_in_a_scope_where_it_is_settled(play):
    async def story(bench):
        half, done, untouched = [await bench.append(number, (ONE, TWO)) for number in "123"]
        await take(bench, 3)
        await bench.source.settle(ONE, {half: GOOD, done: GOOD})
        await bench.source.settle(TWO, {done: LATE})
        await bench.restart()
        assert [delivery.position for delivery in await take(bench, 2)] == [half, untouched]
        assert await positions_in(bench, ONE) == [untouched]
        assert await positions_in(bench, TWO) == [half, untouched]

    play(story)


@DURABLE
def test_the_scopes_of_an_event_are_remembered_and_the_first_assignment_stays(play):
    async def story(bench):
        position = await bench.append("1", None)
        await take(bench, 1)
        await bench.source.assign({position: [TWO, ONE]})
        await bench.restart()
        assert (await next_of(bench.source)).scopes == (TWO, ONE)
        await bench.source.assign({position: ["other/edge"]})
        assert await positions_in(bench, "other/edge") == []

    play(story)


@DURABLE
def test_a_recorded_outcome_is_known_after_a_restart_and_the_event_still_waits(play):
    async def story(bench):
        position = await bench.append("1")
        await take(bench, 1)
        await bench.source.record(ONE, "first", {position: LATE})
        await bench.source.record(ONE, "second", {position: GOOD})
        await bench.restart()
        await take(bench, 1)
        both = Recorded(LATE, "first"), Recorded(GOOD, "second")
        assert await bench.source.recorded(ONE, [position]) == {position: both}
        assert await bench.source.recorded(TWO, [position]) == {}
        assert await positions_in(bench, ONE) == [position]

    play(story)


@DURABLE
def test_scopes_with_a_publication_are_known_after_a_restart(play):
    async def story(bench):
        one, two = await bench.append("1", (ONE, TWO)), await bench.append("2", ("other/edge",))
        await take(bench, 2)
        await bench.source.settle(ONE, {one: GOOD})
        await bench.source.settle(TWO, {one: Outcome(OutcomeKind.IGNORED, "no such scope")})
        await bench.source.record("other/edge", "write", {two: GOOD})
        await bench.restart()
        assert await bench.source.published_scopes() == {ONE}

    play(story)


@pytest.mark.parametrize("adapter", ["journal"])
@pytest.mark.parametrize("unaccounted", [False, True])
def test_a_restored_or_copied_source_delivers_waiting_events_under_a_new_instance(
    play, unaccounted
):
    async def story(bench):
        done, waiting = await bench.append("1"), await bench.append("2")
        await take(bench, 2)
        await bench.source.settle(ONE, {done: GOOD})
        await bench.source.record(ONE, "write", {waiting: GOOD})
        paused = []

        @contextlib.asynccontextmanager
        async def pause():
            paused.append(await positions_in(bench, ONE))
            yield
            paused.append(await positions_in(bench, ONE))

        passed = {waiting.instance: waiting.offset if unaccounted else 100}
        assert await bench.source.compare(ONE, passed, pause, unaccounted=unaccounted) is not None
        again = await bench.source.waiting(ONE, 10)
        assert [delivery.event.id for delivery in again] == ["2"]
        [position] = [delivery.position for delivery in again]
        assert position.instance != waiting.instance
        assert paused == [[waiting], [position]]
        assert await bench.source.recorded(ONE, [position]) == {}
        # Another scope that has compared the old instance does not renew it once more.
        unchanged = await bench.source.compare(TWO, passed, pause, unaccounted=unaccounted)
        assert unchanged is None
        assert await positions_in(bench, ONE) == [position]

    play(story)
