"""Processes one batch of a scope: read, fold, render, gate, store, compare-and-swap, settle.

Steps before the compare-and-swap can be discarded, and steps after it can be repeated. So a crash
at any point is repaired by processing the same deliveries again (protocol 2).

Two things are cached between batches. Compositions are immutable. The pointer of the last own write
is the base of the next one: if it is no longer the newest, the condition of the compare-and-swap
fails. Outcomes that need no compare-and-swap are decided on a pointer that was read for them.

The worker calls `process` until it succeeds. A failure is an exception; `failures` classifies it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from daemon import batches, folding
from daemon.batches import Batch
from daemon.changes import Change, ModelVersionChanged, RollbackRequested, StateCreated, interpret
from daemon.concurrency import concurrently
from daemon.folding import DesiredState, Plan, PlannedState
from daemon.publishing import protocol
from daemon.publishing.bucket_identity import ANY_BUCKET, BucketCheck
from daemon.publishing.errors import NotFound, OperationRefused, PointerMoved, VerificationFailed
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.manifest import ManifestEvent, RenderedState
from daemon.publishing.pointer import FoldedEvent, Pointer, Publication, find_exactly
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.retry import while_moved
from daemon.redelivery import Redeliveries
from daemon.rendering import NotRenderable, Rendering, refuse_newer_renderer
from daemon.runtime import Runtime
from daemon.scope_index import ScopeIndex
from daemon.used_states import UsedState, UsedStates, complete, only_named, used_states
from events.errors import InvalidEvent
from events.model import BUNDLE_STATE_CREATED, Event, Outcome, OutcomeKind, Position
from events.source import Delivery, EventSource
from renderers.cache import Cache
from renderers.composition import Composition
from renderers.errors import RenderError
from renderers.limits import TooBig
from renderers.pinning import Movable, Unpinned, movable
from renderers.values import Scope

_MANY_MODELS: Final = 900
"""Models of one state above which it is reported: a Linux bridge takes about 1,000 containers."""

_COMPOSITIONS_BYTES: Final = 128 << 20
_MAX_POINTERS: Final = 256
_CONCURRENT_UPLOADS: Final = 4

FoldableChange = tuple[Delivery, StateCreated | ModelVersionChanged]


class Observer(Protocol):
    """Receives what the pipeline did, for logs and metrics. Never fails, never waits."""

    def published(
        self, scope: Scope, read: PointerRead, publications: Sequence[Publication]
    ) -> None:
        """A compare-and-swap succeeded."""
        ...

    def lost(self, scope: Scope) -> None:
        """A compare-and-swap failed because another writer changed the pointer first."""
        ...

    def refused_by_gate(self, scope: Scope, state: str, reason: str) -> None:
        """A state cannot be rendered, or the gate found files that do not match the composition."""
        ...

    def crowded(self, scope: Scope, models: int) -> None:
        """A state may have more models than one network on the target host can connect."""
        ...

    def unpinned(self, scope: Scope, state: str, references: Sequence[Movable]) -> None:
        """A state has images or artifacts without a digest, and `publish.pinning` is `warn`."""
        ...

    def settled(self, scope: Scope, outcomes: Sequence[tuple[Delivery, Outcome]]) -> None:
        """The events of a batch have these outcomes in this scope."""
        ...

    def reconciled(self, scope: Scope, result: FinishedPass | UnfinishedPass) -> None:
        """A pass over the live tree ended."""
        ...


class Pipeline:
    """Processes batches of any scope. The worker runs at most one batch of a scope at a time."""

    def __init__(
        self,
        *,
        source: EventSource,
        reader: Reader,
        publisher: Publisher,
        live_tree: LiveTree,
        rendering: Rendering,
        runtime: Runtime,
        observer: Observer,
        writer: str,
        accept_older_renderer: bool = False,
        bucket: BucketCheck = ANY_BUCKET,
    ) -> None:
        self._source = source
        self._reader = reader
        self._redeliveries = Redeliveries(source, reader)
        self._publisher = publisher
        self._live_tree = live_tree
        self._rendering = rendering
        self._runtime = runtime
        self._observer = observer
        self._writer = writer
        self._accept_older_renderer = accept_older_renderer
        self._bucket = bucket
        self.index = ScopeIndex()
        self._compositions = Cache[Composition](_COMPOSITIONS_BYTES)
        self._last_own_pointers = Cache[PointerRead](_MAX_POINTERS)
        self._marker_checked: set[Scope] = set()
        """Scopes whose live tree was not ahead of the pointer at their first batch."""
        self._committed: dict[Scope, int] = {}
        """The sequence of the last own commit that no pass over the live tree has followed yet.

        Also of a commit whose result is unknown.
        """

    async def process(self, scope: Scope, waiting: Sequence[Delivery]) -> frozenset[Position]:
        """Settle the first waiting events of a scope, as many as make one batch.

        Returns:
            The positions of the settled events.

        Raises:
            InstanceShared: the source has to take a new instance first.
            Any error of a store, the source or the publication protocol: no event was settled
            without its commit, and the same call can be repeated.
        """
        if scope not in self._marker_checked:
            await self._live_tree.refuse_lost_pointer(scope)
            self._marker_checked.add(scope)
        cached = self._last_own_pointers.pop(scope)
        uploads = _Uploads()
        if cached is not None:
            with suppress(PointerMoved):
                return await self._try(scope, cached, waiting, uploads)
        return await while_moved(scope, lambda: self._try(scope, None, waiting, uploads))

    async def _try(
        self,
        scope: Scope,
        cached: PointerRead | None,
        waiting: Sequence[Delivery],
        uploads: "_Uploads",
    ) -> frozenset[Position]:
        """Settle events on the pointer `cached`, or on one that is read now if that is None.

        Returns:
            The positions of the settled events.

        Raises:
            PointerMoved: the pointer is not the newest, or may not be. Nothing was settled.
        """
        base = cached or await self._reader.pointer(scope)
        refusals: list[NotRenderable] = []
        try:
            outcomes = await self._redeliveries.outcomes(scope, base.pointer, waiting)
            if not outcomes:
                outcomes = await self._fold(scope, base, waiting, uploads, refusals=refusals)
        except PointerMoved:
            self._observer.lost(scope)
            raise
        # Only a compare-and-swap shows that the cached pointer was the newest. Without one, the
        # outcomes have to be decided on a pointer that is read for them.
        if cached is not None and self._last_own_pointers.get(scope) is None:
            raise PointerMoved(f"no compare-and-swap confirmed the cached pointer of {scope}")
        await self._source.settle(str(scope), outcomes)
        for refused in refusals:
            self._observer.refused_by_gate(scope, refused.planned.state, str(refused.failure))
        self._observer.settled(
            scope,
            [
                (delivery, outcomes[delivery.position])
                for delivery in waiting
                if delivery.position in outcomes
            ],
        )
        return frozenset(outcomes)

    def forget(self, scope: Scope) -> None:
        """Drop what is cached for a scope that does not exist."""
        self._marker_checked.discard(scope)
        self._last_own_pointers.pop(scope)
        self._committed.pop(scope, None)
        self.index.forget(str(scope))

    def needs_pass(self, scope: Scope) -> bool:
        """Whether this pipeline has changed the pointer, and no pass has followed the change."""
        return scope in self._committed

    async def reconcile(self, scope: Scope) -> FinishedPass | UnfinishedPass:
        """One pass over a scope's live tree."""
        result = await self._live_tree.reconcile(scope)
        if isinstance(result, FinishedPass) and result.sequence >= self._committed.get(scope, 0):
            self._committed.pop(scope, None)
        self._observer.reconciled(scope, result)
        return result

    # -- events that are new to the scope

    async def _fold(
        self,
        scope: Scope,
        base: PointerRead,
        waiting: Sequence[Delivery],
        uploads: "_Uploads",
        *,
        refusals: list[NotRenderable],
    ) -> dict[Position, Outcome]:
        """The outcomes of the next batch. States that the gate refused are added to `refusals`."""
        batch = await self._next_batch(scope, base.pointer, waiting)
        changes: list[FoldableChange] = []
        for delivery, change in batch.changes:
            if isinstance(change, RollbackRequested):  # always alone in its batch
                return await self._roll_back(scope, base, delivery, change, batch.outcomes)
            changes.append((delivery, change))
        return await self._publish(scope, base, changes, batch, uploads, refusals=refusals)

    async def _next_batch(
        self, scope: Scope, pointer: Pointer, waiting: Sequence[Delivery]
    ) -> Batch:
        """The changes of the next batch, and the outcomes of events that need no fold."""
        known = {folded.identity: folded.event for folded in pointer.folded_events}
        changes: list[tuple[Delivery, Change]] = []
        outcomes: dict[Position, Outcome] = {}
        repeated: list[Delivery] = []
        for delivery in waiting[: batches.MOST_EVENTS]:
            event = FoldedEvent.of(delivery.identity, delivery.digest)
            folded = known.get(event.identity)
            if folded == event.event:
                repeated.append(delivery)
            elif folded is not None:
                reason = f"event {delivery.identity.id} was folded with another content already"
                outcomes[delivery.position] = Outcome(OutcomeKind.DEAD_LETTERED, reason)
            else:
                try:
                    changes.append((delivery, await self._interpret(delivery.event)))
                except InvalidEvent as error:
                    outcomes[delivery.position] = Outcome(OutcomeKind.DEAD_LETTERED, str(error))
        if repeated:
            published, _ = await self._redeliveries.published(scope, pointer, repeated)
            repetition = Outcome(OutcomeKind.IGNORED, "the scope has folded this event already")
            for delivery in repeated:
                outcomes[delivery.position] = published.get(delivery.position, repetition)
        return batches.first(waiting, changes, outcomes)

    async def _interpret(self, event: Event) -> Change:
        # A state of 2,000 models takes 36 ms. Other events take less than the way to a thread.
        if event.type == BUNDLE_STATE_CREATED:
            return await self._runtime.run_in_thread(interpret, event)
        return interpret(event)

    async def _publish(
        self,
        scope: Scope,
        base: PointerRead,
        changes: Sequence[FoldableChange],
        batch: Batch,
        uploads: "_Uploads",
        *,
        refusals: list[NotRenderable],
    ) -> dict[Position, Outcome]:
        outcomes = batch.outcomes
        desired = await self._desired_state(scope, base.pointer, changes)
        while True:
            plan = folding.plan(desired, changes)
            try:
                rendered = await self._render_all(scope, base.pointer, plan)
                break
            except NotRenderable as refused:
                if len(refused.planned.deliveries) > 1:
                    # A derived state of several events: end the batch at the first of them, so that
                    # the events go one at a time until one fails (protocol 3).
                    first = refused.planned.deliveries[0]
                    index = next(i for i, (delivery, _) in enumerate(changes) if delivery is first)
                    changes = changes[: index + 1]
                    outcomes = batches.before(first, batch.waiting, outcomes)
                    continue
                culprit = refused.planned.deliveries[0]
                # Size and pinning are faults of the event or a setting, not of the renderer.
                if not isinstance(refused.failure, TooBig | Unpinned):
                    refusals.append(refused)
                reason = f"the state cannot be rendered: {refused.failure}"
                outcomes[culprit.position] = Outcome(OutcomeKind.DEAD_LETTERED, reason)
                changes = [
                    (delivery, change) for delivery, change in changes if delivery is not culprit
                ]
        outcomes |= plan.outcomes
        if not rendered:
            self._index(scope, base, plan.desired.composition)
            return outcomes
        publications = await self._store_all(scope, base.pointer.gc_epoch, rendered, uploads)
        writing = self._publisher.writing(self._writer)
        progress = batches.progress(plan.desired, [delivery for delivery, _ in changes], outcomes)
        following = protocol.publish(base.pointer, writing, publications, progress)
        outcomes |= batches.published_outcomes(plan, following)
        read = await self._commit(scope, base, following, outcomes)
        if read.pointer.write_id == following.write_id:
            self._index(scope, read, plan.desired.composition)
        else:
            # Another writer has changed it since: its composition is not this one.
            self.index.forget(str(scope))
        # The next event is folded onto the desired composition: keep it instead of parsing its
        # manifest.
        for publication, state in zip(publications, rendered, strict=True):
            if protocol.same(publication, following.desired):
                self._remember(state.composition)
        self._observer.published(scope, read, publications)
        return outcomes

    def _index(self, scope: Scope, read: PointerRead, desired: Composition | None) -> None:
        self.index.put(str(scope), read.version, read.pointer.sequence, desired)

    async def _store_all(
        self, scope: Scope, gc_epoch: int, states: Sequence[RenderedState], uploads: "_Uploads"
    ) -> list[Publication]:
        """The publication of each state: stored now, or by an earlier try of this batch."""
        uploads.keep_only(gc_epoch)

        async def store(state: RenderedState) -> Publication:
            return uploads.of(state) or uploads.add(
                state, await self._publisher.store_state(scope, state)
            )

        return await concurrently(store, states, limit=_CONCURRENT_UPLOADS)

    async def _roll_back(
        self,
        scope: Scope,
        base: PointerRead,
        delivery: Delivery,
        request: RollbackRequested,
        outcomes: dict[Position, Outcome],
    ) -> dict[Position, Outcome]:
        writing = replace(
            self._publisher.writing(request.requested_by or self._writer), reason=request.reason
        )
        refusal = batches.rollback_refusal(base.pointer, request)
        if refusal is not None:
            return outcomes | {delivery.position: refusal}
        state = request.to_state
        try:
            target = find_exactly(base.pointer, state)
            progress = batches.progress(DesiredState(None), [delivery], outcomes)
            following = protocol.rollback(base.pointer, writing, target, progress=progress)
            if following is not None:
                # A state whose files are damaged or deleted must not become live.
                await self._reader.files(scope, target)
        except (NotFound, OperationRefused, VerificationFailed) as error:
            return outcomes | {delivery.position: Outcome(OutcomeKind.DEAD_LETTERED, str(error))}
        if following is None:
            already = Outcome(OutcomeKind.IGNORED, f"live is {state} and held already", state)
            return outcomes | {delivery.position: already}
        rolled_back = Outcome(OutcomeKind.PUBLISHED, f"live is {state}, held", state)
        outcomes = outcomes | {delivery.position: rolled_back}
        read = await self._commit(scope, base, following, outcomes)
        self._observer.published(scope, read, ())
        return outcomes

    async def _commit(
        self,
        scope: Scope,
        base: PointerRead,
        following: Pointer,
        outcomes: Mapping[Position, Outcome],
    ) -> PointerRead:
        """Record the outcomes, then compare-and-swap; withdraw the outcomes if it fails."""
        await self._source.record(str(scope), following.write_id, outcomes)
        before = self._committed.get(scope)
        # Before the write: it may take effect although its result stays unknown.
        self._committed[scope] = following.sequence
        try:
            read = await self._publisher.swap(
                scope, base, following, before_creating=self._bucket.check
            )
        except PointerMoved:
            self._committed.pop(scope, None)  # a pass may have removed it
            if before is not None:
                self._committed[scope] = before
            await self._source.withdraw(str(scope), following.write_id)
            raise
        self._last_own_pointers.put(scope, read, 1)
        return read

    # -- the base of a fold

    async def _desired_state(
        self, scope: Scope, pointer: Pointer, changes: Sequence[FoldableChange]
    ) -> DesiredState:
        current = pointer.desired
        composition = None
        if current is not None:
            composition = await self._composition(scope, current)
        states = [change for _, change in changes if isinstance(change, StateCreated)]
        late = any(change.revision <= pointer.highest_revision.producer for change in states)
        used = UsedStates()
        if states:
            used = await self._used_states(scope, pointer, numbers=late)
        published = await self._published_again(scope, pointer, states)
        return DesiredState(composition, pointer.highest_revision, used, published)

    async def _published_again(
        self, scope: Scope, pointer: Pointer, states: Sequence[StateCreated]
    ) -> dict[str, Composition]:
        """`DesiredState.published`. A state whose manifest cannot be used is left out."""
        wanted = {change.state for change in states if folding.has_former_numbers(change)}
        publications = {
            publication.state: publication
            for publication in pointer.retained
            if publication.state in wanted
        }
        if not publications:
            return {}
        compositions: dict[str, Composition] = {}
        for manifest in await self._reader.manifests(scope, publications.values()):
            with suppress(VerificationFailed):
                compositions[manifest.state] = await self._runtime.run_in_thread(
                    manifest.composition_value
                )
        return compositions

    async def _composition(self, scope: Scope, publication: Publication) -> Composition:
        cached = self._compositions.get(publication.composition_digest)
        if cached is not None:
            return cached
        manifest = await self._reader.manifest(scope, publication)
        composition = await self._runtime.run_in_thread(manifest.composition_value)
        self._remember(composition)
        return composition

    def _remember(self, composition: Composition) -> None:
        # The values of a composition take about six times the memory of its JSON.
        self._compositions.put(composition.digest, composition, 6 * len(composition.canonical))

    async def _used_states(self, scope: Scope, pointer: Pointer, *, numbers: bool) -> UsedStates:
        """The explicit states of a scope.

        `numbers`: read the manifests of those that the history only names, because a late state has
        to be compared with them.
        """
        history = await self._reader.history(pointer)
        used = used_states(pointer.retained, history)
        names = only_named(history, used)
        if not numbers:
            return complete(used, names, {})
        manifests = await self._reader.named_manifests(scope, names)
        used |= {
            UsedState(manifest.state, manifest.revision.producer, manifest.composition_digest)
            for manifest in manifests
        }
        damaged = {fault.publication.state: fault.reason for fault in manifests.damaged}
        return complete(used, names, damaged)

    # -- rendering

    async def _render_all(self, scope: Scope, pointer: Pointer, plan: Plan) -> list[RenderedState]:
        if plan.publications and pointer.desired is not None and not self._accept_older_renderer:
            refuse_newer_renderer(scope, pointer.desired)
        return [await self._rendered(planned) for planned in plan.publications]

    async def _rendered(self, planned: PlannedState) -> RenderedState:
        scope, models = planned.composition.scope, len(planned.composition.models)
        if models > _MANY_MODELS:
            self._observer.crowded(scope, models)
        try:
            rendered = await self._runtime.run_in_thread(
                self._rendering.rendered_state,
                planned.composition,
                state=planned.state,
                revision=planned.revision,
                kind=planned.kind,
                late=planned.late,
                events=_provenance(planned),
            )
        except RenderError as failure:
            raise NotRenderable(planned, failure) from failure
        if self._rendering.pinning == "warn" and (
            unpinned := movable(planned.composition, rendered.defaults)
        ):
            self._observer.unpinned(scope, planned.state, unpinned)
        return rendered


class _Uploads:
    """States that a batch stored before its compare-and-swap failed. The next try uses them again.

    They are valid only while the pointer has the `gc_epoch` under which they were stored: a later
    garbage collection may have deleted them as orphans (protocol 4, absolute rule 3).
    """

    def __init__(self) -> None:
        self._gc_epoch = 0
        self._stored: list[tuple[RenderedState, Publication]] = []

    def keep_only(self, gc_epoch: int) -> None:
        """Drop states that were stored under another epoch."""
        if gc_epoch != self._gc_epoch:
            self._gc_epoch, self._stored = gc_epoch, []

    def of(self, state: RenderedState) -> Publication | None:
        """The publication of an equal state; None if it was not stored."""
        return next((publication for stored, publication in self._stored if stored == state), None)

    def add(self, state: RenderedState, publication: Publication) -> Publication:
        """Remember a state that was stored under the current epoch."""
        self._stored.append((state, publication))
        return publication


def _provenance(planned: PlannedState) -> tuple[ManifestEvent, ...]:
    """The events that made a state, and those that it replaced unpublished, in order."""
    # An explicit state replaces only events that precede it in the lane.
    events = [(delivery, True) for delivery in planned.skipped]
    events += [(delivery, False) for delivery in planned.deliveries]
    return tuple(
        ManifestEvent(
            intake=delivery.identity.intake,
            source=delivery.identity.source,
            id=delivery.identity.id,
            type=delivery.event.type,
            digest=delivery.digest,
            instance=delivery.position.instance,
            offset=delivery.position.offset,
            skipped=skipped,
        )
        for delivery, skipped in events
    )
