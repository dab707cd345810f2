"""What a history entry records about its change.

Recovery replays it if the pointer is lost (protocol 4).
"""

from typing import Any

import pytest

from daemon.publishing import protocol
from daemon.publishing.errors import OperationRefused
from daemon.publishing.pointer import Hold, Pointer, Publication, Quarantine
from tests.builders_publishing import SCOPE, make_publication, published, writing

ONE, TWO = make_publication("state-1", 1), make_publication("state-2", 2)
HELD = {"by": "ann", "reason": "because", "at": writing(9).at}
"""A hold, as set by writing number 9."""
REJECTED = {"composition_digest": TWO.composition_digest} | HELD


def changed(pointer: Pointer | None) -> dict[str, Any]:
    """The change that the newest entry records."""
    assert pointer is not None
    return pointer.history[-1].change


def retained(pointer: Pointer, publication: Publication) -> Publication:
    """The publication as the pointer has it."""
    return next(item for item in pointer.retained if item.id == publication.id)


def rejected(pointer: Pointer, target: Publication = TWO) -> Pointer:
    following = protocol.quarantine(pointer, writing(9), target)
    assert following is not None
    return following


def test_the_absent_pointer_belongs_to_its_scope_and_to_no_write() -> None:
    pointer = protocol.absent(SCOPE)

    assert (pointer.scope, pointer.sequence, pointer.write_id) == (str(SCOPE), 0, "")


@pytest.mark.parametrize(("discard_newer", "hold"), [(False, HELD), (True, None)])
def test_a_rollback_records_its_hold_and_whether_newer_states_were_discarded(
    discard_newer: bool, hold: dict[str, Any] | None
) -> None:
    following = protocol.rollback(published(ONE, TWO), writing(9), ONE, discard_newer=discard_newer)

    assert changed(following) == {"hold": hold, "discard_newer": discard_newer}


def test_a_hold_and_its_end_are_recorded() -> None:
    held = protocol.hold(published(ONE), writing(9))

    assert changed(held) == {"hold": HELD}
    assert changed(protocol.resume(held, writing(10))) == {"hold": None}


def test_a_quarantine_and_its_end_are_recorded() -> None:
    pointer = rejected(published(TWO, ONE))

    assert changed(pointer) == {"quarantine": REJECTED}
    assert changed(protocol.lift_quarantine(pointer, writing(10), TWO.composition_digest)) == {
        "lifted": TWO.composition_digest
    }


def test_a_quarantine_of_the_live_state_records_the_hold_as_well() -> None:
    following = protocol.quarantine(published(ONE, TWO), writing(9), TWO, rollback_to=ONE)

    assert changed(following) == {"quarantine": REJECTED, "hold": HELD}


def test_a_pin_and_its_end_are_recorded() -> None:
    pinned = protocol.pin(published(ONE), writing(9), ONE, pinned=True)
    assert changed(pinned) == {"pin": {"publication": str(ONE.id), "pinned": True}}
    assert pinned is not None

    unpinned = protocol.pin(pinned, writing(10), retained(pinned, ONE), pinned=False)
    assert changed(unpinned) == {"pin": {"publication": str(ONE.id), "pinned": False}}


def test_a_retirement_ends_the_hold() -> None:
    following = protocol.retire(protocol.hold(published(ONE), writing(9)), writing(10))

    assert changed(following) == {"hold": None}
    assert following is not None
    assert following.hold is None


@pytest.mark.parametrize("as_of", [None, "2026-01-02T00:00:00.000Z"])
def test_a_collection_records_what_it_released_and_the_time_of_the_store(as_of: str | None) -> None:
    following = protocol.collect(published(ONE, TWO), writing(9), {ONE.id}, as_of=as_of)

    recorded = {"released": [str(ONE.id)], "used": {ONE.state: [1, ONE.composition_digest]}}
    assert changed(following) == (recorded | {"as_of": as_of} if as_of else recorded)


def test_a_recovery_records_every_decision_of_operators() -> None:
    pinned = ONE.model_copy(update={"pinned": True})
    remains = published(ONE, TWO).model_copy(
        update={
            "quarantined": (Quarantine.model_validate(REJECTED),),
            "gc_epoch": 4,
            "sequence": 200,
        }
    )
    hold = Hold.model_validate(HELD)

    following = protocol.recover(
        remains, writing(9), pinned, TWO, retained=[pinned, TWO], hold=hold, published=[TWO]
    )

    assert changed(following) == {"hold": HELD, "quarantined": [REJECTED], "pinned": [str(ONE.id)]}
    assert (following.kind, following.sequence, following.gc_epoch, following.hold) == (
        "recover",
        201,
        5,
        hold,
    )
    assert following.history[-1].published == (str(TWO.id),)
    assert following.live is not None
    assert following.desired is not None
    assert (following.live.id, following.desired.id) == (ONE.id, TWO.id)
    assert [publication.id for publication in following.retained] == [ONE.id, TWO.id]


def test_a_rollback_to_what_is_live_and_held_changes_nothing() -> None:
    held = protocol.hold(published(ONE, TWO), writing(3))

    assert protocol.rollback(held, writing(4), TWO) is None
    assert protocol.rollback(held, writing(4), ONE) is not None
    assert protocol.rollback(published(ONE, TWO), writing(4), TWO) is not None, "it has no hold yet"


def test_a_rollback_that_discards_newer_without_newer_states_or_a_hold_changes_nothing() -> None:
    pointer = published(ONE, TWO)

    assert protocol.rollback(pointer, writing(4), TWO, discard_newer=True) is None
    assert protocol.rollback(pointer, writing(4), ONE, discard_newer=True) is not None
    held = protocol.hold(pointer, writing(3))
    assert protocol.rollback(held, writing(4), TWO, discard_newer=True) is not None, (
        "it ends the hold"
    )
    behind = published(TWO, start=protocol.hold(published(ONE), writing(2)))
    resumed = behind.model_copy(update={"hold": None})
    assert protocol.rollback(resumed, writing(4), ONE, discard_newer=True) is not None, (
        "desired is newer"
    )


def test_a_scope_with_a_desired_state_only_can_be_retired() -> None:
    withheld = published(ONE).model_copy(update={"live": None})

    following = protocol.retire(withheld, writing(9))

    assert following is not None
    assert following.desired is None


def test_resume_to_a_quarantined_desired_state_is_refused_with_a_remedy() -> None:
    pointer = published(ONE, TWO)
    back = protocol.quarantine(pointer, writing(9), TWO, rollback_to=ONE)
    assert back is not None

    with pytest.raises(OperationRefused, match=r"state-2 is quarantined: .*another composition"):
        protocol.resume(back, writing(10))


def test_malformed_records_of_used_ids_are_skipped() -> None:
    (entry,) = published(ONE).history
    used = {"state-1": [1, "c1"], "state-2": ["2", "c2"], "state-3": None, "state-4": [4, "c4"]}

    found = list(protocol.used_up([entry.model_copy(update={"change": {"used": used}})]))

    assert found == [("state-1", 1, "c1"), ("state-4", 4, "c4")]


def test_a_recovery_that_cuts_off_a_history_keeps_the_ids_its_entries_used() -> None:
    dropped = {"used": {"state-0": [0, ONE.composition_digest]}}
    cut_off = [entry.model_copy(update={"change": dropped}) for entry in published(ONE).history]

    following = protocol.recover(
        published(ONE), writing(9), ONE, ONE, retained=[ONE], hold=None, cut_off=cut_off
    )

    assert changed(following)["used"] == {"state-0": [0, ONE.composition_digest]}
