"""Operators' commands that change a pointer, such as rollback and quarantine (protocol 4).

A command is one compare-and-swap with `by` and `reason`, followed by one pass over the live tree.
It renders nothing and does not change `positions`, whether a daemon runs or not. If another writer
changes the pointer first, the command is computed again from the new pointer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from daemon.publishing import protocol
from daemon.publishing.errors import OperationRefused
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.pointer import Pointer, Publication, find_exactly
from daemon.publishing.protocol import Writing
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.retry import while_moved
from renderers.values import Scope

_SHORTEST_DIGEST: Final = 12
"""The number of digits that `history` and `status` show."""

Command = Callable[[Pointer, Writing], Pointer | None]
"""The pointer that follows, or None if nothing would change. Raises OperationRefused, NotFound."""


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """The effect of a command. `changed` False: the pointer was already as the command demands."""

    before: Pointer
    after: Pointer
    changed: bool
    live_tree: FinishedPass | UnfinishedPass | None = None
    """None after a preview."""
    base: PointerRead | None = None
    """The pointer that a preview was computed from."""


class Operations:
    """Carries out operators' commands on one bucket."""

    def __init__(self, reader: Reader, publisher: Publisher, live_tree: LiveTree) -> None:
        self._reader = reader
        self._publisher = publisher
        self._live_tree = live_tree

    async def preview(
        self, scope: Scope, command: Command, by: str, reason: str = ""
    ) -> ChangeResult:
        """The effect that `carry_out` would have now. Raises the same errors."""
        base = await self._reader.existing(scope)
        following = await self._decide(scope, base, command, by, reason)
        if following is None:
            return ChangeResult(base.pointer, base.pointer, changed=False, base=base)
        self._publisher.refuse_unwritable(scope, base)
        return ChangeResult(base.pointer, following, changed=True, base=base)

    async def carry_out(
        self,
        scope: Scope,
        command: Command,
        by: str,
        reason: str = "",
        *,
        previewed: ChangeResult | None = None,
    ) -> ChangeResult:
        """Change the pointer, then the live tree. Nothing is raised after the pointer is changed.

        `previewed`: a preview of this command. The first try starts from the pointer that it has
        read, and what it has verified is not verified again.

        Raises:
            NotFound: the scope does not exist, or the named publication is not retained.
            OperationRefused: the scope's rules do not allow it now.
            VerificationFailed: the publication that would become live does not match the pointer,
                or has no trusted signature.
            PointerMoved: other writers changed the pointer first, five times in a row.
        """
        first = previewed

        async def change() -> tuple[PointerRead, PointerRead, bool]:
            nonlocal first
            started, first = first, None
            return await self._swap(scope, started, command, by, reason)

        base, read, changed = await while_moved(scope, change)
        if not changed:
            # The command consists of the pass alone, so a failure of the pass is raised.
            return ChangeResult(
                base.pointer, read.pointer, changed, await self._live_tree.reconcile(scope)
            )
        tree = await self._live_tree.follow(scope, base.pointer.sequence + 1)
        return ChangeResult(base.pointer, read.pointer, changed, tree)

    async def _swap(
        self, scope: Scope, previewed: ChangeResult | None, command: Command, by: str, reason: str
    ) -> tuple[PointerRead, PointerRead, bool]:
        """The pointer before and after the command, and whether the command changed it."""
        base = previewed.base if previewed is not None else None
        base = base or await self._reader.existing(scope)
        verified = previewed.after.live if previewed is not None else None
        following = await self._decide(scope, base, command, by, reason, verified=verified)
        if following is None:
            return base, base, False
        return base, await self._publisher.swap(scope, base, following), True

    async def _decide(
        self,
        scope: Scope,
        base: PointerRead,
        command: Command,
        by: str,
        reason: str,
        *,
        verified: Publication | None = None,
    ) -> Pointer | None:
        following = command(base.pointer, self._publisher.writing(by, reason))
        live = None if following is None else following.live
        known = [one.id for one in (base.pointer.live, verified) if one is not None]
        if live is not None and live.id not in known:
            # A publication that is gone, or that readers would refuse, must not become live.
            await self._reader.files(scope, live)
        return following


def rollback(
    state: str, *, discard_newer: bool = False, expected_live: str | None = None
) -> Command:
    """Make a retained state live, and set a hold.

    Refused if `expected_live` is given and another state is live.
    """

    def command(pointer: Pointer, writing: Writing) -> Pointer | None:
        found = protocol.live_instead_of(pointer, expected_live)
        if found is not None:
            raise OperationRefused(
                f"live is {found}, not {expected_live}: look at `rebundle status {pointer.scope}`, "
                "then decide again"
            )
        target = find_exactly(pointer, state)
        return protocol.rollback(pointer, writing, target, discard_newer=discard_newer)

    return command


def quarantine(state: str, *, rollback_to: str | None = None) -> Command:
    """Reject the composition of a state; see `protocol.quarantine`."""

    def command(pointer: Pointer, writing: Writing) -> Pointer | None:
        target = find_exactly(pointer, state)
        new_live = find_exactly(pointer, rollback_to) if rollback_to else None
        return protocol.quarantine(pointer, writing, target, rollback_to=new_live)

    return command


def lift_quarantine(state: str) -> Command:
    """Accept the composition of a state again.

    For a state that is no longer retained, `state` is the start of the digest of its composition.
    """

    def command(pointer: Pointer, writing: Writing) -> Pointer | None:
        digests = [rejection.composition_digest for rejection in pointer.quarantined]
        matching = [digest for digest in digests if digest.startswith(state)]
        if len(matching) == 1 and len(state) >= _SHORTEST_DIGEST:
            return protocol.lift_quarantine(pointer, writing, matching[0])
        return protocol.lift_quarantine(
            pointer, writing, find_exactly(pointer, state).composition_digest
        )

    return command


def pin(state: str, *, pinned: bool) -> Command:
    """Exclude a publication from retention, or include it again."""
    return lambda pointer, writing: protocol.pin(
        pointer, writing, find_exactly(pointer, state), pinned=pinned
    )


def resume(confirmed: Publication | None) -> Command:
    """Resume to the desired publication that the operator has confirmed.

    Refused if another one is desired by then.
    """

    def command(pointer: Pointer, writing: Writing) -> Pointer | None:
        if not protocol.same(pointer.desired, confirmed):
            raise OperationRefused(
                "a newer state was published in the meantime: run the command again to see "
                "the difference"
            )
        return protocol.resume(pointer, writing)

    return command


def republish(before: Pointer, publication: Publication) -> Command:
    """Publish what was rendered from the desired state of `before`, if that state is still desired.

    Refused after a garbage collection, which may have deleted the new upload as an orphan
    (protocol 4).
    """

    def command(pointer: Pointer, writing: Writing) -> Pointer:
        if pointer.gc_epoch != before.gc_epoch:
            raise OperationRefused(
                f"{pointer.scope} was garbage-collected while {publication.state} was rendered: "
                "republish again"
            )
        if not protocol.same(pointer.desired, before.desired):
            raise OperationRefused(
                f"{publication.state} was replaced as the desired state while it was rendered: "
                "republish again"
            )
        return protocol.publish(pointer, writing, [publication])

    return command
