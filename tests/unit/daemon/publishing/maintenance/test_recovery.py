"""Recovery on real buckets: a deleted, damaged or restored pointer, and missing states."""

import asyncio
import fnmatch
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.publishing import layout, operator_commands, protocol
from daemon.publishing.errors import (
    CannotSign,
    NotFound,
    OperationRefused,
    OutcomeUnresolved,
    PointerLost,
    PointerMoved,
    SequenceWentBack,
    StateUnreadable,
    VerificationFailed,
)
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.maintenance.recovery import Recoverer, Recovery
from daemon.publishing.maintenance.recovery_rules import RecoveryOptions
from daemon.publishing.manifest import ManifestEvent
from daemon.publishing.pointer import MOST_HISTORY, Pointer, PublicationId, Revision
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import Reader
from daemon.publishing.trust.keys import KeySigner, PublicKey, generate
from daemon.publishing.trust.policy import TrustedKey, TrustPolicy
from daemon.publishing.trust.sequence_memory import ProcessSequences
from daemon.stores.errors import ObjectDamaged, StoreRefused, StoreUnavailable
from daemon.stores.port import Content, Listing, ObjectStore, UnreadableFolder
from events.model import OutcomeKind
from tests.builders_publishing import SCOPE, Bucket, make_state, tree
from tests.builders_runtime import InlineRuntime, in_loop
from tests.support.faulty_store import Fault, FaultyStore, Gate
from tests.support.memory_store import MemoryStore
from tests.support.scenes import open_scene, state_event
from tests.support.troubled_store import TroubledStore

POINTER = layout.pointer(SCOPE)
MARKER = layout.live_tree(SCOPE, layout.MARKER)


@pytest.fixture
def runtime() -> InlineRuntime:
    return InlineRuntime()


@pytest.fixture(params=[False, True], ids=["generations", "content-etags"])
def store(request: pytest.FixtureRequest, runtime: InlineRuntime) -> MemoryStore:
    return MemoryStore(runtime, versions_by_content=request.param)


def recoverer(store: ObjectStore, runtime: InlineRuntime) -> Recoverer:
    bucket = Bucket(store, runtime)
    return Recoverer(store, bucket.reader, bucket.publisher, bucket.live_tree)


async def recover(
    store: ObjectStore, runtime: InlineRuntime, *, live: str | None = None, hold: bool = True
) -> Recovery:
    return await recoverer(store, runtime).recover(
        SCOPE, RecoveryOptions(live, hold), "ann", "backup was old"
    )


def event(number: int) -> ManifestEvent:
    return ManifestEvent(
        intake="http",
        source="s",
        id=f"e{number}",
        type="t",
        digest=f"{number:064x}",
        instance="journal:1",
        offset=10 * number,
    )


async def grown(store: ObjectStore, runtime: InlineRuntime, count: int = 3) -> Bucket:
    bucket = Bucket(store, runtime)
    for number in range(1, count + 1):
        await bucket.publish(make_state(number, events=(event(number),)))
        await runtime.sleep(10)
    assert isinstance(await bucket.live_tree.reconcile(SCOPE), FinishedPass)
    return bucket


async def remove(store: ObjectStore, key: str) -> None:
    await store.delete(key, (await store.get(key)).version)


async def overwrite(store: ObjectStore, key: str, body: bytes) -> None:
    await store.replace(key, Content(body), (await store.get(key)).version)


async def archive_key(store: ObjectStore, state: str) -> str:
    [key] = [
        entry.key
        for entry in await store.scan(layout.states(SCOPE))
        if f"/{state}/" in entry.key and "bundle" in entry.key
    ]
    return key


async def damage_archive(store: ObjectStore, state: str) -> None:
    await overwrite(store, await archive_key(store, state), b"not what it was")


async def check(store: ObjectStore, runtime: InlineRuntime) -> Pointer:
    """Checks that the scope works: retained states verify, history reads, and the next state is
    published.
    """
    bucket = Bucket(store, runtime)
    pointer = await bucket.pointer()
    for publication in pointer.retained:
        await bucket.reader.files(SCOPE, publication)
    entries = await bucket.reader.history(pointer)
    assert entries[-1].kind == "recover"
    assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})
    survey = await bucket.live_tree.survey(SCOPE)
    assert pointer.live is None or survey.synced
    await bucket.publish(make_state(99))
    after = await bucket.pointer()
    assert (after.desired and after.desired.state, after.sequence) == (
        "state-99",
        pointer.sequence + 1,
    )
    later = await bucket.reader.history(await changed(bucket, MOST_HISTORY + 2))
    assert later[: len(entries)] == entries
    return pointer


async def changed(bucket: Bucket, times: int) -> Pointer:
    """The pointer after this many changes.

    Above 128, the earlier history is in chunks, even if some are gone.
    """
    read = await bucket.reader.pointer(SCOPE)
    for _ in range(times):
        following = protocol.hold(read.pointer, bucket.publisher.writing("ann"))
        read = await bucket.publisher.swap(SCOPE, read, following)
    return read.pointer


def names(pointer: Pointer) -> tuple[str | None, str | None]:
    return pointer.live and pointer.live.state, pointer.desired and pointer.desired.state


# -- with a trust policy

KEY = generate()[0]


def trusting(store: ObjectStore, runtime: InlineRuntime) -> Bucket:
    """A process that signs, and accepts nothing else."""
    private = private_key()
    public = PublicKey.parse(
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    trusted = TrustedKey(keyid=public.keyid, public=public.pem, roles=("publish", "pointer"))
    trust = TrustPolicy(keys=(trusted,))
    return Bucket(store, runtime, signers=[KeySigner(private)], trust=trust)


def private_key() -> Ed25519PrivateKey:
    private = serialization.load_pem_private_key(KEY.encode(), None)
    assert isinstance(private, Ed25519PrivateKey)
    return private


async def recover_trusting(
    store: ObjectStore, runtime: InlineRuntime, options: RecoveryOptions | None = None
) -> Recovery:
    bucket = trusting(store, runtime)
    doing = Recoverer(store, bucket.reader, bucket.publisher, bucket.live_tree)
    return await doing.recover(SCOPE, options or RecoveryOptions(), "ann", "looked odd")


async def signed_scope(store: ObjectStore, runtime: InlineRuntime) -> Pointer:
    """Three signed states: the newest is quarantined, the one before it is live."""
    bucket = trusting(store, runtime)
    await bucket.publish(make_state(1), make_state(2), make_state(3))
    await bucket.operations.carry_out(
        SCOPE, operator_commands.quarantine("state-3", rollback_to="state-2"), "ann", "bad"
    )
    assert isinstance(await bucket.live_tree.reconcile(SCOPE), FinishedPass)
    return await bucket.pointer()


async def forge_chunk(
    store: ObjectStore, sequence: int, pointer: Pointer, change: dict[str, object]
) -> None:
    """An unsigned chunk: it lifts every quarantine and makes state-3 live."""
    [state_3] = pointer.retained_of("state-3")
    entry = pointer.history[-1].model_dump(mode="json") | {
        "sequence": sequence,
        "write_id": "f" * 32,
        "by": "alice",
        "reason": "approved",
        "live": str(state_3.id),
        "desired": str(state_3.id),
        "change": change,
    }
    body = json.dumps({"schema": 2, "entries": [entry], "previous_chunk": None}).encode()
    await store.create(layout.history(SCOPE, sequence, sequence, "f" * 32), Content(body))


async def forge_marker(store: ObjectStore, sequence: int, publication: PublicationId) -> None:
    document = json.loads((await store.get(MARKER)).body)
    forged = document | {"sequence": sequence, "publication": str(publication)}
    await overwrite(store, MARKER, json.dumps(forged).encode())


@in_loop
async def test_unsigned_changes_lift_no_quarantine_and_make_nothing_live(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    before = await signed_scope(store, runtime)
    [bad] = before.quarantined
    [state_3] = before.retained_of("state-3")
    await forge_chunk(
        store, 900, before, {"lifted": bad.composition_digest, "hold": None, "quarantined": []}
    )
    await forge_marker(store, 5000, state_3.id)
    with pytest.raises(PointerLost, match="another program wrote the marker"):
        await trusting(store, runtime).live_tree.reconcile(SCOPE)
    report = await recover_trusting(store, runtime)
    pointer = await trusting(store, runtime).pointer()

    assert names(pointer) == ("state-2", before.desired and before.desired.state)
    assert pointer.quarantined == before.quarantined
    assert pointer.sequence > 5000, "sequences count even if they are unsigned"
    assert [entry.by for entry in pointer.history] == [
        *(entry.by for entry in before.history),
        "ann",
    ]
    assert report.recovered is not None
    assert any(f"`--live {state_3.id}`" in message for message in report.recovered.unknown)
    assert any(
        "the effect of 1 changes that no signed pointer leads to" in message
        for message in report.recovered.unknown
    )
    assert (await trusting(store, runtime).live_tree.survey(SCOPE, reading_all=True)).synced


@in_loop
async def test_a_scope_from_before_the_key_is_not_emptied_without_an_explicit_wish(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    before = await Bucket(store, runtime).publish(make_state(1), make_state(2))
    body = (await store.get(layout.pointer(SCOPE))).body

    with pytest.raises(StateUnreadable, match=r"rebundle republish .* --allow-empty") as raised:
        await recover_trusting(store, runtime)

    assert all(str(publication.id) in str(raised.value) for publication in before.pointer.retained)
    assert (await store.get(layout.pointer(SCOPE))).body == body
    report = await recover_trusting(store, runtime, RecoveryOptions(allow_empty=True))
    assert report.recovered is not None
    assert "live: nothing (nothing is left to be live)" in report.recovered.steps


@in_loop
async def test_a_signed_state_is_made_live_beside_states_that_nobody_signed(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await Bucket(store, runtime).publish(make_state(1))
    signer = Bucket(store, runtime, signers=[KeySigner(private_key())])
    await signer.publish(make_state(2))
    await signer.live_tree.reconcile(SCOPE)
    await remove(store, layout.pointer(SCOPE))

    await recover_trusting(store, runtime)

    assert names(await trusting(store, runtime).pointer())[0] == "state-2"


@in_loop
async def test_an_unsigned_marker_makes_nothing_live(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    before = await signed_scope(store, runtime)
    [state_1] = before.retained_of("state-1")
    await forge_marker(store, 5000, state_1.id)
    await recover_trusting(store, runtime)

    assert names(await trusting(store, runtime).pointer())[0] == "state-2"


@in_loop
async def test_unsigned_changes_may_quarantine_but_not_the_live_state(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    """A signed pointer may be a restored one from before a quarantine.

    The chunk may be the only record of it.
    """
    bucket = trusting(store, runtime)
    await bucket.publish(make_state(1), make_state(2), make_state(3))
    before = await bucket.pointer()
    [state_1], [state_3] = before.retained_of("state-1"), before.retained_of("state-3")
    bad = {"by": "ann", "reason": "bad", "at": "2026-01-01T00:00:00Z"}
    every = [
        bad | {"composition_digest": item}
        for item in (state_1.composition_digest, state_3.composition_digest, "0" * 64)
    ]
    unsigned = {"quarantined": every, "hold": bad, "pinned": [str(state_1.id)]}
    await forge_chunk(store, 900, before, unsigned)
    report = await recover_trusting(store, runtime, RecoveryOptions(hold=False))
    pointer = await bucket.pointer()

    assert [quarantine.composition_digest for quarantine in pointer.quarantined] == [
        state_1.composition_digest
    ], "nor a composition that the bucket does not have"
    assert (names(pointer)[0], pointer.hold) == ("state-3", None)
    assert not any(publication.pinned for publication in pointer.retained)
    assert report.recovered is not None
    assert any(
        f"whether {state_3.id} is quarantined" in message for message in report.recovered.unknown
    )


@in_loop
async def test_a_lift_before_a_signed_pointer_was_saved_survives_its_restore(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await signed_scope(store, runtime)
    bucket = trusting(store, runtime)
    await bucket.operations.carry_out(
        SCOPE, operator_commands.lift_quarantine("state-3"), "ann", "fixed"
    )
    await bucket.operations.carry_out(SCOPE, protocol.resume, "ann", "fixed")
    saved = (await store.get(POINTER)).body
    await changed(bucket, MOST_HISTORY + 2)
    await overwrite(store, POINTER, saved)
    await recover_trusting(store, runtime, RecoveryOptions(hold=False))
    pointer = await trusting(store, runtime).pointer()

    assert (names(pointer), pointer.quarantined, pointer.hold) == (("state-3", "state-3"), (), None)


@in_loop
async def test_a_chunk_without_the_digest_of_the_signed_pointer_is_not_trusted(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await signed_scope(store, runtime)
    bucket = trusting(store, runtime)
    older = (await changed(bucket, MOST_HISTORY + 2)).previous_chunk
    assert older is not None
    changed_by = (await store.get(older.key)).body.replace(b'"by":"ann"', b'"by":"eve"')
    await overwrite(store, older.key, changed_by)
    await forge_chunk(store, 900, await bucket.pointer(), {})
    await recover_trusting(store, runtime)
    pointer = await bucket.pointer()

    assert b"eve" in changed_by
    assert (
        pointer.previous_chunk,
        "eve" in {entry.by for entry in await bucket.reader.history(pointer)},
    ) == (
        None,
        False,
    )


@in_loop
async def test_without_a_signed_pointer_the_unsigned_chunks_are_used_and_reported(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    before = await signed_scope(store, runtime)
    [bad] = before.quarantined
    await forge_chunk(store, 900, before, {"quarantine": bad.model_dump(mode="json")})
    await remove(store, POINTER)
    report = await recover_trusting(store, runtime)
    pointer = await trusting(store, runtime).pointer()

    assert [quarantine.composition_digest for quarantine in pointer.quarantined] == [
        bad.composition_digest
    ]
    assert names(pointer)[0] == "state-2", (
        "the state in the marker, because the one in the chunk is quarantined"
    )
    assert report.recovered is not None
    assert any(
        "history and marker, which are not signed" in message
        for message in report.recovered.unknown
    )


@pytest.mark.parametrize("policy", [False, True])
@in_loop
async def test_a_chunk_that_cannot_be_written_again_stops_nothing(
    store: MemoryStore, runtime: InlineRuntime, policy: bool
) -> None:
    before = await signed_scope(store, runtime)
    await forge_chunk(
        store, 900, before, {"hold": {"by": "\ud800", "reason": "", "at": "2026-01-01T00:00:00Z"}}
    )
    recovered = await (recover_trusting if policy else recover_signing)(store, runtime)

    assert recovered.recovered is not None
    assert (await trusting(store, runtime).pointer()).sequence > 900


async def recover_signing(store: ObjectStore, runtime: InlineRuntime) -> Recovery:
    """With the key, and without a policy."""
    signers = trusting(store, runtime).publisher._signers
    bucket = Bucket(store, runtime, signers=signers)
    return await Recoverer(store, bucket.reader, bucket.publisher, bucket.live_tree).recover(
        SCOPE, RecoveryOptions(), "ann", "looked odd"
    )


@in_loop
async def test_a_pointer_without_an_accepted_signature_keeps_its_restrictions(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    before = await signed_scope(store, runtime)
    document = json.loads((await store.get(POINTER)).body)
    await overwrite(
        store, POINTER, json.dumps({"signed": document["signed"], "signatures": []}).encode()
    )
    with pytest.raises(VerificationFailed):
        await trusting(store, runtime).pointer()
    ancient = {"by": "bob", "reason": "ancient", "at": "2026-01-01T00:00:00Z"}
    await forge_chunk(store, 2, before, {"hold": ancient})
    report = await recover_trusting(store, runtime)
    pointer = await trusting(store, runtime).pointer()

    assert (pointer.quarantined, pointer.hold) == (before.quarantined, before.hold)
    assert report.recovered is not None
    assert "known only from the pointer" in report.recovered.unknown[0]


@in_loop
async def test_chunks_that_a_signed_pointer_leads_to_are_fully_trusted(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    before = await signed_scope(store, runtime)
    bucket = trusting(store, runtime)
    await bucket.operations.carry_out(
        SCOPE, operator_commands.lift_quarantine("state-3"), "ann", "fixed"
    )
    read = await bucket.reader.pointer(SCOPE)
    for _ in range(MOST_HISTORY + 2):
        following = protocol.hold(read.pointer, bucket.publisher.writing("ann"))
        read = await bucket.publisher.swap(SCOPE, read, following)
    await forge_chunk(store, 900, before, {"lifted": "0" * 64})
    entries = await bucket.reader.history(read.pointer)
    report = await recover_trusting(store, runtime)
    pointer = await trusting(store, runtime).pointer()

    assert report.recovered is not None
    assert (pointer.quarantined, pointer.previous_chunk) == ((), read.pointer.previous_chunk)
    assert (await trusting(store, runtime).reader.history(pointer))[: len(entries)] == entries


@in_loop
async def test_a_scope_without_any_accepted_signature_is_held(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    """Its only key was revoked.

    The next state must not go live before an operator has checked the scope.
    """
    bucket = Bucket(store, runtime, signers=[KeySigner(Ed25519PrivateKey.generate())])
    await bucket.publish(make_state(1), make_state(2))
    await bucket.operations.carry_out(SCOPE, operator_commands.quarantine("state-1"), "ann", "bad")
    await bucket.live_tree.reconcile(SCOPE)
    before = await bucket.pointer()
    report = await recover_trusting(store, runtime, RecoveryOptions(allow_empty=True))
    pointer = await trusting(store, runtime).pointer()

    assert (names(pointer), pointer.hold is not None) == ((None, None), True)
    assert pointer.quarantined == before.quarantined
    assert [
        "is not in the trust policy" in damaged.reason for damaged in report.remains.damaged
    ] == [
        True,
        True,
    ]


# -- the pointer is gone


@in_loop
async def test_a_deleted_pointer_is_rebuilt_with_a_hold_above_every_sequence(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    before, files = await bucket.pointer(), await tree(store)
    await remove(store, POINTER)
    with pytest.raises(PointerLost, match="rebundle recover"):
        await bucket.pointer()
    report = await recover(store, runtime)
    pointer = await check(store, runtime)
    assert names(pointer) == ("state-3", "state-3")
    assert pointer.sequence > before.sequence + MOST_HISTORY
    assert pointer.gc_epoch > before.sequence
    assert pointer.hold is not None
    assert (pointer.hold.by, pointer.hold.reason) == ("ann", "recovered: backup was old")
    assert {publication.id for publication in pointer.retained} == {
        publication.id for publication in before.retained
    }
    assert (
        pointer.highest_revision.producer,
        pointer.highest_revision.derived,
        pointer.positions,
    ) == (
        3,
        0,
        {"journal:1": 30},
    )
    assert pointer.history[-1].published == tuple(
        str(publication.id) for publication in before.retained
    )
    assert await tree(store) == files
    assert report.damage is not None
    assert "is gone" in report.damage
    assert report.recovered is not None
    assert any("pins and their ends are not known" in line for line in report.recovered.unknown)


@in_loop
async def test_events_that_the_manifests_name_are_recognised_again(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await remove(store, POINTER)
    await recover(store, runtime)
    pointer = await check(store, runtime)
    assert [folded.event for folded in pointer.folded_events] == [
        event(number).digest[:16] for number in (1, 2, 3)
    ]
    assert len({folded.identity for folded in pointer.folded_events}) == 3


@in_loop
async def test_the_state_that_the_live_tree_follows_stays_live_despite_a_newer_one(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await bucket.operations.carry_out(SCOPE, operator_commands.rollback("state-1"), "bob", "slow")
    await remove(store, POINTER)
    await recover(store, runtime, hold=False)
    bucket = Bucket(store, runtime)
    pointer = await bucket.pointer()
    assert names(pointer) == ("state-1", "state-3")
    assert pointer.hold is not None, "live and desired differ, so the scope was on hold"
    await check(store, runtime)


@in_loop
async def test_without_a_marker_the_newest_whole_state_is_live(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    for key in (POINTER, MARKER):
        await remove(store, key)
    report = await recover(store, runtime)
    assert names(await check(store, runtime)) == ("state-3", "state-3")
    assert report.remains.traces["the files of the live tree"] == 3


@in_loop
async def test_a_state_that_the_operator_names_is_live(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await remove(store, POINTER)
    with pytest.raises(NotFound, match="state-9"):
        await recover(store, runtime, live="state-9")
    await recover(store, runtime, live="state-2")
    assert names(await check(store, runtime)) == ("state-2", "state-3")


@in_loop
async def test_a_scope_without_any_object_does_not_exist(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    with pytest.raises(NotFound):
        await recover(store, runtime)


@in_loop
async def test_a_scope_without_a_whole_state_accepts_the_next_one(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime, 1)
    await damage_archive(store, "state-1")
    await remove(store, POINTER)
    report = await recover(store, runtime)
    pointer = await check(store, runtime)
    assert (names(pointer), pointer.hold is not None, pointer.highest_revision.producer) == (
        (None, None),
        True,
        0,
    )
    assert [damaged.id.state for damaged in report.remains.damaged] == ["state-1"]


@in_loop
async def test_a_damaged_state_is_left_out_and_reported_and_can_be_sent_again(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await damage_archive(store, "state-3")
    await remove(store, POINTER)
    report = await recover(store, runtime)
    pointer = await check(store, runtime)
    assert names(pointer) == ("state-2", "state-2")
    assert (pointer.highest_revision.producer, len(pointer.folded_events)) == (2, 2)
    assert report.recovered is not None
    assert any(line.startswith("left out state-3@") for line in report.recovered.steps)
    assert any(
        "whether these events were folded: s e3." in line for line in report.recovered.unknown
    )


@in_loop
async def test_an_event_with_a_partly_stored_state_does_not_count_as_folded(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    stored = await bucket.publisher.store_state(SCOPE, make_state(4, events=(event(4),)))
    await remove(store, layout.archive(SCOPE, "state-4", stored.attempt))
    await remove(store, POINTER)
    await recover(store, runtime)
    pointer = await check(store, runtime)
    assert (pointer.positions, pointer.highest_revision.producer, len(pointer.folded_events)) == (
        {"journal:1": 30},
        3,
        3,
    )


@pytest.mark.parametrize("whole", [False, True])
def test_an_event_that_waits_while_the_pointer_is_lost_is_published_and_desired(
    tmp_path: Path, whole: bool
) -> None:
    async def play() -> None:
        store = MemoryStore(InlineRuntime())
        away = FaultyStore(store, {POINTER: [Fault.NONE] + [Fault.AWAY] * 4})
        async with open_scene(tmp_path / "journal.db", away) as scene:
            await scene.batch(state_event(1))
            with pytest.raises(OutcomeUnresolved):
                await scene.batch(state_event(2))
        if not whole:
            await remove(store, await archive_key(store, "state-2"))
        await remove(store, POINTER)
        await recover(store, InlineRuntime())
        async with open_scene(tmp_path / "journal.db", store) as scene:
            await scene.work()
            [outcome] = await scene.outcomes(state_event(2).id)
            pointer = await scene.pointer()
        assert (outcome.kind, outcome.state) == (OutcomeKind.PUBLISHED, "state-2")
        assert names(pointer) == ("state-1", "state-2")
        assert pointer.highest_revision.producer == 2

    asyncio.run(play())


# -- history


async def chunks(store: ObjectStore) -> list[str]:
    """The keys of the history's chunks, the oldest first."""
    keys = [entry.key for entry in await store.scan(layout.histories(SCOPE))]
    return sorted(
        keys, key=lambda key: int(re.split(r"[-.]", key.removeprefix(layout.histories(SCOPE)))[0])
    )


async def held(bucket: Bucket, times: int) -> None:
    for _ in range(times):
        await bucket.operations.carry_out(SCOPE, protocol.hold, "ann")


@in_loop
async def test_the_content_of_the_chunks_is_kept(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await bucket.operations.carry_out(SCOPE, operator_commands.pin("state-1", pinned=True), "bob")
    await bucket.operations.carry_out(SCOPE, operator_commands.quarantine("state-2"), "bob", "bad")
    await held(bucket, 300)
    before = await bucket.pointer()
    history_before = await bucket.reader.history(before)
    await remove(store, POINTER)
    report = await recover(store, runtime, hold=False)
    pointer = await check(store, runtime)
    assert [
        (quarantine.composition_digest, quarantine.reason) for quarantine in pointer.quarantined
    ] == [(before.quarantined[0].composition_digest, "bad")]
    assert [publication.state for publication in pointer.retained if publication.pinned] == [
        "state-1"
    ]
    assert pointer.hold is not None
    assert pointer.hold.reason == ""
    assert pointer.sequence > before.sequence
    after = await bucket.reader.history(pointer)
    assert after[: report.remains.chunked] == history_before[: report.remains.chunked]
    assert report.remains.chunked >= before.sequence - MOST_HISTORY
    assert pointer.history[-1].published == ()


@in_loop
async def test_a_lift_a_resume_and_an_unpin_are_replayed_as_well(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    for command in (
        operator_commands.pin("state-1", pinned=True),
        operator_commands.quarantine("state-2"),
        operator_commands.rollback("state-1"),
        operator_commands.pin("state-1", pinned=False),
        operator_commands.lift_quarantine("state-2"),
        protocol.resume,
    ):
        await bucket.operations.carry_out(SCOPE, command, "bob")
    for _ in range(70):
        await bucket.operations.carry_out(
            SCOPE, operator_commands.pin("state-2", pinned=True), "bob"
        )
        await bucket.operations.carry_out(
            SCOPE, operator_commands.pin("state-2", pinned=False), "bob"
        )
    await remove(store, POINTER)
    await recover(store, runtime, hold=False)
    pointer = await check(store, runtime)
    assert (pointer.hold, pointer.quarantined) == (None, ())
    assert names(pointer) == ("state-3", "state-3")


@in_loop
async def test_a_second_recovery_keeps_what_the_first_one_kept(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await bucket.operations.carry_out(SCOPE, operator_commands.quarantine("state-2"), "bob", "bad")
    await bucket.operations.carry_out(SCOPE, operator_commands.pin("state-1", pinned=True), "bob")
    old = await store.get(POINTER)
    await held(bucket, 3)
    await overwrite(store, POINTER, old.body)
    await recover(store, runtime)
    await held(bucket, 130)
    await remove(store, POINTER)
    await recover(store, runtime)
    pointer = await check(store, runtime)
    assert [quarantine.reason for quarantine in pointer.quarantined] == ["bad"]
    assert [publication.state for publication in pointer.retained if publication.pinned] == [
        "state-1"
    ]


@in_loop
async def test_a_chunk_that_was_changed_cuts_the_history_off_and_stops_nothing(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await held(bucket, 300)
    first, *_ = await chunks(store)
    body = json.loads((await store.get(first)).body)
    body["entries"][5]["reason"] = "changed"
    await overwrite(store, first, json.dumps(body).encode())
    with pytest.raises(VerificationFailed):
        await Bucket(store, runtime).reader.history(await bucket.pointer())
    report = await recover(store, runtime)
    await check(store, runtime)
    assert report.recovered is not None
    assert any("cut the history off" in line for line in report.recovered.steps)
    assert names(report.recovered.pointer) == ("state-3", "state-3")


@in_loop
async def test_a_chunk_lost_with_the_pointer_stops_no_later_change(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime, 1)
    await held(bucket, 200)
    first, second = await chunks(store)
    await remove(store, first)
    await remove(store, POINTER)
    await recover(store, runtime)
    pointer = await check(store, runtime)
    assert (pointer.previous_chunk, pointer.history[0].sequence) == (None, 65)
    assert second in await chunks(store)
    assert (await recover(store, runtime)).recovered is None


@in_loop
async def test_a_restored_old_pointer_over_a_damaged_chunk_stops_no_later_change(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await held(bucket, 97)
    old = await store.get(POINTER)
    await held(bucket, 50)
    [first] = await chunks(store)
    await overwrite(store, first, (await store.get(first)).body[:-9])
    await overwrite(store, POINTER, old.body)
    await recover(store, runtime)
    assert len((await check(store, runtime)).history) == 101


@in_loop
async def test_a_history_that_was_cut_off_beside_a_chunk_that_a_crash_left_can_grow(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await held(bucket, 64 + MOST_HISTORY - 3)
    read = await bucket.reader.pointer(SCOPE)
    assert (read.pointer.sequence, len(read.pointer.history)) == (64 + MOST_HISTORY, MOST_HISTORY)
    with pytest.raises(OutcomeUnresolved):
        await changed(Bucket(FaultyStore(store, {POINTER: [Fault.LOST_BEFORE] * 4}), runtime), 1)
    first, _ = await chunks(store)
    await remove(store, first)
    report = await recover(store, runtime)
    assert report.recovered is not None
    assert any("cut the history off" in line for line in report.recovered.steps)
    await check(store, runtime)


@pytest.mark.parametrize("policy", [False, True])
@in_loop
async def test_a_chunk_that_a_killed_writer_left_cuts_off_no_healthy_history(
    store: MemoryStore, runtime: InlineRuntime, policy: bool
) -> None:
    bucket = trusting(store, runtime) if policy else Bucket(store, runtime)
    await bucket.publish(make_state(1))
    await held(bucket, 64 + MOST_HISTORY - 1)
    faulty = FaultyStore(store, {POINTER: [Fault.LOST_BEFORE] * 4})
    killed = trusting(faulty, runtime) if policy else Bucket(faulty, runtime)
    with pytest.raises(OutcomeUnresolved):
        await changed(killed, 1)
    before = await bucket.pointer()
    assert len(await chunks(store)) == 2
    report = await (recover_trusting if policy else recover)(store, runtime)

    assert report.recovered is None
    assert await bucket.pointer() == before


@in_loop
async def test_of_two_chunks_with_the_same_entries_the_referenced_one_counts(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime, 1)
    await held(bucket, MOST_HISTORY + 1)
    pointer = await bucket.pointer()
    assert pointer.previous_chunk is not None
    body = (await store.get(pointer.previous_chunk.key)).body
    for write in ("0" * 32, "f" * 32):
        await store.create(layout.history(SCOPE, 1, 64, write), Content(body))
    old = await store.get(POINTER)
    await held(bucket, 3)
    await overwrite(store, POINTER, old.body)
    assert (await recover(store, runtime)).recovered is not None
    assert (await bucket.pointer()).previous_chunk == pointer.previous_chunk


@in_loop
async def test_uploads_after_a_restored_pointer_are_listed(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime, 1)
    old = await store.get(POINTER)
    await runtime.sleep(10)
    await bucket.publish(make_state(2))
    lost = (await bucket.pointer()).live
    await overwrite(store, POINTER, old.body)
    report = await recover(store, runtime)
    assert (report.recovered, report.remains.unreferenced_uploads) == (None, (lost and lost.id,))


@in_loop
async def test_an_upload_that_lost_its_race_is_not_retained(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await runtime.sleep(10)
    rival = await bucket.publisher.store_state(
        SCOPE, make_state(9, state="state-2", revision=Revision(producer=2))
    )
    await remove(store, POINTER)
    report = await recover(store, runtime)
    pointer = await bucket.pointer()
    assert report.recovered is not None
    assert any(
        str(rival.id) in line and "which of these was committed" in line
        for line in report.recovered.unknown
    )
    assert {publication.state for publication in pointer.retained} == {"state-1", "state-3"}
    both = [
        found_item.publication.id
        for found_item in report.remains.found
        if found_item.publication.state == "state-2"
    ]
    [committed] = [item for item in both if item != rival.id]
    await recover(store, runtime, live=str(committed))
    assert names(await check(store, runtime))[0] == "state-2"
    with pytest.raises(OperationRefused, match="never committed"):
        await recover(store, runtime, live=str(rival.id))


@in_loop
async def test_the_manifest_of_a_damaged_publication_has_the_committed_composition(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await held(bucket, MOST_HISTORY)
    await damage_archive(store, "state-2")
    await bucket.publisher.store_state(
        SCOPE, make_state(9, state="state-2", revision=Revision(producer=2))
    )
    await remove(store, POINTER)
    await recover(store, runtime)
    assert {publication.state for publication in (await check(store, runtime)).retained} == {
        "state-1",
        "state-3",
    }


@in_loop
async def test_an_unreadable_chunk_still_bounds_the_sequence(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime, 1)
    await held(bucket, 511)
    keys = await chunks(store)
    for key, left in zip(keys[-2:], (-3, 0), strict=True):
        await overwrite(store, key, (await store.get(key)).body[:left])
    for entry in await store.scan(layout.live_tree(SCOPE)):
        await remove(store, entry.key)
    await remove(store, POINTER)
    report = await recover(store, runtime)
    assert report.remains.traces == {"the history": 512 - MOST_HISTORY}
    assert (await check(store, runtime)).sequence == 512 + 1


@in_loop
async def test_the_key_of_an_empty_chunk_bounds_the_sequence(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime, 1)
    await store.create(layout.history(SCOPE, 321, 384, "w"), Content(b""))
    await store.create(f"{layout.histories(SCOPE)}notes.txt", Content(b"somebody's"))
    report = await recover(store, runtime)
    assert report.remains.traces["the history"] == 384
    assert (await check(store, runtime)).sequence == 384 + MOST_HISTORY + 1


@in_loop
async def test_the_remaining_bytes_of_a_truncated_chunk_bound_the_sequence_above_its_key(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime, 1)
    # An earlier recovery continued at a higher sequence while this one ran.
    await store.create(
        layout.history(SCOPE, 321, 384, "w"),
        Content(b'{"entries":[{"sequence":330},{"sequence":900'),
    )
    report = await recover(store, runtime)
    assert report.remains.traces["the history"] == 900


@in_loop
async def test_a_released_publication_does_not_return(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    first = (await bucket.pointer()).retained[0].id
    await bucket.operations.carry_out(
        SCOPE, lambda now, writing: protocol.collect(now, writing, {first}), "cron"
    )
    old = await store.get(POINTER)
    await held(bucket, 1)
    await overwrite(store, POINTER, old.body)
    await recover(store, runtime)
    assert [publication.state for publication in (await check(store, runtime)).retained] == [
        "state-2",
        "state-3",
    ]


# -- a restored older pointer


@in_loop
async def test_a_restored_old_pointer_is_updated_with_later_changes(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime, 1)
    await bucket.operations.carry_out(SCOPE, operator_commands.pin("state-1", pinned=True), "bob")
    old = await store.get(POINTER)
    for number in (2, 3):
        await bucket.publish(make_state(number, events=(event(number),)))
        await runtime.sleep(10)
    await bucket.live_tree.reconcile(SCOPE)
    before = await bucket.pointer()
    await overwrite(store, POINTER, old.body)
    with pytest.raises(PointerLost, match="rebundle recover"):
        await Bucket(store, runtime).live_tree.reconcile(SCOPE)
    report = await recover(store, runtime)
    pointer = await check(store, runtime)
    assert names(pointer) == ("state-3", "state-3")
    assert pointer.sequence > before.sequence
    assert pointer.positions == {"journal:1": 30}
    assert [(publication.state, publication.pinned) for publication in pointer.retained] == [
        ("state-1", True),
        ("state-2", False),
        ("state-3", False),
    ]
    assert [publication.partition("@")[0] for publication in pointer.history[-1].published] == [
        "state-2",
        "state-3",
    ]
    assert [entry.kind for entry in pointer.history] == ["publish", "pin", "recover"]
    assert report.damage is None


@in_loop
async def test_the_sequence_seen_on_this_machine_counts(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    old = await store.get(POINTER)
    await held(bucket, 5)
    await overwrite(store, POINTER, old.body)
    await remove(store, MARKER)
    with pytest.raises(SequenceWentBack, match="rebundle recover"):
        await bucket.pointer()
    recovering = Recoverer(store, bucket.reader, bucket.publisher, bucket.live_tree)
    report = await recovering.recover(SCOPE, RecoveryOptions(), "ann", "why")
    assert report.remains.pointer is not None
    assert (
        report.remains.pointer.sequence,
        report.remains.traces["sequence seen on this machine"],
    ) == (
        3,
        8,
    )
    assert (await bucket.pointer()).sequence == 8 + MOST_HISTORY + 1
    await check(store, runtime)


@in_loop
async def test_a_whole_pointer_above_every_trace_is_left_alone(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    watched = FaultyStore(store)
    report = await recover(watched, runtime)
    assert (report.recovered, watched.writes) == (None, [])


@in_loop
async def test_a_retired_scope_stays_retired(store: MemoryStore, runtime: InlineRuntime) -> None:
    bucket = await grown(store, runtime)
    await bucket.operations.carry_out(SCOPE, protocol.retire, "ann")
    await held(bucket, 130)
    await remove(store, POINTER)
    await recover(store, runtime)
    pointer = await check(store, runtime)
    assert (names(pointer), pointer.hold and pointer.hold.by) == ((None, None), "ann")


@in_loop
async def test_freshness_and_a_damaged_pointer_bound_the_sequence(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await store.create(layout.freshness(SCOPE), Content(b'{"signed": {"sequence": 5000, "sco'))
    await overwrite(store, POINTER, b'{"signed": {"sequence": 7000,')
    report = await recover(store, runtime)
    pointer = await check(store, runtime)
    assert pointer.sequence > 7000 + MOST_HISTORY
    assert report.remains.traces["freshness.json"] == 5000
    assert report.damage is not None
    assert "damaged" in report.damage


@in_loop
async def test_a_damaged_marker_bounds_the_sequence(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await overwrite(store, MARKER, b'{"sequence": 300, "files": {')
    await remove(store, POINTER)
    report = await recover(store, runtime)
    assert report.remains.traces["the live tree's marker"] == 300
    assert (await check(store, runtime)).sequence == 300 + MOST_HISTORY + 1


@in_loop
async def test_unreadable_or_large_files_of_operators_stop_no_recovery(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    secret, large = (
        layout.live_tree(SCOPE, "example/conf/bundle/.env"),
        layout.live_tree(SCOPE, "example/model.bin"),
    )
    await store.create(large, Content(b"\0" * ((8 << 20) + 1)))
    await remove(store, POINTER)
    troubled = TroubledStore(store, unreadable={secret})
    report = await recover(troubled, runtime)
    assert report.remains.traces["the files of the live tree"] == 3
    assert isinstance(report.live_tree, FinishedPass)
    assert set(report.live_tree.overrides) == {"example/conf/bundle/.env", "example/model.bin"}


# -- missing states


@in_loop
async def test_a_missing_state_is_removed_from_an_otherwise_whole_pointer(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    before = await bucket.pointer()
    [missing] = before.retained_of("state-1")
    await remove(store, layout.manifest(SCOPE, "state-1", missing.attempt))
    report = await recover(store, runtime)
    pointer = await check(store, runtime)
    assert [publication.state for publication in pointer.retained] == ["state-2", "state-3"]
    assert (names(pointer), pointer.hold, pointer.sequence) == (
        ("state-3", "state-3"),
        None,
        before.sequence + 1,
    )
    assert (pointer.positions, pointer.folded_events) == (before.positions, before.folded_events)
    assert report.recovered is not None
    assert str(missing.id) in report.recovered.steps[0]


@in_loop
async def test_if_live_is_damaged_the_newest_whole_state_is_live_and_held(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await damage_archive(store, "state-3")
    await recover(store, runtime)
    pointer = await check(store, runtime)
    assert names(pointer) == ("state-2", "state-2")
    assert pointer.hold is not None


@in_loop
async def test_a_quarantined_state_does_not_become_live_by_recovery(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    await bucket.operations.carry_out(SCOPE, operator_commands.quarantine("state-2"), "bob", "bad")
    await damage_archive(store, "state-3")
    with pytest.raises(OperationRefused, match="quarantined"):
        await recover(store, runtime, live="state-2")
    await recover(store, runtime)
    assert names(await check(store, runtime)) == ("state-1", "state-2")


# -- concurrent writers


@in_loop
async def test_a_preview_writes_nothing(store: MemoryStore, runtime: InlineRuntime) -> None:
    await grown(store, runtime)
    await remove(store, POINTER)
    watched = FaultyStore(store)
    report = await recoverer(watched, runtime).preview(SCOPE, RecoveryOptions(), "ann", "why")
    assert report.recovered is not None
    assert watched.writes == []


@in_loop
async def test_a_daemon_that_continues_from_the_lost_pointer_loses(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    base = await bucket.reader.pointer(SCOPE)
    publication = await bucket.publisher.store_state(SCOPE, make_state(4))
    following = protocol.publish(base.pointer, bucket.publisher.writing("slow"), [publication])
    await remove(store, POINTER)
    await recover(store, runtime)
    with pytest.raises(PointerMoved):
        await bucket.publisher.swap(SCOPE, base, following)
    await check(store, runtime)


LOST, OLD, DAMAGED = "lost", "an older one", "damaged"


@pytest.mark.parametrize(
    "fault", [item for item in Fault if item not in {Fault.NONE, Fault.REFUSED}]
)
@pytest.mark.parametrize("found", [LOST, OLD, DAMAGED])
def test_a_faulty_answer_stops_no_recovery(
    runtime: InlineRuntime, fault: Fault, found: str
) -> None:
    async def play() -> None:
        store = MemoryStore(runtime)
        bucket = await grown(store, runtime)
        old = await store.get(POINTER)
        await held(bucket, 3)
        if found == LOST:
            await remove(store, POINTER)
        else:
            await overwrite(store, POINTER, old.body if found == OLD else b"{")
        faulty, accepted = FaultyStore(store, {POINTER: [fault]}), ProcessSequences()
        await accepted.accept(SCOPE, 6)
        reader = Reader(faulty, runtime, accepted=accepted)
        acting = Publisher(faulty, reader, runtime), LiveTree(faulty, reader, runtime)
        report = await Recoverer(faulty, reader, *acting).recover(
            SCOPE, RecoveryOptions(), "ann", "why"
        )
        await faulty.arrive()
        pointer = await check(store, runtime)
        assert report.recovered is not None
        assert pointer.write_id == report.recovered.pointer.write_id

    asyncio.run(play())


@in_loop
async def test_a_committed_recovery_is_reported_although_the_live_tree_cannot_follow(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await remove(store, POINTER)
    report = await recover(
        FaultyStore(store, {layout.MARKER: [Fault.REFUSED]}), runtime, live="state-1"
    )
    assert report.recovered is not None
    assert isinstance(report.live_tree, UnfinishedPass)
    assert (await Bucket(store, runtime).pointer()) == report.recovered.pointer


@in_loop
async def test_another_writer_that_restores_the_pointer_meanwhile_wins(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    body = (await store.get(POINTER)).body
    await remove(store, POINTER)
    gate = Gate(lambda operation, key: (operation, key) == ("create", POINTER))
    recovering = asyncio.create_task(recover(FaultyStore(store, before=gate), runtime))
    await gate.reached.wait()
    await store.create(POINTER, Content(body))
    gate.open()
    with pytest.raises(PointerMoved):
        await recovering
    assert (await bucket.pointer()).kind == "publish"


@in_loop
async def test_a_damaged_signed_pointer_is_not_replaced_without_a_key(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    await overwrite(
        store, POINTER, b'{"signed": {"sequence": 3}, "signatures": [{"keyid": "k", "sig": "s"}]}'
    )
    with pytest.raises(CannotSign):
        await recover(store, runtime)


@in_loop
async def test_a_lost_pointer_of_signed_publications_is_not_replaced_without_a_key(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    bucket = await grown(store, runtime)
    [last] = (await bucket.pointer()).retained_of("state-3")
    folder = layout.manifest(SCOPE, "state-3", last.attempt).removesuffix(layout.MANIFEST)
    await store.create(f"{folder}{layout.SIGNATURE}", Content(b"{}"))
    await remove(store, POINTER)
    with pytest.raises(CannotSign):
        await recover(store, runtime)


@in_loop
async def test_a_crash_at_any_call_can_be_recovered_again(runtime: InlineRuntime) -> None:
    class Crash(Exception):
        pass

    for number in range(1, 200):
        store = MemoryStore(runtime)
        await grown(store, runtime, 2)
        await remove(store, POINTER)
        calls = 0

        async def before(_operation: str, _key: str, last: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise Crash

        try:
            await recover(FaultyStore(store, before=before), runtime)
        except Crash:
            await recover(store, runtime)
            assert names(await check(store, runtime)) == ("state-2", "state-2")
        else:
            assert number > 20
            break
    else:
        pytest.fail("it never came to its end")


@pytest.mark.parametrize(
    "damaged",
    ["pointer.json", "state-2/*/manifest.json", "history/*", "docker-compose-gen/README.md"],
)
@in_loop
async def test_an_object_that_the_store_reports_as_damaged_stops_no_recovery(
    store: MemoryStore, runtime: InlineRuntime, damaged: str
) -> None:
    bucket = await grown(store, runtime)
    await changed(bucket, MOST_HISTORY + 2)
    asked: set[str] = set()

    async def before(operation: str, key: str) -> None:
        if operation == "get" and fnmatch.fnmatch(key, f"*/{damaged}"):
            asked.add(key)
            raise ObjectDamaged(f"{key} is damaged: checksum")

    rotten = Bucket(FaultyStore(store, before=before), runtime)
    options = RecoveryOptions("state-1") if damaged.startswith("state-2") else RecoveryOptions()
    report = await Recoverer(
        rotten.store, rotten.reader, rotten.publisher, rotten.live_tree
    ).preview(SCOPE, options, "ann", "bytes rot")

    assert asked
    whys = [report.damage or "", *(item.reason for item in report.remains.damaged)]
    if not damaged.startswith(("history", "docker")):
        assert any("is damaged: checksum" in why for why in whys)
        assert not any("is gone" in why for why in whys)


@in_loop
async def test_a_pointer_that_the_store_reports_as_damaged_is_replaced(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    rotten = [True]

    async def before(operation: str, key: str) -> None:
        if rotten and (operation, key) == ("get", POINTER):
            raise ObjectDamaged("checksum")
        if (operation, key) == ("replace", POINTER):
            rotten.clear()

    await recover(FaultyStore(store, before=before), runtime)
    assert names(await check(store, runtime)) == ("state-3", "state-3")


@in_loop
async def test_a_damaged_pointer_is_replaced_although_the_first_sending_fails(
    store: MemoryStore, runtime: InlineRuntime
) -> None:
    await grown(store, runtime)
    sendings = 0

    async def before(operation: str, key: str) -> None:
        nonlocal sendings
        if (operation, key) == ("replace", POINTER):
            sendings += 1
            if sendings == 1:
                raise StoreUnavailable("no answer")
        elif (operation, key) == ("get", POINTER) and sendings < 2:
            raise ObjectDamaged("checksum")

    await recover(FaultyStore(store, before=before), runtime)
    assert sendings == 2
    assert names(await check(store, runtime)) == ("state-3", "state-3")


@in_loop
async def test_nothing_below_creds_is_read(store: MemoryStore, runtime: InlineRuntime) -> None:
    await grown(store, runtime)
    await remove(store, POINTER)
    watched = FaultyStore(
        store, forbidden=lambda operation, key: operation == "get" and "/example/creds/" in key
    )
    await recover(watched, runtime)
    await check(store, runtime)


@pytest.mark.parametrize(
    "folder", [f"{layout.states(SCOPE)}state-2", f"{layout.histories(SCOPE)}below"]
)
@in_loop
async def test_an_unlistable_folder_is_not_treated_as_absent(
    store: MemoryStore, runtime: InlineRuntime, folder: str
) -> None:
    class Barred(FaultyStore):
        async def scan(self, prefix: str) -> Listing:
            listing = await super().scan(prefix)
            hidden = (
                (UnreadableFolder(folder, f"chmod a+rx {folder}"),)
                if folder.startswith(prefix)
                else ()
            )
            return Listing(
                tuple(entry for entry in listing if not entry.key.startswith(f"{folder}/")), hidden
            )

    await grown(store, runtime)
    await remove(store, POINTER)

    with pytest.raises(StoreRefused, match=f"{folder}/ cannot be listed: chmod"):
        await recover(Barred(store), runtime)

    assert not await store.scan(layout.pointer(SCOPE))
