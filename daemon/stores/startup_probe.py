"""Start-up probe of the bucket: nothing is published until the bucket has passed it.

An unreachable bucket proves nothing, so the probe is repeated. Meanwhile the daemon accepts events:
they are durable in the journal before anything is published. If the bucket ignores conditions, the
daemon ends (protocol 4, absolute rule 2).
"""

from typing import Final

from daemon.logs import Logger
from daemon.retry import Backoff, retry
from daemon.runtime import Runtime
from daemon.stores.errors import StoreUnavailable
from daemon.stores.port import ObjectStore
from daemon.stores.probe import ProbeResult, UnsafeStore, Verdict, probe

log: Final = Logger(__name__)


class Admission:
    """Probes one store until it is usable."""

    def __init__(self, store: ObjectStore, runtime: Runtime, backoff: Backoff) -> None:
        self._store = store
        self._runtime = runtime
        self._backoff = backoff
        self.pending: str | None = "the bucket is being probed"
        """Why nothing is published yet, for an operator; None after the probe has passed."""

    async def probe_until_passed(self) -> None:
        """Wait until the store has passed the probe.

        Raises:
            UnsafeStore: the store ignores conditions and must not be used.
        """
        result = await retry(
            self._probe, StoreUnavailable, self._backoff, self._runtime, failed=self._failed
        )
        self.pending = None
        notes = [
            f"{finding.step}: {finding.explanation}"
            for finding in result.findings
            if finding.verdict is not Verdict.OK
        ]
        log.info("bucket probed, publishing begins", clock_ahead_seconds=result.ahead, notes=notes)

    async def _probe(self) -> ProbeResult:
        """Probe the store once. Raises UnsafeStore, or StoreUnavailable if it proves nothing."""
        result = await probe(self._store, self._runtime)
        if result.refusal is not None:
            raise UnsafeStore(result.refusal)
        if result.failure is not None:
            failure = result.failure
            raise StoreUnavailable(
                f"the bucket could not be probed, {failure.step}: {failure.explanation}"
            )
        return result

    async def _failed(self, error: Exception) -> None:
        self.pending = str(error)
        log.warning(
            "bucket probe failed, nothing is published until a retry succeeds", reason=self.pending
        )
