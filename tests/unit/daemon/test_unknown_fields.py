"""Fields that no schema knows: refused inside `serving`, reported elsewhere, except for x-."""

from typing import Any

import pytest

from daemon.changes import interpret, received, received_composition, validate_data
from daemon.unknown_fields import unknown_fields
from events.errors import InvalidEvent
from events.model import (
    BUNDLE_STATE_CREATED,
    MODEL_VERSION_CREATED,
    MODEL_VERSION_UPDATED,
    ROLLBACK_REQUESTED,
    Event,
)
from events.strict_json import MAX_PROBLEMS
from tests.builders import golden_document, model_document


def event(kind: str, data: dict[str, Any]) -> Event:
    return Event("event-1", "https://registry.example.com/", kind, data)


def state_with(**serving: Any) -> dict[str, Any]:
    data = golden_document() | {"state": {"id": "state-1", "revision": 1}}
    data["models"][0]["serving"] |= serving
    return data


def refused(data: dict[str, Any], kind: str = BUNDLE_STATE_CREATED) -> dict[str, str]:
    with pytest.raises(InvalidEvent) as caught:
        received(event(kind, data))
    return {problem.path: problem.expected for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("serving", "path", "nearest"),
    [
        ({"resource": {}}, ".resource", "resources"),
        ({"gpus": 1}, ".gpus", "gpu"),
        ({"resources": {"limit": {"memory": "4g"}}}, ".resources.limit", "limits"),
        ({"resources": {"limits": {"mem": "4g"}}}, ".resources.limits.mem", "memory"),
        ({"resources": {"reservations": {"cpu": 2}}}, ".resources.reservations.cpu", "cpus"),
        ({"gpu": {"count": 1, "device_id": "0"}}, ".gpu.device_id", "device_ids"),
        ({"batching": {"parameter": {}}}, ".batching.parameter", "parameters"),
        (
            {"batching": {"parameters": {"max_batch": 3}}},
            ".batching.parameters.max_batch",
            "max_batch_size",
        ),
    ],
)
def test_an_unknown_field_at_any_level_of_serving_is_refused_with_the_nearest_one(
    serving: dict[str, Any], path: str, nearest: str
) -> None:
    data = state_with(**serving)
    model = {"id": "101", "version": "2", "serving": data["models"][0]["serving"]}

    for kind, below, sent in (
        (BUNDLE_STATE_CREATED, "models[0]", data),
        (MODEL_VERSION_CREATED, "model", {"model": model}),
        (MODEL_VERSION_UPDATED, "model", {"model": model}),
    ):
        problems = refused(sent, kind)
        assert list(problems) == [f"$.data.{below}.serving{path}"]
        (message,) = problems.values()
        assert f"did you mean {nearest}?" in message


def test_a_field_that_resembles_none_is_refused_with_all_that_are_known() -> None:
    (message,) = refused(state_with(resources={"limits": {"qqqq": 1}})).values()
    assert "known are cpus, memory" in message


def test_the_text_of_an_unknown_field_is_escaped_and_cut_short() -> None:
    (path,) = refused(state_with(**{"\x1b[2J" + "a" * 500: 1}))
    assert path.isprintable()
    assert len(path) < 200


def test_a_field_of_the_producers_own_is_neither_refused_nor_reported() -> None:
    data = state_with(
        **{"x-team": "vision"},
        resources={"x-why": 1, "limits": {"x-why": 1}},
        batching={"x-why": 1, "parameters": {"x-why": 1}},
    )
    data["x-run"] = data["models"][0]["x-run"] = "17"
    assert received(event(BUNDLE_STATE_CREATED, data)).ignored_fields == ()


def test_unknown_fields_outside_serving_are_reported_with_their_paths() -> None:
    data = state_with()
    data["owner"] = data["state"]["by"] = data["bundle"]["tenant"] = "ann"
    data["models"][1]["replicas"] = data["models"][1]["artifact"]["size"] = 2
    data["proxy"]["ports"] = data["proxy"]["signature"]["version"] = 1
    data["proxy"]["signature"]["document"]["anything"] = {"inputs": 1}

    assert received(event(BUNDLE_STATE_CREATED, data)).ignored_fields == (
        "$.data.bundle.tenant",
        "$.data.models[1].artifact.size",
        "$.data.models[1].replicas",
        "$.data.proxy.signature.version",
        "$.data.proxy.ports",
        "$.data.state.by",
        "$.data.owner",
    )


def test_unknown_fields_of_a_model_event_and_of_a_rollback_request_are_reported() -> None:
    model = {
        "model": model_document() | {"stage": "Production"},
        "bundles": [{"name": "a", "target": "t", "zone": 1}],
        "tag": {},
    }
    rollback = {
        "bundle": {"name": "a", "target": "t"},
        "to": {"state_id": "state-1", "state": "state-1"},
        "reasons": "",
    }
    assert set(received(event(MODEL_VERSION_CREATED, model)).ignored_fields) == {
        "$.data.model.stage",
        "$.data.bundles[0].zone",
        "$.data.tag",
    }
    assert received(event(ROLLBACK_REQUESTED, rollback)).ignored_fields == (
        "$.data.to.state",
        "$.data.reasons",
    )


def test_unknown_fields_are_refused_together_with_other_problems() -> None:
    data = state_with(gpus=1)
    data["models"][0]["id"] = "A"
    assert set(refused(data)) == {"$.data.models[0].id", "$.data.models[0].serving.gpus"}


def test_what_a_source_holds_already_is_read_with_its_unknown_fields() -> None:
    data = state_with(gpus=1, batching={"parameters": {"max_batch": 3}})
    assert interpret(event(BUNDLE_STATE_CREATED, data)).digest


def test_the_data_of_a_broken_envelope_is_validated_as_new() -> None:
    (problem,) = validate_data(BUNDLE_STATE_CREATED, state_with(gpus=1))
    assert problem.path == "$.data.models[0].serving.gpus"


def test_a_composition_alone_is_received_by_the_same_rules() -> None:
    with pytest.raises(InvalidEvent):
        received_composition(state_with(gpus=1))
    composition, ignored = received_composition(state_with() | {"owner": "ann"})
    assert composition.model_ids == {"101", "102", "103"}
    assert ignored == ("$.data.owner",)


def test_only_so_many_unknown_fields_are_reported() -> None:
    many = {f"field-{number}": number for number in range(MAX_PROBLEMS + 1)}
    found = unknown_fields(BUNDLE_STATE_CREATED, state_with(**many) | many)
    assert (len(found.refused), len(found.ignored)) == (MAX_PROBLEMS, MAX_PROBLEMS)


@pytest.mark.parametrize(
    "data",
    [
        {"models": None},
        {"models": "text"},
        {"models": [None, 3]},
        {"models": [{"serving": []}]},
        {"model": [{}]},
        {"model": None},
    ],
    ids=["null", "text", "members", "serving", "list", "no model"],
)
@pytest.mark.parametrize("kind", [BUNDLE_STATE_CREATED, MODEL_VERSION_CREATED])
def test_data_of_another_form_has_no_unknown_field_in_serving(
    kind: str, data: dict[str, Any]
) -> None:
    assert unknown_fields(kind, data).refused == ()
