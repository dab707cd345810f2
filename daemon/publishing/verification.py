"""Verifies documents: the one step between the bytes of a stored object and their use. Pure.

`Verifier` has one method for each kind of document. A method checks the schema, the fields, the
digest in the document that refers to it, and, with a trust policy, the signature. For a pointer it
also checks that it is not older than what was accepted before. `reader` reads the bytes, and
`publisher` asks whether readers would accept its signatures. Neither is imported here.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from daemon.publishing import archive, documents, layout, manifest, pointer
from daemon.publishing.errors import SequenceWentBack, VerificationFailed
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import Chunk, Pointer, PreviousChunk, Publication, PublicationId
from daemon.publishing.signatures import Role
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.wording import RENEW, cut_off, leave_out
from renderers.values import RenderedFile, Scope

if TYPE_CHECKING:  # its cryptography takes long to import, and is needed only with a policy
    from daemon.publishing.trust.policy import TrustPolicy


@dataclass(frozen=True, slots=True)
class LastAccepted:
    """What was accepted before a pointer was read. The pointer must not be older."""

    sequence: int
    """The highest sequence that readers of this machine have accepted; 0 before the first."""
    freshness: bytes | None = None
    """The body of freshness.json; needed if `Verifier.requires_freshness`."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """The checks of a reader. Without a trust policy, nothing has to be signed."""

    trust: "TrustPolicy | None" = None

    @property
    def requires_freshness(self) -> bool:
        """Whether a pointer needs a freshness.json that has not expired."""
        return self.trust is not None and self.trust.freshness == "required"

    def objection(
        self, keyids: Collection[str], roles: Iterable[Role], scope: Scope | None
    ) -> str | None:
        """Why readers would refuse what these keys sign; None if they accept it.

        Every role needs one accepted key. `scope` None: the scopes of the keys are not checked.
        """
        if self.trust is None:
            return None
        objections = {self.trust.objection(keyids, role, scope) for role in roles}
        return "; ".join(sorted(filter(None, objections))) or None

    def pointer(self, body: bytes, scope: Scope) -> tuple[Pointer, bool]:
        """The pointer in these bytes, and whether it has a signature. Its age is not checked.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it is damaged, belongs to another scope, or has no accepted
                signature.
        """
        found = pointer.opened(body, scope)
        if self.trust is not None:
            self.trust.check_pointer(body, scope)
        return found

    def newest_pointer(
        self, body: bytes, scope: Scope, accepted: LastAccepted, now: datetime
    ) -> tuple[Pointer, bool]:
        """As `pointer`, for the pointer that is to be used as the newest one.

        Raises:
            OlderSchema, VerificationFailed: as `pointer`, or it is not fresh at the time `now`.
            SequenceWentBack: it is older than one that was accepted before.
        """
        found, is_signed = self.pointer(body, scope)
        if self.requires_freshness:
            self._check_fresh(body, scope, found.sequence, accepted.freshness, now)
        if found.sequence < accepted.sequence:
            raise SequenceWentBack(
                f"the pointer of {scope} has sequence {found.sequence}, and {accepted.sequence} "
                "was seen here before: an older pointer was restored, from a backup or by another "
                f"writer; `rebundle recover {scope} --reason '…'` writes one that is newer than "
                "both. If it finds nothing to recover, nothing in the bucket shows the newer one: "
                "restart the daemon to continue from the older one"
            )
        return found, is_signed

    def _check_fresh(
        self, body: bytes, scope: Scope, sequence: int, freshness: bytes | None, now: datetime
    ) -> None:
        if freshness is None:
            raise VerificationFailed(
                f"{scope} has no freshness.json, which the trust policy requires: {RENEW}"
            )
        self.freshness(freshness, scope).check(body, sequence, now)

    def freshness(self, body: bytes, scope: Scope) -> Freshness:
        """The content of a freshness.json. Its expiry time is not checked.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it is damaged, belongs to another scope, or has no accepted
                signature.
        """
        if self.trust is not None:
            return self.trust.check_freshness(body, scope)
        try:
            document = documents.parse(body)
        except documents.Malformed as error:
            raise VerificationFailed(
                f"freshness.json of {scope} cannot be read: {error}: {RENEW}"
            ) from error
        signed = document.get("signed") if isinstance(document, dict) else None
        return Freshness.parse(signed, scope)

    def manifest(
        self,
        body: bytes,
        scope: Scope,
        name: PublicationId,
        *,
        envelope: bytes | None,
        named_by: Publication | None,
    ) -> Manifest:
        """The manifest in these bytes.

        `envelope`: the body of its manifest.dsse.json, if there is one. `named_by`: the entry of
        the pointer; None if only the history names the publication, so that no digest is known.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it is damaged, belongs to another publication, or does not match
                the pointer.
            NotTrusted: it has no accepted signature.
        """
        key, remedy = layout.manifest(scope, name.state, name.attempt), leave_out(scope)
        if named_by is not None and hashlib.sha256(body).hexdigest() != named_by.manifest_sha256:
            raise VerificationFailed(
                f"{key} is damaged: it does not match the digest in the pointer; {remedy}"
            )
        try:
            found = manifest.decode(body, key)
        except VerificationFailed as error:
            raise VerificationFailed(f"{name} of {scope}: {error}: {remedy}") from error
        if (found.scope, found.state, found.attempt) != (str(scope), name.state, name.attempt):
            raise VerificationFailed(
                f"the manifest of {name} belongs to {found.scope} {found.state}: {remedy}"
            )
        if named_by is not None and found.composition_digest != named_by.composition_digest:
            raise VerificationFailed(
                f"the manifest of {name} does not have the composition that the pointer names: "
                f"{remedy}"
            )
        if self.trust is not None:
            self.trust.check_publication(envelope, found, body, scope)
        return found

    def chunk(self, body: bytes, scope: Scope, named_by: PreviousChunk) -> Chunk:
        """The history chunk in these bytes, to which a pointer or a newer chunk refers.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it is damaged, or does not match the digest in its successor.
        """
        if hashlib.sha256(body).hexdigest() != named_by.sha256:
            raise VerificationFailed(
                f"history chunk {named_by.key} does not match the digest in its successor: "
                f"{cut_off(scope)}"
            )
        return pointer.decode_chunk(body, named_by.key, scope)


def verified_files(described: Manifest, body: bytes) -> tuple[RenderedFile, ...]:
    """The files in the bytes of an archive, after checking them against the manifest.

    Raises:
        VerificationFailed: the archive or a file does not match the manifest.
    """
    name = described.id
    if hashlib.sha256(body).hexdigest() != described.archive.sha256:
        raise VerificationFailed(f"the archive of {name} does not match its digest")
    try:
        return archive.unpack(body, described.digests)
    except VerificationFailed as error:
        raise VerificationFailed(
            f"the files of {name} do not match its manifest: {error}"
        ) from error
