"""Schemas of `data` for each event type, as frozen strict models, and their error messages. Pure.

The rules here are those of events: the fields, state ids, revisions and reasons. The renderers have
the rules for what can reach a rendered file (bundle names, images, URIs). The daemon applies both
to the same data and reports all problems together; `problems_of` translates both kinds of error.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import ErrorDetails

from events.errors import Problem
from events.model import (
    LARGEST_REVISION,
    MAX_REASON_LENGTH,
)
from events.strict_json import MAX_PROBLEMS, below, described

DERIVED_PREFIX: Final = "derived-"
_STATE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _state_id(text: str) -> str:
    if not _STATE_ID.fullmatch(text):
        raise ValueError(
            "must start with a letter or digit and hold only letters, digits and . _ - (128 "
            "at most)"
        )
    return text


def _explicit_state_id(text: str) -> str:
    if text.startswith(DERIVED_PREFIX):
        raise ValueError(
            f"must not start with {DERIVED_PREFIX!r}: such ids are made from model versions"
        )
    return text


def _plain_text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _hold(hold: bool) -> bool:  # noqa: FBT001  # a validator is called with the field's value
    if not hold:
        raise ValueError("hold: false is not supported in v1")
    return hold


StateId = Annotated[str, AfterValidator(_state_id)]
ExplicitStateId = Annotated[StateId, AfterValidator(_explicit_state_id)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Reason = Annotated[
    str, StringConstraints(max_length=MAX_REASON_LENGTH), AfterValidator(_plain_text)
]
_Person = Annotated[str, StringConstraints(max_length=256), AfterValidator(_plain_text)]


class _Data(BaseModel):
    """Unknown fields are ignored: v1 may gain optional ones."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)


class BundleReference(_Data):
    """A bundle and its target. Only the length is checked here; the rule is in `renderers`."""

    name: _Name
    target: _Name


class NamedState(_Data):
    """The producer's id and revision of a composition."""

    id: ExplicitStateId
    revision: Annotated[int, Field(ge=1, le=LARGEST_REVISION)]
    parent: StateId | None = None
    """For information only."""


class BundleState(_Data):
    """`bundle_state.created`: a whole composition.

    Models and proxy are raw JSON; `renderers.composition` parses them.
    """

    bundle: BundleReference
    state: NamedState
    models: list[dict[str, Any]]
    proxy: dict[str, Any]


class ModelVersion(_Data):
    """`model_version.created` and `.updated`: a version of one model, as raw JSON."""

    model: dict[str, Any]
    # Not strict, because JSON has no tuples. The elements are still strict.
    bundles: (
        Annotated[tuple[BundleReference, ...], Field(strict=False, min_length=1, max_length=1000)]
        | None
    ) = None
    """None means every bundle that has the model."""
    tags: dict[str, str] | None = None
    aliases: list[str] | None = None
    change: Literal["tag", "alias", "stage", "deleted"] | None = None


class StateReference(_Data):
    """The id of a state, explicit or derived."""

    state_id: StateId


class RollbackRequest(_Data):
    """`bundle.rollback_requested`: make an earlier state live and hold it."""

    bundle: BundleReference
    to: StateReference
    expected_state_id: StateId | None = None
    """If set, the rollback applies only if this state is live."""
    reason: _Reason | None = None
    requested_by: _Person | None = None
    hold: Annotated[bool, AfterValidator(_hold)] = True


def problems_of(error: ValidationError, root: str, data: Any) -> tuple[Problem, ...]:
    """The problems in `data`, which is at the JSON path `root`; one problem per path.

    At most MAX_PROBLEMS, then one at `root` with the number of the rest.
    """
    merged: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        if not _follows_from_others(detail):
            problem = _problem(detail, root, data)
            earlier = merged.get(problem.path)
            merged[problem.path] = _merged(earlier, problem) if earlier else problem
    problems = tuple(merged.values())
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return (
        *problems[:MAX_PROBLEMS],
        Problem(root, f"has {len(problems) - MAX_PROBLEMS} more problems"),
    )


def _follows_from_others(detail: ErrorDetails) -> bool:
    """Whether another problem causes this one.

    A default may depend on a field that failed. A list may be too short only because pydantic does
    not count the entries that failed.
    """
    if detail["type"] == "default_factory_not_called":
        return True
    if detail["type"] != "too_short" or not isinstance(detail["input"], list | tuple):
        return False
    return bool(len(detail["input"]) >= detail["ctx"]["min_length"])


def _merged(one: Problem, other: Problem) -> Problem:
    """One problem with the expectations of both: each member of a union fails with its own."""
    expectations = one.expected.split(", or ")
    if other.expected in expectations:
        return one
    return Problem(one.path, ", or ".join([*expectations, other.expected]), one.found)


def _problem(detail: ErrorDetails, root: str, data: Any) -> Problem:
    path = root
    for key in _keys_in(data, detail["loc"]):
        path = below(path, key)
    if detail["type"] == "missing":
        return Problem(below(path, detail["loc"][-1]), "is required")
    return Problem(path, _expected(detail), described(detail["input"]))


def _keys_in(data: Any, location: tuple[int | str, ...]) -> Iterator[int | str]:
    """The keys in pydantic's location that exist in the data.

    The location also has names of union members and markers for keys of mappings.
    """
    for key in location:
        if isinstance(data, Mapping):
            inside = key in data
        else:
            inside = isinstance(data, list | tuple) and isinstance(key, int) and key < len(data)
        if inside:
            yield key
            data = data[key]


_EXPECTED: Final = {
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}


def _expected(detail: ErrorDetails) -> str:
    text = _EXPECTED.get(detail["type"])
    if text is None:
        return detail["msg"].replace("Input should be", "must be")
    return text.format(**detail.get("ctx", {})).replace(
        "at least 1 characters", "at least 1 character"
    )
