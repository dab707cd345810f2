"""What is left of a scope whose pointer is gone, damaged or older than something else. Pure.

`recovery` gathers it, and `recovery_rules` makes a usable pointer of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pydantic import ValidationError

from daemon.publishing.manifest import ManifestEvent
from daemon.publishing.pointer import (
    DocumentPart,
    FoldedEvent,
    HistoryEntry,
    Pointer,
    PreviousChunk,
    Publication,
    PublicationId,
    Quarantine,
    Revision,
)
from events.model import Identity
from renderers.values import Scope

P = TypeVar("P", bound=DocumentPart)


@dataclass(frozen=True, slots=True)
class VerifiedPublication:
    """A publication whose manifest, archive and files verify.

    Only a pointer records whether it was late.
    """

    publication: Publication
    events: tuple[ManifestEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class DamagedPublication:
    """A publication that exists and does not verify, with what is known from its manifest."""

    id: PublicationId
    reason: str
    revision: Revision | None = None
    events: tuple[ManifestEvent, ...] = ()
    composition: str | None = None
    kind: Literal["explicit", "derived"] | None = None


@dataclass(frozen=True, slots=True)
class UntrustedPublication(DamagedPublication):
    """A publication that the trust policy refuses. Nothing else is known to be wrong with it."""


@dataclass(frozen=True, slots=True)
class UnreadablePublication:
    """A publication that the store refuses to read. It may be whole."""

    id: PublicationId
    reason: str
    """What is wrong, and which command helps."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Unsigned documents, which everyone with write access to the bucket can forge.

    They may only restrict: their quarantines stay, and they lift nothing. If no pointer has a valid
    signature, chunks and marker are the only source for everything else. They are in `Remains`
    then.
    """

    entries: tuple[HistoryEntry, ...] = ()
    """Changes after a signed pointer, which its chain does not include."""
    pointer: Pointer | None = None
    """A pointer without a valid signature."""
    tree: PublicationId | None = None
    """The publication that the live tree follows according to its marker."""

    @property
    def quarantines(self) -> dict[str, Quarantine]:
        """The quarantines in the changes, by composition digest."""
        return quarantines_in(self.entries)


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a scope."""

    scope: Scope
    pointer: Pointer | None = None
    """The pointer, if it can be read. It may be an older one that was restored."""
    traces: Mapping[str, int] = field(default_factory=dict)
    """The highest sequence by kind of object, other than a readable pointer."""
    entries: tuple[HistoryEntry, ...] = ()
    """The entries of the chunks, the oldest first."""
    chain_holds: bool = True
    """Whether the pointer's chain of chunks is complete.

    Every chunk exists and has the digest that its successor names.
    """
    previous_chunk: PreviousChunk | None = None
    """The newest chunk from which the chain back is complete."""
    chunked: int = 0
    """The last sequence in that chunk."""
    tree: PublicationId | None = None
    """The publication that the live tree follows according to its marker."""
    tree_sequence: int = 0
    found: tuple[VerifiedPublication, ...] = ()
    damaged: tuple[DamagedPublication, ...] = ()
    unreadable: tuple[UnreadablePublication, ...] = ()
    unsigned: Unsigned | None = None
    """Unsigned documents under a trust policy. None: there is no trust policy."""
    had_pointer: bool = False
    """Whether an object shows that there was a pointer, even without a readable sequence or change.

    This can be a damaged pointer, marker, chunk or freshness.json.
    """

    @property
    def was_published(self) -> bool:
        """Whether the scope has a pointer, or is known to have had one.

        If not, nothing in it was ever committed: a first publication is in progress, or it failed.
        """
        return (
            self.had_pointer
            or self.pointer is not None
            or bool(self.traces or self.entries or self.tree)
        )

    @property
    def pointer_is_current(self) -> bool:
        """Whether the pointer can be read and no trace is of a later one."""
        seen = (*self.traces.values(), *(entry.sequence for entry in self.entries))
        return self.pointer is not None and self.pointer.sequence >= max(seen, default=0)

    @property
    def unreferenced_uploads(self) -> tuple[PublicationId, ...]:
        """Whole uploads that neither the pointer nor a change names, the newest last.

        With a usable pointer these are the newer ones, and without any earlier pointer all of them.
        In every other case there are none.

        A writer that lost a race or died leaves such an upload. They also appear if an older
        pointer was restored before the live tree or another trace followed the lost one.
        """
        pointer = self.pointer
        if not self.was_published:
            return tuple(
                upload.id
                for upload in sorted((found.publication for found in self.found), key=by_time)
            )
        if pointer is None or not self.pointer_is_current:
            return ()
        last = max((entry.at for entry in pointer.history), default="")
        known = merged(self.entries, pointer.history)
        named = named_publications(known) | {
            str(publication.id) for publication in pointer.retained
        }
        uploads = (
            found.publication for found in self.found if str(found.publication.id) not in named
        )
        return tuple(
            upload.id
            for upload in uploads
            if upload.at > last or upload.revision > pointer.highest_revision
        )


def quarantines_in(entries: Iterable[HistoryEntry]) -> dict[str, Quarantine]:
    """The quarantines in these changes, by composition digest."""
    values: list[object] = []
    for entry in entries:
        quarantined = entry.change.get("quarantined")
        values += [
            entry.change.get("quarantine"),
            *(quarantined if isinstance(quarantined, list | tuple) else ()),
        ]
    found = (quarantine for value in values if (quarantine := parsed(Quarantine, value)))
    return {quarantine.composition_digest: quarantine for quarantine in found}


def named_publications(known: Iterable[HistoryEntry]) -> set[str]:
    """Names of the publications that these changes published."""
    return {name for entry in known for name in entry.published}


def merged(*histories: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Entries of chunks and of an older pointer, one for every sequence."""
    by_sequence = {entry.sequence: entry for entries in histories for entry in entries}
    return tuple(by_sequence[sequence] for sequence in sorted(by_sequence))


def by_time(publication: Publication) -> tuple[str, str]:
    """Sorts publications by the time at which they were stored."""
    return publication.at, str(publication.id)


def fold_of(event: ManifestEvent) -> FoldedEvent:
    """The event of a manifest as a pointer records it."""
    return FoldedEvent.of(Identity(event.intake, event.source, event.id), event.digest)


def parsed(kind: type[P], value: object) -> P | None:
    """A part of a document that is read from a change; None if it has another form."""
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None
