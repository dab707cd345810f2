"""Views of a manifest, also of one that another release wrote."""

from daemon.inspection.manifests import ManifestView, ModelView
from daemon.publishing import archive, manifest
from tests.builders_publishing import AT, SCOPE, make_state


def described():
    state = make_state(1)
    members = archive.Packer().members(SCOPE, state.files)
    return manifest.decode(manifest.written(state, "a" * 32, AT, members, archive.pack(members)))


def test_a_model_is_shown_with_what_identifies_it():
    stored = {
        "id": "101",
        "version": "7",
        "name": "anomaly",
        "serving_version": "1",
        "artifact": {"uri": "gs://bucket/models/101"},
        "serving": {"platform": "triton", "image": "registry.example.com/serving:1.0"},
    }

    assert ModelView.of(stored) == ModelView(
        id="101",
        version="7",
        name="anomaly",
        serving_version="1",
        artifact="gs://bucket/models/101",
        platform="triton",
        image="registry.example.com/serving:1.0",
    )


def test_fields_that_another_release_left_out_are_none():
    shown = ManifestView.of(described().model_copy(update={"composition": {}}))

    assert ModelView.of({}) == ModelView(None, None, None, None, None, None, None)
    assert (shown.models, shown.proxy_image, shown.movable) == ((), None, None)
