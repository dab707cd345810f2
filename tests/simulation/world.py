"""Runs a scenario: real workers, pipelines, publishers and commands on a simulated bucket, then a
rest.

A process is one root task with empty memory. Killing it cancels that task and stops all its further
calls; its requests in progress still arrive. The bucket and the log of its source outlive it.
"""

import asyncio
import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, ClassVar

from daemon import batches, worker
from daemon.changes import interpret
from daemon.lifecycle import Stop
from daemon.pipeline import Pipeline
from daemon.publishing import archive, manifest, operator_commands, pointer, protocol
from daemon.publishing.errors import (
    NotFound,
    ObjectGone,
    OperationRefused,
    OutcomeUnresolved,
    PointerLost,
    PointerMoved,
    PublishingError,
    SequenceWentBack,
)
from daemon.publishing.live_tree.results import UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.maintenance import recovery_rules
from daemon.publishing.maintenance.garbage_collector import GarbageCollector
from daemon.publishing.maintenance.recovery import Recoverer
from daemon.publishing.maintenance.recovery_rules import RecoveryOptions
from daemon.publishing.maintenance.retention_rules import RetentionPolicy
from daemon.publishing.operator_commands import Operations
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import Reader
from daemon.rendering import Rendering
from daemon.retry import Backoff
from daemon.runtime import Runtime
from daemon.stores.errors import StoreBusy, StoreError, StoreUnavailable
from daemon.stores.port import ObjectStore
from daemon.stores.wrappers.rate_limit import RateLimitedStore
from daemon.stores.wrappers.timeout import TimeLimitedStore
from daemon.timers.freshness import FreshnessTimer
from daemon.worker import Worker
from events.errors import SourceUnavailable
from events.model import Event, Identity, Position
from renderers import gate
from renderers.bundle import Customisation, Renderer
from renderers.composition import Composition, Stamp
from renderers.errors import GateFailure
from renderers.values import RenderedFile, Scope
from tests.simulation import model
from tests.simulation.bucket import Bucket
from tests.simulation.bugs import planted
from tests.simulation.disk import Disk, replay_one, take_out
from tests.simulation.invariants import EDITOR, FATE, Report, Watcher
from tests.simulation.loop import Broken, SimulatedLoop, Stuck, sealed
from tests.simulation.model import Command, Limits
from tests.simulation.oracle import Ledger, Oracle
from tests.simulation.runtime import SimulatedRuntime
from tests.simulation.scenario import SCOPES, THIRD, Act, Arrival, Scenario, scenario_of
from tests.simulation.source import Log, LogSource, Watch
from tests.simulation.store import LATEST, Crash, RemoteStore

_CALL_SECONDS = 20.0
_COMMANDS = 4
_LONGEST_DRAIN = 2_000.0
_PASS_SECONDS = 45.0
GRACE_SECONDS = 6.0
"""Shorter than a pause may be, because the epoch protects against a paused process, not the grace.
"""
POLICY = RetentionPolicy(
    newest=1, days=10 / 86_400, dropped_days=5 / 86_400, grace_hours=GRACE_SECONDS / 3_600
)
_OWN = Customisation()


class _WarmRendering(Rendering):
    """The real renderer and the real gate. Both are pure, so their results serve every world."""

    _made: ClassVar[dict[tuple[str, Stamp], tuple[RenderedFile, ...]]] = {}

    def render(self, composition: Composition, stamp: Stamp) -> tuple[RenderedFile, ...]:
        known = (composition.digest, stamp)
        if known not in self._made:
            self._made[known] = super().render(composition, stamp)
        return self._made[known]


class _StrictRendering(_WarmRendering):
    """Its gate refuses some bundles, independent of their content."""

    def __init__(self, refused: Callable[[Composition], bool]) -> None:
        super().__init__(Renderer(), gate.check, lambda _scope: _OWN)
        object.__setattr__(self, "_refused", refused)

    def render(self, composition: Composition, stamp: Stamp) -> tuple[RenderedFile, ...]:
        if self._refused(composition):
            raise GateFailure("base/bundle/docker-compose.yaml", 1, "another model", "this one")
        return super().render(composition, stamp)


# Pure as well, and most of the cost of a world: the bytes of archives repeat in world after world,
# and those of a document at each reader of one world.
_unpacked = lru_cache(maxsize=1_000)(archive.unpack)
_opened = lru_cache(maxsize=1_000)(pointer.opened)
_decoded = lru_cache(maxsize=1_000)(manifest.decode)
_right_members = archive.Packer.members
_right_pack = archive.pack
_packed: dict[tuple[int, ...], tuple[Sequence[archive.Member], archive.Archive]] = {}


@cache
def _member(file: RenderedFile) -> archive.Member:
    return _right_members(archive.Packer(), SCOPES[0], [file])[0]


def _members(
    _packer: archive.Packer, _scope: Scope, files: Iterable[RenderedFile]
) -> tuple[archive.Member, ...]:
    return tuple(map(_member, sorted(files, key=lambda file: file.path.encode())))


def _pack(members: Sequence[archive.Member]) -> archive.Archive:
    known = tuple(map(id, members))  # they are kept forever, above
    if known not in _packed:
        _packed[known] = (members, _right_pack(members))
    return _packed[known][1]


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one seed."""

    seed: str
    broken: str | None
    digest: str
    """Of everything that happened, in order."""
    changes: int
    """Of pointers."""
    calls: tuple[str, ...]
    """The calls to bucket and source of the process that `Scenario.crash` names, in order."""
    trace: tuple[str, ...] = field(repr=False, default=())


class Process:
    """One process: a daemon, or an operator's command."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self.said: str | None = None
        """The failure with which a command ended."""
        self._world = world
        self._dead = False
        self._root: asyncio.Task[None] | None = None
        world.processes += 1
        chance = random.Random(f"{world.scenario.seed}/{name}/{world.processes}")
        self._chance = chance
        self.runtime = SimulatedRuntime(world.loop, chance, ahead=world.scenario.ahead(name))
        remote = RemoteStore(
            world.bucket, world.loop, self, world.scenario.faults, chance, world.trace
        )
        remote.writing = world.watcher.sending
        remote.blocked = world.scenario.blocked
        self.store: ObjectStore = TimeLimitedStore(remote, _CALL_SECONDS)
        if world.scenario.paced:
            self.store = RateLimitedStore(self.store, self.runtime, 1.1)
        self.reader = Reader(self.store, self.runtime)
        self.publisher = _ReportingPublisher(self.store, self.reader, self.runtime, world, name)
        self.live_tree = LiveTree(self.store, self.reader, self.runtime)
        self.operations = Operations(self.reader, self.publisher, self.live_tree)
        self.collector = GarbageCollector(
            self.store, self.reader, self.publisher, self.runtime, POLICY
        )

    async def live(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` as the whole life of this process. Returns whether it came to its end."""
        self._root = asyncio.create_task(work)
        try:
            await asyncio.wait([self._root])
        except asyncio.CancelledError:  # the simulation itself is ending
            self.kill()
            raise
        if not self._root.cancelled() and (error := self._root.exception()) is not None:
            self._world.loop.fail(f"{self.name} ended with {error!r}")
        return not self._dead

    def kill(self) -> None:
        self._dead = True
        if self._root is not None:
            self._root.cancel()

    async def die(self) -> None:
        """Kill this process from within. No code of it continues."""
        if self._dead:
            raise asyncio.CancelledError
        self.kill()
        await asyncio.get_running_loop().create_future()

    def stops_here(self, what: str) -> Crash | None:
        """Whether the scenario crashes this process at this call to the bucket or the source."""
        crash = self._world.scenario.crash
        if crash is None or crash.process != self.name:
            return None
        self._world.calls.append(what)
        return crash if len(self._world.calls) == crash.call else None

    async def reached(self, what: str) -> None:
        """A call of the source."""
        if self._dead:
            raise asyncio.CancelledError
        if self.stops_here(what) or self._chance.random() < self._world.scenario.faults.crash / 2:
            self._world.trace(self.name, "source", what, "crash")
            await self.die()
        await asyncio.sleep(0.001 * self._chance.random())


class _ReportingPublisher(Publisher):
    """Reports the results of its own writes to the watcher."""

    def __init__(
        self,
        store: ObjectStore,
        reader: Reader,
        runtime: SimulatedRuntime,
        world: "World",
        name: str,
    ) -> None:
        super().__init__(store, reader, runtime)
        self._reports = world.watcher.reports
        self._oracle = world.oracle
        self._name = name

    async def swap(self, scope: Scope, base: Any, following: Any, **options: Any) -> Any:
        lane = self._oracle.lanes.get((self._name, str(scope)), ())
        self._oracle.orders[following.write_id] = lane
        try:
            read = await super().swap(scope, base, following, **options)
        except PointerMoved:
            self._reports.append(Report(str(scope), following.write_id, won=False))
            raise
        self._reports.append(Report(str(scope), following.write_id, won=True))
        return read


class World:
    """A running world of one seed."""

    def __init__(self, scenario: Scenario, *, traced: bool) -> None:
        self.scenario = scenario
        self.loop = SimulatedLoop(scenario.seed, permute=scenario.permute)
        self._race = random.Random(f"{scenario.seed}/race")
        self._racing = self._race.choice((0, 0, 0, 1, 2))
        self.processes = 0
        self.calls: list[str] = []
        self._traced = traced
        self._trace = hashlib.sha256()
        self.lines: list[str] = []
        clock = SimulatedRuntime(self.loop, random.Random(0)).now
        self.bucket = Bucket(
            clock, versions_by_content=scenario.by_content, deletes_blindly=scenario.deletes_blindly
        )
        self.oracle = Oracle(
            self.loop.fail,
            _limits(scenario),
            model.Policy(POLICY.newest, POLICY.days),
            lambda composition: any(
                (item, part[0]) in scenario.refused for item, part in composition
            ),
            strict_commands=not any(act.what == "gc" for act in scenario.acts),
            # A real journal has the bucket's clock here; its daemon may have another one.
            clocks_agree=not scenario.wrong_clocks
            or (scenario.second and not scenario.shared_log and not scenario.journal),
        )
        self.watcher = Watcher(
            self.loop,
            self.bucket,
            self.oracle,
            scenario.deletes_blindly,
            grace=GRACE_SECONDS,
            blocked=scenario.blocked,
        )
        self.bucket.watch = self._changed
        self.logs: list[Log] = []
        self.ledgers: dict[str, Ledger] = {}
        """By instance."""
        self.disks: list[Disk] = []
        """The real journals, instead of logs."""
        if scenario.journal:
            self.disks = [
                Disk(f"journal-{index}", self.oracle, clock) for index in range(scenario.logs)
            ]
        else:
            durable = not scenario.forgetful
            self.logs = [
                Log(*_instances(index, scenario.partitions), durable=durable)
                for index in range(scenario.logs)
            ]
            self.ledgers = {
                instance: Ledger(
                    self.oracle, instance, durable=durable, divided=scenario.partitions > 1
                )
                for log in self.logs
                for instance in log.partitions
            }
        self._sources: list[LogSource | None] = [None] * scenario.replicas
        """The open logs of the daemons."""
        self._owned: list[set[str]] = [
            set(self._log(index).partitions) if self.logs else set()
            for index in range(scenario.replicas)
        ]
        """The partitions that each daemon reads."""
        self._owners: dict[str, set[int]] = {}
        """The daemons to which each partition was given last."""
        self._down: set[int] = set()
        """Daemons that an operator does not start for now."""
        self.rendering = _StrictRendering(
            lambda composition: any(
                (item.id, item.version) in scenario.refused for item in composition.models
            )
        )
        self._daemons: list[Process | None] = [None] * scenario.replicas
        self._stops: list[Stop | None] = [None] * scenario.replicas
        self._resting = False

    # -- the trace

    def trace(self, *words: object) -> None:
        line = f"{self.loop.time():9.3f} {' '.join(map(str, words))}"
        self._trace.update(line.encode())
        if self._traced:
            self.lines.append(line)

    def _changed(self, change: Any) -> None:
        after = (
            "deleted" if change.after is None else hashlib.sha256(change.after.body).hexdigest()[:8]
        )
        self.trace("    ", change.writer, "->", change.key, after)
        self.watcher.changed(change)
        if (
            self._racing
            and change.key.endswith("/.rebundle.json")
            and change.before
            and change.writer != EDITOR
        ):
            # An editor who saves while a pass writes: between its listing and its own write.
            self._racing -= 1
            self.loop.call_later(
                0.1 * self._race.random(), self._save, change.key.removesuffix(".rebundle.json")
            )

    def _save(self, tree: str) -> None:
        key = f"{tree}example/conf/bundle/.env"
        if key in self.bucket.objects:
            self.bucket.put(key, f"# saved {self._racing}\n".encode(), EDITOR)

    @property
    def digest(self) -> str:
        return self._trace.hexdigest()

    # -- the run

    async def play(self) -> None:
        async with asyncio.TaskGroup() as group:
            daemons = [
                group.create_task(self._supervise(index)) for index in range(self.scenario.replicas)
            ]
            async with asyncio.TaskGroup() as script:
                script.create_task(self._produce())
                for act in self.scenario.acts:
                    script.create_task(self._act(act))
            self.trace("---- all is well from here")
            self.scenario.faults.off()
            await asyncio.sleep(LATEST + _CALL_SECONDS)  # every pending request arrives
            if self.scenario.restarted_at_rest:
                for process in self._daemons:
                    if process is not None:
                        process.kill()
            for scope in self.scenario.scopes:
                await self._recover_lost(scope, 20)
            await self._drained()
            if not self.scenario.restarted_at_rest:
                await asyncio.sleep(1.6 * _PASS_SECONDS)  # each daemon's own passes
                for scope in self.scenario.scopes:
                    self._edit(
                        Act(0, "edit-base", "last"), scope, random.Random(self.scenario.seed)
                    )
                await asyncio.sleep(1.6 * _PASS_SECONDS)
            self._resting = True
            for stop in self._stops:
                if stop is not None:
                    stop.request("rest")
            await asyncio.wait(daemons)
        if self.scenario.restarted_at_rest:
            await self._settle_down()
        for wrong in self.watcher.at_rest(self._current):
            self.loop.fail(wrong)
        if any(act.what == "gc" for act in self.scenario.acts):
            if self.scenario.second:
                await asyncio.sleep(2 * GRACE_SECONDS)  # until no object is young any more
            process = Process(self, "last-gc")
            await process.live(self._collect_all(process))
            sparing = self.scenario.wrong_clocks and self.scenario.few_retained
            for wrong in self.watcher.after_collection(sparing_dropped=sparing):
                self.loop.fail(wrong)

    async def _collect_all(self, process: Process) -> None:
        for scope in await process.reader.scopes():
            if str(scope) in self.watcher.signed:
                self.oracle.commands[process.name] = Command("gc")
                await process.collector.collect(scope, process.name)

    async def _drained(self) -> None:
        until = self.loop.time() + _LONGEST_DRAIN
        while not self._is_drained:
            if self.loop.time() > until:
                rows = [row for ledger in self._current for row in ledger.rows.values()]
                waiting = [
                    row.event.position
                    for row in rows
                    if not row.settled >= set(row.scopes or ("?",))
                ]
                self.loop.fail(
                    f"liveness: {waiting} wait still, {_LONGEST_DRAIN:.0f} s after the last fault"
                )
            await asyncio.sleep(1)

    @property
    def _current(self) -> list[Ledger]:
        return list(self.ledgers.values()) or [disk.ledger for disk in self.disks]

    @property
    def _is_drained(self) -> bool:
        if self.scenario.forgetful:
            # Of an event that was assigned twice, the scopes of the last assignment count.
            return all(log.drained for log in self.logs)
        return all(ledger.drained for ledger in self._current)

    async def _settle_down(self) -> None:
        for index in range(self.scenario.replicas):
            process = Process(self, f"rest-{index}")
            await process.live(self._pass(process))

    async def _pass(self, process: Process) -> None:
        for scope in await process.reader.scopes():
            result = await process.live_tree.reconcile(scope)
            if isinstance(result, UnfinishedPass):
                self.loop.fail(f"invariant 9: a pass at rest did not finish: {result.reason}")

    # -- daemons

    async def _supervise(self, index: int) -> None:
        life = 0
        while not self._resting:
            while index in self._down:  # noqa: ASYNC110  # time costs nothing here
                await asyncio.sleep(0.5)
            life += 1
            process = self._daemons[index] = Process(self, f"daemon-{index}.{life}")
            stop = self._stops[index] = Stop()
            self.oracle.started(process.name)
            source = await self._opened(index, process)
            self.trace(process.name, "starts")
            ended = await process.live(self._work(process, source, stop))
            self.trace(process.name, "ended" if ended else "was killed")
            self._sources[index] = None
            await source.close()
            if not self._resting:
                await asyncio.sleep(
                    0.5 + 3 * random.Random(f"{self.scenario.seed}/{process.name}").random()
                )

    async def _opened(self, index: int, process: Process) -> Any:
        """A daemon's source."""
        if self.disks:
            return await self.disks[index].open(process.reached, process.name)
        source = self._sources[index] = self._log(index).open(
            process.reached,
            _Watch(self, process.name),
            instances=sorted(self._owned[index]),
            chance=random.Random(f"{self.scenario.seed}/{process.name}/mix"),
        )
        return source

    def _log(self, index: int) -> Log:
        """The log of a daemon."""
        return self.logs[0 if self.scenario.shared_log else index]

    async def _rebalance(self, chance: random.Random) -> None:
        """Move one partition to other daemons.

        Those that had it lose it now, or later, so that two have it for some time. A daemon that
        shares its log with no other one gets it back.
        """
        index = chance.randrange(self.scenario.replicas)
        instance = chance.choice(sorted(self._log(index).partitions))
        readers = [
            other
            for other in range(self.scenario.replicas)
            if instance in self._log(other).partitions
        ]
        owners = set(chance.sample(readers, chance.randint(1, len(readers))))
        delay = chance.choice((0, 0, 20)) * chance.random()
        self.trace("rebalance", instance, sorted(owners), f"{delay:.1f}")
        for other in readers:
            if other in owners and (instance not in self._owned[other] or len(readers) == 1):
                self._owned[other].add(instance)
                if (source := self._sources[other]) is not None:
                    source.give(instance)
        self._owners[instance] = owners
        await asyncio.sleep(delay)
        for other in set(readers) - self._owners[instance]:
            self._owned[other].discard(instance)
            if (source := self._sources[other]) is not None:
                source.revoke(instance)

    async def _work(self, process: Process, source: Any, stop: Stop) -> None:
        observer = _Observer(self, process.name)
        pipeline = Pipeline(
            source=source,
            reader=process.reader,
            publisher=process.publisher,
            live_tree=process.live_tree,
            rendering=self.rendering,
            runtime=process.runtime,
            observer=observer,
            writer=process.name,
        )
        await Worker(
            source=source,
            reader=process.reader,
            pipeline=pipeline,
            runtime=process.runtime,
            observer=observer,
            backoff=_EvenBackoff(first=0.2, longest=10.0),
            live_tree_seconds=_PASS_SECONDS,
        ).run(stop)

    # -- producers, editors and faults

    async def _produce(self) -> None:
        async with asyncio.TaskGroup() as senders:
            for arrival in self.scenario.arrivals:
                await asyncio.sleep(max(0.0, arrival.at - self.loop.time()))
                if self.disks:
                    event = arrival.event
                    identity, digest = (
                        Identity("http", event.source, event.id),
                        interpret(event).digest,
                    )
                    sent = event, identity, digest, arrival.scopes, arrival.asked
                    senders.create_task(self._send(self.disks[arrival.log], *sent))
                else:
                    self._accept(arrival)

    async def _send(self, disk: Disk, event: Event, *sent: Any) -> None:
        """A producer tries until a daemon has accepted its event."""
        while not await disk.accept(event, *sent):  # noqa: ASYNC110
            await asyncio.sleep(0.7)
        self.trace("accepted", event.id, sent[3].kind, dict(sent[3].versions), sent[3].state)

    def _accept(self, arrival: Arrival) -> None:
        event = arrival.event
        digest, asked = interpret(event).digest, arrival.asked
        identity = Identity("http", event.source, event.id)
        process = self._daemons[arrival.log] if self.scenario.second else None
        now = (
            process.runtime.now() if process else self.bucket.now()
        )  # the clock of the process that accepts it
        at = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
        log = self.logs[arrival.log]
        chosen = random.Random(f"{self.scenario.seed}/{event.id}").choice(sorted(log.partitions))
        position = log.append(event, identity, digest, at, arrival.scopes, chosen)
        ledger = self.ledgers[position.instance]
        if position.offset not in ledger.rows:
            ledger.accept(position.offset, identity.digest[:16], digest[:16], asked, arrival.scopes)
        self.trace("accepted", event.id, asked.kind, dict(asked.versions), asked.state, position)

    async def _act(self, act: Act) -> None:
        await asyncio.sleep(act.at)
        chance = random.Random(f"{self.scenario.seed}/{act.draw}")
        scope = chance.choice(self.scenario.scopes)
        match act.what:
            case "kill" | "drain":
                index = chance.randrange(self.scenario.replicas)
                process, stop = self._daemons[index], self._stops[index]
                self.trace(act.what, f"daemon-{index}")
                if act.what == "kill" and process is not None:
                    process.kill()
                elif stop is not None:
                    stop.request("drain")
            case "edit-example" | "delete-example" | "edit-base" | "stray":
                self._edit(act, scope, chance)
            case "pull":
                await self._operator(act.draw, scope, lambda process: self._pull(process, scope))
            case "pass":
                await self._operator(
                    act.draw, scope, lambda process: self._one_pass(process, scope)
                )
            case "gc":
                await self._operator(act.draw, scope, lambda process: self._collect(process, scope))
            case "republish":
                await self._operator(
                    act.draw, scope, lambda process: self._republish(process, scope)
                )
            case "freshen":
                await self._operator(act.draw, scope, lambda process: self._freshen(process, scope))
            case "restore-example":
                await self._operator(
                    act.draw, scope, lambda process: self._restore(process, scope, chance)
                )
            case "back-up" | "restore" | "copy" | "prune" | "replay" | "take-out":
                await self._act_on_journal(act, chance)
            case "rebalance":
                await self._rebalance(chance)
            case "recover":
                await self._operator(act.draw, scope, lambda process: self._recover(process, scope))
            case "lose-pointer":
                await self._lose_pointer(scope, chance)
            case "restore-default" | "recreate-example" | "edit-future":
                await self._edit_with_intent(act, scope, chance)
            case "reject":
                for name, draw in (("reject", act.draw), ("resume", f"{act.draw}-resumed")):
                    await self._command_by(draw, scope, name, chance.random())
            case name:
                await self._command_by(act.draw, scope, name, chance.random())

    async def _command_by(self, draw: str, scope: Scope, name: str, decided: float) -> None:
        await self._operator(
            draw,
            scope,
            lambda process: self._carry_out(process, scope, name, random.Random(decided)),
        )

    async def _act_on_journal(self, act: Act, chance: random.Random) -> None:
        index = chance.randrange(len(self.disks))
        disk = self.disks[index]
        self.trace(act.what, index)
        match act.what:
            case "back-up":
                disk.back_up()
            case "restore":
                await self._replace_journal(index, disk.restore)
            case "copy":
                other = self.disks[(index + 1) % len(self.disks)]
                if other is not disk:
                    await self._replace_journal(index, lambda: disk.copy_from(other))
            case "prune":
                if disk.journal is not None:
                    with contextlib.suppress(SourceUnavailable):
                        await disk.journal.prune()
            case "replay":
                await disk.by_hand(
                    act.draw, lambda journal: replay_one(journal, chance.choice, act.draw)
                )
            case _:
                rows = disk.ledger.rows.items()
                waiting = [
                    offset
                    for offset, row in rows
                    if row.scopes and not row.settled >= set(row.scopes)
                ]
                if waiting:
                    offset = chance.choice(waiting)
                    await disk.by_hand(
                        act.draw, lambda journal: take_out(journal, offset, act.draw)
                    )

    async def _replace_journal(self, index: int, replace: Callable[[], Sequence[Any]]) -> None:
        """While its daemon is stopped.

        Producers then send again the events that are no longer in it.
        """
        if index in self._down:
            return
        self._down.add(index)
        process, disk = self._daemons[index], self.disks[index]
        if process is not None:
            process.kill()
        while disk.journal is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        lost = replace()
        self._down.discard(index)
        for asked, arrival in lost:
            await self._send(
                disk, arrival.event, arrival.identity, arrival.digest, arrival.scopes, asked
            )

    def _edit(self, act: Act, scope: Scope, chance: random.Random) -> None:
        tree = f"{scope}/docker-compose-gen/"
        below = "example/" if "example" in act.what else "base/"
        paths = [key for key in sorted(self.bucket.objects) if key.startswith(tree + below)]
        if act.what == "stray":
            self.bucket.put(
                f"{tree}base/notes-{act.draw}.txt", f"stray {act.draw}\n".encode(), EDITOR
            )
        elif paths and act.what == "delete-example":
            self.bucket.remove(chance.choice(paths), EDITOR)
        elif paths:
            self.bucket.put(
                chance.choice(paths), f"# edited by hand, {act.draw}\n".encode(), EDITOR
            )

    async def _edit_with_intent(self, act: Act, scope: Scope, chance: random.Random) -> None:
        """An editor who restores a default, deletes and creates a file, or creates it before the
        default.
        """
        tree = f"{scope}/docker-compose-gen/"
        if act.what == "edit-future":
            self.bucket.put(
                f"{tree}example/conf/bundle/batching_{THIRD}.txt",
                f"# mine, {act.draw}\n".encode(),
                EDITOR,
            )
            return
        paths = [key for key in sorted(self.bucket.objects) if key.startswith(f"{tree}example/")]
        if not paths:
            return
        key = chance.choice(paths)
        if act.what == "restore-default":
            self.bucket.put(
                key, chance.choice(self.watcher.defaults.get(key) or [b"# none yet\n"]), EDITOR
            )
            return
        self.bucket.remove(key, EDITOR)
        await asyncio.sleep(10 * chance.random())
        self.bucket.put(key, f"# created again, {act.draw}\n".encode(), EDITOR)

    # -- operators' commands

    async def _operator(
        self, name: str, scope: Scope, work: Callable[[Process], Coroutine[Any, Any, None]]
    ) -> None:
        """A command, once there is something to act on.

        It is repeated while the store is unavailable.
        """
        for _ in range(20):
            if str(scope) in self.watcher.signed:
                break
            await asyncio.sleep(1)
        for _ in range(_COMMANDS):
            process = Process(self, name)
            since, was_lost = (
                len(self.oracle.states(str(scope))) - 1,
                str(scope) in self.oracle.lost,
            )
            await process.live(self._command(process, work(process)))
            if process.said in {"same", "Refused", "NotFound"} and not was_lost:
                self.oracle.said(name, str(scope), since, process.said)
            if process.said not in {StoreUnavailable.__name__, StoreBusy.__name__}:
                break
            await asyncio.sleep(0.5)

    async def _command(self, process: Process, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (NotFound, OperationRefused, PointerMoved, OutcomeUnresolved, StoreError) as error:
            process.said = type(error).__name__
            self.trace(process.name, "says", process.said)
        except ObjectGone:
            process.said = NotFound.__name__
            self.trace(process.name, "says", process.said)
        except (PointerLost, SequenceWentBack) as error:
            process.said = type(error).__name__
            if not self.oracle.ever_lost:
                self.loop.fail(f"{process.name} says {error}")
        except PublishingError as error:
            self.loop.fail(f"{process.name} says {type(error).__name__}: {error}")

    async def _pull(self, process: Process, scope: Scope) -> None:
        """A reader gets a whole state or a clean error."""
        read = await process.reader.existing(scope)
        if read.pointer.live is not None:
            files = await process.reader.files(scope, read.pointer.live)
            assert files

    async def _one_pass(self, process: Process, scope: Scope) -> None:
        await process.live_tree.reconcile(scope)

    async def _collect(self, process: Process, scope: Scope) -> None:
        self.oracle.commands[process.name] = Command("gc")
        await process.collector.collect(
            scope, process.name, parts=self.scenario.parts(process.name)
        )

    async def _republish(self, process: Process, scope: Scope) -> None:
        """Like `rebundle republish`, with the present settings."""
        self.oracle.commands[process.name] = Command("republish")
        base = await process.reader.existing(scope)
        current = base.pointer.desired
        if current is None:
            return
        manifest = await process.reader.manifest(scope, current)
        composition = manifest.composition_value()
        state = self.rendering.rendered_state(
            composition,
            state=current.state,
            revision=current.revision,
            kind=current.kind,
            events=manifest.events,
        )
        publication = await process.publisher.store_state(scope, state)
        republish = operator_commands.republish(base.pointer, publication)
        await process.operations.carry_out(scope, republish, by=process.name, reason="republish")

    async def _freshen(self, process: Process, scope: Scope) -> None:
        timer = FreshnessTimer(
            store=process.store,
            reader=process.reader,
            runtime=process.runtime,
            signers=(),
            trust=None,
            minutes=5,
        )
        await timer.renew(scope)

    async def _lose_pointer(self, scope: Scope, chance: random.Random) -> None:
        """The pointer is deleted, or an older one is restored; some time later an operator recovers
        the scope.

        Only if a marker or history proves that there was one. Before that, no pointer is a new
        scope (protocol 4).
        """
        name, key = str(scope), f"{scope}/pointer.json"
        traces = (f"{scope}/docker-compose-gen/.rebundle.json", f"{scope}/history/")
        for _ in range(60):
            if name in self.watcher.signed and any(
                key.startswith(traces) for key in self.bucket.objects
            ):
                break
            await asyncio.sleep(1)
        else:
            return
        older = self.watcher.pointers[name][:-1]
        if older and chance.random() < 0.5:
            self.bucket.put(key, chance.choice(older), FATE)
        else:
            self.bucket.remove(key, FATE)
        for process in self._daemons:
            if process is not None and chance.random() < 0.4:
                process.kill()
        await asyncio.sleep(chance.choice((0, 3, 30)) * chance.random())
        await self._recover_lost(scope, 4)
        if chance.random() < 0.7:
            await self._command_by("resumed", scope, "resume", chance.random())

    async def _recover_lost(self, scope: Scope, tries: int) -> None:
        """A recovery reads much. With constant faults, it may never come to its end."""
        for _ in range(tries):
            if str(scope) not in self.oracle.lost:
                break
            await self._operator(
                f"recovery-{scope}", scope, lambda process: self._recover(process, scope)
            )
            await asyncio.sleep(1)

    async def _recover(self, process: Process, scope: Scope) -> None:
        name = str(scope)
        hold = random.Random(f"{self.scenario.seed}/{process.name}/hold").random() < 0.6
        self.oracle.commands[process.name] = Command("recover", on=hold)
        work = Recoverer(process.store, process.reader, process.publisher, process.live_tree)
        found = await work.recover(
            scope, RecoveryOptions(hold=hold), process.name, "the pointer was lost"
        )
        if found.recovered is None and name in self.oracle.lost:
            # No object in the bucket shows a later pointer than this older one, so the scope
            # continues from it. But a daemon that has seen a later one refuses it until it is
            # restarted.
            for daemon in self._daemons:
                if daemon is not None:
                    daemon.kill()
            self.watcher.adopt(
                name, json.loads(self.bucket.objects[f"{scope}/pointer.json"].body)["signed"]
            )

    async def _restore(self, process: Process, scope: Scope, chance: random.Random) -> None:
        read = await process.reader.existing(scope)
        files = await process.reader.files(scope, read.pointer.live) if read.pointer.live else ()
        paths = [file.path for file in files if file.path.startswith("example/")]
        if paths:
            path = chance.choice(paths)
            self.watcher.restoring[process.name] = f"{scope}/docker-compose-gen/{path}"
            await process.live_tree.restore_example(scope, path)

    async def _carry_out(
        self, process: Process, scope: Scope, name: str, chance: random.Random
    ) -> None:
        signed = self.watcher.signed.get(str(scope))
        names = (
            [
                f"{publication['state']}@{publication['attempt']}"
                for publication in signed["retained"]
            ]
            if signed
            else ["state-1"]
        )
        one, other = chance.choice(names), chance.choice(names)
        if signed and (name == "reject" or chance.random() < 0.6):
            one = _interesting(signed, name, chance) or one
        if name == "quarantine-next":
            name, one = "quarantine", _not_yet_rejected(signed) or one
        live = signed["live"] if signed else None
        back = other if live and one == f"{live['state']}@{live['attempt']}" else None
        if (
            self.scenario.second and chance.random() < 0.4
        ):  # without its attempt, which selects the newest one
            one = one.partition("@")[0]
        command = Command(
            "quarantine" if name == "reject" else name,
            one,
            back,
            name != "pin" or chance.random() < 0.7,
        )
        self.oracle.commands[process.name] = command
        self.trace(process.name, name, scope, one)
        done = await process.operations.carry_out(
            scope, _operator_command(command), by=process.name, reason=name
        )
        if not done.changed:
            process.said = "same"


def _operator_command(command: Command) -> operator_commands.Command:
    match command.name:
        case "rollback" | "discard":
            return operator_commands.rollback(
                command.target, discard_newer=command.name == "discard"
            )
        case "hold":
            return protocol.hold
        case "resume":
            return protocol.resume
        case "quarantine":
            return operator_commands.quarantine(command.target, rollback_to=command.back)
        case "lift":
            return operator_commands.lift_quarantine(command.target)
        case "pin":
            return operator_commands.pin(command.target, pinned=command.on)
        case _:
            return protocol.retire


def _not_yet_rejected(signed: dict[str, Any] | None) -> str | None:
    """A state that is not live and not quarantined."""
    if signed is None:
        return None
    kept_digests = {
        quarantine["composition_digest"]
        for quarantine in (*signed["quarantined"], signed["live"])
        if quarantine
    }
    return next(
        (
            model.name_of(publication)
            for publication in signed["retained"]
            if publication["composition_digest"] not in kept_digests
        ),
        None,
    )


def _interesting(signed: dict[str, Any], name: str, chance: random.Random) -> str | None:
    """The interesting targets of a command: quarantine of states that could become live, rollback
    to quarantined ones.
    """
    rejected = {quarantine["composition_digest"] for quarantine in signed["quarantined"]}
    live, desired = signed["live"], signed["desired"]
    match name:
        case "reject":
            found = [live]
        case "quarantine":
            others = [publication for publication in signed["retained"] if publication != live]
            found = others if desired == live and chance.random() < 0.6 else [desired]
        case "rollback" | "lift":
            found = [
                publication
                for publication in signed["retained"]
                if publication["composition_digest"] in rejected
            ]
        case _:
            found = []
    return next((f"{item['state']}@{item['attempt']}" for item in reversed(found) if item), None)


def _instances(index: int, partitions: int) -> list[str]:
    """The instances of a log."""
    if partitions == 1:
        return [f"journal:{index}"]
    return [f"journal:{index}/{partition}" for partition in range(partitions)]


class _Watch(Watch):
    """Reports the log actions of one process to the oracle."""

    def __init__(self, world: World, process: str) -> None:
        self._world = world
        self._process = process
        for instance, ledger in world.ledgers.items():
            world.oracle.ledger_of[process, instance] = ledger

    def waits(self, scope: str, positions: Sequence[Position]) -> None:
        order = [(position.instance, position.offset) for position in positions]
        self._world.oracle.lanes[self._process, scope] = order

    def assigned(self, position: Position, scopes: Sequence[str]) -> None:
        self._world.ledgers[position.instance].assign(position.offset, scopes)

    def settled(self, scope: str, position: Position, outcome: Any) -> None:
        ledger = self._world.ledgers[position.instance]
        ledger.settle(self._process, scope, position.offset, outcome)


class _Observer:
    """Observer of the pipeline and the lanes."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    def published(self, scope: Scope, read: Any, publications: Any) -> None:
        self._world.trace(
            self._name,
            "published",
            scope,
            read.pointer.sequence,
            [publication.state for publication in publications],
        )

    def lost(self, scope: Scope) -> None:
        self._world.trace(self._name, "lost", scope)

    def settled(self, scope: Scope, outcomes: Sequence[tuple[Any, Any]]) -> None:
        for delivery, outcome in outcomes:
            self._world.trace(
                self._name, "settled", scope, delivery.event.id, outcome.kind, outcome.reason
            )

    def refused_by_gate(self, scope: Scope, state: str, reason: str) -> None:
        self._world.trace(self._name, "gate refused", scope, state, reason)

    def crowded(self, scope: Scope, models: int) -> None:
        pass

    def reconciled(self, scope: Scope, result: Any) -> None:
        self._world.trace(self._name, "pass", scope, type(result).__name__, result.sequence)

    def processed(self, seconds: float) -> None:
        pass

    def unreconciled(self, scope: Scope, reason: str) -> None:
        self._world.trace(self._name, "no pass", scope, reason)

    def removed(self, scope: Scope) -> None:
        self._world.trace(self._name, "no such scope", scope)

    def dispatched_to_no_scope(self, event_ids: Sequence[str]) -> None:
        pass

    def failed(self, scope: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _EvenBackoff(Backoff):
    """Without jitter: its random numbers would change every recorded world."""

    async def wait(self, failed: int, runtime: Runtime) -> None:
        await runtime.sleep(min(self.first * 2 ** (failed - 1), self.longest))


class _Log:
    """The worker's log.

    A fault that needs an operator must not occur in a world where nothing is lost for good.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def info(self, what: str, **details: object) -> None:
        self._world.trace("info", what, *details.values())

    def warning(self, what: str, **details: object) -> None:
        self._world.trace("warning", what, *details.values())

    def error(
        self, what: str, *, reason: str, error: str = "", exc_info: object = None, **details: object
    ) -> None:
        self._world.trace("error", what, reason, error, *details.values())
        # A pointer that was read before a collection may reference a deleted object. The next try
        # reads it again.
        transient = (
            (ObjectGone, PointerLost, SequenceWentBack)
            if self._world.oracle.ever_lost
            else (ObjectGone,)
        )
        if error not in {kind.__name__ for kind in transient}:
            self._world.loop.fail(f"a lane waits for an operator: {reason}")


def _limits(scenario: Scenario) -> Limits:
    """Limits so low that worlds reach them."""
    limits = Limits(
        retained=3 if scenario.few_retained else 100,
        folded_events=3 if scenario.short_memory else 128,
    )
    return replace(limits, batch_events=4, batch_states=2) if scenario.small_batches else limits


@contextlib.contextmanager
def _settings(scenario: Scenario, world: World) -> Iterator[None]:
    changes: list[tuple[Any, str, Any]] = [
        (worker, "log", _Log(world)),
        (archive, "unpack", _unpacked),
        (archive.Packer, "members", _members),
        (archive, "pack", _pack),
        (pointer, "opened", _opened),
        (manifest, "decode", _decoded),
    ]
    if scenario.few_retained:
        changes.append((protocol, "MOST_RETAINED", 3))
    if scenario.short_history:
        changes += [(protocol, "MOST_HISTORY", 2), (protocol, "CHUNK", 1)]
        changes.append((recovery_rules, "MOST_HISTORY", 2))
    if scenario.small_batches:
        limits = _limits(scenario)
        changes += [
            (batches, "MOST_EVENTS", limits.batch_events),
            (batches, "MOST_STATES", limits.batch_states),
        ]
    if scenario.short_memory:
        changes += [
            (owner, "MOST_FOLDED_EVENTS", _limits(scenario).folded_events)
            for owner in (protocol, recovery_rules)
        ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def simulate(seed: str, *, bug: str | None = None, traced: bool = False) -> Run:
    """Run one seed, perhaps with a planted bug."""
    return play(scenario_of(seed), bug=bug, traced=traced)


def play(scenario: Scenario, *, bug: str | None = None, traced: bool = False) -> Run:
    """Run one scenario."""
    world = World(scenario, traced=traced)
    broken = None
    with planted(bug), _settings(scenario, world), sealed():
        asyncio.set_event_loop(None)
        try:
            world.loop.run_until_complete(world.play())
            broken = world.loop.broken
        except (Broken, Stuck) as error:
            broken = str(error)
        except BaseExceptionGroup as errors:
            broken = world.loop.broken or f"ended with {errors.exceptions!r}"
        finally:
            world.loop.finish()
            for disk in world.disks:
                disk.remove()
    return Run(
        scenario.seed,
        broken,
        world.digest,
        sum(map(len, world.watcher.lineage.values())),
        world.calls,
        tuple(world.lines),
    )
