"""Views of a live tree: its present condition, and the result of a pass. Pure."""

from dataclasses import dataclass

from daemon.publishing.live_tree.ownership import Blocked
from daemon.publishing.live_tree.results import FinishedPass, Survey, UnfinishedPass


@dataclass(frozen=True, slots=True)
class BlockedView:
    """A path that could not be written or deleted."""

    path: str
    reason: str
    seen_at: str | None
    """The time of the pass that saw it, where only a write shows whether it still holds."""

    @classmethod
    def of(cls, blocked: Blocked) -> "BlockedView":
        """The view of a blocked path."""
        return cls(blocked.path, blocked.reason, blocked.seen_at)


@dataclass(frozen=True, slots=True)
class DamagedManifestView:
    """A retained publication whose manifest cannot be used."""

    publication: str
    reason: str
    unreadable: bool
    """Whether the store does not let it be read. Otherwise it is damaged."""


@dataclass(frozen=True, slots=True)
class UnreadOverrideView:
    """A file of example/ that cannot be read, and so counts as an operator's."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class LiveTreeView:
    """The present condition of a live tree."""

    synced: bool
    """Whether a pass would have nothing to do, and the marker has the status `synced`."""
    follows: bool
    """Whether base/ and README.md equal live."""
    ahead: bool
    """Whether the marker is of a newer pointer than the present one."""
    sequence: int | None
    """The sequence that the marker has; None without a marker."""
    pending: tuple[str, ...]
    """Paths that the next pass writes or deletes."""
    blocked: tuple[BlockedView, ...]
    damaged_manifests: tuple[DamagedManifestView, ...]
    foreign: tuple[str, ...]
    """Paths of base/ that were edited by hand: the next pass keeps a copy and replaces them."""
    overrides: tuple[str, ...]
    unread_overrides: tuple[UnreadOverrideView, ...]
    """Those of `overrides` that cannot be read."""
    deleted_by_operator: tuple[str, ...]
    strays: tuple[str, ...]
    """Files of base/ that Rebundle did not write."""

    @classmethod
    def of(cls, survey: Survey) -> "LiveTreeView":
        """The view of a survey."""
        report = survey.report
        return cls(
            synced=survey.synced,
            follows=survey.follows,
            ahead=survey.marker_is_ahead,
            sequence=survey.marker.sequence if survey.marker else None,
            pending=(*survey.would_write, *survey.would_remove),
            blocked=tuple(map(BlockedView.of, report.blocked)),
            damaged_manifests=tuple(
                DamagedManifestView(str(damaged.publication), damaged.reason, damaged.unreadable)
                for damaged in report.damaged
            ),
            foreign=report.kept_aside,
            overrides=report.overrides,
            unread_overrides=tuple(
                UnreadOverrideView(override.path, override.reason)
                for override in report.unread_overrides
            ),
            deleted_by_operator=report.deleted_by_operator,
            strays=report.strays,
        )


@dataclass(frozen=True, slots=True)
class UnfinishedPassView:
    """A pass that did not finish."""

    synced: bool
    """Always False."""
    follows: bool
    """Always False: it is unknown whether base/ and README.md equal live."""
    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class PassView:
    """The result of a pass over a live tree."""

    synced: bool
    """Whether no path is blocked."""
    follows: bool
    """Whether base/ and README.md equal live."""
    sequence: int
    reason: str | None
    """Why a path is blocked, and what to do about it."""
    blocked: tuple[BlockedView, ...]
    written: tuple[str, ...]
    kept_aside: tuple[str, ...]
    """Paths whose foreign content was copied to .rebundle/replaced/ first."""
    overrides: tuple[str, ...]
    deleted_by_operator: tuple[str, ...]
    strays: tuple[str, ...]


def pass_view(result: FinishedPass | UnfinishedPass) -> PassView | UnfinishedPassView:
    """The view of the result of a pass."""
    if isinstance(result, UnfinishedPass):
        return UnfinishedPassView(
            synced=False, follows=False, sequence=result.sequence, reason=result.reason
        )
    return PassView(
        synced=not result.blocked,
        follows=result.follows,
        sequence=result.sequence,
        reason=result.reason,
        blocked=tuple(map(BlockedView.of, result.blocked)),
        written=result.written,
        kept_aside=result.kept_aside,
        overrides=result.overrides,
        deleted_by_operator=result.deleted_by_operator,
        strays=result.strays,
    )
