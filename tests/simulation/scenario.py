"""The content of a seed: the store, the replicas, their faults and the time of each. `world` runs
it.

A scenario is data only. This is swarm testing: every seed enables a random subset of the faults,
some of them at a high rate, so that rare combinations are not hidden by frequent ones.

Seeds of the first generation are numbers. Their worlds never change, so that seeds.txt stays valid.
Seeds of the second one, `2/17`, add to such a world what the first did not have: each addition
draws from a separate random generator. Seeds of the third one, `3/17`, divide the logs of such a
world into several instances, which are taken from daemons and given to them, and let logs forget.
They have more events without scopes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from daemon.publishing.maintenance.garbage_collector import BOTH, CollectionPart
from events.model import (
    BUNDLE_STATE_CREATED,
    MODEL_VERSION_CREATED,
    MODEL_VERSION_UPDATED,
    ROLLBACK_REQUESTED,
    Event,
)
from renderers.values import Scope
from tests.builders import composition_document, model_document
from tests.simulation.model import Request
from tests.simulation.oracle import CPUS
from tests.simulation.store import Crash, Faults

SCOPES = (Scope("visual-anomaly", "core-versions"), Scope("visual-anomaly", "edge"))
MODELS = ("101", "102")
THIRD = "103"
"""A model that a scope gets later, with files that it did not have before."""
VERSIONS = ("1", "2", "3", "10", "edge")
_SOURCE = "urn:simulation"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that reaches an intake."""

    at: float
    log: int
    event: Event
    scopes: tuple[str, ...] | None
    asked: Request


@dataclass(frozen=True, slots=True)
class Act:
    """An action of an operator or an editor, or a fault, at a time.

    `draw` is its own random number.
    """

    at: float
    what: str
    draw: str


@dataclass
class Scenario:
    """One seed."""

    seed: str
    by_content: bool
    deletes_blindly: bool
    permute: bool
    paced: bool
    replicas: int
    shared_log: bool
    scopes: tuple[Scope, ...]
    faults: Faults
    short_history: bool
    """Chunks are made after a few changes."""
    few_retained: bool
    """The pointer has room for three publications."""
    returning: bool
    """There are few compositions, which repeat under other ids, to test quarantine."""
    restarted_at_rest: bool
    """At the end every daemon is restarted.

    Otherwise the running ones must come to rest with the memory they have.
    """
    wrong_clocks: bool
    """The bucket's clock is right, those of processes may be wrong; releasing and deleting may be
    two commands.
    """
    arrivals: list[Arrival] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    crash: Crash | None = None
    blocked: str = ""
    """A path of the live tree that no process can write."""
    second: bool = False
    """Of the second generation."""
    small_batches: bool = False
    """A batch has at most four events and two states."""
    short_memory: bool = False
    """The pointer remembers three events."""
    journal: bool = False
    """The sources are the real journal, on files."""
    partitions: int = 1
    """The instances of each log."""
    forgetful: bool = False
    """The logs remember only acknowledged events and dead letters over a restart, like Kafka."""
    refused: frozenset[tuple[str, str]] = frozenset()
    """The gate refuses each bundle that has one of these models at this version."""

    @property
    def logs(self) -> int:
        return 1 if self.shared_log else self.replicas

    def ahead(self, process: str) -> float:
        """By how many seconds the clock of a process is ahead.

        That of the last collection is right, or it would wait.
        """
        if not self.wrong_clocks or process == "last-gc":
            return 0
        return random.Random(f"{self.seed}/{process}/clock").choice(
            (0, 0, -3 * 86_400, -20, 5, 20, 60, 3 * 86_400)
        )

    def parts(self, process: str) -> frozenset[CollectionPart]:
        """The parts of a collection."""
        some: tuple[frozenset[CollectionPart], ...] = (
            BOTH,
            frozenset({"release"}),
            frozenset({"delete"}),
            frozenset({"delete"}),
        )
        return (
            random.Random(f"{self.seed}/{process}/parts").choice(some)
            if self.wrong_clocks
            else BOTH
        )


def fresh(number: int) -> str:
    """A seed of the newest generation."""
    return f"3/{number}"


def scenario_of(seed: str) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(f"{seed}/scenario")
    by_content = chance.random() < 0.5
    scenario = Scenario(
        seed=seed,
        by_content=by_content,
        deletes_blindly=chance.random() < 0.25,
        permute=chance.random() < 0.7,
        paced=not by_content and chance.random() < 0.3,
        replicas=chance.choice((1, 2, 2, 2, 3)),
        shared_log=chance.random() < 0.35,
        scopes=SCOPES if chance.random() < 0.15 else SCOPES[:1],
        faults=_faults(chance),
        short_history=chance.random() < 0.35,
        few_retained=chance.random() < 0.25,
        returning=chance.random() < 0.2,
        restarted_at_rest=chance.random() < 0.5,
        # A separate random generator, so that the other worlds stay unchanged.
        wrong_clocks=random.Random(f"{seed}/clocks").random() < 0.2,
    )
    scenario.arrivals = _arrivals(scenario, chance)
    scenario.acts = _acts(scenario, chance)
    generation = int(seed.partition("/")[0]) if "/" in seed else 1
    if generation >= 2:
        _extend(scenario, random.Random(f"{seed}/more"))
    if generation >= 3:
        _add_rare_models(scenario, random.Random(f"{seed}/rare models"))
    if generation >= 3 and not scenario.journal:
        _divide(scenario, random.Random(f"{seed}/partitions"))
    return scenario


_LIKELY = {"crash": 0.02, "pause": 0.04, "gone_for_reads": 0.04, "losers_hear_5xx": 0.5}


def _faults(chance: random.Random) -> Faults:
    rates = Faults()
    if chance.random() < 0.05:
        return rates
    for rate in fields(rates):
        if chance.random() < 0.45:
            setattr(rates, rate.name, _LIKELY.get(rate.name, 0.06) * chance.choice((0.5, 1, 1, 2)))
    return rates


@cache
def _document(scope: Scope, versions: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    document = composition_document(1, bundle=scope.bundle, target=scope.target)
    document["models"] = [_member(item, at) for item, at in versions]
    return document


def _member(model: str, version: str) -> dict[str, Any]:
    """A model whose files below base/ and whose defaults below example/ both show its version."""
    return model_document(
        model, version=version, serving={"resources": {"limits": {"cpus": CPUS[version]}}}
    )


def state(
    event_id: str, scope: Scope, state: str, revision: int, versions: Sequence[str]
) -> tuple[Event, Request]:
    """Of the first models, as many as there are versions."""
    models = tuple(zip((*MODELS, THIRD), versions, strict=False))
    data = _document(scope, models) | {"state": {"id": state, "revision": revision}}
    return Event(event_id, _SOURCE, BUNDLE_STATE_CREATED, data), Request(
        "state", dict(models), state, revision
    )


def model(
    event_id: str,
    scopes: tuple[Scope, ...],
    model: str,
    version: str,
    *,
    updated: bool,
    complete: bool = True,
    deleted: bool = False,
) -> tuple[Event, Request]:
    data: dict[str, Any] = {
        "model": _member(model, version) if complete else {"id": model, "version": version}
    }
    if scopes:
        data["bundles"] = [{"name": scope.bundle, "target": scope.target} for scope in scopes]
    if deleted:
        data["change"] = "deleted"
    kind = MODEL_VERSION_UPDATED if updated else MODEL_VERSION_CREATED
    asked = Request(
        "model",
        {model: version},
        updated=updated,
        deleted=deleted,
        complete=complete,
        named=bool(scopes),
    )
    return Event(event_id, _SOURCE, kind, data), asked


def _rollback(
    event_id: str, scope: Scope, state: str, expected: str | None = None
) -> tuple[Event, Request]:
    data = {
        "bundle": {"name": scope.bundle, "target": scope.target},
        "to": {"state_id": state},
        "reason": event_id,
    }
    if expected is not None:
        data["expected_state_id"] = expected
    return Event(event_id, _SOURCE, ROLLBACK_REQUESTED, data), Request(
        "rollback", {}, state, expected_live=expected
    )


def _arrivals(scenario: Scenario, chance: random.Random) -> list[Arrival]:
    """A producer's stream: states with mostly rising revisions, models in between, some of it late,
    twice, or by two intakes.
    """
    arrivals: list[Arrival] = []
    at, revision = 0.0, 0
    returning = scenario.returning
    variety = (2, 1) if returning else (2, 2)
    gaps = (
        (2.0, 10.0)
        if returning
        else chance.choice(((0.05, 0.3), (0.3, 2.0, 10.0), (2.0, 10.0, 40.0)))
    )
    used: list[tuple[str, int, Scope]] = []
    for number in range(chance.randint(7, 11) if returning else chance.randint(3, 8)):
        if chance.random() < 0.55:
            at += chance.choice(gaps) * chance.random()
        scope = chance.choice(scenario.scopes)
        event_id = f"event-{number}"
        versions = tuple(str(chance.randint(1, most)) for most in variety)
        kind = chance.random()
        if number == 0 or kind < (0.8 if returning else 0.45):
            revision += chance.choice((1, 1, 2))
            number_of_it = revision if chance.random() < 0.7 else chance.randint(1, revision)
            event, asked = state(event_id, scope, f"state-{number_of_it}", number_of_it, versions)
            used.append((asked.state, number_of_it, scope))
        elif kind < 0.9 or not used:
            named = () if chance.random() < 0.2 else (scope,)
            event, asked = model(
                event_id,
                named,
                chance.choice(MODELS),
                str(chance.randint(1, 3)),
                updated=chance.random() < 0.6,
            )
        else:
            named_state, _, scope = chance.choice(used)
            event, asked = _rollback(event_id, scope, named_state)
        scopes = None if asked.kind == "model" and "bundles" not in event.data else (str(scope),)
        log = chance.randrange(scenario.logs)
        arrivals.append(Arrival(at, log, event, scopes, asked))
        if (
            chance.random() < 0.15
        ):  # the producer got no answer: the same event again, perhaps through another intake
            again = chance.randrange(scenario.logs)
            arrivals.append(Arrival(at + 20 * chance.random(), again, event, scopes, asked))
    return sorted(arrivals, key=lambda arrival: arrival.at)


_THEMES = (
    ("rollback", "hold", "resume", "discard", "pin"),
    ("quarantine", "reject", "reject", "resume", "lift", "rollback"),
    ("rollback", "hold", "resume", "quarantine", "lift", "pin", "discard", "retire"),
)
_EDITS = ("edit-example", "edit-example", "delete-example", "edit-base", "stray")
_FATES = ("kill", "kill", "drain", "pull", "pass")


def _acts(scenario: Scenario, chance: random.Random) -> list[Act]:
    times = [arrival.at for arrival in scenario.arrivals]
    end = max(times) + 20

    def time() -> float:
        """Mostly while other actions happen."""
        return (
            chance.choice(times) + 4 * chance.random() ** 2
            if chance.random() < 0.6
            else end * chance.random()
        )

    acts: list[Act] = []
    theme = _THEMES[1] if scenario.returning else chance.choice(_THEMES)
    for names, most in ((theme, 6), (_EDITS, 3), (_FATES, 3)):
        if chance.random() < 0.75:
            some = range(chance.randint(0, most))
            acts += [Act(time(), chance.choice(names), f"{names[0]}-{index}") for index in some]
    if chance.random() < 0.35:
        at = [
            time() + chance.choice((5, 60)) * chance.random()
            for _ in range(chance.choice((1, 2, 3, 8)))
        ]
        acts += [Act(item, "gc", f"gc-{index}") for index, item in enumerate(at)]
    return sorted(acts, key=lambda act: act.at)


# -- the second generation


def _extend(scenario: Scenario, chance: random.Random) -> None:
    """Add what the first generation does not have."""
    scenario.second = True
    if chance.random() < 0.6:
        scenario.scopes = SCOPES
    scenario.small_batches = chance.random() < 0.35
    scenario.short_memory = chance.random() < 0.3
    if chance.random() < 0.35:
        some = range(chance.choice((1, 1, 2)))
        scenario.refused = frozenset(
            (chance.choice((*MODELS, THIRD)), chance.choice(VERSIONS[1:])) for _ in some
        )
    if chance.random() < 0.05:
        _many_quarantines(scenario, chance)
    scenario.journal = not scenario.shared_log and chance.random() < 0.35
    scenario.arrivals = sorted(
        [*scenario.arrivals, *_more_arrivals(scenario, chance)], key=lambda arrival: arrival.at
    )
    if random.Random(f"{scenario.seed}/blocked").random() < 0.1:
        scenario.blocked = "example/conf/bundle/nginx.conf"
    more = _more_acts(scenario, chance)  # may remove some of the others
    scenario.acts = sorted([*scenario.acts, *more], key=lambda act: act.at)


def _more_arrivals(scenario: Scenario, chance: random.Random) -> list[Arrival]:
    """States with clashing ids and revisions, new, incomplete or deleted models, many at once, and
    for every scope.
    """
    burst = chance.random() < 0.4
    end = max(arrival.at for arrival in scenario.arrivals)
    at = end * chance.random()
    used = [arrival.asked for arrival in scenario.arrivals if arrival.asked.kind == "state"]
    highest = max(item.revision for item in used)
    arrivals: list[Arrival] = []
    for number in range(chance.randint(6, 22) if burst else chance.randint(2, 9)):
        at = at + 0.05 * chance.random() if burst else (end + 10) * chance.random()
        event_id, scope, kind = f"more-{number}", chance.choice(scenario.scopes), chance.random()
        if kind < 0.25:
            highest += chance.choice((1, 1, 2, 3))
            event, asked = state(
                event_id, scope, f"state-{highest}", highest, _some_versions(chance)
            )
        elif kind < 0.4:  # the same once more, or an id or a revision of another one
            again = chance.choice(used)
            name, revision, versions = again.state, again.revision, tuple(again.versions.values())
            clash = chance.random()
            if clash < 0.25:
                name = f"other-{number}"
            elif clash < 0.5:
                revision = chance.randint(1, highest + 1)
            elif clash < 0.6:
                versions = _some_versions(chance)
            event, asked = state(event_id, scope, name, revision, versions)
        elif kind < 0.9:
            named = chance.choice(((), (), (scope,), (scope,), scenario.scopes))
            event, asked = model(
                event_id,
                named,
                chance.choice((*MODELS, *MODELS, THIRD)),
                chance.choice(VERSIONS),
                updated=chance.random() < 0.5,
                complete=chance.random() < 0.75,
                deleted=chance.random() < 0.06,
            )
        else:
            expected = chance.choice((None, chance.choice(used).state))
            event, asked = _rollback(event_id, scope, chance.choice(used).state, expected)
        if asked.kind == "state":
            used.append(asked)
        scopes = tuple(sorted(map(str, (scope,) if asked.kind != "model" else _named(event))))
        log = chance.randrange(scenario.logs)
        arrivals.append(Arrival(at, log, event, scopes or None, asked))
        if (
            scenario.logs > 1 and chance.random() < 0.2
        ):  # through another intake, unchanged or with another content
            other = (log + 1) % scenario.logs
            if chance.random() < 0.4 and asked.kind == "model":
                named = tuple(map(Scope.parse, scopes))
                event, asked = model(
                    event_id, named, MODELS[0], chance.choice(VERSIONS), updated=True
                )
            arrivals.append(Arrival(at + 10 * chance.random(), other, event, scopes or None, asked))
    return arrivals


def _many_quarantines(scenario: Scenario, chance: random.Random) -> None:
    """A producer of bad states, and an operator who rejects more of them than the former limit of a
    pointer.
    """
    scenario.few_retained = scenario.returning = False
    scope, log = scenario.scopes[0], chance.randrange(scenario.logs)
    pairs = [(one, other) for one in VERSIONS for other in VERSIONS]
    for number, versions in enumerate(chance.sample(pairs, 13)):
        event, asked = state(
            f"bad-{number}", scope, f"state-{100 + number}", 100 + number, versions
        )
        scenario.arrivals.append(Arrival(2.0 * number, log, event, (str(scope),), asked))
        scenario.acts.append(Act(30 + 2.0 * number, "quarantine-next", f"next-{number}"))


def _some_versions(chance: random.Random) -> tuple[str, ...]:
    return tuple(chance.choice(VERSIONS) for _ in range(chance.choice((2, 2, 2, 3))))


def _named(event: Event) -> list[Scope]:
    return [Scope(item["name"], item["target"]) for item in event.data.get("bundles", ())]


_MORE = (
    ("republish", "restore-example", "freshen", "pin"),
    ("restore-default", "recreate-example", "edit-future", "edit-example", "delete-example"),
    ("quarantine", "lift", "reject"),
)


_JOURNAL = ("back-up", "back-up", "restore", "copy", "prune", "replay", "replay", "take-out")


def _more_acts(scenario: Scenario, chance: random.Random) -> list[Act]:
    times = [arrival.at for arrival in scenario.arrivals]
    acts: list[Act] = []
    for names, most in zip(_MORE, (5, 5, 14), strict=True):
        if chance.random() < (0.55 if most < 10 else 0.15):
            for index in range(chance.randint(1, most)):
                at = chance.choice(times) + 15 * chance.random() ** 2
                acts.append(Act(at, chance.choice(names), f"more-{names[0]}-{index}"))
    if scenario.journal:
        for index in range(chance.randint(0, 6)):
            at = chance.choice(times) + 30 * chance.random()
            acts.append(Act(at, chance.choice(_JOURNAL), f"journal-{index}"))
    if chance.random() < 0.2:
        acts.append(
            Act(chance.choice(times) + 20 * chance.random(), "lose-pointer", "lose-pointer")
        )
        # A deletion that is pending when the pointer is lost may delete what a recovery then
        # retains.
        scenario.acts = [act for act in scenario.acts if act.what != "gc"]
    else:
        acts += [
            Act(chance.choice(times) + 20 * chance.random(), "recover", f"recover-{number}")
            for number in range(2)
        ]
    return acts


# -- the third generation


def _add_rare_models(scenario: Scenario, chance: random.Random) -> None:
    """Events without scopes for a model that only some scopes have, and that others get."""
    end = max(arrival.at for arrival in scenario.arrivals)
    for number in range(chance.choice((0, 0, 2, 5))):
        named = chance.choice(((), (), (), (chance.choice(scenario.scopes),)))
        event, asked = model(
            f"rare-{number}",
            named,
            THIRD,
            chance.choice(VERSIONS),
            updated=chance.random() < 0.7,
            complete=chance.random() < 0.7 or bool(named),
        )
        scopes = tuple(map(str, named)) or None
        log = chance.randrange(scenario.logs)
        scenario.arrivals.append(Arrival((end + 20) * chance.random(), log, event, scopes, asked))
    scenario.arrivals.sort(key=lambda arrival: arrival.at)


def _divide(scenario: Scenario, chance: random.Random) -> None:
    """Logs with several instances, which are taken from daemons and given to them."""
    scenario.partitions = chance.choice((1, 2, 2, 3))
    scenario.forgetful = chance.random() < 0.5
    times = [arrival.at for arrival in scenario.arrivals]
    moves = [
        Act(chance.choice(times) + 20 * chance.random() ** 2, "rebalance", f"rebalance-{index}")
        for index in range(chance.choice((0, 0, 1, 3, 6)))
    ]
    if moves and scenario.shared_log:
        # With durable assignments an instance has one reader at a time.
        scenario.forgetful = True
    scenario.acts = sorted([*scenario.acts, *moves], key=lambda act: act.at)
