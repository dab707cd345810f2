"""The signed statement, and the one accepted form of its envelope."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.publishing import manifest
from daemon.publishing.documents import serialised
from daemon.publishing.signatures import Signature
from daemon.publishing.trust import attestation

STORED = Path(__file__).parents[4] / "data" / "stored" / "schema-2"
MANIFEST = (STORED / "manifest.json").read_bytes()
SIGNATURES = (Signature("one", b"1"), Signature("two", b"2"))
ENVELOPE: dict[str, Any] = json.loads(attestation.enveloped(b"{}", SIGNATURES))


def test_the_statement_of_a_stored_manifest_is_the_one_that_was_signed() -> None:
    payload, _ = attestation.opened((STORED / "manifest.dsse.json").read_bytes())

    assert attestation.statement_of(manifest.decode(MANIFEST), MANIFEST) == payload


def test_a_statement_names_the_manifest_the_archive_and_every_file_with_its_digest() -> None:
    described = manifest.decode(MANIFEST)
    document = json.loads(attestation.statement_of(described, MANIFEST))

    assert (document["_type"], document["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "urn:rebundle:publication:v1",
    )
    assert {subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]} == {
        "manifest.json": hashlib.sha256(MANIFEST).hexdigest(),
        "bundle.tar.gz": described.archive.sha256,
        **{f"docker-compose-gen/{file.path}": file.sha256 for file in described.files},
    }
    assert document["predicate"] == {
        "scope": described.scope,
        "state": described.state,
        "attempt": described.attempt,
        "revision": {
            "producer": described.revision.producer,
            "derived": described.revision.derived,
        },
        "kind": described.kind,
        "composition": described.composition_digest,
        "renderer": described.renderer,
    }


def test_an_envelope_has_the_dsse_form_and_round_trips() -> None:
    body = attestation.enveloped(b"{}", SIGNATURES)

    assert json.loads(body) == {
        "payload": base64.b64encode(b"{}").decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"keyid": "one", "sig": "MQ=="}, {"keyid": "two", "sig": "Mg=="}],
    }
    assert attestation.opened(body) == (b"{}", SIGNATURES)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        ENVELOPE | {"payload": 1},
        ENVELOPE | {"payload": "e30"},
        ENVELOPE | {"payload": "e30=\n"},
        ENVELOPE | {"payload": "e31="},  # the same bytes as e30= for a lenient reader
        ENVELOPE | {"payloadType": "application/json"},
        ENVELOPE | {"signatures": {}},
        ENVELOPE | {"signatures": [{"keyid": "one", "sig": "MQ"}]},
        ENVELOPE | {"more": 1},
    ],
)
def test_any_other_envelope_is_refused(document: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^(it is not an in-toto statement in an envelope as |.*base64|.*padding)"
    ):
        attestation.opened(serialised(document))


def test_an_envelope_of_another_kind_of_document_is_refused_by_its_type() -> None:
    with pytest.raises(
        ValueError, match=r"^it is not an in-toto statement in an envelope as it is written here$"
    ):
        attestation.opened(serialised(ENVELOPE | {"payloadType": "application/json"}))
