"""Publishing beside other writers over a network that loses answers: the result is won, lost or
unknown.

Runs on both kinds of versions, generations and digests, because the clouds differ in exactly that.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from itertools import count
from typing import ParamSpec, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing import layout, pointer, protocol
from daemon.publishing.errors import (
    CannotSign,
    NewerSchema,
    OutcomeUnresolved,
    PointerLost,
    PointerMoved,
    PublishingError,
    VerificationFailed,
)
from daemon.publishing.grammar import timestamp
from daemon.publishing.pointer import Pointer
from daemon.publishing.reader import PointerRead
from daemon.stores.errors import StoreBusy, StoreRefused, StoreUnavailable
from daemon.stores.port import Content
from tests.builders_publishing import SCOPE, Bucket, make_state, writing
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore, Gate
from tests.support.memory_store import MemoryStore

POINTER = "pointer.json"

P = ParamSpec("P")
T = TypeVar("T")
PROCESSES = count()


@pytest.fixture(params=[False, True], ids=["generations", "versions-by-content"])
def memory(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(InlineRuntime("store"), versions_by_content=request.param)


def bucket(store: MemoryStore | FaultyStore, name: str = "") -> Bucket:
    """Another process. Two of them never generate the same random id."""
    return Bucket(store, InlineRuntime(f"{name}-{next(PROCESSES)}"))


async def held(process: Bucket, base: PointerRead) -> PointerRead:
    """One change of the pointer that needs no state."""
    return await process.publisher.swap(
        SCOPE, base, protocol.hold(base.pointer, process.publisher.writing("ann"))
    )


def sequences(current: Pointer) -> list[int]:
    return [entry.sequence for entry in current.history]


def test_a_state_is_stored_completely_before_the_pointer_references_it(memory: MemoryStore) -> None:
    store = FaultyStore(memory)
    read = asyncio.run(bucket(store).publish(make_state(1)))
    live = read.pointer.live
    assert live is not None
    folder = f"{SCOPE}/states/state-1/{live.attempt}"
    *uploads, last = store.writes
    assert sorted(uploads) == [
        ("create", f"{folder}/bundle.tar.gz"),
        ("create", f"{folder}/manifest.json"),
    ]
    assert last == ("create", f"{SCOPE}/pointer.json")


def test_a_state_is_packed_off_the_event_loop(memory: MemoryStore) -> None:
    class Counting(InlineRuntime):
        async def run_in_thread(
            self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
        ) -> T:
            offloaded.append(len(store.writes))
            return await super().run_in_thread(work, *args, **kwargs)

    store, offloaded = FaultyStore(memory), list[int]()
    process = Bucket(store, Counting("counting"))
    asyncio.run(process.publisher.store_state(SCOPE, make_state(1)))
    assert offloaded == [0], "once, before anything is written"
    assert len(store.writes) == 2


def test_another_process_reads_and_verifies_the_stored_state(memory: MemoryStore) -> None:
    async def scenario() -> None:
        state = make_state(1)
        read = await bucket(memory).publish(state)
        assert read.pointer.live is not None
        files = await bucket(memory, "other").reader.files(SCOPE, read.pointer.live)
        assert sorted(files, key=lambda file: file.path) == sorted(
            state.files, key=lambda file: file.path
        )

    asyncio.run(scenario())


def test_the_same_state_stored_twice_has_two_attempts_and_shares_no_object(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        first = await process.publisher.store_state(SCOPE, make_state(1))
        second = await process.publisher.store_state(SCOPE, make_state(1))
        assert first.attempt != second.attempt
        assert len(await memory.scan(f"{SCOPE}/states/")) == 4

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.OWN_SUCCESS, Fault.REFUSED_AGAIN])
@pytest.mark.parametrize("before", [0, 1], ids=["new-scope", "known-scope"])
def test_an_applied_write_is_won_with_any_answer(
    memory: MemoryStore, fault: Fault, before: int
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        process = bucket(store)
        for number in range(before):
            await process.publish(make_state(number + 1))
        store.faults = {POINTER: [fault]}
        store.writes.clear()
        read = await process.publish(make_state(7))
        assert sum(key.endswith(POINTER) for _, key in store.writes) == 1
        assert sequences(read.pointer) == list(range(1, before + 2))
        assert sequences(await process.pointer()) == list(range(1, before + 2))

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LATE, Fault.AWAY])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 1], ids=["new-scope", "known-scope"])
def test_a_write_that_was_not_applied_is_sent_again_and_commits_once(
    memory: MemoryStore, fault: Fault, times: int, before: int
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        process = bucket(store)
        for number in range(before):
            await process.publish(make_state(number + 1))
        store.faults = {POINTER: [fault] * times}
        read = await process.publish(make_state(7))
        await store.arrive()
        assert (await process.pointer()) == read.pointer
        assert sequences(read.pointer) == list(range(1, before + 2))

    asyncio.run(scenario())


def test_a_write_that_never_gets_an_answer_is_unknown_and_may_still_arrive_once(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        process = bucket(store)
        base = await process.publish(make_state(1))
        store.faults = {
            POINTER: [Fault.LOST_BEFORE, Fault.LOST_BEFORE, Fault.LOST_BEFORE, Fault.LATE]
        }
        with pytest.raises(OutcomeUnresolved):
            await held(process, base)
        await store.arrive()
        assert sequences(await process.pointer()) == [1, 2]

    asyncio.run(scenario())


def test_a_write_is_unknown_when_the_pointer_cannot_be_read_back(memory: MemoryStore) -> None:
    async def scenario() -> None:
        async def away(operation: str, key: str) -> None:
            if operation == "get" and store.writes:
                raise StoreUnavailable(key)

        store = FaultyStore(memory, {POINTER: [Fault.LOST_AFTER] + [Fault.LOST_BEFORE] * 3})
        process = bucket(store)
        base = await bucket(memory, "earlier").publish(make_state(1))
        store.before = away
        with pytest.raises(OutcomeUnresolved):
            await held(process, base)

    asyncio.run(scenario())


def test_a_write_that_was_refused_and_not_applied_is_refused_and_not_sent_again(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        process = bucket(store)
        base = await process.publish(make_state(1))
        store.writes.clear()
        store.faults = {POINTER: [Fault.REFUSED]}
        with pytest.raises(StoreRefused):
            await held(process, base)
        assert len(store.writes) == 1
        assert (await process.pointer()).sequence == 1

    asyncio.run(scenario())


def test_a_write_that_was_refused_after_an_earlier_sending_got_no_answer_is_unknown(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        process = bucket(store)
        base = await process.publish(make_state(1))
        store.faults = {POINTER: [Fault.LOST_BEFORE, Fault.REFUSED]}
        with pytest.raises(OutcomeUnresolved, match="rebundle status"):
            await held(process, base)

    asyncio.run(scenario())


def test_a_write_without_an_answer_is_unknown_without_read_permission(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        async def refuse(operation: str, key: str) -> None:
            if operation == "get" and store.writes:
                raise StoreRefused(key)

        store = FaultyStore(memory, {POINTER: [Fault.LOST_AFTER]})
        process = bucket(store)
        base = await bucket(memory, "earlier").publish(make_state(1))
        store.before = refuse
        with pytest.raises(OutcomeUnresolved):
            await held(process, base)

    asyncio.run(scenario())


def test_the_slower_of_two_writers_has_lost(memory: MemoryStore) -> None:
    async def scenario() -> None:
        one, other = bucket(memory, "one"), bucket(memory, "other")
        base = await one.publish(make_state(1))
        won = await held(other, base)
        with pytest.raises(PointerMoved, match="sequence 2"):
            await held(one, base)
        assert await one.pointer() == won.pointer

    asyncio.run(scenario())


def test_of_two_writers_that_create_a_scope_one_has_lost(memory: MemoryStore) -> None:
    async def scenario() -> None:
        one, other = bucket(memory, "one"), bucket(memory, "other")
        base = await one.reader.pointer(SCOPE)
        await other.publish(make_state(1))
        publication = await one.publisher.store_state(SCOPE, make_state(2))
        with pytest.raises(PointerMoved):
            await one.publisher.swap(
                SCOPE,
                base,
                protocol.publish(base.pointer, one.publisher.writing("one"), [publication]),
            )
        assert sequences(await one.pointer()) == [1]

    asyncio.run(scenario())


def test_a_won_write_that_others_built_on_is_found_in_history_and_not_repeated(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        one, other = bucket(store, "one"), bucket(memory, "other")
        base = await one.publish(make_state(1))

        async def others_build_on_it(operation: str, key: str) -> None:
            if operation == "get" and key.endswith(POINTER):
                store.before = None
                for _ in range(3):
                    await held(other, await other.reader.pointer(SCOPE))

        async def after_the_write(operation: str, key: str) -> None:
            if operation == "replace":
                store.before = others_build_on_it

        store.faults = {POINTER: [Fault.LOST_AFTER]}
        store.before = after_the_write
        read = await held(one, base)
        assert sequences(read.pointer) == [1, 2, 3, 4, 5]
        assert await one.pointer() == read.pointer

    asyncio.run(scenario())


@pytest.mark.parametrize("applied", [True, False])
def test_a_write_that_only_the_chunks_record_is_found_there(
    memory: MemoryStore, applied: bool
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        one, other = bucket(store, "one"), bucket(memory, "other")
        base = await one.publish(make_state(1))
        following = protocol.hold(base.pointer, one.publisher.writing("one"))

        async def much_happens(operation: str, key: str) -> None:
            if operation == "get" and key.endswith(POINTER):
                store.before = None
                current = await other.reader.pointer(SCOPE)
                for _ in range(2 * pointer.MOST_HISTORY):
                    current = await held(other, current)

        async def after_the_write(operation: str, key: str) -> None:
            if operation == "replace":
                store.before = much_happens

        store.faults = {POINTER: [Fault.LOST_AFTER if applied else Fault.LOST_BEFORE]}
        store.before = after_the_write
        if applied:
            read = await one.publisher.swap(SCOPE, base, following)
            assert not read.pointer.knows_write(following.write_id)
        else:
            with pytest.raises(PointerMoved):
                await one.publisher.swap(SCOPE, base, following)
        entries = await one.reader.history(await one.pointer())
        assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
        assert sum(entry.write_id == following.write_id for entry in entries) == applied

    asyncio.run(scenario())


def test_history_is_split_into_chunks_without_loss(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        current = await process.publish(make_state(1))
        for _ in range(3 * pointer.MOST_HISTORY):
            current = await held(process, current)
            assert len(current.pointer.history) <= pointer.MOST_HISTORY
        chunks = [item.key for item in await memory.scan(f"{SCOPE}/history/")]
        entries = await process.reader.history(current.pointer)
        assert [entry.sequence for entry in entries] == list(range(1, 3 * pointer.MOST_HISTORY + 2))
        # Each chunk by the write that found the history full.
        firsts = range(1, len(entries) - pointer.MOST_HISTORY + 1, pointer.CHUNK)
        writes = [entries[first + pointer.MOST_HISTORY - 1].write_id for first in firsts]
        meant = {
            layout.history(SCOPE, at, at + 63, write)
            for at, write in zip(firsts, writes, strict=True)
        }
        assert set(chunks) == meant

    asyncio.run(scenario())


def test_a_chunk_of_another_writer_is_never_used(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory)
        one, other = bucket(store, "one"), bucket(memory, "other")
        current = await one.publish(make_state(1))
        while len(current.pointer.history) < pointer.MOST_HISTORY:
            current = await held(one, current)
        store.faults = {POINTER: [Fault.LOST_BEFORE] * 4}
        with pytest.raises(OutcomeUnresolved):
            await held(one, current)
        [left] = await memory.scan(layout.histories(SCOPE))
        await memory.replace(left.key, Content(b"damaged"), left.version)
        older = (await held(other, current)).pointer.previous_chunk
        assert older is not None
        assert older.key != left.key
        assert (
            len(await other.reader.history(await other.pointer())) == current.pointer.sequence + 1
        )

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["bundle.tar.gz", "manifest.json"])
@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.OWN_SUCCESS])
def test_an_upload_that_was_applied_is_confirmed_by_reading_it_back(
    memory: MemoryStore, key: str, fault: Fault
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory, {key: [fault]})
        read = await bucket(store).publish(make_state(1))
        assert read.pointer.live is not None
        assert await bucket(memory, "other").reader.files(SCOPE, read.pointer.live)

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["bundle.tar.gz", "manifest.json"])
@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LATE, Fault.AWAY])
def test_an_unconfirmed_upload_is_a_transient_error_and_no_pointer_is_written(
    memory: MemoryStore, key: str, fault: Fault
) -> None:
    async def scenario() -> None:
        store = FaultyStore(memory, {key: [fault]})
        with pytest.raises(StoreUnavailable):
            await bucket(store).publish(make_state(1))
        assert not any(written.endswith(POINTER) for _, written in store.writes)

    asyncio.run(scenario())


def test_a_publication_over_foreign_bytes_is_refused_and_they_stay(memory: MemoryStore) -> None:
    async def scenario() -> None:
        attempt = InlineRuntime("daemon").random_id()
        key = layout.manifest(SCOPE, "state-1", attempt)
        await memory.create(key, Content(b"somebody else's"))
        with pytest.raises(VerificationFailed, match="exists with different content"):
            await Bucket(memory, InlineRuntime("daemon")).publisher.store_state(
                SCOPE, make_state(1)
            )
        assert (await memory.get(key)).body == b"somebody else's"

    asyncio.run(scenario())


def test_a_refusal_by_the_store_is_reported(memory: MemoryStore) -> None:
    async def scenario() -> None:
        async def refuse(operation: str, key: str) -> None:
            if operation == "create":
                raise StoreRefused("no permission")

        with pytest.raises(StoreRefused, match="no permission"):
            await bucket(FaultyStore(memory, before=refuse)).publish(make_state(1))

    asyncio.run(scenario())


async def rewritten(memory: MemoryStore, change: str) -> None:
    stored = await memory.get(layout.pointer(SCOPE))
    document = json.loads(stored.body)
    if change == "schema":
        document["signed"]["schema"] = 3
    else:
        document["signatures"] = [{"keyid": "k", "sig": "s"}]
    await memory.replace(
        layout.pointer(SCOPE), Content(json.dumps(document).encode()), stored.version
    )


@pytest.mark.parametrize(("change", "error"), [("schema", NewerSchema), ("signature", CannotSign)])
def test_a_pointer_of_a_newer_schema_or_a_signed_one_is_not_changed(
    memory: MemoryStore, change: str, error: type[PublishingError]
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await rewritten(memory, change)
        before = (await memory.get(layout.pointer(SCOPE))).body
        with pytest.raises(error):
            await held(process, await process.reader.pointer(SCOPE))
        assert (await memory.get(layout.pointer(SCOPE))).body == before

    asyncio.run(scenario())


def test_a_deleted_pointer_is_not_recreated(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        base = await process.publish(make_state(1))
        await process.live_tree.reconcile(SCOPE)
        stored = await memory.get(layout.pointer(SCOPE))
        await memory.delete(layout.pointer(SCOPE), stored.version)
        with pytest.raises(PointerLost):
            await held(process, base)
        assert not list(await memory.scan(layout.pointer(SCOPE)))

    asyncio.run(scenario())


def test_a_cancelled_write_may_still_arrive_and_the_next_read_shows_it(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        gate = Gate(lambda operation, key: operation == "replace")
        process = bucket(FaultyStore(memory, before=gate))
        base = await process.publish(make_state(1))
        task = asyncio.create_task(held(process, base))
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await process.reader.pointer(SCOPE)).pointer.sequence == 1

    asyncio.run(scenario())


def test_a_time_is_written_in_utc_to_the_millisecond() -> None:
    assert timestamp(InlineRuntime().now()) == "1970-01-12T13:46:40.000Z"


@given(
    st.lists(st.lists(st.sampled_from(list(Fault)), max_size=4), min_size=2, max_size=3),
    st.booleans(),
)
def test_writers_with_any_faults_never_commit_twice_or_lose_a_won_write(
    faults: list[list[Fault]], by_content: bool
) -> None:
    async def scenario() -> None:
        memory = MemoryStore(InlineRuntime("store"), versions_by_content=by_content)
        await bucket(memory, "first").publish(make_state(1))
        stores = [FaultyStore(memory, {POINTER: list(fault)}) for fault in faults]
        won: list[str] = []
        lost: list[str] = []

        async def write(number: int, store: FaultyStore) -> None:
            process = bucket(store, f"writer-{number}")
            for turn in range(3):
                base = await process.reader.pointer(SCOPE)
                mark = writing(10 * number + turn, by=str(number))
                try:
                    await process.publisher.swap(SCOPE, base, protocol.hold(base.pointer, mark))
                    won.append(mark.write_id)
                except PointerMoved:
                    lost.append(mark.write_id)
                except (OutcomeUnresolved, StoreRefused, StoreBusy):
                    continue

        async with asyncio.TaskGroup() as group:
            for number, store in enumerate(stores, 1):
                group.create_task(write(number, store))
        for store in stores:
            await store.arrive()
        current = (await bucket(memory, "last").reader.pointer(SCOPE)).pointer
        writes = [entry.write_id for entry in current.history]
        assert sequences(current) == list(range(1, current.sequence + 1))
        assert len(writes) == len(set(writes))
        assert set(won) <= set(writes)
        assert not set(lost) & set(writes)

    asyncio.run(scenario())


def test_a_chunk_is_verified_by_its_digest(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        current = await process.publish(make_state(1))
        while current.pointer.previous_chunk is None:
            current = await held(process, current)
        body = (await memory.get(current.pointer.previous_chunk.key)).body
        assert current.pointer.previous_chunk.sha256 == hashlib.sha256(body).hexdigest()

    asyncio.run(scenario())
