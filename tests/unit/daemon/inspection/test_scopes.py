"""Why a state is not live."""

import pytest

from daemon.inspection.scopes import PointerView, publication_status
from daemon.publishing import protocol
from tests.builders_publishing import SCOPE, make_publication, published, writing

ONE, TWO, THREE = (make_publication(f"state-{number}", number) for number in (1, 2, 3))
LATE = make_publication("state-0", 1, late=True)
AGAIN = make_publication("state-2", 2, attempt="another")
HELD = published(THREE, start=protocol.hold(published(ONE, TWO), writing(9)))
QUARANTINED = protocol.quarantine(published(ONE, TWO), writing(9), ONE)
OTHER_ID = make_publication("state-4", 4, composition=ONE.composition_digest)
REJECTED = published(OTHER_ID, start=QUARANTINED)
LIFTED = protocol.lift_quarantine(REJECTED, writing(10), ONE.composition_digest)


@pytest.mark.parametrize(
    ("pointer", "publication", "status", "reason"),
    [
        (published(ONE, TWO), TWO, "live", ""),
        (published(ONE, TWO), ONE, "superseded", "since 2026-01-01T00:00:02.000Z"),
        (published(ONE, TWO, AGAIN), TWO, "superseded", "published again by a newer attempt"),
        (published(ONE, TWO, LATE), LATE, "late", "arrived after a state with a higher revision"),
        (HELD, THREE, "held", "by ann: because"),
        (QUARANTINED, ONE, "quarantined", "by ann: because"),
        (REJECTED, OTHER_ID, "quarantined", "by ann: because"),
        (
            LIFTED,
            OTHER_ID,
            "waiting for resume",
            f"its quarantine was lifted: `rebundle resume {SCOPE}` makes it live",
        ),
    ],
)
def test_every_reason_not_to_be_live_has_a_status(pointer, publication, status, reason):
    (retained,) = (entry for entry in pointer.retained if entry.id == publication.id)

    assert publication_status(pointer, retained) == (status, reason)


def test_only_a_quarantine_of_the_desired_composition_keeps_it_from_becoming_live():
    assert PointerView.of(QUARANTINED).desired_quarantine is None
    rejected = PointerView.of(REJECTED).desired_quarantine
    assert rejected is not None
    assert rejected.composition == OTHER_ID.composition_digest
    assert PointerView.of(LIFTED).desired_quarantine is None
