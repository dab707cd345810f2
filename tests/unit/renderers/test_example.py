"""The files of example/: variables, credentials placeholders and batching parameters."""

import json
from io import StringIO

import pytest
from dotenv import dotenv_values

from renderers import example
from renderers.compose import ResourceDefaults
from renderers.composition import Resources
from renderers.template_set import Templates
from tests.builders import make_model

BUILT_IN = Templates.built_in()


def env_of(text: str) -> dict[str, str | None]:
    return dict(dotenv_values(stream=StringIO(text), interpolate=False))


def test_a_models_variables_are_empty_and_their_comment_has_the_bundles_values():
    model = make_model("a-b", serving={"resources": {"limits": {"cpus": 2, "memory": "4g"}}})
    text = example.env_lines(model, ResourceDefaults.of(model, Resources()), BUILT_IN)

    assert (
        text.splitlines()[1]
        == "# sa-bs in the bundle: CPU_LIMIT 2, MEM_LIMIT 4g, CPU_RESERVATION 0, MEM_RESERVATION 0"
    )
    assert env_of(text) == {
        f"SERVING_a_b_{name}": ""
        for name in ("CPU_LIMIT", "MEM_LIMIT", "CPU_RESERVATION", "MEM_RESERVATION")
    }


def test_the_env_file_begins_with_the_ports():
    assert env_of(example.env_head(BUILT_IN)) == {
        "MODEL_PROXY_HTTP_PORT": "8000",
        "MODEL_PROXY_GRPC_PORT": "8005",
    }


def test_the_shipped_credentials_are_a_placeholder():
    files = example.static_files(BUILT_IN)

    assert files.keys() == {
        "example/.env",
        "example/docker-compose.yaml",
        "example/creds/bundle/.env",
        "example/creds/bundle/gcs.json",
    }
    assert "include:\n" in files["example/docker-compose.yaml"]
    assert set(env_of(files["example/creds/bundle/.env"]).values()) == {""}
    assert json.loads(files["example/creds/bundle/gcs.json"])["private_key_id"] == "uid"
    assert env_of(files["example/.env"]) == {"REL_DIR": ""}


@pytest.mark.parametrize(
    ("platform", "batching", "path"),
    [
        pytest.param("tensorflow", None, "example/conf/bundle/batching_a.txt", id="not said"),
        pytest.param(
            "tensorflow", {"enabled": False}, "example/conf/bundle/batching_a.txt", id="off"
        ),
        pytest.param("tensorflow", {}, "base/bundle/batching_a.txt", id="on"),
        pytest.param("triton", None, None, id="triton"),
        pytest.param("openvino", None, None, id="openvino"),
    ],
)
def test_the_batching_file_is_at_the_documented_path(platform, batching, path):
    model = make_model(
        "a", platform=platform, serving={} if batching is None else {"batching": batching}
    )

    assert example.batching_path(model) == path
    assert example.batching_is_on(model) == (path is not None and path.startswith("base/"))


def test_parameters_are_in_the_text_format_of_tensorflow_serving():
    parameters = {
        "max_batch_size": 64,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        "num_batch_threads": 4,
        "allowed_batch_sizes": [8, 64],
        "pad_variable_length_inputs": False,
        "thread_pool_name": "batch-threads",
        "enable_large_batch_splitting": True,
        "max_execution_batch_size": 64,
    }
    text = example.batching_text(
        make_model("a", serving={"batching": {"parameters": parameters}}), BUILT_IN
    )

    assert text.splitlines()[1:] == [
        "max_batch_size { value: 64 }",
        "batch_timeout_micros { value: 0 }",
        "max_enqueued_batches { value: 10 }",
        "num_batch_threads { value: 4 }",
        'thread_pool_name { value: "batch-threads" }',
        "enable_large_batch_splitting { value: true }",
        "max_execution_batch_size { value: 64 }",
        "allowed_batch_sizes: 8",
        "allowed_batch_sizes: 64",
        "pad_variable_length_inputs: false",
    ]


def test_omitted_parameters_are_left_to_tensorflow_serving():
    text = example.batching_text(make_model("a", serving={"batching": {}}), BUILT_IN)

    assert [line for line in text.splitlines() if not line.startswith("#")] == []


def test_the_operators_file_has_numbers_as_placeholders():
    lines = example.batching_text(make_model("a"), BUILT_IN).splitlines()

    assert lines[1] == "max_batch_size { value: 32 }"
    assert len(lines) == 5
