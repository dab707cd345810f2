"""The live tree on a store: one test per rule of protocol 5, with edits, concurrent passes and
failures.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count

import pytest

from daemon.publishing import layout, protocol
from daemon.publishing.errors import NewerSchema, NotFound, OperationRefused, PointerLost
from daemon.publishing.live_tree.results import FinishedPass, PathReport, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.manifest import RenderedState
from daemon.stores.errors import ConditionFailed, StoreUnavailable
from daemon.stores.port import Content, Listing, Version
from tests.builders_publishing import SCOPE, Bucket, make_files, make_state, tree
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore, Gate
from tests.support.live_trees import edit, finished_pass, kept, marker_of, sha256
from tests.support.memory_store import MemoryStore

COMPOSE, ENV, CREDS = "base/docker-compose.yml", "example/conf/bundle/.env", "example/creds/s3.env"
MARKER_KEY = layout.live_tree(SCOPE, layout.MARKER)

PROCESSES = count()


@pytest.fixture(params=[False, True], ids=["generations", "versions-by-content"])
def memory(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(InlineRuntime("store"), versions_by_content=request.param)


def bucket(store: MemoryStore | FaultyStore, name: str = "") -> Bucket:
    """Another process. Two of them never generate the same random id."""
    return Bucket(store, InlineRuntime(f"{name}-{next(PROCESSES)}"))


def bodies(state: RenderedState) -> dict[str, bytes]:
    return {file.path: file.body for file in state.files}


async def rolled_back(process: Bucket, state: str) -> None:
    base = await process.reader.pointer(SCOPE)
    [target] = base.pointer.retained_of(state)
    await process.publisher.swap(
        SCOPE, base, protocol.rollback(base.pointer, process.publisher.writing("ann"), target)
    )


def test_the_tree_of_a_pointer_that_a_newer_release_wrote_is_left_alone(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        key = layout.pointer(SCOPE)
        stored = await memory.get(key)
        await memory.replace(
            key, Content(stored.body.replace(b'"schema":2', b'"schema":3')), stored.version
        )
        with pytest.raises(NewerSchema, match="newer release"):
            await process.live_tree.reconcile(SCOPE)
        assert list(await memory.scan(layout.live_tree(SCOPE))) == []

    asyncio.run(scenario())


def test_the_first_pass_writes_every_file_and_a_synced_marker(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process, state = bucket(memory), make_state(1)
        read = await process.publish(state)
        result = await finished_pass(process)
        assert await tree(memory) == bodies(state)
        assert set(result.written) == set(bodies(state))
        marker = await marker_of(memory)
        assert read.pointer.live is not None
        assert (marker.sequence, marker.publication, marker.status) == (
            1,
            str(read.pointer.live.id),
            "synced",
        )
        assert set(marker.files) == set(bodies(state))
        stored = await memory.get(layout.live_tree(SCOPE, COMPOSE))
        assert stored.tag["publication"] == str(read.pointer.live.id)
        assert (stored.tag["commit"], stored.tag["mode"]) == ("1.0", "0644")

    asyncio.run(scenario())


def test_nothing_is_written_for_a_scope_without_a_live_state(memory: MemoryStore) -> None:
    async def scenario() -> None:
        assert await bucket(memory).live_tree.reconcile(SCOPE) == FinishedPass(0)
        assert list(await memory.scan("")) == []

    asyncio.run(scenario())


def test_an_idle_pass_writes_nothing(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await edit(memory, ENV, b"MINE=1\n")
        await edit(memory, "base/stray", b"stray")
        store = FaultyStore(memory)
        for name in ("same", "other"):
            await finished_pass(bucket(store, name))
        assert store.writes == []

    asyncio.run(scenario())


def test_base_follows_live_byte_for_byte_forward_and_back(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        one, two = make_state(1), make_state(2, files=make_files("2", **{"base/new": "n"}))
        await process.publish(one)
        await finished_pass(process)
        await process.publish(two)
        await finished_pass(process)
        assert await tree(memory) == {**bodies(two), CREDS: bodies(one)[CREDS]}
        await rolled_back(process, "state-1")
        await finished_pass(process)
        now = await tree(memory)
        assert {path: body for path, body in now.items() if not path.startswith("example/")} == {
            path: body for path, body in bodies(one).items() if not path.startswith("example/")
        }

    asyncio.run(scenario())


def test_an_override_stays_byte_for_byte_through_every_command(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        mine = b"SERVING_101_CPU_LIMIT=3\r\n\xff\x00 no newline"
        await process.publish(make_state(1))
        await finished_pass(process)
        for path in (ENV, CREDS, "example/own.txt"):
            await edit(memory, path, mine)
        await process.publish(make_state(2), make_state(3, files=make_files("3")[:2]))
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: finished_pass(process),
            lambda: process.operations.carry_out(SCOPE, protocol.hold, "ann"),
            lambda: rolled_back(process, "state-1"),
            lambda: process.operations.carry_out(SCOPE, protocol.resume, "ann"),
            lambda: process.publish(make_state(4)),
            lambda: finished_pass(process),
            lambda: process.operations.carry_out(SCOPE, protocol.retire, "ann"),
        ]
        for step in steps:
            await step()
            await process.live_tree.reconcile(SCOPE)
            now = await tree(memory)
            assert {now[path] for path in (ENV, CREDS, "example/own.txt")} == {mine}

    asyncio.run(scenario())


def test_an_override_is_reported_as_one(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await edit(memory, ENV, b"MINE=1\n")
        assert ENV in (await finished_pass(process)).overrides

    asyncio.run(scenario())


def test_a_deleted_file_of_example_stays_deleted_and_is_reported(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await edit(memory, ENV, None)
        assert (await finished_pass(process)).deleted_by_operator == (ENV,)
        await process.publish(make_state(2))
        assert (await finished_pass(process)).deleted_by_operator == (ENV,)
        assert ENV not in await tree(memory)

    asyncio.run(scenario())


def test_an_untouched_default_of_example_is_replaced_by_a_newer_publication(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await process.publish(make_state(2))
        await finished_pass(process)
        assert (await tree(memory))[ENV] == b"# defaults 2\n"

    asyncio.run(scenario())


def test_a_rollback_leaves_the_newer_default_of_example(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await process.publish(make_state(2))
        await finished_pass(process)
        await rolled_back(process, "state-1")
        result = await finished_pass(process)
        assert (await tree(memory))[ENV] == b"# defaults 2\n"
        assert (await tree(memory))[COMPOSE] == b"services 1\n"
        assert not [path for path in result.written if path.startswith("example/")]

    asyncio.run(scenario())


def test_a_commit_position_found_only_in_a_history_chunk_counts(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1), make_state(2))
        current = await process.reader.pointer(SCOPE)
        while current.pointer.previous_chunk is None:
            hold = protocol.hold(current.pointer, process.publisher.writing("ann"))
            current = await process.publisher.swap(SCOPE, current, hold)
        await finished_pass(process)
        assert (await memory.get(layout.live_tree(SCOPE, ENV))).tag["commit"] == "2.0"

    asyncio.run(scenario())


def test_foreign_bytes_in_base_are_kept_aside_reported_and_replaced(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await edit(memory, COMPOSE, b"mine")
        await edit(memory, "README.md", b"mine too")
        result = await finished_pass(process)
        assert result.kept_aside == ("README.md", COMPOSE)
        assert await kept(memory) == {(COMPOSE, b"mine"), ("README.md", b"mine too")}
        assert await tree(memory) == bodies(make_state(1))

    asyncio.run(scenario())


def test_every_foreign_content_of_a_path_is_kept_once(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        for body in (b"mine", b"mine", b"other", b"third", b"other"):
            await edit(memory, COMPOSE, body)
            await finished_pass(process)
        assert await kept(memory) == {(COMPOSE, b"mine"), (COMPOSE, b"other"), (COMPOSE, b"third")}
        assert set(await tree(memory)) == set(bodies(make_state(1)))

    asyncio.run(scenario())


def test_foreign_bytes_that_cannot_be_kept_aside_are_not_replaced(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await edit(memory, COMPOSE, b"mine")
        store = FaultyStore(
            memory, {layout.replaced(SCOPE, COMPOSE, sha256(b"mine")): [Fault.AWAY]}
        )
        with pytest.raises(StoreUnavailable):
            await bucket(store).live_tree.reconcile(SCOPE)
        assert (await tree(memory))[COMPOSE] == b"mine"

    asyncio.run(scenario())


def test_a_copy_of_a_file_of_a_retained_state_is_not_kept_aside(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1), make_state(2))
        await edit(memory, COMPOSE, b"services 1\n")
        assert (await finished_pass(process)).kept_aside == ()
        assert list(await memory.scan(f"{SCOPE}/.rebundle/")) == []

    asyncio.run(scenario())


def test_a_file_with_the_digest_of_the_marker_needs_no_tag(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await edit(memory, COMPOSE, b"services 1\n")  # the same bytes again, without their tag
        await process.publish(make_state(2))
        store = FaultyStore(memory, forbidden=lambda operation, key: "states/state-1" in key)
        assert (await finished_pass(bucket(store))).kept_aside == ()

    asyncio.run(scenario())


def test_an_older_marker_does_not_recreate_a_file_that_an_operator_deleted(
    memory: MemoryStore,
) -> None:
    """The marker that this process wrote last counts only while it is still in the bucket."""

    async def scenario() -> None:
        process, other = bucket(memory), bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        new = "example/conf/new.env"
        await other.publish(make_state(2, files=make_files("2", **{new: "# new\n"})))
        await finished_pass(other)
        key = layout.live_tree(SCOPE, new)
        await memory.delete(key, (await memory.get(key)).version)

        assert (await finished_pass(process)).deleted_by_operator == (new,)
        assert new not in await tree(memory)

    asyncio.run(scenario())


def test_an_unknown_file_below_base_is_reported_and_never_deleted(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await edit(memory, "base/notes.txt", b"mine")
        for number in (2, 3):
            assert (await finished_pass(process)).strays == ("base/notes.txt",)
            await process.publish(make_state(number))
        assert (await tree(memory))["base/notes.txt"] == b"mine"

    asyncio.run(scenario())


def test_a_file_of_a_removed_model_leaves_base_and_stays_in_example(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        both = {"base/bundle/batching_101.txt": "b", "example/conf/bundle/batching_101.txt": "e"}
        await process.publish(make_state(1, files=make_files("1", **both)))
        await finished_pass(process)
        await process.publish(make_state(2))
        await finished_pass(process)
        now = await tree(memory)
        assert "base/bundle/batching_101.txt" not in now
        assert now["example/conf/bundle/batching_101.txt"] == b"e"

    asyncio.run(scenario())


def test_files_below_creds_are_created_once_and_never_read(memory: MemoryStore) -> None:
    async def scenario() -> None:
        def forbidden(operation: str, key: str) -> bool:
            return "/example/creds/" in key and operation != "create"

        process = bucket(FaultyStore(memory, forbidden=forbidden))
        await process.publish(make_state(1))
        await finished_pass(process)
        assert (await tree(memory))[CREDS] == b"# credentials 1\n"
        await edit(memory, CREDS, b"SECRET=1\n")
        await edit(memory, "example/creds/own", b"SECRET=2\n")
        await process.publish(make_state(2))
        await finished_pass(process)
        await rolled_back(process, "state-1")
        await finished_pass(process)
        with pytest.raises(OperationRefused, match="never read"):
            await process.live_tree.restore_example(SCOPE, CREDS)
        assert (await tree(memory))[CREDS] == b"SECRET=1\n"
        await edit(memory, CREDS, None)
        await finished_pass(process)
        assert CREDS not in await tree(memory)
        assert (await process.live_tree.restore_example(SCOPE, CREDS)).written
        assert (await tree(memory))[CREDS] == b"# credentials 1\n"

    asyncio.run(scenario())


def test_the_marker_is_updating_before_the_first_write_and_synced_after_the_last(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await bucket(memory).publish(make_state(2))
        said: list[tuple[str, str]] = []

        async def note(operation: str, key: str) -> None:
            if operation in {"create", "replace", "delete"} and key != MARKER_KEY:
                marker = await marker_of(memory)
                said.append((marker.status, marker.publication or ""))

        store = FaultyStore(memory, before=note)
        await finished_pass(bucket(store))
        assert {status for status, _ in said} == {"updating"}
        assert all(name.startswith("state-2@") for _, name in said)
        assert (store.writes[0][1], store.writes[-1][1]) == (MARKER_KEY, MARKER_KEY)
        assert (await marker_of(memory)).status == "synced"

    asyncio.run(scenario())


def test_a_path_enters_the_marker_only_after_its_write_is_confirmed(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        store = FaultyStore(memory, {ENV: [Fault.AWAY]})
        with pytest.raises(StoreUnavailable):
            await bucket(store).live_tree.reconcile(SCOPE)
        assert ENV not in (await marker_of(memory)).files
        await finished_pass(bucket(memory))
        assert (await tree(memory))[ENV] == b"# defaults 1\n"

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"schema": 2, "sequence": "x"}'])
def test_an_unreadable_marker_is_written_again(memory: MemoryStore, body: bytes) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await edit(memory, layout.MARKER, body)
        await finished_pass(bucket(memory))
        # Credentials are never read, so the new marker cannot record what is below creds/.
        assert (await marker_of(memory)).files.keys() == bodies(make_state(1)).keys() - {CREDS}

    asyncio.run(scenario())


def test_a_hold_without_a_move_raises_only_the_sequence_of_the_marker(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        store = FaultyStore(memory)
        await bucket(store).operations.carry_out(SCOPE, protocol.hold, "ann")
        assert [key for _, key in store.writes] == [layout.pointer(SCOPE), MARKER_KEY]
        assert (await marker_of(memory)).sequence == 2

    asyncio.run(scenario())


# -- concurrent changes


def test_two_passes_at_once_end_synced(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await edit(memory, COMPOSE, b"mine")
        await bucket(memory).publish(make_state(2))
        async with asyncio.TaskGroup() as group:
            for name in ("one", "other"):
                group.create_task(bucket(memory, name).live_tree.reconcile(SCOPE))
        await finished_pass(bucket(memory))
        expected = {**bodies(make_state(2)), CREDS: b"# credentials 1\n"}
        assert await tree(memory) == expected
        marker = await marker_of(memory)
        assert (marker.status, marker.sequence) == ("synced", 2)
        assert await kept(memory) == {(COMPOSE, b"mine")}

    asyncio.run(scenario())


def test_a_pointer_that_moves_during_a_pass_is_followed_by_the_same_pass(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        other = bucket(memory, "other")
        await other.publish(make_state(1))

        async def publish_meanwhile(operation: str, key: str) -> None:
            if operation == "create" and key.endswith(COMPOSE):
                store.before = None
                await other.publish(make_state(2))

        store = FaultyStore(memory, before=publish_meanwhile)
        assert (await finished_pass(bucket(store))).sequence == 2
        assert (await tree(memory))[COMPOSE] == b"services 2\n"

    asyncio.run(scenario())


def test_a_late_write_of_an_old_pass_is_repaired_by_the_next(memory: MemoryStore) -> None:
    async def scenario() -> None:
        new = bucket(memory, "new")
        await new.publish(make_state(1, files=make_files("1", **{"base/only-in-1": "x"})))
        gate = Gate(lambda operation, key: operation == "create" and key.endswith("base/only-in-1"))
        paused = FaultyStore(memory, before=gate)
        old = asyncio.create_task(bucket(paused, "old").live_tree.reconcile(SCOPE))
        await gate.reached.wait()
        await new.publish(make_state(2))
        await finished_pass(new)
        assert "base/only-in-1" not in await tree(memory)

        async def dies_after(operation: str, key: str) -> None:
            if operation == "scan":
                raise StoreUnavailable("the old process ends here")

        paused.before = dies_after
        gate.open()
        with pytest.raises(StoreUnavailable):
            await old
        assert "base/only-in-1" in await tree(memory)
        await finished_pass(new)
        assert await tree(memory) == {**bodies(make_state(2)), CREDS: b"# credentials 1\n"}
        assert list(await memory.scan(f"{SCOPE}/.rebundle/")) == []

    asyncio.run(scenario())


def test_a_pass_behind_the_marker_starts_over_and_never_lowers_it(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        new = bucket(memory, "new")
        await new.publish(make_state(1))
        gate = Gate(lambda operation, key: operation == "get" and key == MARKER_KEY)
        old = asyncio.create_task(
            bucket(FaultyStore(memory, before=gate), "old").live_tree.reconcile(SCOPE)
        )
        await gate.reached.wait()
        await new.publish(make_state(2))
        await finished_pass(new)
        gate.open()
        result = await old
        assert isinstance(result, FinishedPass)
        assert result.sequence == 2
        assert (await marker_of(memory)).sequence == 2

    asyncio.run(scenario())


def test_a_file_changed_before_the_second_listing_is_not_synced(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await bucket(memory).publish(make_state(2))
        scans = 0

        async def write_late(operation: str, key: str) -> None:
            nonlocal scans
            scans += operation == "scan" and key.endswith("docker-compose-gen/")
            if scans == 2:
                store.before = None
                await edit(memory, COMPOSE, b"services 1\n")

        store = FaultyStore(memory, before=write_late)
        await finished_pass(bucket(store))
        assert (await tree(memory))[COMPOSE] == b"services 2\n"

    asyncio.run(scenario())


def test_a_file_recreated_before_the_second_listing_is_not_synced(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1, files=make_files("1", **{"base/old": "x"})))
        await finished_pass(bucket(memory))
        await bucket(memory).publish(make_state(2))
        scans = 0

        async def come_back(operation: str, key: str) -> None:
            nonlocal scans
            scans += operation == "scan" and key.endswith("docker-compose-gen/")
            if scans == 2:
                store.before = None
                await edit(memory, "base/old", b"x")

        store = FaultyStore(memory, before=come_back)
        await finished_pass(bucket(store))
        assert "base/old" not in await tree(memory)

    asyncio.run(scenario())


@pytest.mark.parametrize("operation", ["replace", "delete"])
def test_a_file_that_an_operator_changes_during_a_pass_is_classified_again(
    memory: MemoryStore, operation: str
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1, files=make_files("1", **{"base/old": "x"})))
        await finished_pass(bucket(memory))
        await bucket(memory).publish(make_state(2))
        path = {"replace": ENV, "delete": "base/old"}[operation]

        async def change(asked: str, key: str) -> None:
            if asked == operation and key.endswith(path):
                store.before = None
                await edit(memory, path, b"MINE\n")

        store = FaultyStore(memory, before=change)
        result = await finished_pass(bucket(store))
        assert (await tree(memory))[path] == b"MINE\n"
        assert path in (*result.overrides, *result.strays)

    asyncio.run(scenario())


def test_foreign_bytes_that_change_while_they_are_copied_are_copied_again(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await edit(memory, COMPOSE, b"first")
        reads = 0

        async def change(operation: str, key: str) -> None:
            nonlocal reads
            reads += operation == "get" and key.endswith(COMPOSE)
            if reads == 2:
                store.before = None
                await edit(memory, COMPOSE, b"second")

        store = FaultyStore(memory, before=change)
        await finished_pass(bucket(store))
        assert (await tree(memory))[COMPOSE] == b"services 1\n"
        assert (COMPOSE, b"second") in await kept(memory)

    asyncio.run(scenario())


def test_a_file_that_vanishes_between_listing_and_reading_is_classified_again(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await edit(memory, "base/stray", b"stray")
        await edit(memory, COMPOSE, b"mine")

        async def vanish(operation: str, key: str) -> None:
            if operation == "get" and key.endswith("base/stray"):
                store.before = None
                await edit(memory, "base/stray", None)

        store = FaultyStore(memory, before=vanish)
        assert (await finished_pass(bucket(store))).strays == ()

    asyncio.run(scenario())


def test_a_tree_that_others_never_stop_changing_is_unfinished(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        other = bucket(memory, "other")

        async def move(operation: str, key: str) -> None:
            if operation == "get" and key == MARKER_KEY:
                current = await other.reader.pointer(SCOPE)
                hold = protocol.hold(current.pointer, other.publisher.writing("ann"))
                await other.publisher.swap(SCOPE, current, hold)
                await other.live_tree.reconcile(SCOPE)

        result = await bucket(FaultyStore(memory, before=move)).live_tree.reconcile(SCOPE)
        assert isinstance(result, UnfinishedPass)
        assert "next pass continues" in result.reason

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE, Fault.OWN_SUCCESS, Fault.LATE]
)
@pytest.mark.parametrize("path", [COMPOSE, ENV, CREDS, layout.MARKER, "base/old"])
def test_a_write_of_unknown_outcome_is_resolved_by_the_same_pass(
    memory: MemoryStore, fault: Fault, path: str
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1, files=make_files("1", **{"base/old": "x"})))
        store = FaultyStore(memory, {path: [fault]})
        process = bucket(store)
        await finished_pass(process)
        store.faults = {path: [fault]}
        await process.publish(make_state(2))
        await finished_pass(process)
        assert await tree(memory) == {**bodies(make_state(2)), CREDS: b"# credentials 1\n"}
        assert list(await memory.scan(f"{SCOPE}/.rebundle/")) == []

    asyncio.run(scenario())


def test_a_lost_pointer_leaves_the_tree_alone(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        before = await tree(memory, "")
        stored = await memory.get(layout.pointer(SCOPE))
        await memory.delete(layout.pointer(SCOPE), stored.version)
        with pytest.raises(PointerLost, match="nothing is published until"):
            await process.live_tree.reconcile(SCOPE)
        assert await tree(memory, "") == {
            key: body for key, body in before.items() if key != layout.pointer(SCOPE)
        }

    asyncio.run(scenario())


def test_a_pass_lists_the_tree_before_it_reads_the_pointer(memory: MemoryStore) -> None:
    # The marker prevents most of what the other order would let through. Once it is lost, only the
    # order does.
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        done: list[tuple[str, str]] = []

        async def note(operation: str, key: str) -> None:
            done.append((operation, key))

        await finished_pass(bucket(FaultyStore(memory, before=note)))
        assert done[:2] == [("scan", layout.live_tree(SCOPE)), ("get", layout.pointer(SCOPE))]

    asyncio.run(scenario())


# -- a marker that another writer wrote


def test_a_forged_marker_hides_no_file_from_a_process_that_does_not_trust_markers(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        own = (await memory.get(layout.live_tree(SCOPE, COMPOSE))).body
        await edit(memory, COMPOSE, b"image: of somebody else\n")
        marker = await marker_of(memory)
        version = (await memory.get(layout.live_tree(SCOPE, COMPOSE))).version
        files = marker.files | {
            COMPOSE: marker.files[COMPOSE].model_copy(update={"version": version})
        }
        await edit(
            memory,
            layout.MARKER,
            marker.model_copy(update={"files": files}).model_dump_json(by_alias=True).encode(),
        )

        assert (await bucket(memory).live_tree.survey(SCOPE)).synced, "else nothing was forged"
        assert (await bucket(memory).live_tree.survey(SCOPE, reading_all=True)).report.written == (
            COMPOSE,
        )
        wary = LiveTree(memory, process.reader, InlineRuntime("wary"), trusts_markers=False)
        result = await wary.reconcile(SCOPE)
        assert isinstance(result, FinishedPass)
        assert (result.written, result.kept_aside) == ((COMPOSE,), (COMPOSE,))
        assert (await memory.get(layout.live_tree(SCOPE, COMPOSE))).body == own

    asyncio.run(scenario())


def test_a_process_that_does_not_trust_markers_reads_every_file_once(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        read: list[str] = []

        async def note(operation: str, key: str) -> None:
            if operation == "get" and layout.live_tree(SCOPE) in key and key != MARKER_KEY:
                read.append(key.removeprefix(layout.live_tree(SCOPE)))

        process = bucket(FaultyStore(memory, before=note))
        process.live_tree = LiveTree(
            process.store, process.reader, InlineRuntime("wary"), trusts_markers=False
        )
        await finished_pass(process)
        assert sorted(read) == sorted(
            path for path in bodies(make_state(1)) if not path.startswith("example/creds/")
        )
        read.clear()
        await process.publish(make_state(2))
        await finished_pass(process)
        await finished_pass(process)
        assert read == ["example/conf/bundle/.env"], (
            "its default has changed, so its own tag counts"
        )

    asyncio.run(scenario())


# -- survey


def test_a_survey_reports_what_a_pass_would_do_and_modifies_nothing(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1, files=make_files("1", **{"base/old": "x"})))
        await finished_pass(process)
        assert (await process.live_tree.survey(SCOPE)).synced
        await process.publish(make_state(2))
        await edit(memory, ENV, b"MINE=1\n")
        await edit(memory, "base/stray", b"stray")
        store = FaultyStore(memory)
        survey = await bucket(store).live_tree.survey(SCOPE)
        assert store.writes == []
        assert not survey.synced
        assert survey.would_remove == ("base/old",)
        assert (survey.report.overrides, survey.report.strays) == ((ENV,), ("base/stray",))
        result = await finished_pass(process)
        assert survey.would_write == result.written
        assert (await process.live_tree.survey(SCOPE)).synced

    asyncio.run(scenario())


def test_a_survey_is_synced_only_with_a_synced_marker(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        assert not (await process.live_tree.survey(SCOPE)).synced
        await process.publish(make_state(1))
        await finished_pass(process)
        marker = await marker_of(memory)
        for stale in (
            marker.model_copy(update={"status": "updating"}),
            marker.model_copy(update={"sequence": 0}),
        ):
            await edit(memory, layout.MARKER, stale.model_dump_json(by_alias=True).encode())
            assert not (await process.live_tree.survey(SCOPE)).synced
        await edit(memory, layout.MARKER, marker.model_dump_json(by_alias=True).encode())
        assert (await process.live_tree.survey(SCOPE)).synced

    asyncio.run(scenario())


def test_a_survey_of_a_retired_scope_is_empty(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await process.operations.carry_out(SCOPE, protocol.retire, "ann")
        assert (await process.live_tree.survey(SCOPE)).report == PathReport(2)

    asyncio.run(scenario())


class KnowingStore(FaultyStore):
    """Its listings have the digest of each body, like those of the directory store."""

    async def scan(self, prefix: str) -> Listing:
        listed = await super().scan(prefix)
        bodies = [(await self.inner.get(entry.key)).body for entry in listed]
        return Listing(
            tuple(
                replace(item, sha256=sha256(body))
                for item, body in zip(listed, bodies, strict=True)
            )
        )


class UnreadStore(FaultyStore):
    """Its listings lack the version of files that must not be read, like those of the directory
    store.
    """

    async def scan(self, prefix: str) -> Listing:
        return Listing(
            tuple(
                replace(entry, version=Version("unread"))
                if "/example/creds/" in entry.key
                else entry
                for entry in await super().scan(prefix)
            )
        )


def test_the_second_listing_need_not_show_a_created_credential(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        scans: list[str] = []

        async def note(operation: str, key: str) -> None:
            if operation == "scan":
                scans.append(key)

        await finished_pass(bucket(UnreadStore(memory, before=note)))
        assert scans == [layout.live_tree(SCOPE)] * 2

    asyncio.run(scenario())


def test_a_file_with_the_correct_listed_digest_is_not_read(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))

        def forbidden(operation: str, key: str) -> bool:
            return operation == "get" and "docker-compose-gen/" in key and key != MARKER_KEY

        await finished_pass(bucket(KnowingStore(memory, forbidden=forbidden)))

    asyncio.run(scenario())


# -- example restore


def test_a_deleted_default_can_be_restored_and_deleted_again(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await edit(memory, ENV, None)
        assert (await process.live_tree.restore_example(SCOPE, ENV)).written
        assert (await tree(memory))[ENV] == b"# defaults 1\n"
        assert not (await process.live_tree.restore_example(SCOPE, ENV)).written
        await edit(memory, ENV, None)
        assert (await finished_pass(process)).deleted_by_operator == (ENV,)

    asyncio.run(scenario())


def test_an_override_is_kept_aside_when_its_default_is_restored_and_follows_live_again(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await edit(memory, ENV, b"MINE=1\n")
        assert (await process.live_tree.restore_example(SCOPE, ENV)).written
        assert await kept(memory) == {(ENV, b"MINE=1\n")}
        await process.publish(make_state(2))
        await finished_pass(process)
        assert (await tree(memory))[ENV] == b"# defaults 2\n"

    asyncio.run(scenario())


def test_an_override_that_changes_while_its_default_is_restored_stays(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        await edit(memory, ENV, b"MINE=1\n")

        async def change(operation: str, key: str) -> None:
            if operation == "replace":
                store.before = None
                await edit(memory, ENV, b"MINE=2\n")

        store = FaultyStore(memory, before=change)
        with pytest.raises(ConditionFailed):
            await bucket(store).live_tree.restore_example(SCOPE, ENV)
        assert (await tree(memory))[ENV] == b"MINE=2\n"

    asyncio.run(scenario())


@pytest.mark.parametrize("path", [COMPOSE, "example/nothing", "README.md", ""])
def test_only_a_default_of_example_can_be_restored(memory: MemoryStore, path: str) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        with pytest.raises(NotFound, match="has no default for"):
            await process.live_tree.restore_example(SCOPE, path)

    asyncio.run(scenario())


def test_a_retired_scope_has_no_defaults(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await process.operations.carry_out(SCOPE, protocol.retire, "ann")
        with pytest.raises(NotFound):
            await process.live_tree.restore_example(SCOPE, ENV)

    asyncio.run(scenario())


def calls_of(recording: FaultyStore) -> list[tuple[str, str]]:
    """Every call from now on, in order."""
    calls: list[tuple[str, str]] = []

    async def note(operation: str, key: str) -> None:
        calls.append((operation, key))

    recording.before = note
    return calls


IDLE = [("scan", layout.live_tree(SCOPE)), ("get", layout.pointer(SCOPE))]


def test_a_pass_over_an_unchanged_tree_costs_a_listing_and_the_pointer(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        recording = FaultyStore(memory)
        process = bucket(recording)
        await process.publish(make_state(1))
        await finished_pass(process)
        calls = calls_of(recording)
        assert (await finished_pass(process)).verdicts == ()
        assert calls == IDLE

        await edit(memory, ENV, b"mine")
        await edit(memory, "base/stray", b"whose?")
        said = await finished_pass(process)
        calls.clear()

        assert await finished_pass(process) == said
        assert (said.overrides, said.strays) == ((ENV,), ("base/stray",))
        assert calls == IDLE

    asyncio.run(scenario())


def test_an_idle_pass_still_notices_every_edit(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        await finished_pass(process)
        await edit(memory, COMPOSE, b"mine")

        assert (await finished_pass(process)).kept_aside == (COMPOSE,)
        assert (await finished_pass(process)).verdicts == (), (
            "an earlier result is not reported again"
        )

    asyncio.run(scenario())


def test_a_starting_process_reads_no_file_that_the_marker_records(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        recording = FaultyStore(memory)
        calls = calls_of(recording)
        await finished_pass(bucket(recording))

        read = {
            key for operation, key in calls if operation == "get" and "/docker-compose-gen/" in key
        }
        assert read == {MARKER_KEY}

    asyncio.run(scenario())


def test_a_pass_after_a_publication_reads_no_replaced_file_and_an_override_once(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        recording = FaultyStore(memory)
        process = bucket(recording)
        await process.publish(make_state(1))
        await finished_pass(process)
        await edit(memory, ENV, b"mine")
        calls = calls_of(recording)
        for number in (2, 3):
            await process.publish(make_state(number))
            assert COMPOSE in (await finished_pass(process)).written

        read = [
            key for operation, key in calls if operation == "get" and "/docker-compose-gen/" in key
        ]
        assert read == [layout.live_tree(SCOPE, ENV)]

    asyncio.run(scenario())


def test_a_version_in_the_marker_counts_only_for_its_bytes(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        await finished_pass(process)
        # An operator restores the same bytes: another object with the same text.
        was = (await memory.get(layout.live_tree(SCOPE, ENV))).body
        await edit(memory, ENV, b"mine")
        await edit(memory, ENV, was)
        await bucket(memory).publish(make_state(2))

        assert ENV not in (await finished_pass(bucket(memory))).overrides
        marker = await marker_of(memory)
        assert marker.files[ENV].version == (await memory.get(layout.live_tree(SCOPE, ENV))).version

    asyncio.run(scenario())


def test_the_tree_reveals_a_restored_older_pointer(memory: MemoryStore) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1))
        old = (await memory.get(layout.pointer(SCOPE))).body
        await process.publish(make_state(2))
        await finished_pass(process)
        there = await memory.get(layout.pointer(SCOPE))
        await memory.replace(layout.pointer(SCOPE), Content(old), there.version)
        before = await tree(memory)

        for act in (
            bucket(memory).live_tree.reconcile,
            bucket(memory).live_tree.refuse_lost_pointer,
        ):
            with pytest.raises(
                PointerLost, match=f"older pointer was restored.*rebundle recover {SCOPE}"
            ):
                await act(SCOPE)
        assert await tree(memory) == before

    asyncio.run(scenario())


def test_a_tree_ahead_because_of_a_faster_pass_is_not_a_lost_pointer(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        slow = FaultyStore(memory)
        gate = Gate(lambda operation, key: (operation, key) == ("get", MARKER_KEY))
        slow.before = gate
        process = bucket(slow)
        await finished_pass(bucket(memory))
        passing = asyncio.create_task(process.live_tree.reconcile(SCOPE))
        await gate.reached.wait()
        await bucket(memory).publish(make_state(2))
        await finished_pass(bucket(memory))
        gate.open()

        result = await passing
        assert isinstance(result, FinishedPass)
        assert result.sequence == 2

    asyncio.run(scenario())


def test_a_survey_of_a_tree_that_advances_meanwhile_does_not_call_it_ahead(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        await finished_pass(bucket(memory))
        slow = FaultyStore(memory)
        seen: list[str] = []

        async def between(operation: str, key: str) -> None:
            if operation == "get" and key in {MARKER_KEY, layout.pointer(SCOPE)}:
                seen.append(key)
                if len(seen) == 2:
                    await bucket(memory).publish(make_state(2))
                    await finished_pass(bucket(memory))

        slow.before = between
        survey = await bucket(slow).live_tree.survey(SCOPE)

        assert len(set(seen)) == 2
        assert not survey.marker_is_ahead

    asyncio.run(scenario())


def test_a_default_with_a_reused_version_has_the_commit_position_of_its_tag(
    memory: MemoryStore,
) -> None:
    """A, B, A: if versions are digests, the version that the marker recorded for the first A fits
    the second one.
    """

    async def scenario() -> None:
        first, other = make_files("1"), make_files("2")
        process = bucket(memory)
        await process.publish(make_state(1, files=first))
        await finished_pass(process)
        await process.publish(make_state(2, files=other))
        await process.publish(make_state(3, files=first))
        marker = await memory.get(MARKER_KEY)
        await finished_pass(bucket(memory))
        await edit(memory, ENV, None)
        restored = await bucket(memory).live_tree.restore_example(SCOPE, ENV)
        assert restored.written
        stored = await memory.get(layout.live_tree(SCOPE, ENV))
        assert stored.tag["commit"] == "3.0"
        # The pass that wrote the file ended before it wrote its marker.
        there = await memory.get(MARKER_KEY)
        await memory.replace(MARKER_KEY, Content(marker.body), there.version)
        await rolled_back(bucket(memory), "state-2")
        await finished_pass(bucket(memory))

        assert (await memory.get(layout.live_tree(SCOPE, ENV))).body == stored.body, (
            "a rollback keeps newer defaults"
        )

    asyncio.run(scenario())
