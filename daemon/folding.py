"""Fold: the desired composition of a scope and an event -> the desired composition (protocol 3). Pure.

Explicit states are ordered by the producer's number alone and replace everything; model versions move or add one
model and make derived states, whose numbers are counted here. Repetition and late arrival are harmless.
`fold` takes one change, `plan` a lane's batch of them. Nothing here knows of stores or pointers: the base is a
`DesiredState`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from daemon.changes import ModelVersionChanged, RollbackRequested, StateCreated
from events.model import Outcome, OutcomeKind, Position
from events.source import Delivery
from renderers.model import Composition, Model


@dataclass(frozen=True, slots=True)
class UsedStateId:
    """An explicit state that the lineage names. Number and digest are None where only the name was looked up."""

    state: str
    producer: int | None
    composition: str | None


@dataclass(frozen=True, slots=True)
class Lineage:
    """The explicit states that are used up: those a pointer's `retained` and history name."""

    known: tuple[UsedStateId, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """By id, the states whose number and composition may not be read, and why. Only late states depend on these."""

    def with_state(self, known: UsedStateId) -> "Lineage":
        """This lineage and one more state."""
        return replace(self, known=(*self.known, known))

    def same(self, state: str, producer: int, composition: str) -> bool:
        """Whether exactly this state is known: id, number and composition belong together."""
        return UsedStateId(state, producer, composition) in self.known

    def clash(self, state: str, producer: int) -> UsedStateId | None:
        """A known state that uses this id or this number."""
        return next((each for each in self.known if each.state == state or each.producer == producer), None)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What a fold starts from and ends at: the desired side of a scope."""

    composition: Composition | None
    """None: there is no such scope, or it is retired."""
    highest_producer: int = 0
    derived: int = 0
    lineage: Lineage = field(default_factory=Lineage)


@dataclass(frozen=True, slots=True)
class PlannedState:
    """A state that is to be published."""

    composition: Composition
    state: str
    producer: int
    derived: int
    kind: Literal["explicit", "derived"]
    late: bool
    deliveries: tuple[Delivery, ...]
    """The events it came of, in order."""
    skipped: tuple[Delivery, ...] = ()
    """Model events that it replaced before anything of them was published."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A change that moves the desired composition."""

    standing: DesiredState
    explicit: str | None
    """The state id, where the change named one."""


@dataclass(frozen=True, slots=True)
class Late:
    """An explicit state that is older than the newest one: published for rollback, moves nothing."""

    standing: DesiredState


Step = Moved | Late | Outcome


def fold(standing: DesiredState, change: StateCreated | ModelVersionChanged) -> Step:
    """What one change does to the desired composition."""
    match change:
        case StateCreated():
            return _fold_state(standing, change)
        case ModelVersionChanged():
            return _fold_model(standing, change)
        case _:
            assert_never(change)


def _fold_state(standing: DesiredState, change: StateCreated) -> Step:
    digest = change.composition.digest
    if standing.lineage.same(change.state, change.revision, digest):
        return Outcome(OutcomeKind.IGNORED, f"state {change.state} is published already", change.state)
    is_late = change.revision <= standing.highest_producer
    clash = standing.lineage.clash(change.state, change.revision)
    unreadable = standing.lineage.unreadable
    if is_late and unreadable and (clash is None or clash.state in unreadable):
        reason = unreadable.get(change.state) or next(iter(unreadable.values()))
        return Outcome(OutcomeKind.DEAD_LETTERED, _unknown_reason(change, reason))
    if clash is not None:
        return Outcome(OutcomeKind.DEAD_LETTERED, _clash_reason(change, clash))
    lineage = standing.lineage.with_state(UsedStateId(change.state, change.revision, digest))
    if is_late:
        return Late(replace(standing, lineage=lineage))
    moved = DesiredState(change.composition, highest_producer=change.revision, derived=0, lineage=lineage)
    return Moved(moved, explicit=change.state)


def _unknown_reason(change: StateCreated, reason: str) -> str:
    return (
        f"whether state {change.state} or revision {change.revision} was published before cannot be found out: "
        f"{reason}. Then replay this event (`rebundle dead-letters list` has its number, `rebundle dead-letters "
        "replay NUMBER`)"
    )


def _clash_reason(change: StateCreated, clash: UsedStateId) -> str:
    if clash.state != change.state:
        return (
            f"revision {change.revision} is state {clash.state} already: send {change.state} again with a revision "
            "that is not used"
        )
    if clash.producer == change.revision:
        what = "another composition"
    elif clash.producer is not None:
        what = f"revision {clash.producer}"
    else:
        what = "another revision"
    return f"state {change.state} is published with {what} already: an id is never used twice, send it under a new one"


def _fold_model(standing: DesiredState, change: ModelVersionChanged) -> Step:
    if standing.composition is None:
        return _without_composition(change)
    current = standing.composition.model(change.model.id)
    unmoved = _unmoved(change, current)
    if unmoved is not None:
        return unmoved
    try:
        model = change.model.applied_to(current)
        if model == current:
            return Outcome(OutcomeKind.IGNORED, f"model {model.id} is exactly this already")
        composition = standing.composition.with_model(model)
    except ValueError as error:
        return Outcome(OutcomeKind.DEAD_LETTERED, str(error))
    return Moved(replace(standing, composition=composition, derived=standing.derived + 1), explicit=None)


def _without_composition(change: ModelVersionChanged) -> Outcome:
    if change.named is None:
        return Outcome(OutcomeKind.IGNORED, "the scope has no composition")
    return Outcome(OutcomeKind.DEAD_LETTERED, "there is no such scope: send bundle_state.created first")


def _unmoved(change: ModelVersionChanged, current: Model | None) -> Outcome | None:
    """Why the model stays as it is, if it does."""
    model = change.model
    if current is None and (change.named is None or change.deleted):
        return Outcome(OutcomeKind.IGNORED, f"no model {model.id} in this scope")
    if change.deleted:
        reason = f"model {model.id} was deleted in the registry, and stays until a bundle-state leaves it out"
        return Outcome(OutcomeKind.IGNORED, f"needs attention: {reason}")
    if current and not change.may_move_back and _is_lower(model.version, current.version):
        reason = f"model {model.id} is at version {current.version}, above {model.version}"
        return Outcome(OutcomeKind.SUPERSEDED, reason)
    return None


def _is_lower(version: str, than: str) -> bool:
    """Only positive integers have an order; other versions follow delivery order (protocol 3)."""
    return _is_number(version) and _is_number(than) and int(version) < int(than)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit() and int(version) > 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch of events comes to."""

    standing: DesiredState
    """Where the scope stands after it."""
    publications: tuple[PlannedState, ...]
    """Every explicit state, and of derived ones the last; in commit order."""
    outcomes: Mapping[Position, Outcome]
    """Of the events that no publication comes of."""


def plan(standing: DesiredState, batch: Sequence[tuple[Delivery, StateCreated | ModelVersionChanged]]) -> Plan:
    """Folds a batch one by one; what does not fold settles alone."""
    outcomes: dict[Position, Outcome] = {}
    publications: list[PlannedState] = []
    moves: list[Delivery] = []  # model events since the last state that moved the composition

    def skip_moves(state: str) -> tuple[Delivery, ...]:
        skipped = tuple(moves)
        moves.clear()
        said = Outcome(OutcomeKind.SUPERSEDED, f"replaced by state {state} before it was published")
        outcomes.update({each.position: said for each in skipped})
        return skipped

    for delivery, change in batch:
        step = fold(standing, change)
        match step:
            case Outcome():
                outcomes[delivery.position] = step
            case Late():
                standing = step.standing
                assert isinstance(change, StateCreated)
                publications.append(_explicit(change, delivery, late=True))
            case Moved(explicit=None):
                standing = step.standing
                moves.append(delivery)
            case Moved(explicit=state):
                standing = step.standing
                assert isinstance(change, StateCreated)
                assert state is not None
                publications.append(_explicit(change, delivery, late=False, skipped=skip_moves(state)))
            case _:
                assert_never(step)
    if moves:
        publications.append(_derived(standing, tuple(moves)))
    return Plan(standing, tuple(publications), outcomes)


def _explicit(
    change: StateCreated, delivery: Delivery, *, late: bool, skipped: tuple[Delivery, ...] = ()
) -> PlannedState:
    return PlannedState(
        composition=change.composition,
        state=change.state,
        producer=change.revision,
        derived=0,
        kind="explicit",
        late=late,
        deliveries=(delivery,),
        skipped=skipped,
    )


def _derived(standing: DesiredState, deliveries: tuple[Delivery, ...]) -> PlannedState:
    assert standing.composition is not None
    number = f"{standing.highest_producer}.{standing.derived}"
    return PlannedState(
        composition=standing.composition,
        state=f"derived-{number}-{standing.composition.digest[:12]}",
        producer=standing.highest_producer,
        derived=standing.derived,
        kind="derived",
        late=False,
        deliveries=deliveries,
    )


MOST_EVENTS = 1_000
MOST_STATES = 20


def batch_size(changes: Sequence[object]) -> int:
    """How many of the waiting changes make the next batch (protocol 2).

    At most 1,000 events and 20 explicit states; a rollback request ends the batch before it and is one by itself.
    """
    states = 0
    for index, change in enumerate(changes[:MOST_EVENTS]):
        if isinstance(change, RollbackRequested):
            return max(index, 1)
        if isinstance(change, StateCreated):
            states += 1
            if states > MOST_STATES:
                return index
    return min(len(changes), MOST_EVENTS)
