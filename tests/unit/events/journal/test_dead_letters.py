"""Dead letters in the journal: replay, drop, and taking out a stuck event."""

import asyncio

import pytest

from events.errors import NotWaiting
from events.model import Outcome, OutcomeKind
from events.records import DeadLetterStatus
from events.source import Recorded, Replay
from tests.support.journals import next_of, waiting_in

BAD = Outcome(OutcomeKind.DEAD_LETTERED, "model m is new to the scope and needs artifact")
GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")


def test_a_dead_letter_is_visible_only_after_its_commit(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            await journal.record(scope, "write", {accepted.position: BAD})
            assert await journal.dead_letters() == ()
            await journal.settle(scope, {accepted.position: BAD})
            [letter] = await journal.dead_letters()
            assert (letter.position, letter.scope, letter.reason, letter.by) == (
                accepted.position,
                scope,
                BAD.reason,
                None,
            )
            assert letter.event == bench.arrival("1").event
            assert await journal.dead_letter(letter.id) == letter
            assert (await journal.backlog()).dead_letters == 1

    play(story())


def test_settling_twice_creates_one_dead_letter(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            for _ in range(2):
                await journal.settle(scope, {accepted.position: BAD})
            assert len(await journal.dead_letters(None)) == 1

    play(story())


def test_a_replay_gets_a_new_position_for_its_scope_alone_and_passes_the_identity_check(
    bench, play, scope
):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1", scopes=(scope, "other/edge"))])
            await journal.settle(scope, {accepted.position: BAD})
            [letter] = await journal.dead_letters()
            position = await journal.replay(letter.id, by="ann")
            assert position.offset > accepted.position.offset
            first, again = await next_of(journal), await next_of(journal)
            assert (first.position, first.replay_of) == (accepted.position, None)
            assert (again.position, again.scopes) == (position, (scope,))
            assert again.replay_of == Replay(accepted.position, scope)
            assert (again.event, again.identity, again.digest) == (
                first.event,
                first.identity,
                first.digest,
            )
            assert await journal.dead_letters() == ()
            with pytest.raises(NotWaiting, match=f"being replayed at position {position.offset}"):
                await journal.replay(letter.id, by="ann")
            # The original id is still recognised at its first position.
            [known] = await journal.append([bench.arrival("1")])
            assert known.position == accepted.position

    play(story())


def test_a_dead_letter_is_settled_when_its_replay_is(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            await journal.settle(scope, {accepted.position: BAD})
            [letter] = await journal.dead_letters()
            position = await journal.replay(letter.id, by="ann")
            assert (await journal.dead_letter(letter.id)).status is DeadLetterStatus.REPLAYING
            await journal.settle(scope, {position: GOOD})
            closed = await journal.dead_letter(letter.id)
            assert (closed.status, closed.replayed_as, closed.closed_by) == (
                DeadLetterStatus.REPLAYED,
                position,
                "ann",
            )
            with pytest.raises(NotWaiting, match="closed: replayed"):
                await journal.drop(letter.id, by="ann", reason="r")

    play(story())


def test_a_replay_that_fails_again_is_a_new_dead_letter(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            await journal.settle(scope, {accepted.position: BAD})
            position = await journal.replay("1", by="ann")
            await journal.settle(scope, {position: BAD})
            first, second = await journal.dead_letters(None)
            assert (first.status, second.status) == (
                DeadLetterStatus.REPLAYED,
                DeadLetterStatus.OPEN,
            )
            assert second.position == position
            assert [status.replay_of for status in await journal.find("1")] == [
                None,
                Replay(accepted.position, scope),
            ]

    play(story())


def test_a_dropped_dead_letter_is_closed_with_its_reason(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            await journal.settle(scope, {accepted.position: BAD})
            await journal.drop("1", by="ann", reason="sent anew")
            letter = await journal.dead_letter("1")
            assert (letter.status, letter.closed_by, letter.closed_reason) == (
                "dropped",
                "ann",
                "sent anew",
            )
            assert await journal.dead_letters(DeadLetterStatus.DROPPED) == (letter,)
            with pytest.raises(NotWaiting):
                await journal.replay("1", by="ann")

    play(story())


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("@" + "9" * 40, "no event @9+ waits"),
        ("journal:other@1", "the position journal:other@1 is of another journal"),
        ("kafka:c/t/0@1", "no event kafka:c/t/0@1 waits"),
    ],
)
def test_a_position_that_is_not_of_this_journal_takes_out_no_event(
    bench, play, scope, event, reason
):
    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival("1", scopes=(scope,))])
            with pytest.raises(NotWaiting, match=reason):
                await journal.take_out(event, None, reason="stuck", by="ann")

    play(story())


@pytest.mark.parametrize("letter_id", ["7", "x", "-1", "1" * 40, "²", ""])
def test_an_unknown_id_is_not_found(bench, play, letter_id):
    async def story():
        async with bench.journal() as journal:
            for call in (
                lambda: journal.dead_letter(letter_id),
                lambda: journal.replay(letter_id, by="a"),
                lambda: journal.drop(letter_id, by="a", reason="r"),
            ):
                with pytest.raises(NotWaiting, match=f"no dead letter {letter_id}"):
                    await call()

    play(story())


def test_a_stuck_event_is_taken_out_of_one_lane_and_stays_in_the_others(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1", scopes=(scope, "other/edge"))])
            [letter] = await journal.take_out(
                str(accepted.position), scope, reason="stuck", by="ann"
            )
            assert (letter.scope, letter.reason, letter.by) == (scope, "stuck", "ann")
            assert {delivery.position for delivery in await waiting_in(journal, scope)} & {
                accepted.position
            } == set()
            assert {delivery.position for delivery in await waiting_in(journal, "other/edge")} & {
                accepted.position
            } == {accepted.position}
            with pytest.raises(NotWaiting, match=f"does not wait in {scope}"):
                await journal.take_out("1", scope, reason="stuck", by="ann")
            [other] = await journal.take_out("1", None, reason="stuck", by="ann")
            assert other.scope == "other/edge"
            with pytest.raises(NotWaiting, match="no event 1 waits"):
                await journal.take_out("1", None, reason="stuck", by="ann")

    play(story())


def test_an_undispatched_event_is_taken_out_only_of_a_named_scope(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1", scopes=None)])
            with pytest.raises(NotWaiting, match="name its scope"):
                await journal.take_out("1", None, reason="stuck", by="ann")
            await journal.take_out("1", scope, reason="stuck", by="ann")
            await journal.assign({accepted.position: [scope, "other/edge"]})
            assert await waiting_in(journal, scope) == ()
            assert [delivery.position for delivery in await waiting_in(journal, "other/edge")] == [
                accepted.position
            ]

    play(story())


def test_an_id_that_several_events_have_must_be_named_by_position(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            one, two = await journal.append(
                [bench.arrival("1"), bench.arrival("1", source="urn:y")]
            )
            with pytest.raises(NotWaiting, match="name a position"):
                await journal.take_out("1", None, reason="stuck", by="ann")
            [letter] = await journal.take_out(
                f"@{two.position.offset}", None, reason="stuck", by="ann"
            )
            assert letter.position == two.position
            assert {delivery.position for delivery in await waiting_in(journal, scope)} & {
                one.position,
                two.position,
            } == {one.position}

    play(story())


def test_a_commit_that_wins_over_an_operator_closes_the_dead_letter(bench, play, scope):
    async def story():
        async with bench.journal() as journal:
            [accepted] = await journal.append([bench.arrival("1")])
            await journal.take_out("1", scope, reason="stuck", by="ann")
            await journal.settle(scope, {accepted.position: GOOD})
            [letter] = await journal.dead_letters(None)
            assert letter.status is DeadLetterStatus.OVERTAKEN
            assert await journal.recorded(scope, [accepted.position]) == {
                accepted.position: (Recorded(GOOD, None),)
            }

    play(story())


def test_the_daemon_notices_an_event_taken_out_by_a_command(bench, play, scope):
    async def story():
        async with bench.journal() as daemon, bench.journal(run=False) as operator:
            [accepted] = await daemon.append([bench.arrival("1")])
            await operator.take_out("1", None, reason="stuck", by="ann")
            assert {delivery.position for delivery in await waiting_in(daemon, scope)} & {
                accepted.position
            } == set()
            waiting = asyncio.ensure_future(next_of(daemon))
            position = await operator.replay("1", by="ann")
            assert (await waiting).position == position

    play(story())
