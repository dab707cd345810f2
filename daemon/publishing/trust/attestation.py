"""The signature of a publication: an in-toto statement in a DSSE envelope. Pure.

The statement names the digests of the manifest, the archive and the files. It is a function of the
manifest, so a reader computes it and compares. The first subject is the manifest, which covers
everything else. The archive and the files are subjects so that other in-toto tools can use the
statement.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from daemon.publishing.documents import canonical, serialised
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import Publication
from daemon.publishing.signatures import STATEMENT, Signature, decoded
from renderers.values import canonical_json

_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:rebundle:publication:v1"


def statement(
    scope: str, publication: Publication, archive_sha256: str, files: Iterable[tuple[str, str]]
) -> bytes:
    """The bytes that are signed for a publication. `files`: paths and digests."""
    subjects = [
        ("manifest.json", publication.manifest_sha256),
        ("bundle.tar.gz", archive_sha256),
        *((f"docker-compose-gen/{path}", sha256) for path, sha256 in files),
    ]
    document = {
        "_type": _TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects],
        "predicateType": PREDICATE,
        "predicate": {
            "scope": scope,
            "state": publication.state,
            "attempt": publication.attempt,
            "revision": {
                "producer": publication.revision.producer,
                "derived": publication.revision.derived,
            },
            "kind": publication.kind,
            "composition": publication.composition_digest,
            "renderer": publication.renderer,
        },
    }
    return canonical_json(document).encode()


def statement_of(manifest: Manifest, manifest_body: bytes) -> bytes:
    """The same bytes, for a manifest that was read."""
    publication = manifest.publication(hashlib.sha256(manifest_body).hexdigest())
    files = ((file.path, file.sha256) for file in manifest.files)
    return statement(manifest.scope, publication, manifest.archive.sha256, files)


def enveloped(payload: bytes, signatures: Sequence[Signature]) -> bytes:
    """The bytes of `manifest.dsse.json`."""
    return serialised(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": STATEMENT,
            "signatures": [signature.document() for signature in signatures],
        }
    )


def opened(body: bytes) -> tuple[bytes, tuple[Signature, ...]]:
    """The statement in these bytes, and its signatures. This verifies none of them.

    Raises:
        ValueError: the bytes are no such envelope, or differ from the form that `enveloped`
            writes.
    """
    document = canonical(body)
    match document:
        case {"payload": str(text), "payloadType": str(kind), "signatures": list(listed)} if (
            kind == STATEMENT
        ):
            payload = base64.b64decode(text, validate=True)
            signatures = decoded(listed)
            if enveloped(payload, signatures) == body:
                return payload, signatures
    raise ValueError("it is not an in-toto statement in an envelope as it is written here")
