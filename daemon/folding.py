"""Folds changes into the desired composition of a scope (protocol 3). Pure.

An explicit state replaces the composition; the producer's revision alone orders explicit states. A
model version moves or adds one model and makes a derived state, whose number is counted here.
Repeated and late events are harmless.

`fold` takes one change, `plan` a batch of a lane. A fold starts from a `DesiredState`, not from a
pointer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, assert_never

from daemon.changes import ModelVersionChanged, StateCreated
from daemon.publishing.pointer import Revision
from daemon.used_states import UsedState, UsedStates
from events.model import Outcome, OutcomeKind, Position
from events.source import Delivery
from renderers.composition import Composition, Model

_NO_REVISION: Final = Revision(0)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The base and the result of a fold: what a scope desires, without the live side."""

    composition: Composition | None
    """None: there is no such scope, or it is retired."""
    highest_revision: Revision = _NO_REVISION
    used: UsedStates = field(default_factory=UsedStates)
    published: Mapping[str, Composition] = field(default_factory=dict)
    """Compositions of published explicit states that are delivered again, by state id.

    Only of those with models whose numbers releases have derived differently (ADR 37).
    """


@dataclass(frozen=True, slots=True)
class PlannedState:
    """A state to publish."""

    composition: Composition
    state: str
    revision: Revision
    kind: Literal["explicit", "derived"]
    late: bool
    deliveries: tuple[Delivery, ...]
    """The events that made it, in order."""
    skipped: tuple[Delivery, ...] = ()
    """Model events that it replaced before they were published."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The change moves the desired composition."""

    desired: DesiredState
    explicit: str | None
    """The state id, if the change is an explicit state."""


@dataclass(frozen=True, slots=True)
class Late:
    """The explicit state is older than the newest one: published for rollbacks, moves nothing."""

    desired: DesiredState
    composition: Composition


Step = Moved | Late | Outcome


def fold(desired: DesiredState, change: StateCreated | ModelVersionChanged) -> Step:
    """The effect of one change; an `Outcome` if nothing is published for it."""
    match change:
        case StateCreated():
            return _fold_state(desired, change)
        case ModelVersionChanged():
            return _fold_model(desired, change)
        case _:
            assert_never(change)


def _fold_state(desired: DesiredState, change: StateCreated) -> Step:
    composition = _numbered(desired, change)
    # The second: what its release derived, in case its manifest is gone.
    digests = (composition.digest, change.composition.with_former_numbers.digest)
    if any(desired.used.same(change.state, change.revision, digest) for digest in digests):
        return Outcome(
            OutcomeKind.IGNORED, f"state {change.state} is published already", change.state
        )
    is_late = change.revision <= desired.highest_revision.producer
    clash = desired.used.clash(change.state, change.revision)
    unreadable = desired.used.unreadable
    if is_late and unreadable and (clash is None or clash.state in unreadable):
        reason = unreadable.get(change.state) or next(iter(unreadable.values()))
        return Outcome(OutcomeKind.DEAD_LETTERED, _unknown_reason(change, reason))
    if clash is not None:
        return Outcome(OutcomeKind.DEAD_LETTERED, _clash_reason(change, clash))
    used = desired.used.with_state(UsedState(change.state, change.revision, composition.digest))
    published = desired.published
    if has_former_numbers(change):
        published = {**published, change.state: composition}
    if is_late:
        return Late(replace(desired, used=used, published=published), composition)
    moved = DesiredState(composition, Revision(change.revision), used, published)
    return Moved(moved, explicit=change.state)


def has_former_numbers(change: StateCreated) -> bool:
    """Whether an older release would have derived another number for one of its models."""
    return change.composition.with_former_numbers is not change.composition


def _numbered(desired: DesiredState, change: StateCreated) -> Composition:
    """The composition of the state with the numbers that its models have in the scope (ADR 37).

    A state that was published before has the numbers that it was published with.
    """
    published = desired.published.get(change.state, desired.composition)
    return change.composition.with_numbers_of(published)


def _unknown_reason(change: StateCreated, reason: str) -> str:
    return (
        f"it is unknown whether state {change.state} or revision {change.revision} was published "
        f"before: {reason}. Then replay this event (`rebundle dead-letters list` has its id, "
        "`rebundle dead-letters replay ID`)"
    )


def _clash_reason(change: StateCreated, clash: UsedState) -> str:
    if clash.state != change.state:
        return (
            f"revision {change.revision} is state {clash.state} already: send {change.state} again "
            "with a revision that is not used"
        )
    if clash.number == change.revision:
        what = "another composition"
    elif clash.number is not None:
        what = f"revision {clash.number}"
    else:
        what = "another revision"
    return (
        f"state {change.state} is published with {what} already: an id is never used twice, "
        "send it under a new one"
    )


def _fold_model(desired: DesiredState, change: ModelVersionChanged) -> Step:
    if desired.composition is None:
        return _without_composition(change)
    current = desired.composition.model(change.model.id)
    unmoved = _unmoved(change, current)
    if unmoved is not None:
        return unmoved
    try:
        model = change.model.applied_to(current)
        if model == current:
            return Outcome(OutcomeKind.IGNORED, f"model {model.id} is exactly this already")
        composition = desired.composition.with_model(model)
    except ValueError as error:
        return Outcome(OutcomeKind.DEAD_LETTERED, str(error))
    revision = desired.highest_revision.next_derived()
    moved = replace(desired, composition=composition, highest_revision=revision)
    return Moved(moved, explicit=None)


def _without_composition(change: ModelVersionChanged) -> Outcome:
    if change.named is None:
        return Outcome(OutcomeKind.IGNORED, "the scope has no composition")
    return Outcome(
        OutcomeKind.DEAD_LETTERED, "there is no such scope: send bundle_state.created first"
    )


def _unmoved(change: ModelVersionChanged, current: Model | None) -> Outcome | None:
    """The outcome if the model does not change; None if it does."""
    model = change.model
    if current is None and (change.named is None or change.deleted):
        return Outcome(OutcomeKind.IGNORED, f"no model {model.id} in this scope")
    if change.deleted:
        reason = (
            f"model {model.id} was deleted in the registry, and stays until a bundle-state "
            "leaves it out"
        )
        return Outcome(OutcomeKind.IGNORED, f"needs attention: {reason}")
    if current and not change.may_move_back and _is_lower(model.version, current.version):
        reason = f"model {model.id} is at version {current.version}, above {model.version}"
        return Outcome(OutcomeKind.SUPERSEDED, reason)
    return None


def _is_lower(version: str, than: str) -> bool:
    """Only positive integers have an order. Others follow the order of delivery (protocol 3)."""
    return _is_number(version) and _is_number(than) and int(version) < int(than)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit() and int(version) > 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of folding a batch."""

    desired: DesiredState
    """The desired state after the batch."""
    publications: tuple[PlannedState, ...]
    """Every explicit state, and the last derived one, in the order of the commit."""
    outcomes: Mapping[Position, Outcome]
    """Outcomes of the events that made no publication."""


def plan(
    desired: DesiredState, batch: Sequence[tuple[Delivery, StateCreated | ModelVersionChanged]]
) -> Plan:
    """Fold the changes of a batch one by one."""
    outcomes: dict[Position, Outcome] = {}
    publications: list[PlannedState] = []
    # Model events since the last explicit state that moved the composition.
    moves: list[Delivery] = []

    def skip_moves(state: str) -> tuple[Delivery, ...]:
        skipped = tuple(moves)
        moves.clear()
        superseded = Outcome(
            OutcomeKind.SUPERSEDED, f"replaced by state {state} before it was published"
        )
        outcomes.update({delivery.position: superseded for delivery in skipped})
        return skipped

    for delivery, change in batch:
        step = fold(desired, change)
        match step:
            case Outcome():
                outcomes[delivery.position] = step
            case Late(composition=composition):
                desired = step.desired
                assert isinstance(change, StateCreated)
                publications.append(_explicit(change, composition, delivery, late=True))
            case Moved(explicit=None):
                desired = step.desired
                moves.append(delivery)
            case Moved(explicit=state):
                desired = step.desired
                assert isinstance(change, StateCreated)
                assert state is not None
                assert desired.composition is not None
                skipped = skip_moves(state)
                publications.append(
                    _explicit(change, desired.composition, delivery, late=False, skipped=skipped)
                )
            case _:
                assert_never(step)
    if moves:
        publications.append(_derived(desired, tuple(moves)))
    return Plan(desired, tuple(publications), outcomes)


def _explicit(
    change: StateCreated,
    composition: Composition,
    delivery: Delivery,
    *,
    late: bool,
    skipped: tuple[Delivery, ...] = (),
) -> PlannedState:
    return PlannedState(
        composition=composition,
        state=change.state,
        revision=Revision(change.revision),
        kind="explicit",
        late=late,
        deliveries=(delivery,),
        skipped=skipped,
    )


def _derived(desired: DesiredState, deliveries: tuple[Delivery, ...]) -> PlannedState:
    assert desired.composition is not None
    revision = desired.highest_revision
    return PlannedState(
        composition=desired.composition,
        state=f"derived-{revision}-{desired.composition.digest[:12]}",
        revision=revision,
        kind="derived",
        late=False,
        deliveries=deliveries,
    )
