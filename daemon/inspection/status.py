"""The status of a bucket: scopes with their live trees, and the journal. Pure.

It decides what needs attention.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from daemon.inspection.documents import INLINE
from daemon.inspection.journal import JournalView, NoJournal, UnreadableJournal
from daemon.inspection.live_tree import LiveTreeView
from daemon.inspection.scopes import PointerView, ScopeView
from events.journal.records import LaneBacklog
from renderers.pinning import Movable

Journal = JournalView | UnreadableJournal | NoJournal


@dataclass(frozen=True, slots=True)
class ScopeCondition:
    """A scope, and its live tree if the scope has a live state."""

    scope: ScopeView = field(metadata=INLINE)
    live_tree: LiveTreeView | None
    live_tree_error: str | None
    """Why the live tree cannot be compared with the live state."""

    @property
    def pointer(self) -> PointerView:
        """The pointer of the scope."""
        return self.scope.pointer

    @property
    def errors(self) -> tuple[str, ...]:
        """The errors that were met while the scope was read."""
        return tuple(error for error in (self.scope.error, self.live_tree_error) if error)


@dataclass(frozen=True, slots=True)
class MovableInLive:
    """The images and artifacts of the live state that are not pinned by a digest."""

    movable: tuple[Movable, ...] | None
    """None if they are unknown."""


@dataclass(frozen=True, slots=True)
class ScopeStatus:
    """The status of a scope, with what needs attention."""

    condition: ScopeCondition = field(metadata=INLINE)
    live_state: MovableInLive | None = field(metadata=INLINE)
    """None unless this scope alone was asked for."""
    attention: tuple[str, ...]
    """The conditions that need an operator."""

    @classmethod
    def of(
        cls, condition: ScopeCondition, live_state: MovableInLive | None, journal: Journal
    ) -> "ScopeStatus":
        """The status of a scope; `journal` may know why its events wait."""
        return cls(condition, live_state, tuple(_attention(condition, _lanes(journal))))


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """The status of a bucket, or of some of its scopes."""

    bucket: str
    scopes: tuple[ScopeStatus, ...]
    unreadable_folders: Mapping[str, str]
    """Folders whose scopes cannot be listed, with the reasons."""
    journal: Journal

    @property
    def attention(self) -> tuple[tuple[str, str], ...]:
        """What needs attention: each condition with its place. Every error is listed once."""
        return tuple(_bucket_attention(self))


def _bucket_attention(status: BucketStatus) -> Iterator[tuple[str, str]]:
    shown = set()
    for scope in status.scopes:
        name = scope.condition.pointer.scope
        shown.add(name)
        yield from ((name, condition) for condition in scope.attention)
    for name, reason in status.unreadable_folders.items():
        yield f"{name}/", f"its scopes cannot be listed: {reason}"
    for lane in _lanes(status.journal):
        if lane.error and lane.scope not in shown:
            yield lane.scope, _lane_problem(lane)
    if status.journal.error:
        yield "journal", status.journal.error
    if isinstance(status.journal, JournalView):
        if status.journal.wrong_bucket:
            yield "bucket", status.journal.wrong_bucket
        if letters := status.journal.backlog.dead_letters:
            yield "journal", f"{letters} dead letters: `rebundle dead-letters list`"


def _lanes(journal: Journal) -> tuple[LaneBacklog, ...]:
    return journal.backlog.lanes if isinstance(journal, JournalView) else ()


def _attention(condition: ScopeCondition, lanes: Iterable[LaneBacklog]) -> Iterator[str]:
    pointer = condition.pointer
    if condition.scope.error:
        yield condition.scope.error
    else:
        yield from _pointer_attention(pointer)
        if condition.live_tree_error:
            yield (
                f"the live tree cannot be compared with the live state: {condition.live_tree_error}"
            )
        if condition.live_tree is not None:
            yield from _tree_attention(pointer, condition.live_tree)
    for lane in lanes:
        if lane.scope == pointer.scope and lane.error:
            yield _lane_problem(lane, reported=condition.errors)


def _pointer_attention(pointer: PointerView) -> Iterator[str]:
    live, desired, hold = pointer.live, pointer.desired, pointer.hold
    quarantine = pointer.desired_quarantine
    if hold is not None:
        waiting = desired is not None and (live is None or live.state != desired.state)
        behind = f"; {desired.state} is waiting" if desired and waiting else ""
        quarantined = (
            ", and is quarantined: lift the quarantine before you resume" if quarantine else ""
        )
        reason = hold.reason or "no reason given"
        yield f"held by {hold.by} since {hold.at}: {reason}{behind}{quarantined}"
    elif desired is not None and live != desired:
        why = f"is not live: `rebundle resume {pointer.scope}` makes it live"
        if quarantine:
            why = f"is quarantined by {quarantine.by}: {quarantine.reason}"
        yield f"desired state {desired.state} {why}"


def _tree_attention(pointer: PointerView, tree: LiveTreeView) -> Iterator[str]:
    if tree.ahead:
        yield (
            f"the live tree's marker names sequence {tree.sequence}, but the pointer is older: an "
            "older pointer was restored, or another writer wrote the marker. The live tree is not "
            f"updated until you run `rebundle recover {pointer.scope} --reason '…'`"
        )
    elif not tree.synced and (tree.pending or not tree.blocked):
        files = len(tree.pending)
        yield f"the live tree is behind ({files} files): the daemon's next pass syncs it"
    if tree.blocked:
        yield _blocked_attention(pointer, tree)
    for damaged in tree.damaged_manifests[:1]:
        remedy = (
            f"`rebundle recover {pointer.scope} --reason 'damaged manifest'` removes the state "
            "from the pointer"
        )
        yield damaged.reason if damaged.unreadable else f"{damaged.reason}: {remedy}"
    if tree.foreign:
        paths = ", ".join(tree.foreign[:3])
        yield f"edited by hand in base/; the next pass keeps a copy and replaces them: {paths}"
    if tree.strays:
        paths = ", ".join(tree.strays[:3])
        yield (
            f"files in base/ that Rebundle did not write, and that hosts copy: {paths}; move them "
            "out of base/"
        )


def _blocked_attention(pointer: PointerView, tree: LiveTreeView) -> str:
    first, *others = tree.blocked
    more = f" (and {len(others)} more paths)" if others else ""
    if first.seen_at is None:
        return f"the live tree does not follow at {first.path}{more}: {first.reason}"
    command = _pass_command(pointer)
    now = f", or `{command}`," if command else ""
    return (
        f"the live tree did not follow at {first.path}{more} in the pass of {first.seen_at}: "
        f"{first.reason}. Once that is repaired, the daemon's next pass (within 5 minutes){now} "
        "clears this condition"
    )


def _pass_command(pointer: PointerView) -> str | None:
    """A command that runs a pass over the live tree and changes nothing else.

    None if no command does that in the current state of the scope.
    """
    live = pointer.live
    if pointer.hold is not None and live is not None:
        target = f"{live.state}@{live.attempt}"
        return f"rebundle rollback {pointer.scope} {target} --reason 'another pass'"
    return f"rebundle resume {pointer.scope}" if live == pointer.desired else None


def _lane_problem(lane: LaneBacklog, *, reported: Iterable[str] = ()) -> str:
    """The backlog of a failing lane, with its error unless that error is reported already."""
    backlog = f"{lane.waiting} events waiting since {lane.oldest}, {lane.attempts} failed attempts"
    if any(error in (lane.error or "") for error in reported):
        return backlog
    return f"{backlog}: {lane.error}"
