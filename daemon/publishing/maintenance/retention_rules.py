"""What retention keeps, what it releases, and which objects may then be deleted (protocol 4). Pure.

Three questions, asked in this order:

* `retention_of`: which publications leave the pointer?
* `plan_deletions`: which objects can no pointer name any more? The answer is safe only for objects that were stored
  before a committed collection, because its `gc_epoch` keeps such publications out for good, and for longer than any
  publisher may take.
* `expired`: which copies of replaced live-tree files may go? Nothing names those, so their age decides.

`garbage_collector` acts on the answers.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from daemon.publishing import layout
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication, PublicationId
from daemon.stores.port import Listed
from renderers.model import Scope

_ATTEMPT: Final = re.compile(r"[0-9a-f]{32}")
_SECONDS_A_DAY: Final = 86_400
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
"""What releases that kept bytes by sequence put behind the path of a second copy."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How much a scope keeps beside live, desired and pinned publications."""

    newest: int = 20
    """So many, by commit order."""
    days: float = 30
    """Whatever was live or desired so lately."""
    dropped_days: float = 7
    """How long the objects stay of what the pointer had no more room for: it cannot be rolled back to, but read."""
    grace_hours: float = 24
    """How long objects stay that nothing names: far longer than storing and committing them may take."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A publication that can be rolled back to, and why it still can."""

    publication: Publication
    why: str


@dataclass(frozen=True, slots=True)
class Released:
    """A publication that nothing keeps any more."""

    publication: Publication
    why: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The objects of one attempt, whether or not a pointer names it. The manifest first, if it is there."""

    id: PublicationId
    objects: tuple[Listed, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(each.size for each in self.objects)

    @property
    def is_signed(self) -> bool:
        """Whether somebody signed the manifest."""
        return any(each.key.endswith(f"/{layout.SIGNATURE}") for each in self.objects)

    @property
    def stored(self) -> datetime:
        """When the last of it was written, by the store's clock."""
        return max(each.modified for each in self.objects)


@dataclass(frozen=True, slots=True)
class Deletable:
    """Objects that may be deleted."""

    folder: Folder
    why: str


@dataclass(frozen=True, slots=True)
class NotYetDeletable:
    """Objects that nothing names, and that stay for now."""

    folder: Folder
    why: str


def retention_of(pointer: Pointer, policy: Policy, now: datetime) -> tuple[Kept | Released, ...]:
    """What becomes of each retained publication, in commit order."""
    newest = {each.id for each in pointer.retained[-policy.newest :]}
    return tuple(_retention_of(pointer, each, newest, policy, now) for each in pointer.retained)


def _retention_of(
    pointer: Pointer, publication: Publication, newest: Collection[PublicationId], policy: Policy, now: datetime
) -> Kept | Released:
    reasons = {
        "live": _is(pointer.live, publication),
        "desired": _is(pointer.desired, publication),
        "pinned": publication.pinned,
        f"one of the newest {policy.newest}": publication.id in newest,
    }
    kept = next((why for why, holds in reasons.items() if holds), None)
    if kept is not None:
        return Kept(publication, kept)
    since = _time(publication.superseded_at)
    if since is None:
        return Kept(publication, "nothing tells since when it is superseded")
    # Never less than none: some stores tell whole seconds, and who wrote the pointer may have a clock ahead.
    days = max(0.0, (now - since).total_seconds() / _SECONDS_A_DAY)
    if days < policy.days:
        return Kept(publication, f"superseded less than {policy.days:g} days ago")
    return Released(publication, f"superseded {days:.0f} days ago, and not one of the newest {policy.newest}")


def _is(one: Publication | None, other: Publication) -> bool:
    return one is not None and one.id == other.id


def folders(scope: Scope, listed: Iterable[Listed]) -> tuple[tuple[Folder, ...], tuple[str, ...]]:
    """Objects below `states/` by the attempt they belong to, and the keys that are of no publication of ours."""
    found: dict[PublicationId, list[Listed]] = {}
    strays: list[str] = []
    for each in listed:
        name = _publication(scope, each.key)
        if name is None:
            strays.append(each.key)
        else:
            found.setdefault(name, []).append(each)
    ordered = (Folder(name, tuple(sorted(objects, key=_manifest_first))) for name, objects in found.items())
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
    policy: Policy,
    *,
    as_of: datetime,
    released: Mapping[PublicationId, str],
) -> tuple[Deletable | NotYetDeletable, ...]:
    """What becomes of each folder that is not retained.

    `as_of` is a time of the store's clock before the collection was committed that lets nothing in again of what was
    stored before; `retained` is what it, or a later pointer, retains; `released` has the reason of what it let go.
    `entries` reach back as far as the policy spares what was dropped.
    """
    named = {each.id for each in retained}
    dropped = _dropped(entries)
    return tuple(
        _plan_deletion(each, dropped.get(str(each.id)), released.get(each.id), policy, as_of)
        for each in stored
        if each.id not in named
    )


def _plan_deletion(
    folder: Folder, dropped: datetime | None, released: str | None, policy: Policy, as_of: datetime
) -> Deletable | NotYetDeletable:
    if folder.stored > as_of - timedelta(hours=policy.grace_hours):
        return NotYetDeletable(
            folder, f"stored less than {policy.grace_hours:g} hours ago: somebody may be about to publish it"
        )
    if dropped is None:
        return Deletable(folder, released or "no pointer names it")
    if dropped > as_of - timedelta(days=policy.dropped_days):
        return NotYetDeletable(
            folder, f"the pointer had no more room for it, less than {policy.dropped_days:g} days ago"
        )
    return Deletable(folder, "the pointer had no more room for it")


def expired(scope: Scope, copies: Iterable[Listed], policy: Policy, as_of: datetime) -> tuple[Listed, ...]:
    """The copies of replaced bytes that may be deleted: older than `policy.days` and than the grace, never the newest
    one of a path. `as_of` is a time of the store's clock."""
    by_path: dict[str, list[Listed]] = {}
    for each in copies:
        by_path.setdefault(replaced_path(scope, each.key), []).append(each)
    oldest = as_of - max(timedelta(days=policy.days), timedelta(hours=policy.grace_hours))
    older = [each for found in by_path.values() for each in sorted(found, key=lambda one: (one.modified, one.key))[:-1]]
    return tuple(each for each in older if each.modified <= oldest)


def replaced_path(scope: Scope, key: str) -> str:
    """The path of the live tree that a copy was kept of."""
    return key.removeprefix(layout.all_replaced(scope)).rpartition("/")[0]


def last_collection(entries: Iterable[HistoryEntry]) -> datetime | None:
    """When the newest collection of a history was committed, by the store's clock, or shortly before that.

    One without `as_of` is passed over: the time of its entry is that of the machine that wrote it, which may be days
    ahead.
    """
    times = (_time(entry.change.get("as_of")) for entry in reversed(tuple(entries)) if entry.kind == "gc")
    return next((time for time in times if time is not None), None)


def _dropped(entries: Iterable[HistoryEntry]) -> dict[str, datetime]:
    return dict(_drops(entries))


def _drops(entries: Iterable[HistoryEntry]) -> Iterator[tuple[str, datetime]]:
    for entry in entries:
        names, at = entry.change.get("dropped"), _time(entry.at)
        if at is not None and isinstance(names, list | tuple):
            yield from ((str(name), at) for name in names)


def _time(text: object) -> datetime | None:
    """A time of ours; None for what is none, or has no zone."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else None
