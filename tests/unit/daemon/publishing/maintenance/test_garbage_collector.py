"""Garbage collection on both kinds of stores: what it deletes and when, crashes at every call, and
races.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import ParamSpec

import pytest

from daemon.publishing import layout, operator_commands, protocol
from daemon.publishing.errors import NotFound, PointerLost, PointerMoved
from daemon.publishing.grammar import timestamp
from daemon.publishing.maintenance.garbage_collector import (
    Collected,
    CollectionPart,
    DeletionRefused,
    GarbageCollector,
)
from daemon.publishing.maintenance.retention_rules import RetentionPolicy
from daemon.publishing.pointer import Pointer, PublicationId, Revision
from daemon.stores.errors import ObjectMissing, StoreError, StoreRefused, StoreUnavailable
from daemon.stores.port import Content, Listing, ObjectStore, Version
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore, Gate
from tests.support.memory_store import MemoryStore

P = ParamSpec("P")
DAY = 86_400.0
POLICY = RetentionPolicy(newest=2, days=30)


def in_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """The test in its own event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def runtime() -> InlineRuntime:
    return InlineRuntime()


@pytest.fixture(params=[False, True], ids=["generations", "content-etags"])
def store(request: pytest.FixtureRequest, runtime: InlineRuntime) -> MemoryStore:
    return MemoryStore(runtime, versions_by_content=request.param)


def collector(
    store: ObjectStore, runtime: InlineRuntime, policy: RetentionPolicy = POLICY
) -> GarbageCollector:
    bucket = Bucket(store, runtime)
    return GarbageCollector(store, bucket.reader, bucket.publisher, runtime, policy)


async def grown(store: ObjectStore, runtime: InlineRuntime) -> Bucket:
    """state-1 to state-4 within four days, the last of them 40 days ago."""
    bucket = Bucket(store, runtime)
    for number in range(1, 5):
        await bucket.publish(make_state(number))
        await runtime.sleep(DAY)
    await runtime.sleep(40 * DAY)
    return bucket


async def dropped_long_ago(store: ObjectStore, runtime: InlineRuntime) -> Bucket:
    """state-1 was just dropped from the pointer, and only a chunk of the history records that."""
    bucket = Bucket(store, runtime)
    await bucket.publish(make_state(1))
    base = await bucket.reader.pointer(SCOPE)
    more = [
        base.pointer.retained[0].model_copy(update={"attempt": f"{number:032x}"})
        for number in range(99)
    ]
    last = await bucket.publisher.store_state(SCOPE, make_state(2))
    following = protocol.publish(base.pointer, bucket.publisher.writing("daemon"), [*more, last])
    await bucket.publisher.swap(SCOPE, base, following)
    for _ in range(140):
        await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")
    pointer = await bucket.pointer()
    assert pointer.previous_chunk is not None
    assert all("dropped" not in entry.change for entry in pointer.history)
    return bucket


async def folders(store: ObjectStore) -> dict[str, set[str]]:
    """The names of the objects of each attempt, by state@attempt."""
    found: dict[str, set[str]] = {}
    for entry in await store.scan(layout.states(SCOPE)):
        state, attempt, name = entry.key.removeprefix(layout.states(SCOPE)).split("/")
        found.setdefault(f"{state}@{attempt}", set()).add(name)
    return found


async def states(store: ObjectStore) -> list[str]:
    return sorted(name.partition("@")[0] for name in await folders(store))


async def check_whole(store: ObjectStore, runtime: InlineRuntime) -> Pointer:
    """Checks that everything that the pointer references exists and verifies."""
    reader = Bucket(store, runtime).reader
    pointer = (await reader.existing(SCOPE)).pointer
    for publication in pointer.retained:
        await reader.files(SCOPE, publication)
    return pointer


def went(collected: Collected) -> list[str]:
    return sorted(deletable.folder.id.state for deletable in collected.deleted)


# -- what is deleted


@in_loop
async def test_a_collection_releases_then_deletes_and_leaves_the_rest_whole(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    before = await (await grown(store, runtime)).pointer()
    collected = await collector(store, runtime).collect(SCOPE, "cron", "retention")
    after = await check_whole(store, runtime)
    assert went(collected) == ["state-1", "state-2"]
    assert collected.size > 0
    assert await states(store) == ["state-3", "state-4"]
    assert [publication.state for publication in after.retained] == ["state-3", "state-4"]
    assert (after.kind, after.gc_epoch, after.sequence) == ("gc", 1, before.sequence + 1)
    assert (after.live, after.desired, after.positions) == (
        before.live,
        before.desired,
        before.positions,
    )
    assert (after.history[-1].by, after.history[-1].reason) == ("cron", "retention")


@in_loop
async def test_without_anything_to_release_the_pointer_is_not_written(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await collector(store, runtime).collect(SCOPE, "cron")
    before = (await bucket.reader.pointer(SCOPE)).version
    watched = FaultyStore(store)
    again = await collector(watched, runtime).collect(SCOPE, "cron")
    assert (again.released, again.deleted, again.left, again.sequence) == ((), (), (), None)
    assert watched.writes == []
    assert (await bucket.reader.pointer(SCOPE)).version == before


@in_loop
async def test_positions_of_idle_journals_are_removed_even_without_a_release(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = Bucket(store, runtime)
    await bucket.publish(make_state(1))
    read = await bucket.reader.pointer(SCOPE)
    progress = protocol.BatchProgress(Revision(1), {"journal:gone": 7}, ())
    following = protocol.publish(read.pointer, bucket.publisher.writing("ann"), (), progress)
    await bucket.publisher.swap(SCOPE, read, following)
    runtime.seconds += 89 * 24 * 3600
    await collector(store, runtime).collect(SCOPE, "cron")
    assert (await bucket.pointer()).positions == {"journal:1": 1, "journal:gone": 7}
    runtime.seconds += 2 * 24 * 3600
    collected = await collector(store, runtime).collect(SCOPE, "cron")
    assert collected.sequence is not None
    assert (await bucket.pointer()).positions == {}
    again = await collector(store, runtime).collect(SCOPE, "cron")
    assert again.sequence is None, "nothing is left to do"


@in_loop
async def test_an_orphan_is_deleted_after_the_grace_and_not_before(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = Bucket(store, runtime)
    await bucket.publish(make_state(1))
    await bucket.publisher.store_state(SCOPE, make_state(2))
    await runtime.sleep(0.9 * DAY)
    early = await collector(store, runtime).collect(SCOPE, "cron")
    assert (early.deleted, early.sequence) == ((), None)
    assert [kept.folder.id.state for kept in early.kept_for_now] == ["state-2"]
    await runtime.sleep(0.2 * DAY)
    assert went(await collector(store, runtime).collect(SCOPE, "cron")) == ["state-2"]
    assert (await check_whole(store, runtime)).gc_epoch == 1


class SlowClock(MemoryStore):
    """A store whose clock is two days behind that of this machine."""

    async def scan(self, prefix: str):  # type: ignore[no-untyped-def]
        moved = timedelta(days=2)
        return Listing(
            tuple(
                replace(entry, modified=entry.modified - moved)
                for entry in await super().scan(prefix)
            )
        )


@in_loop
async def test_the_grace_is_measured_by_the_clock_of_the_store(
    runtime: InlineRuntime,
) -> None:
    store = SlowClock(runtime)
    bucket = Bucket(store, runtime)
    await bucket.publish(make_state(1))
    await bucket.publisher.store_state(SCOPE, make_state(2))
    seen = await collector(store, runtime).preview(SCOPE)
    assert went(seen) == ["state-2"]  # two days old by the clock of this machine
    collected = await collector(store, runtime).collect(SCOPE, "cron")
    assert collected.deleted == ()
    assert await states(store) == ["state-1", "state-2"]


@in_loop
async def test_a_preview_reports_what_would_be_deleted_and_changes_nothing(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    watched = FaultyStore(store)
    seen = await collector(watched, runtime).preview(SCOPE)
    assert watched.writes == []
    assert [release.publication.state for release in seen.released] == ["state-1", "state-2"]
    collected = await collector(store, runtime).collect(SCOPE, "cron")
    assert [(deletable.folder, deletable.reason) for deletable in seen.deleted] == [
        (deletable.folder, deletable.reason) for deletable in collected.deleted
    ]
    assert (seen.kept, seen.size, seen.sequence) == (collected.kept, collected.size, None)


@in_loop
async def test_unknown_keys_are_reported_and_never_deleted(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    [first, *_] = [entry.key for entry in await store.scan(layout.states(SCOPE))]
    foreign = {f"{layout.states(SCOPE)}notes.txt", f"{first.rpartition('/')[0]}/notes.txt"}
    for key in foreign:
        await store.create(key, Content(b"mine"))
    await runtime.sleep(2 * DAY)
    collected = await collector(store, runtime).collect(SCOPE, "cron")
    assert set(collected.strays) == foreign
    for key in foreign:
        assert (await store.get(key)).body == b"mine"
    assert "state-1" in went(collected)


@in_loop
async def test_dropped_publications_stay_seven_days_even_if_only_a_chunk_records_them(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await dropped_long_ago(store, runtime)
    await runtime.sleep(6.9 * DAY)
    early = await collector(store, runtime).collect(SCOPE, "cron")
    assert [kept.folder.id.state for kept in early.kept_for_now] == ["state-1"]
    await runtime.sleep(0.2 * DAY)
    assert went(await collector(store, runtime).collect(SCOPE, "cron")) == ["state-1"]


@in_loop
async def test_the_manifest_is_deleted_first(store: MemoryStore, runtime: InlineRuntime) -> None:
    await grown(store, runtime)
    watched = FaultyStore(store)
    await collector(watched, runtime).collect(SCOPE, "cron")
    deleted = [key for operation, key in watched.writes if operation == "delete"]
    for state in ("state-1", "state-2"):
        [first, *_] = [key for key in deleted if f"/{state}/" in key]
        assert first.endswith("/manifest.json")


@in_loop
async def test_a_scope_that_does_not_exist_is_reported(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    with pytest.raises(NotFound):
        await collector(store, runtime).collect(SCOPE, "cron")


@in_loop
async def test_a_pinned_and_a_live_state_of_any_age_stay(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await bucket.operations.carry_out(SCOPE, operator_commands.pin("state-1", pinned=True), "ann")
    await bucket.operations.carry_out(SCOPE, operator_commands.rollback("state-2"), "ann")
    await runtime.sleep(40 * DAY)
    await collector(store, runtime, RetentionPolicy(newest=1, days=0)).collect(SCOPE, "cron")
    assert await states(store) == ["state-1", "state-2", "state-4"]
    await check_whole(store, runtime)


# -- copies of replaced bytes


async def keep(store: ObjectStore, path: str, *bodies: str) -> None:
    for body in bodies:
        await store.create(
            layout.replaced(SCOPE, path, f"{int(body):064x}"), Content(body.encode())
        )


async def copies(store: ObjectStore) -> list[bytes]:
    return sorted(
        [
            (await store.get(entry.key)).body
            for entry in await store.scan(layout.all_replaced(SCOPE))
        ]
    )


@in_loop
async def test_old_copies_are_deleted_after_their_collection_and_the_newest_of_a_path_never(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = Bucket(store, runtime)
    await bucket.publish(make_state(1))
    await keep(store, "base/a", "1")
    await keep(store, "base/b", "2")
    await runtime.sleep(DAY)
    await keep(store, "base/a", "3")
    await runtime.sleep(29.5 * DAY)
    seen = await collector(store, runtime).preview(SCOPE)
    collected = await collector(store, runtime).collect(SCOPE, "cron")
    assert [copy.key for copy in collected.copies] == [
        layout.replaced(SCOPE, "base/a", f"{1:064x}")
    ]
    assert (seen.copies, collected.size) == (collected.copies, 1)
    assert await copies(store) == [b"2", b"3"]
    assert (await bucket.pointer()).kind == "gc", "its time is that of the store's clock"
    await runtime.sleep(50 * DAY)
    again = await collector(store, runtime).collect(SCOPE, "cron")
    assert (again.copies, again.sequence) == ((), None)


@in_loop
async def test_deleting_alone_removes_copies_from_before_the_last_release(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await Bucket(store, runtime).publish(make_state(1))
    await keep(store, "base/a", "1", "2")
    await runtime.sleep(31 * DAY)
    deleting = collector(store, runtime)
    assert (await deleting.preview(SCOPE, parts=frozenset({"delete"}))).copies == ()
    assert (await deleting.collect(SCOPE, "cron", parts=frozenset({"delete"}))).copies == ()
    released = await collector(store, runtime).collect(SCOPE, "cron", parts=frozenset({"release"}))
    assert (released.copies, len(await copies(store))) == ((), 2)
    assert len((await deleting.preview(SCOPE, parts=frozenset({"delete"}))).copies) == 1
    watched = FaultyStore(store)
    done = await collector(watched, runtime).collect(SCOPE, "cron", parts=frozenset({"delete"}))
    assert (len(done.copies), [operation for operation, _ in watched.writes]) == (1, ["delete"])


@in_loop
async def test_a_copy_that_is_renewed_before_its_deletion_stays(
    runtime: InlineRuntime,
) -> None:
    store = MemoryStore(
        runtime
    )  # if versions are digests, no condition distinguishes the two writes
    await Bucket(store, runtime).publish(make_state(1))
    await keep(store, "base/a", "1", "2")
    await runtime.sleep(31 * DAY)

    async def keep_again(operation: str, key: str) -> None:
        if operation == "delete" and "/replaced/" in key:
            there = await store.get(key)
            await store.replace(key, Content(there.body, tag=there.tag), there.version)

    done = await collector(FaultyStore(store, before=keep_again), runtime).collect(SCOPE, "cron")
    assert (done.copies, len(await copies(store))) == ((), 2)


@in_loop
async def test_copies_that_may_not_be_deleted_are_reported_with_the_missing_permission(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await Bucket(store, runtime).publish(make_state(1))
    await keep(store, "base/a", "1", "2")
    await runtime.sleep(31 * DAY)
    with pytest.raises(DeletionRefused, match="may not be deleted with this credential"):
        await collector(FaultyStore(store, faults={f"{1:064x}": [Fault.REFUSED]}), runtime).collect(
            SCOPE, "cron"
        )


@in_loop
async def test_an_object_that_cannot_be_deleted_does_not_stop_the_others(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await keep(store, "base/a", "1", "2")
    await runtime.sleep(31 * DAY)

    class OneIsInTheWay(FaultyStore):
        async def delete(self, key: str, version: Version) -> None:
            if "/states/state-1/" in key:
                raise StoreRefused(f"{key} is a symbolic link; move it away")
            await super().delete(key, version)

    with pytest.raises(DeletionRefused, match="is a symbolic link; move it away"):
        await collector(OneIsInTheWay(store), runtime).collect(SCOPE, "cron")
    left = await states(store)
    assert ("state-1" in left, "state-2" in left) == (True, False)
    assert len(await copies(store)) == 1


# -- crashes and lost answers


class Crash(Exception):
    """The process ends at this call."""


def crash_at(number: int) -> Callable[[str, str], object]:
    calls = 0

    async def before(_operation: str, _key: str) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Crash

    return before


@in_loop
async def test_a_crash_at_any_call_keeps_referenced_objects_and_the_next_collection_finishes(
    runtime: InlineRuntime,
) -> None:
    for flavour in (False, True):
        for number in range(1, 100):
            store = MemoryStore(runtime, versions_by_content=flavour)
            await grown(store, runtime)
            dying = FaultyStore(store, before=crash_at(number))  # type: ignore[arg-type]
            try:
                await collector(dying, runtime).collect(SCOPE, "cron")
            except Crash:
                await check_whole(store, runtime)
                await collector(store, runtime).collect(SCOPE, "cron")
                assert await states(store) == ["state-3", "state-4"], number
                await check_whole(store, runtime)
            else:
                assert number > 8  # a collection needs at least this many calls, so the loop ran
                break
        else:
            pytest.fail("it never came to its end")


@pytest.mark.parametrize(
    "fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE, Fault.LATE, Fault.OWN_SUCCESS]
)
@pytest.mark.parametrize("ending", ["pointer.json", "manifest.json", "bundle.tar.gz"])
@in_loop
async def test_a_lost_answer_deletes_nothing_referenced_and_is_repaired(
    store: MemoryStore, runtime: InlineRuntime, ending: str, fault: Fault
) -> None:
    await grown(store, runtime)
    faulty = FaultyStore(store, faults={ending: [fault]})
    first = await collector(faulty, runtime).collect(SCOPE, "cron")
    await faulty.arrive()
    await check_whole(store, runtime)
    if ending != "pointer.json":
        assert len(first.left) == 1
    await collector(faulty, runtime).collect(SCOPE, "cron")
    assert await states(store) == ["state-3", "state-4"]
    await check_whole(store, runtime)


@in_loop
async def test_an_unavailable_store_is_reported_and_the_next_collection_finishes(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    with pytest.raises(StoreUnavailable):
        await collector(
            FaultyStore(store, faults={"bundle.tar.gz": [Fault.AWAY]}), runtime
        ).collect(SCOPE, "cron")
    await collector(store, runtime).collect(SCOPE, "cron")
    assert await states(store) == ["state-3", "state-4"]


@in_loop
async def test_a_throttling_store_is_retried(store: MemoryStore, runtime: InlineRuntime) -> None:
    await grown(store, runtime)
    busy = FaultyStore(
        store, faults={"manifest.json": [Fault.BUSY] * 2, "bundle.tar.gz": [Fault.BUSY]}
    )
    assert went(await collector(busy, runtime).collect(SCOPE, "cron")) == ["state-1", "state-2"]


# -- races


@in_loop
async def test_publications_of_a_faster_publisher_are_not_deleted(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    gate = Gate(lambda operation, key: (operation, key) == ("replace", layout.pointer(SCOPE)))
    async with asyncio.TaskGroup() as group:
        collecting = group.create_task(
            collector(FaultyStore(store, before=gate), runtime).collect(SCOPE, "cron")
        )
        await gate.reached.wait()
        await bucket.publish(make_state(5))
        gate.open()
    pointer = await check_whole(store, runtime)
    assert (pointer.live and pointer.live.state, pointer.gc_epoch) == ("state-5", 1)
    assert collecting.result().sequence == pointer.sequence
    assert await states(store) == [
        "state-4",
        "state-5",
    ]  # decided again: state-3 is no longer one of the newest


@in_loop
async def test_a_publication_dropped_right_after_the_collection_keeps_its_days(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = Bucket(store, runtime)
    await bucket.publish(make_state(1))
    await bucket.publisher.store_state(SCOPE, make_state(9))
    base = await bucket.reader.pointer(SCOPE)
    more = [
        base.pointer.retained[0].model_copy(update={"attempt": f"{number:032x}"})
        for number in range(99)
    ]
    await bucket.publisher.swap(
        SCOPE, base, protocol.publish(base.pointer, bucket.publisher.writing("daemon"), more)
    )
    await runtime.sleep(2 * DAY)
    faulty = FaultyStore(store, faults={"pointer.json": [Fault.LOST_AFTER]})

    async def publish_before_it_is_read_back(operation: str, key: str) -> None:
        if operation == "get" and key == layout.pointer(SCOPE) and faulty.writes:
            faulty.before = None
            await bucket.publish(make_state(2))

    faulty.before = publish_before_it_is_read_back
    collected = await collector(faulty, runtime).collect(SCOPE, "cron")
    assert went(collected) == ["state-9"]
    assert (await bucket.pointer()).retained_of("state-1")[0].attempt == f"{0:032x}"
    assert await states(store) == ["state-1", "state-2"]


@in_loop
async def test_a_state_stored_before_the_collection_cannot_be_committed_after_it(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    base = await bucket.reader.pointer(SCOPE)
    publication = await bucket.publisher.store_state(SCOPE, make_state(5))
    await runtime.sleep(2 * DAY)
    assert "state-5" in went(await collector(store, runtime).collect(SCOPE, "cron"))
    following = protocol.publish(base.pointer, bucket.publisher.writing("slow"), [publication])
    with pytest.raises(PointerMoved):
        await bucket.publisher.swap(SCOPE, base, following)
    assert (await check_whole(store, runtime)).gc_epoch == base.pointer.gc_epoch + 1


@pytest.mark.parametrize("rollback_first", [True, False])
@in_loop
async def test_a_rollback_and_a_collection_of_its_target_exclude_each_other(
    store: MemoryStore, runtime: InlineRuntime, *, rollback_first: bool
) -> None:
    bucket = await grown(store, runtime)
    gate = Gate(lambda operation, key: (operation, key) == ("replace", layout.pointer(SCOPE)))
    slow = FaultyStore(store, before=gate)
    collecting, going_back = collector(store, runtime), bucket.operations
    if rollback_first:
        collecting = collector(slow, runtime)
    else:
        going_back = Bucket(slow, runtime).operations

    async def collect() -> None:
        await collecting.collect(SCOPE, "cron")

    async def go_back() -> None:
        await going_back.carry_out(SCOPE, operator_commands.rollback("state-1"), "ann")

    first, second = (go_back, collect) if rollback_first else (collect, go_back)
    late = asyncio.create_task(second())
    await gate.reached.wait()
    await first()
    gate.open()
    [lost] = await asyncio.gather(late, return_exceptions=True)
    pointer = await check_whole(store, runtime)
    assert pointer.live is not None
    if rollback_first:
        assert (lost, pointer.live.state) == (None, "state-1")
        assert "state-1" in await states(store)
    else:
        assert isinstance(lost, NotFound)
        assert (pointer.live.state, await states(store)) == ("state-4", ["state-3", "state-4"])


@in_loop
async def test_two_collections_at_once_delete_everything_once_and_nothing_else(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(collector(store, runtime).collect(SCOPE, "cron"))
    await check_whole(store, runtime)
    assert await states(store) == ["state-3", "state-4"]


@in_loop
async def test_a_collection_that_meets_another_epoch_stops(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    gate = Gate(
        lambda operation, key: operation == "get" and key == layout.pointer(SCOPE) and released()
    )
    epoch = 0

    def released() -> bool:
        return epoch > 0

    async def before(operation: str, key: str) -> None:
        nonlocal epoch
        epoch += (operation, key) == ("replace", layout.pointer(SCOPE))
        await gate(operation, key)

    async with asyncio.TaskGroup() as group:
        collecting = group.create_task(
            collector(FaultyStore(store, before=before), runtime).collect(SCOPE, "one")
        )
        await gate.reached.wait()
        await Bucket(store, runtime).operations.carry_out(
            SCOPE, lambda now, writing: protocol.collect(now, writing, ()), "two"
        )
        gate.open()
    assert collecting.result().deleted == ()
    assert len(collecting.result().left) == 2
    assert len(await states(store)) == 4


# -- two credentials


class MayNotDelete(FaultyStore):
    async def delete(self, key: str, version: object) -> None:
        raise StoreRefused(f"no permission to delete {key}")


@in_loop
async def test_a_missing_delete_permission_is_reported_after_the_release(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    with pytest.raises(DeletionRefused, match=r"gc --all --only delete") as refused:
        await collector(MayNotDelete(store), runtime).collect(SCOPE, "daemon")
    assert isinstance(refused.value, StoreError)
    assert [publication.state for publication in (await check_whole(store, runtime)).retained] == [
        "state-3",
        "state-4",
    ]


@in_loop
async def test_one_credential_releases_and_another_deletes_without_touching_the_pointer(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    releasing = collector(MayNotDelete(store), runtime)
    released = await releasing.collect(SCOPE, "daemon", parts=frozenset({"release"}))
    assert [verdict.folder.id.state for verdict in released.left] == ["state-1", "state-2"]
    again = await releasing.collect(SCOPE, "daemon", parts=frozenset({"release"}))
    assert again.sequence is None  # pending deletions alone do not write the pointer

    only_pointer = FaultyStore(
        store, forbidden=lambda operation, _key: operation in {"create", "replace"}
    )
    collected = await collector(only_pointer, runtime).collect(
        SCOPE, "cron", parts=frozenset({"delete"})
    )
    assert went(collected) == ["state-1", "state-2"]
    assert await states(store) == ["state-3", "state-4"]
    await check_whole(store, runtime)


@in_loop
async def test_deleting_alone_keeps_objects_stored_after_the_last_collection(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    deleting = frozenset({"delete"})
    none = await collector(store, runtime).collect(SCOPE, "cron", parts=deleting)  # type: ignore[arg-type]
    assert none.deleted == ()
    await collector(store, runtime).collect(SCOPE, "daemon")
    await bucket.publisher.store_state(SCOPE, make_state(7))
    await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")
    await runtime.sleep(5 * DAY)
    none = await collector(store, runtime).collect(SCOPE, "cron", parts=deleting)  # type: ignore[arg-type]
    assert none.deleted == ()
    assert "state-7" in await states(store)
    await collector(store, runtime).collect(SCOPE, "daemon", parts=frozenset({"release"}))
    collected = await collector(store, runtime).collect(SCOPE, "cron", parts=deleting)  # type: ignore[arg-type]
    assert went(collected) == ["state-7"]


@in_loop
async def test_the_last_collection_is_found_however_long_ago_it_was(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await collector(store, runtime).collect(SCOPE, "daemon", parts=frozenset({"release"}))
    for _ in range(140):
        await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")
    await runtime.sleep(20 * DAY)
    for _ in range(140):
        await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")
    collected = await collector(store, runtime).collect(SCOPE, "cron", parts=frozenset({"delete"}))
    assert went(collected) == ["state-1", "state-2"]


@in_loop
async def test_a_scope_that_others_keep_changing_is_reported(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)

    async def be_faster(operation: str, key: str) -> None:
        if (operation, key) == ("replace", layout.pointer(SCOPE)):
            await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")

    with pytest.raises(PointerMoved, match="5 times"):
        await collector(FaultyStore(store, before=be_faster), runtime).collect(SCOPE, "cron")
    assert len(await states(store)) == 4


@in_loop
async def test_a_pointer_that_disappears_meanwhile_stops_the_deletion(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    key = layout.pointer(SCOPE)
    await store.create(f"{key}.bak", Content(b"an editor's"))
    await store.create(layout.live_tree(SCOPE, layout.MARKER), Content(b"{}"))

    async def remove_it(operation: str, asked: str) -> None:
        if (operation, asked) == ("get", key) and ("replace", key) in watched.writes:
            watched.before = None
            await store.delete(key, (await store.get(key)).version)

    watched = FaultyStore(store, before=remove_it)
    with pytest.raises(PointerLost):
        await collector(watched, runtime).collect(SCOPE, "cron")
    assert len(await states(store)) == 4


@in_loop
async def test_progress_is_reported_for_each_publication(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    deleted_ids: list[PublicationId] = []
    collected = await collector(store, runtime).collect(
        SCOPE, "cron", on_deleted=lambda deletable: deleted_ids.append(deletable.folder.id)
    )
    assert deleted_ids == [deletable.folder.id for deletable in collected.deleted]


@in_loop
async def test_objects_that_another_process_deleted_meanwhile_count_as_deleted(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)

    class Racing(FaultyStore):
        async def delete(self, key: str, version: object) -> None:
            raise ObjectMissing(key)

    assert went(await collector(Racing(store), runtime).collect(SCOPE, "cron")) == [
        "state-1",
        "state-2",
    ]


@in_loop
async def test_a_released_publication_is_deleted_later_without_another_pointer_write(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    with pytest.raises(DeletionRefused):
        await collector(MayNotDelete(store), runtime).collect(SCOPE, "daemon")
    before = await bucket.pointer()
    with pytest.raises(DeletionRefused):
        await collector(MayNotDelete(store), runtime).collect(SCOPE, "daemon")
    collected = await collector(store, runtime).collect(SCOPE, "daemon")
    assert (went(collected), collected.sequence) == (["state-1", "state-2"], None)
    assert await bucket.pointer() == before


@pytest.mark.parametrize("part", ["release", "delete"])
@in_loop
async def test_a_preview_of_one_part_reports_what_that_part_does(
    store: MemoryStore, runtime: InlineRuntime, part: CollectionPart
) -> None:
    bucket = await grown(store, runtime)
    await collector(store, runtime).collect(SCOPE, "cron", parts=frozenset({"release"}))
    await bucket.publish(make_state(5))
    await runtime.sleep(40 * DAY)
    parts = frozenset({part})
    watched = FaultyStore(store)
    seen = await collector(watched, runtime).preview(SCOPE, parts=parts)
    assert watched.writes == []
    collected = await collector(store, runtime).collect(SCOPE, "cron", parts=parts)
    assert (seen.released, went(seen)) == (collected.released, went(collected))
    assert [verdict.folder for verdict in seen.left] == [
        verdict.folder for verdict in collected.left
    ]
    assert [release.publication.state for release in seen.released] == (
        ["state-3"] if part == "release" else []
    )
    assert went(seen) == ([] if part == "release" else ["state-1", "state-2"])


# -- clocks: the store's is right, that of a machine may be wrong by days


class OtherClock(InlineRuntime):
    """A second machine beside that of `right`, with a wrong clock."""

    def __init__(self, right: InlineRuntime, days: float) -> None:
        super().__init__(f"{days} days ahead")
        self._right = right
        self._wrong = timedelta(days=days)

    def now(self) -> datetime:
        return self._right.now() + self._wrong


@pytest.mark.parametrize("days", [-400, -3, 3, 400])
@pytest.mark.parametrize("pause", [1 / 24, 5], ids=["an hour", "longer than the grace"])
@in_loop
async def test_a_state_stored_after_a_release_by_a_wrong_clock_is_not_deleted(
    store: MemoryStore, runtime: InlineRuntime, days: float, pause: float
) -> None:
    bucket = await grown(store, runtime)
    await collector(store, runtime).collect(SCOPE, "right", parts=frozenset({"release"}))
    await bucket.publish(make_state(5))
    wrong = OtherClock(runtime, days)
    await collector(store, wrong, RetentionPolicy(newest=1, days=0)).collect(
        SCOPE, "wrong", parts=frozenset({"release"})
    )
    await runtime.sleep(60)
    publication = await bucket.publisher.store_state(SCOPE, make_state(9))
    await runtime.sleep(pause * DAY)
    await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")
    await runtime.sleep(pause * DAY)
    base = await bucket.reader.pointer(SCOPE)
    for clock in (wrong, runtime):
        collected = await collector(store, clock).collect(
            SCOPE, "cron", parts=frozenset({"delete"})
        )
        assert "state-9" not in went(collected)
    following = protocol.publish(base.pointer, bucket.publisher.writing("slow"), [publication])
    await bucket.publisher.swap(SCOPE, base, following)
    assert (await check_whole(store, runtime)).desired == publication


@in_loop
async def test_deleting_waits_for_a_collection_with_a_time_of_the_stores_clock(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    base = await bucket.reader.pointer(SCOPE)
    gone = {publication.id for publication in base.pointer.retained[:2]}
    silent = protocol.collect(
        base.pointer, bucket.publisher.writing("old"), gone
    )  # as an older release wrote it
    await bucket.publisher.swap(SCOPE, base, silent)
    waiting = await collector(store, runtime).collect(SCOPE, "cron", parts=frozenset({"delete"}))
    assert (waiting.deleted, len(waiting.left)) == ((), 2)
    await collector(store, runtime).collect(SCOPE, "daemon", parts=frozenset({"release"}))
    collected = await collector(store, runtime).collect(SCOPE, "cron", parts=frozenset({"delete"}))
    assert went(collected) == ["state-1", "state-2"]


@in_loop
async def test_a_clock_ahead_releases_nothing_and_does_not_write_the_pointer(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = Bucket(store, runtime)
    await bucket.publish(*map(make_state, range(1, 5)))
    await bucket.publisher.store_state(SCOPE, make_state(9))
    await runtime.sleep(0.5 * DAY)
    before = await bucket.pointer()
    collected = await collector(store, OtherClock(runtime, 400)).collect(SCOPE, "cron")
    assert (collected.released, collected.deleted, collected.left, collected.sequence) == (
        (),
        (),
        (),
        None,
    )
    assert await bucket.pointer() == before
    assert len(await states(store)) == 5


@in_loop
async def test_a_clock_behind_waits(store: MemoryStore, runtime: InlineRuntime) -> None:
    await grown(store, runtime)
    collected = await collector(store, OtherClock(runtime, -400)).collect(SCOPE, "cron")
    assert (collected.released, collected.deleted) == ((), ())


@in_loop
async def test_a_clock_ahead_does_not_ignore_a_drop_recorded_in_a_chunk(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await dropped_long_ago(store, runtime)
    await bucket.publisher.store_state(SCOPE, make_state(9))
    await runtime.sleep(2 * DAY)
    collected = await collector(store, OtherClock(runtime, 30)).collect(SCOPE, "cron")
    assert went(collected) == ["state-9"]
    assert "state-1" in await states(store)


@in_loop
async def test_the_stores_clock_is_read_only_for_a_deletion_and_leaves_no_object(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    watched = FaultyStore(store)
    await collector(watched, runtime).collect(SCOPE, "cron")
    assert [key.rpartition("-")[0] for _, key in watched.writes if "clock" in key] == [
        ".rebundle/probe/clock"
    ] * 2
    assert list(await store.scan(".rebundle/")) == []
    pointer = await check_whole(store, runtime)
    assert pointer.history[-1].change["as_of"] == timestamp(runtime.now())
