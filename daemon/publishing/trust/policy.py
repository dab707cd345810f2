"""The trust policy: which keys a reader accepts signatures of, and for which scopes. Pure.

The policy comes from a local file, never from the bucket.

It fails closed: a document without an accepted signature is rejected, and a policy that cannot be
read completely is an error. Keys have roles, because the publisher of states and the writer that
decides which of them is live may be different parties. The signatures of a revoked key are never
accepted, even if the same policy also lists the key as trusted.

    {
      "schema": 1,
      "freshness": "off",
      "keys": [{
        "keyid": "…", "public": "-----BEGIN PUBLIC KEY…",
        "roles": ["publish", "pointer"], "scopes": ["*"]
      }],
      "revoked": [{"keyid": "…", "reason": "…", "at": "…"}]
    }
"""

import fnmatch
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from daemon.publishing import layout, signatures
from daemon.publishing.documents import Malformed, canonical, check_schema
from daemon.publishing.errors import KeyUnusable, NotTrusted, PolicyUnusable, VerificationFailed
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import PublicationId
from daemon.publishing.signatures import Role, Signature
from daemon.publishing.trust import attestation
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.trust.keys import PublicKey
from daemon.publishing.wording import RENEW
from events import strict_json
from events.errors import InvalidEvent
from renderers.values import Scope, canonical_json

_MOST_BYTES: Final = 1 << 20
_MOST_REASONS: Final = 3


class _Part(BaseModel):
    # A field that this release does not know may restrict a key, so it is an error.
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrustedKey(_Part):
    """A public key, and the roles and scopes in which its signatures are accepted."""

    keyid: str
    public: str
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    scopes: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Shell patterns of `bundle/target`."""

    @model_validator(mode="after")
    def _check_keyid(self) -> "TrustedKey":
        try:
            keyid = PublicKey.parse(self.public).keyid
        except KeyUnusable as error:
            raise ValueError(str(error)) from None
        if keyid != self.keyid:
            raise ValueError(f"the key has the id {keyid}")
        return self

    def counts_for(self, role: Role, scope: Scope) -> bool:
        """Whether its signatures are accepted in this role and scope."""
        return role in self.roles and any(
            fnmatch.fnmatchcase(str(scope), pattern) for pattern in self.scopes
        )


class Revocation(_Part):
    """A key whose signatures are no longer accepted."""

    # The complete id: a shortened one, as in messages, would match no key and revoke none.
    keyid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    reason: str
    at: str


class TrustPolicy(_Part):
    """A reader's policy."""

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1, le=1)] = 1
    freshness: Literal["off", "required"] = "off"
    keys: tuple[TrustedKey, ...] = ()
    revoked: tuple[Revocation, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _check_unique_keyids(self) -> "TrustPolicy":
        for field, ids in (
            ("keys", [key.keyid for key in self.keys]),
            ("revoked", [revocation.keyid for revocation in self.revoked]),
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"{field} has one key twice")
        return self

    @classmethod
    def parse(cls, text: bytes, name: str) -> "TrustPolicy":
        """The policy in the bytes of the file `name`.

        Raises:
            PolicyUnusable: the bytes are no valid policy.
        """
        try:
            # Strict: with a duplicate key, two parsers could read two different policies.
            document = strict_json.loads(text, max_bytes=_MOST_BYTES)
            return cls.model_validate_json(json.dumps(document), strict=True)
        except InvalidEvent as error:
            raise PolicyUnusable(
                f"trust policy {name} is not readable: {error}; {_RESTORE}"
            ) from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise PolicyUnusable(
                f"trust policy {name}: {where}: {first['msg']}; {_RESTORE}"
            ) from error

    def written(self) -> bytes:
        """The bytes of the policy file, indented for people."""
        document = self.model_dump(mode="json", by_alias=True)
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    # ---- what is accepted

    def check_pointer(self, body: bytes, scope: Scope) -> str:
        """The id of the key whose signature makes a pointer object acceptable.

        Raises:
            OlderSchema: the pointer has schema 1.
            VerificationFailed: it has no accepted signature.
        """
        return self._check_signed(body, scope, signatures.POINTER, _pointer(scope))

    def check_freshness(self, body: bytes, scope: Scope) -> Freshness:
        """The content of a freshness.json with an accepted signature.

        The caller checks the expiry time.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it has no accepted signature, or its content is invalid.
        """
        self._check_signed(body, scope, signatures.FRESHNESS, _freshness(scope))
        return Freshness.parse(canonical(body)["signed"], scope)

    def check_publication(
        self, envelope: bytes | None, manifest: Manifest, manifest_body: bytes, scope: Scope
    ) -> str:
        """The id of the key whose signature makes a publication acceptable.

        `envelope` is its manifest.dsse.json, or None if there is none.

        Raises:
            NotTrusted: the publication has no accepted signature.
        """
        what = _publication(scope, manifest.id)
        if envelope is None:
            raise NotTrusted(
                f"{what.text} is not signed, as the trust policy requires: {what.remedy}"
            )
        try:
            payload, listed = attestation.opened(envelope)
        except ValueError as error:
            raise NotTrusted(
                f"the signature of {what.text} cannot be read: {error}: {what.remedy}"
            ) from error
        if payload != attestation.statement_of(manifest, manifest_body):
            raise NotTrusted(f"the signature of {what.text} signs different content: {what.remedy}")
        message = signatures.encoding(signatures.STATEMENT, payload)
        try:
            return self._check(listed, "publish", scope, message, what)
        except VerificationFailed as error:
            raise NotTrusted(str(error)) from error

    def objection(self, keyids: Collection[str], role: Role, scope: Scope | None) -> str | None:
        """Why no signature of these keys would be accepted; None if one key is accepted.

        `scope` None: the scopes of the keys are not checked.
        """
        reasons = [self._key_objection(keyid, role, scope) for keyid in keyids]
        return (
            None
            if None in reasons
            else "; ".join(filter(None, reasons)) or "there is no signing key"
        )

    def _check_signed(self, body: bytes, scope: Scope, kind: str, what: "_Named") -> str:
        """The id of the accepted key of an object with the parts signed and signatures."""
        try:
            document = canonical(body)
            if not isinstance(document, dict) or set(document) != {"signed", "signatures"}:
                raise Malformed("it has other parts than signed and signatures")
            check_schema(document["signed"], what.key, numbered=what.numbered)
            listed = signatures.decoded(document["signatures"])
        except ValueError as error:
            raise VerificationFailed(
                f"{what.text} cannot be verified: {error}: {what.remedy}"
            ) from error
        message = signatures.encoding(kind, canonical_json(document["signed"]).encode())
        return self._check(listed, "pointer", scope, message, what)

    def _check(
        self, listed: Sequence[Signature], role: Role, scope: Scope, message: bytes, what: "_Named"
    ) -> str:
        """The id of the first key whose signature is accepted. Raises VerificationFailed."""
        if not listed:
            raise VerificationFailed(
                f"{what.text} is not signed, as the trust policy requires: "
                f"{what.remedy_if_unsigned or what.remedy}"
            )
        reasons = [self._objection(signature, role, scope, message) for signature in listed]
        for signature, reason in zip(listed, reasons, strict=True):
            if reason is None:
                return signature.keyid
        why = _first_reasons(list(filter(None, reasons)))
        revoked = {revocation.keyid for revocation in self.revoked}
        could_trust = any(signature.keyid not in revoked for signature in listed)
        trust = "; `rebundle keys trust POLICY PUBLIC` trusts a key" if could_trust else ""
        raise VerificationFailed(
            f"{what.text} has no accepted signature: {why}: {what.remedy}{trust}"
        )

    def _objection(
        self, signature: Signature, role: Role, scope: Scope, message: bytes
    ) -> str | None:
        """Why a signature is not accepted; None if it is."""
        reason = self._key_objection(signature.keyid, role, scope)
        if reason is not None:
            return reason
        key = self._key(signature.keyid)
        if key is None or not PublicKey.parse(key.public).verifies(signature, message):
            return f"the signature of key {signature.keyid[:12]} is invalid"
        return None

    def _key_objection(self, keyid: str, role: Role, scope: Scope | None) -> str | None:
        """Why no signature of this key would be accepted; None if one would."""
        short = f"key {keyid[:12]}"
        revocation = next((entry for entry in self.revoked if entry.keyid == keyid), None)
        if revocation is not None:
            return f"{short} was revoked at {revocation.at} ({revocation.reason})"
        key = self._key(keyid)
        if key is None:
            return f"{short} is not in the trust policy"
        if scope is None:
            return None if role in key.roles else f"{short} may not sign as {role}"
        return (
            None if key.counts_for(role, scope) else f"{short} may not sign as {role} for {scope}"
        )

    def _key(self, keyid: str) -> TrustedKey | None:
        return next((key for key in self.keys if key.keyid == keyid), None)


_RESTORE: Final = "restore the file, or begin another one with `rebundle keys trust POLICY PUBLIC`"


@dataclass(frozen=True, slots=True)
class _Named:
    """The name of a signed document in messages, and the remedy for it."""

    text: str
    remedy: str
    key: str
    """The key of the object in the bucket."""
    numbered: bool = True
    """Whether documents of schema 1 already had the field `schema`."""
    remedy_if_unsigned: str = ""
    """The remedy if there is no signature at all; empty: the same one."""


def _pointer(scope: Scope) -> _Named:
    return _Named(
        f"the pointer of {scope}",
        f"restore its newest version that was signed, or `rebundle recover {scope} --reason '…'` "
        "with a key that is trusted (signing.key_file) writes one",
        layout.pointer(scope),
        remedy_if_unsigned="if the scope is from before the signing key: set signing.key_file, "
        f"unset trust.policy, and run `rebundle republish {scope} --reason 'first signature'` "
        "(docs/signing.md). If its signature was removed: restore its newest version that was "
        f"signed, else `rebundle recover {scope} --reason 'signature removed'` keeps the signed "
        "publications only",
    )


def _freshness(scope: Scope) -> _Named:
    return _Named(f"freshness.json of {scope}", RENEW, layout.freshness(scope), numbered=False)


def _publication(scope: Scope, name: PublicationId) -> _Named:
    return _Named(
        f"the publication {name} of {scope}",
        f"`rebundle republish {scope} --reason '…'` with a key that is trusted (signing.key_file) "
        "signs what is desired; another state has to be sent again",
        layout.signature(scope, name.state, name.attempt),
    )


def _first_reasons(reasons: Sequence[str]) -> str:
    """The first reasons, and how many more there are."""
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    return "; ".join(reasons[:_MOST_REASONS]) + more
