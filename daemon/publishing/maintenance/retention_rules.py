"""Decides what to keep, what to release, and which objects may then be deleted (protocol 4). Pure.

There are three steps, in this order:

* `retention_of` decides which publications leave the pointer.
* `plan_deletions` decides which objects no pointer can name any more. That is safe only for objects
  that were stored before a committed collection: its `gc_epoch` keeps such publications out for
  good. The objects must also be older than the longest time a publisher may need.
* `expired` decides which copies of replaced live-tree files may be deleted. No pointer names those,
  so only their age counts.

`garbage_collector` carries out the decisions.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from daemon.publishing import layout
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication, PublicationId
from daemon.stores.port import Listed
from renderers.values import Scope

_ATTEMPT: Final = re.compile(r"[0-9a-f]{32}")
_SECONDS_A_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How much a scope keeps in addition to live, desired and pinned publications."""

    newest: int = 20
    """The number of newest publications to keep, by commit order."""
    days: float = 30
    """How long a publication is kept after it was last live or desired."""
    dropped_days: float = 7
    """How long the objects of a publication stay for which the pointer had no more room.

    A rollback to it is impossible, but it can be read.
    """
    grace_hours: float = 24
    """How long objects stay that no pointer names.

    This must be far longer than storing and committing them may take.
    """


@dataclass(frozen=True, slots=True)
class Kept:
    """A publication that stays available for a rollback, with the reason."""

    publication: Publication
    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """A publication that leaves the pointer, with the reason."""

    publication: Publication
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The objects of one attempt, whether or not a pointer names it.

    The manifest comes first, if it exists.
    """

    id: PublicationId
    objects: tuple[Listed, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(listed.size for listed in self.objects)

    @property
    def is_signed(self) -> bool:
        """Whether the manifest has a signature."""
        return any(listed.key.endswith(f"/{layout.SIGNATURE}") for listed in self.objects)

    @property
    def stored(self) -> datetime:
        """When the last object was written, by the store's clock."""
        return max(listed.modified for listed in self.objects)


@dataclass(frozen=True, slots=True)
class Deletable:
    """Objects that may be deleted."""

    folder: Folder
    reason: str


@dataclass(frozen=True, slots=True)
class NotYetDeletable:
    """Objects that no pointer names, and that stay for now."""

    folder: Folder
    reason: str


def retention_of(
    pointer: Pointer, policy: RetentionPolicy, now: datetime
) -> tuple[Kept | Released, ...]:
    """Decide for every retained publication, in commit order, whether to keep it."""
    newest = {publication.id for publication in pointer.retained[-policy.newest :]}
    return tuple(
        _retention_of(pointer, publication, newest, policy, now) for publication in pointer.retained
    )


def _retention_of(
    pointer: Pointer,
    publication: Publication,
    newest: Collection[PublicationId],
    policy: RetentionPolicy,
    now: datetime,
) -> Kept | Released:
    reasons = {
        "live": _is(pointer.live, publication),
        "desired": _is(pointer.desired, publication),
        "pinned": publication.pinned,
        f"one of the newest {policy.newest}": publication.id in newest,
    }
    reason = next((why for why, holds in reasons.items() if holds), None)
    if reason is not None:
        return Kept(publication, reason)
    since = _time(publication.superseded_at)
    if since is None:
        return Kept(publication, "the time at which it was superseded is unknown")
    # At least 0: some stores have a resolution of whole seconds, and the clock of the pointer's
    # writer may be ahead.
    days = max(0.0, (now - since).total_seconds() / _SECONDS_A_DAY)
    if days < policy.days:
        return Kept(publication, f"superseded less than {policy.days:g} days ago")
    return Released(
        publication, f"superseded {days:.0f} days ago, and not one of the newest {policy.newest}"
    )


def _is(one: Publication | None, other: Publication) -> bool:
    return one is not None and one.id == other.id


def folders(scope: Scope, listed: Iterable[Listed]) -> tuple[tuple[Folder, ...], tuple[str, ...]]:
    """Group the objects below `states/` by attempt.

    Returns the folders, and the keys that belong to no publication.
    """
    by_publication: dict[PublicationId, list[Listed]] = {}
    strays: list[str] = []
    for item in listed:
        name = _publication(scope, item.key)
        if name is None:
            strays.append(item.key)
        else:
            by_publication.setdefault(name, []).append(item)
    ordered = (
        Folder(name, tuple(sorted(objects, key=_manifest_first)))
        for name, objects in by_publication.items()
    )
    return tuple(ordered), tuple(strays)


def _publication(scope: Scope, key: str) -> PublicationId | None:
    parts = key.removeprefix(layout.states(scope)).split("/")
    if len(parts) != len(("state", "attempt", "name")) or parts[2] not in layout.PUBLICATION:
        return None
    return PublicationId(state=parts[0], attempt=parts[1]) if _ATTEMPT.fullmatch(parts[1]) else None


def _manifest_first(listed: Listed) -> tuple[bool, str]:
    return not listed.key.endswith(f"/{layout.MANIFEST}"), listed.key


def plan_deletions(
    stored: Iterable[Folder],
    retained: Iterable[Publication],
    entries: Sequence[HistoryEntry],
    policy: RetentionPolicy,
    *,
    as_of: datetime,
    released: Mapping[PublicationId, str],
) -> tuple[Deletable | NotYetDeletable, ...]:
    """Decide for every folder that is not retained whether it may be deleted.

    `as_of`: a time of the store's clock before the collection was committed. No pointer after that
    collection admits a publication that was stored earlier. `retained`: the publications in the
    pointer of that collection, or in a later one. `released`: the reasons of those it released.
    `entries`: the history, at least as far back as the policy keeps dropped publications.
    """
    named = {publication.id for publication in retained}
    dropped = _dropped(entries)
    return tuple(
        _plan_deletion(folder, dropped.get(str(folder.id)), released.get(folder.id), policy, as_of)
        for folder in stored
        if folder.id not in named
    )


def _plan_deletion(
    folder: Folder,
    dropped: datetime | None,
    released: str | None,
    policy: RetentionPolicy,
    as_of: datetime,
) -> Deletable | NotYetDeletable:
    if folder.stored > as_of - timedelta(hours=policy.grace_hours):
        return NotYetDeletable(
            folder,
            f"stored less than {policy.grace_hours:g} hours ago: a publication may be in progress",
        )
    if dropped is None:
        return Deletable(folder, released or "no pointer names it")
    if dropped > as_of - timedelta(days=policy.dropped_days):
        return NotYetDeletable(
            folder,
            f"the pointer had no more room for it, less than {policy.dropped_days:g} days ago",
        )
    return Deletable(folder, "the pointer had no more room for it")


def expired(
    scope: Scope, copies: Iterable[Listed], policy: RetentionPolicy, as_of: datetime
) -> tuple[Listed, ...]:
    """The copies of replaced bytes that may be deleted.

    They are older than `policy.days` and than the grace. The newest copy of a path always stays.
    `as_of` is a time of the store's clock.
    """
    by_path: dict[str, list[Listed]] = {}
    for copy in copies:
        by_path.setdefault(replaced_path(scope, copy.key), []).append(copy)
    limit = as_of - max(timedelta(days=policy.days), timedelta(hours=policy.grace_hours))
    older: list[Listed] = []
    for group in by_path.values():
        older += sorted(group, key=lambda one: (one.modified, one.key))[:-1]
    return tuple(copy for copy in older if copy.modified <= limit)


def replaced_path(scope: Scope, key: str) -> str:
    """The path in the live tree of the file that was copied."""
    return key.removeprefix(layout.all_replaced(scope)).rpartition("/")[0]


def last_collection(entries: Iterable[HistoryEntry]) -> datetime | None:
    """A time at or shortly before the commit of the newest collection, by the store's clock.

    A collection without `as_of` is skipped: its entry has only the time of the machine that wrote
    it, which may be days ahead.
    """
    times = (
        _time(entry.change.get("as_of")) for entry in reversed(tuple(entries)) if entry.kind == "gc"
    )
    return next((time for time in times if time is not None), None)


def _dropped(entries: Iterable[HistoryEntry]) -> dict[str, datetime]:
    return dict(_drops(entries))


def _drops(entries: Iterable[HistoryEntry]) -> Iterator[tuple[str, datetime]]:
    for entry in entries:
        names, at = entry.change.get("dropped"), _time(entry.at)
        if at is not None and isinstance(names, list | tuple):
            yield from ((str(name), at) for name in names)


def _time(text: object) -> datetime | None:
    """Parse a time that Rebundle wrote. None: it is not a time, or it has no zone."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else None
