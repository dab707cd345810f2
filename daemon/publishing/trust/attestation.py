"""The signature of a publication: an in-toto statement about its manifest, archive and files, in a DSSE envelope. Pure.

The statement is a function of the manifest, so a reader makes it again and compares. Its first subject is the manifest
itself, which has everything else; the files are named so that other tools that read in-toto can use it, too.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Final

from daemon.publishing.documents import canonical, serialised
from daemon.publishing.manifest import Manifest
from daemon.publishing.signatures import STATEMENT, Signature, decoded
from renderers.model import canonical_json

_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:rebundle:publication:v1"


def statement(manifest: Manifest, manifest_body: bytes) -> bytes:
    """What is signed."""
    subjects = [
        ("manifest.json", hashlib.sha256(manifest_body).hexdigest()),
        ("bundle.tar.gz", manifest.archive.sha256),
        *((f"docker-compose-gen/{file.path}", file.sha256) for file in manifest.files),
    ]
    document = {
        "_type": _TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects],
        "predicateType": PREDICATE,
        "predicate": {
            "scope": manifest.scope,
            "state": manifest.state,
            "attempt": manifest.attempt,
            "revision": {"producer": manifest.revision.producer, "derived": manifest.revision.derived},
            "kind": manifest.kind,
            "composition": manifest.composition_digest,
            "renderer": manifest.renderer,
        },
    }
    return canonical_json(document).encode()


def enveloped(payload: bytes, signatures: Sequence[Signature]) -> bytes:
    """The bytes of `manifest.dsse.json`."""
    return serialised(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": STATEMENT,
            "signatures": [each.document() for each in signatures],
        }
    )


def opened(body: bytes) -> tuple[bytes, tuple[Signature, ...]]:
    """The statement in these bytes, and its signatures, none of them verified.

    Raises:
        ValueError: they are no such envelope, or not in the one form that `enveloped` gives.
    """
    document = canonical(body)
    match document:
        case {"payload": str(text), "payloadType": str(kind), "signatures": list(listed)} if kind == STATEMENT:
            payload = base64.b64decode(text, validate=True)
            signatures = decoded(listed)
            if enveloped(payload, signatures) == body:
                return payload, signatures
    raise ValueError("it is not an in-toto statement in an envelope as it is written here")
