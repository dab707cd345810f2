"""Schemas of the event types: every problem has its path and a short, plain message."""

import json
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from events import schemas
from events.model import (
    BUNDLE_STATE_CREATED,
    MODEL_VERSION_CREATED,
    ROLLBACK_REQUESTED,
)
from events.strict_json import MAX_PROBLEMS

SCHEMAS = {
    BUNDLE_STATE_CREATED: schemas.BundleState,
    MODEL_VERSION_CREATED: schemas.ModelVersion,
    ROLLBACK_REQUESTED: schemas.RollbackRequest,
}
BUNDLE = {"name": "visual-anomaly", "target": "edge"}
VALID = {
    BUNDLE_STATE_CREATED: {
        "bundle": BUNDLE,
        "state": {"id": "state-0042", "revision": 42, "parent": "state-0041"},
        "models": [{"id": "anomaly-detector"}],
        "proxy": {"image": "registry.example.com/model-proxy:1.4.0"},
    },
    MODEL_VERSION_CREATED: {
        "model": {"id": "surface-classifier", "version": "2"},
        "bundles": [BUNDLE],
        "tags": {"serving.platform": "triton"},
        "aliases": ["champion"],
        "change": "alias",
    },
    ROLLBACK_REQUESTED: {
        "bundle": BUNDLE,
        "to": {"state_id": "derived-42.1-0123456789ab"},
        "expected_state_id": "state-0042",
        "reason": "score drift after 42",
        "requested_by": "oncall@example.com",
        "hold": True,
    },
}


def problems(schema, data, root="$.data"):
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(data)
    found = schemas.problems_of(caught.value, root, data)
    assert len({problem.path for problem in found}) == len(found)
    return {problem.path: problem.expected for problem in found}


def changed(event_type, path, value):
    data = json.loads(json.dumps(VALID[event_type]))
    *above, last = path.split(".")
    place = data
    for key in above:
        place = place[key]
    place[last] = value
    return data


@pytest.mark.parametrize("event_type", VALID)
def test_a_full_event_is_read_and_unknown_fields_are_ignored(event_type):
    schema = SCHEMAS[event_type]
    assert schema.model_validate(VALID[event_type] | {"later": {"x": 1}}) == schema.model_validate(
        VALID[event_type]
    )


def test_optional_fields_may_be_absent():
    version = schemas.ModelVersion.model_validate({"model": {}})
    assert (version.bundles, version.tags, version.aliases, version.change) == (
        None,
        None,
        None,
        None,
    )
    request = schemas.RollbackRequest.model_validate({"bundle": BUNDLE, "to": {"state_id": "s"}})
    assert (request.expected_state_id, request.reason, request.requested_by, request.hold) == (
        None,
        None,
        None,
        True,
    )


@pytest.mark.parametrize(
    ("event_type", "path", "value", "expected"),
    [
        (BUNDLE_STATE_CREATED, "state.id", "-x", "must start with a letter or digit"),
        (BUNDLE_STATE_CREATED, "state.id", "a\n", "must start with a letter or digit"),
        (BUNDLE_STATE_CREATED, "state.id", "a/b", "must start with a letter or digit"),
        (BUNDLE_STATE_CREATED, "state.id", "x" * 129, "must start with a letter or digit"),
        (BUNDLE_STATE_CREATED, "state.id", "\u00e4", "must start with a letter or digit"),
        (BUNDLE_STATE_CREATED, "state.id", "derived-1", "must not start with 'derived-'"),
        (BUNDLE_STATE_CREATED, "state.id", 7, "must be text"),
        (BUNDLE_STATE_CREATED, "state.revision", 0, "must be at least 1"),
        (BUNDLE_STATE_CREATED, "state.revision", 2**53, "must be at most 9007199254740991"),
        (BUNDLE_STATE_CREATED, "state.revision", "42", "must be a whole number"),
        (BUNDLE_STATE_CREATED, "state.revision", 42.0, "must be a whole number"),
        (BUNDLE_STATE_CREATED, "state.revision", True, "must be a whole number"),
        (BUNDLE_STATE_CREATED, "state.parent", "a b", "must start with a letter or digit"),
        (BUNDLE_STATE_CREATED, "bundle.name", "", "must have at least 1 character"),
        (BUNDLE_STATE_CREATED, "bundle.target", "x" * 257, "must have at most 256 characters"),
        (BUNDLE_STATE_CREATED, "bundle", None, "must be an object"),
        (BUNDLE_STATE_CREATED, "models", {}, "must be a list"),
        (BUNDLE_STATE_CREATED, "proxy", [], "must be an object"),
        (MODEL_VERSION_CREATED, "model", "x", "must be an object"),
        (MODEL_VERSION_CREATED, "bundles", [], "must have at least 1 entries"),
        (MODEL_VERSION_CREATED, "bundles", [BUNDLE] * 1001, "must have at most 1000 entries"),
        (MODEL_VERSION_CREATED, "bundles", BUNDLE, "must be a list"),
        (
            MODEL_VERSION_CREATED,
            "change",
            "renamed",
            "must be 'tag', 'alias', 'stage' or 'deleted'",
        ),
        (MODEL_VERSION_CREATED, "aliases", "x", "must be a list"),
        (ROLLBACK_REQUESTED, "to.state_id", "", "must start with a letter or digit"),
        (ROLLBACK_REQUESTED, "expected_state_id", ".x", "must start with a letter or digit"),
        (ROLLBACK_REQUESTED, "reason", "x" * 2001, "must have at most 2000 characters"),
        (ROLLBACK_REQUESTED, "reason", "a\x1b[31m", "must be one line of printable characters"),
        (ROLLBACK_REQUESTED, "requested_by", "x" * 257, "must have at most 256 characters"),
        (
            ROLLBACK_REQUESTED,
            "requested_by",
            "a\u202eb",
            "must be one line of printable characters",
        ),
        (ROLLBACK_REQUESTED, "hold", False, "hold: false is not supported in v1"),
        (ROLLBACK_REQUESTED, "hold", "yes", "must be true or false"),
    ],
)
def test_a_broken_field_is_named_and_nothing_else_is(event_type, path, value, expected):
    found = problems(SCHEMAS[event_type], changed(event_type, path, value))
    assert list(found) == [f"$.data.{path}"]
    assert found[f"$.data.{path}"].startswith(expected)


def test_the_longest_and_largest_values_are_accepted():
    for path, value in {
        "state.id": "x" * 128,
        "state.revision": 2**53 - 1,
        "bundle.name": "x" * 256,
    }.items():
        schemas.BundleState.model_validate(changed(BUNDLE_STATE_CREATED, path, value))
    schemas.RollbackRequest.model_validate(changed(ROLLBACK_REQUESTED, "reason", "\u00e4" * 2000))


def test_all_problems_of_an_event_are_reported_at_once_with_their_paths():
    data = {
        "bundle": {"name": 1},
        "state": {"id": "derived-x", "revision": -1},
        "models": [1, {}],
        "proxy": 0,
    }
    assert problems(schemas.BundleState, data) == {
        "$.data.bundle.name": "must be text",
        "$.data.bundle.target": "is required",
        "$.data.state.id": "must not start with 'derived-': such ids are made from model versions",
        "$.data.state.revision": "must be at least 1",
        "$.data.models[0]": "must be an object",
        "$.data.proxy": "must be an object",
    }
    version = {
        "model": {},
        "bundles": [BUNDLE, {"name": "a"}],
        "tags": {"a b": 1},
        "aliases": ["x", None],
    }
    assert list(problems(schemas.ModelVersion, version, "$")) == [
        "$.bundles[1].target",
        "$.tags['a b']",
        "$.aliases[1]",
    ]


class Inner(BaseModel):
    number: Annotated[int, Field(strict=True)]


def _made_of_name(fields):
    return fields["name"]


class Outer(BaseModel):
    """Raises pydantic errors like the renderers' models do."""

    count: Annotated[int, Field(strict=True, ge=1)] | Literal["all"] | None = None
    inners: Annotated[tuple[Inner, ...], Field(min_length=1)] = (Inner(number=1),)
    labels: dict[Annotated[str, Field(max_length=2)], str] = {}
    name: str = "x"
    made: Annotated[str, Field(default_factory=_made_of_name)]
    small: Annotated[str, Field(pattern="a")] = "a"

    @field_validator("name")
    @classmethod
    def _no_spaces(cls, name: str) -> str:
        if " " in name:
            raise ValueError("must have no space")
        return name


def test_members_of_a_union_are_one_problem_with_a_path_that_exists():
    assert problems(Outer, {"count": "some"}) == {
        "$.data.count": "must be a whole number, or must be 'all'"
    }
    assert problems(Outer, {"count": 0}) == {"$.data.count": "must be at least 1, or must be 'all'"}


def test_the_same_expectation_of_two_members_is_reported_once():
    class Either(BaseModel):
        value: dict[str, int] | Inner

    assert problems(Either, {"value": 3}) == {"$.data.value": "must be an object"}

    class Any3(BaseModel):
        value: dict[str, int] | Annotated[int, Field(strict=True)] | Inner

    with pytest.raises(ValidationError) as caught:
        Any3.model_validate({"value": "x"})
    [problem] = schemas.problems_of(caught.value, "$", {"value": "x"})
    assert (problem.expected, problem.found) == (
        "must be an object, or must be a whole number",
        "'x'",
    )


def test_a_list_with_faulty_entries_is_not_reported_as_short():
    assert problems(Outer, {"inners": [{"number": "1"}]}) == {
        "$.data.inners[0].number": "must be a whole number"
    }
    assert problems(Outer, {"inners": []}) == {"$.data.inners": "must have at least 1 entries"}


def test_a_default_that_could_not_be_built_is_not_a_separate_problem():
    assert problems(Outer, {"name": "a b"}) == {"$.data.name": "must have no space"}


def test_a_key_of_a_mapping_is_named_like_its_value():
    assert problems(Outer, {"labels": {"long": "x"}}) == {
        "$.data.labels.long": "must have at most 2 characters"
    }


def test_an_error_without_a_specific_message_is_reported_without_jargon():
    [expected] = problems(Outer, {"small": "b"}).values()
    assert expected == "String should match pattern 'a'"

    class Measured(BaseModel):
        value: float

    assert problems(Measured, {"value": []}) == {"$.data.value": "must be a valid number"}


def test_one_character_is_not_called_characters():
    data = changed(BUNDLE_STATE_CREATED, "bundle.name", "")
    assert problems(schemas.BundleState, data) == {
        "$.data.bundle.name": "must have at least 1 character"
    }


def test_the_found_value_is_short_and_harmless():
    data = changed(ROLLBACK_REQUESTED, "reason", "\x1b" + "x" * 5000)
    with pytest.raises(ValidationError) as caught:
        schemas.RollbackRequest.model_validate(data)
    [problem] = schemas.problems_of(caught.value, "$.data", data)
    assert problem.found.startswith("'\\x1bxxx")
    assert len(problem.found) < 150
    with pytest.raises(ValidationError) as caught:
        schemas.RollbackRequest.model_validate({})
    assert {problem.found for problem in schemas.problems_of(caught.value, "$", {})} == {""}


def test_the_list_of_problems_is_bounded_and_counts_the_rest():
    data = VALID[BUNDLE_STATE_CREATED] | {"models": [0] * 250}
    found = problems(schemas.BundleState, data)
    assert len(found) == MAX_PROBLEMS + 1
    assert found["$.data"] == "has 150 more problems"
    exact = problems(
        schemas.BundleState, VALID[BUNDLE_STATE_CREATED] | {"models": [0] * MAX_PROBLEMS}
    )
    assert len(exact) == MAX_PROBLEMS


def test_a_value_that_is_not_an_object_is_a_problem_of_the_root():
    assert problems(schemas.BundleState, 3) == {"$.data": "must be an object"}
