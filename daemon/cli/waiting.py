"""Waits until the live tree follows a change of the pointer, and describes a tree that lags.

Hosts copy the live tree, not the pointer. A command that changes what is live is complete only when
`base/` and README.md equal the live state (ADR 24). A blocked path in `example/` does not count,
because operators own that folder.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from daemon.failures import reason_of
from daemon.publishing import documents, layout, sizes
from daemon.publishing.live_tree.ownership import EXAMPLE
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.pointer import Pointer
from daemon.publishing.wording import some
from daemon.runtime import Runtime
from daemon.stores.errors import StoreError
from daemon.stores.port import ObjectStore
from renderers.values import STAMP_PATH, Scope

Tree = FinishedPass | UnfinishedPass

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Lag:
    """A live tree that did not follow the pointer in time."""

    live: str | None
    """The state that hosts should get."""
    copied: str | None
    """The state that the stamp in base/ names; None if it is missing or unreadable."""
    pending: tuple[str, ...]
    """Paths of base/ and README.md that differ from the live state, as far as they are known."""
    reason: str

    @property
    def words(self) -> str:
        """A message: what hosts copy now, and why."""
        copied = f"{self.copied}, or parts of it" if self.copied else "files of another state"
        if self.copied == self.live:
            copied = f"a mixture of {self.live} and another state"
        differing = (
            f"; paths that differ from {self.live}: {some(self.pending)}" if self.pending else ""
        )
        return (
            f"hosts that copy the live tree now get {copied}, not "
            f"{self.live}{differing}\nreason: {self.reason}"
        )


async def wait_for(
    live_tree: LiveTree, runtime: Runtime, scope: Scope, tree: Tree, *, seconds: float
) -> Tree:
    """Repeat passes over the live tree until it follows, for at most `seconds`.

    Returns the result of the last pass. A daemon may do the work in the meantime; the next pass
    detects that.
    """
    until = runtime.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not tree.follows and (left := until - runtime.monotonic()) > 0:
        await runtime.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
        # A pass that times out has no result: the result of the previous pass stays.
        with suppress(TimeoutError):
            async with asyncio.timeout(max(until - runtime.monotonic(), _FIRST_PAUSE)):
                tree = await live_tree.follow(scope, tree.sequence)
    return tree


async def lag_of(
    store: ObjectStore, live_tree: LiveTree, scope: Scope, current: Pointer, tree: Tree
) -> Lag:
    """Describe a live tree that did not follow."""
    reason = tree.reason or ""
    blocked = () if isinstance(tree, UnfinishedPass) else tree.blocked
    pending = tuple(path.path for path in blocked if path.holds_base_back)
    try:
        survey = await live_tree.survey(scope)
        others = [
            path
            for path in (*survey.would_write, *survey.would_remove)
            if not path.startswith(EXAMPLE)
        ]
        pending = tuple(sorted({*pending, *others}))
    except Exception as error:  # noqa: BLE001  # the change is committed and has to be reported
        reason = reason or reason_of(error)
    live = current.live.state if current.live else None
    return Lag(live, await _stamped(store, scope), pending, reason)


async def _stamped(store: ObjectStore, scope: Scope) -> str | None:
    """The state that the stamp in base/ of the live tree names. Every schema has it."""
    key = layout.live_tree(scope, STAMP_PATH)
    try:
        stamp = documents.parse((await store.get(key, max_bytes=sizes.STAMP)).body)
    except (StoreError, documents.Malformed):
        return None
    state = stamp.get("state") if isinstance(stamp, dict) else None
    return state if isinstance(state, str) else None
