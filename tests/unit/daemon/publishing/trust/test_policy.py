"""Accepted signatures: every changed, swapped, stripped or revoked signature is refused with the
reason.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from daemon.publishing import layout, pointer, protocol, signatures
from daemon.publishing.errors import (
    CannotSign,
    NotFound,
    NotTrusted,
    ObjectGone,
    PolicyUnusable,
    SequenceWentBack,
    VerificationFailed,
)
from daemon.publishing.live_tree.results import FinishedPass
from daemon.publishing.operator_commands import rollback
from daemon.publishing.pointer import Publication
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.trust.policy import Revocation, TrustPolicy
from daemon.stores.errors import ObjectMissing
from daemon.stores.port import Content
from renderers.values import Scope
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import MemoryStore
from tests.support.signing_keys import Key

NOW = InlineRuntime().now()


TRUSTED, OTHER = Key(), Key()
POLICY = TrustPolicy(keys=(TRUSTED.trusted(),))


def run(scenario: Callable[[MemoryStore], Any], store: MemoryStore | None = None) -> Any:
    return asyncio.run(scenario(store or MemoryStore(InlineRuntime())))


def signing(store: MemoryStore, *keys: Key, name: str = "writer") -> Bucket:
    return Bucket(store, InlineRuntime(name), signers=[key.signer for key in keys or (TRUSTED,)])


def reading(store: MemoryStore, trust: TrustPolicy = POLICY) -> Bucket:
    """A reader that has not seen any pointer yet."""
    return Bucket(store, InlineRuntime("reader"), trust=trust)


async def read_whole(store: MemoryStore, trust: TrustPolicy = POLICY) -> Publication:
    """Pointer, manifest, signature, archive, files."""
    bucket = reading(store, trust)
    live = (await bucket.reader.existing(SCOPE)).pointer.live
    assert live is not None
    await bucket.reader.files(SCOPE, live)
    return live


async def put(store: MemoryStore, key: str, body: bytes) -> None:
    """Written by an attacker who can write the bucket."""
    await store.replace(key, Content(body), (await store.get(key)).version)


async def refused(store: MemoryStore, message: str, trust: TrustPolicy = POLICY) -> None:
    with pytest.raises(VerificationFailed, match=message):
        await read_whole(store, trust)


def test_documents_signed_by_a_trusted_key_are_accepted() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1), make_state(2))
        assert (await read_whole(store)).state == "state-2"

    run(scenario)


def test_nothing_unsigned_is_accepted() -> None:
    async def scenario(store: MemoryStore) -> None:
        await Bucket(store, InlineRuntime("writer")).publish(make_state(1))
        await refused(store, "the pointer of .* is not signed, as the trust policy requires")

    run(scenario)


def test_every_changed_bit_of_a_pointer_is_refused() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        body = (await store.get(layout.pointer(SCOPE))).body
        POLICY.check_pointer(body, SCOPE)
        for bit in range(8 * len(body)):
            changed = bytearray(body)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(VerificationFailed):
                POLICY.check_pointer(bytes(changed), SCOPE)

    run(scenario)


@pytest.mark.parametrize("name", ["bundle.tar.gz", "manifest.json", "manifest.dsse.json"])
def test_every_changed_bit_of_a_publication_is_refused(name: str) -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        (key,) = [
            entry.key
            for entry in await store.scan(layout.states(SCOPE))
            if entry.key.endswith(name)
        ]
        body = (await store.get(key)).body
        for bit in range(8 * len(body)):
            changed = bytearray(body)
            changed[bit // 8] ^= 1 << bit % 8
            await put(store, key, bytes(changed))
            with pytest.raises(VerificationFailed):
                await read_whole(store)
        await put(store, key, body)
        await read_whole(store)

    run(scenario)


def test_a_longer_or_shorter_pointer_is_refused() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        body = (await store.get(layout.pointer(SCOPE))).body
        document = json.loads(body)
        for changed in (
            body[:-1],
            body + b"\n",
            b" " + body,
            json.dumps(document).encode(),
            body.replace(b'{"signatures"', b'{"more":1,"signatures"'),
            body[:-2] + b',"signed":{}}\n',
            b"[" * 100_000,
            b"",
        ):
            with pytest.raises(VerificationFailed, match="cannot be verified"):
                POLICY.check_pointer(changed, SCOPE)

    run(scenario)


def test_of_many_rejected_signatures_three_reasons_are_reported() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        body = json.loads((await store.get(layout.pointer(SCOPE))).body)
        many = [{"keyid": f"{number:064x}", "sig": "AA=="} for number in range(16)]
        with pytest.raises(VerificationFailed) as error:
            POLICY.check_pointer(signatures_written(body | {"signatures": many}), SCOPE)
        assert str(error.value).count("is not in the trust policy") == 3
        assert (
            "; and 13 more: restore its newest version that was signed, or `rebundle recover"
            in str(error.value)
        )
        many += body["signatures"]
        with pytest.raises(
            VerificationFailed, match="cannot be verified: it has 17 signatures, and may have 16"
        ):
            POLICY.check_pointer(signatures_written(body | {"signatures": many}), SCOPE)

    run(scenario)


def test_an_envelope_above_its_limit_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        (key,) = [
            entry.key for entry in await store.scan(layout.states(SCOPE)) if "dsse" in entry.key
        ]
        monkeypatch.setattr(
            "daemon.publishing.sizes.SIGNATURE", len((await store.get(key)).body) - 1
        )
        with pytest.raises(NotTrusted, match=r"manifest\.dsse\.json is larger than"):
            await read_whole(store)

    run(scenario)


def test_a_stripped_signature_is_refused() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        read = await signing(store).reader.pointer(SCOPE)
        await put(store, layout.pointer(SCOPE), pointer.encode(read.pointer))
        await refused(store, "the pointer of .* is not signed")

    run(scenario)


def test_a_stripped_signature_of_a_publication_is_refused() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        (key,) = [
            entry.key for entry in await store.scan(layout.states(SCOPE)) if "dsse" in entry.key
        ]
        await store.delete(key, (await store.get(key)).version)
        await refused(store, "the publication state-1@.* is not signed")

    run(scenario)


def test_a_signature_of_another_document_is_refused() -> None:
    async def scenario(store: MemoryStore) -> None:
        first = await signing(store).publish(make_state(1))
        old = json.loads((await store.get(layout.pointer(SCOPE))).body)
        await signing(store, name="again").publish(make_state(2))
        new = json.loads((await store.get(layout.pointer(SCOPE))).body)
        swapped = new | {"signatures": old["signatures"]}
        await put(store, layout.pointer(SCOPE), signatures_written(swapped))
        await refused(store, "the signature of key .* is invalid")
        await put(store, layout.pointer(SCOPE), signatures_written(new))
        live = (await signing(store).pointer()).live
        assert live is not None
        assert first.pointer.live is not None
        was = first.pointer.live
        foreign = (await store.get(layout.signature(SCOPE, was.state, was.attempt))).body
        await put(store, layout.signature(SCOPE, live.state, live.attempt), foreign)
        await refused(store, "signs different content")

    run(scenario)


def signatures_written(document: Any) -> bytes:
    return (
        json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    ).encode()


def test_a_manifest_without_a_canonical_form_is_damaged() -> None:
    """The store is not trusted.

    An error in one read must not stop the next one (recover reads every folder).
    """

    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        live = await read_whole(store)
        body = (await store.get(layout.manifest(SCOPE, live.state, live.attempt))).body
        document = json.loads(body)
        document["archive"]["more"] = "\ud800"
        planted = json.dumps(document).encode()
        await put(store, layout.manifest(SCOPE, live.state, live.attempt), planted)
        publication = live.model_copy(
            update={"manifest_sha256": hashlib.sha256(planted).hexdigest()}
        )
        with pytest.raises(VerificationFailed, match="text that is not UTF-8"):
            await reading(store).reader.manifest(SCOPE, publication)

    run(scenario)


def test_a_signer_without_the_role_stores_nothing() -> None:
    async def scenario(store: MemoryStore) -> None:
        for trust, message in (
            (TrustPolicy(keys=(TRUSTED.trusted("pointer"),)), "may not sign as publish"),
            (TrustPolicy(keys=(TRUSTED.trusted("publish"),)), "may not sign as pointer"),
            (TrustPolicy(keys=(OTHER.trusted(),)), "is not in the trust policy"),
        ):
            writer = Bucket(store, InlineRuntime("writer"), signers=[TRUSTED.signer], trust=trust)
            with pytest.raises(CannotSign, match=rf"was not changed: .*{message}"):
                await writer.publish(make_state(1))
        keyless = Bucket(store, InlineRuntime("keyless"), trust=POLICY)
        with pytest.raises(CannotSign, match="there is no signing key"):
            await keyless.publish(make_state(1))
        assert list(await store.scan("")) == []

    run(scenario)


def test_a_signature_of_another_kind_of_document_is_refused() -> None:
    """The signed part of the pointer, signed as a freshness.json."""

    async def scenario(store: MemoryStore) -> None:
        read = await signing(store).publish(make_state(1))
        wrong = signatures.signed_by(
            [TRUSTED.signer], signatures.FRESHNESS, pointer.signed_part(read.pointer)
        )
        await put(store, layout.pointer(SCOPE), pointer.encode(read.pointer, wrong))
        await refused(store, "is invalid")

    run(scenario)


def test_a_reader_that_has_seen_a_newer_pointer_refuses_an_older_one() -> None:
    async def scenario(store: MemoryStore) -> None:
        writer = signing(store)
        await writer.publish(make_state(1))
        old = (await store.get(layout.pointer(SCOPE))).body
        await writer.publish(make_state(2))
        reader = reading(store)
        assert (await reader.pointer()).sequence == 2
        await put(store, layout.pointer(SCOPE), old)
        with pytest.raises(
            SequenceWentBack, match=r"has sequence 1, and 2 was seen here before.*rebundle recover"
        ):
            await reader.pointer()

    run(scenario)


def test_a_rollback_is_accepted_because_its_pointer_is_newer() -> None:
    async def scenario(store: MemoryStore) -> None:
        writer = signing(store)
        await writer.publish(make_state(1), make_state(2))
        reader = reading(store)
        await reader.pointer()
        base = await writer.reader.pointer(SCOPE)
        (target,) = base.pointer.retained_of("state-1")
        following = protocol.rollback(base.pointer, writer.publisher.writing("ann"), target)
        assert following is not None
        await writer.publisher.swap(SCOPE, base, following)
        live = (await reader.pointer()).live
        assert live is not None
        assert live.state == "state-1"

    run(scenario)


def test_a_pointer_of_another_scope_is_refused_although_its_signature_is_valid() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        body = (await store.get(layout.pointer(SCOPE))).body
        other = Scope("other", "target")
        await store.create(layout.pointer(other), Content(body))
        with pytest.raises(VerificationFailed, match="belongs to"):
            await reading(store).reader.pointer(other)

    run(scenario)


def test_a_manifest_of_another_scope_or_state_is_refused_although_its_signature_is_valid() -> None:
    async def scenario(store: MemoryStore) -> None:
        first = await signing(store).publish(make_state(1))
        await signing(store, name="again").publish(make_state(2))
        was, live = first.pointer.live, (await signing(store).pointer()).live
        assert was is not None
        assert live is not None
        for name in ("manifest.json", "manifest.dsse.json", "bundle.tar.gz"):
            old = f"{layout.states(SCOPE)}{was.state}/{was.attempt}/{name}"
            new = f"{layout.states(SCOPE)}{live.state}/{live.attempt}/{name}"
            await put(store, new, (await store.get(old)).body)
        await refused(store, "does not match the digest in the pointer")

    run(scenario)


def test_a_document_verified_in_one_scope_proves_nothing_in_another() -> None:
    """A key for the pointers of other scopes signs a publication that this reader has read and
    cached.
    """

    async def scenario(store: MemoryStore) -> None:
        elsewhere = Scope("other", "target")
        await signing(store).publish(make_state(1))
        named = (await signing(store).pointer()).live
        assert named is not None
        claim = (await signing(store).pointer()).model_copy(update={"scope": str(elsewhere)})
        made = signatures.signed_by([OTHER.signer], signatures.POINTER, pointer.signed_part(claim))
        await store.create(layout.pointer(elsewhere), Content(pointer.encode(claim, made)))
        policy = TrustPolicy(
            keys=(TRUSTED.trusted(), OTHER.trusted("pointer", scopes=("other/*",)))
        )
        reader = reading(store, policy).reader
        await reader.files(SCOPE, named)
        (claimed,) = (await reader.existing(elsewhere)).pointer.retained
        for read in (reader.manifest, reader.files):
            with pytest.raises(ObjectGone):
                await read(elsewhere, claimed)

    run(scenario)


@pytest.mark.parametrize(
    ("trust", "message"),
    [
        (TrustPolicy(), "is not in the trust policy"),
        (TrustPolicy(keys=(OTHER.trusted(),)), "is not in the trust policy"),
        (TrustPolicy(keys=(TRUSTED.trusted("publish"),)), "may not sign as pointer"),
        (TrustPolicy(keys=(TRUSTED.trusted("pointer"),)), "may not sign as publish"),
        (
            TrustPolicy(keys=(TRUSTED.trusted(scopes=("other/*",)),)),
            "may not sign as pointer for visual-anomaly/core-versions",
        ),
        (
            TrustPolicy(
                keys=(TRUSTED.trusted(),),
                revoked=(
                    Revocation(keyid=TRUSTED.public.keyid, reason="lost laptop", at="2026-01-01"),
                ),
            ),
            r"was revoked at 2026-01-01 \(lost laptop\)",
        ),
    ],
    ids=["no key", "another key", "publish only", "pointer only", "another scope", "revoked"],
)
def test_an_unaccepted_key_is_refused_with_the_reason(trust: TrustPolicy, message: str) -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        await refused(store, message, trust)

    run(scenario)


@pytest.mark.parametrize("is_revoked", [True, False])
def test_only_a_key_that_can_be_trusted_is_suggested_for_the_policy(is_revoked: bool) -> None:
    revoked = Revocation(keyid=TRUSTED.public.keyid, reason="lost laptop", at="2026-01-01")

    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        with pytest.raises(VerificationFailed) as raised:
            await read_whole(store, TrustPolicy(revoked=(revoked,) if is_revoked else ()))
        assert ("rebundle keys trust" in str(raised.value)) is not is_revoked

    run(scenario)


def test_two_keys_at_once_let_readers_survive_a_rotation() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store, TRUSTED).publish(make_state(1))
        await signing(store, TRUSTED, OTHER, name="both").publish(make_state(2))
        revoked = Revocation(keyid=TRUSTED.public.keyid, reason="exchanged", at="2026-01-01")
        for trust in (
            POLICY,
            TrustPolicy(keys=(OTHER.trusted(),)),
            TrustPolicy(keys=(TRUSTED.trusted(), OTHER.trusted()), revoked=(revoked,)),
        ):
            assert (await read_whole(store, trust)).state == "state-2"

    run(scenario)


def test_every_writer_signs_and_without_a_key_nothing_changes() -> None:
    async def scenario(store: MemoryStore) -> None:
        writer = signing(store)
        await writer.publish(make_state(1))
        await writer.operations.carry_out(SCOPE, protocol.hold, "ann")
        assert (await read_whole(store)).state == "state-1"
        body = (await store.get(layout.pointer(SCOPE))).body
        with pytest.raises(CannotSign, match=r"signing\.key_file\b"):
            await Bucket(store, InlineRuntime("keyless")).operations.carry_out(
                SCOPE, protocol.resume, "ann"
            )
        assert (await store.get(layout.pointer(SCOPE))).body == body

    run(scenario)


def test_a_state_that_readers_refuse_does_not_go_live() -> None:
    async def scenario(store: MemoryStore) -> None:
        await Bucket(store, InlineRuntime("before the key")).publish(make_state(1))
        await signing(store).publish(make_state(2))
        body = (await store.get(layout.pointer(SCOPE))).body
        operator = Bucket(
            store, InlineRuntime("operator"), signers=[TRUSTED.signer], trust=POLICY
        ).operations
        for act in (operator.preview, operator.carry_out):
            with pytest.raises(VerificationFailed, match=r"state-1.* is not signed"):
                await act(SCOPE, rollback("state-1"), "ann")
        assert (await store.get(layout.pointer(SCOPE))).body == body

    run(scenario)


# -- freshness

FRESH = TrustPolicy(keys=(TRUSTED.trusted(),), freshness="required")


async def store_freshness(
    store: MemoryStore, sequence: int, body: bytes, *, minutes: int = 5, key: Key = TRUSTED
) -> None:
    signed = Freshness.of(SCOPE, sequence, body, NOW + timedelta(minutes=minutes)).signed_part()
    made = signatures.signed_by([key.signer], signatures.FRESHNESS, signed)
    document = {
        "signatures": [item.document() for item in made],
        "signed": json.loads(signed),
    }
    name = layout.freshness(SCOPE)
    try:
        await put(store, name, signatures_written(document))
    except ObjectMissing:
        await store.create(name, Content(signatures_written(document)))


def test_freshness_is_required_and_a_newer_pointer_needs_no_new_one() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        old = (await store.get(layout.pointer(SCOPE))).body
        await refused(store, "has no freshness.json", FRESH)
        await store_freshness(store, 1, old)
        await read_whole(store, FRESH)
        await signing(store, name="again").publish(make_state(2))
        assert (await read_whole(store, FRESH)).state == "state-2"
        await store_freshness(store, 2, (await store.get(layout.pointer(SCOPE))).body)
        await put(store, layout.pointer(SCOPE), old)
        await refused(store, "has sequence 1, and the newest one had 2", FRESH)

    run(scenario)


def test_a_pointer_replaced_and_refreshed_during_a_read_is_fresh() -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        await store_freshness(store, 1, (await store.get(layout.pointer(SCOPE))).body)
        reads: list[str] = []

        async def go_on(operation: str, key: str) -> None:
            if operation == "get":
                reads.append(key)
            if len(reads) == 2:  # between the two objects that a reader compares
                reads.append("others come between")
                await signing(store, name="again").publish(make_state(2))
                await store_freshness(store, 2, (await store.get(layout.pointer(SCOPE))).body)

        reader = Bucket(
            FaultyStore(store, before=go_on), InlineRuntime("reader"), trust=FRESH
        ).reader
        assert (await reader.pointer(SCOPE)).pointer.sequence == 2
        assert "others come between" in reads

    run(scenario)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 0}, "expired at"),
        ({"key": OTHER}, "not in the trust policy"),
        ({"body": b"another"}, "does not match the digest in freshness.json"),
    ],
)
def test_a_freshness_of_another_pointer_is_refused(change: dict[str, Any], message: str) -> None:
    async def scenario(store: MemoryStore) -> None:
        await signing(store).publish(make_state(1))
        body = change.pop("body", None) or (await store.get(layout.pointer(SCOPE))).body
        await store_freshness(store, 1, body, **change)
        await refused(store, message, FRESH)

    run(scenario)


# -- the policy file


def test_a_policy_round_trips_through_its_file() -> None:
    revoked = Revocation(keyid="0" * 64, reason="r", at="a")
    policy = TrustPolicy(
        keys=(TRUSTED.trusted(scopes=("a/*",)), OTHER.trusted("pointer")),
        revoked=(revoked,),
        freshness="required",
    )
    assert TrustPolicy.parse(policy.written(), "trust.json") == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be JSON"),
        (b"[]", "whole"),
        (b'{"schema": 2}', "schema"),
        (b'{"schema": true}', "schema"),
        (b'{"schema": 1.0}', "schema"),
        (b'{"schema": 1, "freshnes": "required"}', "freshnes"),
        (b'{"schema": 1, "freshness": "maybe"}', "freshness"),
        (b'{"schema": 1, "keys": [], "keys": []}', "keys"),
        (
            b'{"schema": 1, "keys": [{"keyid": "k", "public": "x", "roles": ["publish"]}]}',
            "no public key",
        ),
        (json.dumps({"keys": [TRUSTED.trusted().model_dump() | {"roles": []}]}).encode(), "roles"),
        (
            json.dumps({"keys": [TRUSTED.trusted().model_dump() | {"roles": ["admin"]}]}).encode(),
            "roles",
        ),
        (
            json.dumps({"keys": [TRUSTED.trusted().model_dump() | {"scopes": []}]}).encode(),
            "scopes",
        ),
        (json.dumps({"keys": [TRUSTED.trusted().model_dump() | {"until": "x"}]}).encode(), "until"),
        (
            json.dumps({"keys": [TRUSTED.trusted().model_dump() | {"keyid": "0" * 64}]}).encode(),
            "the key has the id",
        ),
        (json.dumps({"keys": [TRUSTED.trusted().model_dump()] * 2}).encode(), "twice"),
        (
            json.dumps({"revoked": [{"keyid": "0" * 12, "reason": "r", "at": "a"}]}).encode(),
            "keyid",
        ),
        (
            json.dumps({"revoked": [{"keyid": "A" * 64, "reason": "r", "at": "a"}]}).encode(),
            "keyid",
        ),
    ],
)
def test_a_partly_unreadable_policy_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(PolicyUnusable, match=message):
        TrustPolicy.parse(text, "trust.json")


def test_a_reader_without_a_pointer_finds_nothing() -> None:
    async def scenario(store: MemoryStore) -> None:
        with pytest.raises(NotFound):
            await read_whole(store)

    run(scenario)


def test_documents_older_than_the_key_hide_no_override_and_stop_no_pass() -> None:
    async def scenario(store: MemoryStore) -> None:
        await Bucket(store, InlineRuntime("before")).publish(make_state(1))
        daemon = Bucket(store, InlineRuntime("writer"), signers=[TRUSTED.signer])
        await daemon.publish(make_state(2))
        trusting = Bucket(store, InlineRuntime("daemon"), trust=POLICY, signers=[TRUSTED.signer])
        assert isinstance(await trusting.live_tree.reconcile(SCOPE), FinishedPass)
        path = "example/conf/bundle/.env"
        await put(store, layout.live_tree(SCOPE, path), b"mine")

        result = await trusting.live_tree.reconcile(SCOPE)
        assert isinstance(result, FinishedPass)
        assert result.overrides == (path,)

    run(scenario)
