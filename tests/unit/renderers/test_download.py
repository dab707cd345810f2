"""The download list models.txt and the script that reads it."""

import re
from pathlib import Path

import pytest

from renderers import download
from renderers.composition import Artifact, Model
from renderers.errors import UnsafeText
from renderers.gate import parsers
from renderers.template_set import Templates
from tests.builders import golden_composition, make_model

BUILT_IN = Templates.built_in()

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
FIELDS = ("folder", "engine", "name", "update", "limit", "identity", "store", "source")


def fields(model: Model) -> dict[str, str]:
    """The fields of the model's line, by name."""
    line = download.list_line(model, BUILT_IN)
    return dict(zip(FIELDS, line.split(), strict=True))


def test_the_golden_models_give_the_golden_list():
    lines = "".join(download.list_line(model, BUILT_IN) for model in golden_composition().models)

    assert lines == (GOLDEN / "models.txt").read_text()


@pytest.mark.parametrize(
    ("platform", "start"),
    [
        ("tensorflow", "a/5 tensorflow a "),
        ("openvino", "a/5 openvino a "),
        ("triton", "a triton a "),
    ],
)
def test_an_engine_that_loads_numbers_gets_the_number_of_the_version_and_triton_does_not(
    platform, start
):
    model = make_model("a", platform=platform, serving_version=5)

    assert download.list_line(model, BUILT_IN).startswith(start)


def test_a_version_that_is_not_a_number_gets_one_in_the_list():
    model = make_model("a", version="v1.2-rc")

    assert download.list_line(model, BUILT_IN).startswith(f"a/{model.serving_version} ")
    assert model.serving_version >= 1


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("s3://bucket/a", "s3:bucket/a"),
        ("gs://bucket/a b/c: (1),x=y", "gcs:bucket/a b/c: (1),x=y"),
        ("az://con-tainer/a/b", "azureblob:con-tainer/a/b"),
        ("file:///srv/models/a b", "local:/files/srv/models/a b"),
        ("https://a.example.com:8443/b/c.tar.gz", "https://a.example.com:8443/b/c.tar.gz"),
    ],
)
def test_an_artifact_is_listed_as_rclone_names_it_and_the_gate_reads_its_uri(uri, source):
    digest = f"sha256:{'a' * 64}"
    model = make_model("a", artifact={"uri": uri, "digest": digest}, serving_version=2**63 - 1)
    line = download.list_line(model, BUILT_IN)

    assert line.endswith(f" {source}\n")
    (folder, *_), read = parsers.list_line(line)
    assert (folder, read) == ("a/9223372036854775807", uri)


def test_a_store_of_its_own_is_in_the_list():
    assert fields(make_model("a"))["store"] == "-"
    assert (
        fields(make_model("a", artifact={"uri": "s3://bucket/a", "store": "team-a"}))["store"]
        == "team-a"
    )


@pytest.mark.parametrize(
    ("serving", "update"),
    [({}, "in_place"), ({"update": "in_place"}, "in_place"), ({"update": "restart"}, "restart")],
    ids=["default", "in place", "restart"],
)
def test_the_list_says_how_a_version_is_updated(serving, update):
    assert fields(make_model("a", serving=serving))["update"] == update


def test_the_identity_is_the_digest_of_the_files_if_there_is_one():
    digest = f"sha256:{'a' * 64}"
    model = make_model("a", artifact={"uri": "gs://example-bucket/a", "digest": digest})

    assert fields(model)["identity"] == digest


@pytest.mark.parametrize(
    "change",
    [{"version": "2"}, {"artifact": {"uri": "gs://example-bucket/models/a/other"}}],
    ids=["version", "uri"],
)
def test_without_a_digest_the_identity_changes_with_version_and_uri(change):
    # The same folder, so that only the identity tells model_download of other files.
    before, after = make_model("a", serving_version=5), make_model("a", serving_version=5, **change)

    assert re.fullmatch("[0-9a-f]{16}", fields(before)["identity"])
    assert fields(before)["identity"] != fields(after)["identity"]
    assert fields(before)["identity"] == fields(make_model("a", name="other"))["identity"]


@pytest.mark.parametrize("path", ["a ", "a\tb", "a\nb", "a$b", "a;b", "a'b", "a\\b"])
def test_a_uri_that_a_shell_would_split_is_refused_even_if_it_got_past_its_rule(path):
    artifact = Artifact.model_construct(uri=f"gs://bucket/{path}")

    with pytest.raises(UnsafeText):
        download.list_line(make_model("a").model_copy(update={"artifact": artifact}), BUILT_IN)


def test_the_script_runs_in_any_posix_shell():
    assert download.script(BUILT_IN).startswith("#!/bin/sh\n")
    assert "[[" not in download.script(BUILT_IN)


@pytest.mark.parametrize(
    ("platform", "serving", "fields"),
    [
        ("tensorflow", {"engine_name": "Llama7b"}, "a/1 tensorflow Llama7b in_place 120"),
        ("openvino", {"start_period": "1h"}, "a/1 openvino a in_place 3600"),
        ("triton", {"engine_name": "b-1.0", "update": "restart"}, "a triton b-1.0 restart 120"),
        ("triton", {"repository": {"models": ["x", "Y"]}}, "a triton-repository x,Y restart 120"),
    ],
)
def test_a_line_has_the_names_in_the_engine_and_the_time_to_load(platform, serving, fields):
    model = make_model("a", platform=platform, serving=serving)
    line = download.list_line(model, BUILT_IN)

    assert line.startswith(f"{fields} ")
    assert " ".join(parsers.list_line(line)[0][:5]) == fields
