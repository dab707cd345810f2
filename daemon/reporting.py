"""Reports what pipeline, lanes and server did: log lines for people, metrics for alarms.

A report never fails and never waits, and it decides nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog

from daemon.publishing.live_tree.ownership import Blocked
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.pointer import Publication
from daemon.publishing.reader import DamagedManifest, PointerRead
from daemon.runtime import Runtime
from daemon.telemetry import Metrics
from events.model import Outcome, OutcomeKind
from events.records import Backlog
from events.source import Delivery
from renderers.pinning import Movable
from renderers.values import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_MAX_SHOWN: Final = 20
"""Paths or images of one log line."""


class Reporter:
    """Observes the pipeline and the lanes."""

    def __init__(self, metrics: Metrics, runtime: Runtime) -> None:
        self._metrics = metrics
        self._runtime = runtime
        self.refused_in_a_row = 0
        """Renderings that the gate refused since the last one that passed."""
        self._lanes: set[str] = set()
        self._crowded: set[Scope] = set()
        self.refused_connections = 0
        """New connections refused since the start because of a limit."""
        self.behind: dict[Scope, str] = {}
        """Scopes whose live tree was not synced after the last pass, and why."""
        self.blocked: dict[Scope, tuple[Blocked, ...]] = {}
        """The paths that the last pass could not write or delete, by scope."""
        self._damaged: dict[Scope, frozenset[DamagedManifest]] = {}

    def published(
        self, scope: Scope, read: PointerRead, publications: Sequence[Publication]
    ) -> None:
        """A compare-and-swap succeeded."""
        pointer = read.pointer
        if publications:
            self.refused_in_a_row = 0
        self._metrics.publications.labels(str(scope), pointer.kind).inc()
        self._metrics.pointer_sequence.labels(str(scope)).set(pointer.sequence)
        self._metrics.last_publish_timestamp_seconds.labels(str(scope)).set(
            self._runtime.now().timestamp()
        )
        log.info(
            "pointer changed",
            scope=str(scope),
            sequence=pointer.sequence,
            kind=pointer.kind,
            published=[str(publication.id) for publication in publications],
            live=str(pointer.live.id) if pointer.live else None,
            held=pointer.hold is not None,
        )

    def lost(self, scope: Scope) -> None:
        """A compare-and-swap failed because another writer changed the pointer first."""
        self._metrics.publish_conflicts.labels(str(scope)).inc()
        log.info("another writer was faster, folding again", scope=str(scope))

    def refused_by_gate(self, scope: Scope, state: str, reason: str) -> None:
        """The gate refused a rendering: a bug of the renderer, found before it was published."""
        self.refused_in_a_row += 1
        log.error("rendering refused by the gate", scope=str(scope), state_id=state, reason=reason)

    def crowded(self, scope: Scope, models: int) -> None:
        """A state may have more models than one network can connect; reported once per scope."""
        if scope in self._crowded:
            return
        self._crowded.add(scope)
        log.warning(
            "one bridge network holds about 1,000 containers", scope=str(scope), models=models
        )

    def unpinned(self, scope: Scope, state: str, references: Sequence[Movable]) -> None:
        """A state has images or artifacts without a digest, which may change under their names."""
        names = [str(reference) for reference in references[:_MAX_SHOWN]]
        log.warning(
            "no digest holds these",
            scope=str(scope),
            state_id=state,
            found=names,
            in_all=len(references),
        )

    def settled(self, scope: Scope, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """The events of a batch have these outcomes in this scope.

        A line for each event would cost more than the event. Dead letters have one each, because
        somebody has to act.
        """
        kinds = Counter(outcome.kind for _, outcome in outcomes)
        for kind, number in kinds.items():
            self._metrics.events_settled.labels(kind).inc(number)
        others = [
            (delivery, outcome)
            for delivery, outcome in outcomes
            if outcome.kind is not OutcomeKind.DEAD_LETTERED
        ]
        for delivery, outcome in outcomes:
            if outcome.kind is OutcomeKind.DEAD_LETTERED or len(others) == 1:
                self._log_settled(scope, delivery, outcome)
        if len(others) > 1:
            self._log_all_settled(scope, others)

    def _log_all_settled(self, scope: Scope, settled: Sequence[tuple[Delivery, Outcome]]) -> None:
        """Log the events of a batch in one line: by outcome, and why an event was not published."""
        event_ids: defaultdict[str, list[str]] = defaultdict(list)
        reasons: list[dict[str, str | None]] = []
        for delivery, outcome in settled:
            event_ids[str(outcome.kind)].append(delivery.event.id)
            if outcome.kind is not OutcomeKind.PUBLISHED and len(reasons) < _MAX_SHOWN:
                reasons.append({"event_id": delivery.event.id, "reason": outcome.reason})
        states = dict.fromkeys(outcome.state for _, outcome in settled if outcome.state)
        log.info(
            "events settled",
            scope=str(scope),
            events=len(settled),
            outcomes={kind: len(ids) for kind, ids in event_ids.items()},
            event_ids={kind: ids[:_MAX_SHOWN] for kind, ids in event_ids.items()},
            not_listed=sum(max(len(ids) - _MAX_SHOWN, 0) for ids in event_ids.values()),
            reasons=reasons,
            state_ids=list(states)[:_MAX_SHOWN],
        )

    def _log_settled(self, scope: Scope, delivery: Delivery, outcome: Outcome) -> None:
        write = log.warning if outcome.kind is OutcomeKind.DEAD_LETTERED else log.info
        write(
            "event settled",
            scope=str(scope),
            event_id=delivery.event.id,
            position=delivery.position.offset,
            outcome=str(outcome.kind),
            reason=outcome.reason,
            state_id=outcome.state,
        )

    def deletion_refused(self, scopes: int) -> None:
        """A round of garbage collections ended; deletion was refused in `scopes` scopes."""
        self._metrics.deletion_refused_scopes.set(scopes)

    def reconciled(self, scope: Scope, result: FinishedPass | UnfinishedPass) -> None:
        """A pass over the live tree ended."""
        if result.sequence == 0:
            return  # events name the scope, and the bucket does not have it
        self._set_synced(scope, result.behind)
        if isinstance(result, FinishedPass):
            self._paths_blocked(scope, result)
            self._manifests_damaged(scope, result)
        match result:
            case UnfinishedPass(sequence=sequence, reason=reason):
                log.warning(
                    "live tree not synced", scope=str(scope), sequence=sequence, reason=reason
                )
            case FinishedPass() if result.written or result.kept_aside or result.strays:
                log.info(
                    "live tree written, some paths blocked"
                    if result.blocked
                    else "live tree synced",
                    scope=str(scope),
                    sequence=result.sequence,
                    written=len(result.written),
                    overrides=len(result.overrides),
                    kept_aside=list(result.kept_aside),
                    strays=list(result.strays)[:_MAX_SHOWN],
                )
            case _:
                pass

    def _paths_blocked(self, scope: Scope, result: FinishedPass) -> None:
        """Log blocked paths when they change, not at each pass."""
        self._metrics.live_tree_blocked_paths.labels(str(scope)).set(len(result.blocked))
        if result.blocked == self.blocked.get(scope, ()):
            return
        if result.blocked:
            self.blocked[scope] = result.blocked
            paths = {blocked.path: blocked.reason for blocked in result.blocked[:_MAX_SHOWN]}
            log.warning(
                "live tree paths blocked", scope=str(scope), paths=paths, in_all=len(result.blocked)
            )
        else:
            del self.blocked[scope]
            log.info("live tree paths no longer blocked", scope=str(scope))

    def _manifests_damaged(self, scope: Scope, result: FinishedPass) -> None:
        """Log damaged manifests once. A pass reads old ones only if it finds an unknown file."""
        unreported = frozenset(result.damaged) - self._damaged.get(scope, frozenset())
        self._damaged[scope] = frozenset(result.damaged)
        for damaged in sorted(unreported, key=lambda manifest: str(manifest.publication)):
            log.warning(
                "manifest of a retained state unreadable or damaged, its files count as "
                "an operator's",
                scope=str(scope),
                publication=str(damaged.publication),
                reason=damaged.reason,
                remedy=None
                if damaged.unreadable
                else f"rebundle recover {scope} --reason 'damaged manifest'",
            )

    def unreconciled(self, scope: Scope, reason: str) -> None:
        """A pass over the live tree failed; the timer retries it."""
        self._set_synced(scope, reason)
        log.warning("live tree not synced, tried again later", scope=str(scope), error=reason)

    def removed(self, scope: Scope) -> None:
        """The bucket no longer has this scope."""
        name = str(scope)
        self._metrics.remove_scope(name)
        self._lanes.discard(name)
        self.behind.pop(scope, None)
        self.blocked.pop(scope, None)
        self._damaged.pop(scope, None)
        self._crowded.discard(scope)

    def _set_synced(self, scope: Scope, why_not: str | None) -> None:
        self._metrics.live_tree_follows.labels(str(scope)).set(why_not is None)
        if why_not is None:
            self.behind.pop(scope, None)
        else:
            self.behind[scope] = why_not

    def backlog(self, backlog: Backlog) -> None:
        """The events that wait in the journal now."""
        now = self._runtime.now()
        self._metrics.journal_unacknowledged_events.set(backlog.events)
        self._metrics.dead_letters.set(backlog.dead_letters)
        lanes = {lane.scope: lane for lane in backlog.lanes}
        self._lanes |= lanes.keys()
        for scope in self._lanes:
            lane = lanes.get(scope)
            age = (now - datetime.fromisoformat(lane.oldest)).total_seconds() if lane else 0
            self._metrics.lane_waiting_events.labels(scope).set(lane.waiting if lane else 0)
            self._metrics.lane_oldest_event_age_seconds.labels(scope).set(max(age, 0))
        oldest = (
            (now - datetime.fromisoformat(backlog.oldest)).total_seconds() if backlog.oldest else 0
        )
        self._metrics.oldest_event_age_seconds.set(max(oldest, 0))

    def connection_closed(self, reason: str) -> None:
        """The server closed a connection because of a limit (`daemon.http.server.serve`)."""
        self._metrics.http_connections_closed.labels(reason).inc()
        self.refused_connections += reason in {"total", "peer"}

    def processed(self, seconds: float) -> None:
        """A batch was settled `seconds` after its start."""
        self._metrics.publish_seconds.observe(seconds)

    def dispatched_to_no_scope(self, event_ids: Sequence[str]) -> None:
        """These events name no scopes, and no scope has their model."""
        self._metrics.events_to_no_scope.inc(len(event_ids))
        log.info(
            "events go to no scope: none has their model",
            events=len(event_ids),
            event_ids=event_ids[:_MAX_SHOWN],
            not_listed=max(len(event_ids) - _MAX_SHOWN, 0),
        )

    def failed(self, scope: str) -> None:
        """A try of a lane's batch failed."""
        self._metrics.lane_failures.labels(scope).inc()
