"""The limits of a journal."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """The limits of a journal on size and age (protocol 2)."""

    max_unacknowledged: int = 100_000
    """Events."""
    max_unacknowledged_bytes: int = 1 << 30
    max_rejected: int = 1_000
    max_rejected_bytes: int = 64 << 20
    identities_kept: timedelta = timedelta(days=30)
    """From the acceptance of an event; until then its repetition is recognised."""
    bodies_kept: timedelta = timedelta(days=7)
    """From the acknowledgement of the event."""
