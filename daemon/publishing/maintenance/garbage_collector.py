"""Collection: publications leave the pointer first, their objects leave the bucket afterwards (protocol 4).

The compare-and-swap that releases publications is also the fence: it raises `gc_epoch`, so whatever was stored before
it and is not retained by it can be named by no later pointer. Only that is deleted, and only when it was older than the
grace by then. The rest of a collection that stopped half-way is found and deleted by the next one. Two at once are
safe: the one that finds another's epoch stops. What is to go is decided in `retention`.

No machine's clock is trusted with a deletion. This machine's tells only whether there may be something to do; then the
store's is read, before the swap, and its entry of the history tells that time (`as_of`) to whoever deletes later.

Copies of what a pass over the live tree has replaced go behind the same fence, by their age alone.

Releasing and deleting may be two credentials' work: `release` needs the right to change pointers, `delete` the right to
read them and to delete below `states/` and `.rebundle/replaced/`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from daemon.concurrency import concurrently
from daemon.publishing import layout, protocol
from daemon.publishing.errors import PointerMoved
from daemon.publishing.grammar import timestamp
from daemon.publishing.maintenance import retention_rules
from daemon.publishing.maintenance.retention_rules import Deletable, Folder, Kept, NotYetDeletable, Policy, Released
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.retry import patiently
from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, OutcomeUnknown, StoreForbidden, StoreRefused
from daemon.stores.port import Listed, ObjectStore
from daemon.stores.server_time import store_time
from renderers.model import Scope

Part = Literal["release", "delete"]
BOTH: Final[frozenset[Part]] = frozenset(("release", "delete"))
_TRIES: Final = 5
_FOLDERS_AT_ONCE: Final = 8
_WAITS: Final = 6
"""Times that a store may say slow down to one deletion."""

Progress = Callable[[Deletable], None]


class DeletionRefused(StoreRefused):
    """The operator must act: this credential may not delete. What was released stays in the bucket until one may."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection of one scope did, or (a preview) would do."""

    scope: Scope
    kept: tuple[Kept, ...] = ()
    released: tuple[Released, ...] = ()
    deleted: tuple[Deletable, ...] = ()
    left: tuple[Deletable, ...] = ()
    """To be deleted by a later collection: another one began meanwhile, an answer was lost, or it takes a release."""
    spared: tuple[NotYetDeletable, ...] = ()
    strays: tuple[str, ...] = ()
    """Keys below `states/` that are of no publication of ours: never deleted."""
    sequence: int | None = None
    """Of the pointer this collection wrote, if it had to write one."""
    copies: tuple[Listed, ...] = ()
    """Copies of replaced bytes, below `.rebundle/replaced/`, that were, or would be, deleted."""

    @property
    def size(self) -> int:
        """Bytes that were, or would be, freed."""
        return sum(each.folder.size for each in self.deleted) + sum(each.size for each in self.copies)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A scope as one look shows it."""

    scope: Scope
    read: PointerRead
    stored: tuple[Folder, ...]
    strays: tuple[str, ...]
    copies: tuple[Listed, ...]
    """Of replaced bytes."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to become of what was seen, as of some time."""

    judged: tuple[Kept | Released, ...]
    verdicts: tuple[Deletable | NotYetDeletable, ...]
    expired: tuple[Listed, ...]

    @property
    def released(self) -> tuple[Released, ...]:
        return tuple(each for each in self.judged if isinstance(each, Released))

    @property
    def doomed(self) -> tuple[Deletable, ...]:
        return _deletable(self.verdicts)


@dataclass(frozen=True, slots=True)
class _Fence:
    """A committed collection, and what may be deleted behind it."""

    gc_epoch: int
    verdicts: tuple[Deletable | NotYetDeletable, ...]
    expired: tuple[Listed, ...]
    released: tuple[Released, ...] = ()
    sequence: int | None = None
    """Of the pointer, if this collection wrote it."""

    @property
    def doomed(self) -> tuple[Deletable, ...]:
        return _deletable(self.verdicts)


class GarbageCollector:
    """Collects in one bucket. Any number of daemons and commands may do so at once."""

    def __init__(
        self, store: ObjectStore, reader: Reader, publisher: Publisher, runtime: Runtime, policy: Policy
    ) -> None:
        self._store = store
        self._reader = reader
        self._publisher = publisher
        self._runtime = runtime
        self._policy = policy

    async def preview(self, scope: Scope, *, parts: frozenset[Part] = BOTH) -> Collected:
        """What a collection would do now, judged by this machine's clock, for nothing is written to learn the store's.

        Raises:
            NotFound: no such scope.
        """
        seen = await self._look(scope)
        plan = await self._plan(seen, self._runtime.now())
        if "release" in parts:
            deleted, copies = (plan.doomed, plan.expired) if "delete" in parts else ((), ())
            return _collected(seen, plan, released=plan.released, deleted=deleted, copies=copies)
        fence = await self._earlier(seen)
        deleted, copies = (fence.doomed, fence.expired) if fence else ((), ())
        return _collected(seen, plan, fence, deleted=deleted, copies=copies)

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

        The pointer is not touched where there is nothing to release and an earlier collection covers what is to be
        deleted.

        Raises:
            NotFound: no such scope.
            PointerMoved: others were faster five times over.
            DeletionRefused: this credential may not delete, or something stands in the way of one object; what was
                released is, and everything else was deleted.
        """
        for _ in range(_TRIES):
            seen = await self._look(scope)
            try:
                plan, fence = await self._fenced(seen, self._publisher.writing(by, reason), parts)
            except PointerMoved:
                continue
            deleting = fence if "delete" in parts else None
            refused: list[DeletionRefused] = []
            deleted = await self._delete_all(scope, deleting, progress, refused) if deleting else ()
            copies = await self._delete_copies(deleting.expired, refused) if deleting else ()
            if refused:
                raise refused[0]
            return _collected(
                seen,
                plan,
                fence,
                deleted=deleted,
                copies=copies,
                released=fence.released if fence else (),
                sequence=fence.sequence if fence else None,
            )
        raise PointerMoved(f"other writers changed {scope} {_TRIES} times in a row; try again")

    async def _look(self, scope: Scope) -> _Seen:
        # The listing comes first: what it shows was stored before anything that follows here.
        listed = await self._store.scan(layout.states(scope))
        copies = await self._store.scan(layout.all_replaced(scope))
        read = await self._reader.existing(scope)
        stored, strays = retention_rules.folders(scope, listed)
        return _Seen(scope, read, stored, strays, tuple(copies))

    async def _plan(self, seen: _Seen, now: datetime) -> _Plan:
        """What is to go if it is `now`."""
        judged = retention_rules.retention_of(seen.read.pointer, self._policy, now)
        kept = [each.publication for each in judged if isinstance(each, Kept)]
        released = [each for each in judged if isinstance(each, Released)]
        verdicts = await self._doom(seen, seen.read.pointer, kept, now, released)
        return _Plan(judged, verdicts, self._expired(seen, now))

    def _expired(self, seen: _Seen, as_of: datetime) -> tuple[Listed, ...]:
        return retention_rules.expired(seen.scope, seen.copies, self._policy, as_of)

    async def _fenced(
        self, seen: _Seen, writing: protocol.Writing, parts: frozenset[Part]
    ) -> tuple[_Plan, _Fence | None]:
        """What is to go, and the collection behind which it may be deleted, if there is one."""
        plan = await self._plan(seen, self._runtime.now())
        if "release" not in parts:
            return plan, await self._earlier(seen)
        idle = protocol.idle_journals(seen.read.pointer, self._runtime.now())
        if not (plan.released or plan.doomed or plan.expired or idle):
            return plan, None
        earlier = await self._earlier(seen)
        if _covers(earlier, plan) and not idle:
            return plan, earlier
        as_of = await store_time(self._store, self._runtime.random_id())
        plan = await self._plan(seen, as_of)
        if _covers(earlier, plan) and not protocol.idle_journals(seen.read.pointer, as_of):
            return plan, earlier
        return plan, await self._release(seen, plan, writing, as_of)

    async def _release(self, seen: _Seen, plan: _Plan, writing: protocol.Writing, as_of: datetime) -> _Fence:
        released = {each.publication.id for each in plan.released}
        following = protocol.collect(seen.read.pointer, writing, released, as_of=timestamp(as_of))
        written = (await self._publisher.swap(seen.scope, seen.read, following)).pointer
        # Another writer may have built on it meanwhile, and dropped something that then keeps its days.
        verdicts = await self._doom(seen, written, written.retained, as_of, plan.released)
        expired = self._expired(seen, as_of)
        return _Fence(following.gc_epoch, verdicts, expired, plan.released, written.sequence)

    async def _earlier(self, seen: _Seen) -> _Fence | None:
        """The newest collection of the history that tells its time by the store's clock."""
        pointer = seen.read.pointer
        as_of = retention_rules.last_collection(pointer.history)
        if as_of is None and pointer.gc_epoch:
            as_of = retention_rules.last_collection(await self._reader.history(pointer))
        if as_of is None:
            return None
        verdicts = await self._doom(seen, pointer, pointer.retained, as_of)
        return _Fence(pointer.gc_epoch, verdicts, self._expired(seen, as_of))

    async def _doom(
        self,
        seen: _Seen,
        pointer: Pointer,
        retained: Iterable[Publication],
        as_of: datetime,
        released: Iterable[Released] = (),
    ) -> tuple[Deletable | NotYetDeletable, ...]:
        # A day more than is needed: entries tell the times of the machines that wrote them.
        since = timestamp(as_of - timedelta(days=self._policy.dropped_days + 1))
        entries = await self._reader.history(pointer, since=since)
        reasons = {each.publication.id: each.why for each in released}
        return retention_rules.plan_deletions(
            seen.stored, retained, entries, self._policy, as_of=as_of, released=reasons
        )

    async def _delete_all(
        self, scope: Scope, fence: _Fence, progress: Progress, refused: list[DeletionRefused]
    ) -> tuple[Deletable, ...]:
        async def delete(each: Deletable) -> bool:
            return await self._delete(each, refused)

        deleted: list[Deletable] = []
        doomed = fence.doomed
        for start in range(0, len(doomed), _FOLDERS_AT_ONCE):
            # Another collection will delete the rest; a recovered pointer may name what was to go.
            if (await self._reader.existing(scope)).pointer.gc_epoch != fence.gc_epoch:
                break
            some = doomed[start : start + _FOLDERS_AT_ONCE]
            for each, gone in zip(some, await concurrently(delete, some, at_once=_FOLDERS_AT_ONCE), strict=True):
                if gone:
                    deleted.append(each)
                    progress(each)
        return tuple(deleted)

    async def _delete_copies(self, expired: tuple[Listed, ...], refused: list[DeletionRefused]) -> tuple[Listed, ...]:
        """The copies that are gone. One that was kept again since the look has another version, and stays."""

        async def delete(each: Listed) -> bool:
            return await self._delete_object(each, refused)

        gone = await concurrently(delete, expired, at_once=_FOLDERS_AT_ONCE)
        return tuple(each for each, is_gone in zip(expired, gone, strict=True) if is_gone)

    async def _delete(self, doomed: Deletable, refused: list[DeletionRefused]) -> bool:
        """Whether the whole folder is gone. The manifest goes first, so that no reader starts on half of it."""
        for each in doomed.folder.objects:
            if not await self._delete_object(each, refused):
                return False
        return True

    async def _delete_object(self, listed: Listed, refused: list[DeletionRefused]) -> bool:
        """Whether it is gone. What is the fault of this object alone is noted in `refused`, and the others go on."""
        try:
            await patiently(self._runtime, lambda: self._store.delete(listed.key, listed.version), _WAITS)
        except ObjectMissing:
            return True
        except (ConditionFailed, OutcomeUnknown):
            return False
        except StoreRefused as error:
            refusal = DeletionRefused(
                f"{listed.key} may not be deleted with this credential ({error}): mend that; or run `rebundle gc --all "
                "--only delete` under one that may, and set retention.delete = false for the daemon"
            )
            if isinstance(error, StoreForbidden):
                raise refusal from error  # a server says so of every object
            refused.append(refusal)
            return False
        return True


def _deletable(verdicts: Iterable[Deletable | NotYetDeletable]) -> tuple[Deletable, ...]:
    return tuple(each for each in verdicts if isinstance(each, Deletable))


def _covers(earlier: _Fence | None, plan: _Plan) -> bool:
    """Whether nothing is to be released, and whatever is to be deleted may be, behind that collection.

    So what waits for somebody who may delete does not move the pointer again and again.
    """
    doomed = {each.folder.id for each in (earlier.doomed if earlier else ())}
    expired = {each.key for each in (earlier.expired if earlier else ())}
    return (
        not plan.released
        and {each.folder.id for each in plan.doomed} <= doomed
        and {each.key for each in plan.expired} <= expired
    )


def _collected(
    seen: _Seen,
    plan: _Plan,
    fence: _Fence | None = None,
    *,
    deleted: tuple[Deletable, ...] = (),
    released: tuple[Released, ...] = (),
    sequence: int | None = None,
    copies: tuple[Listed, ...] = (),
) -> Collected:
    verdicts = {each.folder.id: each for each in (fence.verdicts if fence else ())}
    # What is old enough and was stored too late for the fence is left, too: it takes another one.
    verdicts |= {each.folder.id: each for each in plan.verdicts if isinstance(each, Deletable) or not fence}
    gone = {each.folder.id for each in deleted}
    return Collected(
        scope=seen.scope,
        kept=tuple(each for each in plan.judged if isinstance(each, Kept)),
        released=released,
        deleted=deleted,
        left=tuple(each for each in _deletable(verdicts.values()) if each.folder.id not in gone),
        spared=tuple(each for each in verdicts.values() if isinstance(each, NotYetDeletable)),
        strays=seen.strays,
        sequence=sequence,
        copies=copies,
    )
