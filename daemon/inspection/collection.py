"""The view of a garbage collection. Pure."""

from dataclasses import dataclass

from daemon.publishing.maintenance.garbage_collector import Collected
from daemon.publishing.maintenance.retention_rules import (
    Deletable,
    Kept,
    NotYetDeletable,
    Released,
)


@dataclass(frozen=True, slots=True)
class DecisionView:
    """A publication that is kept in the pointer, or released from it."""

    state: str
    attempt: str
    why: str

    @classmethod
    def of(cls, decision: Kept | Released) -> "DecisionView":
        """The view of a decision."""
        publication = decision.publication
        return cls(publication.state, publication.attempt, decision.reason)


@dataclass(frozen=True, slots=True)
class FolderView:
    """An upload that no pointer names."""

    state: str
    attempt: str
    stored_at: str
    bytes: int
    deleted: bool
    why: str

    @classmethod
    def of(cls, decision: Deletable | NotYetDeletable, *, deleted: bool = False) -> "FolderView":
        """The view of a decision."""
        folder = decision.folder
        return cls(
            state=folder.id.state,
            attempt=folder.id.attempt,
            stored_at=folder.stored.isoformat(timespec="seconds").replace("+00:00", "Z"),
            bytes=folder.size,
            deleted=deleted,
            why=decision.reason,
        )


@dataclass(frozen=True, slots=True)
class CopyView:
    """A copy of a replaced file."""

    key: str
    bytes: int


@dataclass(frozen=True, slots=True)
class CollectionView:
    """What a collection did in a scope, or would do."""

    scope: str
    sequence: int | None
    """The sequence of the pointer that released publications; None if none was released."""
    bytes: int
    """The size of what was deleted."""
    released: tuple[DecisionView, ...]
    deleted: tuple[FolderView, ...]
    left: tuple[FolderView, ...]
    """Uploads that a later collection deletes."""
    spared: tuple[FolderView, ...]
    """Uploads within the grace period."""
    kept: tuple[DecisionView, ...]
    strays: tuple[str, ...]
    """Keys that belong to no publication. They are not deleted."""
    copies: tuple[CopyView, ...]

    @classmethod
    def of(cls, collected: Collected) -> "CollectionView":
        """The view of a collection."""
        return cls(
            scope=str(collected.scope),
            sequence=collected.sequence,
            bytes=collected.size,
            released=tuple(map(DecisionView.of, collected.released)),
            deleted=tuple(FolderView.of(folder, deleted=True) for folder in collected.deleted),
            left=tuple(map(FolderView.of, collected.left)),
            spared=tuple(map(FolderView.of, collected.kept_for_now)),
            kept=tuple(map(DecisionView.of, collected.kept)),
            strays=tuple(collected.strays),
            copies=tuple(CopyView(copy.key, copy.size) for copy in collected.copies),
        )
