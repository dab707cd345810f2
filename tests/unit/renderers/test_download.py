"""The download list models.txt and the script that reads it."""

from pathlib import Path

import pytest

from renderers import download
from renderers.composition import Artifact
from renderers.errors import UnsafeText
from renderers.gate import parsers
from renderers.template_set import Templates
from tests.builders import golden_composition, make_model

BUILT_IN = Templates.built_in()

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


def test_the_golden_models_give_the_golden_list():
    lines = "".join(download.list_line(model, BUILT_IN) for model in golden_composition().models)

    assert lines == (GOLDEN / "models.txt").read_text()


def test_an_engine_that_loads_numbers_gets_the_number_of_the_version_and_triton_does_not():
    assert download.list_line(make_model("a", serving_version=5), BUILT_IN).startswith("a/5 gcs:")
    assert download.list_line(
        make_model("a", platform="openvino", serving_version=5), BUILT_IN
    ).startswith("a/5 gcs:")
    assert download.list_line(
        make_model("a", platform="triton", serving_version=5), BUILT_IN
    ).startswith("a s3:")


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
        ("file:///srv/models/a b", "local:/srv/models/a b"),
        ("https://a.example.com/b/c.tar.gz", 'http,url="https://a.example.com":b/c.tar.gz'),
        ("https://a.example.com:8443/c.tar", 'http,url="https://a.example.com:8443":c.tar'),
    ],
)
def test_an_artifact_is_listed_as_rclone_names_it_and_the_gate_reads_its_uri(uri, source):
    digest = f"sha256:{'a' * 64}"
    model = make_model("a", artifact={"uri": uri, "digest": digest}, serving_version=2**63 - 1)
    line = download.list_line(model, BUILT_IN)

    assert line == f"a/9223372036854775807 {source}\n"
    assert parsers.list_line(line) == ("a", 2**63 - 1, uri)


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
