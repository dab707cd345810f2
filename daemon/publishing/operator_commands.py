"""Operators' verbs: each one compare-and-swap with `by` and `reason`, then one pass over the live tree (protocol 4).

They render nothing and leave `positions` alone, whether a daemon runs or not. A verb is decided again, from the start,
when another writer was faster; what it would do can be asked without doing it (`preview`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, OperationRefused, PointerMoved
from daemon.publishing.live_tree.sync import LiveTree, Synced, Unfinished
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.protocol import Writing
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.wording import MOST_NAMED, some
from renderers.model import Scope

_TRIES: Final = 5
_SHORTEST_DIGEST: Final = 12
"""As many digits as `history` and `status` show."""

Verb = Callable[[Pointer, Writing], Pointer | None]


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """A verb that changed the pointer, or (`changed` False) found it as asked."""

    before: Pointer
    after: Pointer
    changed: bool
    live_tree: Synced | Unfinished | None = None
    """None after a preview."""


class Operations:
    """Carries out operators' verbs on one bucket."""

    def __init__(self, reader: Reader, publisher: Publisher, live_tree: LiveTree) -> None:
        self._reader = reader
        self._publisher = publisher
        self._live_tree = live_tree

    async def preview(self, scope: Scope, verb: Verb, by: str, reason: str = "") -> ChangeResult:
        """What `carry_out` would do now. Raises as it does."""
        base = await self._reader.existing(scope)
        following = await self._decide(scope, base, verb, by, reason)
        if following is not None:
            self._publisher.refuse_unwritable(scope, base)
        return ChangeResult(base.pointer, following or base.pointer, changed=following is not None)

    async def carry_out(self, scope: Scope, verb: Verb, by: str, reason: str = "") -> ChangeResult:
        """Change the pointer, then the live tree. Once the pointer is changed, nothing is raised.

        Raises:
            NotFound: no such scope, or what the verb names is not retained.
            Refused: the scope's rules do not allow it now.
            VerificationFailed: what would go live is not what the pointer says, or nobody who is trusted signed it.
            PointerMoved: others were faster five times over.
        """
        base, read, changed = await self._swap(scope, verb, by, reason)
        if not changed:
            # The pass is all there was to do, and its failure the verb's.
            return ChangeResult(base.pointer, read.pointer, changed, await self._live_tree.reconcile(scope))
        tree = await self._live_tree.follow(scope, base.pointer.sequence + 1)
        return ChangeResult(base.pointer, read.pointer, changed, tree)

    async def _swap(self, scope: Scope, verb: Verb, by: str, reason: str) -> tuple[PointerRead, PointerRead, bool]:
        for _ in range(_TRIES):
            base = await self._reader.existing(scope)
            following = await self._decide(scope, base, verb, by, reason)
            if following is None:
                return base, base, False
            try:
                return base, await self._publisher.swap(scope, base, following), True
            except PointerMoved:
                continue
        raise PointerMoved(f"other writers changed {scope} {_TRIES} times in a row; try again")

    async def _decide(self, scope: Scope, base: PointerRead, verb: Verb, by: str, reason: str) -> Pointer | None:
        following = verb(base.pointer, self._publisher.writing(by, reason))
        live = None if following is None else following.live
        if live is not None and (base.pointer.live is None or live.id != base.pointer.live.id):
            # Nobody is to be served what every reader would refuse, or what is gone.
            await self._reader.files(scope, live)
        return following


def rollback(state: str, *, discard_newer: bool = False, expected_live: str | None = None) -> Verb:
    """Go back to a retained state, and hold; refused if `expected_live` is given and another state is live."""

    def verb(pointer: Pointer, writing: Writing) -> Pointer | None:
        if expected_live is not None and (pointer.live is None or pointer.live.state != expected_live):
            raise OperationRefused(
                f"live is {pointer.live.state if pointer.live else 'nothing'}, not {expected_live}: look at "
                f"`rebundle status {pointer.scope}`, then decide again"
            )
        target = find_exactly(pointer, state)
        return protocol.rollback(pointer, writing, target, discard_newer=discard_newer)

    return verb


def quarantine(state: str, *, rollback_to: str | None = None) -> Verb:
    """Reject a state's composition; see `protocol.quarantine`."""

    def verb(pointer: Pointer, writing: Writing) -> Pointer | None:
        target = find_exactly(pointer, state)
        back = find_exactly(pointer, rollback_to) if rollback_to else None
        return protocol.quarantine(pointer, writing, target, rollback_to=back)

    return verb


def lift_quarantine(state: str) -> Verb:
    """Accept a state's composition again; of a state that is no longer retained, by the start of its digest."""

    def verb(pointer: Pointer, writing: Writing) -> Pointer | None:
        digests = [each.composition_digest for each in pointer.quarantined]
        rejected = [digest for digest in digests if digest.startswith(state)]
        if len(rejected) == 1 and len(state) >= _SHORTEST_DIGEST:
            return protocol.lift_quarantine(pointer, writing, rejected[0])
        return protocol.lift_quarantine(pointer, writing, find_exactly(pointer, state).composition_digest)

    return verb


def pin(state: str, *, pinned: bool) -> Verb:
    """Keep a publication from retention, or stop keeping it."""
    return lambda pointer, writing: protocol.pin(pointer, writing, find_exactly(pointer, state), pinned=pinned)


def find_exactly(pointer: Pointer, name: str) -> Publication:
    """The newest retained attempt of a state, or the one that `STATE@ATTEMPT` names (a unique start of the attempt will
    do).

    Whatever changes a pointer names states in full: `state-1`, no longer retained, must not be taken for `state-10`.
    A verb that asks first may resolve a beginning with `find_retained` and show what it found.

    Raises:
        NotFound: none is retained, or several attempts begin so.
    """
    state, at, attempt = name.partition("@")
    found = [each for each in pointer.retained_of(state) if each.attempt.startswith(attempt)]
    if found and (not at or len({each.attempt for each in found}) == 1):
        return found[-1]
    if found:
        raise _ambiguous(name, "attempts", [str(each.id) for each in found])
    similar = _beginning_with(pointer, state)
    meant = f"; is {' or '.join(similar[:MOST_NAMED])} meant?" if similar else ""
    raise NotFound(
        f"{name} is not a retained state of {pointer.scope}; `rebundle states {pointer.scope}` lists them{meant}"
    )


def find_retained(pointer: Pointer, name: str) -> Publication:
    """As `find_exactly`, for who only reads: a unique prefix of a state will do.

    Raises:
        NotFound: none is retained, or a prefix fits several.
    """
    fitting = _beginning_with(pointer, name)
    if pointer.retained_of(name) or not fitting:
        return find_exactly(pointer, name)
    if len(fitting) > 1:
        raise _ambiguous(name, "states", fitting)
    return find_exactly(pointer, fitting[0])


def _ambiguous(name: str, what: str, fitting: Sequence[str]) -> NotFound:
    named = some(fitting)
    return NotFound(f"{name} is the beginning of {len(fitting)} {what}, {named}: name one of them in full")


def _beginning_with(pointer: Pointer, start: str) -> list[str]:
    return sorted({each.state for each in pointer.retained if start and each.state.startswith(start)})
