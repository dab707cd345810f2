"""The manifest: everything about a publication that is fixed before its pointer is written."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings

from daemon.publishing import archive, manifest
from daemon.publishing.archive import Packer
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.manifest import Manifest, ManifestEvent, RenderedState
from daemon.publishing.pointer import Revision
from renderers.bundle import Renderer
from renderers.composition import Composition, RenderDefaults
from renderers.values import RenderedFile, canonical_digest
from tests.builders import GOLDEN_DEFAULTS, STAMP, golden_composition, make_composition
from tests.builders_publishing import AT, SCOPE, encode_manifest, make_files
from tests.strategies import compositions, render_defaults

EVENT = ManifestEvent(
    intake="http",
    source="s",
    id="event-1",
    type="t",
    digest="0" * 64,
    instance="journal:1",
    offset=7,
)


def state(**fields: Any) -> RenderedState:
    given: dict[str, Any] = {
        "composition": golden_composition(),
        "defaults": GOLDEN_DEFAULTS,
        "state": "derived-42.1-0123456789ab",
        "revision": Revision(producer=42, derived=1),
        "kind": "derived",
        "late": True,
        "files": make_files(),
        "renderer": "1",
        "templates": "f" * 64,
        "events": (EVENT,),
    }
    return RenderedState(**given | fields)


def written(state: RenderedState) -> bytes:
    members = Packer().members(state.composition.scope, state.files)
    return manifest.written(state, "a" * 32, AT, members, archive.pack(members))


def described() -> Manifest:
    return manifest.decode(written(state()))


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(encode_manifest(described())) | fields).encode()


def test_a_manifest_round_trips_with_composition_and_defaults() -> None:
    read = described()
    assert read.composition_value() == golden_composition()
    assert read.defaults_value() == GOLDEN_DEFAULTS
    assert read.events == (EVENT,)


def test_a_manifest_has_every_field_of_the_protocol() -> None:
    document = json.loads(encode_manifest(described()))
    packed = archive_of(make_files())
    assert {name: document[name] for name in ("schema", "scope", "state", "kind", "attempt")} == {
        "schema": 2,
        "scope": "visual-anomaly/core-versions",
        "state": "derived-42.1-0123456789ab",
        "kind": "derived",
        "attempt": "a" * 32,
    }
    assert document["revision"] == "42.1"
    assert document["composition_digest"] == golden_composition().digest
    assert document["render_defaults_digest"] == GOLDEN_DEFAULTS.digest
    assert (document["renderer"], document["templates"]) == ("1", "f" * 64)
    sizes = {"sha256": packed.sha256, "tar_sha256": packed.tar_sha256, "size": len(packed.body)}
    assert document["archive"] == sizes


def test_a_file_is_found_by_its_path_with_mode_size_and_digest() -> None:
    script = described().file("base/bundle/download.sh")
    assert script is not None
    assert (script.mode, script.size, script.sha256) == (
        "0755",
        9,
        hashlib.sha256(b"exit # 1\n").hexdigest(),
    )
    env = described().file("example/conf/bundle/.env")
    assert env is not None
    assert env.mode == "0644"
    assert described().file("base/nothing") is None


def test_unknown_fields_are_kept() -> None:
    read = manifest.decode(changed(novelty={"a": 1}))
    assert json.loads(encode_manifest(read))["novelty"] == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b"null",
        changed(files=[{"path": "x"}]),
        changed(render_defaults={"router_image": float("nan")}),
        changed(render_defaults={"router_image": "\ud800"}),
    ],
)
def test_bytes_that_are_not_a_manifest_are_refused(body: bytes) -> None:
    with pytest.raises(VerificationFailed, match=r"the manifest cannot be read: .+"):
        manifest.decode(body)


def test_files_are_listed_in_the_order_of_the_archive_and_each_path_once() -> None:
    files = json.loads(encode_manifest(described()))["files"]
    for wrong in (files[::-1], [files[0], *files]):
        with pytest.raises(
            VerificationFailed,
            match=r"^the manifest cannot be read: files: must be sorted by the bytes of their paths, each path once$",
        ):
            manifest.decode(changed(files=wrong))


def test_a_composition_that_does_not_match_its_digest_is_refused() -> None:
    other = json.loads(make_composition(1).canonical)
    with pytest.raises(VerificationFailed, match="does not match its digest"):
        manifest.decode(changed(composition=other)).composition_value()


def test_a_composition_of_a_newer_release_is_refused_as_such() -> None:
    recorded = json.loads(golden_composition().canonical)
    recorded["models"][0]["weather"] = "fine"
    read = manifest.decode(
        changed(composition=recorded, composition_digest=canonical_digest(recorded))
    )
    with pytest.raises(
        VerificationFailed, match=r"composition of derived-42.* a newer release wrote it"
    ):
        read.composition_value()


def test_an_invalid_composition_is_refused() -> None:
    with pytest.raises(VerificationFailed, match="has an invalid composition"):
        manifest.decode(changed(composition={"models": []})).composition_value()


@pytest.mark.parametrize(
    "defaults",
    [
        {"router_image": "$(id)"},
        {"router_image": "docker.io/library/nginx:1.0"},
    ],
)
def test_render_defaults_that_are_invalid_or_do_not_match_their_digest_are_refused(
    defaults: dict[str, Any],
) -> None:
    with pytest.raises(VerificationFailed, match="render defaults of derived-42"):
        manifest.decode(changed(render_defaults=defaults)).defaults_value()


def test_the_pointer_verifies_the_bytes_of_the_manifest() -> None:
    body = written(state())
    publication = manifest.publication(state(), "a" * 32, AT, body)
    assert publication.manifest_sha256 == hashlib.sha256(body).hexdigest()
    assert publication.composition_digest == golden_composition().digest
    assert (publication.state, publication.attempt) == ("derived-42.1-0123456789ab", "a" * 32)
    assert (publication.revision, publication.at) == (Revision(producer=42, derived=1), AT)
    assert (publication.late, publication.kind, publication.superseded_at) == (
        True,
        "derived",
        None,
    )


@given(compositions(), render_defaults())
@settings(max_examples=25)
def test_the_assembled_manifest_equals_the_encoded_value(
    composition: Composition, defaults: RenderDefaults
) -> None:
    rendered = Renderer().render(composition, defaults, STAMP)
    body = written(state(composition=composition, defaults=defaults, files=rendered))
    read = manifest.decode(body)

    assert encode_manifest(read) == body
    assert read.composition_value() == composition
    assert read.defaults_value() == defaults
    digests = archive.digest_files(rendered)
    assert [(f.path, f.mode, f.size, f.sha256) for f in read.files] == [
        (f.path, f.mode, f.size, f.sha256) for f in digests
    ]
    assert read.content_digest == archive.content_digest(digests)
    assert (read.archive.sha256, read.archive.size) == (
        archive_of(rendered).sha256,
        len(archive_of(rendered).body),
    )


def archive_of(files: tuple[RenderedFile, ...]) -> archive.Archive:
    return archive.pack(Packer().members(SCOPE, files))


def test_defaults_added_later_do_not_change_a_recorded_digest() -> None:
    recorded = {"download_image": "a/b:1", "router_image": "c/d:1"}
    read = manifest.decode(
        changed(render_defaults=recorded, render_defaults_digest=canonical_digest(recorded))
    )

    assert read.defaults_value() == RenderDefaults.model_validate(recorded)


def test_defaults_of_a_newer_release_are_refused_by_name_of_the_state() -> None:
    recorded = {"weather": "fine"}
    read = manifest.decode(
        changed(render_defaults=recorded, render_defaults_digest=canonical_digest(recorded))
    )

    with pytest.raises(VerificationFailed, match=r"derived-42.* does not know"):
        read.defaults_value()


def test_a_composition_that_the_intake_would_refuse_today_still_verifies() -> None:
    # Published before the rule on batch sizes. A stricter rule must not stop a scope.
    document = json.loads(golden_composition().canonical)
    serving = next(
        model["serving"]
        for model in document["models"]
        if model["serving"]["platform"] == "tensorflow"
    )
    serving["batching"] = {
        "enabled": True,
        "parameters": {"max_batch_size": 64, "allowed_batch_sizes": [8, 16]},
    }
    recorded = Composition.model_validate(document)
    read = manifest.decode(
        changed(composition=document, composition_digest=canonical_digest(document))
    )

    assert read.composition_value() == recorded
