"""Retention: what is kept, released and deleted, one test per rule, and properties of any pointer."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing import layout, protocol
from daemon.publishing.maintenance import retention_rules
from daemon.publishing.maintenance.retention_rules import (
    Deletable,
    Folder,
    Kept,
    NotYetDeletable,
    Released,
    RetentionPolicy,
)
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication, PublicationId
from daemon.publishing.protocol import Writing
from daemon.stores.port import Listed, Version
from tests.builders_publishing import SCOPE, make_publication

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TWO_NEWEST = RetentionPolicy(newest=2, days=30)


def days_ago(days: float) -> str:
    return (NOW - timedelta(days=days)).isoformat()


def write(number: int, days: float) -> Writing:
    return Writing(f"write-{number}", days_ago(days), "ann")


def published_daily(count: int) -> Pointer:
    """state-1 to state-`count`, one a day, the last of them today."""
    pointer = protocol.absent(SCOPE)
    for number in range(1, count + 1):
        publication = make_publication(f"state-{number}", number)
        pointer = protocol.publish(pointer, write(number, count - number), [publication])
    return pointer


def decisions(pointer: Pointer, policy: RetentionPolicy = TWO_NEWEST) -> dict[str, str]:
    """The reason why each state is kept; released ones are marked."""
    verdicts = retention_rules.retention_of(pointer, policy, NOW)
    return {
        verdict.publication.state: ("" if isinstance(verdict, Kept) else "goes: ") + verdict.reason
        for verdict in verdicts
    }


def test_the_newest_by_commit_order_and_the_recently_superseded_stay() -> None:
    why = decisions(published_daily(33))
    assert [state for state, as_of_time in why.items() if as_of_time.startswith("goes")] == [
        "state-1",
        "state-2",
    ]
    assert why["state-2"] == "goes: superseded 30 days ago, and not one of the newest 2"
    assert why["state-3"] == "superseded less than 30 days ago"
    assert (why["state-32"], why["state-33"]) == ("one of the newest 2", "live")


def test_live_desired_and_pinned_stay_at_any_age() -> None:
    pointer = published_daily(60)
    first, second = pointer.retained[:2]
    pointer = protocol.rollback(pointer, write(61, 0), first) or pointer
    pointer = protocol.pin(pointer, write(62, 0), second, pinned=True) or pointer
    pointer = protocol.publish(
        pointer, write(63, 0), [make_publication(f"late-{n}", 1, late=True) for n in range(3)]
    )
    why = decisions(pointer)
    assert (why["state-1"], why["state-2"], why["state-60"]) == ("live", "pinned", "desired")


def test_with_zero_days_a_slightly_future_time_counts_as_superseded() -> None:
    pointer = protocol.publish(
        published_daily(2), write(3, -0.00001), [make_publication("state-3", 3)]
    )
    assert decisions(pointer, RetentionPolicy(newest=1, days=0))["state-2"].startswith(
        "goes: superseded 0 days ago"
    )
    assert (
        decisions(pointer, RetentionPolicy(newest=1, days=1))["state-2"]
        == "superseded less than 1 days ago"
    )


def test_a_publication_without_a_known_time_stays() -> None:
    pointer = published_daily(60)
    for unknown in (None, "yesterday", "2020-01-01T00:00:00"):
        without_time = pointer.retained[0].model_copy(update={"superseded_at": unknown})
        why = decisions(
            pointer.model_copy(update={"retained": (without_time, *pointer.retained[1:])})
        )
        assert why["state-1"] == "the time at which it was superseded is unknown"


# -- objects


def listed(key: str, *, days: float = 2, size: int = 10) -> Listed:
    return Listed(f"{SCOPE}/{key}", Version("1"), size, NOW - timedelta(days=days))


ATTEMPT, OTHER = "a" * 32, "b" * 32


def folder(state: str, *, days: float = 2, attempt: str = ATTEMPT) -> Folder:
    return Folder(
        PublicationId(state=state, attempt=attempt),
        (listed(f"states/{state}/{attempt}/x", days=days),),
    )


def test_objects_are_grouped_by_attempt_with_the_manifest_first() -> None:
    names = ("bundle.tar.gz", "manifest.dsse.json", "manifest.json")
    some = [listed(f"states/s1/{ATTEMPT}/{name}", days=days) for days, name in enumerate(names)]
    [found], strays = retention_rules.folders(SCOPE, some)
    assert [stored.key.rpartition("/")[2] for stored in found.objects] == [
        "manifest.json",
        "bundle.tar.gz",
        "manifest.dsse.json",
    ]
    assert (found.id, found.size, found.stored, strays) == (
        PublicationId(state="s1", attempt=ATTEMPT),
        30,
        NOW,
        (),
    )


def test_keys_of_no_publication_are_unknown() -> None:
    keys = [
        f"states/s1/{ATTEMPT}/notes.txt",
        "states/readme.md",
        f"states/s1/{ATTEMPT}/more/manifest.json",
        "states/s1/by-hand/manifest.json",
        f"states/s1/{ATTEMPT.upper()}/manifest.json",
    ]
    found, strays = retention_rules.folders(SCOPE, map(listed, keys))
    assert found == ()
    assert list(strays) == [f"{SCOPE}/{key}" for key in keys]


def verdicts_on(
    *stored: Folder, retained: tuple[Publication, ...] = (), entries: tuple[HistoryEntry, ...] = ()
) -> list[tuple[str, str]]:
    verdicts = retention_rules.plan_deletions(
        stored,
        retained,
        entries,
        RetentionPolicy(),
        as_of=NOW,
        released={PublicationId(state="let-go", attempt=ATTEMPT): "old"},
    )
    assert all(verdict.folder in stored for verdict in verdicts)
    return [(type(verdict).__name__, verdict.reason) for verdict in verdicts]


def test_retained_publications_are_not_considered() -> None:
    assert verdicts_on(folder("s1"), retained=(make_publication("s1", attempt=ATTEMPT),)) == []
    assert (
        len(
            verdicts_on(
                folder("s1", attempt=OTHER), retained=(make_publication("s1", attempt=ATTEMPT),)
            )
        )
        == 1
    )


def test_unreferenced_objects_are_deleted_after_the_grace() -> None:
    assert verdicts_on(folder("s1", days=1.01)) == [("Deletable", "no pointer names it")]
    [(verdict, why)] = verdicts_on(folder("s1", days=1))
    assert (verdict, why) == ("Deletable", "no pointer names it")
    [(verdict, why)] = verdicts_on(folder("s1", days=0.99))
    assert verdict == "NotYetDeletable"
    assert "24 hours" in why


def test_the_grace_counts_from_the_youngest_object() -> None:
    young = listed(f"states/s1/{ATTEMPT}/manifest.json", days=0.1)
    [(verdict, _)] = verdicts_on(
        Folder(PublicationId(state="s1", attempt=ATTEMPT), (*folder("s1", days=9).objects, young))
    )
    assert verdict == "NotYetDeletable"


def test_released_publications_are_deleted_with_their_reason() -> None:
    assert verdicts_on(folder("let-go")) == [("Deletable", "old")]


def drop(name: object, days: float) -> HistoryEntry:
    return HistoryEntry(
        sequence=1,
        write_id="w",
        kind="publish",
        change={"dropped": name},
        at=days_ago(days),
        by="ann",
    )


def test_publications_dropped_from_a_full_pointer_stay_seven_days() -> None:
    name = f"s1@{ATTEMPT}"
    [(verdict, why)] = verdicts_on(folder("s1", days=50), entries=(drop([name], 6.9),))
    assert (verdict, "7 days" in why) == ("NotYetDeletable", True)
    for days in (7, 7.1):
        assert verdicts_on(folder("s1", days=50), entries=(drop([name], days),)) == [
            ("Deletable", "the pointer had no more room for it")
        ]
    assert verdicts_on(folder("s1", days=50, attempt=OTHER), entries=(drop([name], 1),)) == [
        ("Deletable", "no pointer names it")
    ]


def test_a_malformed_change_retains_nothing() -> None:
    assert (
        verdicts_on(folder("s1"), entries=(drop("s1", 1), drop(None, 1), drop([7], 1)))[0][0]
        == "Deletable"
    )


def test_the_newest_collection_with_a_time_of_the_stores_clock_is_found() -> None:
    as_of_time = days_ago(7)
    pointer = protocol.collect(published_daily(2), write(3, 0), (), as_of=days_ago(9))
    pointer = protocol.collect(
        protocol.hold(pointer, write(4, 0)), write(5, 0), (), as_of=as_of_time
    )
    pointer = protocol.hold(pointer, write(6, 0))
    assert retention_rules.last_collection(pointer.history) == datetime.fromisoformat(as_of_time)
    for silent in (None, "yesterday", as_of_time.partition("+")[0]):
        entry = protocol.collect(pointer, write(7, 0), (), as_of=as_of_time).history[-1]
        found = entry.model_copy(update={"change": entry.change | {"as_of": silent}})
        assert retention_rules.last_collection((*pointer.history, found)) == datetime.fromisoformat(
            as_of_time
        )
    assert retention_rules.last_collection(published_daily(2).history) is None


# -- copies of replaced bytes

KEPT = layout.all_replaced(SCOPE)


def copy(key: str, days: float) -> Listed:
    return Listed(KEPT + key, Version("1"), 1, NOW - timedelta(days=days))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (f"base/a.yaml/{'0' * 64}", "base/a.yaml"),
        (f"README.md/{'f' * 64}", "README.md"),
        ("notes", ""),
    ],
)
def test_the_path_of_a_copy_is_read_from_its_key(key: str, path: str) -> None:
    assert retention_rules.replaced_path(SCOPE, KEPT + key) == path


def test_an_old_copy_expires_and_the_newest_of_its_path_never() -> None:
    old, older = copy(f"base/a/{'1' * 64}", 31), copy(f"base/a/{'0' * 64}", 400)
    newest, alone = copy(f"base/a/{'2' * 64}", 30.5), copy(f"base/b/{'1' * 64}", 400)
    found = retention_rules.expired(
        SCOPE, [newest, alone, old, older], RetentionPolicy(days=30), NOW
    )
    assert set(found) == {old, older}
    assert retention_rules.expired(SCOPE, [newest, old, older], RetentionPolicy(days=300), NOW) == (
        older,
    )
    assert (
        retention_rules.expired(
            SCOPE, [old, copy(f"base/a/{'3' * 64}", 0)], RetentionPolicy(days=31.5), NOW
        )
        == ()
    )


def test_no_copy_expires_within_the_grace_with_any_retention() -> None:
    first, second = copy(f"base/a/{'1' * 64}", 0.9), copy(f"base/a/{'2' * 64}", 0.8)
    assert retention_rules.expired(SCOPE, [first, second], RetentionPolicy(days=0), NOW) == ()
    assert retention_rules.expired(
        SCOPE, [first, second], RetentionPolicy(days=0, grace_hours=12), NOW
    ) == (first,)


@given(
    st.lists(
        st.tuples(st.sampled_from(["base/a", "base/b", "README.md"]), st.integers(0, 60)),
        max_size=12,
    )
)
def test_each_path_keeps_its_newest_copy(found: list[tuple[str, int]]) -> None:
    copies = [copy(f"{path}/{number:064x}", days) for number, (path, days) in enumerate(found)]
    left = set(copies) - set(
        retention_rules.expired(
            SCOPE, copies, RetentionPolicy(days=0, grace_hours=0), NOW + timedelta(days=1)
        )
    )
    paths = {path for path, _ in found}
    assert len(left) == len(paths)
    for path in paths:
        ages = [days for item, days in found if item == path]
        [kept] = [entry for entry in left if entry.key.startswith(f"{KEPT}{path}/")]
        assert kept.modified == NOW - timedelta(days=min(ages))


# -- properties of any pointer


@st.composite
def pointers(draw: st.DrawFn) -> Pointer:
    pointer = protocol.absent(SCOPE)
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from("pPlrdhq"), st.integers(0, 10**6)), min_size=1, max_size=60
        )
    )
    for number, (step, chance) in enumerate(steps):
        mark = write(number, draw(st.integers(0, 90)))
        publications = [
            make_publication(f"s{number}-{index}", number, late=step == "l")
            for index in range(1 + chance % 20)
        ]
        target = pointer.retained[chance % len(pointer.retained)] if pointer.retained else None
        if step in "pl" or target is None:
            pointer = protocol.publish(pointer, mark, publications)
        elif step == "P":
            pinned = sum(publication.pinned for publication in pointer.retained) < 48
            pointer = protocol.pin(pointer, mark, target, pinned=pinned) or pointer
        elif step in "rd":
            pointer = protocol.rollback(pointer, mark, target, discard_newer=step == "d") or pointer
        elif step == "h":
            pointer = protocol.hold(pointer, mark)
        else:
            pointer = protocol.retire(pointer, mark) or pointer
    return pointer


policies = st.builds(RetentionPolicy, newest=st.integers(1, 100), days=st.floats(0, 100))


@given(pointers(), policies)
def test_nothing_live_desired_or_pinned_is_released_and_at_most_a_hundred_are_retained(
    pointer: Pointer, policy: RetentionPolicy
) -> None:
    assert len(pointer.retained) <= 100
    verdicts = retention_rules.retention_of(pointer, policy, NOW)
    assert [verdict.publication for verdict in verdicts] == list(pointer.retained)
    current = {publication.id for publication in (pointer.live, pointer.desired) if publication}
    for verdict in verdicts:
        if isinstance(verdict, Released):
            assert not verdict.publication.pinned
            assert verdict.publication.id not in current
    assert sum(isinstance(verdict, Kept) for verdict in verdicts) >= min(
        policy.newest, len(pointer.retained)
    )


@given(pointers(), policies)
def test_a_second_collection_at_the_same_time_releases_nothing_more(
    pointer: Pointer, policy: RetentionPolicy
) -> None:
    released = {
        retention.publication.id
        for retention in retention_rules.retention_of(pointer, policy, NOW)
        if isinstance(retention, Released)
    }
    after = protocol.collect(pointer, write(99, 0), released)
    assert {publication.id for publication in pointer.retained} - {
        publication.id for publication in after.retained
    } == released
    assert all(
        isinstance(retention, Kept)
        for retention in retention_rules.retention_of(after, policy, NOW)
    )


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(0, 40))
def test_nothing_is_deletable_within_the_grace(ages: list[int], grace: int) -> None:
    stored = [folder(f"s{number}", days=age) for number, age in enumerate(ages)]
    verdicts = retention_rules.plan_deletions(
        stored, (), (), RetentionPolicy(grace_hours=24 * grace), as_of=NOW, released={}
    )
    for verdict in verdicts:
        old = NOW - verdict.folder.stored >= timedelta(days=grace)
        assert isinstance(verdict, Deletable if old else NotYetDeletable)
