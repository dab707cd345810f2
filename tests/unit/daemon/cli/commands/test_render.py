"""`rebundle render`: renders an event, a composition or a manifest into a folder."""

import io
import json

import pytest

from tests.builders import golden_document
from tests.support.buckets import SCOPE


def event(**state):
    data = golden_document() | {"state": {"id": "golden-1", "revision": 7} | state}
    return {
        "specversion": "1.0",
        "id": "e1",
        "source": "https://registry.example.com/",
        "type": "io.rebundle.bundle_state.created.v1",
        "data": data,
    }


def written(tmp_path, document):
    path = tmp_path / "in.json"
    path.write_text(json.dumps(document))
    return path


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_an_event_is_rendered_as_its_state(tmp_path, rebundle):
    result = rebundle("render", written(tmp_path, event()), "-o", tmp_path / "out")

    assert result.code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "base", "example"}
    stamp = json.loads((tmp_path / "out/base/.rebundle.json").read_bytes())
    assert (stamp["state"], stamp["revision"]) == ("golden-1", "7")


def test_a_dash_is_standard_input(tmp_path, rebundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(event()).encode())))

    assert rebundle("render", "-", "-o", tmp_path / "out").code == 0


def test_data_alone_gives_the_same_bytes_as_its_event(tmp_path, rebundle):
    rebundle("render", written(tmp_path, event()), "-o", tmp_path / "a")
    rebundle("render", written(tmp_path, event()["data"]), "-o", tmp_path / "b")

    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_composition_without_a_state_is_stamped_as_unpublished(tmp_path, rebundle):
    assert (
        rebundle("render", written(tmp_path, golden_document()), "-o", tmp_path / "out").code == 0
    )
    assert json.loads((tmp_path / "out/base/.rebundle.json").read_bytes())["state"] == "unpublished"


def test_a_manifest_gives_the_bytes_that_were_published(bucket, tmp_path, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_RENDER__ROUTER_IMAGE", "registry.example.com/not-the-recorded:1")
    (manifest,) = (bucket / str(SCOPE) / "states/state-3").glob("*/manifest.json")

    assert rebundle("render", manifest, "-o", tmp_path / "out").code == 0

    tree = contents(bucket / str(SCOPE) / "docker-compose-gen")
    del tree[".rebundle.json"]
    assert contents(tmp_path / "out") == tree


def test_a_manifest_of_another_renderer_is_rendered_with_a_notice(bucket, tmp_path, rebundle):
    (manifest,) = (bucket / str(SCOPE) / "states/state-3").glob("*/manifest.json")
    document = json.loads(manifest.read_bytes()) | {"renderer": "0.9", "content_digest": "0" * 64}

    result = rebundle("render", written(tmp_path, document), "-o", tmp_path / "out")

    assert result.code == 0
    assert "another renderer" in result.err


def test_a_manifest_with_different_content_fails_verification(bucket, tmp_path, rebundle):
    (manifest,) = (bucket / str(SCOPE) / "states/state-3").glob("*/manifest.json")
    document = json.loads(manifest.read_bytes()) | {"content_digest": "0" * 64}

    result = rebundle("render", written(tmp_path, document), "-o", tmp_path / "out")

    assert result.code == 5
    assert not (tmp_path / "out").exists()


def test_the_configured_defaults_are_used(tmp_path, rebundle):
    (tmp_path / "rebundle.toml").write_text(
        '[render]\nrouter_image = "registry.example.com/nginx:9"\n'
    )

    rebundle(
        "render",
        written(tmp_path, event()),
        "-o",
        tmp_path / "out",
        "--config",
        tmp_path / "rebundle.toml",
    )

    assert (
        "registry.example.com/nginx:9"
        in (tmp_path / "out/base/bundle/docker-compose.yaml").read_text()
    )


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (event(id="derived-1"), "$.data.state.id"),
        (golden_document() | {"models": []}, "$.models"),
        (golden_document() | {"state": {"id": "a/b", "revision": 1}}, "$.state.id"),
        (golden_document() | {"state": {"id": "derived-1", "revision": 1}}, "$.state.id"),
        (golden_document() | {"state": {"id": "state-1", "revision": "7; rm"}}, "$.state.revision"),
        (golden_document() | {"state": {"id": "state-1"}}, "$.state.revision"),
        (golden_document() | {"state": "state-1"}, "$.state"),
        ([], "$"),
        ({"specversion": "1.0"}, "$.id"),
        (event() | {"type": "io.rebundle.bundle.rollback_requested.v1", "data": {}}, "$.data"),
    ],
)
def test_a_faulty_document_is_refused_with_the_path_and_nothing_is_written(
    tmp_path, rebundle, document, path
):
    result = rebundle("render", written(tmp_path, document), "-o", tmp_path / "out")

    assert result.code == 1
    assert path in result.err
    assert not (tmp_path / "out").exists()


def test_a_model_event_has_no_whole_composition(tmp_path, rebundle):
    model = golden_document()["models"][0]
    document = event() | {"type": "io.rebundle.model_version.created.v1", "data": {"model": model}}

    result = rebundle("render", written(tmp_path, document), "-o", tmp_path / "out")

    assert result.code == 1
    assert "bundle_state.created" in result.err


def test_an_occupied_folder_is_a_usage_error(tmp_path, rebundle):
    assert rebundle("render", written(tmp_path, event()), "-o", tmp_path).code == 2


def own_templates(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/header.yaml").write_text("# Ours.\nservices:\n")
    config = tmp_path / "rebundle.toml"
    config.write_text(
        f'[scopes."{SCOPE}"]\ntemplates = "{tmp_path / "own"}"\nrender.restart = "always"\n'
    )
    return config


def test_the_settings_of_a_scope_are_used(bucket, tmp_path, rebundle):
    config = own_templates(tmp_path)
    document = golden_document() | {"bundle": {"name": SCOPE.bundle, "target": SCOPE.target}}

    assert (
        rebundle(
            "render", written(tmp_path, document), "-o", tmp_path / "out", "--config", config
        ).code
        == 0
    )

    compose = (tmp_path / "out/base/bundle/docker-compose.yaml").read_text()
    assert compose.startswith("# Ours.\n")
    assert "restart: always" in compose


def test_a_manifest_is_rendered_with_the_templates_it_was_published_with(
    bucket, tmp_path, rebundle
):
    config = own_templates(tmp_path)
    (before,) = (bucket / str(SCOPE) / "states/state-3").glob("*/manifest.json")
    rebundle("republish", SCOPE, "--config", config)
    (after,) = set((bucket / str(SCOPE) / "states/state-3").glob("*/manifest.json")) - {before}

    results = [
        rebundle("render", before, "-o", tmp_path / "before", "--config", config),
        rebundle("render", after, "-o", tmp_path / "after", "--config", config),
        rebundle("render", after, "-o", tmp_path / "without"),
    ]

    assert [result.code for result in results] == [0, 0, 0]
    assert ["other templates" in result.err for result in results] == [False, False, True]
    texts = [
        (tmp_path / name / "base/bundle/docker-compose.yaml").read_text()
        for name in ("before", "after")
    ]
    assert [text.startswith("# Ours.\n") for text in texts] == [False, True]


def test_templates_that_cannot_be_used_are_a_usage_error_and_nothing_is_written(
    tmp_path, rebundle, monkeypatch
):
    monkeypatch.setenv("REBUNDLE_TEMPLATES", str(tmp_path / "nowhere"))

    result = rebundle("render", written(tmp_path, event()), "-o", tmp_path / "out")

    assert result.code == 2
    assert f"{tmp_path}/nowhere: templates: cannot be read as a directory" in result.err
    assert not (tmp_path / "out").exists()


def test_a_composition_too_large_for_the_daemon_is_refused_and_the_setting_named(
    tmp_path, rebundle, monkeypatch
):
    monkeypatch.setenv("REBUNDLE_LIMITS__MODELS", "1")

    result = rebundle("render", written(tmp_path, event()), "-o", tmp_path / "out")

    assert result.code == 1
    assert "limits.models" in result.err
    assert not (tmp_path / "out").exists()


def test_a_problem_names_the_file(tmp_path, rebundle):
    (tmp_path / "bad.json").write_text("{")

    result = rebundle("render", tmp_path / "bad.json", "-o", tmp_path / "out")

    assert (result.code, f"{tmp_path / 'bad.json'}: $: must be JSON" in result.err) == (1, True)
    absent = rebundle("render", tmp_path / "absent.json", "-o", tmp_path / "out")
    assert (absent.code, f"there is no file {tmp_path / 'absent.json'}" in absent.err) == (3, True)


@pytest.mark.parametrize(
    ("document", "below"),
    [
        (event(), "$.data."),
        (event()["data"], "$."),
        (golden_document(), "$."),
    ],
    ids=["event", "data", "composition"],
)
def test_unknown_fields_are_refused_in_serving_and_reported_elsewhere(
    tmp_path, rebundle, document, below
):
    data = document.get("data", document)
    data["owner"] = "ann"
    reported = rebundle("render", written(tmp_path, document), "-o", tmp_path / "out")
    data["models"][0]["serving"]["gpus"] = 1
    refused = rebundle("render", written(tmp_path, document), "-o", tmp_path / "refused")

    assert reported.code == 0
    assert f"these fields are unknown and have no effect: {below}owner\n" in reported.err
    assert refused.code == 1
    assert f"{below}models[0].serving.gpus: is not a field" in refused.err
    assert not (tmp_path / "refused").exists()
