"""docs/protocol.md, sections 2 to 4, as a program: the result of each batch, command and event.

This file is written from that page and imports nothing of the product (test_model.py verifies it),
so that an error of the product is not repeated here. It knows nothing of bytes: a composition is
its models, an event is its request. `oracle` follows a simulated world with it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

Part = tuple[str, str, str]
"""Of one model: its version, and the versions with which its artifact and its serving were set."""
Composition = frozenset[tuple[str, Part]]
Position = tuple[str, int]
"""Instance of a source and offset in it."""


class Violation(Exception):
    """A change that the rules do not allow."""


# -- input


@dataclass(frozen=True, slots=True)
class Request:
    """The request of an event."""

    kind: str
    """state, model or rollback."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of each model that it names."""
    state: str = ""
    """Of a state its id; of a rollback the target."""
    revision: int = 0
    updated: bool = False
    """`.updated`, which may lower the version of a model."""
    deleted: bool = False
    complete: bool = True
    """It has artifact and serving."""
    named: bool = True
    """It names the scope."""
    expected_live: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A request at its position. Identity and digest are opaque."""

    position: Position
    identity: str
    digest: str
    request: Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an event: `why` is a kind of reason (`REASONS` of oracle)."""

    kind: str
    why: str
    state: str | None = None


# -- state


@dataclass(frozen=True, slots=True)
class Publication:
    """A state that was published by one attempt."""

    state: str
    attempt: str
    producer: int
    derived: int
    kind: str
    late: bool
    composition: Composition
    identities: tuple[str, ...]
    """Of the events that led to it, without those that it replaced."""
    at: str
    superseded_at: str | None = None
    pinned: bool = False

    @property
    def name(self) -> str:
        return f"{self.state}@{self.attempt}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a pointer and of a batch."""

    retained: int = 100
    folded_events: int = 128
    pinned: int = 48
    batch_events: int = 1_000
    batch_states: int = 20


@dataclass(frozen=True, slots=True)
class Scope:
    """A scope after a change of its pointer.

    Live and desired are names of retained publications.
    """

    sequence: int = 0
    live: str | None = None
    desired: str | None = None
    producer: int = 0
    derived: int = 0
    positions: Mapping[str, int] = field(default_factory=dict)
    folded_events: tuple[tuple[str, str], ...] = ()
    held: bool = False
    quarantined: frozenset[Composition] = frozenset()
    retained: tuple[Publication, ...] = ()
    used: frozenset[tuple[str, int, Composition]] = frozenset()
    """Explicit states that were ever published."""
    gc_epoch: int = 0

    def publication(self, name: str | None) -> Publication | None:
        return next((item for item in self.retained if item.name == name), None)

    def find(self, target: str) -> Publication | None:
        """The newest retained publication of a state, or the one that STATE@ATTEMPT names."""
        found = [
            publication
            for publication in self.retained
            if target in {publication.state, publication.name}
        ]
        return found[-1] if found else None

    @property
    def composition(self) -> Composition | None:
        """The base of the next fold."""
        desired = self.publication(self.desired)
        return desired.composition if desired else None


# -- fold (protocol 3)


@dataclass(frozen=True, slots=True)
class FoldBase:
    """The part of a scope that events are folded onto."""

    composition: Composition | None
    producer: int
    derived: int
    used: frozenset[tuple[str, int, Composition]]


@dataclass(frozen=True, slots=True)
class Step:
    """A request with an effect: late, replaced (by a state) or moved (a model)."""

    fold_base: FoldBase
    effect: str


def composition_of(versions: Mapping[str, str]) -> Composition:
    return frozenset((model, (version, version, version)) for model, version in versions.items())


def fold(fold_base: FoldBase, request: Request) -> Step | Outcome:
    """One state or model version."""
    return (
        _fold_state(fold_base, request)
        if request.kind == "state"
        else _fold_model(fold_base, request)
    )


def _fold_state(fold_base: FoldBase, request: Request) -> Step | Outcome:
    composition = composition_of(request.versions)
    this = (request.state, request.revision, composition)
    if this in fold_base.used:
        return Outcome("ignored", "published already", request.state)
    if any(
        request.state == state or request.revision == number for state, number, _ in fold_base.used
    ):
        return Outcome("dead-lettered", "id or number is used up")
    used = fold_base.used | {this}
    if request.revision <= fold_base.producer:
        return Step(replace(fold_base, used=used), "late")
    return Step(FoldBase(composition, request.revision, 0, used), "replaced")


def _fold_model(fold_base: FoldBase, request: Request) -> Step | Outcome:
    if fold_base.composition is None:
        if request.named:
            return Outcome("dead-lettered", "no such scope")
        return Outcome("ignored", "no composition")
    models = dict(fold_base.composition)
    ((model, version),) = request.versions.items()
    current = models.get(model)
    if current is None and (not request.named or request.deleted):
        return Outcome("ignored", "model not in the scope")
    if request.deleted:
        return Outcome("ignored", "deleted in the registry")
    if current is not None and not request.updated and _is_lower(version, current[0]):
        return Outcome("superseded", "a higher version")
    if current is None and not request.complete:
        return Outcome("dead-lettered", "new and incomplete")
    models[model] = (
        (version, version, version)
        if request.complete or current is None
        else (version, *current[1:])
    )
    if models[model] == current:
        return Outcome("ignored", "exactly so already")
    moved = replace(fold_base, composition=frozenset(models.items()), derived=fold_base.derived + 1)
    return Step(moved, "moved")


def _is_lower(version: str, than: str) -> bool:
    """Only positive integers have an order."""
    return version.isdecimal() and than.isdecimal() and 0 < int(version) < int(than)


# -- a batch


@dataclass(frozen=True, slots=True)
class Planned:
    """A publication of a batch. `state` of a derived one is only the start of its id."""

    state: str
    producer: int
    derived: int
    kind: str
    late: bool
    composition: Composition
    events: tuple[Event, ...]
    skipped: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of a batch of events."""

    fold_base: FoldBase
    publications: tuple[Planned, ...]
    outcomes: Mapping[Position, Outcome]
    remembered: tuple[tuple[str, str], ...]
    rollback: Publication | None = None


Refused = Callable[[Composition], bool]
"""Whether the gate refuses the rendering of a composition."""


def batch(scope: Scope, events: Sequence[Event], refused: Refused, limits: Limits) -> Batch:
    """The result of the first waiting events of a scope, by the rules.

    Raises:
        Violation: these cannot be one batch.
    """
    outcomes = {
        event.position: said for event in events if (said := _known(scope, event)) is not None
    }
    changes = [event for event in events if event.position not in outcomes]
    if len(events) > limits.batch_events or _states(changes) > limits.batch_states:
        raise Violation(f"a batch of {len(events)} events and {_states(changes)} states")
    if any(change.request.kind == "rollback" for change in changes):
        return _rollback_batch(scope, changes, outcomes)
    fold_base = FoldBase(scope.composition, scope.producer, scope.derived, scope.used)
    while True:
        end, publications, settled = _plan(fold_base, changes)
        wrong = next(
            (publication for publication in publications if refused(publication.composition)), None
        )
        if wrong is None:
            break
        if len(wrong.events) > 1:
            raise Violation(
                f"{wrong.state} of several events is refused by the gate: one at a time"
            )
        outcomes[wrong.events[0].position] = Outcome("dead-lettered", "refused by the gate")
        changes.remove(wrong.events[0])
    outcomes |= settled
    for planned in publications:
        outcomes |= {event.position: _published(scope, planned) for event in planned.events}
    return Batch(end, tuple(publications), outcomes, _remembered(changes, outcomes))


def _states(events: Iterable[Event]) -> int:
    return sum(event.request.kind == "state" for event in events)


def _known(scope: Scope, event: Event) -> Outcome | None:
    """The outcome of an event that the pointer remembers."""
    digest = dict(scope.folded_events).get(event.identity)
    if digest is None:
        return None
    if digest != event.digest:
        return Outcome("dead-lettered", "another content")
    listing = [
        publication for publication in scope.retained if event.identity in publication.identities
    ]
    if listing:
        return Outcome("published", "published", listing[-1].state)
    return Outcome("ignored", "a repetition")


def _remembered(
    events: Iterable[Event], outcomes: Mapping[Position, Outcome]
) -> tuple[tuple[str, str], ...]:
    return tuple(
        (event.identity, event.digest)
        for event in events
        if outcomes[event.position].kind != "dead-lettered"
    )


def _plan(
    fold_base: FoldBase, events: Sequence[Event]
) -> tuple[FoldBase, list[Planned], dict[Position, Outcome]]:
    outcomes: dict[Position, Outcome] = {}
    publications: list[Planned] = []
    moves: list[Event] = []
    for event in events:
        step = fold(fold_base, event.request)
        if isinstance(step, Outcome):
            outcomes[event.position] = step
            continue
        fold_base = step.fold_base
        if step.effect == "moved":
            moves.append(event)
            continue
        replaced = tuple(moves) if step.effect == "replaced" else ()
        outcomes |= {
            publication.position: Outcome("superseded", "replaced before published")
            for publication in replaced
        }
        moves = [move for move in moves if move not in replaced]
        asked = event.request
        composition = composition_of(asked.versions)
        late = step.effect == "late"
        publications.append(
            Planned(
                asked.state, asked.revision, 0, "explicit", late, composition, (event,), replaced
            )
        )
    if moves:
        assert fold_base.composition is not None
        number = f"derived-{fold_base.producer}.{fold_base.derived}-"
        publications.append(
            Planned(
                number,
                fold_base.producer,
                fold_base.derived,
                "derived",
                False,
                fold_base.composition,
                tuple(moves),
            )
        )
    return fold_base, publications, outcomes


def _published(scope: Scope, planned: Planned) -> Outcome:
    if planned.late:
        return Outcome("late", "late", planned.state)
    if planned.composition in scope.quarantined:
        return Outcome("withheld", "quarantined", planned.state)
    return Outcome("published", "published, held" if scope.held else "published", planned.state)


def publish(
    scope: Scope,
    result: Batch,
    attempts: Sequence[tuple[str, str]],
    reached: Mapping[str, int],
    at: str,
    limits: Limits,
) -> Scope:
    """The scope after a batch. `attempts`: the state and the attempt of each publication."""
    new = [
        Publication(
            state,
            attempt,
            publication.producer,
            publication.derived,
            publication.kind,
            publication.late,
            publication.composition,
            tuple(event.identity for event in publication.events),
            at,
        )
        for publication, (state, attempt) in zip(result.publications, attempts, strict=True)
    ]
    changed = replace(
        scope,
        producer=result.fold_base.producer,
        derived=result.fold_base.derived,
        used=result.fold_base.used,
        positions={**scope.positions, **reached},
        folded_events=(*scope.folded_events, *result.remembered)[-limits.folded_events :],
    )
    return _with_publications(changed, new, at, limits)


def _with_publications(scope: Scope, new: Sequence[Publication], at: str, limits: Limits) -> Scope:
    moving = [publication for publication in new if not publication.late]
    live, desired = scope.live, scope.desired
    if moving:
        desired = moving[-1].name
        if not scope.held and moving[-1].composition not in scope.quarantined:
            live = desired
    return _next(
        replace(scope, live=live, desired=desired, retained=(*scope.retained, *new)), at, limits
    )


def _next(scope: Scope, at: str, limits: Limits) -> Scope:
    """One more change: the time since which each publication is superseded, and the dropped
    publications.
    """
    current = {scope.live, scope.desired}
    marked = [
        replace(
            publication,
            superseded_at=None if publication.name in current else publication.superseded_at or at,
        )
        for publication in scope.retained
    ]
    expendable = [item.name for item in marked if item.name not in current and not item.pinned]
    gone = set(expendable[: max(0, len(marked) - limits.retained)])
    kept = tuple(item for item in marked if item.name not in gone)
    return replace(scope, sequence=scope.sequence + 1, retained=kept)


# -- rollback requests


def _rollback_batch(
    scope: Scope, changes: Sequence[Event], outcomes: dict[Position, Outcome]
) -> Batch:
    if len(changes) > 1:
        raise Violation("a rollback request is its own batch")
    (event,) = changes
    said = rollback_outcome(scope, event.request)
    if isinstance(said, Outcome):
        return Batch(_fold_base(scope), (), outcomes | {event.position: said}, ())
    outcomes = outcomes | {event.position: Outcome("published", "rolled back", said.state)}
    return Batch(_fold_base(scope), (), outcomes, ((event.identity, event.digest),), said)


def _fold_base(scope: Scope) -> FoldBase:
    return FoldBase(scope.composition, scope.producer, scope.derived, scope.used)


def rollback_outcome(scope: Scope, request: Request) -> Publication | Outcome:
    """The publication to roll back to, or the reason against it."""
    if scope.sequence == 0:
        return Outcome("dead-lettered", "no such scope")
    live = scope.publication(scope.live)
    if request.expected_live is not None and (live is None or live.state != request.expected_live):
        return Outcome("ignored", "not the expected one")
    target = scope.find(request.state)
    if target is None:
        return Outcome("dead-lettered", "not retained")
    if target.composition in scope.quarantined:
        return Outcome("dead-lettered", "quarantined")
    if scope.held and scope.live == target.name:
        return Outcome("ignored", "live and held already", request.state)
    return target


def requested_rollback(
    scope: Scope, result: Batch, reached: Mapping[str, int], at: str, limits: Limits
) -> Scope:
    """The scope after a rollback request."""
    assert result.rollback is not None
    changed = replace(
        scope,
        positions={**scope.positions, **reached},
        folded_events=(*scope.folded_events, *result.remembered)[-limits.folded_events :],
    )
    return _next(_rolled_back(changed, result.rollback), at, limits)


def _rolled_back(scope: Scope, target: Publication) -> Scope:
    return replace(scope, live=target.name, desired=scope.desired or target.name, held=True)


# -- one event alone


def alone(scope: Scope, event: Event, refused: Refused, limits: Limits) -> Outcome | None:
    """The outcome of an event without any change of the pointer. None: it would change it."""
    result = batch(scope, [event], refused, limits)
    return None if result.publications or result.rollback else result.outcomes[event.position]


# -- commands of operators (protocol 4)


@dataclass(frozen=True, slots=True)
class Command:
    """A requested command."""

    name: str
    target: str = ""
    back: str | None = None
    """The state of --rollback-to."""
    on: bool = True
    """Of pin: pin it. Of recover: without --no-hold."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What retention keeps beside live, desired and pinned publications."""

    newest: int
    days: float


REFUSED, SAME = "refused", "nothing to do"


def carried_out(scope: Scope, command: Command, at: str, limits: Limits) -> Scope | str:
    """The scope after a command; REFUSED, or SAME if there is nothing to change."""
    changed = _COMMANDS[command.name](scope, command, limits)
    return changed if isinstance(changed, str) else _next(changed, at, limits)


def _rollback(scope: Scope, command: Command, _: Limits) -> Scope | str:
    target = scope.find(command.target)
    if target is None or target.composition in scope.quarantined:
        return REFUSED
    if command.name == "discard":
        same = scope.live == scope.desired == target.name and not scope.held
        return SAME if same else replace(scope, live=target.name, desired=target.name, held=False)
    return SAME if scope.held and scope.live == target.name else _rolled_back(scope, target)


def _hold(scope: Scope, _command: Command, _: Limits) -> Scope | str:
    return replace(scope, held=True)


def _resume(scope: Scope, _command: Command, _: Limits) -> Scope | str:
    if scope.composition in scope.quarantined:
        return REFUSED
    same = scope.live == scope.desired and not scope.held
    return SAME if same else replace(scope, live=scope.desired, held=False)


def _quarantine(scope: Scope, command: Command, _: Limits) -> Scope | str:
    target = scope.find(command.target)
    back = scope.find(command.back) if command.back else None
    if target is None or (command.back and back is None):
        return REFUSED
    live = scope.publication(scope.live)
    is_live = live is not None and live.composition == target.composition
    if target.composition in scope.quarantined and not is_live:
        return SAME
    quarantined = scope.quarantined | {target.composition}
    if back is None:
        return REFUSED if is_live else replace(scope, quarantined=quarantined)
    if back.composition in quarantined:
        return REFUSED
    return replace(scope, live=back.name, held=True, quarantined=quarantined)


def _lift(scope: Scope, command: Command, _: Limits) -> Scope | str:
    target = scope.find(command.target)
    if target is None:
        return REFUSED
    if target.composition not in scope.quarantined:
        return SAME
    return replace(scope, quarantined=scope.quarantined - {target.composition})


def _pin(scope: Scope, command: Command, limits: Limits) -> Scope | str:
    target = scope.find(command.target)
    if target is None:
        return REFUSED
    if target.pinned == command.on:
        return SAME
    if command.on and sum(publication.pinned for publication in scope.retained) >= limits.pinned:
        return REFUSED
    return replace(
        scope,
        retained=tuple(
            replace(publication, pinned=command.on) if publication == target else publication
            for publication in scope.retained
        ),
    )


def _retire(scope: Scope, _command: Command, _: Limits) -> Scope | str:
    if scope.live is None and scope.desired is None:
        return SAME
    return replace(scope, live=None, desired=None, held=False)


_COMMANDS: Mapping[str, Callable[[Scope, Command, Limits], Scope | str]] = {
    "rollback": _rollback,
    "discard": _rollback,
    "hold": _hold,
    "resume": _resume,
    "quarantine": _quarantine,
    "lift": _lift,
    "pin": _pin,
    "retire": _retire,
}


def republished(scope: Scope, attempt: str, at: str, limits: Limits) -> Scope:
    """Desired rendered again: another attempt of the same state, which moves live and desired like
    a new one.
    """
    desired = scope.publication(scope.desired)
    if desired is None:
        raise Violation("nothing is desired that could be republished")
    again = replace(desired, attempt=attempt, at=at, superseded_at=None, pinned=False, late=False)
    return _with_publications(scope, [again], at, limits)


def collected(
    scope: Scope, policy: Policy, as_of: str, at: str, limits: Limits
) -> tuple[Scope, set[str]]:
    """The scope after a collection with the time `as_of`, and the released publications."""
    newest = {publication.name for publication in scope.retained[-policy.newest :]}
    kept_names = newest | {scope.live, scope.desired}
    released = {
        publication.name
        for publication in scope.retained
        if publication.name not in kept_names
        and not publication.pinned
        and _days(publication.superseded_at, as_of) >= policy.days
    }
    left = tuple(publication for publication in scope.retained if publication.name not in released)
    changed = replace(scope, retained=left, gc_epoch=scope.gc_epoch + 1)
    return _next(changed, at, limits), released


def _days(since: str | None, until: str) -> float:
    if since is None:
        return -1
    seconds = (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()
    return max(0.0, seconds / 86_400)


# -- after a lost pointer


def must_be_held(scope: Scope, *, asked: bool) -> bool:
    """Whether a rebuilt pointer must have a hold. `asked`: without --no-hold.

    Only a hold or a quarantine keeps live and desired apart.
    """
    desired = scope.publication(scope.desired)
    withheld = desired is not None and desired.composition in scope.quarantined
    if scope.live != scope.desired and not withheld:
        return True
    return asked and (scope.live is not None or scope.desired is not None)


# -- comparison with a document


def differences(
    scope: Scope, signed: Mapping[str, Any], digest_of: Callable[[Composition], str]
) -> list[str]:
    """The fields of a pointer document that differ from the result of the rules."""
    retained = [
        {
            "state": publication.state,
            "attempt": publication.attempt,
            "revision": (publication.producer, publication.derived),
            "kind": publication.kind,
            "late": publication.late,
            "composition": digest_of(publication.composition),
            "pinned": publication.pinned,
            "superseded_at": publication.superseded_at,
        }
        for publication in scope.retained
    ]
    expected: dict[str, Any] = {
        "sequence": scope.sequence,
        "live": scope.live,
        "desired": scope.desired,
        "number": (scope.producer, scope.derived),
        "positions": dict(scope.positions),
        "folded_events": [list(item) for item in scope.folded_events],
        "held": scope.held,
        "quarantined": {digest_of(quarantine) for quarantine in scope.quarantined},
        "retained": retained,
        "gc_epoch": scope.gc_epoch,
    }
    found = _seen(signed)
    return [
        f"{name} is {found[name]}, the rules say {expected[name]}"
        for name in expected
        if found[name] != expected[name]
    ]


def _seen(signed: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sequence": signed["sequence"],
        "live": name_of(signed["live"]),
        "desired": name_of(signed["desired"]),
        "number": number_of(signed["highest_revision"]),
        "positions": dict(signed["positions"]),
        "folded_events": [
            [folded["identity"], folded["event"]] for folded in signed["folded_events"]
        ],
        "held": signed["hold"] is not None,
        "quarantined": {quarantine["composition_digest"] for quarantine in signed["quarantined"]},
        "retained": [
            {
                "state": publication["state"],
                "attempt": publication["attempt"],
                "revision": number_of(publication["revision"]),
                "kind": publication["kind"],
                "late": publication["late"],
                "composition": publication["composition_digest"],
                "pinned": publication["pinned"],
                "superseded_at": publication["superseded_at"],
            }
            for publication in signed["retained"]
        ],
        "gc_epoch": signed["gc_epoch"],
    }


def number_of(revision: str) -> tuple[int, int]:
    """The producer's revision and the count of derived states in the text of a revision."""
    producer, _, derived = revision.partition(".")
    return int(producer), int(derived or 0)


def name_of(publication: Mapping[str, Any] | None) -> str | None:
    return None if publication is None else f"{publication['state']}@{publication['attempt']}"
