"""Finds the outcomes of events that are delivered again although their scope has processed them.

The pointer has, for each instance of a source, the position up to which the scope has processed its
events: it has *passed* them. A passed event is delivered again after a crash between commit and
settling, or by a source that was restored from a backup or copied (protocol 2). Its outcome is what
the source recorded before the commit, or follows from the manifests of retained publications.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.consequences import Conflict
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.pointer import HistoryEntry, Pointer
from daemon.publishing.reader import DamagedManifest, Reader
from daemon.stores.errors import StoreRefused
from events.model import Outcome, OutcomeKind, Position
from events.source import Delivery, EventSource, Recorded
from renderers.values import Scope


class InstanceShared(Conflict):
    """A copy of this source publishes under the same instance (protocol 2).

    The pointer has passed events of this source that the source did not commit and finds in no
    publication.
    """

    def __init__(self, scope: Scope, instance: str, offset: int) -> None:
        super().__init__(
            f"{scope} was published to under {instance} up to {offset}, and not by this journal: "
            "a copy of it is in use"
        )
        self.passed = {instance: offset}
        """The last passed offset, by instance: the positions for `EventSource.compare`."""


class Redeliveries:
    """The outcomes of events that are delivered again."""

    def __init__(self, source: EventSource, reader: Reader) -> None:
        self._source = source
        self._reader = reader

    async def outcomes(
        self, scope: Scope, pointer: Pointer, waiting: Sequence[Delivery]
    ) -> dict[Position, Outcome]:
        """Outcomes of the deliveries that the pointer has passed; empty if it has passed none.

        Raises:
            InstanceShared: the source has to take a new instance first.
            VerificationFailed: an outcome is unknown while a retained manifest is damaged.
            StoreRefused: an outcome is unknown while a retained manifest cannot be read.
        """
        passed = [delivery for delivery in waiting if _has_passed(pointer, delivery.position)]
        if not passed:
            return {}
        recorded = await self._source.recorded(
            str(scope), [delivery.position for delivery in passed]
        )
        committed = await self._committed(pointer, recorded)
        unexplained = [delivery for delivery in passed if delivery.position not in committed]
        published, damaged = (
            await self.published(scope, pointer, unexplained) if unexplained else ({}, ())
        )
        if damaged and len(published) < len(unexplained):
            # The damaged manifest may list the events that no other manifest lists.
            if damaged[0].unreadable:
                raise StoreRefused(damaged[0].reason)
            raise VerificationFailed(damaged[0].reason)
        # A recorded outcome wins: a manifest does not distinguish late and withheld states.
        explained = published | committed
        if self._source.owns_instance:
            if not explained:
                instance = passed[0].position.instance
                raise InstanceShared(scope, instance, pointer.positions[instance])
            return explained
        superseded = Outcome(OutcomeKind.SUPERSEDED, "the scope has moved past it")
        return {
            delivery.position: explained.get(delivery.position, superseded) for delivery in passed
        }

    async def _committed(
        self, pointer: Pointer, recorded: Mapping[Position, Sequence[Recorded]]
    ) -> dict[Position, Outcome]:
        """The recorded outcomes whose commit took effect.

        A commit whose result stayed unknown may have taken effect after another one was tried with
        other events, and a commit that is recorded nowhere may have passed the event: that of a
        copy of the source, or of a source that remembers dead letters only. The lineage decides.
        """
        lineage = await self._lineage_of(pointer, list(recorded.values()))
        outcomes: dict[Position, Outcome] = {}
        for position, records in recorded.items():
            outcome = _effective(records, lineage)
            if outcome is not None:
                outcomes[position] = outcome
        return outcomes

    async def _lineage_of(
        self, pointer: Pointer, recorded: Sequence[Sequence[Recorded]]
    ) -> "_Writes":
        """The writes that led to this pointer, as far back as these records need."""
        newest = _Writes.of(pointer.history)
        if all(any(newest.made(record) for record in records) for records in recorded):
            return newest
        try:
            return _Writes.of(await self._reader.history(pointer))
        except VerificationFailed:
            return newest

    async def published(
        self, scope: Scope, pointer: Pointer, deliveries: Sequence[Delivery]
    ) -> tuple[dict[Position, Outcome], Sequence[DamagedManifest]]:
        """Outcomes of events that retained manifests list, and the unreadable manifests."""
        # With the digest: another instance of a source can accept the same id with other content.
        wanted: dict[tuple[str, str, str, str], Position] = {}
        for delivery in deliveries:
            identity = delivery.identity
            key = (identity.intake, identity.source, identity.id, delivery.digest)
            wanted[key] = delivery.position
        outcomes: dict[Position, Outcome] = {}
        manifests = await self._reader.manifests(scope, reversed(pointer.retained))
        for manifest in manifests:
            for event in manifest.events:
                position = wanted.get((event.intake, event.source, event.id, event.digest))
                if position is not None and position not in outcomes and not event.skipped:
                    reason = f"published as {manifest.state}"
                    outcomes[position] = Outcome(OutcomeKind.PUBLISHED, reason, manifest.state)
        return outcomes, manifests.damaged


@dataclass(frozen=True, slots=True)
class _Writes:
    """The ids of the writes in a lineage."""

    known: frozenset[str]
    whole: bool
    """Whether `known` has all of them, from the first change of the scope."""

    @classmethod
    def of(cls, entries: Sequence[HistoryEntry]) -> "_Writes":
        return cls(
            frozenset(entry.write_id for entry in entries),
            bool(entries) and entries[0].sequence == 1,
        )

    def made(self, record: Recorded) -> bool:
        """Whether this outcome took effect: it is settled, or its write is in the lineage."""
        return record.write_id is None or record.write_id in self.known


def _effective(records: Sequence[Recorded], lineage: _Writes) -> Outcome | None:
    """The recorded outcome that took effect for an event that the pointer has passed, if known.

    It is the outcome of a commit in the lineage. If no commit is there because the lineage was cut
    off, it is the outcome on which all records agree, or else a dead letter, which must not be
    dropped.
    """
    for record in records:
        if lineage.made(record):
            return record.outcome
    if lineage.whole:
        return None
    outcomes = [record.outcome for record in records]
    if len(set(outcomes)) == 1:
        return outcomes[-1]
    return next(
        (outcome for outcome in outcomes if outcome.kind is OutcomeKind.DEAD_LETTERED), None
    )


def _has_passed(pointer: Pointer, position: Position) -> bool:
    return position.offset <= pointer.positions.get(position.instance, -1)
