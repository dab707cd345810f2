"""Writes the corpus from documents that the project itself makes: `python -m
tests.fuzz.make_corpus`.

Run it when a format changes. Files added by hand, such as an input that once showed a fault, stay.
"""

import asyncio
import json
import tempfile
from functools import partial
from pathlib import Path

from daemon.publishing import layout, protocol
from daemon.publishing.documents import serialised
from daemon.publishing.trust import keys
from daemon.publishing.trust.policy import Revocation, TrustedKey, TrustPolicy
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.port import Content
from daemon.timers.freshness import FreshnessTimer
from tests.builders import golden_document
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime, ThreadRuntime
from tests.fuzz.targets import CORPUS
from tests.support.memory_store import MemoryStore

_STATE_EVENT = {
    "specversion": "1.0",
    "id": "visual-anomaly/core-versions/state-1",
    "source": "https://registry.example.com/",
    "type": "io.rebundle.bundle_state.created.v1",
    "time": "2026-11-22T10:00:00Z",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "data": golden_document() | {"state": {"id": "state-1", "revision": 1}},
}
_MODEL_EVENT = _STATE_EVENT | {
    "id": "101-9",
    "type": "io.rebundle.model_version.updated.v1",
    "data": {
        "model": {"id": "101", "version": "9"},
        "bundles": [{"name": "visual-anomaly", "target": "core-versions"}],
        "aliases": ["champion"],
    },
}
_ROLLBACK_EVENT = _STATE_EVENT | {
    "id": "rollback-1",
    "type": "io.rebundle.bundle.rollback_requested.v1",
    "data": {
        "bundle": {"name": "visual-anomaly", "target": "core-versions"},
        "to": {"state_id": "state-1"},
        "expected_state_id": "derived-1.2-0123456789ab",
        "reason": "score drift",
        "requested_by": "ann",
    },
}
_BINARY = b"""content-type: application/json
ce-specversion: 1.0
ce-id: %22101%20to 9%22
ce-source: https://registry.example.com/
ce-type: io.rebundle.model_version.created.v1
ce-subject: "a \\"quoted\\" text"

"""
_SETTINGS = """bucket = "s3://bundles/prefix?endpoint=https://storage.example.com:9000&region=eu"

[http]
listen = "127.0.0.1:8420"
max_body_bytes = "2MiB"

[retention]
newest = 30

[render.labels]
site = "north"

[scopes."visual-anomaly/core-versions".render]
restart = "no"
"""
_ENVIRONMENT = """REBUNDLE_BUCKET=var/bucket
REBUNDLE_HTTP__LISTEN=[::1]:0
REBUNDLE_HTTP__TOKEN=0123456789abcdef0123456789abcdef
REBUNDLE_PUBLISH__PINNING=warn
REBUNDLE_RENDER__LABELS__SITE=north
"""
_LOCATIONS = {
    "directory": "var/bucket",
    "file": "file:///var/lib/rebundle/a%20bucket",
    "s3": "s3://bundles/some/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1",
    "gcs": "gs://bundles/prefix?endpoint=http://[::1]:4443/",
}


async def _write_documents(folder: Path) -> None:
    """Seeds of every kind of object of a scope with a history: published, rolled back, pinned,
    quarantined.
    """
    pem, public = keys.generate()
    key_file = folder / "key.pem"
    key_file.write_text(pem)
    key_file.chmod(0o600)
    signer = keys.load(key_file)
    key = TrustedKey(
        keyid=public.keyid, public=public.pem, roles=("publish", "pointer"), scopes=("visual-*/*",)
    )
    policy = TrustPolicy(
        freshness="required",
        keys=(key,),
        revoked=(Revocation(keyid="0" * 64, reason="lost", at="2026-01-01"),),
    )
    with ThreadRuntime() as runtime:
        # Without the policy while the history is made, because its pointers are unsigned.
        store = MemoryStore(runtime)
        bucket = Bucket(store, runtime, signers=(signer,))
        first = (await bucket.publish(make_state(1))).pointer.live
        await bucket.publish(make_state(2))
        assert first is not None
        small = (await store.get(layout.pointer(SCOPE))).body
        for number in range(130):
            command = protocol.hold if number % 2 == 0 else protocol.resume
            await bucket.operations.carry_out(SCOPE, command, "ann", "maintenance")
        await bucket.operations.carry_out(
            SCOPE, partial(protocol.pin, target=first, pinned=True), "ann", "reference"
        )
        await bucket.operations.carry_out(
            SCOPE, partial(protocol.rollback, target=first), "ann", "score drift"
        )
        timer = FreshnessTimer(
            store=store,
            reader=bucket.reader,
            runtime=runtime,
            signers=(signer,),
            trust=policy,
            minutes=60,
        )
        await timer.renew(SCOPE)
        chunks = [listed.key for listed in await store.scan(layout.histories(SCOPE))]
        objects = {
            "pointer-json": layout.pointer(SCOPE),
            "signed-pointer": layout.pointer(SCOPE),
            "history-chunk": chunks[0],
            "manifest-json": layout.manifest(SCOPE, first.state, first.attempt),
            "publication-envelope": layout.signature(SCOPE, first.state, first.attempt),
            "bundle-archive": layout.archive(SCOPE, first.state, first.attempt),
            "live-tree-marker": layout.live_tree(SCOPE, layout.MARKER),
            "freshness-json": layout.freshness(SCOPE),
        }
        bodies = {name: (await store.get(key)).body for name, key in objects.items()}
    signatures = json.dumps(json.loads(small)["signatures"]).encode()
    bodies |= {
        "signature-list": signatures,
        "trust-policy": policy.written(),
        "public-key": public.pem.encode(),
    }
    for target, body in bodies.items():
        _write(target, "real", body)
    for target in ("pointer-json", "signed-pointer"):
        _write(target, "small", small)


async def _replace_an_object(folder: Path) -> None:
    store = DirectoryStore(folder, InlineRuntime())
    version = await store.create(
        "a/file", Content(b"1", tag={"commit": "1.0", "publication": "state-1@0"})
    )
    await store.replace(
        "a/file", Content(b"2", tag={"commit": "2.0", "publication": "state-2@0"}), version
    )


def _tag_file(folder: Path) -> bytes:
    """The tag file that a directory keeps for an object that was replaced once."""
    asyncio.run(_replace_an_object(folder))
    (found,) = (
        path for path in folder.rglob("*") if path.is_file() and b'"commit"' in path.read_bytes()
    )
    return found.read_bytes()


def _write(target: str, name: str, body: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(body)


def main() -> None:
    """Writes every seed."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_write_documents(Path(folder)))
        _write("object-tags", "real", _tag_file(Path(folder) / "bucket"))
    events = {"state": _STATE_EVENT, "model": _MODEL_EVENT, "rollback": _ROLLBACK_EVENT}
    for name, event in events.items():
        _write("event-structured", name, json.dumps(event).encode())
    _write("event-batch", "real", json.dumps([_MODEL_EVENT, _ROLLBACK_EVENT]).encode())
    _write(
        "event-file", "lines", "\n".join(json.dumps(event) for event in events.values()).encode()
    )
    _write("event-file", "list", json.dumps([_MODEL_EVENT]).encode())
    _write("event-binary", "real", _BINARY + json.dumps(_MODEL_EVENT["data"]).encode())
    _write(
        "bucket-identity",
        "real",
        serialised({"schema": 1, "id": "0" * 32, "created_at": "2026-11-22T10:00:00Z"}),
    )
    _write(
        "journal-problems",
        "real",
        json.dumps([["$.id", "is required", ""], ["$", "must be", "'x'"]]).encode(),
    )
    _write("strict-json", "real", b'{"a": [1, -2.5e3, null, true, "\\u00fc"], "": {}}')
    _write("commit-tag", "real", b"12.3")
    _write(
        "object-metadata",
        "real",
        b"rebundle-commit:12.0\nrebundle-publication:state-1%400\nmtime:1",
    )
    _write("accepted-sequences", "real", json.dumps({f"bucket {SCOPE}": 7}).encode())
    _write("settings-file", "real", _SETTINGS.encode())
    _write("settings-environment", "real", _ENVIRONMENT.encode())
    for name, location in _LOCATIONS.items():
        _write("bucket-location", name, location.encode())
    _write("object-key", "real", f"{SCOPE}/states/state-1/0123456789abcdef/bundle.tar.gz".encode())


if __name__ == "__main__":
    main()
