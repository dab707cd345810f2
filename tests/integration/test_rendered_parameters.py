"""The serving engine's parameter files, through protobuf's text parser into messages with the
engine's fields.

The engine's wheel does not have these two messages, and its image is not available here. So the
messages are built from the fields that the engine declares (session_bundle_config.proto and
monitoring_config.proto of TensorFlow Serving), in a separate pool. The parser refuses what the
engine refuses: an unknown field, a number instead of a wrapped one, a placeholder.
"""

from typing import Any

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from hypothesis import given
from hypothesis import strategies as st

from renderers.bundle import MONITORING_PATH, Renderer
from renderers.composition import Composition
from tests import strategies
from tests.builders import GOLDEN_DEFAULTS, STAMP, make_composition, make_model

Field = descriptor_pb2.FieldDescriptorProto
INT64 = ".google.protobuf.Int64Value"
STRING = ".google.protobuf.StringValue"
BOOL = ".google.protobuf.BoolValue"
MESSAGES: dict[str, dict[str, tuple[int, int, str]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, Field.TYPE_MESSAGE, INT64),
        "batch_timeout_micros": (2, Field.TYPE_MESSAGE, INT64),
        "max_enqueued_batches": (3, Field.TYPE_MESSAGE, INT64),
        "num_batch_threads": (4, Field.TYPE_MESSAGE, INT64),
        "thread_pool_name": (5, Field.TYPE_MESSAGE, STRING),
        "allowed_batch_sizes": (6, Field.TYPE_INT64, "repeated"),
        "pad_variable_length_inputs": (7, Field.TYPE_BOOL, ""),
        "enable_large_batch_splitting": (8, Field.TYPE_MESSAGE, BOOL),
        "max_execution_batch_size": (9, Field.TYPE_MESSAGE, INT64),
    },
    "PrometheusConfig": {"enable": (1, Field.TYPE_BOOL, ""), "path": (2, Field.TYPE_STRING, "")},
    "MonitoringConfig": {
        "prometheus_config": (1, Field.TYPE_MESSAGE, ".tensorflow.serving.PrometheusConfig")
    },
}


def _engine_messages() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="engine.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, detail) in fields.items():
            message.field.add(
                name=field,
                number=number,
                type=kind,
                label=Field.LABEL_REPEATED if detail == "repeated" else Field.LABEL_OPTIONAL,
                type_name=detail if kind == Field.TYPE_MESSAGE else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _engine_messages()
ON_PATH, PLACEHOLDER_PATH = "base/bundle/batching_{}.txt", "example/conf/bundle/batching_{}.txt"


def parsed(message: str, text: str) -> dict[str, Any]:
    """The fields that are set. Raises ParseError."""
    kind = message_factory.GetMessageClass(
        POOL.FindMessageTypeByName(f"tensorflow.serving.{message}")
    )
    result = text_format.Parse(text, kind())
    return {field.name: _plain(value) for field, value in result.ListFields()}


def _plain(value: Any) -> Any:
    if hasattr(value, "ListFields"):
        fields = {field.name: _plain(inner) for field, inner in value.ListFields()}
        # A wrapped zero or false is a wrapper with nothing set in it.
        unset = {"Int64Value": 0, "BoolValue": False, "StringValue": ""}
        name = value.DESCRIPTOR.name
        return fields.get("value", unset[name]) if name in unset else fields
    return list(value) if hasattr(value, "extend") else value


def files(composition: Composition) -> dict[str, str]:
    rendered = Renderer().render(composition, GOLDEN_DEFAULTS, STAMP)
    return {file.path: file.body.decode() for file in rendered}


def expected(composition: Composition, model_id: str) -> dict[str, Any]:
    """The batching parameters of the composition. proto3 does not distinguish a plain false from an
    absent one.
    """
    model = composition.model(model_id)
    assert model is not None
    assert model.serving.batching is not None
    fields = model.serving.batching.parameters.model_dump(mode="json", exclude_none=True)
    return set_in_proto3(fields)


def set_in_proto3(fields: dict[str, Any]) -> dict[str, Any]:
    unset = {"pad_variable_length_inputs": False}
    return {name: value for name, value in fields.items() if unset.get(name) is not value}


def batching_is_on(composition: Composition, model_id: str) -> bool:
    model = composition.model(model_id)
    assert model is not None
    return model.serving.batching is not None and model.serving.batching.enabled


@given(composition=strategies.compositions(max_models=8))
def test_batching_files_give_the_engine_the_values_of_the_composition(
    composition: Composition,
) -> None:
    found = files(composition)

    for model in composition.models:
        if batching_is_on(composition, model.id):
            text = found[ON_PATH.format(model.id)]
            assert parsed("BatchingParameters", text) == expected(composition, model.id)
            assert PLACEHOLDER_PATH.format(model.id) not in found
        elif model.serving.platform == "tensorflow":
            assert parsed("BatchingParameters", found[PLACEHOLDER_PATH.format(model.id)])
            assert ON_PATH.format(model.id) not in found


LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_batch_size": 1},
        {"max_batch_size": LARGEST, "num_batch_threads": LARGEST, "max_enqueued_batches": LARGEST},
        {"batch_timeout_micros": 0},
        {"batch_timeout_micros": LARGEST},
        {"allowed_batch_sizes": [1, 1000]},
        {"max_batch_size": 1, "allowed_batch_sizes": [1]},
        {"max_batch_size": 64, "allowed_batch_sizes": list(range(1, 65))},
        {"pad_variable_length_inputs": True},
        {"pad_variable_length_inputs": False},
        {"thread_pool_name": "a" * 64},
        {"thread_pool_name": "on"},
        {"enable_large_batch_splitting": False, "max_execution_batch_size": LARGEST},
        {
            "max_batch_size": 64,
            "max_execution_batch_size": 16,
            "enable_large_batch_splitting": True,
            "num_batch_threads": 4,
        },
    ],
    ids=str,
)
def test_batching_at_the_limits_of_each_field_round_trips(parameters: dict[str, Any]) -> None:
    composition = make_composition(1).with_model(
        make_model("b", serving={"batching": {"parameters": parameters}})
    )

    found = parsed("BatchingParameters", files(composition)[ON_PATH.format("b")])

    assert found == set_in_proto3(parameters)


@given(model_id=st.one_of(st.just("a" * 61), strategies.slugs))
def test_the_operators_file_parses_unedited(model_id: str) -> None:
    composition = make_composition(1).with_model(make_model(model_id))

    found = parsed("BatchingParameters", files(composition)[PLACEHOLDER_PATH.format(model_id)])

    assert set(found) == {
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
    }
    assert all(value > 0 for value in found.values())


def test_the_monitoring_file_switches_metrics_on_at_the_path_that_the_readme_names() -> None:
    found = files(make_composition(1))

    metrics = parsed("MonitoringConfig", found[MONITORING_PATH])["prometheus_config"]

    assert metrics == {"enable": True, "path": "/monitoring/prometheus/metrics"}
    assert f":8501{metrics['path']}" in found["README.md"]


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 32",
        "max_batch_size { value: <int_val> }",
        "max_batch { value: 32 }",
        "max_batch_size { value: 32 } max_batch_size { value: 33 }",
        "allowed_batch_sizes: 9223372036854775808",
        "pad_variable_length_inputs: yes",
    ],
)
def test_the_test_parser_refuses_what_the_engine_refuses(text: str) -> None:
    with pytest.raises(text_format.ParseError):
        parsed("BatchingParameters", text)
