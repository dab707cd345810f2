"""freshness.json is written when it is due, by one daemon, and never for an older pointer."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.publishing import layout, sizes
from daemon.publishing.errors import SequenceWentBack
from daemon.publishing.trust.keys import KeySigner, PublicKey, generate
from daemon.publishing.trust.policy import TrustedKey, TrustPolicy
from daemon.stores.errors import ObjectMissing, StoreRefused
from daemon.stores.port import Content
from daemon.timers.freshness import FreshnessTimer
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore


def key() -> tuple[KeySigner, PublicKey]:
    private, public = generate()
    loaded = serialization.load_pem_private_key(private.encode(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    return KeySigner(loaded), public


SIGNER, PUBLIC = key()
STRANGER, _ = key()
POLICY = TrustPolicy(
    keys=(TrustedKey(keyid=PUBLIC.keyid, public=PUBLIC.pem, roles=("publish", "pointer")),)
)


class Daemon:
    """A signed bucket, and the timer of one daemon that has seen no pointer yet."""

    def __init__(
        self,
        store: MemoryStore | FaultyStore,
        name: str = "one",
        *,
        signer: KeySigner = SIGNER,
        trust: TrustPolicy | None = None,
        minutes: int = 10,
        runtime: InlineRuntime | None = None,
    ) -> None:
        self.runtime = runtime or InlineRuntime(name)
        self.bucket = Bucket(store, self.runtime, signers=[signer], trust=trust)
        self.timer = FreshnessTimer(
            store=store,
            reader=self.bucket.reader,
            runtime=self.runtime,
            signers=(signer,),
            trust=trust,
            minutes=minutes,
        )


def run(scenario: Callable[[MemoryStore], Awaitable[None]]) -> None:
    asyncio.run(scenario(MemoryStore(InlineRuntime("store"))))


async def freshness_sequence(store: MemoryStore) -> int:
    return json.loads((await store.get(layout.freshness(SCOPE))).body)["signed"]["sequence"]


def test_a_daemon_signs_freshness_only_if_its_own_policy_accepts_it() -> None:
    """Otherwise it would replace a valid freshness.json of another daemon by one that readers
    refuse.
    """
    elsewhere = TrustedKey(
        keyid=PUBLIC.keyid, public=PUBLIC.pem, roles=("publish", "pointer"), scopes=("elsewhere/*",)
    )

    async def scenario(store: MemoryStore) -> None:
        this_daemon = Daemon(store, trust=POLICY)
        await this_daemon.bucket.publish(make_state(1))
        assert await this_daemon.timer.renew(SCOPE)
        before = (await store.get(layout.freshness(SCOPE))).body
        await this_daemon.bucket.publish(make_state(2))
        assert not await Daemon(store, "two", trust=TrustPolicy(keys=(elsewhere,))).timer.renew(
            SCOPE
        )
        assert (await store.get(layout.freshness(SCOPE))).body == before

    run(scenario)


def test_a_too_large_freshness_is_replaced() -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store, trust=POLICY)
        await daemon.bucket.publish(make_state(1))
        await store.create(layout.freshness(SCOPE), Content(b" " * (sizes.FRESHNESS + 1)))
        assert await daemon.timer.renew(SCOPE)
        assert await freshness_sequence(store) == 1

    run(scenario)


def test_freshness_is_written_when_the_pointer_changed_or_half_its_lifetime_is_over() -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store)
        assert not await daemon.timer.renew(SCOPE), "nothing is published"
        await daemon.bucket.publish(make_state(1))
        assert await daemon.timer.renew(SCOPE)
        assert not await daemon.timer.renew(SCOPE)
        daemon.runtime.seconds += 4 * 60
        assert not await daemon.timer.renew(SCOPE)
        daemon.runtime.seconds += 2 * 60
        assert await daemon.timer.renew(SCOPE)
        await daemon.bucket.publish(make_state(2))
        assert await daemon.timer.renew(SCOPE)
        assert await freshness_sequence(store) == 2

    run(scenario)


def test_two_daemons_write_one_freshness() -> None:
    async def scenario(store: MemoryStore) -> None:
        one, two = Daemon(store), Daemon(store, "two")
        await one.bucket.publish(make_state(1))
        written = await asyncio.gather(one.timer.renew(SCOPE), two.timer.renew(SCOPE))
        assert sorted(written) == [False, True]

    run(scenario)


def test_no_freshness_is_signed_for_a_restored_older_pointer() -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store)
        await daemon.bucket.publish(make_state(1))
        old = (await store.get(layout.pointer(SCOPE))).body
        await daemon.bucket.publish(make_state(2))
        await daemon.timer.renew(SCOPE)
        there = await store.get(layout.pointer(SCOPE))
        await store.replace(layout.pointer(SCOPE), Content(old), there.version)
        daemon.runtime.seconds += 3600
        with pytest.raises(SequenceWentBack):
            await daemon.timer.renew(SCOPE)
        assert await freshness_sequence(store) == 2

    run(scenario)


def test_a_new_daemon_signs_no_pointer_older_than_the_existing_freshness() -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store)
        await daemon.bucket.publish(make_state(1))
        old = (await store.get(layout.pointer(SCOPE))).body
        await daemon.bucket.publish(make_state(2))
        await daemon.timer.renew(SCOPE)
        there = await store.get(layout.pointer(SCOPE))
        await store.replace(layout.pointer(SCOPE), Content(old), there.version)
        restarted = Daemon(store, trust=POLICY)
        restarted.runtime.seconds += 3600
        with pytest.raises(SequenceWentBack, match="has sequence 1, and the newest one had 2"):
            await restarted.timer.renew(SCOPE)
        assert await freshness_sequence(store) == 2

    run(scenario)


def test_with_a_policy_a_freshness_that_readers_refuse_is_written_again() -> None:
    async def scenario(store: MemoryStore) -> None:
        this_daemon = Daemon(store, trust=POLICY)
        await this_daemon.bucket.publish(make_state(1))
        assert await Daemon(store, signer=STRANGER).timer.renew(SCOPE)
        assert not await Daemon(store).timer.renew(SCOPE), "without a policy it is accepted"
        assert await this_daemon.timer.renew(SCOPE)
        POLICY.check_freshness((await store.get(layout.freshness(SCOPE))).body, SCOPE)
        assert not await this_daemon.timer.renew(SCOPE)

    run(scenario)


def test_no_freshness_is_signed_for_an_unverified_pointer() -> None:
    async def scenario(store: MemoryStore) -> None:
        await Daemon(store).bucket.publish(make_state(1))
        sound = await store.get(layout.pointer(SCOPE))
        reads: list[str] = []

        async def swap(operation: str, name: str) -> None:
            if operation == "get":
                reads.append(name)
            if reads.count(layout.pointer(SCOPE)) == 2:
                document = json.loads(sound.body)
                document["signed"]["live"]["renderer"] = "forged"
                there = await store.get(layout.pointer(SCOPE))
                await store.replace(
                    layout.pointer(SCOPE), Content(json.dumps(document).encode()), there.version
                )

        assert not await Daemon(FaultyStore(store, before=swap), trust=POLICY).timer.renew(SCOPE)
        assert reads.count(layout.pointer(SCOPE)) == 2
        with pytest.raises(ObjectMissing):
            await freshness_sequence(store)

    run(scenario)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"signed": 1}', b"[" * 100_000])
def test_an_unreadable_freshness_is_written_again(body: bytes) -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store)
        await daemon.bucket.publish(make_state(1))
        await store.create(layout.freshness(SCOPE), Content(body))
        assert await daemon.timer.renew(SCOPE)
        assert await freshness_sequence(store) == 1

    run(scenario)


def test_an_unclear_answer_is_left_to_the_next_round() -> None:
    async def scenario(store: MemoryStore) -> None:
        recording = FaultyStore(store, faults={"freshness.json": [Fault.LOST_BEFORE]})
        daemon = Daemon(recording)
        await daemon.bucket.publish(make_state(1))
        assert not await daemon.timer.renew(SCOPE)
        with pytest.raises(ObjectMissing):
            await freshness_sequence(store)
        assert await daemon.timer.renew(SCOPE)

    run(scenario)


class SteppedRuntime(InlineRuntime):
    """Its pauses are recorded, and end when the test says so."""

    def __init__(self) -> None:
        super().__init__("stepped")
        self.pauses = asyncio.Queue[float]()
        self.go_on = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.pauses.put_nowait(seconds)
        await self.go_on.acquire()


def test_rounds_start_at_once_and_continue_past_failing_scopes() -> None:
    async def scenario(store: MemoryStore) -> None:
        runtime = SteppedRuntime()
        daemon = Daemon(store, minutes=600, runtime=runtime)
        await store.create("a/broken/pointer.json", Content(b"{"))
        await daemon.bucket.publish(make_state(1))
        rounds = asyncio.create_task(daemon.timer.run())
        async with asyncio.timeout(10):
            assert 30 <= await runtime.pauses.get() <= 90, (
                "a new scope is noticed soon, with any lifetime"
            )
            assert await freshness_sequence(store) == 1
            assert list(daemon.timer.failing) == ["a/broken"]
            await daemon.bucket.publish(make_state(2))
            await store.delete(
                "a/broken/pointer.json", (await store.get("a/broken/pointer.json")).version
            )
            runtime.go_on.release()
            await runtime.pauses.get()
            assert await freshness_sequence(store) == 2
            assert daemon.timer.failing == {}
        rounds.cancel()

    run(scenario)


def test_an_unlistable_bucket_fails_for_all_scopes_and_the_next_round_continues() -> None:
    async def scenario(store: MemoryStore) -> None:
        runtime = SteppedRuntime()
        daemon = Daemon(store, runtime=runtime)
        await daemon.bucket.publish(make_state(1))
        listed = daemon.bucket.reader.scopes

        async def refused() -> list[object]:
            raise StoreRefused("no permission to list")

        daemon.bucket.reader.scopes = refused
        rounds = asyncio.create_task(daemon.timer.run())
        async with asyncio.timeout(10):
            await runtime.pauses.get()
            assert daemon.timer.failing == {
                "": "the bucket cannot be listed: no permission to list"
            }
            daemon.bucket.reader.scopes = listed
            runtime.go_on.release()
            await runtime.pauses.get()
            assert daemon.timer.failing == {}
        rounds.cancel()

    run(scenario)


def test_without_a_lifetime_nothing_is_written() -> None:
    async def scenario(store: MemoryStore) -> None:
        bucket = Bucket(store, InlineRuntime())
        timer = FreshnessTimer(
            store=store,
            reader=bucket.reader,
            runtime=InlineRuntime(),
            signers=(),
            trust=None,
            minutes=0,
        )
        await asyncio.wait_for(timer.run(), 5)

    run(scenario)


def test_a_scope_whose_calls_hang_delays_no_other() -> None:
    async def scenario(inner: MemoryStore) -> None:
        async def hang(_operation: str, key: str) -> None:
            if key.startswith("a/hangs/"):
                await asyncio.Event().wait()

        daemon = Daemon(FaultyStore(inner, before=hang))
        await daemon.bucket.publish(make_state(1))
        await inner.create("a/hangs/pointer.json", Content(b"{}"))
        running = asyncio.create_task(daemon.timer.run())
        async with asyncio.timeout(10):
            while not list(await inner.scan(layout.freshness(SCOPE))):  # noqa: ASYNC110  # nothing reports it
                await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(scenario)
