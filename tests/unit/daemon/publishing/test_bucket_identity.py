"""The id of a bucket: created once, remembered, compared, and never created where one is expected."""

import asyncio
import itertools
import json

import pytest
from structlog.testing import capture_logs

from daemon.publishing import layout
from daemon.publishing.bucket_identity import BucketIdentity, bucket_id
from daemon.publishing.errors import WrongBucket
from daemon.retry import Backoff
from daemon.stores.errors import StoreForbidden, StoreUnavailable
from daemon.stores.port import Content, ObjectStore
from events.errors import SourceUnavailable
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore

ONE, TWO = "1" * 32, "2" * 32


class BucketMemory:
    """Implements daemon.publishing.bucket_identity.BucketMemory."""

    def __init__(self, bucket: str | None = None) -> None:
        self.remembered = bucket
        self.away = False

    async def bucket(self) -> str | None:
        return self.remembered

    async def remember_bucket(self, bucket: str) -> None:
        if self.away:
            raise SourceUnavailable("the disk is full")
        self.remembered = bucket


def store_with(body: str | None) -> MemoryStore:
    store = MemoryStore(InlineRuntime())
    if body is not None:
        asyncio.run(store.create(layout.BUCKET, Content(body.encode())))
    return store


def document(bucket: str) -> str:
    return json.dumps({"id": bucket, "schema": 1, "made_by": "a newer release"})


def identity(
    store: ObjectStore, memory: BucketMemory, *, new_bucket: bool = False, name: str = "a"
) -> BucketIdentity:
    return BucketIdentity(store, memory, InlineRuntime(name), Backoff(1, 4), new_bucket=new_bucket)


def test_a_journal_without_a_bucket_gives_a_new_one_an_id_and_keeps_it() -> None:
    store, memory = store_with(None), BucketMemory()
    one = identity(store, memory)
    assert one.pending
    asyncio.run(one.check())
    assert one.pending is None
    assert memory.remembered == asyncio.run(bucket_id(store))
    stored = json.loads(asyncio.run(store.get(layout.BUCKET)).body)
    assert stored == {
        "schema": 1,
        "id": memory.remembered,
        "created_at": "1970-01-12T13:46:40.000Z",
    }
    asyncio.run(identity(store, memory).check())


def test_a_journal_without_a_bucket_adopts_the_existing_id() -> None:
    memory = BucketMemory()
    asyncio.run(identity(store_with(document(TWO)), memory).check())
    assert memory.remembered == TWO


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE, Fault.OWN_SUCCESS])
def test_an_id_whose_creation_was_not_answered_is_read_back(fault: Fault) -> None:
    store, memory = FaultyStore(store_with(None), faults={layout.BUCKET: [fault]}), BucketMemory()
    asyncio.run(identity(store, memory).check())
    assert memory.remembered == asyncio.run(bucket_id(store))


def test_of_two_journals_that_create_an_id_at_once_the_loser_adopts_the_other_id() -> None:
    inner, first, second = store_with(None), BucketMemory(), BucketMemory()

    async def overtake(operation: str, _key: str) -> None:
        if operation == "create":
            store.before = None
            await identity(inner, second, name="b").check()

    store = FaultyStore(inner, before=overtake)
    asyncio.run(identity(store, first).check())
    assert first.remembered == second.remembered == asyncio.run(bucket_id(inner))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "is its volume not mounted"),
        (document(TWO), "is another volume mounted"),
        ("{}", "is damaged"),
        ("not JSON", "is damaged"),
        (json.dumps({"id": "../x"}), "is damaged"),
        (json.dumps([ONE]), "is damaged"),
        ("x" * 5000, "is damaged"),
    ],
)
def test_a_bucket_that_is_not_the_remembered_one_is_refused_and_left_alone(
    body: str | None, message: str
) -> None:
    store = FaultyStore(
        store_with(body),
        forbidden=lambda operation, _: operation in {"create", "replace", "delete"},
    )
    memory = BucketMemory(ONE)
    asked = identity(store, memory)
    with pytest.raises(WrongBucket, match=message) as refused:
        asyncio.run(asked.check())
    assert "rebundle run --new-bucket" in str(refused.value)
    assert asked.pending == str(refused.value)
    assert memory.remembered == ONE
    assert store.writes == []


@pytest.mark.parametrize(("body", "found"), [(None, None), (document(TWO), TWO)])
def test_an_operator_may_accept_another_bucket(body: str | None, found: str | None) -> None:
    store, memory = store_with(body), BucketMemory(ONE)
    asyncio.run(identity(store, memory, new_bucket=True).check())
    assert memory.remembered == (found or asyncio.run(bucket_id(store))) != ONE
    asyncio.run(identity(store, memory).check())


def test_the_acceptance_by_an_operator_is_valid_for_one_bucket_only() -> None:
    memory = BucketMemory(ONE)
    store = store_with(document(TWO))
    asked = identity(store, memory, new_bucket=True)
    asyncio.run(asked.check())
    found = asyncio.run(store.get(layout.BUCKET))
    asyncio.run(store.replace(layout.BUCKET, Content(document(ONE).encode()), found.version))
    with pytest.raises(WrongBucket):
        asyncio.run(asked.check())


def test_an_unreadable_id_is_reported_once_and_checked_again_each_time() -> None:
    forbidden = True
    asked: list[str] = []

    async def forbid(operation: str, _key: str) -> None:
        asked.append(operation)
        if forbidden:
            raise StoreForbidden("403")

    memory = BucketMemory(ONE)
    store = FaultyStore(store_with(document(TWO)), before=forbid)
    one = identity(store, memory)

    async def play() -> None:
        nonlocal forbidden
        with capture_logs() as logs:
            await one.check_until_granted()
            await one.confirm()
            await one.confirm()
        assert one.pending is None
        assert [line["log_level"] for line in logs] == ["warning"]
        assert len(asked) == 3
        forbidden = False
        with pytest.raises(WrongBucket):
            await one.confirm()

    asyncio.run(play())


def test_without_create_permission_the_daemon_publishes_without_an_id() -> None:
    async def forbid(operation: str, _key: str) -> None:
        if operation == "create":
            raise StoreForbidden("403")

    memory = BucketMemory()
    one = identity(FaultyStore(store_with(None), before=forbid), memory)
    asyncio.run(one.check())
    assert one.pending is None
    assert memory.remembered is None


def test_a_confirmed_id_is_not_read_again_until_an_error() -> None:
    asked: list[str] = []
    gone = False

    async def note(operation: str, _key: str) -> None:
        asked.append(operation)
        if gone:
            raise StoreUnavailable("away")

    one = identity(FaultyStore(store_with(document(ONE)), before=note), BucketMemory(ONE))

    async def play() -> None:
        nonlocal gone
        await one.check()
        await one.confirm()
        assert len(asked) == 1
        gone = True
        with pytest.raises(StoreUnavailable):
            await one.check()
        assert one.pending == "away"
        with pytest.raises(StoreUnavailable):
            await one.confirm()
        gone = False
        await one.confirm()
        assert one.pending is None
        assert len(asked) == 4

    asyncio.run(play())


def test_the_daemon_waits_for_the_right_bucket_with_growing_delays_and_so_do_timers() -> None:
    runtime = InlineRuntime()
    asked: list[float] = []
    order: list[str] = []
    store = store_with(None)

    async def note(operation: str, _key: str) -> None:
        assert operation == "get", "nothing is created if an id is remembered"
        asked.append(runtime.seconds)
        if len(asked) == 2:
            raise StoreUnavailable("away")
        if len(asked) == 5:
            await store.create(layout.BUCKET, Content(document(ONE).encode()))

    one = BucketIdentity(FaultyStore(store, before=note), BucketMemory(ONE), runtime, Backoff(1, 4))

    async def timer() -> None:
        await one.wait_until_granted()
        order.append("timer")

    async def grant() -> None:
        await one.check_until_granted()
        order.append("granted")

    async def play() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(timer())
            group.create_task(grant())

    asyncio.run(play())
    assert [later - sooner for sooner, later in itertools.pairwise(asked)] == [1, 2, 4, 4]
    assert sorted(order) == ["granted", "timer"]


def test_a_journal_that_cannot_be_written_is_tried_again() -> None:
    memory = BucketMemory()
    memory.away = True
    one = identity(store_with(None), memory)
    with pytest.raises(SourceUnavailable):
        asyncio.run(one.check())
    assert one.pending == "the disk is full"
    memory.away = False
    asyncio.run(one.check())
    assert one.pending is None
