"""Whose signatures count, for which scopes: a reader's own policy, from a local file, never from the bucket. Pure.

Fails closed: without a signature that counts nothing is accepted, and a policy that cannot be read whole is none. Keys
have roles, because whoever publishes states need not be who says which of them is live. A revoked key counts for
nothing, whatever else is said of it.

    {
      "schema": 1,
      "freshness": "off",
      "keys": [{"keyid": "…", "public": "-----BEGIN PUBLIC KEY…", "roles": ["publish", "pointer"], "scopes": ["*"]}],
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
from daemon.publishing.signatures import Signature
from daemon.publishing.trust import attestation
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.trust.keys import PublicKey
from daemon.publishing.wording import RENEW
from events import strict_json
from events.errors import InvalidEvent
from renderers.model import Scope, canonical_json

Role = Literal["publish", "pointer"]
_MOST_BYTES: Final = 1 << 20
_MOST_REASONS: Final = 3
ROLES: Final[tuple[Role, ...]] = ("publish", "pointer")


class _Part(BaseModel):
    # A field this release does not know may be one that restricts.
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrustedKey(_Part):
    """A public key, and what its signatures count for."""

    keyid: str
    public: str
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    scopes: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Patterns of `bundle/target`, as a shell's."""

    @model_validator(mode="after")
    def _is_its_own(self) -> "TrustedKey":
        try:
            found = PublicKey.parse(self.public).keyid
        except KeyUnusable as error:
            raise ValueError(str(error)) from None
        if found != self.keyid:
            raise ValueError(f"the key has the id {found}")
        return self

    def counts_for(self, role: Role, scope: Scope) -> bool:
        """Whether its signature says anything here."""
        return role in self.roles and any(fnmatch.fnmatchcase(str(scope), pattern) for pattern in self.scopes)


class Revocation(_Part):
    """A key that counts for nothing any more."""

    # Whole: one cut short, as messages show it, would name no key, and revoke none.
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
    def _names_each_once(self) -> "TrustPolicy":
        for what, ids in (
            ("keys", [each.keyid for each in self.keys]),
            ("revoked", [each.keyid for each in self.revoked]),
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"{what} has one key twice")
        return self

    @classmethod
    def parse(cls, text: bytes, name: str) -> "TrustPolicy":
        """The policy in a file's bytes; `name` is the file's.

        Raises:
            PolicyUnusable: it is none.
        """
        try:
            # A key that is there twice could be two policies.
            document = strict_json.loads(text, most_bytes=_MOST_BYTES)
            return cls.model_validate_json(json.dumps(document), strict=True)
        except InvalidEvent as error:
            raise PolicyUnusable(f"trust policy {name} is not readable: {error}; {_RESTORE}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise PolicyUnusable(f"trust policy {name}: {where}: {first['msg']}; {_RESTORE}") from error

    def written(self) -> bytes:
        """As a file, for people to read."""
        document = self.model_dump(mode="json", by_alias=True)
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    # ---- what is accepted

    def check_pointer(self, body: bytes, scope: Scope) -> str:
        """The key that a pointer object is accepted for.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: for none.
        """
        return self._check_signed(body, scope, signatures.POINTER, _pointer(scope))

    def check_freshness(self, body: bytes, scope: Scope) -> Freshness:
        """What a freshness.json says that is accepted; when it expires is its caller's to judge.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it is not.
        """
        self._check_signed(body, scope, signatures.FRESHNESS, _freshness(scope))
        return Freshness.parse(canonical(body)["signed"], scope)

    def check_publication(self, envelope: bytes | None, manifest: Manifest, manifest_body: bytes, scope: Scope) -> str:
        """The key that a publication is accepted for, by its manifest.dsse.json.

        Raises:
            NotVouchedFor: for none.
        """
        name = PublicationId(state=manifest.state, attempt=manifest.attempt)
        what = _publication(scope, name)
        if envelope is None:
            raise NotTrusted(f"{what.text} is not signed, and the trust policy demands it: {what.remedy}")
        try:
            payload, found = attestation.opened(envelope)
        except ValueError as error:
            raise NotTrusted(f"the signature of {what.text} cannot be read: {error}: {what.remedy}") from error
        if payload != attestation.statement(manifest, manifest_body):
            raise NotTrusted(f"the signature of {what.text} is one over something else: {what.remedy}")
        message = signatures.encoding(signatures.STATEMENT, payload)
        try:
            return self._check(found, "publish", scope, message, what)
        except VerificationFailed as error:
            raise NotTrusted(str(error)) from error

    def objection(self, keyids: Collection[str], role: Role, scope: Scope | None) -> str | None:
        """Why signatures of none of these keys would count; None: those of one do. `scope` None: in any scope."""
        reasons = [self._key_objection(keyid, role, scope) for keyid in keyids]
        return None if None in reasons else "; ".join(filter(None, reasons)) or "there is no signing key"

    def _check_signed(self, body: bytes, scope: Scope, kind: str, what: "_Named") -> str:
        try:
            document = canonical(body)
            if not isinstance(document, dict) or set(document) != {"signed", "signatures"}:
                raise Malformed("it has other parts than signed and signatures")
            check_schema(document["signed"], what.key, numbered=what.numbered)
            found = signatures.decoded(document["signatures"])
        except ValueError as error:
            raise VerificationFailed(f"{what.text} cannot be verified: {error}: {what.remedy}") from error
        message = signatures.encoding(kind, canonical_json(document["signed"]).encode())
        return self._check(found, "pointer", scope, message, what)

    def _check(self, found: Sequence[Signature], role: Role, scope: Scope, message: bytes, what: "_Named") -> str:
        if not found:
            raise VerificationFailed(f"{what.text} is not signed, and the trust policy demands it: {what.remedy}")
        reasons = [self._objection(each, role, scope, message) for each in found]
        for signature, reason in zip(found, reasons, strict=True):
            if reason is None:
                return signature.keyid
        why = _some(list(filter(None, reasons)))
        raise VerificationFailed(
            f"{what.text} has no signature that counts: {why}: {what.remedy}; `rebundle keys trust POLICY PUBLIC` "
            "trusts a key"
        )

    def _objection(self, signature: Signature, role: Role, scope: Scope, message: bytes) -> str | None:
        """Why a signature does not count."""
        reason = self._key_objection(signature.keyid, role, scope)
        if reason is not None:
            return reason
        key = self._key(signature.keyid)
        if key is None or not PublicKey.parse(key.public).verifies(signature, message):
            return f"the signature of key {signature.keyid[:12]} does not fit"
        return None

    def _key_objection(self, keyid: str, role: Role, scope: Scope | None) -> str | None:
        short = f"key {keyid[:12]}"
        revoked = next((each for each in self.revoked if each.keyid == keyid), None)
        if revoked is not None:
            return f"{short} was revoked at {revoked.at} ({revoked.reason})"
        key = self._key(keyid)
        if key is None:
            return f"{short} is not in the trust policy"
        if scope is None:
            return None if role in key.roles else f"{short} may not sign as {role}"
        return None if key.counts_for(role, scope) else f"{short} may not sign as {role} for {scope}"

    def _key(self, keyid: str) -> TrustedKey | None:
        return next((each for each in self.keys if each.keyid == keyid), None)


_RESTORE: Final = "restore the file, or begin another one with `rebundle keys trust POLICY PUBLIC`"


@dataclass(frozen=True, slots=True)
class _Named:
    """A signed document, for messages."""

    text: str
    remedy: str
    key: str
    """Of the object."""
    numbered: bool = True
    """Whether it had a `schema` already in schema 1."""


def _pointer(scope: Scope) -> _Named:
    return _Named(
        f"the pointer of {scope}",
        f"restore its newest version that was signed, or `rebundle recover {scope} --reason '…'` with a key that is "
        "trusted (signing.key_file) writes one",
        layout.pointer(scope),
    )


def _freshness(scope: Scope) -> _Named:
    return _Named(f"freshness.json of {scope}", RENEW, layout.freshness(scope), numbered=False)


def _publication(scope: Scope, name: PublicationId) -> _Named:
    return _Named(
        f"the publication {name} of {scope}",
        f"`rebundle republish {scope} --reason '…'` with a key that is trusted (signing.key_file) signs what is "
        "desired; another state has to be sent again",
        layout.signature(scope, name.state, name.attempt),
    )


def _some(reasons: Sequence[str]) -> str:
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    return "; ".join(reasons[:_MOST_REASONS]) + more
