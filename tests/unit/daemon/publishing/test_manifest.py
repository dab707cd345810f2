"""The manifest: everything of a publication that is fixed before its pointer is written."""

import hashlib
import json
from typing import Any

import pytest

from daemon.publishing import archive, manifest
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.manifest import Manifest, ManifestEvent
from daemon.publishing.pointer import Revision
from renderers.model import Composition, RenderDefaults
from tests.builders import GOLDEN_DEFAULTS, golden_composition, make_composition
from tests.builders_publishing import AT, make_files

EVENT = ManifestEvent(
    intake="http", source="s", id="event-1", type="t", digest="0" * 64, instance="journal:1", offset=7
)


def described(composition: Composition | None = None, defaults: RenderDefaults = GOLDEN_DEFAULTS) -> Manifest:
    files = make_files()
    return manifest.describe(
        composition=composition or golden_composition(),
        defaults=defaults,
        state="derived-42.1-0123456789ab",
        revision=Revision(producer=42, derived=1),
        kind="derived",
        attempt="a" * 32,
        at=AT,
        renderer="1",
        templates="f" * 64,
        files=archive.digest_files(files),
        archive=archive.pack(files),
        events=(EVENT,),
    )


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(manifest.encode(described())) | fields).encode()


def test_a_manifest_comes_back_as_it_was_written_with_composition_and_defaults() -> None:
    made = described()
    read = manifest.decode(manifest.encode(made))
    assert read == made
    assert read.composition_value() == golden_composition()
    assert read.defaults_value() == GOLDEN_DEFAULTS
    assert read.events == (EVENT,)


def test_a_manifest_says_everything_that_the_protocol_lists() -> None:
    document = json.loads(manifest.encode(described()))
    packed = archive.pack(make_files())
    assert {name: document[name] for name in ("schema", "scope", "state", "kind", "attempt")} == {
        "schema": 1,
        "scope": "visual-anomaly/core-versions",
        "state": "derived-42.1-0123456789ab",
        "kind": "derived",
        "attempt": "a" * 32,
    }
    assert document["revision"] == {"producer": 42, "derived": 1}
    assert document["composition_digest"] == golden_composition().digest
    assert document["render_defaults_digest"] == GOLDEN_DEFAULTS.digest
    assert (document["renderer"], document["templates"]) == ("1", "f" * 64)
    sizes = {"sha256": packed.sha256, "tar_sha256": packed.tar_sha256, "size": len(packed.body)}
    assert document["archive"] == sizes


def test_a_file_is_found_by_its_path_with_mode_size_and_digest() -> None:
    script = described().file("base/bundle/download.sh")
    assert script is not None
    assert (script.mode, script.size, script.sha256) == ("0755", 9, hashlib.sha256(b"exit # 1\n").hexdigest())
    env = described().file("example/conf/bundle/.env")
    assert env is not None
    assert env.mode == "0644"
    assert described().file("base/nothing") is None


def test_unknown_fields_are_kept() -> None:
    read = manifest.decode(changed(novelty={"a": 1}))
    assert json.loads(manifest.encode(read))["novelty"] == {"a": 1}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"{}", b"null", changed(files=[{"path": "x"}])])
def test_bytes_that_are_no_manifest_are_refused(body: bytes) -> None:
    with pytest.raises(VerificationFailed, match=r"the manifest cannot be read: .+"):
        manifest.decode(body)


def test_a_composition_that_is_not_the_one_of_its_digest_is_refused() -> None:
    other = json.loads(make_composition(1).canonical)
    with pytest.raises(VerificationFailed, match="does not match its digest"):
        manifest.decode(changed(composition=other)).composition_value()


def test_an_invalid_composition_is_refused() -> None:
    with pytest.raises(VerificationFailed, match="has an invalid composition"):
        manifest.decode(changed(composition={"models": []})).composition_value()


@pytest.mark.parametrize("defaults", [{"router_image": "$(id)"}, {"router_image": "docker.io/library/nginx:1.0"}])
def test_render_defaults_that_are_invalid_or_not_those_of_their_digest_are_refused(defaults: dict[str, str]) -> None:
    with pytest.raises(VerificationFailed, match="render defaults of derived-42"):
        manifest.decode(changed(render_defaults=defaults)).defaults_value()


def test_the_pointers_publication_vouches_for_the_manifests_bytes() -> None:
    made = described()
    body = manifest.encode(made)
    publication = manifest.publication(made, body, late=True)
    assert publication.manifest_sha256 == hashlib.sha256(body).hexdigest()
    assert publication.composition == golden_composition().digest
    assert (publication.id, publication.revision) == (manifest.publication(made, body, late=False).id, made.revision)
    assert (publication.late, publication.kind, publication.superseded_at) == (True, "derived", None)
