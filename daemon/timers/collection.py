"""The timer of garbage collection: every few hours, with jitter, one scope after another.

Every daemon of a bucket runs it. Two collections at once are safe. A collection that finds nothing
to delete costs a listing and a read. `publishing.maintenance.retention_rules` decides what is
deleted, and `publishing.maintenance.garbage_collector` deletes it.
"""

from collections.abc import Callable, Mapping
from typing import Final

import structlog

from daemon.failures import reason_of
from daemon.publishing.maintenance.garbage_collector import (
    Collected,
    CollectionPart,
    DeletionRefused,
    GarbageCollector,
)
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from daemon.timers import every

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_SECONDS_AN_HOUR: Final = 3600
_RETRY_HOURS: Final = 1.0
"""Average pause after a round that failed: the failure is reported until a round succeeds."""
_REASON: Final = "retention"


class CollectionTimer:
    """Collects garbage in one bucket until it is cancelled. Live trees have their own timer."""

    def __init__(
        self,
        *,
        collector: GarbageCollector,
        reader: Reader,
        runtime: Runtime,
        writer: str,
        hours: float,
        parts: frozenset[CollectionPart],
        refused: Callable[[int], None],
    ) -> None:
        """Create a timer that has not started.

        `hours`: the average pause between two rounds; 0: never collect. `refused` receives after
        each round the number of scopes in which deletion was refused.
        """
        self._collector = collector
        self._reader = reader
        self._runtime = runtime
        self._writer = writer
        self._hours = hours
        self._parts = parts
        self._refused = refused
        self.failing: Mapping[str, str] = {}
        """Scopes that the last round could not collect, and why; an empty name: all of them."""

    async def run(self) -> None:
        """Repeat rounds. The first one waits, too: a daemon that starts has more urgent work."""
        if self._hours:
            await every(self._pause, self._runtime, self._try_round, jitter=True, wait_first=True)

    def _pause(self) -> float:
        hours = min(self._hours, _RETRY_HOURS) if self.failing else self._hours
        return hours * _SECONDS_AN_HOUR

    async def _try_round(self) -> None:
        try:
            self.failing = await self._round()
        except Exception as error:  # noqa: BLE001  # the next round tries again
            self.failing = {"": f"the bucket cannot be listed: {reason_of(error)}"}
            log.warning("bucket not listed", error=reason_of(error))

    async def _round(self) -> Mapping[str, str]:
        """Collect each scope once; which scopes failed, and why."""
        failing: dict[str, str] = {}
        refusals: list[DeletionRefused] = []
        for scope in await self._reader.scopes():
            try:
                _log(await self._collector.collect(scope, self._writer, _REASON, parts=self._parts))
            except DeletionRefused as error:
                refusals.append(error)
            except Exception as error:  # noqa: BLE001  # one scope must not delay the others
                failing[str(scope)] = reason_of(error)
                log.warning(
                    "scope not collected, tried again later",
                    scope=str(scope),
                    error=reason_of(error),
                )
        self._refused(len(refusals))
        if refusals:
            # Reported once per round. The next one tries again: by then an expired token may be
            # renewed, or the permission granted.
            log.warning(
                "released and not deleted, tried again later",
                scopes=len(refusals),
                error=str(refusals[0]),
            )
            failing[""] = f"released and not deleted in {len(refusals)} scopes: {refusals[0]}"
        return failing


def _log(collected: Collected) -> None:
    if collected.sequence is not None or collected.deleted or collected.copies:
        log.info(
            "collected",
            scope=str(collected.scope),
            released=len(collected.released),
            deleted=len(collected.deleted),
            replaced_copies_deleted=len(collected.copies),
            bytes=collected.size,
            left=len(collected.left),
        )
    if collected.strays:
        log.warning(
            "keys below states/ that belong to no publication",
            scope=str(collected.scope),
            keys=collected.strays,
        )
