"""Follows a world with the reference model: predicts and compares each commit, event and command.

What only the world can know is observed: the order of commits, how far each commit moved the
positions, the order of a lane with several instances, and which attempt stored a publication.
Everything else of the pointer, and each outcome with its kind of reason, comes from the model.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from events.model import Outcome as ObservedOutcome
from tests.simulation import model
from tests.simulation.model import (
    Command,
    Composition,
    Event,
    Limits,
    Outcome,
    Policy,
    Publication,
    Refused,
    Scope,
    Violation,
)

Position = tuple[str, int]
"""Instance and offset."""

REASONS = {
    "published": r"published as \S+$",
    "published, held": r"published as \S+; live is held$",
    "rolled back": r"live is \S+, held$",
    "late": "older than the newest state",
    "quarantined": "its composition is quarantined|.* is quarantined: lift",
    "published already": r"state \S+ is published already",
    "id or number is used up": r"revision \d+ is state|state \S+ is published with",
    "no such scope": "there is no such scope",
    "no composition": "the scope has no composition",
    "model not in the scope": "no model",
    "deleted in the registry": "needs attention: model",
    "a higher version": r"model \S+ is at version",
    "new and incomplete": r"model \S+ is new to the scope and needs",
    "exactly so already": r"model \S+ is exactly this already",
    "another content": "event .* was folded with another content",
    "a repetition": "the scope has folded this event already",
    "refused by the gate": "the state cannot be rendered",
    "replaced before published": "replaced by state",
    "not the expected one": "expected",
    "not retained": ".* is not a retained state|.* is gone from the bucket: .*",
    "live and held already": "live is .* and held already",
}
"""The product's wording of each kind of reason."""


@dataclass
class Row:
    """An accepted event, and its scopes."""

    event: Event
    scopes: tuple[str, ...] | None
    since: Mapping[str, int]
    """How many changes each scope had when the event was accepted."""
    settled: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    """Scopes whose pointer was lost while this event waited. Nothing is predicted for it there."""
    durable: bool = True
    """Whether its source remembers recorded outcomes over a restart."""
    divided: bool = False
    """Whether its source has several instances. Their order differs from reader to reader."""


class Ledger:
    """The content of one instance of a source, as reported to the oracle."""

    def __init__(
        self,
        oracle: "Oracle",
        instance: str,
        rows: Mapping[int, Row] | None = None,
        *,
        durable: bool = True,
        divided: bool = False,
    ) -> None:
        """`durable`: the source remembers scopes and outcomes over a restart. `divided`: it has
        other instances beside this one.
        """
        self._oracle = oracle
        self._durable = durable
        self._divided = divided
        self.instance = instance
        self.rows = dict(rows or {})
        oracle.ledgers.append(self)

    def accept(
        self, offset: int, identity: str, digest: str, asked: model.Request, scopes: Any
    ) -> None:
        """An event was appended."""
        event = Event((self.instance, offset), identity, digest, asked)
        since = {scope: len(states) - 1 for scope, states in self._oracle.scopes.items()}
        named = None if scopes is None else tuple(scopes)
        self.rows[offset] = Row(event, named, since, durable=self._durable, divided=self._divided)

    def assign(self, offset: int, scopes: Sequence[str]) -> None:
        """The dispatcher assigned scopes to an event that names none.

        A source without durable memory assigns it again, perhaps to more scopes.
        """
        row = self.rows[offset]
        if row.scopes is not None:
            if not self._durable:
                row.scopes = tuple(sorted({*row.scopes, *scopes}))
            return
        row.scopes = tuple(scopes)
        needed = {
            scope for scope, index in row.since.items() if index > 0 and self._oracle.clocks_agree
        }
        for before in self.rows.values():
            if before.event.position[1] < offset and before.event.request.kind == "state":
                needed |= {scope for scope in before.scopes or () if scope not in before.settled}
        missing = sorted(
            scope for scope in needed - set(scopes) if not self._may_leave_out(scope, offset)
        )
        if missing:
            self._oracle.fail(f"{row.event.position} does not go to {missing}")

    def _may_leave_out(self, scope: str, offset: int) -> bool:
        """Whether the scope did not have the model of an event at some time after its acceptance,
        and no earlier event that may add the model waits there.

        Readers of one log may assign an event to different scopes, so an event that names none may
        wait there for another reader. It adds no model.
        """
        row = self.rows[offset]
        waits = any(
            scope in (before.scopes or ()) and scope not in before.settled
            for before in self.rows.values()
            if before.event.position[1] < offset and before.event.request.named
        )
        if scope in self._oracle.ever_lost:
            return True
        (asked,) = row.event.request.versions
        states = self._oracle.states(scope)[row.since.get(scope, 0) :]
        return not waits and any(asked not in dict(state.composition or ()) for state in states)

    def settle(self, process: str, scope: str, offset: int, observed: ObservedOutcome) -> None:
        """An event settled for the first time."""
        row = self.rows[offset]
        self._oracle.settled(process, scope, row, observed)
        row.settled.add(scope)

    @property
    def drained(self) -> bool:
        """Every event is done in all its scopes."""
        return all(
            row.scopes is not None and row.settled >= set(row.scopes) for row in self.rows.values()
        )

    def renewed(self, instance: str) -> "Ledger":
        """The same rows under a new instance."""
        rows = {
            offset: Row(
                replace(row.event, position=(instance, offset)),
                row.scopes,
                row.since,
                set(row.settled),
            )
            for offset, row in self.rows.items()
        }
        return Ledger(self._oracle, instance, rows)

    def copy(self) -> "Ledger":
        """As in a backup, under the same instance."""
        copy = self.renewed(self.instance)
        for offset, row in self.rows.items():
            for scope in row.scopes or ():
                self._oracle.inherit(scope, row, copy.rows[offset])
        return copy

    def abandon(self) -> None:
        """No process reads this any more."""
        for row in self.rows.values():
            row.excused.update(row.scopes or ())


class Oracle:
    """Predicts one world."""

    def __init__(
        self,
        fail: Callable[[str], None],
        limits: Limits,
        policy: Policy,
        refused: Refused,
        *,
        strict_commands: bool,
        clocks_agree: bool,
    ) -> None:
        """`clocks_agree`: of the processes that accept an event and those that assign its scopes."""
        self.clocks_agree = clocks_agree
        self._fail = fail
        self._limits = limits
        self._policy = policy
        self._refused = refused
        self._strict_commands = strict_commands
        self.scopes: dict[str, list[Scope]] = {}
        """Every state of each scope, from an empty one on."""
        self.ledgers: list[Ledger] = []
        self.ledger_of: dict[tuple[str, str], Ledger] = {}
        """What a process reads under an instance."""
        self.lanes: dict[tuple[str, str], Sequence[Position]] = {}
        """The events that wait for a process in a scope, in the order in which it got them."""
        self.orders: dict[str, Sequence[Position]] = {}
        """By write: the order of the lane that made it."""
        self.commands: dict[str, Command] = {}
        """The requested command of each process."""
        self.lost: set[str] = set()
        """Scopes whose pointer is lost, until it is recovered."""
        self.ever_lost: set[str] = set()
        self._digests: dict[tuple[str, Composition], str] = {}
        self._compositions: dict[str, tuple[str, Composition]] = {}
        self._expected: dict[tuple[str, int], tuple[Row, Outcome, int]] = {}
        """By scope and (the identity of) a row, because positions repeat after a journal was
        restored.
        """
        self._settled_before: list[tuple[str, Row, Outcome]] = []
        """By scope: rows that had settled when their commit landed, because an operator took them
        out. A journal that is restored from before that has them again.
        """
        self._floors: dict[tuple[str, str], int] = {}
        self._starts: dict[str, Mapping[str, int]] = {}

    def fail(self, what: str) -> None:
        """The product contradicts the rules."""
        self._fail(f"invariant 5: {what}")

    def states(self, scope: str) -> list[Scope]:
        """The state of a scope after each change."""
        return self.scopes.setdefault(scope, [Scope()])

    def started(self, process: str) -> None:
        """A process starts. From now on it validates against the present state."""
        self._starts[process] = {scope: len(states) - 1 for scope, states in self.scopes.items()}

    # -- commits

    def committed(
        self,
        scope: str,
        writer: str,
        signed: Mapping[str, Any],
        manifest: Callable[[str], Mapping[str, Any]],
        now: str,
    ) -> None:
        """The pointer of a scope changed. `manifest` reads one of a publication by its name."""
        states, entry = self.states(scope), signed["history"][-1]
        if scope in self.lost:
            return
        try:
            following, known = self._following(
                scope, states[-1], writer, signed, entry, manifest, now
            )
        except Violation as error:
            self.fail(f"{scope} at {signed['sequence']}: {error}")
            return
        gone = [
            event for event in known if event.name not in {kept.name for kept in following.retained}
        ]
        self._compare(scope, following, signed, entry, gone)
        states.append(following)

    def _following(
        self,
        scope: str,
        base: Scope,
        writer: str,
        signed: Mapping[str, Any],
        entry: Mapping[str, Any],
        manifest: Callable[[str], Mapping[str, Any]],
        now: str,
    ) -> tuple[Scope, list[Publication]]:
        """The results of the rules for `base`, and all publications that could be retained after
        it.
        """
        command = self.commands.get(writer)
        if command is None:
            return self._batch(scope, base, writer, signed, entry, manifest)
        if command.name == "republish":
            _, attempt = _parted(entry["published"][-1])
            following = model.republished(base, attempt, entry["at"], self._limits)
            self._learn(scope, following.retained[-1], manifest(entry["published"][-1]))
            return following, [*base.retained, following.retained[-1]]
        if command.name == "recover":
            raise Violation("a healthy scope was recovered")
        if command.name == "gc":
            as_of = entry["change"]["as_of"]
            if as_of > now:
                raise Violation(f"a collection used the time {as_of}, the bucket's clock was {now}")
            following, released = model.collected(
                base, self._policy, as_of, entry["at"], self._limits
            )
            if set(entry["change"]["released"]) != released:
                raise Violation(
                    f"released {entry['change']['released']}, the policy releases {sorted(released)}"
                )
            return following, list(base.retained)
        carried = model.carried_out(base, command, entry["at"], self._limits)
        if isinstance(carried, str):
            raise Violation(f"{command} was applied, and the rules give {carried}")
        return carried, list(base.retained)

    def _batch(
        self,
        scope: str,
        base: Scope,
        writer: str,
        signed: Mapping[str, Any],
        entry: Mapping[str, Any],
        manifest: Callable[[str], Mapping[str, Any]],
    ) -> tuple[Scope, list[Publication]]:
        moved = {
            at: to for at, to in signed["positions"].items() if base.positions.get(at, 0) != to
        }
        order = {at: index for index, at in enumerate(self.orders.get(entry["write_id"], ()))}
        rows = [
            row
            for instance, last in moved.items()
            for row in self._taken(
                scope, base, self.ledger_of[writer, instance], last, signed, entry, manifest
            )
        ]
        # A journal has one instance, whose order is that of its offsets.
        rows.sort(key=lambda row: order.get(row.event.position, row.event.position[1]))
        events = [row.event for row in rows]
        for instance, last in moved.items():
            if (instance, last) not in {event.position for event in events}:
                raise Violation(f"{instance} was passed up to {last}, no event there was folded")
        if not moved:
            raise Violation(f"{writer} moved no position")
        result = model.batch(base, events, self._refused, self._limits)
        attempts = [_parted(name) for name in entry["published"]]
        if [publication.state for publication in result.publications] != [
            _expected_name(item, state)
            for item, (state, _) in zip(result.publications, attempts, strict=False)
        ] or len(attempts) != len(result.publications):
            wanted = [publication.state for publication in result.publications]
            raise Violation(f"published {entry['published']}, the rules publish {wanted}")
        for planned, name in zip(result.publications, entry["published"], strict=True):
            self._made_of(scope, planned, manifest(name), name, events)
        if entry["kind"] == "rollback":
            if result.rollback is None:
                raise Violation("a rollback that the rules do not allow")
            following = model.requested_rollback(base, result, moved, entry["at"], self._limits)
        elif result.rollback is not None or not result.publications:
            raise Violation(
                f"{entry['kind']} of {[event.request for event in events]} changes nothing"
            )
        else:
            following = model.publish(base, result, attempts, moved, entry["at"], self._limits)
        for row in rows:
            said = result.outcomes[row.event.position]
            if scope in row.settled:
                self._settled_before.append((scope, row, said))
            else:
                self._expected[scope, id(row)] = row, said, len(self.states(scope))
        new = [
            publication for publication in following.retained if publication not in base.retained
        ]
        known = {publication.name for publication in base.retained}
        missing = [
            Publication(
                *_parted(name),
                item.producer,
                item.derived,
                item.kind,
                item.late,
                item.composition,
                (),
                entry["at"],
            )
            for item, name in zip(result.publications, entry["published"], strict=True)
            if name not in {kept.name for kept in following.retained}
        ]
        return following, [
            *base.retained,
            *(item for item in new if item.name not in known),
            *missing,
        ]

    def _taken(
        self,
        scope: str,
        base: Scope,
        ledger: Ledger,
        last: int,
        signed: Mapping[str, Any],
        entry: Mapping[str, Any],
        manifest: Callable[[str], Mapping[str, Any]],
    ) -> Iterator[Row]:
        """The events of a batch: all that waited up to its end.

        Events that settled without a commit before this one landed may be in it as well, if the
        pointer or a manifest names them, or if they are the last. The position of a commit is that
        of an event in its batch, even of one that changes nothing.
        """
        listed = {
            (item["instance"], item["offset"])
            for name in entry["published"]
            for item in manifest(name)["events"]
        }
        rows = [
            row
            for offset, row in sorted(ledger.rows.items())
            if base.positions.get(ledger.instance, 0) < offset <= last
            and scope in (row.scopes or ())
        ]
        waiting = {
            (row.event.identity, row.event.digest) for row in rows if scope not in row.settled
        }
        remembered = (
            {(folded["identity"], folded["event"]) for folded in signed["folded_events"]}
            - set(base.folded_events)
            - waiting
        )
        lane = self.orders.get(entry["write_id"], ())
        for row in rows:
            event = row.event
            if not (row.durable or event.request.named or event.position in lane):
                continue  # this process has assigned it again, to other scopes
            named = event.position in listed or (event.identity, event.digest) in remembered
            if scope not in row.settled or named or event.position[1] == last:
                yield row

    def _made_of(
        self,
        scope: str,
        planned: model.Planned,
        manifest: Mapping[str, Any],
        name: str,
        lane: Sequence[Event],
    ) -> None:
        """A manifest matches what the rules predict for its events."""
        if _composition(manifest) != planned.composition:
            raise Violation(
                f"{name} is {_composition(manifest)}, the rules give {planned.composition}"
            )
        observed = [
            ((event["instance"], event["offset"]), event["skipped"]) for event in manifest["events"]
        ]
        wanted = [(event.position, False) for event in planned.events] + [
            (delivery.position, True) for delivery in planned.skipped
        ]
        order = [event.position for event in lane]
        if observed != sorted(wanted, key=lambda item: order.index(item[0])):
            raise Violation(f"{name} lists {observed}, the rules give {wanted}")
        self._learn(scope, planned, manifest)

    def _learn(
        self, scope: str, made: model.Planned | Publication, manifest: Mapping[str, Any]
    ) -> None:
        """Compositions and their digests correspond, and a derived state is named by its digest."""
        digest, this = manifest["composition_digest"], (scope, made.composition)
        if self._digests.setdefault(this, digest) != digest:
            raise Violation(f"one composition has the digests {self._digests[this]} and {digest}")
        if self._compositions.setdefault(digest, this) != this:
            raise Violation(f"{digest} is the digest of two compositions")
        if made.kind == "derived" and not manifest["state"].endswith(f"-{digest[:12]}"):
            raise Violation(f"{manifest['state']} is not named by its composition {digest[:12]}")

    def _compare(
        self,
        scope: str,
        following: Scope,
        signed: Mapping[str, Any],
        entry: Mapping[str, Any],
        gone: Sequence[Publication],
    ) -> None:
        for wrong in model.differences(following, signed, lambda item: self._digests[scope, item]):
            self.fail(f"{scope} after {entry['kind']} at {signed['sequence']}: {wrong}")
        change = entry["change"]
        released = set(change.get("released", ()))
        dropped = [item.name for item in gone if item.name not in released]
        if list(change.get("dropped", ())) != dropped:
            self.fail(f"{scope} says it dropped {change.get('dropped')}, the rules drop {dropped}")
        used = {
            publication.state: [publication.producer, self._digests[scope, publication.composition]]
            for publication in gone
            if publication.kind == "explicit"
        }
        if change.get("used", {}) != used:
            self.fail(f"{scope} says {change.get('used')} is used up, the rules say {used}")

    # -- outcomes

    def settled(self, process: str, scope: str, row: Row, observed: ObservedOutcome) -> None:
        """An event is done in a scope: with the outcome of its commit, or that on a pointer that
        the process may have read.
        """
        position = row.event.position
        expected = self._expected.get((scope, id(row)))
        if scope in self.lost or scope in row.excused or self._is_explained(scope, row, observed):
            return
        states = self.states(scope)
        if expected is not None:
            _, outcome, index = expected
            if _fits(observed, outcome) or self._is_forgotten(row, observed, outcome):
                self._floors[process, scope] = index
                return
            if not row.divided:
                self.fail(
                    f"{position} in {scope} is {_described(observed)}, its commit made it {outcome}"
                )
                return
            # Another reader had the event alone, and read the pointer before this commit.
        since = max(
            row.since.get(scope, 0),
            self._floors.get((process, scope), 0),
            self._starts.get(process, {}).get(scope, 0),
        )
        possible: list[Outcome | None] = []
        forgotten = not row.durable and observed.kind == "superseded"
        if forgotten and any(self._alone(state, row.event) is None for state in states[since:]):
            return  # it was assigned again, to a scope that had passed it
        for index in range(since, len(states)):
            possible.append(self._alone(states[index], row.event))
            if possible[-1] is not None and _fits(observed, possible[-1]):
                self._floors[process, scope] = index
                return
        self.fail(
            f"{position} ({row.event.request}) in {scope} is {_described(observed)}, the rules say one of {possible}"
        )

    def _is_forgotten(self, row: Row, observed: ObservedOutcome, outcome: Outcome) -> bool:
        """Whether a source without durable memory may have this outcome for an event that was
        committed: only dead letters are remembered, and manifests list what was published.
        """
        if row.durable or outcome.kind == "dead-lettered":
            return False
        return observed.kind == "superseded" or (
            observed.kind == "published"
            and outcome.state is not None
            and _names(observed, outcome.state)
        )

    def _is_explained(self, scope: str, row: Row, observed: ObservedOutcome) -> bool:
        """Whether the journal, restored from before one of its commits, has the outcome of that
        commit for this event.

        It comes from the backup's records, or else from a manifest, in which late and held states
        look like published ones. A manifest names events by their identity, so it explains an event
        of a copied journal as well.
        """
        position, identity = row.event.position, row.event.identity
        if (scope, id(row)) in self._expected:
            return False
        committed = (
            *((other, made, outcome) for (other, _), (made, outcome, _) in self._expected.items()),
            *self._settled_before,
        )
        for other, made, outcome in committed:
            if (other, made.event.identity) != (scope, identity):
                continue
            if (
                observed.kind == "published"
                and outcome.state is not None
                and _names(observed, outcome.state)
            ):
                return True
            if made.event.position == position and _fits(observed, outcome):
                return True
        return False

    def _alone(self, state: Scope, event: Event) -> Outcome | None:
        if event.position[1] <= state.positions.get(event.position[0], 0):
            return None
        return model.alone(state, event, self._refused, self._limits)

    def at_rest(self, ledgers: Sequence[Ledger]) -> Iterator[str]:
        """The outcomes of every commit are recorded in the sources that exist in the end."""
        read = {id(row) for ledger in ledgers for row in ledger.rows.values()}
        for (scope, _), (row, _, _) in self._expected.items():
            if not row.durable and not row.event.request.named:
                continue  # another reader may have assigned it to no scope, and acknowledged it
            if id(row) in read and scope not in row.settled | row.excused:
                yield f"invariant 5: {row.event.position} was folded into {scope} and has no outcome"

    def inherit(self, scope: str, row: Row, copy: Row) -> None:
        """The outcome of an event in a commit also applies to the copy of its row."""
        if (scope, id(row)) in self._expected:
            _, outcome, index = self._expected[scope, id(row)]
            self._expected[scope, id(copy)] = copy, outcome, index
            copy.excused.update(row.excused)

    # -- commands

    def said(self, process: str, scope: str, since: int, said: str) -> None:
        """A command ended without a change: its output `said` must name a rule or the pointer as
        the reason.
        """
        command = self.commands.get(process)
        if command is None or scope in self.lost or command.name in {"gc", "republish", "recover"}:
            return
        states = self.states(scope)[since:]
        results = [model.carried_out(state, command, "", self._limits) for state in states]
        wanted = {"same": model.SAME, "Refused": model.REFUSED, "NotFound": model.REFUSED}[said]
        absent = said == "NotFound" and (states[0].sequence == 0 or not self._strict_commands)
        if wanted not in results and not absent:
            self.fail(f"{process} carried out {command} and reports {said}, the rules do not")

    # -- a lost pointer

    def lose(self, scope: str) -> None:
        """From now on nothing is predicted for the scope, until it is recovered."""
        self.lost.add(scope)
        self.ever_lost.add(scope)
        for ledger in self.ledgers:
            for row in ledger.rows.values():
                if scope not in row.settled:
                    row.excused.add(scope)

    def recovered(
        self,
        scope: str,
        signed: Mapping[str, Any],
        stored: Sequence[Mapping[str, Any]],
        history: Sequence[Any],
    ) -> None:
        """Continue from the result of a recovery, which the watcher checks.

        `stored`: every manifest that ever existed.
        """
        states = self.states(scope)
        self.lose(scope)
        self.lost.discard(scope)
        manifests = {f"{item['state']}@{item['attempt']}": item for item in stored}
        for described in stored:
            self._digests.setdefault(
                (scope, _composition(described)), described["composition_digest"]
            )
            self._compositions.setdefault(
                described["composition_digest"], (scope, _composition(described))
            )
        retained = tuple(
            self._adopted(publication, manifests[model.name_of(publication) or ""])
            for publication in signed["retained"]
        )
        used = {
            (publication.state, publication.producer, publication.composition)
            for publication in retained
            if publication.kind == "explicit"
        }
        for entry in history:
            for name in entry["published"]:
                described = manifests[name]
                if described["kind"] == "explicit":
                    used.add(
                        (
                            described["state"],
                            model.number_of(described["revision"])[0],
                            _composition(described),
                        )
                    )
            for state, (producer, digest) in entry["change"].get("used", {}).items():
                used.add((state, producer, self._compositions[digest][1]))
        producer, derived = model.number_of(signed["highest_revision"])
        states.append(
            Scope(
                sequence=signed["sequence"],
                live=model.name_of(signed["live"]),
                desired=model.name_of(signed["desired"]),
                producer=producer,
                derived=derived,
                positions=dict(signed["positions"]),
                folded_events=tuple(
                    (folded["identity"], folded["event"]) for folded in signed["folded_events"]
                ),
                held=signed["hold"] is not None,
                quarantined=frozenset(
                    self._compositions[quarantine["composition_digest"]][1]
                    for quarantine in signed["quarantined"]
                ),
                retained=retained,
                used=frozenset(used),
                gc_epoch=signed["gc_epoch"],
            )
        )

    def check_rebuilt(self, scope: str, writer: str) -> None:
        """Checks that a pointer which this recovery has rebuilt has a hold if it must."""
        now, command = self.states(scope)[-1], self.commands[writer]
        if not now.held and model.must_be_held(now, asked=command.on):
            self.fail(f"{scope} was recovered by {command} and is not held")

    def _adopted(self, publication: Mapping[str, Any], manifest: Mapping[str, Any]) -> Publication:
        composition = _composition(manifest)
        identities = tuple(
            row.event.identity
            for event in manifest["events"]
            if not event["skipped"]
            for ledger in self.ledgers
            if ledger.instance == event["instance"]
            and (row := ledger.rows.get(event["offset"])) is not None
        )
        return Publication(
            publication["state"],
            publication["attempt"],
            *model.number_of(publication["revision"]),
            publication["kind"],
            publication["late"],
            composition,
            identities,
            publication["at"],
            publication["superseded_at"],
            publication["pinned"],
        )


def _parted(name: str) -> tuple[str, str]:
    state, _, attempt = name.rpartition("@")
    return state, attempt


def _expected_name(planned: model.Planned, state: str) -> str:
    """The name of a publication, as far as the rules give it without a digest."""
    return planned.state if planned.kind == "derived" and state.startswith(planned.state) else state


def _composition(manifest: Mapping[str, Any]) -> Composition:
    """The models of a manifest. Artifacts and limits of these worlds contain the version."""
    return frozenset(
        (
            model["id"],
            (
                model["version"],
                model["artifact"]["uri"].rpartition("/")[2],
                CPUS_OF[model["serving"]["resources"]["limits"]["cpus"]],
            ),
        )
        for model in manifest["composition"]["models"]
    )


CPUS = {"1": 1, "2": 2, "3": 3, "10": 10, "edge": 7}
"""The fields of each version of a model, so that its files show it."""
CPUS_OF = {str(cpus): version for version, cpus in CPUS.items()}


def _fits(observed: ObservedOutcome, expected: Outcome) -> bool:
    if expected.state is not None and not _names(observed, expected.state):
        return False
    return (
        observed.kind == expected.kind
        and re.match(REASONS[expected.why], observed.reason) is not None
    )


def _names(observed: ObservedOutcome, state: str) -> bool:
    """The digest at the end of a derived state's id is not predicted."""
    return observed.state == state or (
        state.endswith("-") and (observed.state or "").startswith(state)
    )


def _described(observed: ObservedOutcome) -> str:
    return f"{observed.kind} ({observed.reason}, {observed.state})"
