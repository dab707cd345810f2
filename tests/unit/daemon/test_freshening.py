"""freshness.json is written when it is due, by one daemon, and never for an older pointer."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from daemon.freshening import FreshnessTimer
from daemon.publishing import layout
from daemon.publishing.errors import WentBack
from daemon.publishing.signing import KeySigner
from daemon.stores.errors import ObjectMissing
from daemon.stores.memory import MemoryStore
from daemon.stores.port import Content
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore

SIGNER = KeySigner(CryptoSigner(Ed25519PrivateKey.generate()))


class Daemon:
    """A bucket that is signed, and the timer of one daemon."""

    def __init__(self, store: MemoryStore | FaultyStore, name: str = "one") -> None:
        self.runtime = InlineRuntime(name)
        self.bucket = Bucket(store, self.runtime, signers=[SIGNER])
        self.timer = FreshnessTimer(
            store=store, reader=self.bucket.reader, runtime=self.runtime, signers=(SIGNER,), minutes=10
        )


def run(scenario: Callable[[MemoryStore], Awaitable[None]]) -> None:
    asyncio.run(scenario(MemoryStore(InlineRuntime("store"))))


async def vouched(store: MemoryStore) -> int:
    return json.loads((await store.get(layout.freshness(SCOPE))).body)["signed"]["sequence"]


def test_it_is_written_when_the_pointer_moved_or_half_its_time_is_over() -> None:
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
        assert await vouched(store) == 2

    run(scenario)


def test_two_daemons_write_it_once() -> None:
    async def scenario(store: MemoryStore) -> None:
        one, two = Daemon(store), Daemon(store, "two")
        await one.bucket.publish(make_state(1))
        written = await asyncio.gather(one.timer.renew(SCOPE), two.timer.renew(SCOPE))
        assert sorted(written) == [False, True]

    run(scenario)


def test_nobody_vouches_for_a_pointer_that_was_put_back() -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store)
        await daemon.bucket.publish(make_state(1))
        old = (await store.get(layout.pointer(SCOPE))).body
        await daemon.bucket.publish(make_state(2))
        await daemon.timer.renew(SCOPE)
        there = await store.get(layout.pointer(SCOPE))
        await store.replace(layout.pointer(SCOPE), Content(old), there.version)
        daemon.runtime.seconds += 3600
        with pytest.raises(WentBack):
            await daemon.timer.renew(SCOPE)
        assert await vouched(store) == 2

    run(scenario)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"signed": 1}', b"[" * 100_000])
def test_one_that_cannot_be_read_is_written_anew(body: bytes) -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store)
        await daemon.bucket.publish(make_state(1))
        await store.create(layout.freshness(SCOPE), Content(body))
        assert await daemon.timer.renew(SCOPE)
        assert await vouched(store) == 1

    run(scenario)


def test_an_unclear_answer_is_left_to_the_next_round() -> None:
    async def scenario(store: MemoryStore) -> None:
        recording = FaultyStore(store, faults={"freshness.json": [Fault.LOST_BEFORE]})
        daemon = Daemon(recording)
        await daemon.bucket.publish(make_state(1))
        assert not await daemon.timer.renew(SCOPE)
        with pytest.raises(ObjectMissing):
            await vouched(store)
        assert await daemon.timer.renew(SCOPE)

    run(scenario)


def test_rounds_go_on_over_scopes_that_cannot_be_vouched_for() -> None:
    async def scenario(store: MemoryStore) -> None:
        daemon = Daemon(store)
        await daemon.bucket.publish(make_state(1))
        await store.create("a/broken/pointer.json", Content(b"{"))
        rounds = asyncio.create_task(daemon.timer.run())
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0)
                try:
                    assert await vouched(store) == 1
                    break
                except ObjectMissing:
                    continue
        rounds.cancel()
        assert daemon.runtime.seconds > InlineRuntime().seconds, "not before its first pause"

    run(scenario)


def test_without_a_lifetime_nothing_is_written() -> None:
    async def scenario(store: MemoryStore) -> None:
        bucket = Bucket(store, InlineRuntime())
        timer = FreshnessTimer(store=store, reader=bucket.reader, runtime=InlineRuntime(), signers=(), minutes=0)
        await asyncio.wait_for(timer.run(), 5)

    run(scenario)
