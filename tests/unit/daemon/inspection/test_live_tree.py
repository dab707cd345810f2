"""Views of a live tree."""

import pytest

from daemon.inspection.live_tree import (
    BlockedView,
    LiveTreeView,
    PassView,
    UnfinishedPassView,
    pass_view,
)
from daemon.publishing.live_tree.ownership import Blocked, Put, Remove
from daemon.publishing.live_tree.results import FinishedPass, PathReport, Survey, UnfinishedPass
from daemon.publishing.pointer import PublicationId
from daemon.publishing.reader import DamagedManifest
from daemon.stores.port import Version
from tests.builders_publishing import AT

EDITED = Put("base/a", Version("1"), keep_aside=True)
BLOCKED = Blocked("base/b", "because", AT)


def test_a_pass_that_did_not_finish_follows_nothing():
    assert pass_view(UnfinishedPass(4, "because")) == UnfinishedPassView(
        synced=False, follows=False, sequence=4, reason="because"
    )


def test_a_finished_pass_is_shown_with_its_paths():
    assert pass_view(FinishedPass(4, (EDITED, BLOCKED))) == PassView(
        synced=False,
        follows=False,
        sequence=4,
        reason="base/b is blocked: because",
        blocked=(BlockedView("base/b", "because", AT),),
        written=("base/a",),
        kept_aside=("base/a",),
        overrides=(),
        deleted_by_operator=(),
        strays=(),
    )
    assert pass_view(FinishedPass(4)).synced is True


@pytest.mark.parametrize("unreadable", [True, False])
def test_a_survey_names_the_manifests_that_cannot_be_used(unreadable):
    damaged = DamagedManifest(PublicationId.parse("state-1@1"), "because", unreadable)

    view = LiveTreeView.of(
        Survey(None, PathReport(4, (EDITED, Remove("base/c", Version("1"))), (damaged,)))
    )

    (shown,) = view.damaged_manifests
    assert (shown.publication, shown.reason, shown.unreadable) == (
        "state-1@1",
        "because",
        unreadable,
    )
    assert (view.pending, view.foreign, view.sequence) == (("base/a", "base/c"), ("base/a",), None)
