"""Outcomes of events that a pointer has passed already: after a crash between commit and settling, or in a restored
copy of a source (protocol 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.publishing.errors import NotFound, VerificationFailed
from daemon.publishing.pointer import HistoryEntry, Pointer
from daemon.publishing.reader import DamagedManifest, Reader
from daemon.stores.errors import StoreRefused
from events.model import Outcome, OutcomeKind, Position
from events.source import Delivery, EventSource, Recorded
from renderers.model import Scope


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


class Replays:
    """Finds out what became of events that are delivered again."""

    def __init__(self, source: EventSource, reader: Reader) -> None:
        self._source = source
        self._reader = reader

    async def outcomes(self, scope: Scope, pointer: Pointer, waiting: Sequence[Delivery]) -> dict[Position, Outcome]:
        """Outcomes of the deliveries that the pointer has passed; empty if it has passed none.

        Raises:
            InstanceShared: the source has to take a new instance first.
            VerificationFailed: an outcome is unknown while a retained manifest is damaged.
            StoreRefused: an outcome is unknown while a retained manifest cannot be read.
        """
        passed = [each for each in waiting if each.position.offset <= pointer.inputs.get(each.position.instance, -1)]
        if not passed:
            return {}
        recorded = await self._source.recorded(str(scope), [each.position for each in passed])
        made = await self._made(pointer, recorded)
        unexplained = [each for each in passed if each.position not in made]
        published, damaged = await self.published(scope, pointer, unexplained) if unexplained else ({}, ())
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
                raise InstanceShared(scope, Position(instance, pointer.inputs[instance]))
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

    async def published(
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


@dataclass(frozen=True, slots=True)
class _Writes:
    """The ids of writes in a lineage."""

    known: frozenset[str]
    whole: bool
    """There are no others: the first change of the scope is among them."""

    @classmethod
    def of(cls, entries: Sequence[HistoryEntry]) -> "_Writes":
        return cls(frozenset(each.write for each in entries), bool(entries) and entries[0].sequence == 1)


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
