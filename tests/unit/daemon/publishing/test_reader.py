"""Verified reads: every returned document matches the digest in the document that references it."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from daemon.publishing import layout, manifest, protocol
from daemon.publishing.errors import (
    NotFound,
    ObjectGone,
    PointerLost,
    VerificationFailed,
)
from daemon.publishing.pointer import PreviousChunk, Publication, PublicationId
from daemon.publishing.reader import Manifests, Scopes
from daemon.publishing.trust.policy import TrustPolicy
from daemon.stores.errors import ObjectDamaged, StoreRefused, StoreUnavailable
from daemon.stores.port import Content, Listing, Stored, UnreadableFolder
from renderers.values import Scope
from tests.builders_publishing import (
    SCOPE,
    Bucket,
    encode_manifest,
    make_files,
    make_publication,
    make_state,
)
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import MemoryStore

PROCESSES = count()


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(InlineRuntime("store"))


def bucket(store: MemoryStore | FaultyStore) -> Bucket:
    """Another process. Two of them never generate the same random id."""
    return Bucket(store, InlineRuntime(f"process-{next(PROCESSES)}"))


async def overwritten(store: MemoryStore, key: str, body: bytes) -> None:
    await store.replace(key, Content(body), (await store.get(key)).version)


async def removed(store: MemoryStore, key: str) -> None:
    await store.delete(key, (await store.get(key)).version)


async def one_live(memory: MemoryStore) -> Publication:
    live = (await bucket(memory).publish(make_state(1))).pointer.live
    assert live is not None
    return live


def test_a_new_scope_has_an_empty_pointer_without_a_version(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        read = await bucket(memory).reader.pointer(SCOPE)
        assert (read.pointer, read.version, read.signed) == (protocol.absent(SCOPE), None, False)
        with pytest.raises(NotFound, match="rebundle scopes"):
            await bucket(memory).reader.existing(SCOPE)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "trace", [layout.live_tree(SCOPE, layout.MARKER), layout.history(SCOPE, 1, 64, "w")]
)
def test_an_absent_pointer_beside_a_marker_or_history_chunk_is_lost(
    memory: MemoryStore, trace: str
) -> None:
    async def scenario() -> None:
        await memory.create(trace, Content(b"{}"))
        for read in (bucket(memory).reader.pointer, bucket(memory).reader.existing):
            with pytest.raises(PointerLost, match=f"rebundle recover {SCOPE}"):
                await read(SCOPE)

    asyncio.run(scenario())


def test_orphans_of_an_uncommitted_publication_are_not_a_trace(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        await bucket(memory).publisher.store_state(SCOPE, make_state(1))
        assert (await bucket(memory).reader.pointer(SCOPE)).version is None

    asyncio.run(scenario())


def test_a_scope_created_during_a_read_is_not_mistaken_for_a_lost_one(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        async def made_meanwhile(operation: str, key: str) -> None:
            if operation == "scan":
                store.before = None
                await bucket(memory).publish(make_state(1))
                await bucket(memory).live_tree.reconcile(SCOPE)

        store = FaultyStore(memory, before=made_meanwhile)
        assert (await bucket(store).reader.pointer(SCOPE)).pointer.sequence == 1

    asyncio.run(scenario())


def test_scopes_are_listed_despite_other_objects_in_the_bucket(memory: MemoryStore) -> None:
    async def scenario() -> None:
        keys = [
            "b/two/pointer.json",
            "a/one/pointer.json",
            "a/two/states/x",
            ".rebundle/locks/x",
            "a/Not/x",
            "a/file",
        ]
        for key in [*keys, f"{'x' * 58}/one/x", "Bad/one/x", "top"]:
            await memory.create(key, Content(b""))
        assert await bucket(memory).reader.scopes() == Scopes(
            (Scope("a", "one"), Scope("a", "two"), Scope("b", "two"))
        )

    asyncio.run(scenario())


def test_files_are_read_once_and_cached(memory: MemoryStore) -> None:
    async def scenario() -> None:
        live = await one_live(memory)
        process = bucket(memory)
        first = await process.reader.files(SCOPE, live)
        await removed(memory, layout.archive(SCOPE, live.state, live.attempt))
        await removed(memory, layout.manifest(SCOPE, live.state, live.attempt))
        assert await process.reader.files(SCOPE, live) is first
        assert (await process.reader.manifest(SCOPE, live)).state == "state-1"
        with pytest.raises(ObjectGone, match="is gone from the bucket"):
            await bucket(memory).reader.files(SCOPE, live)

    asyncio.run(scenario())


def test_the_cache_is_bounded_and_evicts_the_least_recently_read(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        size = sum(len(file.body) for file in make_files())
        monkeypatch.setattr("daemon.publishing.reader._MOST_FILES_BYTES", 2 * size)
        pointer = (
            await bucket(memory).publish(*(make_state(number) for number in (1, 2, 3)))
        ).pointer
        one, two, three = pointer.retained
        reads: list[str] = []

        async def note(operation: str, key: str) -> None:
            if key.endswith("bundle.tar.gz"):
                reads.append(key.split("/")[3])

        reader = bucket(FaultyStore(memory, before=note)).reader
        for publication in (one, two, one, three, one, two):
            reader.remember(SCOPE, publication, await reader.files(SCOPE, publication))
        assert reads == ["state-1", "state-2", "state-3", "state-2"]

    asyncio.run(scenario())


def test_a_manifest_that_does_not_match_the_pointer_is_refused(memory: MemoryStore) -> None:
    async def scenario() -> None:
        live = await one_live(memory)
        key = layout.manifest(SCOPE, live.state, live.attempt)
        await overwritten(memory, key, (await memory.get(key)).body + b" ")
        with pytest.raises(VerificationFailed, match="does not match the digest in the pointer"):
            await bucket(memory).reader.manifest(SCOPE, live)

    asyncio.run(scenario())


@pytest.mark.parametrize("changed", [{"scope": "a/b"}, {"state": "state-2"}, {"attempt": "other"}])
def test_a_manifest_of_another_publication_is_refused_although_the_digest_fits(
    memory: MemoryStore, changed: dict[str, Any]
) -> None:
    async def scenario() -> None:
        live = await one_live(memory)
        key = layout.manifest(SCOPE, live.state, live.attempt)
        described = manifest.decode((await memory.get(key)).body)
        body = encode_manifest(described.model_copy(update=changed))
        await overwritten(memory, key, body)
        forged = live.model_copy(update={"manifest_sha256": hashlib.sha256(body).hexdigest()})
        with pytest.raises(VerificationFailed, match="belongs to"):
            await bucket(memory).reader.manifest(SCOPE, forged)
        assert list(await bucket(memory).reader.named_manifests(SCOPE, [live.id])) == []

    asyncio.run(scenario())


def test_a_manifest_that_only_history_names_is_read_by_its_name(memory: MemoryStore) -> None:
    async def scenario() -> None:
        live = await one_live(memory)
        reader = bucket(memory).reader
        gone = PublicationId(state="state-1", attempt="none")
        for _ in range(2):  # first read, then cached
            assert [
                manifest.revision
                for manifest in await reader.named_manifests(SCOPE, [live.id, gone])
            ] == [live.revision]

    asyncio.run(scenario())


def test_a_damaged_manifest_that_only_history_names_is_left_out(memory: MemoryStore) -> None:
    async def scenario() -> None:
        live = await one_live(memory)
        await overwritten(memory, layout.manifest(SCOPE, live.state, live.attempt), b"{")
        assert await bucket(memory).reader.named_manifests(SCOPE, [live.id]) == Manifests()

    asyncio.run(scenario())


def test_an_archive_that_does_not_match_its_digest_is_refused(memory: MemoryStore) -> None:
    async def scenario() -> None:
        live = await one_live(memory)
        key = layout.archive(SCOPE, live.state, live.attempt)
        await overwritten(memory, key, (await memory.get(key)).body[:-1])
        with pytest.raises(VerificationFailed, match="does not match its digest"):
            await bucket(memory).reader.files(SCOPE, live)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "change", [{"mode": "0755"}, {"sha256": "0" * 64}, {"path": "A"}, {"size": 1}]
)
def test_files_that_do_not_match_the_manifest_are_refused(
    memory: MemoryStore, change: dict[str, Any]
) -> None:
    async def scenario() -> None:
        live = await one_live(memory)
        key = layout.manifest(SCOPE, live.state, live.attempt)
        described = manifest.decode((await memory.get(key)).body)
        first, *rest = described.files
        body = encode_manifest(
            described.model_copy(update={"files": (first.model_copy(update=change), *rest)})
        )
        await overwritten(memory, key, body)
        forged = live.model_copy(update={"manifest_sha256": hashlib.sha256(body).hexdigest()})
        with pytest.raises(VerificationFailed, match="do not match its manifest"):
            await bucket(memory).reader.files(SCOPE, forged)

    asyncio.run(scenario())


def test_several_manifests_are_read_and_one_that_is_gone_is_left_out(memory: MemoryStore) -> None:
    async def scenario() -> None:
        pointer = (await bucket(memory).publish(make_state(1), make_state(2))).pointer
        asked = [*pointer.retained, make_publication("gone")]
        read = await bucket(memory).reader.manifests(SCOPE, asked)
        assert [publication.state for publication in read] == ["state-1", "state-2"]

    asyncio.run(scenario())


def test_a_damaged_manifest_does_not_hide_the_others_and_is_reported(memory: MemoryStore) -> None:
    async def scenario() -> None:
        pointer = (
            await bucket(memory).publish(make_state(1), make_state(2), make_state(3))
        ).pointer
        first, second, _ = pointer.retained
        key = layout.manifest(SCOPE, first.state, first.attempt)
        await overwritten(memory, key, (await memory.get(key)).body + b"x")

        async def damaged_there(operation: str, asked: str) -> None:
            if asked == layout.manifest(SCOPE, second.state, second.attempt):
                raise ObjectDamaged(f"{asked} is damaged")

        read = await bucket(FaultyStore(memory, before=damaged_there)).reader.manifests(
            SCOPE, pointer.retained
        )
        assert [publication.state for publication in read] == ["state-3"]
        assert [damaged.publication for damaged in read.damaged] == [first.id, second.id]
        first_reason, second_reason = (damaged.reason for damaged in read.damaged)
        for reason in (first_reason, second_reason):
            assert reason.count(f"`rebundle recover {SCOPE} --reason 'damaged manifest'`") == 1

    asyncio.run(scenario())


def test_an_unavailable_store_while_manifests_are_read_is_reported(memory: MemoryStore) -> None:
    async def scenario() -> None:
        live = await one_live(memory)

        async def away(operation: str, key: str) -> None:
            raise StoreUnavailable(key)

        with pytest.raises(StoreUnavailable):
            await bucket(FaultyStore(memory, before=away)).reader.manifests(SCOPE, [live])

    asyncio.run(scenario())


async def with_a_chunk(memory: MemoryStore) -> str:
    process = bucket(memory)
    current = await process.publish(make_state(1))
    while current.pointer.previous_chunk is None:
        following = protocol.hold(current.pointer, process.publisher.writing("ann"))
        current = await process.publisher.swap(SCOPE, current, following)
    return current.pointer.previous_chunk.key


def test_a_changed_or_missing_history_chunk_is_refused(memory: MemoryStore) -> None:
    async def scenario() -> None:
        key = await with_a_chunk(memory)
        pointer = await bucket(memory).pointer()
        entries = await bucket(memory).reader.history(pointer)
        assert [entry.sequence for entry in entries] == list(range(1, pointer.sequence + 1))
        chunk = json.loads((await memory.get(key)).body)
        chunk["entries"] = chunk["entries"][1:]
        await overwritten(memory, key, json.dumps(chunk).encode())
        with pytest.raises(VerificationFailed, match="does not match the digest in its successor"):
            await bucket(memory).reader.history(pointer)
        await removed(memory, key)
        with pytest.raises(ObjectGone):
            await bucket(memory).reader.history(pointer)

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"", b"[]", b'{"schema": 2, "entries": 1}', b"[" * 100_000])
def test_a_malformed_history_chunk_is_damaged_although_its_digest_matches(
    memory: MemoryStore, body: bytes
) -> None:
    async def scenario() -> None:
        key = await with_a_chunk(memory)
        pointer = await bucket(memory).pointer()
        await overwritten(memory, key, body)
        older = PreviousChunk(key=key, sha256=hashlib.sha256(body).hexdigest())
        with pytest.raises(VerificationFailed, match="is damaged"):
            await bucket(memory).reader.history(
                pointer.model_copy(update={"previous_chunk": older})
            )

    asyncio.run(scenario())


class SlowFirstAnswer(MemoryStore):
    """A store whose first answer with a pointer is delayed until the test releases it."""

    def __init__(self) -> None:
        super().__init__(InlineRuntime("store"))
        self.answered, self.let_through = asyncio.Event(), asyncio.Event()

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        stored = await super().get(key)
        if key == layout.pointer(SCOPE) and not self.answered.is_set():
            self.answered.set()
            await self.let_through.wait()
        return stored


def test_an_overtaken_read_is_not_mistaken_for_a_restored_pointer():
    async def story() -> None:
        store = SlowFirstAnswer()
        await bucket(store).publish(make_state(1))
        reader = bucket(store).reader
        slow = asyncio.ensure_future(reader.pointer(SCOPE))
        await store.answered.wait()
        await bucket(store).publish(make_state(2))
        assert (await reader.pointer(SCOPE)).pointer.sequence == 2
        store.let_through.set()
        assert (await slow).pointer.sequence == 1

    asyncio.run(story())


# ---- folders that cannot be listed


class _Barred(FaultyStore):
    """Some folders of a directory may not be listed."""

    def __init__(self, inner: MemoryStore, *barred: str) -> None:
        super().__init__(inner)
        self._barred = barred
        self.asked: list[str] = []

    async def folders(self, prefix: str) -> Sequence[str]:
        self.asked.append(prefix)
        if prefix in self._barred:
            raise StoreRefused(
                f"{prefix}: Permission denied; let this user read it: chmod a+rx {prefix}"
            )
        return await super().folders(prefix)

    async def scan(self, prefix: str) -> Listing:
        if any(path.startswith(prefix) for path in self._barred):
            return Listing(
                unreadable=(UnreadableFolder(self._barred[0].rstrip("/"), "Permission denied"),)
            )
        return await super().scan(prefix)


def test_a_bundle_that_cannot_be_listed_is_reported_and_the_others_are_found(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        for key in ("a/one/pointer.json", "b/one/pointer.json", "c/one/pointer.json"):
            await memory.create(key, Content(b""))
        store = _Barred(memory, "b/")
        reader = bucket(store).reader

        scopes = await reader.scopes()
        assert scopes.found == (Scope("a", "one"), Scope("c", "one"))
        assert list(scopes.unreadable) == ["b"]
        assert "chmod a+rx b/" in scopes.unreadable["b"]

        store._barred = ()
        scopes = await reader.scopes()
        assert (len(scopes), scopes.unreadable) == (3, {})

    asyncio.run(scenario())


def test_a_folder_with_an_invalid_bundle_name_is_not_listed(memory: MemoryStore) -> None:
    async def scenario() -> None:
        for name in ("lost+found", "-dash", "x" * 58, "a"):
            await memory.create(f"{name}/one/pointer.json", Content(b""))
        store = _Barred(memory, "lost+found/")
        reader = bucket(store).reader

        assert await reader.scopes() == Scopes((Scope("a", "one"),))
        assert store.asked == ["", "a/"]

    asyncio.run(scenario())


def test_an_unlistable_bucket_is_not_treated_as_empty(memory: MemoryStore) -> None:
    with pytest.raises(StoreRefused):
        asyncio.run(bucket(_Barred(memory, "")).reader.scopes())


def test_an_unlistable_folder_may_hide_a_trace_of_a_lost_pointer(memory: MemoryStore) -> None:
    async def scenario() -> None:
        with pytest.raises(PointerLost, match=f"rebundle recover {SCOPE}"):
            await bucket(_Barred(memory, f"{SCOPE}/history/below/")).reader.pointer(SCOPE)

    asyncio.run(scenario())


# ---- pointers that are confirmed


def test_pointers_that_are_still_current_are_those_with_their_version_and_sequence(
    memory: MemoryStore,
) -> None:
    async def scenario() -> None:
        first = await bucket(memory).publish(make_state(1))
        reader = bucket(memory).reader
        assert first.version is not None
        known = {SCOPE: (first.version, 1)}
        gone = {Scope("no", "pointer"): (first.version, 1)}
        assert await reader.still_current(known | gone) == {SCOPE}

        second = await bucket(memory).publish(make_state(2))
        assert second.version is not None
        assert await reader.still_current(known) == frozenset()
        assert await reader.still_current({SCOPE: (second.version, 2)}) == {SCOPE}
        await reader.pointer(SCOPE)
        # The bytes of an older pointer, restored: a later one was accepted.
        assert await reader.still_current({SCOPE: (second.version, 1)}) == frozenset()

    asyncio.run(scenario())


def test_with_a_trust_policy_each_pointer_is_read_alone_and_verified(memory: MemoryStore) -> None:
    async def scenario() -> None:
        published = await bucket(memory).publish(make_state(1))
        reader = Bucket(memory, InlineRuntime("verifies"), trust=TrustPolicy()).reader
        assert published.version is not None
        assert (bucket(memory).reader.pointers_in_one_call, reader.pointers_in_one_call) == (64, 1)
        with pytest.raises(VerificationFailed, match="not signed"):
            await reader.still_current({SCOPE: (published.version, 1)})

    asyncio.run(scenario())
