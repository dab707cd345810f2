"""Interprets an event as a change, from the event alone.

An invalid event gets a 400 over HTTP. From a source that does not validate, it becomes a dead
letter (protocol 2). Two schemas validate its data: `events.schemas` knows the form of an event, and
`renderers.composition` knows what can be rendered. All problems of both are reported at once.
Checks that need the scope are in `folding`.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from daemon.unknown_fields import unknown_fields
from events import schemas
from events.errors import InvalidEvent, Problem
from events.model import (
    BUNDLE_STATE_CREATED,
    KNOWN_TYPES,
    MODEL_VERSION_CREATED,
    MODEL_VERSION_UPDATED,
    ROLLBACK_REQUESTED,
    Event,
)
from renderers.composition import Composition, Model, ModelChange, Serving
from renderers.limits import BundleLimits, TooBig
from renderers.values import BundleName, Scope, canonical_digest, canonical_json, known_fields


class _WithDigest:
    __slots__ = ()
    digest_of_event: Callable[[], str]

    @property
    def digest(self) -> str:
        """The event digest. Computed when it is read: only an intake needs it."""
        return self.digest_of_event()


@dataclass(frozen=True, slots=True)
class StateCreated(_WithDigest):
    """A whole composition, with the producer's state id and revision."""

    composition: Composition
    state: str
    revision: int
    digest_of_event: Callable[[], str] = field(compare=False, repr=False)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The one scope of the change."""
        return (str(self.composition.scope),)


@dataclass(frozen=True, slots=True)
class ModelVersionChanged(_WithDigest):
    """A version of one model. It goes to the named scopes, or to all that have the model (None)."""

    model: ModelChange
    named: tuple[Scope, ...] | None
    may_move_back: bool
    """An `.updated` event may lower the version, because an alias can move back (protocol 3)."""
    deleted: bool
    digest_of_event: Callable[[], str] = field(compare=False, repr=False)

    @property
    def scopes(self) -> tuple[str, ...] | None:
        """The named scopes."""
        return None if self.named is None else tuple(map(str, self.named))


@dataclass(frozen=True, slots=True)
class RollbackRequested(_WithDigest):
    """Return to an earlier state, if `expected_state` is None or live."""

    scope: Scope
    to_state: str
    expected_state: str | None
    reason: str
    requested_by: str | None
    digest_of_event: Callable[[], str] = field(compare=False, repr=False)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The one scope of the change."""
        return (str(self.scope),)


T = TypeVar("T", bound=BaseModel)
V = TypeVar("V")

Change = StateCreated | ModelVersionChanged | RollbackRequested


@dataclass(frozen=True, slots=True)
class Received:
    """What a new event asks for, and its fields that have no effect."""

    change: Change
    ignored_fields: tuple[str, ...]
    """JSON paths of unknown fields, which have no effect; at most MAX_PROBLEMS."""


def received(event: Event, limits: BundleLimits | None = None) -> Received:
    """Interpret an event that no source holds yet, by the rules for new events.

    Raises:
        InvalidEvent: as in `interpret`, or it has an unknown field inside `serving`.
    """
    return Received(*_checked_as_new(lambda: interpret(event, limits), event.type, event.data))


def received_composition(data: Mapping[str, Any]) -> tuple[Composition, tuple[str, ...]]:
    """The composition in the data of a new state event, and the paths of its unknown fields.

    Raises:
        InvalidEvent: has every problem, with paths from `$.data`.
    """
    return _checked_as_new(lambda: composition_of(data), BUNDLE_STATE_CREATED, data)


def interpret(event: Event, limits: BundleLimits | None = None) -> Change:
    """The change that the event requests.

    Raises:
        InvalidEvent: it can never be folded, or its state exceeds `limits`; has all its problems.
    """
    match event.type:
        case t if t == BUNDLE_STATE_CREATED:
            return _state_created(event, limits)
        case t if t in {MODEL_VERSION_CREATED, MODEL_VERSION_UPDATED}:
            return _model_version_changed(event)
        case t if t == ROLLBACK_REQUESTED:
            return _rollback_requested(event)
        case _:
            known = ", ".join(sorted(KNOWN_TYPES))
            raise InvalidEvent(Problem("$.type", f"one of {known}", event.type))


def model_of_unnamed(event: Event) -> str | None:
    """The model of a valid model event that names no scopes; None for another event.

    An invalid event becomes a dead letter in every scope.
    """
    if event.type not in {MODEL_VERSION_CREATED, MODEL_VERSION_UPDATED}:
        return None
    try:
        change = interpret(event)
    except InvalidEvent:
        return None
    if isinstance(change, ModelVersionChanged) and change.named is None:
        return change.model.id
    return None


def validate_data(kind: object, data: object) -> tuple[Problem, ...]:
    """Problems in the data of an event with an invalid envelope (`events.dialects.cloudevents`)."""
    if not isinstance(kind, str) or kind not in KNOWN_TYPES or not isinstance(data, dict):
        return ()
    try:
        received(Event(id="", source="", type=kind, data=data))
    except InvalidEvent as error:
        return error.problems
    return ()


def composition_of(data: Mapping[str, Any]) -> Composition:
    """The composition in the data of a state event or in a manifest.

    Raises:
        InvalidEvent: has every problem, with paths from `$.data`.
    """
    validation = _Validation(data)
    composition = validation.by(Composition, data)
    if composition is not None:
        validation.engines(composition.models)
    validation.raise_problems()
    assert composition is not None
    return composition


def _checked_as_new(
    interpreted: Callable[[], V], kind: str, data: Mapping[str, Any]
) -> tuple[V, tuple[str, ...]]:
    """The interpretation, and the paths of the unknown fields.

    Raises:
        InvalidEvent: has the problems of the interpretation and the unknown fields of `serving`.
    """
    if kind not in KNOWN_TYPES:
        return interpreted(), ()
    unknown = unknown_fields(kind, data)
    try:
        result = interpreted()
    except InvalidEvent as error:
        raise InvalidEvent(*error.problems, *unknown.refused) from None
    if unknown.refused:
        raise InvalidEvent(*unknown.refused)
    return result, unknown.ignored


def _state_created(event: Event, limits: BundleLimits | None) -> StateCreated:
    validation = _Validation(event.data)
    data = validation.by(schemas.BundleState, event.data)
    composition = validation.by(Composition, event.data)
    if composition is not None:
        validation.engines(composition.models)
    validation.raise_problems()
    assert data is not None
    assert composition is not None
    if limits is not None:
        try:
            limits.check(composition)
        except TooBig as error:
            raise InvalidEvent(
                *(Problem(f"$.data{excess.part}", excess.message) for excess in error.excesses)
            ) from None
    digest = partial(_digest_of_state, event.type, composition, data.state)
    return StateCreated(composition, data.state.id, data.state.revision, digest)


def _digest_of_state(kind: str, composition: Composition, state: schemas.NamedState) -> str:
    fields = {"id": state.id, "revision": state.revision}
    if state.parent is not None:
        fields["parent"] = state.parent
    # The numbers of the models depend on the scope, and the digest of an event must not: an event
    # that an older release accepted has the same digest when it is sent again (ADR 37).
    canonical = composition.with_former_numbers.canonical
    # The composition caches its canonical JSON. `state` is appended, as it sorts after its keys.
    known = f'{canonical[:-1]},"state":{canonical_json(fields)}}}'
    return hashlib.sha256(f"[{canonical_json(kind)},{known}]".encode()).hexdigest()


def _model_version_changed(event: Event) -> ModelVersionChanged:
    validation = _Validation(event.data)
    data = validation.by(schemas.ModelVersion, event.data)
    model = validation.by(ModelChange, event.data.get("model"), "model")
    if model is not None and model.serving is not None:
        validation.engine(model.serving, "model")
    named = _named_scopes(validation, event.data.get("bundles"))
    validation.raise_problems()
    assert data is not None
    assert model is not None
    return ModelVersionChanged(
        model=model,
        named=named,
        may_move_back=event.type == MODEL_VERSION_UPDATED,
        deleted=data.change == "deleted",
        digest_of_event=partial(_digest_of_model, event.type, data, model),
    )


def _digest_of_model(kind: str, data: schemas.ModelVersion, model: ModelChange) -> str:
    return canonical_digest([kind, known_fields(data) | {"model": known_fields(model)}])


def _named_scopes(validation: "_Validation", bundles: Any) -> tuple[Scope, ...] | None:
    if not isinstance(bundles, list):
        return None
    named = [
        validation.by(BundleName, bundle, f"bundles[{index}]")
        for index, bundle in enumerate(bundles)
    ]
    return tuple(sorted({bundle.scope for bundle in named if bundle is not None}))


def _rollback_requested(event: Event) -> RollbackRequested:
    validation = _Validation(event.data)
    data = validation.by(schemas.RollbackRequest, event.data)
    bundle = validation.by(BundleName, event.data.get("bundle"), "bundle")
    validation.raise_problems()
    assert data is not None
    assert bundle is not None
    return RollbackRequested(
        scope=bundle.scope,
        to_state=data.to.state_id,
        expected_state=data.expected_state_id,
        reason=data.reason or "",
        requested_by=data.requested_by,
        digest_of_event=lambda: canonical_digest([event.type, known_fields(data)]),
    )


class _Validation:
    """Collects the problems that several schemas find in the same data, one per path."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._problems: dict[str, Problem] = {}

    def by(self, schema: type[T], value: Any, below: str = "") -> T | None:
        root = f"$.data.{below}" if below else "$.data"
        try:
            return schema.model_validate(value)
        except ValidationError as error:
            for problem in schemas.problems_of(error, root, value):
                self._problems.setdefault(problem.path, problem)
            return None

    def engines(self, models: Iterable[Model]) -> None:
        """Check the settings with which an engine of the models would not start."""
        places = {
            entry.get("id"): f"models[{index}]" for index, entry in enumerate(self._data["models"])
        }
        for model in models:
            self.engine(model.serving, places[model.id])

    def engine(self, serving: Serving, below: str) -> None:
        """Check the settings with which the engine of one model would not start."""
        fault = serving.batching.parameters.fault if serving.batching else ""
        if fault:
            path = f"$.data.{below}.serving.batching.parameters"
            self._problems.setdefault(path, Problem(path, fault))

    def raise_problems(self) -> None:
        if self._problems:
            raise InvalidEvent(*self._problems.values())
