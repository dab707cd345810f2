"""The view of a change of a pointer: before, after, and the pass over the live tree. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from daemon.inspection.live_tree import PassView, UnfinishedPassView, pass_view
from daemon.inspection.scopes import PointerView
from daemon.publishing.operator_commands import ChangeResult
from daemon.publishing.pointer import Pointer


@dataclass(frozen=True, slots=True)
class PinChangeView:
    """A publication that was pinned or unpinned."""

    publication: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class QuarantineChangeView:
    """A composition that was quarantined, or accepted again."""

    composition: str
    """Its digest."""
    states: tuple[str, ...]
    """Its retained states."""
    quarantined: bool


@dataclass(frozen=True, slots=True)
class ChangeView:
    """What a command changed, or would change."""

    operation: str
    scope: str
    changed: bool
    dry_run: bool
    before: PointerView
    after: PointerView
    pins: tuple[PinChangeView, ...]
    quarantines: tuple[QuarantineChangeView, ...]
    live_tree: PassView | UnfinishedPassView | None
    """None if no pass was made."""

    @classmethod
    def of(cls, operation: str, done: ChangeResult, *, dry_run: bool = False) -> "ChangeView":
        """The view of a change. `operation` names it, such as `rollback`."""
        return cls(
            operation=operation,
            scope=done.after.scope,
            changed=done.changed,
            dry_run=dry_run,
            before=PointerView.of(done.before),
            after=PointerView.of(done.after),
            pins=tuple(_changed_pins(done.before, done.after)),
            quarantines=tuple(_changed_quarantines(done.before, done.after)),
            live_tree=pass_view(done.live_tree) if done.live_tree else None,
        )


def _changed_pins(before: Pointer, after: Pointer) -> Iterator[PinChangeView]:
    pinned = {publication.id: publication.pinned for publication in before.retained}
    for publication in after.retained:
        if pinned.get(publication.id, False) != publication.pinned:
            yield PinChangeView(str(publication.id), publication.pinned)


def _changed_quarantines(before: Pointer, after: Pointer) -> Iterator[QuarantineChangeView]:
    earlier = {quarantine.composition_digest for quarantine in before.quarantined}
    later = {quarantine.composition_digest for quarantine in after.quarantined}
    for digest in sorted(earlier ^ later):
        states = tuple(
            publication.state
            for publication in after.retained
            if publication.composition_digest == digest
        )
        yield QuarantineChangeView(digest, states, quarantined=digest in later)
