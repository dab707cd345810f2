"""Documents of schema 1 raise their own error everywhere: they are neither damaged nor a reason to
recover (ADR 29).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from daemon.failures import classify
from daemon.publishing import layout, manifest, pointer
from daemon.publishing.documents import parse
from daemon.publishing.errors import OlderSchema, VerificationFailed
from daemon.publishing.maintenance.garbage_collector import GarbageCollector
from daemon.publishing.maintenance.recovery import Recoverer
from daemon.publishing.maintenance.recovery_rules import RecoveryOptions
from daemon.publishing.maintenance.retention_rules import RetentionPolicy
from daemon.publishing.pointer import PublicationId
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.trust.policy import TrustPolicy
from daemon.stores.port import Content
from daemon.timers.freshness import FreshnessTimer
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore

STORED = Path(__file__).parents[3] / "data" / "stored" / "schema-1"
POINTER = layout.pointer(SCOPE)
REMEDY = r"schema 1.* Use a new prefix of the bucket, a new journal and a new trust.state_file"
EMPTY_POLICY = TrustPolicy(freshness="off")
"""Has no keys, so no signature is accepted."""


def stored(name: str) -> bytes:
    return (STORED / name).read_bytes()


def signed_part(body: bytes) -> object:
    document = parse(body)
    assert isinstance(document, dict)
    return document["signed"]


DECODERS: Mapping[str, Callable[[bytes], object]] = {
    "pointer.json": partial(pointer.decode, scope=SCOPE),
    "pointer.long.json": partial(pointer.decode, scope=SCOPE),
    "pointer.recovered.json": partial(pointer.decode, scope=SCOPE),
    "chunk.json": lambda body: pointer.decode_chunk(body, "history/1-64-w.json", SCOPE),
    "manifest.json": manifest.decode,
    "freshness.json": lambda body: Freshness.parse(signed_part(body), SCOPE),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_document_of_schema_1_is_refused_with_a_remedy(name: str) -> None:
    with pytest.raises(OlderSchema, match=REMEDY) as refused:
        DECODERS[name](stored(name))
    assert not isinstance(refused.value, VerificationFailed)
    assert "rebundle recover" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "check"), [("pointer.json", "check_pointer"), ("freshness.json", "check_freshness")]
)
def test_the_schema_is_checked_before_a_signature(name: str, check: str) -> None:
    with pytest.raises(OlderSchema, match=REMEDY):
        getattr(EMPTY_POLICY, check)(stored(name), SCOPE)


def test_the_schema_is_checked_before_the_fields() -> None:
    with pytest.raises(OlderSchema):
        pointer.decode(b'{"signed": {"schema": 1, "sequence": -1}}', SCOPE)
    with pytest.raises(OlderSchema):
        manifest.decode(b'{"schema": 1, "state": 7}')


def test_an_invalid_schema_number_is_damage() -> None:
    for schema in (b"true", b"1.0", b'"1"', b"null", b"0"):
        with pytest.raises(VerificationFailed, match="schema"):
            pointer.decode(b'{"signed": {"schema": %b}}' % schema, SCOPE)


def test_the_event_stays_in_its_lane_and_the_operator_must_act() -> None:
    assert classify(OlderSchema("x")).reaction.needs_operator


# -- in a bucket


def scenario(work: Callable[[MemoryStore], Awaitable[None]]) -> None:
    asyncio.run(work(MemoryStore(InlineRuntime())))  # type: ignore[arg-type]


async def put(store: MemoryStore, key: str, body: bytes) -> None:
    listed = [entry.version for entry in await store.scan(key) if entry.key == key]
    if listed:
        await store.replace(key, Content(body), listed[0])
    else:
        await store.create(key, Content(body))


async def objects(store: MemoryStore) -> dict[str, bytes]:
    return {entry.key: (await store.get(entry.key)).body for entry in await store.scan("")}


async def refused(store: MemoryStore, work: Callable[[], Awaitable[object]]) -> None:
    """The work raises OlderSchema and leaves the bucket unchanged."""
    before = await objects(store)
    with pytest.raises(OlderSchema, match=REMEDY):
        await work()
    assert await objects(store) == before


def recover(store: MemoryStore, trust: TrustPolicy | None = None) -> Awaitable[object]:
    bucket = Bucket(store, InlineRuntime("operator"), trust=trust)
    recoverer = Recoverer(store, bucket.reader, bucket.publisher, bucket.live_tree)
    return recoverer.recover(SCOPE, RecoveryOptions(), "ann", "it looks lost")


@pytest.mark.parametrize("trust", [None, EMPTY_POLICY], ids=["no policy", "a policy"])
def test_no_reader_daemon_recovery_or_collection_touches_a_pointer_of_schema_1(
    trust: TrustPolicy | None,
) -> None:
    async def work(store: MemoryStore) -> None:
        await put(store, POINTER, stored("pointer.json"))
        runtime = InlineRuntime("other")
        bucket = Bucket(store, runtime, trust=trust)
        collector = GarbageCollector(
            store, bucket.reader, bucket.publisher, runtime, RetentionPolicy()
        )
        await refused(store, lambda: bucket.reader.pointer(SCOPE))
        await refused(store, lambda: bucket.live_tree.reconcile(SCOPE))
        await refused(store, lambda: collector.collect(SCOPE, "cron"))
        await refused(store, lambda: recover(store, trust))

    scenario(work)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (layout.manifest(SCOPE, "state-1", "2ceb03eee23bdda5880665f0c904d244"), "manifest.json"),
        (layout.history(SCOPE, 1, 64, "w"), "chunk.json"),
        (layout.live_tree(SCOPE, layout.MARKER), "marker.json"),
    ],
)
def test_a_recovery_without_a_pointer_stops_at_any_document_of_schema_1(
    key: str, name: str
) -> None:
    async def work(store: MemoryStore) -> None:
        await put(store, key, stored(name))
        await refused(store, lambda: recover(store))

    scenario(work)


def test_a_marker_of_schema_1_is_not_replaced() -> None:
    async def work(store: MemoryStore) -> None:
        bucket = Bucket(store, InlineRuntime("one"))
        await bucket.publish(make_state(1))
        await put(store, layout.live_tree(SCOPE, layout.MARKER), stored("marker.json"))
        await refused(store, lambda: bucket.live_tree.reconcile(SCOPE))
        await refused(store, lambda: bucket.live_tree.survey(SCOPE))

    scenario(work)


def test_a_freshness_json_of_schema_1_is_not_replaced() -> None:
    async def work(store: MemoryStore) -> None:
        runtime = InlineRuntime("one")
        bucket = Bucket(store, runtime)
        await bucket.publish(make_state(1))
        await put(store, layout.freshness(SCOPE), stored("freshness.json"))
        timer = FreshnessTimer(
            store=store, reader=bucket.reader, runtime=runtime, signers=(), trust=None, minutes=60
        )
        await refused(store, lambda: timer.renew(SCOPE))

    scenario(work)


def test_a_manifest_of_schema_1_that_only_history_names_is_reported_and_stops_nothing_else() -> (
    None
):
    async def work(store: MemoryStore) -> None:
        name = PublicationId(state="state-1", attempt="2ceb03eee23bdda5880665f0c904d244")
        key = layout.manifest(SCOPE, name.state, name.attempt)
        await put(store, key, stored("manifest.json"))
        found = await Bucket(store, InlineRuntime("one")).reader.named_manifests(SCOPE, [name])
        assert found.found == ()
        [damaged] = found.damaged
        assert (damaged.publication, damaged.unreadable) == (name, True)
        assert key in damaged.reason

    scenario(work)
