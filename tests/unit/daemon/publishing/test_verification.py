"""Verifier: what it accepts of each kind of document, without I/O. `test_reader` has the rest."""

import asyncio
import json

import pytest

from daemon.publishing import layout
from daemon.publishing.documents import serialised
from daemon.publishing.errors import (
    NotTrusted,
    OlderSchema,
    SequenceWentBack,
    VerificationFailed,
)
from daemon.publishing.pointer import PreviousChunk, Publication
from daemon.publishing.signatures import ROLES
from daemon.publishing.trust.keys import generate
from daemon.publishing.trust.policy import TrustedKey, TrustPolicy
from daemon.publishing.verification import Accepted, Verifier
from daemon.stores.memory import MemoryStore
from renderers.model import Scope
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime

NOW = InlineRuntime().now()
KEY = generate()[1]
PUBLISHER_ONLY = TrustPolicy(
    keys=(TrustedKey(keyid=KEY.keyid, public=KEY.pem, roles=("publish",)),), freshness="required"
)


async def _published() -> tuple[MemoryStore, Publication]:
    store = MemoryStore(InlineRuntime("store"))
    live = (await Bucket(store, InlineRuntime()).publish(make_state(1))).pointer.live
    assert live is not None
    return store, live


def _stored() -> tuple[bytes, bytes, Publication]:
    """A pointer, the manifest of its live publication, and its entry in the pointer."""

    async def read() -> tuple[bytes, bytes, Publication]:
        store, live = await _published()
        pointer = (await store.get(layout.pointer(SCOPE))).body
        manifest = (await store.get(layout.manifest(SCOPE, live.state, live.attempt))).body
        return pointer, manifest, live

    return asyncio.run(read())


def test_a_pointer_is_accepted_up_to_the_sequence_seen_before() -> None:
    pointer, _, _ = _stored()

    found, is_signed = Verifier().newest_pointer(pointer, SCOPE, Accepted(1), NOW)

    assert (found.sequence, is_signed) == (1, False)
    with pytest.raises(SequenceWentBack, match="has sequence 1, and 2 was seen here before"):
        Verifier().newest_pointer(pointer, SCOPE, Accepted(2), NOW)
    assert Verifier().pointer(pointer, SCOPE)[0] == found, "recovery reads older pointers"


def test_form_and_signature_are_checked_before_the_sequence() -> None:
    pointer, _, _ = _stored()

    with pytest.raises(VerificationFailed, match="is not signed"):
        Verifier(PUBLISHER_ONLY).newest_pointer(pointer, SCOPE, Accepted(2), NOW)
    with pytest.raises(VerificationFailed, match="belongs to"):
        Verifier().newest_pointer(pointer, Scope("a", "b"), Accepted(2), NOW)


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


def test_freshness_is_demanded_by_the_policy_alone() -> None:
    assert Verifier(PUBLISHER_ONLY).demands_freshness
    assert not Verifier(TrustPolicy()).demands_freshness
    assert not Verifier().demands_freshness


def test_an_objection_names_every_role_that_no_key_has() -> None:
    verifier = Verifier(PUBLISHER_ONLY)

    assert verifier.objection([KEY.keyid], ("publish",), SCOPE) is None
    assert verifier.objection([KEY.keyid], ROLES, SCOPE) == (
        f"key {KEY.keyid[:12]} may not sign as pointer for {SCOPE}"
    )
    assert verifier.objection([], ROLES, None) == "there is no signing key"
    assert Verifier().objection([], ROLES, SCOPE) is None
