"""Collects old publications: releases them from the pointer, then deletes them (protocol 4).

A publisher may have stored objects that no pointer names yet, and name them in its next write. So
the compare-and-swap that releases publications is also a fence: it raises `gc_epoch`, and a
publisher that finds another epoch than before uses none of its earlier objects. After that, no
pointer can name an object that was stored before the swap and that the swapped pointer does not
retain. Only such objects are deleted, and only if they were older than the grace at that time. If a
collection stops half-way, the next one deletes the rest. Two collections at once are safe: the one
that reads the other's epoch stops. `retention_rules` decides what to release and to delete.

No deletion depends on the clock of a machine. This machine's clock only shows whether there may be
something to do. Then the store's clock is read before the swap, and the history entry of the
collection records that time (`as_of`) for later deletions.

Copies of files that a pass over the live tree replaced are deleted behind the same fence. Only
their age decides.

Two credentials may share the work. `release` needs permission to change pointers. `delete` needs
permission to read pointers, and to delete below `states/` and `.rebundle/replaced/`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from daemon.concurrency import concurrently
from daemon.publishing import layout, protocol
from daemon.publishing.grammar import timestamp
from daemon.publishing.maintenance import retention_rules
from daemon.publishing.maintenance.retention_rules import (
    Deletable,
    Folder,
    Kept,
    NotYetDeletable,
    Released,
    RetentionPolicy,
)
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.retry import while_busy, while_moved
from daemon.runtime import Runtime
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    OutcomeUnknown,
    StoreForbidden,
    StoreRefused,
)
from daemon.stores.port import Listed, ObjectStore
from daemon.stores.server_time import store_time
from renderers.values import Scope

CollectionPart = Literal["release", "delete"]
BOTH: Final[frozenset[CollectionPart]] = frozenset(("release", "delete"))
_FOLDERS_AT_ONCE: Final = 8
_WAITS: Final = 6
"""How often a store may ask one deletion to slow down."""

OnDeleted = Callable[[Deletable], None]


class DeletionRefused(StoreRefused):
    """This credential has no permission to delete, so an operator must act.

    Released publications stay in the bucket until a collection with that permission runs.
    """


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of a collection of one scope, or of its preview."""

    scope: Scope
    kept: tuple[Kept, ...] = ()
    released: tuple[Released, ...] = ()
    deleted: tuple[Deletable, ...] = ()
    left: tuple[Deletable, ...] = ()
    """To be deleted by a later collection.

    Another collection began meanwhile, an answer was lost, or a release is needed first.
    """
    kept_for_now: tuple[NotYetDeletable, ...] = ()
    strays: tuple[str, ...] = ()
    """Keys below `states/` that belong to no publication. They are never deleted."""
    sequence: int | None = None
    """The sequence of the pointer that this collection wrote, if it had to write one."""
    copies: tuple[Listed, ...] = ()
    """Copies of replaced bytes, below `.rebundle/replaced/`, that were or would be deleted."""

    @property
    def size(self) -> int:
        """Bytes that were or would be freed."""
        return sum(deletable.folder.size for deletable in self.deleted) + sum(
            copy.size for copy in self.copies
        )


@dataclass(frozen=True, slots=True)
class _Seen:
    """A scope as read and listed once."""

    scope: Scope
    read: PointerRead
    stored: tuple[Folder, ...]
    strays: tuple[str, ...]
    copies: tuple[Listed, ...]
    """Copies of replaced bytes."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to keep, release and delete of the objects seen, as of some time."""

    decisions: tuple[Kept | Released, ...]
    verdicts: tuple[Deletable | NotYetDeletable, ...]
    expired: tuple[Listed, ...]

    @property
    def released(self) -> tuple[Released, ...]:
        return tuple(decision for decision in self.decisions if isinstance(decision, Released))

    @property
    def deletable(self) -> tuple[Deletable, ...]:
        return _deletable(self.verdicts)


@dataclass(frozen=True, slots=True)
class _Fence:
    """A committed collection, and what may be deleted behind it."""

    gc_epoch: int
    verdicts: tuple[Deletable | NotYetDeletable, ...]
    expired: tuple[Listed, ...]
    released: tuple[Released, ...] = ()
    sequence: int | None = None
    """The pointer's sequence, if this collection wrote it."""

    @property
    def deletable(self) -> tuple[Deletable, ...]:
        return _deletable(self.verdicts)


class GarbageCollector:
    """Collects in one bucket. Any number of daemons and commands may do so at once."""

    def __init__(
        self,
        store: ObjectStore,
        reader: Reader,
        publisher: Publisher,
        runtime: Runtime,
        policy: RetentionPolicy,
    ) -> None:
        self._store = store
        self._reader = reader
        self._publisher = publisher
        self._runtime = runtime
        self._policy = policy

    async def preview(self, scope: Scope, *, parts: frozenset[CollectionPart] = BOTH) -> Collected:
        """What a collection would do now.

        It uses this machine's clock, because reading the store's clock needs a write.

        Raises:
            NotFound: no such scope.
        """
        seen = await self._look(scope)
        plan = await self._plan(seen, self._runtime.now())
        if "release" in parts:
            deleted, copies = (plan.deletable, plan.expired) if "delete" in parts else ((), ())
            return _collected(seen, plan, released=plan.released, deleted=deleted, copies=copies)
        fence = await self._earlier(seen)
        deleted, copies = (fence.deletable, fence.expired) if fence else ((), ())
        return _collected(seen, plan, fence, deleted=deleted, copies=copies)

    async def collect(
        self,
        scope: Scope,
        by: str,
        reason: str = "",
        *,
        parts: frozenset[CollectionPart] = BOTH,
        on_deleted: OnDeleted = lambda _deleted: None,
    ) -> Collected:
        """Release what the policy does not keep, then delete what no pointer can name any more.

        The pointer is not changed if there is nothing to release and an earlier collection covers
        all deletions.

        Raises:
            NotFound: no such scope.
            PointerMoved: other writers were faster five times in a row.
            DeletionRefused: this credential has no permission to delete, or one object cannot be
                deleted. The release is committed. If only single objects were refused, everything
                else was deleted.
        """

        async def release() -> tuple[_Seen, _Plan, _Fence | None]:
            seen = await self._look(scope)
            return seen, *await self._fenced(seen, self._publisher.writing(by, reason), parts)

        seen, plan, fence = await while_moved(scope, release)
        deleting = fence if "delete" in parts else None
        refused: list[DeletionRefused] = []
        deleted = await self._delete_all(scope, deleting, on_deleted, refused) if deleting else ()
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

    async def _look(self, scope: Scope) -> _Seen:
        # The listing comes first, so all that it shows was stored before the steps below.
        listed = await self._store.scan(layout.states(scope))
        copies = await self._store.scan(layout.all_replaced(scope))
        read = await self._reader.existing(scope)
        stored, strays = retention_rules.folders(scope, listed)
        return _Seen(scope, read, stored, strays, tuple(copies))

    async def _plan(self, seen: _Seen, now: datetime) -> _Plan:
        """What to release and to delete at the time `now`."""
        decisions = retention_rules.retention_of(seen.read.pointer, self._policy, now)
        kept = [decision.publication for decision in decisions if isinstance(decision, Kept)]
        released = [decision for decision in decisions if isinstance(decision, Released)]
        verdicts = await self._deletions(seen, seen.read.pointer, kept, now, released)
        return _Plan(decisions, verdicts, self._expired(seen, now))

    def _expired(self, seen: _Seen, as_of: datetime) -> tuple[Listed, ...]:
        return retention_rules.expired(seen.scope, seen.copies, self._policy, as_of)

    async def _fenced(
        self, seen: _Seen, writing: protocol.Writing, parts: frozenset[CollectionPart]
    ) -> tuple[_Plan, _Fence | None]:
        """What to release and to delete, and the collection behind which it may be deleted.

        None: there is no such collection.
        """
        plan = await self._plan(seen, self._runtime.now())
        if "release" not in parts:
            return plan, await self._earlier(seen)
        idle = protocol.idle_journals(seen.read.pointer, self._runtime.now())
        if not (plan.released or plan.deletable or plan.expired or idle):
            return plan, None
        earlier = await self._earlier(seen)
        if _covers(earlier, plan) and not idle:
            return plan, earlier
        as_of = await store_time(self._store, self._runtime.random_id())
        plan = await self._plan(seen, as_of)
        if _covers(earlier, plan) and not protocol.idle_journals(seen.read.pointer, as_of):
            return plan, earlier
        return plan, await self._release(seen, plan, writing, as_of)

    async def _release(
        self, seen: _Seen, plan: _Plan, writing: protocol.Writing, as_of: datetime
    ) -> _Fence:
        released = {release.publication.id for release in plan.released}
        following = protocol.collect(seen.read.pointer, writing, released, as_of=timestamp(as_of))
        written = (await self._publisher.swap(seen.scope, seen.read, following)).pointer
        # Another writer may have changed the pointer meanwhile and dropped a publication. Its
        # objects then stay for `dropped_days`.
        verdicts = await self._deletions(seen, written, written.retained, as_of, plan.released)
        expired = self._expired(seen, as_of)
        return _Fence(following.gc_epoch, verdicts, expired, plan.released, written.sequence)

    async def _earlier(self, seen: _Seen) -> _Fence | None:
        """The newest collection in the history that has a time of the store's clock."""
        pointer = seen.read.pointer
        as_of = retention_rules.last_collection(pointer.history)
        if as_of is None and pointer.gc_epoch:
            as_of = retention_rules.last_collection(await self._reader.history(pointer))
        if as_of is None:
            return None
        verdicts = await self._deletions(seen, pointer, pointer.retained, as_of)
        return _Fence(pointer.gc_epoch, verdicts, self._expired(seen, as_of))

    async def _deletions(
        self,
        seen: _Seen,
        pointer: Pointer,
        retained: Iterable[Publication],
        as_of: datetime,
        released: Iterable[Released] = (),
    ) -> tuple[Deletable | NotYetDeletable, ...]:
        # A day more than is needed: entries have the times of the machines that wrote them.
        since = timestamp(as_of - timedelta(days=self._policy.dropped_days + 1))
        entries = await self._reader.history(pointer, since=since)
        reasons = {release.publication.id: release.reason for release in released}
        return retention_rules.plan_deletions(
            seen.stored, retained, entries, self._policy, as_of=as_of, released=reasons
        )

    async def _delete_all(
        self, scope: Scope, fence: _Fence, on_deleted: OnDeleted, refused: list[DeletionRefused]
    ) -> tuple[Deletable, ...]:
        async def delete(deletable: Deletable) -> bool:
            return await self._delete(deletable, refused)

        deleted: list[Deletable] = []
        deletable_folders = fence.deletable
        for start in range(0, len(deletable_folders), _FOLDERS_AT_ONCE):
            # After another collection, that one deletes the rest. After a recovery, the pointer may
            # name objects that were to be deleted.
            if (await self._reader.existing(scope)).pointer.gc_epoch != fence.gc_epoch:
                break
            group = deletable_folders[start : start + _FOLDERS_AT_ONCE]
            for deletable, gone in zip(
                group, await concurrently(delete, group, limit=_FOLDERS_AT_ONCE), strict=True
            ):
                if gone:
                    deleted.append(deletable)
                    on_deleted(deletable)
        return tuple(deleted)

    async def _delete_copies(
        self, expired: tuple[Listed, ...], refused: list[DeletionRefused]
    ) -> tuple[Listed, ...]:
        """Delete copies and return those that are gone.

        A copy that was stored again after the listing has another version, and stays.
        """

        async def delete(copy: Listed) -> bool:
            return await self._delete_object(copy, refused)

        gone = await concurrently(delete, expired, limit=_FOLDERS_AT_ONCE)
        return tuple(copy for copy, is_gone in zip(expired, gone, strict=True) if is_gone)

    async def _delete(self, deletable: Deletable, refused: list[DeletionRefused]) -> bool:
        """Delete a folder and return whether all of it is gone.

        The manifest is deleted first, so that no reader starts on an incomplete publication.
        """
        for listed in deletable.folder.objects:
            if not await self._delete_object(listed, refused):
                return False
        return True

    async def _delete_object(self, listed: Listed, refused: list[DeletionRefused]) -> bool:
        """Delete an object and return whether it is gone.

        A failure of this object alone is added to `refused`, and the other deletions continue.
        """
        try:
            await while_busy(
                self._runtime, lambda: self._store.delete(listed.key, listed.version), _WAITS
            )
        except ObjectMissing:
            return True
        except (ConditionFailed, OutcomeUnknown):
            return False
        except StoreRefused as error:
            refusal = DeletionRefused(
                f"{listed.key} may not be deleted with this credential ({error}): grant it, or run "
                "`rebundle gc --all --only delete` under one that may, and set retention.delete = "
                "false for the daemon"
            )
            if isinstance(error, StoreForbidden):
                raise refusal from error  # a server refuses every other object as well
            refused.append(refusal)
            return False
        return True


def _deletable(verdicts: Iterable[Deletable | NotYetDeletable]) -> tuple[Deletable, ...]:
    return tuple(verdict for verdict in verdicts if isinstance(verdict, Deletable))


def _covers(earlier: _Fence | None, plan: _Plan) -> bool:
    """Whether there is nothing to release, and `earlier` permits all deletions of the plan.

    Without this check, objects that wait for a credential with delete permission would cause a
    change of the pointer at every collection.
    """
    permitted = {deletable.folder.id for deletable in (earlier.deletable if earlier else ())}
    expired = {copy.key for copy in (earlier.expired if earlier else ())}
    return (
        not plan.released
        and {deletable.folder.id for deletable in plan.deletable} <= permitted
        and {copy.key for copy in plan.expired} <= expired
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
    verdicts = {verdict.folder.id: verdict for verdict in (fence.verdicts if fence else ())}
    # A folder that is old enough now but was stored too late for the fence is left, too. It needs
    # another fence.
    verdicts |= {
        verdict.folder.id: verdict
        for verdict in plan.verdicts
        if isinstance(verdict, Deletable) or not fence
    }
    gone = {deletable.folder.id for deletable in deleted}
    return Collected(
        scope=seen.scope,
        kept=tuple(decision for decision in plan.decisions if isinstance(decision, Kept)),
        released=released,
        deleted=deleted,
        left=tuple(
            deletable
            for deletable in _deletable(verdicts.values())
            if deletable.folder.id not in gone
        ),
        kept_for_now=tuple(
            verdict for verdict in verdicts.values() if isinstance(verdict, NotYetDeletable)
        ),
        strays=seen.strays,
        sequence=sequence,
        copies=copies,
    )
