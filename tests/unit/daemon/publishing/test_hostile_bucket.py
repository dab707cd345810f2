"""A bucket that attackers write: hostile bytes in place of any object damage that object only."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.publishing import layout, operator_commands, pointer, protocol, sizes
from daemon.publishing.errors import OperationRefused, PublishingError, VerificationFailed
from daemon.publishing.live_tree.results import FinishedPass
from daemon.publishing.maintenance.recovery import Recoverer
from daemon.publishing.maintenance.recovery_rules import RecoveryOptions
from daemon.publishing.pointer import PreviousChunk
from daemon.stores.errors import StoreError, StoreRefused
from daemon.stores.port import Content
from renderers.values import Scope
from tests.builders_publishing import SCOPE, Bucket, make_files, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import MemoryStore
from tests.unit.daemon.publishing.test_grammar import SHA, places

P = ParamSpec("P")
T = TypeVar("T")

OTHER = Scope("other", "scope")
POINTER = layout.pointer(SCOPE)
MARKER = layout.live_tree(SCOPE, layout.MARKER)


class RecordingRuntime(InlineRuntime):
    """Records what ran outside the event loop."""

    def __init__(self) -> None:
        super().__init__("recording")
        self.offloaded: list[str] = []

    async def run_in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.offloaded.append(getattr(work, "__qualname__", repr(work)))
        return work(*args, **kwargs)


def memory() -> MemoryStore:
    return MemoryStore(InlineRuntime("store"))


async def put(store: MemoryStore, key: str, body: bytes) -> None:
    """The whole content of the bucket."""
    there = [entry for entry in await store.scan(key) if entry.key == key]
    if there:
        await store.replace(key, Content(body), there[0].version)
    else:
        await store.create(key, Content(body))


async def grown(store: MemoryStore) -> Bucket:
    bucket = Bucket(store, InlineRuntime("writer"))
    await bucket.publish(*map(make_state, (1, 2, 3)))
    await bucket.operations.carry_out(SCOPE, operator_commands.rollback("state-2"), "ann")
    return bucket


def recoverer(store: MemoryStore, bucket: Bucket) -> Recoverer:
    return Recoverer(store, bucket.reader, bucket.publisher, bucket.live_tree)


async def read_all(store: MemoryStore) -> None:
    """Every operation of a reader. Only the errors that callers handle may be raised."""
    bucket = Bucket(store, InlineRuntime("reader"))
    read = bucket.reader
    publications: list[Any] = []

    async def pointer_and_history() -> None:
        found = (await read.existing(SCOPE)).pointer
        publications.extend(found.retained)
        entries = await read.history(found)
        await read.named_manifests(
            SCOPE,
            [pointer.PublicationId.parse(name) for entry in entries for name in entry.published],
        )

    steps: list[Callable[[], Awaitable[Any]]] = [
        pointer_and_history,
        lambda: read.found_pointer(SCOPE),
        lambda: bucket.live_tree.marker(SCOPE),
        lambda: bucket.live_tree.survey(SCOPE),
        lambda: recoverer(store, bucket).preview(SCOPE, RecoveryOptions(), "ann", "look"),
        lambda: bucket.operations.preview(SCOPE, protocol.resume, "ann"),
    ]
    for step in steps:
        with suppress(PublishingError, StoreError):
            await step()
    for publication in publications:
        with suppress(PublishingError, StoreError):
            described = await read.manifest(SCOPE, publication)
            described.composition_value()
            described.defaults_value()
            await read.files(SCOPE, publication)


HOSTILE = st.sampled_from(
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"signed":{}}',
        b'{"signed":[],"signatures":1}',
        b'{"signed":{"sequence":' + b"9" * 5000 + b"}}",
        b'"\\ud800"',
        b"\x1f\x8b\x08" + bytes(20),
    ]
) | st.binary(max_size=40)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_hostile_bytes_in_place_of_an_object_raise_nothing_unexpected(data: st.DataObject) -> None:
    async def scenario() -> None:
        store = memory()
        await grown(store)
        keys = [entry.key for entry in await store.scan("")]
        for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)):
            await put(store, key, data.draw(HOSTILE))
        await read_all(store)

    asyncio.run(scenario())


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_a_document_with_any_field_changed_raises_nothing_unexpected(data: st.DataObject) -> None:
    values = st.sampled_from(
        [
            None,
            True,
            -1,
            2**53,
            10**30,
            1.5,
            "",
            "\ud800",
            "/etc/passwd",
            "../..",
            "a@/x",
            "0001-01-01T00:00:00",
            SHA,
        ]
    )

    async def scenario() -> None:
        store = memory()
        await grown(store)
        keys = [entry.key for entry in await store.scan("") if entry.key.endswith(".json")]
        key = data.draw(st.sampled_from([POINTER, POINTER, *keys]))
        document = json.loads((await store.get(key)).body)
        path = data.draw(st.sampled_from([place for place in places(document) if place]))
        part = document
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = data.draw(values)
        await put(store, key, json.dumps(document).encode())
        await read_all(store)

    asyncio.run(scenario())


# ---- sizes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can exceed."""
    for name in ("POINTER", "CHUNK", "MANIFEST", "SIGNATURE", "MARKER", "FRESHNESS"):
        monkeypatch.setattr(sizes, name, 20_000)


BIG = b'{"signed":' + b" " * 30_000 + b"}"


def test_an_object_above_its_limit_is_damaged_and_explained(small: None) -> None:
    async def scenario() -> None:
        store = memory()
        bucket = await grown(store)
        current = await bucket.pointer()
        live = current.live
        assert live is not None
        fresh = Bucket(store, InlineRuntime("reader")).reader

        for key in (POINTER, layout.manifest(SCOPE, live.state, live.attempt)):
            before = (await store.get(key)).body
            await put(store, key, BIG)
            with pytest.raises(
                VerificationFailed,
                match=rf"{key} is larger than 20,000 bytes.+rebundle recover {SCOPE}",
            ):
                await (fresh.pointer(SCOPE) if key == POINTER else fresh.manifest(SCOPE, live))
            await put(store, key, before)

        chunk = layout.history(SCOPE, 1, 64, "w")
        await put(store, chunk, BIG)
        leading = current.model_copy(
            update={"previous_chunk": PreviousChunk(key=chunk, sha256=SHA)}
        )
        with pytest.raises(VerificationFailed, match="is larger than"):
            await fresh.history(leading)

    asyncio.run(scenario())


def test_an_archive_is_read_up_to_the_size_in_its_manifest() -> None:
    async def scenario() -> None:
        store = memory()
        live = (await grown(store)).reader
        publication = (await live.pointer(SCOPE)).pointer.live
        assert publication is not None
        key = layout.archive(SCOPE, publication.state, publication.attempt)
        await put(store, key, (await store.get(key)).body + b"x")
        with pytest.raises(VerificationFailed, match=f"{key} is larger than"):
            await Bucket(store, InlineRuntime("reader")).reader.files(SCOPE, publication)

    asyncio.run(scenario())


def test_a_pointer_and_a_marker_that_are_too_big_are_replaced_by_a_recovery(small: None) -> None:
    async def scenario() -> None:
        store = memory()
        await grown(store)
        await put(store, POINTER, BIG)
        await put(store, MARKER, BIG)
        await put(store, layout.history(SCOPE, 1, 64, "w"), BIG)
        bucket = Bucket(store, InlineRuntime("operator"))
        found = await recoverer(store, bucket).recover(SCOPE, RecoveryOptions(), "ann", "too big")
        assert found.damage is not None
        assert "larger than" in found.damage
        assert isinstance(found.live_tree, FinishedPass)
        assert (await bucket.pointer()).live is not None
        marker, _ = await bucket.live_tree.marker(SCOPE)
        assert marker is not None
        assert marker.status == "synced"

    asyncio.run(scenario())


def test_a_manifest_that_is_too_big_is_left_out_by_a_recovery_and_the_others_stay(
    small: None,
) -> None:
    async def scenario() -> None:
        store = memory()
        current = await (await grown(store)).pointer()
        first = current.retained[0]
        await put(store, layout.manifest(SCOPE, first.state, first.attempt), BIG)
        bucket = Bucket(store, InlineRuntime("operator"))
        found = await recoverer(store, bucket).recover(SCOPE, RecoveryOptions(), "ann", "too big")
        assert [damaged.id for damaged in found.remains.damaged] == [first.id]
        assert [publication.state for publication in (await bucket.pointer()).retained] == [
            "state-2",
            "state-3",
        ]

    asyncio.run(scenario())


def test_a_file_of_the_live_tree_that_is_too_big_is_not_read_by_a_recovery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        store = memory()
        bucket = await grown(store)
        await bucket.live_tree.reconcile(SCOPE)
        await put(store, layout.live_tree(SCOPE, "example/disk.img"), bytes(3_000))
        monkeypatch.setattr(sizes, "FILE", 2_000)
        reads: list[str] = []
        get = store.get

        async def noted(key: str, *, max_bytes: int | None = None) -> Any:
            reads.append(key)
            return await get(key, max_bytes=max_bytes)

        monkeypatch.setattr(store, "get", noted)
        await recoverer(store, bucket).preview(SCOPE, RecoveryOptions(), "ann", "look")
        assert layout.live_tree(SCOPE, "README.md") in reads
        assert layout.live_tree(SCOPE, "example/disk.img") not in reads

    asyncio.run(scenario())


def test_an_unreadable_file_of_the_live_tree_stops_no_recovery() -> None:
    async def scenario() -> None:
        memory_store = memory()
        await (await grown(memory_store)).live_tree.reconcile(SCOPE)
        await put(memory_store, layout.live_tree(SCOPE, "example/locked"), b"x")
        await put(memory_store, POINTER, b"")

        async def refuse(operation: str, key: str) -> None:
            if operation == "get" and key.endswith("example/locked"):
                raise StoreRefused(f"{key}: Permission denied")

        store = FaultyStore(memory_store, before=refuse)
        bucket = Bucket(store, InlineRuntime("operator"))
        found = await Recoverer(store, bucket.reader, bucket.publisher, bucket.live_tree).preview(
            SCOPE, RecoveryOptions(), "ann", "look"
        )
        assert found.remains.traces["the files of the live tree"] == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("digits", ["9" * 250, "9" * 16, "\N{ARABIC-INDIC DIGIT FIVE}"])
def test_an_impossible_sequence_in_a_name_or_tag_is_ignored(digits: str) -> None:
    async def scenario() -> None:
        store = memory()
        await grown(store)
        await put(store, f"{layout.all_replaced(SCOPE)}{digits}/base/x", b"x")
        await store.create(
            layout.live_tree(SCOPE, "base/y"), Content(b"y", tag={"commit": f"{digits * 20}.0"})
        )
        await put(store, POINTER, b"")
        bucket = Bucket(store, InlineRuntime("operator"))
        found = await recoverer(store, bucket).recover(SCOPE, RecoveryOptions(), "ann", "look")
        assert found.recovered is not None
        assert found.recovered.pointer.sequence < 1000

    asyncio.run(scenario())


def test_no_pointer_is_written_that_readers_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = memory()
        bucket = await grown(store)
        monkeypatch.setattr(sizes, "POINTER", 7_000)
        with pytest.raises(
            OperationRefused,
            match=r"would have .+ bytes, and readers accept 7,000: lift quarantines",
        ):
            await bucket.operations.carry_out(SCOPE, protocol.hold, "ann", "x" * 7_000)
        assert (await bucket.pointer()).sequence == 4

    asyncio.run(scenario())


def test_the_largest_sequence_is_refused_with_a_remedy() -> None:
    async def scenario() -> None:
        store = memory()
        bucket = await grown(store)
        document = json.loads((await store.get(POINTER)).body)
        document["signed"]["sequence"] = 2**53 - 1
        await put(store, POINTER, json.dumps(document).encode())
        with pytest.raises(OperationRefused, match=rf"move {POINTER}, .+rebundle recover {SCOPE}"):
            await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("FILES", "files"),
        ("FILE", "bytes in its largest file"),
        ("UNPACKED", "bytes in all files"),
        ("ARCHIVE", "bytes in its archive"),
        ("MANIFEST", "bytes in its manifest"),
    ],
)
def test_no_publication_is_stored_that_readers_would_refuse(
    monkeypatch: pytest.MonkeyPatch, limit: str, message: str
) -> None:
    async def scenario() -> None:
        store = memory()
        monkeypatch.setattr(sizes, limit, 2)
        with pytest.raises(
            OperationRefused,
            match=rf"state-1 of {SCOPE} has [0-9,]+ {message}, and readers accept 2",
        ):
            await Bucket(store, InlineRuntime("writer")).publisher.store_state(SCOPE, make_state(1))
        assert not await store.scan("")

    asyncio.run(scenario())


# ---- the event loop


def test_large_documents_are_decoded_and_verified_outside_the_event_loop() -> None:
    async def scenario() -> None:
        store = memory()
        writer = await grown(store)
        runtime = RecordingRuntime()
        small = Bucket(store, runtime)
        current = await small.pointer()
        live = current.live
        assert live is not None
        await small.reader.manifest(SCOPE, live)
        await small.live_tree.marker(SCOPE)
        assert runtime.offloaded == []

        many = {f"base/{number:04}": "x" for number in range(700)}
        await writer.publish(make_state(4, files=make_files(**many)))
        await writer.operations.carry_out(SCOPE, protocol.resume, "ann", "x" * 70_000)
        read = Bucket(store, runtime)
        assert await read.live_tree.marker(SCOPE)
        current = await read.pointer()
        assert current.live is not None
        await read.reader.manifest(SCOPE, current.live)
        await read.reader.named_manifests(SCOPE, [current.live.id])
        names = " ".join(runtime.offloaded)
        for work in ("_marker_in", "Verifier.newest_pointer", "Verifier.manifest"):
            assert work in names
        runtime.offloaded.clear()
        await recoverer(store, read).preview(SCOPE, RecoveryOptions(), "ann", "look")
        assert {"decode", "Manifest.composition_value"} <= set(runtime.offloaded)

    asyncio.run(scenario())


def test_a_large_chunk_is_decoded_outside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemon.publishing.protocol.MOST_HISTORY", 2)
    monkeypatch.setattr("daemon.publishing.protocol.CHUNK", 1)

    async def scenario() -> None:
        store = memory()
        bucket = Bucket(store, InlineRuntime("writer"))
        await bucket.publish(make_state(1))
        await bucket.operations.carry_out(SCOPE, protocol.hold, "ann", "x" * 70_000)
        for _ in range(2):
            await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")
        runtime = RecordingRuntime()
        read = Bucket(store, runtime)
        assert len(await read.reader.history(await read.pointer())) == 4
        assert "Verifier.chunk" in runtime.offloaded
        runtime.offloaded.clear()
        await recoverer(store, read).preview(SCOPE, RecoveryOptions(), "ann", "look")
        assert "_readable_chunks" in runtime.offloaded

    asyncio.run(scenario())


def test_another_scope_stays_readable() -> None:
    async def scenario() -> None:
        store = memory()
        await grown(store)
        await put(store, layout.pointer(OTHER), b'{"signed": {"scope": "\\ud800"}}')
        bucket = Bucket(store, InlineRuntime("reader"))
        with pytest.raises(VerificationFailed):
            await bucket.reader.pointer(OTHER)
        assert (await bucket.pointer()).live is not None

    asyncio.run(scenario())
