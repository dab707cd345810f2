"""The wait between a daemon's start and its first write: until the bucket has shown that it may be written to.

A bucket that is away says nothing of itself, so it is asked again, and events are taken meanwhile: they are durable
before anything is published. A bucket that ignores conditions ends the daemon (protocol 4, never softened 2).
"""

import structlog

from daemon.runtime import Runtime
from daemon.stores.port import ObjectStore
from daemon.stores.probe import ProbeResult, UnsafeStore, Verdict, probe

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Admission:
    """Admits to one store. `first` and `longest`: seconds between two probes, which double, with jitter."""

    def __init__(self, store: ObjectStore, runtime: Runtime, *, first: float, longest: float) -> None:
        self._store = store
        self._runtime = runtime
        self._first = first
        self._longest = longest
        self.pending: str | None = "the bucket is being probed"
        """Why nothing is published yet, in words for an operator; None: it is."""

    async def granted(self) -> None:
        """Returns when the store may be written to.

        Raises:
            UnsafeStore: it never may.
        """
        wait = self._first
        while not (result := await probe(self._store, self._runtime)).usable:
            self._judge(result)
            await self._runtime.sleep(wait * (0.5 + self._runtime.jitter()))
            wait = min(2 * wait, self._longest)
        self.pending = None
        notes = [f"{each.clause}: {each.means}" for each in result.findings if each.verdict is not Verdict.OK]
        log.info("bucket probed, publishing begins", clock_ahead_seconds=result.ahead, notes=notes)

    def _judge(self, result: ProbeResult) -> None:
        if result.refusal is not None:
            raise UnsafeStore(result.refusal)
        assert result.failure is not None
        self.pending = f"the bucket could not be probed, {result.failure.clause}: {result.failure.means}"
        log.warning("nothing is published until the bucket can be probed, tried again", reason=self.pending)
