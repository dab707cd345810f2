"""The results of passes over a live tree and of surveys of it. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.publishing import layout
from daemon.publishing.live_tree import ownership
from daemon.publishing.live_tree.ownership import (
    Blocked,
    DeletedByOperator,
    Marker,
    Override,
    PathVerdict,
    Put,
    Remove,
    Stray,
    UnreadOverride,
)
from daemon.publishing.reader import DamagedManifest
from renderers.values import RenderedFile, Scope


@dataclass(frozen=True, slots=True)
class Restored:
    """The restoration of one default of example/, carried out or not."""

    default: RenderedFile
    replaced: bytes | None
    """What was there; None if there was no file."""

    @property
    def written(self) -> bool:
        """Whether the default has to be written."""
        return self.replaced != self.default.body

    def kept_as(self, scope: Scope) -> str | None:
        """The key of the copy of what is replaced; None if nothing is."""
        if self.replaced is None or not self.written:
            return None
        return layout.replaced(scope, self.default.path, hashlib.sha256(self.replaced).hexdigest())


@dataclass(frozen=True, slots=True)
class PathReport:
    """What a pass did, or would do, with every path of a live tree."""

    sequence: int
    verdicts: tuple[PathVerdict, ...] = ()
    damaged: tuple[DamagedManifest, ...] = ()
    """Retained publications whose manifest could not be used.

    A file that only they have counts as an operator's.
    """

    @property
    def blocked(self) -> tuple[Blocked, ...]:
        """Paths that could not be written or deleted, with the reasons."""
        return tuple(verdict for verdict in self.verdicts if isinstance(verdict, Blocked))

    @property
    def reason(self) -> str | None:
        """Why some path does not follow, and what to do about it; None if all follow."""
        return _first_of(self.blocked)

    @property
    def behind(self) -> str | None:
        """Why base/ or README.md differs from live; None if they are equal.

        A blocked path of example/ does not count: operators own that folder.
        """
        return _first_of([blocked for blocked in self.blocked if blocked.holds_base_back])

    @property
    def follows(self) -> bool:
        """Whether base/ and README.md equal live."""
        return self.behind is None

    @property
    def written(self) -> tuple[str, ...]:
        """Paths that were created or replaced."""
        return tuple(verdict.path for verdict in self.verdicts if isinstance(verdict, Put))

    @property
    def kept_aside(self) -> tuple[str, ...]:
        """Paths whose old bytes were first stored under .rebundle/replaced/.

        These are foreign files below base/, and earlier defaults of example/ that were restored.
        """
        return tuple(
            verdict.path
            for verdict in self.verdicts
            if isinstance(verdict, Put) and verdict.keep_aside
        )

    @property
    def overrides(self) -> tuple[str, ...]:
        """Operators' own files of example/."""
        return tuple(verdict.path for verdict in self.verdicts if isinstance(verdict, Override))

    @property
    def unread_overrides(self) -> tuple[UnreadOverride, ...]:
        """Those of them whose bytes are not known."""
        return tuple(verdict for verdict in self.verdicts if isinstance(verdict, UnreadOverride))

    @property
    def deleted_by_operator(self) -> tuple[str, ...]:
        """Files of example/ that stay deleted, including those of removed models."""
        return tuple(
            verdict.path for verdict in self.verdicts if isinstance(verdict, DeletedByOperator)
        )

    @property
    def strays(self) -> tuple[str, ...]:
        """Files below base/ that neither Rebundle wrote nor live has."""
        return tuple(verdict.path for verdict in self.verdicts if isinstance(verdict, Stray))


@dataclass(frozen=True, slots=True)
class FinishedPass(PathReport):
    """A pass that ended: the tree follows `sequence`, except for the paths in `blocked`."""


@dataclass(frozen=True, slots=True)
class UnfinishedPass:
    """A live tree that does not follow yet. The next pass continues.

    Other writers kept changing it during the pass, or the pass failed.
    """

    sequence: int
    reason: str

    @property
    def behind(self) -> str:
        """Why base/ or README.md may differ from live."""
        return self.reason

    @property
    def follows(self) -> bool:
        """Always False: it is unknown whether base/ and README.md equal live."""
        return False


@dataclass(frozen=True, slots=True)
class Survey:
    """The present condition of a live tree: its marker, and what a pass would do and report."""

    marker: Marker | None
    report: PathReport
    """What a pass would do now."""

    @property
    def would_write(self) -> tuple[str, ...]:
        """Paths that a pass would create or replace."""
        return self.report.written

    @property
    def would_remove(self) -> tuple[str, ...]:
        """Paths of ours that a pass would delete."""
        return tuple(
            verdict.path for verdict in self.report.verdicts if isinstance(verdict, Remove)
        )

    @property
    def marked(self) -> bool:
        """Whether the tree follows the present pointer according to the marker."""
        marker = self.marker
        return (
            marker is not None
            and marker.status == "synced"
            and marker.sequence == self.report.sequence
        )

    @property
    def marker_is_ahead(self) -> bool:
        """Whether the marker is of a newer pointer than the present one. Then every pass stops."""
        return self.marker is not None and self.marker.sequence > self.report.sequence

    @property
    def synced(self) -> bool:
        """Whether a pass would have nothing to do, and the marker has the status `synced`."""
        return self.marked and not (self.would_write or self.would_remove or self.report.blocked)

    @property
    def follows(self) -> bool:
        """Whether base/ and README.md equal live now, independent of the marker."""
        pending = (*self.would_write, *self.would_remove)
        return self.report.follows and all(path.startswith(ownership.EXAMPLE) for path in pending)


def _first_of(blocked: Sequence[Blocked]) -> str | None:
    """The first blocked path and its reason, with the number of the others."""
    if not blocked:
        return None
    first, *others = blocked
    return f"{first.path} is blocked{f', and {len(others)} more' if others else ''}: {first.reason}"
