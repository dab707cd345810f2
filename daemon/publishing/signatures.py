"""The form of signatures in documents, and the bytes that are signed. Pure.

A signature covers the pre-authentication encoding of a payload and its type (DSSE protocol 1.0).
So a signature of one kind of document is not valid for another kind. The keys that sign and verify
are in `trust.keys`, which takes long to import.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from daemon.publishing.sizes import SIGNATURES

POINTER: Final = "application/vnd.rebundle.pointer+json"
FRESHNESS: Final = "application/vnd.rebundle.freshness+json"
STATEMENT: Final = "application/vnd.in-toto+json"

Role = Literal["publish", "pointer"]
"""What a key may sign: states, or pointers and freshness.json."""
ROLES: Final[tuple[Role, ...]] = ("publish", "pointer")


@dataclass(frozen=True, slots=True)
class Signature:
    """The signature of one key over one document."""

    keyid: str
    sig: bytes

    def document(self) -> dict[str, str]:
        """The JSON object of this signature in a document."""
        return {"keyid": self.keyid, "sig": base64.b64encode(self.sig).decode()}


class Signer(Protocol):
    """Signs messages with one key. Blocking: a key service is called over a network."""

    @property
    def keyid(self) -> str:
        """The id of the public key that verifies these signatures."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature over exactly these bytes."""
        ...


def encoding(kind: str, payload: bytes) -> bytes:
    """The bytes that are signed for a payload (the PAE of DSSE)."""
    return b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(payload), payload)


def signed_by(signers: Sequence[Signer], kind: str, payload: bytes) -> tuple[Signature, ...]:
    """One signature of every signer over a payload. Blocking."""
    message = encoding(kind, payload)
    return tuple(Signature(signer.keyid, signer.sign(message)) for signer in signers)


def decoded(documents: object) -> tuple[Signature, ...]:
    """The signatures in a parsed document.

    Raises:
        ValueError: one has not the form that `Signature.document` gives; one key has signed twice;
            there are more than `sizes.SIGNATURES`.
    """
    if not isinstance(documents, list):
        raise ValueError("the signatures are no list")
    if len(documents) > SIGNATURES:
        raise ValueError(f"it has {len(documents):,} signatures, and may have {SIGNATURES}")
    signatures = tuple(map(_decode_signature, documents))
    if len({signature.keyid for signature in signatures}) != len(signatures):
        raise ValueError("one key has signed twice")
    return signatures


def _decode_signature(document: object) -> Signature:
    match document:
        case {"keyid": str(keyid), "sig": str(text)} if (
            isinstance(document, Mapping) and len(document) == 2
        ):
            try:
                signature = Signature(keyid, base64.b64decode(text, validate=True))
            except binascii.Error:
                raise ValueError("a signature is not base64") from None
            # Base64 allows several texts for the same bytes (unused bits of the last character).
            # Only the one that `document` writes is accepted.
            if signature.document() == document:
                return signature
    raise ValueError("a signature is not in its one form")
