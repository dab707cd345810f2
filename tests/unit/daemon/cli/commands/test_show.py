"""`rebundle show`: the models, events, files and digests of a publication."""

import pytest

from tests.support.buckets import SCOPE


def test_show_prints_models_events_files_and_digests_of_live(bucket, rebundle):
    view = rebundle("show", SCOPE, "-o", "json").json

    assert (view["state"], view["status"]) == ("state-3", "live")
    assert [(model["id"], model["version"]) for model in view["models"]] == [
        ("101", "2"),
        ("102", "1"),
    ]
    assert [event["id"] for event in view["events"]] == ["event-of-state-3"]
    assert {"base/bundle/docker-compose.yaml", "README.md"} < {
        file["path"] for file in view["files"]
    }
    assert len(view["archive"]["sha256"]) == len(view["content_digest"]) == 64


@pytest.mark.parametrize("name", ["state-1", "desired"])
def test_show_accepts_a_state_or_a_role(bucket, rebundle, name):
    assert rebundle("show", SCOPE, name).code == 0


def test_files_are_listed_when_asked_for(bucket, rebundle):
    assert "base/bundle/nginx/models.map" not in rebundle("show", SCOPE).out
    assert "base/bundle/nginx/models.map" in rebundle("show", SCOPE, "--files").out


def test_a_prefix_that_fits_several_states_names_them(bucket, rebundle):
    result = rebundle("show", SCOPE, "state-")

    assert result.code == 3
    assert "state-1, state-2, state-3" in result.err


def test_an_unknown_state_is_not_found(bucket, rebundle):
    assert rebundle("show", SCOPE, "nope").code == 3


def test_a_changed_manifest_fails_verification(bucket, rebundle):
    (manifest,) = (bucket / str(SCOPE) / "states" / "state-3").glob("*/manifest.json")
    manifest.write_bytes(manifest.read_bytes().replace(b'"101"', b'"109"'))

    assert rebundle("show", SCOPE).code == 5


def test_references_without_a_digest_are_listed(bucket, rebundle):
    shown = rebundle("show", SCOPE)
    as_data = rebundle("show", SCOPE, "-o", "json").json["movable"]
    status = rebundle("status", SCOPE, "-o", "json").json
    verified = rebundle("verify", SCOPE, "live", "-o", "json").json

    assert "not pinned by a digest" in shown.out
    images = [movable["name"] for movable in as_data if movable["kind"] == "image"]
    assert images
    assert all(image in shown.out for image in images)
    assert status["scopes"][0]["movable"] == as_data
    assert [
        check["movable"] for check in verified["checks"] if check["what"].startswith("state ")
    ] == [as_data]
