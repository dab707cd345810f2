"""Signatures as documents carry them, and what they are made of. Pure.

What is signed is the pre-authentication encoding of a payload and its type (DSSE protocol 1.0), so that no signature
of one kind of document fits another. Who signs and verifies: `signing`, which takes long to import.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from daemon.publishing.sizes import SIGNATURES

POINTER: Final = "application/vnd.rebundle.pointer+json"
FRESHNESS: Final = "application/vnd.rebundle.freshness+json"
STATEMENT: Final = "application/vnd.in-toto+json"


@dataclass(frozen=True, slots=True)
class Signature:
    """Of one key over one document."""

    keyid: str
    sig: bytes

    def document(self) -> dict[str, str]:
        """As it is written."""
        return {"keyid": self.keyid, "sig": base64.b64encode(self.sig).decode()}


class Signer(Protocol):
    """Signs. Blocking: a key service is asked over a network."""

    @property
    def keyid(self) -> str:
        """Which public key verifies what it signs."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature of these very bytes."""
        ...


def encoding(kind: str, payload: bytes) -> bytes:
    """What is signed of a payload (DSSE's PAE)."""
    return b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(payload), payload)


def signed_by(signers: Sequence[Signer], kind: str, payload: bytes) -> tuple[Signature, ...]:
    """A signature of each. Blocking."""
    message = encoding(kind, payload)
    return tuple(Signature(signer.keyid, signer.sign(message)) for signer in signers)


def decoded(documents: object) -> tuple[Signature, ...]:
    """Signatures as they were written.

    Raises:
        ValueError: not in the one form that `Signature.document` gives; two of one key; more than 16.
    """
    if not isinstance(documents, list):
        raise ValueError("the signatures are no list")
    if len(documents) > SIGNATURES:
        raise ValueError(f"it has {len(documents):,} signatures, and may have {SIGNATURES}")
    found = tuple(map(_decoded, documents))
    if len({each.keyid for each in found}) != len(found):
        raise ValueError("one key has signed twice")
    return found


def _decoded(document: object) -> Signature:
    match document:
        case {"keyid": str(keyid), "sig": str(text)} if isinstance(document, Mapping) and len(document) == 2:
            try:
                signature = Signature(keyid, base64.b64decode(text, validate=True))
            except binascii.Error:
                raise ValueError("a signature is not base64") from None
            # The bits beyond the last byte are free in base64, and here they are not.
            if signature.document() == document:
                return signature
    raise ValueError("a signature is not in its one form")
