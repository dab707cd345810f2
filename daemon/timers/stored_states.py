"""The timer that checks what is stored of each scope's live and desired state.

A process reads a state once and caches it, and a live tree that follows is not compared with its
state again. Damage would show only at the next start, or at a rollback. So the objects of live and
desired are compared with the pointer from time to time. A scope costs at most three reads and two
short listings, however many states it retains. `rebundle verify` checks all states completely.
"""

from collections.abc import Mapping
from typing import Final

import structlog

from daemon.concurrency import concurrently
from daemon.failures import Consequence, consequence, reason_of
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from daemon.timers import every
from renderers.values import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 900.0
"""Average pause between two rounds."""
_RETRY_SECONDS: Final = 200.0
"""Average pause while something is damaged: with jitter, a repair shows within 5 minutes."""
_CONCURRENT_CHECKS: Final = 4


class StoredStatesTimer:
    """Checks the live and desired states of one bucket until it is cancelled."""

    def __init__(self, reader: Reader, runtime: Runtime) -> None:
        self._reader = reader
        self._runtime = runtime
        self.failing: Mapping[str, str] = {}
        """Scopes whose live or desired state is gone, damaged or unreadable, and why."""

    async def run(self) -> None:
        """Repeat rounds. The first one waits, too: a pass over each live tree precedes it."""
        await every(self._pause, self._runtime, self._round, jitter=True, wait_first=True)

    def _pause(self) -> float:
        return _RETRY_SECONDS if self.failing else _EVERY_SECONDS

    async def _round(self) -> None:
        try:
            scopes = await self._reader.scopes()
        except Exception as error:  # noqa: BLE001  # the worker reports it, the next round tries again
            log.warning("bucket not listed", error=reason_of(error))
            return
        damages = await concurrently(self._damage, scopes, limit=_CONCURRENT_CHECKS)
        self.failing = {
            str(scope): damage
            for scope, damage in zip(scopes, damages, strict=True)
            if damage is not None
        }

    async def _damage(self, scope: Scope) -> str | None:
        """What is damaged of the live or the desired state; None if both are whole."""
        before = self.failing.get(str(scope))
        try:
            pointer = (await self._reader.pointer(scope)).pointer
        except Exception:  # noqa: BLE001  # a pass over the live tree reports it
            return before
        named = (pointer.live, pointer.desired)
        publications = {publication.id: publication for publication in named if publication}
        try:
            for publication in publications.values():
                await self._reader.check_stored(scope, publication)
        except Exception as error:  # noqa: BLE001  # one scope must not stop the others
            if consequence(error) is Consequence.TRANSIENT:
                return before
            if (reason := reason_of(error)) != before:
                log.warning("stored state not usable", scope=str(scope), error=reason)
            return reason
        return None
