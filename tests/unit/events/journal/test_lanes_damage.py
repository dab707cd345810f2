"""An event with a damaged row delays no other event."""

import contextlib
import sqlite3

import pytest

from events.errors import NotWaiting
from events.model import Outcome, OutcomeKind
from tests.support.journals import next_of, waiting_in

OTHER = "texture/edge"
NOT_TEXT = (
    b'{"specversion":"1.0","datacontenttype":"application/json","id":"1","source":"urn:x","type":[],'
    b'"data":{}}'
)


def damage(path, column, value, event_id):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE events SET {column} = ? WHERE id = ?", (value, event_id))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("body", b"{"),
        ("body", b"[]"),
        ("body", b'{"specversion": "1.0"}'),
        ("body", NOT_TEXT),
        ("digest", b"\xff"),
        ("source", b"\xff"),
    ],
)
def test_a_damaged_event_is_reported_in_its_lane_and_the_others_are_delivered(
    bench, play, scope, column, value
):
    async def story():
        async with bench.journal() as journal:
            await journal.append(
                [bench.arrival("1", scopes=(scope, OTHER)), bench.arrival("2"), bench.arrival("3")]
            )
            damage(bench.path, column, value, "1")
            assert [(await next_of(journal)).identity.id for _ in range(2)] == ["2", "3"]
            waiting = await waiting_in(journal, scope)
            assert [delivery.identity.id for delivery in waiting] == ["2", "3"]
            done = Outcome(OutcomeKind.PUBLISHED, "published as s", "s")
            await journal.settle(scope, {delivery.position: done for delivery in waiting})
            lanes = {lane.scope: lane for lane in (await journal.backlog()).lanes}
            assert {name: lane.waiting for name, lane in lanes.items()} == {scope: 1, OTHER: 1}
            for lane in lanes.values():
                assert "`rebundle dead-letters add 1 --reason" in lane.error

            assert len(await journal.take_out("1", None, reason="damaged", by="ann")) == 2
            assert (await journal.backlog()).events == 0
            letter = (await journal.dead_letters())[0]
            if column == "body":
                assert letter.event is None
                with pytest.raises(NotWaiting, match="send it again"):
                    await journal.replay(letter.id, by="ann")

    play(story())


def test_damaged_events_do_not_shrink_a_batch(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival(str(number)) for number in range(6)])
            for number in range(3):
                damage(bench.path, "body", b"{", str(number))
            assert [
                delivery.identity.id for delivery in await waiting_in(journal, scope, limit=2)
            ] == [
                "3",
                "4",
            ]

    play(story())


def test_large_damaged_events_hide_no_event_behind_them(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival(str(number)) for number in range(6)])
            for number in range(5):
                damage(bench.path, "body", b"{", str(number))
                damage(bench.path, "size", 1 << 20, str(number))
            assert (await next_of(journal)).identity.id == "5"

    play(story())
