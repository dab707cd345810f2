"""The embedded journal: an event source on one SQLite file, so that the daemon runs with no server at all.

`adapter` is the journal itself: one thread of its own, everything async. Behind it stand plain functions on a
connection: `database` (file, schema, lock, instance), `intake` (append, reject), `lanes` (what waits and what became of
it), `dead_letters`, `inspection` (what operators ask), `records` (the values). SQLite is imported here alone.
"""

from events.journal.adapter import Journal
from events.journal.records import (
    Accepted,
    Arrival,
    Backlog,
    DeadLetter,
    DeadLetterStatus,
    EventStatus,
    JournalLimits,
    LaneBacklog,
    LaneStatus,
    Rejected,
)

__all__ = [
    "Accepted",
    "Arrival",
    "Backlog",
    "DeadLetter",
    "DeadLetterStatus",
    "EventStatus",
    "Journal",
    "JournalLimits",
    "LaneBacklog",
    "LaneStatus",
    "Rejected",
]
