"""Verifier: what it accepts of each kind of document, without I/O. `test_reader` has the rest."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from daemon.publishing import layout, manifest, signatures
from daemon.publishing.documents import serialised
from daemon.publishing.errors import (
    NotTrusted,
    OlderSchema,
    SequenceWentBack,
    VerificationFailed,
)
from daemon.publishing.pointer import Chunk, Pointer, PreviousChunk, Publication, encode_chunk
from daemon.publishing.signatures import ROLES
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.trust.keys import KeySigner, PublicKey, generate
from daemon.publishing.trust.policy import TrustedKey, TrustPolicy
from daemon.publishing.verification import LastAccepted, Verifier, verified_files
from daemon.publishing.wording import RENEW, cut_off, leave_out
from renderers.values import Scope
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore

NOW = InlineRuntime().now()
PRIVATE = Ed25519PrivateKey.generate()
SIGNER = KeySigner(PRIVATE)
SIGNING = PublicKey.parse(
    PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
)
KEY = generate()[1]
PUBLISHER_ONLY = TrustPolicy(
    keys=(TrustedKey(keyid=KEY.keyid, public=KEY.pem, roles=("publish",)),), freshness="required"
)


SIGNED = TrustPolicy(
    keys=(TrustedKey(keyid=SIGNING.keyid, public=SIGNING.pem, roles=("publish", "pointer")),),
    freshness="required",
)


def _freshness(
    sequence: int, pointer: bytes, scope: Scope = SCOPE, signer: KeySigner = SIGNER
) -> bytes:
    """A freshness.json that expires in an hour."""
    part = Freshness.of(scope, sequence, pointer, NOW + timedelta(hours=1)).signed_part()
    signed = signatures.signed_by([signer], signatures.FRESHNESS, part)
    listed = [signature.document() for signature in signed]
    return serialised({"signed": json.loads(part), "signatures": listed})


async def _published(signers: Sequence[KeySigner] = ()) -> tuple[MemoryStore, Publication]:
    store = MemoryStore(InlineRuntime("store"))
    bucket = Bucket(store, InlineRuntime(), signers=signers)
    live = (await bucket.publish(make_state(1))).pointer.live
    assert live is not None
    return store, live


def _stored(signers: Sequence[KeySigner] = ()) -> tuple[bytes, bytes, Publication]:
    """A pointer, the manifest of its live publication, and its entry in the pointer."""

    async def read() -> tuple[bytes, bytes, Publication]:
        store, live = await _published(signers)
        pointer = (await store.get(layout.pointer(SCOPE))).body
        manifest = (await store.get(layout.manifest(SCOPE, live.state, live.attempt))).body
        return pointer, manifest, live

    return asyncio.run(read())


def test_a_pointer_is_accepted_up_to_the_sequence_seen_before() -> None:
    pointer, _, _ = _stored()

    found, is_signed = Verifier().newest_pointer(pointer, SCOPE, LastAccepted(1), NOW)

    assert (found.sequence, is_signed) == (1, False)
    with pytest.raises(SequenceWentBack) as raised:
        Verifier().newest_pointer(pointer, SCOPE, LastAccepted(2), NOW)
    assert str(raised.value) == (
        f"the pointer of {SCOPE} has sequence 1, and 2 was seen here before: an older pointer was "
        "restored, from a backup or by another writer; "
        f"`rebundle recover {SCOPE} --reason '…'` writes one that is newer than both. If it finds "
        "nothing to recover, nothing in the bucket shows the newer one: restart the daemon to "
        "continue from the older one"
    )
    assert Verifier().pointer(pointer, SCOPE)[0] == found, "recovery reads older pointers"


def test_form_and_signature_are_checked_before_the_sequence() -> None:
    pointer, _, _ = _stored()

    with pytest.raises(VerificationFailed, match="is not signed"):
        Verifier(PUBLISHER_ONLY).newest_pointer(pointer, SCOPE, LastAccepted(2), NOW)
    with pytest.raises(VerificationFailed, match="belongs to"):
        Verifier().newest_pointer(pointer, Scope("a", "b"), LastAccepted(2), NOW)


def test_a_manifest_has_to_match_what_names_it() -> None:
    _, body, live = _stored()
    check = Verifier().manifest

    assert check(body, SCOPE, live.id, envelope=None, named_by=live).id == live.id
    assert check(body, SCOPE, live.id, envelope=None, named_by=None).id == live.id
    for change, message in (
        ({"manifest_sha256": "0" * 64}, "does not match the digest in the pointer"),
        ({"composition_digest": "0" * 64}, "does not have the composition that the pointer names"),
    ):
        named_by = live.model_copy(update=change)
        with pytest.raises(VerificationFailed, match=message):
            check(body, SCOPE, live.id, envelope=None, named_by=named_by)
    other = live.id.model_copy(update={"state": "state-2"})
    with pytest.raises(VerificationFailed, match=f"belongs to {SCOPE} state-1"):
        check(body, SCOPE, other, envelope=None, named_by=None)
    older = serialised(json.loads(body) | {"schema": 1})
    with pytest.raises(OlderSchema):
        check(older, SCOPE, live.id, envelope=None, named_by=None)
    with pytest.raises(NotTrusted, match="is not signed"):
        Verifier(PUBLISHER_ONLY).manifest(body, SCOPE, live.id, envelope=None, named_by=live)


def test_a_chunk_has_to_match_its_successor() -> None:
    reference = PreviousChunk(key=layout.history(SCOPE, 1, 64, "a" * 32), sha256="0" * 64)

    with pytest.raises(VerificationFailed, match="does not match the digest in its successor"):
        Verifier().chunk(b"{}", SCOPE, reference)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"signed": 1}'])
def test_a_damaged_freshness_json_is_refused_without_a_policy(body: bytes) -> None:
    with pytest.raises(VerificationFailed, match="cannot be read"):
        Verifier().freshness(body, SCOPE)


def test_only_a_policy_requires_freshness() -> None:
    assert Verifier(PUBLISHER_ONLY).requires_freshness
    assert not Verifier(TrustPolicy()).requires_freshness
    assert not Verifier().requires_freshness


def test_a_signed_pointer_is_used_only_with_a_fresh_record_of_it() -> None:
    pointer, _, _ = _stored([SIGNER])
    verifier = Verifier(SIGNED)

    def read(freshness: bytes | None, now: datetime = NOW) -> tuple[Pointer, bool]:
        return verifier.newest_pointer(pointer, SCOPE, LastAccepted(0, freshness), now)

    found, is_signed = read(_freshness(1, pointer))
    assert (found, is_signed) == (*Verifier().pointer(pointer, SCOPE)[:1], True)
    assert read(_freshness(0, b"an older one"))[0] == found
    with pytest.raises(VerificationFailed, match=f"^{SCOPE} has no freshness.json, .*: {RENEW}$"):
        read(None)
    with pytest.raises(VerificationFailed, match="expired at"):
        read(_freshness(1, pointer), NOW + timedelta(hours=2))
    with pytest.raises(VerificationFailed, match="does not match the digest in freshness"):
        read(_freshness(1, b"another"))
    with pytest.raises(SequenceWentBack, match="has sequence 1, and the newest one had 2"):
        read(_freshness(2, b"a newer one"))
    with pytest.raises(
        VerificationFailed, match=r"freshness\.json of .* has no accepted signature"
    ):
        read(_freshness(1, pointer, signer=KeySigner(Ed25519PrivateKey.generate())))
    with pytest.raises(VerificationFailed, match=f"freshness.json of {SCOPE} belongs to a/b"):
        read(_freshness(1, pointer, scope=Scope("a", "b")))


def test_a_freshness_json_is_read_with_and_without_a_policy() -> None:
    body = _freshness(3, b"pointer")
    expected = Freshness.of(SCOPE, 3, b"pointer", NOW + timedelta(hours=1))

    assert Verifier().freshness(body, SCOPE) == expected
    assert Verifier(SIGNED).freshness(body, SCOPE) == expected
    with pytest.raises(VerificationFailed, match=f"freshness.json of {SCOPE} belongs to a/b"):
        Verifier().freshness(_freshness(3, b"", scope=Scope("a", "b")), SCOPE)


def test_a_signed_manifest_needs_its_own_envelope() -> None:
    async def read() -> tuple[bytes, bytes, Publication]:
        store, live = await _published([SIGNER])
        place = (SCOPE, live.state, live.attempt)
        body = (await store.get(layout.manifest(*place))).body
        return body, (await store.get(layout.signature(*place))).body, live

    body, envelope, live = asyncio.run(read())
    check = Verifier(SIGNED).manifest

    assert check(body, SCOPE, live.id, envelope=envelope, named_by=live).id == live.id
    other = json.loads(body) | {"renderer": "9"}
    with pytest.raises(NotTrusted, match="signs different content"):
        check(serialised(other), SCOPE, live.id, envelope=envelope, named_by=None)
    with pytest.raises(NotTrusted, match="cannot be read"):
        check(body, SCOPE, live.id, envelope=b"{}", named_by=live)
    elsewhere = TrustedKey(
        keyid=SIGNING.keyid, public=SIGNING.pem, roles=("publish",), scopes=("a/*",)
    )
    with pytest.raises(NotTrusted, match=f"may not sign as publish for {SCOPE}"):
        Verifier(TrustPolicy(keys=(elsewhere,))).manifest(
            body, SCOPE, live.id, envelope=envelope, named_by=live
        )


def test_a_message_about_a_manifest_names_it_and_ends_with_the_remedy() -> None:
    _, body, live = _stored()
    check = Verifier().manifest
    key = layout.manifest(SCOPE, live.state, live.attempt)

    with pytest.raises(VerificationFailed) as raised:
        check(b"{", SCOPE, live.id, envelope=None, named_by=None)
    assert str(raised.value).startswith(f"{live.id} of {SCOPE}: the manifest cannot be read: ")
    assert str(raised.value).endswith(f": {leave_out(SCOPE)}")
    with pytest.raises(OlderSchema, match=f"^{key} has schema 1"):
        check(
            serialised(json.loads(body) | {"schema": 1}),
            SCOPE,
            live.id,
            envelope=None,
            named_by=None,
        )


def test_a_chunk_is_read_under_its_key_and_in_its_scope() -> None:
    key = layout.history(SCOPE, 1, 64, "a" * 32)

    def read(body: bytes, scope: Scope = SCOPE) -> Chunk:
        reference = PreviousChunk(key=key, sha256=hashlib.sha256(body).hexdigest())
        return Verifier().chunk(body, scope, reference)

    chunk = Chunk(entries=(), previous_chunk=PreviousChunk(key=key, sha256="0" * 64))
    assert read(encode_chunk(chunk)) == chunk
    with pytest.raises(OlderSchema, match=f"^{key} has schema 1"):
        read(serialised({"entries": []}))
    with pytest.raises(VerificationFailed) as raised:
        read(b"{")
    assert str(raised.value).startswith(f"history chunk {key} is damaged")
    assert str(raised.value).endswith(cut_off(SCOPE))
    with pytest.raises(VerificationFailed, match="must be a chunk below a/b/"):
        read(encode_chunk(chunk), Scope("a", "b"))


def test_the_files_of_an_archive_have_to_match_the_manifest() -> None:
    async def read() -> tuple[bytes, bytes, Publication]:
        store, live = await _published()
        place = (SCOPE, live.state, live.attempt)
        manifest = (await store.get(layout.manifest(*place))).body
        return manifest, (await store.get(layout.archive(*place))).body, live

    body, archive, live = asyncio.run(read())
    described = manifest.decode(body)

    assert sorted(file.path for file in verified_files(described, archive)) == [
        file.path for file in described.files
    ]
    with pytest.raises(VerificationFailed, match=f"the archive of {live.id} does not match its"):
        verified_files(described, archive + b"x")
    first, *others = described.files
    changed = described.model_copy(
        update={"files": (first.model_copy(update={"sha256": "0" * 64}), *others)}
    )
    with pytest.raises(
        VerificationFailed, match=f"^the files of {live.id} do not match its manifest: the file"
    ):
        verified_files(changed, archive)


def test_an_objection_names_every_role_that_no_key_has() -> None:
    verifier = Verifier(PUBLISHER_ONLY)

    assert verifier.objection([KEY.keyid], ("publish",), SCOPE) is None
    assert verifier.objection([KEY.keyid], ROLES, SCOPE) == (
        f"key {KEY.keyid[:12]} may not sign as pointer for {SCOPE}"
    )
    assert verifier.objection([], ROLES, None) == "there is no signing key"
    assert Verifier().objection([], ROLES, SCOPE) is None
