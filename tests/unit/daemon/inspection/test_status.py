"""What needs attention."""

from datetime import datetime, timedelta

import pytest

from daemon.inspection.journal import BacklogView, JournalView, NoJournal, UnreadableJournal
from daemon.inspection.live_tree import BlockedView, DamagedManifestView, LiveTreeView
from daemon.inspection.scopes import PointerView, ScopeView
from daemon.inspection.status import BucketStatus, ScopeCondition, ScopeStatus
from daemon.publishing import protocol
from events.records import LaneBacklog
from tests.builders_publishing import AT, SCOPE, make_publication, published, writing

ONE, TWO = make_publication("state-1", 1), make_publication("state-2", 2)
POINTER = published(ONE, TWO)
NOW = datetime.fromisoformat("2026-01-01T01:00:00+00:00")
NO_JOURNAL = NoJournal()
RESUME = f"`rebundle resume {SCOPE}`"
NEXT_PASS = f"the next pass of a running daemon (within 5 minutes), or {RESUME} now,"
IS_RUNNING = "is the daemon running? `rebundle healthcheck` shows it"


def seconds_ago(seconds):
    return (NOW - timedelta(seconds=seconds)).isoformat()


def tree(**changed):
    view = {
        "synced": True,
        "follows": True,
        "ahead": False,
        "sequence": 2,
        "pending": (),
        "blocked": (),
        "damaged_manifests": (),
        "foreign": (),
        "overrides": (),
        "unread_overrides": (),
        "deleted_by_operator": (),
        "strays": (),
    }
    return LiveTreeView(**view | changed)


def lane(waiting=1, oldest=None, *, scope=SCOPE, failed_tries=0, error=None):
    return LaneBacklog(str(scope), waiting, oldest or seconds_ago(90), failed_tries, error)


def journal(*lanes, **changed):
    view = {"events": 1, "oldest": seconds_ago(90), "undispatched": 0, "dead_letters": 0}
    backlog = BacklogView(**view | {"rejected": 0, "lanes": lanes} | changed)
    return JournalView("journal.db", wrong_bucket=None, backlog=backlog)


def attention(pointer=POINTER, live_tree=None, source=NO_JOURNAL, *, error=None, tree_error=None):
    scope = ScopeView(PointerView.of(pointer), None, error, 0)
    condition = ScopeCondition(scope, live_tree, tree_error)
    return ScopeStatus.of(condition, None, source, NOW).attention


HELD = protocol.hold(POINTER, writing(9))
HELD_BACK = published(make_publication("state-3", 3), start=HELD)
REJECTED = make_publication("state-4", 4, composition=ONE.composition_digest)
QUARANTINED = published(REJECTED, start=protocol.quarantine(POINTER, writing(9), ONE))
HELD_BY = "held by ann since 2026-01-01T00:00:09.000Z: because"
LIFT = (
    f"lift that first with `rebundle quarantine {SCOPE} state-4 --lift --reason '…'`, or wait for "
    "a state with another composition"
)


@pytest.mark.parametrize(
    ("pointer", "condition"),
    [
        (HELD, f"{HELD_BY}; {RESUME} ends the hold"),
        (HELD_BACK, f"{HELD_BY}; state-3 is waiting: {RESUME} makes it live"),
        (
            protocol.hold(POINTER, writing(9, reason="")),
            f"held by ann since 2026-01-01T00:00:09.000Z: no reason given; {RESUME} ends the hold",
        ),
        (QUARANTINED, f"desired state state-4 is quarantined by ann: because; {LIFT}"),
        (
            protocol.hold(QUARANTINED, writing(10)),
            (
                "held by ann since 2026-01-01T00:00:10.000Z: because; state-4 is waiting, and is "
                f"quarantined: {LIFT}"
            ),
        ),
    ],
    ids=["held", "waiting", "no reason", "quarantined", "held and quarantined"],
)
def test_a_hold_or_a_quarantine_needs_attention(pointer, condition):
    assert attention(pointer) == (condition,)


@pytest.mark.parametrize(
    ("live_tree", "condition"),
    [
        (tree(synced=False), f"the live tree is behind (0 files): {NEXT_PASS} syncs it"),
        (
            tree(synced=False, pending=("a", "b")),
            f"the live tree is behind (2 files): {NEXT_PASS} syncs it",
        ),
        (
            tree(ahead=True, sequence=5),
            (
                "the live tree's marker names sequence 5, but the pointer is older: an older pointer "
                "was restored, or another writer wrote the marker. The live tree is not updated until "
                f"you run `rebundle recover {SCOPE} --reason '…'`"
            ),
        ),
        (
            tree(synced=False, blocked=(BlockedView("base/a", "because", None),)),
            "the live tree does not follow at base/a: because",
        ),
        (
            tree(synced=False, blocked=(BlockedView("base/a", "because", AT),) * 3),
            (
                f"the live tree did not follow at base/a (and 2 more paths) in the pass of {AT}: "
                f"because. Once that is repaired, {NEXT_PASS} clears this condition"
            ),
        ),
        (
            tree(damaged_manifests=(DamagedManifestView("s@1", "damaged", False),) * 2),
            "damaged",
        ),
        (
            tree(foreign=("a", "b", "c", "d")),
            f"edited by hand in base/: a, b, c; {NEXT_PASS} keeps a copy and replaces them",
        ),
        (
            tree(strays=("a", "b", "c", "d")),
            (
                "files in the live tree that Rebundle did not write, and that hosts copy: a, b, c; "
                "move them elsewhere"
            ),
        ),
    ],
    ids=[
        "behind",
        "pending",
        "ahead",
        "blocked",
        "blocked in a pass",
        "damaged",
        "edited",
        "strays",
    ],
)
def test_a_live_tree_that_differs_needs_attention(live_tree, condition):
    assert attention(live_tree=live_tree) == (condition,)


def test_a_blocked_tree_with_pending_paths_is_also_behind():
    blocked = tree(synced=False, pending=("a",), blocked=(BlockedView("b", "because", None),))

    assert len(attention(live_tree=blocked)) == 2
    assert attention(live_tree=tree()) == ()


def test_the_command_for_a_pass_now_depends_on_the_scope():
    behind = tree(synced=False)
    (_, of_held) = attention(HELD, behind)
    (_, of_quarantined) = attention(QUARANTINED, behind)

    rollback = f"`rebundle rollback {SCOPE} {TWO.id} --reason 'another pass'` now,"
    assert rollback in of_held
    assert "(within 5 minutes) syncs it" in of_quarantined


@pytest.mark.parametrize(
    ("found", "condition"),
    [
        (lane(), f"1 event has waited for 90s: {IS_RUNNING}"),
        (
            lane(error="damaged"),
            f"1 event waiting since {seconds_ago(90)}, 0 failed tries: damaged",
        ),
        (lane(3), f"3 events have waited for up to 90s: {IS_RUNNING}"),
        (
            lane(failed_tries=1, error="away"),
            f"1 event waiting since {seconds_ago(90)}, 1 failed try; the last one: away",
        ),
        (
            lane(2, failed_tries=2, error="away"),
            f"2 events waiting since {seconds_ago(90)}, 2 failed tries; the last one: away",
        ),
    ],
)
def test_events_that_wait_need_attention(found, condition):
    assert attention(source=journal(found, lane(scope="other/target"))) == (condition,)


@pytest.mark.parametrize(("seconds", "needed"), [(0, False), (60, False), (61, True)])
def test_a_minute_is_a_long_wait(seconds, needed):
    found = journal(lane(oldest=seconds_ago(seconds)))
    undispatched = journal(oldest=seconds_ago(seconds), undispatched=1)

    assert bool(attention(source=found)) is needed
    assert bool(BucketStatus("b", (), {}, undispatched).attention(NOW)) is needed


def test_an_error_that_the_scope_has_is_not_repeated_for_its_lane():
    failing = journal(lane(failed_tries=2, error="gs: away"))

    assert attention(source=failing, error="away") == (
        "away",
        f"1 event waiting since {seconds_ago(90)}, 2 failed tries",
    )
    assert attention(tree_error="away") == (
        "the live tree cannot be compared with the live state: away",
    )


def test_conditions_of_the_bucket_have_their_place():
    waiting = journal(lane(scope="other/target"), undispatched=2, dead_letters=3)
    status = BucketStatus("b", (), {"shut": "why"}, waiting)

    assert status.attention(NOW) == (
        ("shut/", "its scopes cannot be listed: why"),
        ("other/target", f"1 event has waited for 90s: {IS_RUNNING}"),
        ("journal", f"2 accepted events not assigned to a scope yet: {IS_RUNNING}"),
        ("journal", "3 dead letters: `rebundle dead-letters list`"),
    )
    unreadable = BucketStatus("b", (), {}, UnreadableJournal("j", "damaged"))
    assert unreadable.attention(NOW) == (("journal", "damaged"),)
