"""Commands of operators: one compare-and-swap each, then a pass over the live tree (protocol 4)."""

import asyncio
from collections.abc import Callable
from itertools import count

import pytest

from daemon.publishing import layout, operator_commands, protocol
from daemon.publishing.errors import NotFound, OperationRefused, PointerMoved, VerificationFailed
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.pointer import Pointer, find_exactly, find_retained
from daemon.publishing.protocol import Writing
from daemon.stores.errors import StoreBusy, StoreError, StoreUnavailable
from daemon.stores.port import Content
from renderers.values import Scope
from tests.builders_publishing import SCOPE, Bucket, make_publication, make_state, published, tree
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore

PROCESSES = count()


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(InlineRuntime("store"))


def bucket(store: MemoryStore | FaultyStore, name: str = "") -> Bucket:
    """Another process. Two of them never generate the same random id."""
    return Bucket(store, InlineRuntime(f"{name}-{next(PROCESSES)}"))


def names(pointer: Pointer) -> tuple[str | None, str | None]:
    return pointer.live and pointer.live.state, pointer.desired and pointer.desired.state


def test_a_rollback_changes_pointer_and_live_tree_renders_nothing_and_keeps_positions(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        before = await bucket(memory).pointer()
        store = FaultyStore(memory)
        done = await bucket(store).operations.carry_out(
            SCOPE, operator_commands.rollback("state-1"), "ann", "too slow"
        )
        assert done.changed
        assert (names(done.before), names(done.after)) == (
            ("state-2", "state-2"),
            ("state-1", "state-2"),
        )
        assert (done.after.sequence, done.after.positions) == (3, before.positions)
        assert done.after.hold is not None
        assert (done.after.hold.by, done.after.hold.reason) == ("ann", "too slow")
        assert isinstance(done.live_tree, FinishedPass)
        assert (await tree(memory))["base/docker-compose.yml"] == b"services 1\n"
        assert not [key for _, key in store.writes if "/states/" in key]

    asyncio.run(scenario())


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_command_starts_from_the_pointer_that_its_preview_has_read(
    memory: MemoryStore, overtaken: bool
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        process = bucket(memory)
        command = operator_commands.rollback("state-1")
        previewed = await process.operations.preview(SCOPE, command, "ann")
        if overtaken:
            await bucket(memory, "other").publish(make_state(3))
        tried: list[int] = []

        def watched(pointer: Pointer, writing: Writing) -> Pointer | None:
            tried.append(pointer.sequence)
            return command(pointer, writing)

        done = await process.operations.carry_out(SCOPE, watched, "ann", previewed=previewed)

        assert tried == ([2, 3] if overtaken else [2])
        assert (done.before.sequence, done.after.sequence) == (tried[-1], tried[-1] + 1)
        assert names(done.after) == ("state-1", "state-3" if overtaken else "state-2")

    asyncio.run(scenario())


def test_a_previewed_command_reads_nothing_before_its_write(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        command = operator_commands.rollback("state-1")
        previewed = await bucket(memory).operations.preview(SCOPE, command, "ann")
        calls: list[tuple[str, str]] = []

        async def note(operation: str, key: str) -> None:
            calls.append((operation, key))

        other = bucket(FaultyStore(memory, before=note), "nothing is cached")
        await other.operations.carry_out(SCOPE, command, "ann", previewed=previewed)
        assert calls[0] == ("replace", layout.pointer(SCOPE))

    asyncio.run(scenario())


def test_a_preview_reports_the_result_and_writes_nothing(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        store = FaultyStore(memory)
        done = await bucket(store).operations.preview(
            SCOPE, operator_commands.rollback("state-1"), "ann"
        )
        assert (done.changed, names(done.after), done.live_tree) == (
            True,
            ("state-1", "state-2"),
            None,
        )
        nothing = await bucket(store).operations.preview(SCOPE, protocol.resume, "ann")
        assert (nothing.changed, nothing.after) == (False, nothing.before)
        assert store.writes == []

    asyncio.run(scenario())


def test_a_command_without_effect_leaves_the_pointer_and_still_runs_a_pass(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        await bucket(memory).operations.carry_out(
            SCOPE, operator_commands.rollback("state-1"), "ann"
        )
        before = await memory.get(layout.pointer(SCOPE))
        again = await bucket(memory).operations.carry_out(
            SCOPE, operator_commands.rollback("state-1"), "ann"
        )
        assert not again.changed
        assert isinstance(again.live_tree, FinishedPass)
        assert await memory.get(layout.pointer(SCOPE)) == before

    asyncio.run(scenario())


def test_a_rollback_to_what_is_live_holds_it(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        done = await bucket(memory).operations.carry_out(
            SCOPE, operator_commands.rollback("state-1"), "ann"
        )
        assert done.changed
        assert done.after.hold is not None

    asyncio.run(scenario())


def test_a_rollback_that_discards_newer_needs_no_hold(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        command = operator_commands.rollback("state-1", discard_newer=True)
        done = await bucket(memory).operations.carry_out(SCOPE, command, "ann")
        assert (names(done.after), done.after.hold) == (("state-1", "state-1"), None)

    asyncio.run(scenario())


def test_a_rollback_is_refused_when_another_state_is_live_than_expected(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        process = bucket(memory)
        await process.publish(make_state(1), make_state(2))
        with pytest.raises(OperationRefused, match="live is state-2, not state-1"):
            await process.operations.carry_out(
                SCOPE, operator_commands.rollback("state-1", expected_live="state-1"), "ann"
            )
        await process.operations.carry_out(
            SCOPE, operator_commands.rollback("state-1", expected_live="state-2"), "ann"
        )
        await process.operations.carry_out(SCOPE, protocol.retire, "ann")
        with pytest.raises(OperationRefused, match="live is nothing"):
            await process.operations.carry_out(
                SCOPE, operator_commands.rollback("state-1", expected_live="state-1"), "ann"
            )

    asyncio.run(scenario())


def test_a_command_on_a_missing_scope_is_not_found_and_creates_none(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        with pytest.raises(NotFound, match="nothing is published"):
            await bucket(memory).operations.carry_out(SCOPE, protocol.hold, "ann")
        assert list(await memory.scan("")) == []

    asyncio.run(scenario())


def test_quarantine_and_its_lifting_name_states(memory: MemoryStore) -> None:
    async def scenario() -> None:
        act = bucket(memory).operations.carry_out
        await bucket(memory).publish(make_state(1), make_state(2))
        done = await act(
            SCOPE, operator_commands.quarantine("state-2", rollback_to="state-1"), "ann", "bad"
        )
        assert names(done.after) == ("state-1", "state-2")
        assert (await tree(memory))["base/docker-compose.yml"] == b"services 1\n"
        with pytest.raises(OperationRefused):
            await act(SCOPE, protocol.resume, "ann")
        assert (
            await act(SCOPE, operator_commands.lift_quarantine("state-2"), "ann")
        ).after.quarantined == ()
        assert names((await act(SCOPE, protocol.resume, "ann")).after) == ("state-2", "state-2")
        assert (await act(SCOPE, operator_commands.quarantine("state-1"), "ann")).after.quarantined

    asyncio.run(scenario())


def test_a_pin_is_set_and_lifted(memory: MemoryStore) -> None:
    async def scenario() -> None:
        act = bucket(memory).operations.carry_out
        await bucket(memory).publish(make_state(1))
        assert (
            (await act(SCOPE, operator_commands.pin("state-1", pinned=True), "ann"))
            .after.retained[0]
            .pinned
        )
        assert (
            not (await act(SCOPE, operator_commands.pin("state-1", pinned=False), "ann"))
            .after.retained[0]
            .pinned
        )

    asyncio.run(scenario())


def test_a_command_is_decided_again_if_another_writer_was_faster(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))

        async def publish_meanwhile(operation: str, key: str) -> None:
            if operation == "replace" and key == layout.pointer(SCOPE):
                store.before = None
                await bucket(memory, "other").publish(make_state(2))

        store = FaultyStore(memory, before=publish_meanwhile)
        done = await bucket(store).operations.carry_out(SCOPE, protocol.hold, "ann")
        assert names(done.before) == ("state-2", "state-2")
        assert done.after.sequence == 3

    asyncio.run(scenario())


def test_a_command_gives_up_if_other_writers_are_always_faster(memory: MemoryStore) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        numbers = iter(range(2, 100))
        other = bucket(memory, "other")

        async def always(operation: str, key: str) -> None:
            if operation == "replace" and key == layout.pointer(SCOPE):
                await other.publish(make_state(next(numbers)))

        with pytest.raises(PointerMoved, match="5 times in a row"):
            await bucket(FaultyStore(memory, before=always)).operations.carry_out(
                SCOPE, protocol.hold, "ann"
            )
        assert (await other.pointer()).hold is None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "fault", [Fault.LOST_AFTER, Fault.OWN_SUCCESS, Fault.LOST_BEFORE, Fault.LATE]
)
def test_a_command_takes_effect_once_with_any_answer(memory: MemoryStore, fault: Fault) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        store = FaultyStore(memory, {"pointer.json": [fault]})
        done = await bucket(store).operations.carry_out(
            SCOPE, operator_commands.rollback("state-1"), "ann"
        )
        assert [entry.kind for entry in done.after.history] == ["publish", "publish", "rollback"]
        assert await bucket(memory).pointer() == done.after

    asyncio.run(scenario())


def test_a_state_resolves_to_its_newest_retained_attempt_or_the_named_one() -> None:
    pointer = published(
        make_publication("a", attempt="1234"),
        make_publication("a", attempt="1299"),
        make_publication("b", attempt="12"),
    )
    for find in (find_retained, find_exactly):
        assert find(pointer, "a").attempt == "1299"
        assert find(pointer, "a@1234").attempt == "1234"
        assert find(pointer, "a@123").attempt == "1234"
        for name in ("a@12", "a@9", "c", "", "@12"):
            with pytest.raises(NotFound):
                find(pointer, name)


def test_reading_commands_accept_a_unique_prefix_of_a_state() -> None:
    pointer = published(
        make_publication("alpha"), make_publication("alps"), make_publication("beta")
    )
    assert find_retained(pointer, "b").state == "beta"
    assert find_retained(pointer, "alph").state == "alpha"
    with pytest.raises(
        NotFound, match="al is the beginning of 2 states, alpha, alps: name one of them in full"
    ):
        find_retained(pointer, "al")


def test_changing_commands_require_the_full_state_id() -> None:
    pointer = published(make_publication("state-10"))
    for command in (
        operator_commands.rollback("state-1"),
        operator_commands.quarantine("state-1"),
        operator_commands.quarantine("state-10", rollback_to="state-1"),
        operator_commands.lift_quarantine("state-1"),
        operator_commands.pin("state-1", pinned=True),
    ):
        with pytest.raises(
            NotFound, match=r"state-1 is not a retained state .*; is state-10 meant\?"
        ):
            command(pointer, protocol.Writing("w", "t", "ann"))


COMPOSE, MARKER = "base/docker-compose.yml", layout.live_tree(SCOPE, layout.MARKER)


@pytest.mark.parametrize("path", [COMPOSE, MARKER])
def test_a_throttling_store_is_retried_in_the_pass_too(memory: MemoryStore, path: str) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        await bucket(memory).live_tree.reconcile(SCOPE)
        store = FaultyStore(memory, faults={path: [Fault.BUSY] * 3})
        done = await bucket(store).operations.carry_out(
            SCOPE, operator_commands.rollback("state-1"), "ann"
        )
        assert isinstance(done.live_tree, FinishedPass)
        assert (await tree(memory))[COMPOSE] == b"services 1\n"

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.AWAY, Fault.REFUSED])
@pytest.mark.parametrize("path", [COMPOSE, MARKER])
def test_a_committed_command_is_reported_as_committed_although_its_pass_fails(
    memory: MemoryStore, path: str, fault: Fault
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1), make_state(2))
        store = FaultyStore(memory, faults={path: [fault] * 100})
        done = await bucket(store).operations.carry_out(
            SCOPE, operator_commands.rollback("state-1"), "ann"
        )
        assert (done.changed, names(await bucket(memory).pointer())) == (
            True,
            ("state-1", "state-2"),
        )
        assert done.live_tree is not None
        assert done.live_tree.sequence == 3
        if (path, fault) == (COMPOSE, Fault.REFUSED):
            assert isinstance(done.live_tree, FinishedPass)
            assert (
                [blocked.path for blocked in done.live_tree.blocked],
                done.live_tree.follows,
            ) == (
                [COMPOSE],
                False,
            )
        else:
            assert isinstance(done.live_tree, UnfinishedPass)
            assert done.live_tree.reason.startswith(
                "committed as sequence 3, the live tree follows later: "
            )

    asyncio.run(scenario())


def test_a_hold_on_a_state_with_a_damaged_archive_is_reported_as_committed(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        read = await bucket(memory).publish(make_state(1))
        assert read.pointer.live is not None
        key = layout.archive(SCOPE, "state-1", read.pointer.live.attempt)
        await memory.replace(key, Content(b"damaged"), (await memory.get(key)).version)
        done = await bucket(memory).operations.carry_out(SCOPE, protocol.hold, "ann")
        assert done.after.hold is not None
        assert isinstance(done.live_tree, UnfinishedPass)
        assert "does not match its digest" in done.live_tree.reason

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.BUSY, StoreBusy), (Fault.AWAY, StoreUnavailable)]
)
def test_a_command_that_only_had_to_sync_the_tree_fails_with_its_pass(
    memory: MemoryStore, fault: Fault, error: type[StoreError]
) -> None:
    async def scenario() -> None:
        await bucket(memory).publish(make_state(1))
        store = FaultyStore(memory, faults={COMPOSE: [fault] * 100})
        with pytest.raises(error):
            await bucket(store).operations.carry_out(SCOPE, protocol.resume, "ann")

    asyncio.run(scenario())


@pytest.mark.parametrize("key", [layout.manifest, layout.archive])
def test_a_damaged_state_does_not_go_live(
    memory: MemoryStore, key: Callable[[Scope, str, str], str]
) -> None:
    async def scenario() -> None:
        read = await bucket(memory).publish(make_state(1), make_state(2))
        [target] = read.pointer.retained_of("state-1")
        damaged = key(SCOPE, "state-1", target.attempt)
        await memory.replace(damaged, Content(b"damaged"), (await memory.get(damaged)).version)
        for act in (bucket(memory).operations.preview, bucket(memory).operations.carry_out):
            with pytest.raises(VerificationFailed):
                await act(SCOPE, operator_commands.rollback("state-1"), "ann")
        assert await bucket(memory).pointer() == read.pointer

    asyncio.run(scenario())
