"""What every source of events promises (`events.source`), shown on each adapter.

A memory source stands beside the journal: it shows that the contract asks nothing of a database.
"""

import asyncio
import itertools
from datetime import UTC, datetime

import pytest

from events.journal import Arrival, Journal
from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.source import Delivery

ONE, TWO = "visual-anomaly/edge", "visual-anomaly/core"
GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")
LATE = Outcome(OutcomeKind.LATE, "behind 42", "state-0")


class MemorySource:
    """Keeps everything in lists; a restart is a new reader of the same lists."""

    def __init__(self):
        self.instance = "memory:1"
        self._rows = []
        self._scopes = {}
        self._kept = {}
        self._settled = {}
        self._cursor = 0
        self._wake = asyncio.Event()

    def restarted(self):
        self._cursor = 0
        return self

    def append(self, event_id, scopes):
        position = len(self._rows) + 1
        self._rows.append(event_id)
        self._settled[position] = {}
        if scopes is not None:
            self._scopes[position] = tuple(sorted(scopes))
        self._wake.set()
        return Position(self.instance, position)

    def _done(self, offset):
        return offset in self._scopes and all(scope in self._settled[offset] for scope in self._scopes[offset])

    async def next(self):
        while True:
            self._wake.clear()
            for offset in range(self._cursor + 1, len(self._rows) + 1):
                if not self._done(offset):
                    self._cursor = offset
                    return _delivery(self._rows[offset - 1], Position(self.instance, offset), self._scopes.get(offset))
            await self._wake.wait()

    async def assign(self, position, scopes):
        self._scopes.setdefault(position.offset, tuple(sorted(scopes)))

    async def waiting(self, scope, upto=None, most=1000):
        if upto is not None and upto.instance != self.instance:
            return ()
        last = upto.offset if upto else len(self._rows)
        offsets = [
            offset
            for offset in range(1, last + 1)
            if scope in self._scopes.get(offset, ()) and scope not in self._settled[offset]
        ]
        return [_delivery(self._rows[at - 1], Position(self.instance, at), (scope,)) for at in offsets[:most]]

    async def recorded(self, scope, positions):
        known = {(each, self._outcome(scope, each)) for each in positions if each.instance == self.instance}
        return {each: outcome for each, outcome in known if outcome is not None}

    def _outcome(self, scope, position):
        return self._settled[position.offset].get(scope) or self._kept.get((scope, position))

    async def record(self, scope, outcomes):
        self._kept.update({(scope, each): outcome for each, outcome in outcomes.items()})

    async def withdraw(self, scope, positions):
        for each in positions:
            self._kept.pop((scope, each), None)

    async def settle(self, scope, outcomes):
        for each, outcome in outcomes.items():
            self._settled[each.offset].setdefault(scope, outcome)

    async def note_failure(self, scope, positions, error):
        pass

    async def reinstate(self, recorded):
        self.instance = f"memory:{int(self.instance.removeprefix('memory:')) + 1}"
        self._kept.clear()
        self._cursor = 0
        self._wake.set()


def _event(event_id):
    return Event(event_id, "urn:x", "t", {})


def _delivery(event_id, position, scopes):
    identity = Identity("http", "urn:x", event_id)
    return Delivery(_event(event_id), identity, "d", position, "2026-11-22T10:00:00.000000Z", scopes)


class MemoryBench:
    def __init__(self):
        self.source = MemorySource()

    async def append(self, event_id, scopes=(ONE,)):
        return self.source.append(event_id, scopes)

    async def restart(self):
        self.source = self.source.restarted()

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


@pytest.fixture(params=["memory", "journal"])
def play(request, tmp_path):
    """Plays a story on a bench with this adapter; `bench.source` is the source, also after a restart."""

    def run(story):
        async def whole():
            bench = MemoryBench() if request.param == "memory" else JournalBench(tmp_path / "journal.db")
            await bench.restart()
            try:
                async with asyncio.timeout(20):
                    await story(bench)
            finally:
                await bench.close()

        asyncio.run(whole())

    return run


def test_deliveries_come_in_order_with_all_that_was_appended(play):
    async def story(bench):
        positions = [await bench.append("1"), await bench.append("2", None), await bench.append("3", (TWO, ONE))]
        deliveries = [await bench.source.next() for _ in range(3)]
        assert deliveries == [
            _delivery(str(number), position, scopes)
            for number, position, scopes in zip((1, 2, 3), positions, ((ONE,), None, (TWO, ONE)), strict=True)
        ]
        assert {position.instance for position in positions} == {bench.source.instance}
        assert sorted(position.offset for position in positions) == [position.offset for position in positions]

    play(story)


def test_one_delivery_is_given_once_and_the_next_is_waited_for(play):
    async def story(bench):
        await bench.append("1")
        assert (await bench.source.next()).event.id == "1"
        waiting = asyncio.ensure_future(bench.source.next())
        await bench.append("2")
        assert (await waiting).event.id == "2"

    play(story)


def test_what_has_not_settled_everywhere_is_delivered_again_after_a_restart(play):
    async def story(bench):
        half, done, untouched = [await bench.append(number, (ONE, TWO)) for number in "123"]
        await bench.source.settle(ONE, {half: GOOD, done: GOOD})
        await bench.source.settle(TWO, {done: LATE})
        await bench.restart()
        assert [(await bench.source.next()).position for _ in range(2)] == [half, untouched]
        assert {each.position for each in await bench.source.waiting(ONE)} & {half, done, untouched} == {untouched}
        assert {each.position for each in await bench.source.waiting(TWO)} & {half, done, untouched} == {
            half,
            untouched,
        }

    play(story)


def test_what_waits_in_a_scope_comes_in_order_up_to_a_position(play):
    async def story(bench):
        one, elsewhere, two, three = [
            await bench.append(number, scopes)
            for number, scopes in (("1", (ONE,)), ("2", (TWO,)), ("3", (ONE, TWO)), ("4", (ONE,)))
        ]
        assert [each.position for each in await bench.source.waiting(ONE)] == [one, two, three]
        assert [each.position for each in await bench.source.waiting(ONE, two)] == [one, two]
        assert [each.position for each in await bench.source.waiting(ONE, three, 1)] == [one]
        assert [each.scopes for each in await bench.source.waiting(TWO)] == [(TWO,), (TWO,)]
        assert list(await bench.source.waiting(ONE, Position("other:1", 99))) == []
        assert elsewhere not in [each.position for each in await bench.source.waiting(ONE)]

    play(story)


def test_where_an_event_goes_is_remembered_and_the_first_word_stays(play):
    async def story(bench):
        position = await bench.append("1", None)
        await bench.source.assign(position, [TWO, ONE])
        await bench.source.assign(position, ["other/edge"])
        await bench.restart()
        assert (await bench.source.next()).scopes == (TWO, ONE)
        assert {each.position for each in await bench.source.waiting("other/edge")} & {position} == set()

    play(story)


def test_an_event_that_goes_nowhere_is_not_delivered_again(play):
    async def story(bench):
        await bench.source.assign(await bench.append("1", None), [])
        later = await bench.append("2")
        assert (await bench.source.next()).position == later

    play(story)


def test_a_recorded_outcome_is_known_after_a_restart_and_the_event_still_waits(play):
    async def story(bench):
        position = await bench.append("1")
        assert await bench.source.recorded(ONE, [position]) == {}
        await bench.source.record(ONE, {position: LATE})
        await bench.source.record(ONE, {position: GOOD})
        await bench.restart()
        assert await bench.source.recorded(ONE, [position]) == {position: GOOD}
        assert await bench.source.recorded(TWO, [position]) == {}
        assert {each.position for each in await bench.source.waiting(ONE)} & {position} == {position}
        assert (await bench.source.next()).position == position

    play(story)


def test_a_withdrawn_outcome_is_forgotten_and_a_settled_one_stays(play):
    async def story(bench):
        lost, settled = await bench.append("1"), await bench.append("2")
        await bench.source.record(ONE, {lost: GOOD, settled: GOOD})
        await bench.source.settle(ONE, {settled: GOOD})
        await bench.source.withdraw(ONE, [lost, settled])
        assert await bench.source.recorded(ONE, [lost, settled]) == {settled: GOOD}

    play(story)


def test_settling_is_idempotent_and_the_first_outcome_stays(play):
    async def story(bench):
        position = await bench.append("1", (ONE, TWO))
        await bench.source.settle(ONE, {position: GOOD})
        await bench.source.settle(ONE, {position: LATE})
        await bench.source.record(ONE, {position: LATE})
        assert await bench.source.recorded(ONE, [position]) == {position: GOOD}

    play(story)


def test_a_failure_leaves_an_event_waiting(play):
    async def story(bench):
        position = await bench.append("1")
        await bench.source.note_failure(ONE, [position], "bucket is away")
        assert {each.position for each in await bench.source.waiting(ONE)} & {position} == {position}

    play(story)


def test_a_reinstated_source_delivers_what_waits_under_a_new_instance(play):
    async def story(bench):
        done, waiting = await bench.append("1"), await bench.append("2")
        await bench.source.settle(ONE, {done: GOOD})
        await bench.source.record(ONE, {waiting: GOOD})
        assert (await bench.source.next()).position == waiting
        before = bench.source.instance
        await bench.source.reinstate(100)
        again = await bench.source.next()
        assert again.event.id == "2"
        assert again.position.instance == bench.source.instance != before
        assert await bench.source.recorded(ONE, [again.position]) == {}
        # Positions of the old instance say nothing any more.
        assert {each.position for each in await bench.source.waiting(ONE)} & {waiting} == set()

    play(story)
