"""The status of a bucket: scopes with their live trees, and the journal. Pure.

It decides what needs attention.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from daemon.inspection.ages import age, seconds_since
from daemon.inspection.documents import INLINE
from daemon.inspection.journal import JournalView, NoJournal, UnreadableJournal
from daemon.inspection.live_tree import LiveTreeView
from daemon.inspection.scopes import PointerView, PublicationView, ScopeView
from daemon.publishing.wording import counted
from events.records import LaneBacklog
from renderers.pinning import Movable

Journal = JournalView | UnreadableJournal | NoJournal

_LONG_WAIT: Final = 60.0
"""Seconds. A running daemon settles an event sooner, unless each try fails."""
_IS_RUNNING: Final = "is the daemon running? `rebundle healthcheck` shows it"


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
        cls,
        condition: ScopeCondition,
        live_state: MovableInLive | None,
        journal: Journal,
        now: datetime,
    ) -> "ScopeStatus":
        """The status of a scope; `journal` may know why its events wait."""
        return cls(condition, live_state, tuple(_attention(condition, _lanes(journal), now)))


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """The status of a bucket, or of some of its scopes."""

    bucket: str
    scopes: tuple[ScopeStatus, ...]
    unreadable_folders: Mapping[str, str]
    """Folders whose scopes cannot be listed, with the reasons."""
    journal: Journal

    def attention(self, now: datetime) -> tuple[tuple[str, str], ...]:
        """What needs attention: each condition with its place. Every error is listed once."""
        return tuple(_bucket_attention(self, now))


def _bucket_attention(status: BucketStatus, now: datetime) -> Iterator[tuple[str, str]]:
    shown = set()
    for scope in status.scopes:
        name = scope.condition.pointer.scope
        shown.add(name)
        yield from ((name, condition) for condition in scope.attention)
    for name, reason in status.unreadable_folders.items():
        yield f"{name}/", f"its scopes cannot be listed: {reason}"
    for lane in _lanes(status.journal):
        if lane.scope not in shown and (problem := _lane_problem(lane, now)):
            yield lane.scope, problem
    if isinstance(status.journal, JournalView):
        yield from _journal_attention(status.journal, now)
    elif status.journal.error:
        yield "journal", status.journal.error


def _journal_attention(journal: JournalView, now: datetime) -> Iterator[tuple[str, str]]:
    backlog = journal.backlog
    if backlog.undispatched and _waits_long(backlog.oldest, now):
        events = counted(backlog.undispatched, "accepted event")
        yield "journal", f"{events} not assigned to a scope yet: {_IS_RUNNING}"
    if journal.wrong_bucket:
        yield "bucket", journal.wrong_bucket
    if backlog.dead_letters:
        letters = counted(backlog.dead_letters, "dead letter")
        yield "journal", f"{letters}: `rebundle dead-letters list`"


def _lanes(journal: Journal) -> tuple[LaneBacklog, ...]:
    return journal.backlog.lanes if isinstance(journal, JournalView) else ()


def _attention(
    condition: ScopeCondition, lanes: Iterable[LaneBacklog], now: datetime
) -> Iterator[str]:
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
        if lane.scope != pointer.scope:
            continue
        if problem := _lane_problem(lane, now, reported=condition.errors):
            yield problem


def _pointer_attention(pointer: PointerView) -> Iterator[str]:
    live, desired, hold = pointer.live, pointer.desired, pointer.hold
    quarantine = pointer.desired_quarantine
    resume = f"`rebundle resume {pointer.scope}`"
    if hold is not None:
        held = f"held by {hold.by} since {hold.at}: {hold.reason or 'no reason given'}"
        if desired is None or (live is not None and live.state == desired.state):
            yield f"{held}; {resume} ends the hold"
        elif quarantine:
            lifting = _lifting(pointer.scope, desired)
            yield f"{held}; {desired.state} is waiting, and is quarantined: {lifting}"
        else:
            yield f"{held}; {desired.state} is waiting: {resume} makes it live"
    elif desired is not None and quarantine:
        yield (
            f"desired state {desired.state} is quarantined by {quarantine.by}: "
            f"{quarantine.reason}; {_lifting(pointer.scope, desired)}"
        )
    elif desired is not None and live != desired:
        yield f"desired state {desired.state} is not live: {resume} makes it live"
    if live is None and (hold or desired):
        yield (
            f"nothing is live: `rebundle states {pointer.scope}` lists the states, and `rebundle "
            f"rollback {pointer.scope} STATE --reason '…'` makes one live"
        )


def _lifting(scope: str, desired: PublicationView) -> str:
    """What makes the scope follow again if its desired state is quarantined."""
    return (
        f"lift that first with `rebundle quarantine {scope} {desired.state} --lift --reason '…'`, "
        "or wait for a state with another composition"
    )


def _tree_attention(pointer: PointerView, tree: LiveTreeView) -> Iterator[str]:
    if tree.ahead:
        yield (
            f"the live tree's marker names sequence {tree.sequence}, but the pointer is older: an "
            "older pointer was restored, or another writer wrote the marker. The live tree is not "
            f"updated until you run `rebundle recover {pointer.scope} --reason '…'`"
        )
    elif not tree.synced and (tree.pending or not tree.blocked):
        files = counted(len(tree.pending), "file")
        yield f"the live tree is behind ({files}): {_next_pass(pointer)} syncs it"
    if tree.blocked:
        yield _blocked_attention(pointer, tree)
    for damaged in tree.damaged_manifests[:1]:
        yield damaged.reason
    if tree.foreign:
        paths = ", ".join(tree.foreign[:3])
        yield (
            f"edited by hand in base/: {paths}; {_next_pass(pointer)} keeps a copy and replaces "
            "them"
        )
    # The command for a folder that is in the way moves the files in it.
    in_the_way = tuple(f"{blocked.path}/" for blocked in tree.blocked)
    if strays := [path for path in tree.strays if not path.startswith(in_the_way)]:
        paths = ", ".join(strays[:3])
        yield (
            "files in the live tree that Rebundle did not write, and that hosts copy: "
            f"{paths}; move them elsewhere"
        )


def _blocked_attention(pointer: PointerView, tree: LiveTreeView) -> str:
    first, *others = tree.blocked
    more = f" (and {len(others)} more paths)" if others else ""
    if first.seen_at is None:
        return f"the live tree does not follow at {first.path}{more}: {first.reason}"
    return (
        f"the live tree did not follow at {first.path}{more} in the pass of {first.seen_at}: "
        f"{first.reason}. Once that is repaired, {_next_pass(pointer)} clears this condition"
    )


def _next_pass(pointer: PointerView) -> str:
    """When the next pass runs, and the command that runs one now, if there is one."""
    command = _pass_command(pointer)
    now = f", or `{command}` now," if command else ""
    return f"the next pass of a running daemon (within 5 minutes){now}"


def _pass_command(pointer: PointerView) -> str | None:
    """A command that runs a pass over the live tree and changes nothing else.

    None if no command does that in the current state of the scope.
    """
    live = pointer.live
    if pointer.hold is not None and live is not None:
        target = f"{live.state}@{live.attempt}"
        return f"rebundle rollback {pointer.scope} {target} --reason 'another pass'"
    return f"rebundle resume {pointer.scope}" if live == pointer.desired else None


def _lane_problem(lane: LaneBacklog, now: datetime, *, reported: Iterable[str] = ()) -> str | None:
    """Why the events of a lane wait; None if they do not wait for long.

    The error of a failing lane is left out if it is in `reported`.
    """
    events = counted(lane.waiting, "event")
    if not lane.error:
        if not _waits_long(lane.oldest, now):
            return None
        have = "has waited for" if lane.waiting == 1 else "have waited for up to"
        return f"{events} {have} {age(lane.oldest, now)}: {_IS_RUNNING}"
    failed = counted(lane.failed_tries, "failed try", "failed tries")
    backlog = f"{events} waiting since {lane.oldest}, {failed}"
    if any(error in lane.error for error in reported):
        return backlog
    return f"{backlog}{'; the last one' if lane.failed_tries else ''}: {lane.error}"


def _waits_long(since: str | None, now: datetime) -> bool:
    return since is not None and (seconds_since(since, now) or 0) > _LONG_WAIT
