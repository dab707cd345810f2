"""Views of history entries."""

from daemon.inspection.history import HistoryView
from daemon.inspection.scopes import QuarantineView
from daemon.publishing import protocol
from tests.builders_publishing import make_publication, published, writing

ONE = make_publication("state-1")
STORED = {
    "composition_digest": ONE.composition_digest,
    "by": "ann",
    "reason": "because",
    "at": writing(9).at,
}
VIEW = QuarantineView(ONE.composition_digest, "ann", "because", writing(9).at)


def test_the_quarantines_of_a_change_are_shown_as_everywhere():
    entry = protocol.quarantine(
        published(ONE, make_publication("state-2", 2)), writing(9), ONE
    ).history[-1]
    recovered = entry.model_copy(update={"change": {"quarantined": [STORED], "dropped": 2}})
    neither = entry.model_copy(update={"change": {"quarantined": [], "dropped": 2}})

    assert HistoryView.of(entry).change["quarantine"] == VIEW
    assert HistoryView.of(recovered).change == {"quarantined": [VIEW], "dropped": 2}
    assert HistoryView.of(neither).change == neither.change
