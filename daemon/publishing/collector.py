"""Collection: publications leave the pointer first, their objects leave the bucket afterwards (protocol 4).

The compare-and-swap that releases publications is also the fence: it raises `gc_epoch`, so whatever was stored before
it and is not retained by it can be named by no later pointer. Only that is deleted, and only when it is older than the
grace by the store's own clock. The rest of a collection that stopped half-way is found and deleted by the next one. Two
at once are safe: the one that finds another's epoch stops. What is to go is decided in `retention`.

Releasing and deleting may be two credentials' work: `release` needs the right to change pointers, `delete` the right to
read them and to delete below `states/`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from daemon.publishing import layout, protocol, retention
from daemon.publishing.errors import PointerMoved
from daemon.publishing.pointer import Entry, Pointer, PublicationId
from daemon.publishing.publisher import Publisher, timestamp
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.retention import Doomed, Folder, Kept, Policy, Released, Spared
from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, OutcomeUnknown, StoreRefused
from daemon.stores.port import Listed, ObjectStore
from renderers.model import Scope

Part = Literal["release", "delete"]
BOTH: Final[frozenset[Part]] = frozenset(("release", "delete"))
_TRIES: Final = 5
_FOLDERS_AT_ONCE: Final = 8

Progress = Callable[[Doomed], None]


class DeletionRefused(StoreRefused):
    """The operator must act: this credential may not delete. What was released stays in the bucket until one may."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection of one scope did, or (a preview) would do."""

    scope: Scope
    kept: tuple[Kept, ...] = ()
    released: tuple[Released, ...] = ()
    deleted: tuple[Doomed, ...] = ()
    left: tuple[Doomed, ...] = ()
    """To be deleted by a later collection: another one began meanwhile, an answer was lost, or it takes a release."""
    spared: tuple[Spared, ...] = ()
    strays: tuple[str, ...] = ()
    """Keys below `states/` that are of no publication of ours: never deleted."""
    sequence: int | None = None
    """Of the pointer this collection wrote, if it had to write one."""

    @property
    def size(self) -> int:
        """Bytes that were, or would be, freed."""
        return sum(each.folder.size for each in self.deleted)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A scope as one look shows it."""

    read: PointerRead
    entries: tuple[Entry, ...]
    stored: tuple[Folder, ...]
    strays: tuple[str, ...]
    judged: tuple[Kept | Released, ...]

    @property
    def kept(self) -> tuple[Kept, ...]:
        return tuple(each for each in self.judged if isinstance(each, Kept))

    @property
    def released(self) -> tuple[Released, ...]:
        return tuple(each for each in self.judged if isinstance(each, Released))


@dataclass(frozen=True, slots=True)
class _Fence:
    """A committed collection, and when that was."""

    gc_epoch: int
    at: datetime
    pointer: Pointer
    """That collection's, or a later one."""
    released: Mapping[PublicationId, str] = field(default_factory=dict)


class Collector:
    """Collects in one bucket. Any number of daemons and commands may do so at once."""

    def __init__(
        self, store: ObjectStore, reader: Reader, publisher: Publisher, runtime: Runtime, policy: Policy
    ) -> None:
        self._store = store
        self._reader = reader
        self._publisher = publisher
        self._runtime = runtime
        self._policy = policy

    async def preview(self, scope: Scope) -> Collected:
        """What a collection would do now, judged by this machine's clock, for nothing is written to learn the store's.

        Raises:
            NotFound: no such scope.
        """
        seen = await self._look(scope)
        verdicts = self._doom(seen, self._runtime.now())
        return _collected(scope, seen, verdicts, deleted=_doomed(verdicts), released=seen.released)

    async def collect(
        self,
        scope: Scope,
        by: str,
        reason: str = "",
        *,
        parts: frozenset[Part] = BOTH,
        progress: Progress = lambda _doomed: None,
    ) -> Collected:
        """Release what the policy does not keep, then delete what nothing can name any more.

        Where there is nothing to do the pointer is not touched.

        Raises:
            NotFound: no such scope.
            PointerMoved: others were faster five times over.
            DeletionRefused: this credential may not delete; what was released is.
        """
        for _ in range(_TRIES):
            seen = await self._look(scope)
            try:
                fence = await self._fence(scope, seen, self._publisher.writing(by, reason), parts)
            except PointerMoved:
                continue
            return await self._act(scope, seen, fence, parts, progress)
        raise PointerMoved(f"other writers changed {scope} {_TRIES} times in a row; try again")

    async def _look(self, scope: Scope) -> _Seen:
        # The listing comes first: what it shows was stored before anything that follows here.
        listed = await self._store.scan(layout.states(scope))
        read = await self._reader.existing(scope)
        now = self._runtime.now()
        since = timestamp(now - timedelta(days=self._policy.dropped_days + 1))
        entries = await self._reader.history(read.pointer, since=since)
        stored, strays = retention.folders(scope, listed)
        return _Seen(read, entries, stored, strays, retention.judge(read.pointer, self._policy, now))

    async def _fence(
        self, scope: Scope, seen: _Seen, writing: protocol.Writing, parts: frozenset[Part]
    ) -> _Fence | None:
        """The collection behind which may be deleted; None if there is none, and no need for one."""
        if "release" not in parts:
            return await self._earlier(scope, seen)
        if not seen.released and not await self._needs_fence(scope, seen, parts):
            return None
        released = {each.publication.id: each.why for each in seen.released}
        following = protocol.collect(seen.read.pointer, writing, released)
        written = (await self._publisher.swap(scope, seen.read, following)).pointer
        return _Fence(following.gc_epoch, await self._pointer_time(scope), written, released)

    async def _needs_fence(self, scope: Scope, seen: _Seen, parts: frozenset[Part]) -> bool:
        """Whether objects are to go that nobody released: orphans, or what a collection that stopped has left."""
        doomed = _doomed(self._doom(seen, self._runtime.now()))
        if "delete" in parts or not doomed:
            return bool(doomed)
        # Somebody else deletes: without this, what still waits for that would move the pointer every time.
        earlier = await self._earlier(scope, seen)
        behind = _doomed(self._behind(seen, earlier)) if earlier else ()
        return not {each.folder.id for each in doomed} <= {each.folder.id for each in behind}

    async def _earlier(self, scope: Scope, seen: _Seen) -> _Fence | None:
        """The newest collection of the history; when it was is told by the clock of whoever committed it, unless the
        pointer is as it left it."""
        pointer = seen.read.pointer
        entry = retention.last_collection(seen.entries)
        if entry is None and pointer.gc_epoch:
            entry = retention.last_collection(await self._reader.history(pointer))
        if entry is None:
            return None
        at = datetime.fromisoformat(entry.at)
        if entry.sequence == pointer.sequence:
            at = min(at, await self._pointer_time(scope))
        return _Fence(pointer.gc_epoch, at, pointer)

    async def _pointer_time(self, scope: Scope) -> datetime:
        """When the pointer was written last, by the store's clock: the store's now, right after a write of ours."""
        key = layout.pointer(scope)
        for each in await self._store.scan(key):
            if each.key == key:
                return each.modified
        raise PointerMoved(f"the pointer of {scope} went away while it was collected")

    def _doom(self, seen: _Seen, now: datetime) -> tuple[Doomed | Spared, ...]:
        released = {each.publication.id: each.why for each in seen.released}
        kept = [each.publication for each in seen.kept]
        return retention.doom(seen.stored, kept, seen.entries, self._policy, as_of=now, released=released)

    def _behind(self, seen: _Seen, fence: _Fence) -> tuple[Doomed | Spared, ...]:
        entries = (*seen.entries, *fence.pointer.history)
        return retention.doom(
            seen.stored, fence.pointer.retained, entries, self._policy, as_of=fence.at, released=fence.released
        )

    async def _act(
        self, scope: Scope, seen: _Seen, fence: _Fence | None, parts: frozenset[Part], progress: Progress
    ) -> Collected:
        if fence is None:
            verdicts = self._doom(seen, self._runtime.now())
            return _collected(scope, seen, verdicts, left=_doomed(verdicts))
        verdicts = self._behind(seen, fence)
        doomed = _doomed(verdicts)
        deleted = await self._delete_all(scope, fence, doomed, progress) if "delete" in parts else ()
        return _collected(
            scope,
            seen,
            verdicts,
            deleted=deleted,
            released=seen.released if "release" in parts else (),
            left=tuple(each for each in doomed if each not in deleted),
            sequence=fence.pointer.sequence if "release" in parts else None,
        )

    async def _delete_all(
        self, scope: Scope, fence: _Fence, doomed: Sequence[Doomed], progress: Progress
    ) -> tuple[Doomed, ...]:
        deleted: list[Doomed] = []
        for start in range(0, len(doomed), _FOLDERS_AT_ONCE):
            # Another collection will delete the rest; a recovered pointer may name what was to go.
            if (await self._reader.existing(scope)).pointer.gc_epoch != fence.gc_epoch:
                break
            some = doomed[start : start + _FOLDERS_AT_ONCE]
            for each, gone in zip(some, await self._delete_some(some), strict=True):
                if gone:
                    deleted.append(each)
                    progress(each)
        return tuple(deleted)

    async def _delete_some(self, some: Sequence[Doomed]) -> list[bool]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._delete(each.folder)) for each in some]
        except ExceptionGroup as errors:
            # Callers branch by the type of the first failure, which a group would hide.
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def _delete(self, folder: Folder) -> bool:
        """Whether the whole of it is gone. The manifest goes first, so that no reader starts on half of it."""
        for each in folder.objects:
            if not await self._delete_object(each):
                return False
        return True

    async def _delete_object(self, listed: Listed) -> bool:
        try:
            await self._store.delete(listed.key, listed.version)
        except ObjectMissing:
            return True
        except (ConditionFailed, OutcomeUnknown):
            return False
        except StoreRefused as error:
            raise DeletionRefused(
                f"{listed.key} may not be deleted with this credential ({error}): let `rebundle gc --only delete` do "
                "that under one that may, and set retention.delete = false for the daemon"
            ) from error
        return True


def _doomed(verdicts: Iterable[Doomed | Spared]) -> tuple[Doomed, ...]:
    return tuple(each for each in verdicts if isinstance(each, Doomed))


def _collected(
    scope: Scope,
    seen: _Seen,
    verdicts: Iterable[Doomed | Spared],
    *,
    deleted: tuple[Doomed, ...] = (),
    released: tuple[Released, ...] = (),
    left: tuple[Doomed, ...] = (),
    sequence: int | None = None,
) -> Collected:
    spared = tuple(each for each in verdicts if isinstance(each, Spared))
    return Collected(scope, seen.kept, released, deleted, left, spared, seen.strays, sequence)
