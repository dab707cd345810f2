"""Operators' commands that change a pointer, such as rollback and quarantine (protocol 4).

A command ("verb") is one compare-and-swap with `by` and `reason`, followed by one pass over the
live tree. It renders nothing and does not change `positions`, whether a daemon runs or not. If
another writer changes the pointer first, the command is computed again from the new pointer.
`preview` returns the effect of a command without carrying it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, OperationRefused
from daemon.publishing.live_tree.sync import LiveTree, Synced, Unfinished
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.protocol import Writing
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.retry import while_moved
from daemon.publishing.wording import MOST_NAMED, some
from renderers.values import Scope

_SHORTEST_DIGEST: Final = 12
"""The number of digits that `history` and `status` show."""

Verb = Callable[[Pointer, Writing], Pointer | None]


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """The effect of a verb. With `changed` False, the pointer was already as the verb demands."""

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
        """The effect that `carry_out` would have now. Raises the same errors."""
        base = await self._reader.existing(scope)
        following = await self._decide(scope, base, verb, by, reason)
        if following is not None:
            self._publisher.refuse_unwritable(scope, base)
        return ChangeResult(base.pointer, following or base.pointer, changed=following is not None)

    async def carry_out(self, scope: Scope, verb: Verb, by: str, reason: str = "") -> ChangeResult:
        """Change the pointer, then the live tree. Nothing is raised after the pointer is changed.

        Raises:
            NotFound: the scope does not exist, or the named publication is not retained.
            OperationRefused: the scope's rules do not allow it now.
            VerificationFailed: the publication that would become live does not match the pointer,
                or has no trusted signature.
            PointerMoved: other writers changed the pointer first, five times in a row.
        """
        base, read, changed = await while_moved(scope, lambda: self._swap(scope, verb, by, reason))
        if not changed:
            # The verb consists of the pass alone, so a failure of the pass is raised.
            return ChangeResult(
                base.pointer, read.pointer, changed, await self._live_tree.reconcile(scope)
            )
        tree = await self._live_tree.follow(scope, base.pointer.sequence + 1)
        return ChangeResult(base.pointer, read.pointer, changed, tree)

    async def _swap(
        self, scope: Scope, verb: Verb, by: str, reason: str
    ) -> tuple[PointerRead, PointerRead, bool]:
        base = await self._reader.existing(scope)
        following = await self._decide(scope, base, verb, by, reason)
        if following is None:
            return base, base, False
        return base, await self._publisher.swap(scope, base, following), True

    async def _decide(
        self, scope: Scope, base: PointerRead, verb: Verb, by: str, reason: str
    ) -> Pointer | None:
        following = verb(base.pointer, self._publisher.writing(by, reason))
        live = None if following is None else following.live
        if live is not None and (base.pointer.live is None or live.id != base.pointer.live.id):
            # A publication that is gone, or that readers would refuse, must not become live.
            await self._reader.files(scope, live)
        return following


def rollback(state: str, *, discard_newer: bool = False, expected_live: str | None = None) -> Verb:
    """Make a retained state live, and set a hold.

    Refused if `expected_live` is given and another state is live.
    """

    def verb(pointer: Pointer, writing: Writing) -> Pointer | None:
        if expected_live is not None and (
            pointer.live is None or pointer.live.state != expected_live
        ):
            raise OperationRefused(
                f"live is {pointer.live.state if pointer.live else 'nothing'}, not "
                f"{expected_live}: look at "
                f"`rebundle status {pointer.scope}`, then decide again"
            )
        target = find_exactly(pointer, state)
        return protocol.rollback(pointer, writing, target, discard_newer=discard_newer)

    return verb


def quarantine(state: str, *, rollback_to: str | None = None) -> Verb:
    """Reject the composition of a state; see `protocol.quarantine`."""

    def verb(pointer: Pointer, writing: Writing) -> Pointer | None:
        target = find_exactly(pointer, state)
        new_live = find_exactly(pointer, rollback_to) if rollback_to else None
        return protocol.quarantine(pointer, writing, target, rollback_to=new_live)

    return verb


def lift_quarantine(state: str) -> Verb:
    """Accept the composition of a state again.

    For a state that is no longer retained, `state` is the start of the digest of its composition.
    """

    def verb(pointer: Pointer, writing: Writing) -> Pointer | None:
        digests = [rejection.composition_digest for rejection in pointer.quarantined]
        matching = [digest for digest in digests if digest.startswith(state)]
        if len(matching) == 1 and len(state) >= _SHORTEST_DIGEST:
            return protocol.lift_quarantine(pointer, writing, matching[0])
        return protocol.lift_quarantine(
            pointer, writing, find_exactly(pointer, state).composition_digest
        )

    return verb


def pin(state: str, *, pinned: bool) -> Verb:
    """Exclude a publication from retention, or include it again."""
    return lambda pointer, writing: protocol.pin(
        pointer, writing, find_exactly(pointer, state), pinned=pinned
    )


def find_exactly(pointer: Pointer, name: str) -> Publication:
    """The newest retained publication of a state, or the one that `STATE@ATTEMPT` names.

    A unique prefix of the attempt is enough. The state must be complete where a pointer is changed:
    if `state-1` is no longer retained, it must not select `state-10`. A command that asks for
    confirmation may resolve a prefix with `find_retained` and show the result.

    Raises:
        NotFound: none is retained, or several attempts have this prefix.
    """
    state, separator, attempt = name.partition("@")
    matching = [
        publication
        for publication in pointer.retained_of(state)
        if publication.attempt.startswith(attempt)
    ]
    if matching and (not separator or len({publication.attempt for publication in matching}) == 1):
        return matching[-1]
    if matching:
        raise _ambiguous(name, "attempts", [str(publication.id) for publication in matching])
    similar = _states_with_prefix(pointer, state)
    meant = f"; is {' or '.join(similar[:MOST_NAMED])} meant?" if similar else ""
    raise NotFound(
        f"{name} is not a retained state of {pointer.scope}; `rebundle states {pointer.scope}` "
        f"lists them{meant}"
    )


def find_retained(pointer: Pointer, name: str) -> Publication:
    """As `find_exactly`, for commands that only read: a unique prefix of a state is enough.

    Raises:
        NotFound: none is retained, or several states have this prefix.
    """
    matching = _states_with_prefix(pointer, name)
    if pointer.retained_of(name) or not matching:
        return find_exactly(pointer, name)
    if len(matching) > 1:
        raise _ambiguous(name, "states", matching)
    return find_exactly(pointer, matching[0])


def _ambiguous(name: str, kind: str, matching: Sequence[str]) -> NotFound:
    examples = some(matching)
    return NotFound(
        f"{name} is the beginning of {len(matching)} {kind}, {examples}: name one of them in full"
    )


def _states_with_prefix(pointer: Pointer, prefix: str) -> list[str]:
    """The ids of the retained states that begin with `prefix`; none for an empty one."""
    return sorted(
        {
            publication.state
            for publication in pointer.retained
            if prefix and publication.state.startswith(prefix)
        }
    )
