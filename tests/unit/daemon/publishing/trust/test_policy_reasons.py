"""Why a policy accepts no signature of a document, in the words that its reader gets."""

import json
from datetime import timedelta

import pytest

from daemon.publishing import archive, documents, layout, manifest, pointer, signatures
from daemon.publishing.errors import (
    NotTrusted,
    OlderSchema,
    PolicyUnusable,
    VerificationFailed,
)
from daemon.publishing.signatures import Signature
from daemon.publishing.trust import attestation
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.trust.policy import Revocation, TrustedKey, TrustPolicy
from daemon.publishing.wording import RENEW
from renderers.values import Scope
from tests.builders_publishing import AT, SCOPE, make_publication, make_state, published
from tests.builders_runtime import InlineRuntime
from tests.support.signing_keys import Key

TRUSTED, OTHER = Key(), Key()

ELSEWHERE = Scope("other", "target")
POINTER = published(make_publication())
POLICY = TrustPolicy(keys=(TRUSTED.trusted(scopes=(str(SCOPE),)),))
SHORT = f"key {TRUSTED.public.keyid[:12]}"
TRUST = "; `rebundle keys trust POLICY PUBLIC` trusts a key"
RESIGN = (
    f"restore its newest version that was signed, or `rebundle recover {SCOPE} --reason '…'` with "
    "a key that is trusted (signing.key_file) writes one"
)
FIRST = (
    "if the scope is from before the signing key: set signing.key_file, unset trust.policy, and "
    f"run `rebundle republish {SCOPE} --reason 'first signature'` (docs/signing.md). If its "
    "signature was removed: restore its newest version that was signed, else `rebundle recover "
    f"{SCOPE} --reason 'signature removed'` keeps the signed publications only"
)
REPUBLISH = (
    f"`rebundle republish {SCOPE} --reason '…'` with a key that is trusted (signing.key_file) "
    "signs what is desired; another state has to be sent again"
)


def signed_pointer(*keys, made=None):
    part = pointer.signed_part(POINTER)
    signers = [key.signer for key in keys]
    return pointer.encode(POINTER, made or signatures.signed_by(signers, signatures.POINTER, part))


def reason_of(check, *arguments, kind=VerificationFailed):
    with pytest.raises(kind) as refused:
        check(*arguments)
    return str(refused.value)


def test_the_first_accepted_key_is_returned():
    assert POLICY.check_pointer(signed_pointer(OTHER, TRUSTED), SCOPE) == TRUSTED.public.keyid


def test_an_unsigned_pointer_has_its_own_remedy():
    assert reason_of(POLICY.check_pointer, signed_pointer(), SCOPE) == (
        f"the pointer of {SCOPE} is not signed, as the trust policy requires: {FIRST}"
    )


@pytest.mark.parametrize(
    ("policy", "scope", "reason"),
    [
        (POLICY, ELSEWHERE, f"{SHORT} may not sign as pointer for {ELSEWHERE}"),
        (TrustPolicy(), SCOPE, f"{SHORT} is not in the trust policy"),
    ],
    ids=["another scope", "unknown"],
)
def test_a_key_that_does_not_count_is_named(policy, scope, reason):
    found = reason_of(policy.check_pointer, signed_pointer(TRUSTED), scope)

    remedy = RESIGN.replace(str(SCOPE), str(scope))
    assert found == f"the pointer of {scope} has no accepted signature: {reason}: {remedy}{TRUST}"


def test_an_invalid_signature_is_named():
    invalid = (Signature(TRUSTED.public.keyid, bytes(64)),)

    found = reason_of(POLICY.check_pointer, signed_pointer(made=invalid), SCOPE)

    assert f"the signature of {SHORT} is invalid: {RESIGN}" in found


@pytest.mark.parametrize(("number", "more"), [(3, ""), (4, "; and 1 more"), (6, "; and 3 more")])
def test_three_reasons_are_named_and_the_others_counted(number, more):
    made = tuple(Signature(f"{key:064x}", bytes(64)) for key in range(number))
    named = "; ".join(["key 000000000000 is not in the trust policy"] * 3)

    found = reason_of(POLICY.check_pointer, signed_pointer(made=made), SCOPE)

    assert f"has no accepted signature: {named}{more}: {RESIGN}{TRUST}" in found


def test_a_revoked_key_is_not_suggested_for_the_policy():
    revoked = Revocation(keyid=TRUSTED.public.keyid, reason="lost", at=AT)
    policy = TrustPolicy(keys=POLICY.keys, revoked=(revoked,))

    found = reason_of(policy.check_pointer, signed_pointer(TRUSTED), SCOPE)

    assert found.endswith(f"{SHORT} was revoked at {AT} (lost): {RESIGN}")


@pytest.mark.parametrize("document", [[], {"signed": {}}, {"signed": {}, "signatures": [], "x": 1}])
def test_a_document_of_other_parts_is_refused(document):
    found = reason_of(POLICY.check_pointer, documents.serialised(document), SCOPE)

    assert found == (
        f"the pointer of {SCOPE} cannot be verified: it has other parts than signed and "
        f"signatures: {RESIGN}"
    )


def test_a_pointer_of_the_first_schema_is_older_whatever_its_signature():
    body = documents.serialised({"signed": {"schema": 1}, "signatures": []})

    assert layout.pointer(SCOPE) in reason_of(POLICY.check_pointer, body, SCOPE, kind=OlderSchema)


# -- freshness.json


def fresh(*keys, **changed):
    moment = InlineRuntime().now() + timedelta(minutes=5)
    signed = json.loads(Freshness.of(SCOPE, 1, b"pointer", moment).signed_part()) | changed
    part = documents.serialised(signed)[:-1]
    made = signatures.signed_by([key.signer for key in keys], signatures.FRESHNESS, part)
    return documents.serialised(
        {"signatures": [item.document() for item in made], "signed": signed}
    )


def test_a_freshness_is_accepted_for_its_scope_alone():
    assert POLICY.check_freshness(fresh(TRUSTED), SCOPE).sequence == 1
    assert reason_of(POLICY.check_freshness, fresh(), SCOPE) == (
        f"freshness.json of {SCOPE} is not signed, as the trust policy requires: {RENEW}"
    )
    assert f"may not sign as pointer for {ELSEWHERE}: {RENEW}" in reason_of(
        POLICY.check_freshness, fresh(TRUSTED), ELSEWHERE
    )


def test_a_freshness_without_a_schema_is_of_the_first_one():
    body = documents.serialised({"signed": {}, "signatures": []})

    found = reason_of(POLICY.check_freshness, body, SCOPE, kind=OlderSchema)

    assert layout.freshness(SCOPE) in found


# -- publications


def publication():
    state = make_state(1)
    members = archive.Packer().members(SCOPE, state.files)
    body = manifest.written(state, "a" * 32, AT, members, archive.pack(members))
    return manifest.decode(body), body


MANIFEST, BODY = publication()
NAMED = f"the publication {MANIFEST.id} of {SCOPE}"


def envelope(*keys, payload=None):
    payload = payload or attestation.statement_of(MANIFEST, BODY)
    made = signatures.signed_by([key.signer for key in keys], signatures.STATEMENT, payload)
    return attestation.enveloped(payload, made)


@pytest.mark.parametrize(
    ("signed", "scope", "reason"),
    [
        (None, SCOPE, f"{NAMED} is not signed, as the trust policy requires: {REPUBLISH}"),
        (
            envelope(OTHER),
            SCOPE,
            (
                f"{NAMED} has no accepted signature: key {OTHER.public.keyid[:12]} is not in the trust "
                f"policy: {REPUBLISH}{TRUST}"
            ),
        ),
        (
            envelope(TRUSTED, payload=b"another"),
            SCOPE,
            f"the signature of {NAMED} signs different content: {REPUBLISH}",
        ),
        (
            envelope(TRUSTED),
            ELSEWHERE,
            f"{SHORT} may not sign as publish for {ELSEWHERE}",
        ),
    ],
    ids=["none", "another key", "another content", "another scope"],
)
def test_a_publication_without_an_accepted_signature_is_refused(signed, scope, reason):
    accepted = POLICY.check_publication(envelope(TRUSTED), MANIFEST, BODY, SCOPE)
    assert accepted == TRUSTED.public.keyid

    found = reason_of(POLICY.check_publication, signed, MANIFEST, BODY, scope, kind=NotTrusted)

    assert reason in found


def test_an_envelope_that_cannot_be_read_is_refused_with_the_reason():
    found = reason_of(POLICY.check_publication, b"{}", MANIFEST, BODY, SCOPE, kind=NotTrusted)

    assert found.startswith(f"the signature of {NAMED} cannot be read: ")
    assert found.endswith(f": {REPUBLISH}")


# -- keys of a daemon


@pytest.mark.parametrize(
    ("keys", "role", "scope", "reason"),
    [
        ([], "publish", None, "there is no signing key"),
        ([TRUSTED], "publish", None, None),
        ([TRUSTED], "pointer", ELSEWHERE, f"{SHORT} may not sign as pointer for {ELSEWHERE}"),
        ([OTHER, TRUSTED], "publish", SCOPE, None),
        ([OTHER], "publish", None, f"key {OTHER.public.keyid[:12]} may not sign as publish"),
        ([OTHER], "pointer", None, None),
        (
            [OTHER, OTHER],
            "publish",
            None,
            "; ".join([f"key {OTHER.public.keyid[:12]} may not sign as publish"] * 2),
        ),
    ],
    ids=["none", "accepted", "another scope", "one of two", "another role", "its role", "two"],
)
def test_an_objection_names_each_key_unless_one_counts(keys, role, scope, reason):
    policy = TrustPolicy(keys=(*POLICY.keys, OTHER.trusted("pointer")))

    found = policy.objection([key.public.keyid for key in keys], role, scope)

    assert found == reason


# -- the file


def test_the_file_is_indented_and_has_the_documented_names():
    policy = TrustPolicy(keys=(TRUSTED.trusted(scopes=("größe/*",)),))

    written = policy.written().decode()

    assert written.startswith('{\n  "schema": 1,\n  "freshness": "off",\n  "keys": [\n    {\n')
    assert "größe/*" in written


def test_a_fault_in_a_policy_is_named_with_its_place_and_without_its_value():
    document = {"keys": [TRUSTED.trusted().model_dump() | {"roles": ["secret"]}]}

    found = reason_of(
        TrustPolicy.parse, json.dumps(document).encode(), "trust.json", kind=PolicyUnusable
    )

    assert found.startswith("trust policy trust.json: keys.0.roles.0: ")
    assert found.endswith("begin another one with `rebundle keys trust POLICY PUBLIC`")
    twice = json.dumps({"keys": [TRUSTED.trusted().model_dump()] * 2}).encode()
    assert "trust.json: the whole: " in reason_of(
        TrustPolicy.parse, twice, "trust.json", kind=PolicyUnusable
    )


def test_a_number_as_text_is_refused():
    document = {"keys": [TRUSTED.trusted().model_dump()], "schema": "1"}

    reason_of(TrustPolicy.parse, json.dumps(document).encode(), "t", kind=PolicyUnusable)
    assert TrustedKey.model_validate(TRUSTED.trusted().model_dump()) == TRUSTED.trusted()
