"""One batch of a scope, end to end: read, fold, render, gate, store, compare-and-swap, settle, live tree.

Every step before the compare-and-swap can be thrown away, every step after it can be repeated: a crash at any point
is repaired by processing the same deliveries again (protocol 2). What is kept between batches is immutable, or proves
itself: the pointer of the last own write is the base of the next one, whose condition fails if it is not the newest any
more; whatever is settled without that condition is judged on a pointer that was read for it. The worker calls
`process` until it succeeds; each failure is an exception, judged in `outcomes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from daemon import batches, folding
from daemon.batches import Batch
from daemon.changes import Change, ModelVersionChanged, RollbackRequested, StateCreated, interpret
from daemon.concurrency import concurrently
from daemon.folding import DesiredState, Lineage, Plan, PlannedState, UsedStateId
from daemon.publishing import protocol
from daemon.publishing.bucket_identity import ANY_BUCKET, BucketCheck
from daemon.publishing.errors import NewerRenderer, NotFound, OperationRefused, PointerMoved, VerificationFailed
from daemon.publishing.live_tree.sync import LiveTree, Synced, Unfinished
from daemon.publishing.manifest import ManifestEvent, RenderedState
from daemon.publishing.operator_commands import find_exactly
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication, PublicationId, Revision
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import DamagedManifest, PointerRead, Reader
from daemon.runtime import Runtime
from daemon.stores.errors import StoreRefused
from events.errors import InvalidEvent
from events.model import BUNDLE_STATE_CREATED, Event, Outcome, OutcomeKind, Position
from events.source import Delivery, EventSource, Recorded
from renderers.bundle import RENDERER_VERSION, Customisation, RenderedBundle, Renderer
from renderers.cache import Cache
from renderers.errors import RenderError
from renderers.limits import DEFAULT_LIMITS, BundleLimits, TooBig
from renderers.model import Composition, RenderDefaults, RenderedFile, Scope, Stamp
from renderers.pinning import Movable, Policy, Unpinned, movable
from renderers.pinning import require as require_pinned

_TRIES: Final = 5
_MANY_MODELS: Final = 900
"""A Linux bridge takes about 1,000 containers."""

_COMPOSITIONS_BYTES: Final = 128 << 20
_MOST_POINTERS: Final = 256
_UPLOADS_AT_ONCE: Final = 4

Judged = tuple[Delivery, StateCreated | ModelVersionChanged]


class Observer(Protocol):
    """Who is told what happened, for logs and metrics. Never fails, never waits."""

    def published(self, scope: Scope, read: PointerRead, publications: Sequence[Publication]) -> None:
        """A compare-and-swap was won."""
        ...

    def lost(self, scope: Scope) -> None:
        """Another writer was faster."""
        ...

    def refused_by_gate(self, scope: Scope, state: str, reason: str) -> None:
        """A state cannot be rendered, or what was rendered is not what its composition says."""
        ...

    def crowded(self, scope: Scope, models: int) -> None:
        """A state has so many models that one network on the target host may not hold their containers."""
        ...

    def unpinned(self, scope: Scope, state: str, found: Sequence[Movable]) -> None:
        """A state has images or artifacts that may change under their names, and somebody wants to know."""
        ...

    def settled(self, scope: Scope, delivery: Delivery, outcome: Outcome) -> None:
        """This event is done in this scope."""
        ...

    def reconciled(self, scope: Scope, result: Synced | Unfinished) -> None:
        """A pass over the live tree ended."""
        ...


class NotRenderable(Exception):
    """A planned state cannot be rendered, or what was rendered is not what its composition says (the gate)."""

    def __init__(self, planned: PlannedState, failure: RenderError) -> None:
        super().__init__(str(failure))
        self.planned = planned
        self.failure = failure


class InstanceShared(Exception):
    """The pointer has passed events of this source that the source neither committed nor finds published: a copy of the
    source publishes under the same instance (protocol 2)."""

    def __init__(self, scope: Scope, position: Position) -> None:
        super().__init__(
            f"{scope} was published to under {position.instance} up to {position.offset}, and not by this journal: "
            "a copy of it is in use"
        )
        self.position = position
        """The last one that the pointer has passed."""


class Gate(Protocol):
    """Reads a rendered bundle back."""

    def __call__(
        self, composition: Composition, defaults: RenderDefaults, bundle: RenderedBundle, overridden: frozenset[str], /
    ) -> None:
        """Raises GateFailure unless it says what the composition says; `overridden` names the templates not ours."""
        ...


@dataclass(frozen=True, slots=True)
class Rendering:
    """Composition -> files, read back by the gate; shared by all scopes."""

    renderer: Renderer
    gate: Gate
    customisation: Callable[[Scope], Customisation]
    limits: BundleLimits = DEFAULT_LIMITS
    pinning: Policy = "off"

    def render(self, composition: Composition, stamp: Stamp) -> tuple[RenderedFile, ...]:
        """The files of a state, checked.

        Raises:
            RenderError: the composition is too big, a text cannot stand where it belongs, or (GateFailure) the files
                are not what the composition says; nothing may be published of them.
        """
        self.limits.check(composition)
        own = self.customisation(composition.scope)
        if self.pinning == "require":
            require_pinned(composition, own.defaults)
        rendered = self.renderer.render(composition, own.defaults, stamp, own.templates)
        self.gate(composition, own.defaults, rendered, own.templates.overridden)
        return rendered.files


class Pipeline:
    """Processes batches of any scope; one batch of a scope at a time, the worker sees to that."""

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
        self._publisher = publisher
        self._live_tree = live_tree
        self._rendering = rendering
        self._runtime = runtime
        self._observer = observer
        self._writer = writer
        self._accept_older_renderer = accept_older_renderer
        self._bucket = bucket
        self._compositions = Cache[Composition](_COMPOSITIONS_BYTES)
        self._written = Cache[PointerRead](_MOST_POINTERS)
        self._compared: set[Scope] = set()

    async def process(self, scope: Scope, waiting: Sequence[Delivery]) -> frozenset[Position]:
        """Settle the first events that wait in a scope, as many as make one batch; the positions that are done.

        Raises:
            InstanceShared: the source has to take a new instance first.
            Anything that a store, the source or the publication protocol raises: nothing is settled then that
            was not committed, and the same call may be made again.
        """
        if scope not in self._compared:
            await self._live_tree.refuse_lost_pointer(scope)
            self._compared.add(scope)
        kept = self._written.pop(scope)
        uploads = _Uploads()
        for base in (*([kept] if kept else []), *[None] * _TRIES):
            settled = await self._try(scope, base, waiting, uploads)
            if settled is not None:
                return settled
        raise PointerMoved(f"other writers changed {scope} {_TRIES} times in a row")

    async def _try(
        self, scope: Scope, kept: PointerRead | None, waiting: Sequence[Delivery], uploads: "_Uploads"
    ) -> frozenset[Position] | None:
        """The positions that are done; None if another writer was faster, or `kept` was not enough to tell."""
        base = kept or await self._reader.pointer(scope)
        try:
            outcomes = await self._passed(scope, base.pointer, waiting)
            outcomes = outcomes or await self._fold(scope, base, waiting, uploads)
        except PointerMoved:
            self._observer.lost(scope)
            return None
        if kept is not None and self._written.get(scope) is None:
            return None
        await self._source.settle(str(scope), outcomes)
        for delivery in waiting:
            if delivery.position in outcomes:
                self._observer.settled(scope, delivery, outcomes[delivery.position])
        return frozenset(outcomes)

    def forget(self, scope: Scope) -> None:
        """Keep nothing of a scope that does not exist."""
        self._compared.discard(scope)
        self._written.pop(scope)

    async def reconcile(self, scope: Scope) -> Synced | Unfinished:
        """One pass over a scope's live tree."""
        result = await self._live_tree.reconcile(scope)
        self._observer.reconciled(scope, result)
        return result

    # -- events that the pointer has passed already: a crash between commit and settling, or a restored copy

    async def _passed(self, scope: Scope, pointer: Pointer, waiting: Sequence[Delivery]) -> dict[Position, Outcome]:
        passed = [each for each in waiting if each.position.offset <= pointer.positions.get(each.position.instance, -1)]
        if not passed:
            return {}
        recorded = await self._source.recorded(str(scope), [each.position for each in passed])
        made = await self._made(pointer, recorded)
        unexplained = [each for each in passed if each.position not in made]
        published, damaged = await self._published(scope, pointer, unexplained) if unexplained else ({}, ())
        if damaged and len(published) < len(unexplained):
            # Its list of events is not known, so an event that no other manifest lists may be one of them.
            if damaged[0].unreadable:
                raise StoreRefused(damaged[0].reason)
            raise VerificationFailed(f"{damaged[0].reason}; run `rebundle recover {scope} --reason '…'`")
        # What was recorded says more than a manifest, which lists late and withheld states like any other.
        explained = published | made
        if self._source.owns_instance:
            if not explained:
                instance = passed[0].position.instance
                raise InstanceShared(scope, Position(instance, pointer.positions[instance]))
            return explained
        superseded = Outcome(OutcomeKind.SUPERSEDED, "the scope has moved past it")
        return {each.position: explained.get(each.position, superseded) for each in passed}

    async def _made(self, pointer: Pointer, recorded: Mapping[Position, Sequence[Recorded]]) -> dict[Position, Outcome]:
        """The outcomes whose commit was made.

        A commit of ours that was given up as unknown may have been made after another one was tried, of other events;
        then the lineage tells. Where all that was recorded agrees, it need not be asked: only a copy of a source that
        owns its instance can have passed the event in place of that commit.
        """
        owned = self._source.owns_instance
        doubtful = [records for records in recorded.values() if owned or len({each.outcome for each in records}) > 1]
        lineage = await self._lineage_of(pointer, doubtful)
        counting = {at: _counting(records, lineage, owned=owned) for at, records in recorded.items()}
        return {at: outcome for at, outcome in counting.items() if outcome is not None}

    async def _lineage_of(self, pointer: Pointer, doubtful: Sequence[Sequence[Recorded]]) -> "_Writes":
        """The writes that led to this pointer, as far back as has to be read."""
        newest = _Writes.of(pointer.history)
        if all(any(each.commit in newest.known for each in records) for records in doubtful):
            return newest
        try:
            return _Writes.of(await self._reader.history(pointer))
        except (NotFound, VerificationFailed):
            return newest

    async def _published(
        self, scope: Scope, pointer: Pointer, deliveries: Sequence[Delivery]
    ) -> tuple[dict[Position, Outcome], Sequence[DamagedManifest]]:
        """Outcomes of the events that a retained publication lists, and the manifests that could not be asked."""
        wanted = {(each.identity.intake, each.identity.source, each.identity.id): each.position for each in deliveries}
        found: dict[Position, Outcome] = {}
        manifests = await self._reader.manifests(scope, reversed(pointer.retained))
        for manifest in manifests:
            for event in manifest.events:
                position = wanted.get((event.intake, event.source, event.id))
                if position is not None and position not in found and not event.skipped:
                    found[position] = Outcome(OutcomeKind.PUBLISHED, f"published as {manifest.state}", manifest.state)
        return found, manifests.damaged

    # -- events that are new to the scope

    async def _fold(
        self, scope: Scope, base: PointerRead, waiting: Sequence[Delivery], uploads: "_Uploads"
    ) -> dict[Position, Outcome]:
        batch = await self._judge(scope, base.pointer, waiting)
        changes: list[Judged] = []
        for delivery, change in batch.changes:
            if isinstance(change, RollbackRequested):  # always alone in its batch
                return await self._roll_back(scope, base, delivery, change, batch.outcomes)
            changes.append((delivery, change))
        return await self._publish(scope, base, changes, batch.outcomes, uploads)

    async def _judge(self, scope: Scope, pointer: Pointer, waiting: Sequence[Delivery]) -> Batch:
        """The next batch: what each event asks for, and the outcomes of those that can be told at once."""
        known = {folded.identity: folded.event for folded in pointer.folded_events}
        changes: list[tuple[Delivery, Change]] = []
        outcomes: dict[Position, Outcome] = {}
        repeated: list[Delivery] = []
        for delivery in waiting[: folding.MOST_EVENTS]:
            folded = known.get(delivery.identity.digest[:16])
            if folded == delivery.digest[:16]:
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
            published, _ = await self._published(scope, pointer, repeated)
            again = Outcome(OutcomeKind.IGNORED, "the scope has folded this event already")
            outcomes |= {each.position: published.get(each.position, again) for each in repeated}
        return batches.first(changes, outcomes)

    async def _interpret(self, event: Event) -> Change:
        # A state of 2,000 models takes 36 ms; all else takes less than going to a thread and back.
        if event.type == BUNDLE_STATE_CREATED:
            return await self._runtime.run_in_thread(interpret, event)
        return interpret(event)

    async def _publish(
        self,
        scope: Scope,
        base: PointerRead,
        changes: Sequence[Judged],
        outcomes: dict[Position, Outcome],
        uploads: "_Uploads",
    ) -> dict[Position, Outcome]:
        standing = await self._standing(scope, base.pointer, changes)
        while True:
            plan = folding.plan(standing, changes)
            try:
                rendered = await self._render_all(scope, base.pointer, plan)
                break
            except NotRenderable as refused:
                if len(refused.planned.deliveries) > 1:
                    # A derived state of several events: one at a time, until the one that fails (protocol 3).
                    first = refused.planned.deliveries[0]
                    index = next(i for i, (delivery, _) in enumerate(changes) if delivery is first)
                    changes = changes[: index + 1]
                    outcomes = {at: each for at, each in outcomes.items() if at.offset <= first.position.offset}
                    continue
                culprit = refused.planned.deliveries[0]
                # What is too big or may change under its name is the sender's, or the setting's.
                if not isinstance(refused.failure, TooBig | Unpinned):
                    self._observer.refused_by_gate(scope, refused.planned.state, str(refused.failure))
                reason = f"the state cannot be rendered: {refused.failure}"
                outcomes[culprit.position] = Outcome(OutcomeKind.DEAD_LETTERED, reason)
                changes = [each for each in changes if each[0] is not culprit]
        outcomes |= plan.outcomes
        if not rendered:
            return outcomes
        publications = await self._store_all(scope, base.pointer.gc_epoch, rendered, uploads)
        writing = self._publisher.writing(self._writer)
        progress = batches.progress(plan.standing, [delivery for delivery, _ in changes], outcomes)
        following = protocol.publish(base.pointer, writing, publications, progress)
        outcomes |= batches.published_outcomes(plan, following)
        read = await self._commit(scope, base, following, outcomes)
        # What the next event is folded onto: parsing it again out of the manifest would cost with the bundle's size.
        for publication, state in zip(publications, rendered, strict=True):
            if publication.id == (following.desired and following.desired.id):
                self._remember(state.composition)
        self._observer.published(scope, read, publications)
        return outcomes

    async def _store_all(
        self, scope: Scope, gc_epoch: int, states: Sequence[RenderedState], uploads: "_Uploads"
    ) -> list[Publication]:
        """The publication of each state: stored now, a few at once, or by a try of this batch whose swap was lost."""
        uploads.keep_only(gc_epoch)

        async def store(state: RenderedState) -> Publication:
            return uploads.of(state) or uploads.add(state, await self._publisher.store_state(scope, state))

        return await concurrently(store, states, at_once=_UPLOADS_AT_ONCE)

    async def _roll_back(
        self,
        scope: Scope,
        base: PointerRead,
        delivery: Delivery,
        request: RollbackRequested,
        outcomes: dict[Position, Outcome],
    ) -> dict[Position, Outcome]:
        writing = replace(self._publisher.writing(request.requested_by or self._writer), reason=request.reason)
        refusal = batches.rollback_refusal(base.pointer, request)
        following = None
        if refusal is None:
            try:
                target = find_exactly(base.pointer, request.to_state)
                progress = batches.progress(DesiredState(None), [delivery], outcomes)
                following = protocol.rollback(base.pointer, writing, target, progress=progress)
                if following is not None:
                    # Nobody is to be served what every reader would refuse, or what is gone.
                    await self._reader.files(scope, target)
            except (NotFound, OperationRefused, VerificationFailed) as error:
                following = None
                refusal = Outcome(OutcomeKind.DEAD_LETTERED, str(error))
        if following is None:
            already = Outcome(OutcomeKind.IGNORED, f"live is {request.to_state} and held already", request.to_state)
            outcomes[delivery.position] = refusal or already
        else:
            said = Outcome(OutcomeKind.PUBLISHED, f"live is {request.to_state}, held", request.to_state)
            outcomes[delivery.position] = said
            read = await self._commit(scope, base, following, outcomes)
            self._observer.published(scope, read, ())
        return outcomes

    async def _commit(
        self, scope: Scope, base: PointerRead, following: Pointer, outcomes: Mapping[Position, Outcome]
    ) -> PointerRead:
        """Outcomes first, then the compare-and-swap; a lost one withdraws them."""
        await self._source.record(str(scope), following.write_id, outcomes)
        try:
            read = await self._publisher.swap(scope, base, following, before_creating=self._bucket.check)
        except PointerMoved:
            await self._source.withdraw(str(scope), following.write_id)
            raise
        self._written.put(scope, read, 1)
        return read

    # -- what a fold starts from

    async def _standing(self, scope: Scope, pointer: Pointer, changes: Sequence[Judged]) -> DesiredState:
        current = pointer.desired
        composition = None
        if current is not None:
            composition = await self._composition(scope, current)
        highest = pointer.highest_revision
        late = any(isinstance(change, StateCreated) and change.revision <= highest.producer for _, change in changes)
        states = any(isinstance(change, StateCreated) for _, change in changes)
        lineage = await self._lineage(scope, pointer, numbers=late) if states else Lineage()
        return DesiredState(composition, highest.producer, highest.derived, lineage)

    async def _composition(self, scope: Scope, publication: Publication) -> Composition:
        kept = self._compositions.get(publication.composition_digest)
        if kept is not None:
            return kept
        manifest = await self._reader.manifest(scope, publication)
        composition = await self._runtime.run_in_thread(manifest.composition_value)
        self._remember(composition)
        return composition

    def _remember(self, composition: Composition) -> None:
        # Its values take about six times what its JSON does.
        self._compositions.put(composition.digest, composition, 6 * len(composition.canonical))

    async def _lineage(self, scope: Scope, pointer: Pointer, *, numbers: bool) -> Lineage:
        """The explicit states that are used up.

        Of those that history only names, without number and composition, manifests are read if a late state asks.
        """
        retained = {each.id: each for each in pointer.retained if each.kind == "explicit"}
        known = {UsedStateId(each.state, each.revision.producer, each.composition_digest) for each in retained.values()}
        history = await self._reader.history(pointer)
        # Their manifests may be gone.
        known |= {UsedStateId(*used) for used in protocol.used_up(history)}
        named = {
            PublicationId.parse(name)
            for entry in history
            for name in entry.published
            if not name.startswith("derived-")
        }
        told = {each.state for each in known}
        forgotten = sorted((name for name in named if name.state not in told), key=str)
        unreadable: dict[str, str] = {}
        if numbers:
            manifests = await self._reader.named_manifests(scope, forgotten)
            known |= {UsedStateId(each.state, each.revision.producer, each.composition_digest) for each in manifests}
            unreadable = {each.publication.state: each.reason for each in manifests.damaged}
        told = {each.state for each in known}
        known |= {UsedStateId(name.state, None, None) for name in forgotten if name.state not in told}
        return Lineage(tuple(sorted(known, key=lambda each: (each.state, each.producer or 0))), unreadable)

    # -- rendering

    async def _render_all(self, scope: Scope, pointer: Pointer, plan: Plan) -> list[RenderedState]:
        if plan.publications and pointer.desired is not None and not self._accept_older_renderer:
            refuse_newer_renderer(scope, pointer.desired)
        return [
            await self._rendered(
                planned,
                Revision(producer=planned.producer, derived=planned.derived),
                _provenance(planned),
            )
            for planned in plan.publications
        ]

    async def _rendered(
        self, planned: PlannedState, revision: Revision, events: tuple[ManifestEvent, ...]
    ) -> RenderedState:
        stamp = Stamp(planned.state, str(revision))
        scope, models = planned.composition.scope, len(planned.composition.models)
        if models > _MANY_MODELS:
            self._observer.crowded(scope, models)
        try:
            files = await self._runtime.run_in_thread(self._rendering.render, planned.composition, stamp)
        except RenderError as failure:
            raise NotRenderable(planned, failure) from failure
        own = self._rendering.customisation(scope)
        if self._rendering.pinning == "warn" and (found := movable(planned.composition, own.defaults)):
            self._observer.unpinned(scope, planned.state, found)
        return RenderedState(
            composition=planned.composition,
            defaults=own.defaults,
            state=planned.state,
            revision=revision,
            kind=planned.kind,
            late=planned.late,
            files=files,
            renderer=RENDERER_VERSION,
            templates=own.templates.digest,
            events=events,
        )


class _Uploads:
    """States that one batch has stored and whose swap was lost: the next try need not store them again.

    Only while the pointer has the `gc_epoch` they were stored under: a collection may have taken them for orphans
    (protocol 4, never softened 3).
    """

    def __init__(self) -> None:
        self._gc_epoch = 0
        self._stored: list[tuple[RenderedState, Publication]] = []

    def keep_only(self, gc_epoch: int) -> None:
        """Forget what was stored under another epoch."""
        if gc_epoch != self._gc_epoch:
            self._gc_epoch, self._stored = gc_epoch, []

    def of(self, state: RenderedState) -> Publication | None:
        """The publication of this very state."""
        return next((publication for stored, publication in self._stored if stored == state), None)

    def add(self, state: RenderedState, publication: Publication) -> Publication:
        """Remember what was stored under the present epoch."""
        self._stored.append((state, publication))
        return publication


def refuse_newer_renderer(scope: Scope, current: Publication) -> None:
    """Raises NewerRenderer if a newer release rendered `current`: ours would go back behind it (protocol 4)."""
    if _version(current.renderer) > _version(RENDERER_VERSION):
        raise NewerRenderer(
            f"{scope} was rendered by a newer release (renderer {current.renderer}, this one has {RENDERER_VERSION}): "
            "upgrade this one, or run it with --accept-older-renderer"
        )


def _provenance(planned: PlannedState) -> tuple[ManifestEvent, ...]:
    """The events a state came of, and those it replaced before they were published, in order."""
    told = [(each, False) for each in planned.deliveries] + [(each, True) for each in planned.skipped]
    told.sort(key=lambda each: each[0].position.offset)
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
        for delivery, skipped in told
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


@dataclass(frozen=True, slots=True)
class _Writes:
    """The ids of writes in a lineage."""

    known: frozenset[str]
    whole: bool
    """There are no others: the first change of the scope is among them."""

    @classmethod
    def of(cls, entries: Sequence[HistoryEntry]) -> "_Writes":
        return cls(frozenset(each.write_id for each in entries), bool(entries) and entries[0].sequence == 1)


def _counting(records: Sequence[Recorded], lineage: _Writes, *, owned: bool) -> Outcome | None:
    """What counts of all that was recorded for an event that the pointer has passed; None: nothing that is known to.

    That is the outcome of a commit in the lineage. Where the lineage was cut off, so that it knows none: what all of
    them agree on, or else a dead letter, which must not be dropped. Of a source that does not own its instance, what
    all agree on counts in any case: who else passed the event has recorded the same.
    """
    for each in records:
        if each.commit is None or each.commit in lineage.known:
            return each.outcome
    schema_1 = any(each.commit == "" for each in records)
    if owned and lineage.whole and not schema_1:
        return None
    if len({each.outcome for each in records}) == 1:
        return records[-1].outcome
    return next((each.outcome for each in records if each.outcome.kind is OutcomeKind.DEAD_LETTERED), None)
