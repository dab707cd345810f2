"""Start-up probe of the bucket: nothing is published until the bucket has passed it.

An unreachable bucket proves nothing, so the probe is repeated. Meanwhile the daemon accepts events:
they are durable in the journal before anything is published. If the bucket ignores conditions, the
daemon ends (protocol 4, never softened 2).
"""

import structlog

from daemon.runtime import Runtime
from daemon.stores.port import ObjectStore
from daemon.stores.probe import ProbeResult, UnsafeStore, Verdict, probe

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Admission:
    """Probes one store until it is usable.

    The wait between two probes doubles from `first` to `longest` seconds, with jitter.
    """

    def __init__(
        self, store: ObjectStore, runtime: Runtime, *, first: float, longest: float
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._first = first
        self._longest = longest
        self.pending: str | None = "the bucket is being probed"
        """Why nothing is published yet, for an operator; None after the probe has passed."""

    async def granted(self) -> None:
        """Wait until the store has passed the probe.

        Raises:
            UnsafeStore: the store ignores conditions and must not be used.
        """
        wait = self._first
        while not (result := await probe(self._store, self._runtime)).usable:
            self._report_failure(result)
            await self._runtime.sleep(wait * (0.5 + self._runtime.jitter()))
            wait = min(2 * wait, self._longest)
        self.pending = None
        notes = [
            f"{finding.step}: {finding.explanation}"
            for finding in result.findings
            if finding.verdict is not Verdict.OK
        ]
        log.info("bucket probed, publishing begins", clock_ahead_seconds=result.ahead, notes=notes)

    def _report_failure(self, result: ProbeResult) -> None:
        """Log why the probe failed. Raises UnsafeStore instead if the store was refused."""
        if result.refusal is not None:
            raise UnsafeStore(result.refusal)
        assert result.failure is not None
        failure = result.failure
        self.pending = f"the bucket could not be probed, {failure.step}: {failure.explanation}"
        log.warning(
            "bucket probe failed, nothing is published until a retry succeeds", reason=self.pending
        )
