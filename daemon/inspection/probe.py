"""The view of a probe of a bucket. Pure."""

from dataclasses import dataclass

from daemon.stores.probe import Finding, ProbeResult


@dataclass(frozen=True, slots=True)
class ProbeView:
    """Whether a bucket supports what publishing requires."""

    bucket: str
    """Its URL."""
    store: str
    """directory, s3 or gcs."""
    usable: bool
    etags: str | None
    """The form of ETags that the server compares, where it has to be detected."""
    clock_ahead_seconds: float | None
    """How far the store's clock is ahead of this machine's; None if it is unknown."""
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, bucket: str, store: str, result: ProbeResult, *, etags: str | None) -> "ProbeView":
        """The view of a probe."""
        return cls(
            bucket=bucket,
            store=store,
            usable=result.usable,
            etags=etags,
            clock_ahead_seconds=result.ahead,
            findings=tuple(result.findings),
        )
