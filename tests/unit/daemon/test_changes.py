"""Interpreting an event: its scopes, its digest, and the problems of envelope, data and composition
together.
"""

import copy
import json
from typing import Any

import pytest

from daemon.changes import (
    ModelVersionChanged,
    RollbackRequested,
    StateCreated,
    composition_of,
    interpret,
    validate_data,
)
from events.errors import InvalidEvent
from events.model import (
    BUNDLE_STATE_CREATED,
    MODEL_VERSION_CREATED,
    MODEL_VERSION_UPDATED,
    ROLLBACK_REQUESTED,
    Event,
)
from renderers.composition import ModelChange
from renderers.limits import BundleLimits
from renderers.values import Scope, canonical_digest
from tests.builders import golden_composition, golden_document, model_document


def event(kind: str, data: dict[str, Any]) -> Event:
    return Event("event-1", "https://registry.example.com/", kind, data)


def state_data(**fields: Any) -> dict[str, Any]:
    return golden_document() | {"state": {"id": "state-1", "revision": 1}} | fields


def rollback_data(**fields: Any) -> dict[str, Any]:
    return {
        "bundle": {"name": "visual-anomaly", "target": "core-versions"},
        "to": {"state_id": "state-1"},
    } | fields


def problems(kind: str, data: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidEvent) as caught:
        interpret(event(kind, data))
    return [problem.path for problem in caught.value.problems]


def test_a_state_event_is_a_composition_with_the_producers_id_and_number() -> None:
    change = interpret(event(BUNDLE_STATE_CREATED, state_data()))
    assert isinstance(change, StateCreated)
    assert (change.composition, change.state, change.revision) == (
        golden_composition(),
        "state-1",
        1,
    )
    assert change.scopes == ("visual-anomaly/core-versions",)


@pytest.mark.parametrize("parent", [{}, {"parent": "state-0"}])
def test_the_digest_of_a_state_event_covers_its_canonical_type_and_known_data(
    parent: dict[str, str],
) -> None:
    state = {"id": "state-1", "revision": 1} | parent
    change = interpret(event(BUNDLE_STATE_CREATED, state_data(state=state)))
    known = json.loads(golden_composition().canonical) | {"state": state}
    assert change.digest == canonical_digest([BUNDLE_STATE_CREATED, known])


def test_unknown_fields_enter_no_digest_and_known_ones_do() -> None:
    plain = interpret(event(BUNDLE_STATE_CREATED, state_data()))
    extended = interpret(event(BUNDLE_STATE_CREATED, state_data(novelty={"x": 1})))
    renumbered = interpret(
        event(BUNDLE_STATE_CREATED, state_data(state={"id": "state-1", "revision": 2}))
    )
    assert plain.digest == extended.digest
    assert plain.digest != renumbered.digest


def test_problems_of_envelope_data_and_composition_are_reported_together() -> None:
    data = state_data(state={"id": "derived-1", "revision": 0})
    data["models"][1]["artifact"]["uri"] = "http://example.com/x"
    data["proxy"]["image"] = "$(id)"
    assert sorted(problems(BUNDLE_STATE_CREATED, data)) == [
        "$.data.models[1].artifact.uri",
        "$.data.proxy.image",
        "$.data.state.id",
        "$.data.state.revision",
    ]


def test_a_place_that_both_schemas_refuse_is_reported_once() -> None:
    data = state_data()
    del data["bundle"]
    assert problems(BUNDLE_STATE_CREATED, data) == ["$.data.bundle"]


def test_a_signature_by_uri_is_refused_by_name() -> None:
    data = state_data()
    data["proxy"]["signature"] = {"uri": "s3://example-bucket/signature"}
    with pytest.raises(InvalidEvent, match="uri is not supported in v1"):
        interpret(event(BUNDLE_STATE_CREATED, data))


@pytest.mark.parametrize(
    ("kind", "back"), [(MODEL_VERSION_CREATED, False), (MODEL_VERSION_UPDATED, True)]
)
def test_only_an_updated_model_may_move_back(kind: str, back: bool) -> None:
    change = interpret(event(kind, {"model": model_document()}))
    assert isinstance(change, ModelVersionChanged)
    assert (change.may_move_back, change.deleted) == (back, False)
    assert change.model == ModelChange.model_validate(model_document())


def test_a_model_event_without_bundles_goes_to_every_scope_with_the_model() -> None:
    change = interpret(event(MODEL_VERSION_CREATED, {"model": model_document()}))
    assert change.scopes is None


def test_a_model_event_goes_to_each_bundle_it_names_once() -> None:
    one, other = {"name": "b", "target": "t"}, {"name": "a", "target": "t"}
    change = interpret(
        event(MODEL_VERSION_CREATED, {"model": model_document(), "bundles": [one, other, one]})
    )
    assert isinstance(change, ModelVersionChanged)
    assert change.named == (Scope("a", "t"), Scope("b", "t"))
    assert change.scopes == ("a/t", "b/t")


def test_each_malformed_bundle_of_a_model_event_is_reported_at_its_place() -> None:
    bundles = [{"name": "a", "target": "t"}, {"name": "A", "target": "t"}, {"name": "a"}]
    data = {"model": model_document(), "bundles": bundles}
    assert sorted(problems(MODEL_VERSION_CREATED, data)) == [
        "$.data.bundles[1].name",
        "$.data.bundles[2].target",
    ]


@pytest.mark.parametrize("bundles", ["a/t", [], {}])
def test_bundles_that_are_not_a_filled_list_are_refused(bundles: Any) -> None:
    assert problems(MODEL_VERSION_CREATED, {"model": model_document(), "bundles": bundles}) == [
        "$.data.bundles"
    ]


def test_a_model_event_reports_the_problems_of_its_model() -> None:
    assert problems(MODEL_VERSION_CREATED, {"model": {"id": "A", "version": 1}}) == [
        "$.data.model.id",
        "$.data.model.version",
    ]
    assert problems(MODEL_VERSION_CREATED, {}) == ["$.data.model"]


def test_a_deleted_model_is_marked_as_deleted() -> None:
    change = interpret(
        event(MODEL_VERSION_UPDATED, {"model": model_document(), "change": "deleted"})
    )
    assert isinstance(change, ModelVersionChanged)
    assert change.deleted


def test_the_digest_of_a_model_event_follows_its_known_fields_alone() -> None:
    data: dict[str, Any] = {"model": model_document(), "tags": {"a": "b"}}
    digest = interpret(event(MODEL_VERSION_CREATED, data)).digest
    unknown = copy.deepcopy(data) | {"novelty": 1}
    unknown["model"]["novelty"] = 1
    assert interpret(event(MODEL_VERSION_CREATED, unknown)).digest == digest
    assert interpret(event(MODEL_VERSION_UPDATED, data)).digest != digest
    assert interpret(event(MODEL_VERSION_CREATED, data | {"tags": {"a": "c"}})).digest != digest


def test_the_digest_of_a_model_event_covers_its_type_and_known_fields() -> None:
    data = {"model": model_document(), "tags": {"a": "b"}}
    change = interpret(event(MODEL_VERSION_CREATED, data | {"novelty": 1}))
    assert change.digest == canonical_digest([MODEL_VERSION_CREATED, data])


def test_the_digest_of_a_rollback_request_covers_its_type_and_known_fields() -> None:
    change = interpret(event(ROLLBACK_REQUESTED, rollback_data(reason="too slow", novelty=1)))
    assert change.digest == canonical_digest(
        [ROLLBACK_REQUESTED, rollback_data(reason="too slow", hold=True)]
    )


def test_a_state_above_limits_is_refused_with_every_part_that_exceeds_one() -> None:
    models = len(golden_document()["models"])
    with pytest.raises(InvalidEvent) as caught:
        interpret(
            event(BUNDLE_STATE_CREATED, state_data()), BundleLimits(models=1, signature_bytes=1)
        )
    assert [str(problem).partition(";")[0] for problem in caught.value.problems] == [
        f"$.data.models: the bundle has {models} models",
        (
            f"$.data.proxy.signature: the bundle has {len(golden_composition().proxy.signature.canonical)} "
            "bytes in its proxy's signature"
        ),
    ]
    assert interpret(event(BUNDLE_STATE_CREATED, state_data()), BundleLimits())


def test_a_rollback_request_names_its_scope_its_target_and_what_must_be_live() -> None:
    data = rollback_data(expected_state_id="state-2", reason="too slow", requested_by="ann")
    change = interpret(event(ROLLBACK_REQUESTED, data))
    assert isinstance(change, RollbackRequested)
    assert (change.scope, change.scopes) == (
        Scope("visual-anomaly", "core-versions"),
        ("visual-anomaly/core-versions",),
    )
    assert (change.to_state, change.expected_state) == ("state-1", "state-2")
    assert (change.reason, change.requested_by) == ("too slow", "ann")


def test_a_rollback_request_without_a_reason_has_an_empty_one() -> None:
    change = interpret(event(ROLLBACK_REQUESTED, rollback_data()))
    assert isinstance(change, RollbackRequested)
    assert (change.reason, change.requested_by, change.expected_state) == ("", None, None)


def test_a_rollback_request_that_would_not_hold_is_refused() -> None:
    assert problems(ROLLBACK_REQUESTED, rollback_data(hold=False)) == ["$.data.hold"]


def test_a_rollback_request_of_a_malformed_bundle_is_refused() -> None:
    bundle = {"name": "Visual", "target": "core-versions"}
    assert problems(ROLLBACK_REQUESTED, rollback_data(bundle=bundle)) == ["$.data.bundle.name"]


def test_an_unknown_type_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        InvalidEvent,
        match=r"^\$\.type: one of io\.rebundle\.bundle\.rollback_requested\.v1, .*found other",
    ):
        interpret(event("other", {}))


def test_a_composition_is_read_of_data_alone() -> None:
    assert composition_of(state_data()) == golden_composition()


def test_a_composition_that_cannot_be_read_names_every_problem() -> None:
    with pytest.raises(InvalidEvent) as caught:
        composition_of({"bundle": {"name": "a", "target": "T"}, "models": []})
    assert [problem.path for problem in caught.value.problems] == [
        "$.data.bundle.target",
        "$.data.models",
        "$.data.proxy",
    ]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(["a list"], {}, id="a type that is no text"),
        pytest.param(None, {}, id="no type"),
        pytest.param("io.example.other", {}, id="an unknown type"),
        pytest.param(BUNDLE_STATE_CREATED, None, id="no data"),
        pytest.param(BUNDLE_STATE_CREATED, ["a list"], id="data that is no object"),
        pytest.param(BUNDLE_STATE_CREATED, state_data(), id="nothing is wrong with it"),
    ],
)
def test_unverifiable_data_of_a_broken_envelope_adds_no_problem(kind: object, data: object) -> None:
    assert validate_data(kind, data) == ()


def test_data_of_a_broken_envelope_is_validated_like_any_other() -> None:
    problems = validate_data(
        BUNDLE_STATE_CREATED, state_data(state={"id": "state-1", "revision": 0})
    )

    assert [problem.path for problem in problems] == ["$.data.state.revision"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_batch_size": 8, "allowed_batch_sizes": [4, 2, 8]},
        {"max_batch_size": 8, "allowed_batch_sizes": [8, 8]},
        {"max_batch_size": 8, "allowed_batch_sizes": [4]},
        {"allowed_batch_sizes": [8]},
    ],
)
def test_batch_sizes_that_the_engine_would_refuse_to_start_with_are_refused(
    parameters: dict[str, Any],
) -> None:
    data = state_data()
    place = next(
        i for i, model in enumerate(data["models"]) if model["serving"]["platform"] == "tensorflow"
    )
    data["models"][place]["serving"]["batching"] = {"parameters": parameters}
    change = {"model": {"id": "a", "version": "2", "serving": data["models"][place]["serving"]}}

    assert problems(BUNDLE_STATE_CREATED, data) == [
        f"$.data.models[{place}].serving.batching.parameters"
    ]
    assert problems(MODEL_VERSION_CREATED, change) == ["$.data.model.serving.batching.parameters"]
    with pytest.raises(InvalidEvent, match=r"must rise, and end with max_batch_size \((8|1000)\)"):
        composition_of(data)


def test_every_model_that_its_engine_would_refuse_is_reported() -> None:
    data = state_data()
    places = [
        i for i, model in enumerate(data["models"]) if model["serving"]["platform"] == "tensorflow"
    ][:2]
    for place in places:
        data["models"][place]["serving"]["batching"] = {"parameters": {"allowed_batch_sizes": [8]}}

    assert problems(BUNDLE_STATE_CREATED, data) == [
        f"$.data.models[{place}].serving.batching.parameters" for place in places
    ]
    assert len(places) == 2


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"enable_large_batch_splitting": True}, "needs max_execution_batch_size or"),
        (
            {"enable_large_batch_splitting": True, "max_execution_batch_size": 1001},
            r"\(1001\) must be at most max_batch_size \(1000\)",
        ),
        (
            {
                "enable_large_batch_splitting": True,
                "max_batch_size": 64,
                "max_execution_batch_size": 65,
            },
            r"\(65\) must be at most max_batch_size \(64\)",
        ),
        (
            {
                "enable_large_batch_splitting": True,
                "max_batch_size": 64,
                "max_execution_batch_size": 16,
                "allowed_batch_sizes": [8, 64],
            },
            "must end with max_execution_batch_size as well",
        ),
        (
            {
                "enable_large_batch_splitting": True,
                "max_batch_size": 64,
                "max_execution_batch_size": 16,
                "allowed_batch_sizes": [8, 16],
            },
            r"end with max_batch_size \(64\)",
        ),
        ({"thread_pool_name": 'a" }'}, "hold only letters, digits"),
    ],
)
def test_splitting_that_the_engine_would_refuse_to_start_with_is_refused(
    parameters: dict[str, Any], fault: str
) -> None:
    data = state_data()
    data["models"][0]["serving"]["batching"] = {"parameters": parameters}
    with pytest.raises(InvalidEvent, match=fault):
        interpret(event(BUNDLE_STATE_CREATED, data))


@pytest.mark.parametrize(
    "parameters",
    [
        # A request above the size of an executed batch is split.
        {
            "max_batch_size": 64,
            "max_execution_batch_size": 16,
            "enable_large_batch_splitting": True,
            "num_batch_threads": 4,
        },
        {"max_batch_size": 64, "enable_large_batch_splitting": True},
        {"max_execution_batch_size": 1000, "enable_large_batch_splitting": True},
        {
            "max_batch_size": 64,
            "max_execution_batch_size": 64,
            "allowed_batch_sizes": [8, 64],
            "enable_large_batch_splitting": True,
        },
        # Without splitting the engine does not read it.
        {"max_batch_size": 8, "max_execution_batch_size": 16, "allowed_batch_sizes": [8]},
    ],
)
def test_splitting_that_the_engine_accepts_is_accepted(parameters: dict[str, Any]) -> None:
    data = state_data()
    data["models"][0]["serving"]["batching"] = {"parameters": parameters}
    assert interpret(event(BUNDLE_STATE_CREATED, data))
