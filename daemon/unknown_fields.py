"""Finds the fields of an event's data that no schema knows. Pure.

A new event with an unknown field inside `serving` is refused, because a misspelt setting would have
no effect and nobody would see it. Unknown fields elsewhere are only reported. A field whose name
begins with `x-` belongs to the producer and is neither refused nor reported. Events that a source
holds already and manifests are read without this check (ADR 9).
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_args

from pydantic import BaseModel

from events import schemas
from events.errors import Problem
from events.model import BUNDLE_STATE_CREATED, ROLLBACK_REQUESTED
from events.strict_json import MAX_PROBLEMS, below
from renderers.composition import Composition, ModelChange, Serving

_OF_PRODUCERS: Final = "x-"
_MAX_COMPARED_LENGTH: Final = 64
"""Characters of an unknown name that are compared with the known ones."""
_Schemas = tuple[type[BaseModel], ...]


@dataclass(frozen=True, slots=True)
class UnknownFields:
    """The unknown fields of one event, at most MAX_PROBLEMS of each kind."""

    refused: tuple[Problem, ...] = ()
    """Those inside `serving`."""
    ignored: tuple[str, ...] = ()
    """JSON paths of the others."""


def unknown_fields(kind: str, data: Mapping[str, Any]) -> UnknownFields:
    """The unknown fields in the data of an event of a known type."""
    if kind == BUNDLE_STATE_CREATED:
        found = [*_below("$.data", data, (schemas.BundleState, Composition))]
    elif kind == ROLLBACK_REQUESTED:
        found = [*_below("$.data", data, (schemas.RollbackRequest,))]
    else:
        found = [
            *_below("$.data", data, (schemas.ModelVersion,)),
            *_below("$.data.model", data.get("model"), (ModelChange,)),
        ]
    refused = [field for field in found if field.in_serving][:MAX_PROBLEMS]
    ignored = [field.path for field in found if not field.in_serving][:MAX_PROBLEMS]
    # Only for the reported ones: finding the nearest name is slow.
    return UnknownFields(tuple(field.problem for field in refused), tuple(ignored))


@dataclass(frozen=True, slots=True)
class _Unknown:
    """One unknown field."""

    path: str
    key: str
    known: Collection[str]
    """The names of the fields that the schema has in its place."""
    in_serving: bool

    @property
    def problem(self) -> Problem:
        near = difflib.get_close_matches(self.key[:_MAX_COMPARED_LENGTH], self.known, n=1)
        meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(self.known)}"
        return Problem(
            self.path,
            f"is not a field that is known here: {meant} (names of your own begin with x-)",
        )


def _below(
    path: str, value: Any, known_by: _Schemas, *, in_serving: bool = False
) -> Iterator[_Unknown]:
    """The unknown fields in `value`, in its order. It descends no deeper than the schemas do."""
    if isinstance(value, list):
        for index, member in enumerate(value):
            yield from _below(below(path, index), member, known_by, in_serving=in_serving)
    if not isinstance(value, dict):
        return
    in_serving = in_serving or Serving in known_by
    fields = _fields(known_by)
    for key, member in value.items():
        if key not in fields:
            if not key.startswith(_OF_PRODUCERS):
                yield _Unknown(below(path, key), key, fields.keys(), in_serving)
        elif fields[key]:
            yield from _below(below(path, key), member, fields[key], in_serving=in_serving)


@cache
def _fields(known_by: _Schemas) -> Mapping[str, _Schemas]:
    """The known fields, each with the schemas of its value; none if the value may be anything."""
    fields: dict[str, _Schemas] = {}
    for schema in known_by:
        for name, field in schema.model_fields.items():
            fields[name] = (*fields.get(name, ()), *_schemas_in(field.annotation))
    return fields


def _schemas_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _schemas_in(part)
