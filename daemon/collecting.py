"""The daemon's timer of collections: every few hours, with jitter, each scope in turn.

In every daemon of a bucket: two at once are safe, and where nothing is to go a collection costs a listing and a read.
What goes is decided in `publishing.retention`, done in `publishing.collector`.
"""

from typing import Final

import structlog

from daemon.publishing.collector import Collected, Collector, DeletionRefused, Part
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from renderers.model import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_SECONDS_AN_HOUR: Final = 3600
_REASON: Final = "retention"


class CollectionTimer:
    """Collects in one bucket until it is cancelled. Live trees follow by their own timer."""

    def __init__(
        self,
        *,
        collector: Collector,
        reader: Reader,
        runtime: Runtime,
        writer: str,
        hours: float,
        parts: frozenset[Part],
    ) -> None:
        """`hours` between two rounds, on average; 0: it never collects."""
        self._collector = collector
        self._reader = reader
        self._runtime = runtime
        self._writer = writer
        self._hours = hours
        self._parts = parts

    async def run(self) -> None:
        """Round after round. The first one waits, too: a daemon that starts has more urgent work."""
        while self._hours:
            await self._runtime.sleep(self._hours * _SECONDS_AN_HOUR * (0.5 + self._runtime.jitter()))
            try:
                for scope in await self._reader.scopes():
                    await self._collect(scope)
            except Exception as error:  # noqa: BLE001  # the next round asks again
                log.warning("bucket not listed", error=str(error))

    async def _collect(self, scope: Scope) -> None:
        try:
            _log(await self._collector.collect(scope, self._writer, _REASON, parts=self._parts))
        except DeletionRefused as error:
            # Said once: from now on this daemon does what it may, and leaves the rest to somebody who may delete.
            self._parts = frozenset({"release"})
            log.warning("may not delete, only releases from now on", scope=str(scope), error=str(error))
        except Exception as error:  # noqa: BLE001  # one scope must not hold up the others; the next round goes on
            log.warning("scope not collected, tried again later", scope=str(scope), error=str(error))


def _log(collected: Collected) -> None:
    if collected.sequence is not None or collected.deleted:
        log.info(
            "collected",
            scope=str(collected.scope),
            released=len(collected.released),
            deleted=len(collected.deleted),
            bytes=collected.size,
            left=len(collected.left),
        )
    if collected.strays:
        log.warning("keys below states/ that are of no publication", scope=str(collected.scope), keys=collected.strays)
