"""The embedded journal: an event source in one SQLite file, which needs no server.

`adapter` has the asynchronous interface, `Journal`, with its own thread for SQLite. The other
modules have plain functions on a connection: `database` (schema, instance, error translation),
`files` (the files and their locks), `inserts` (append, reject), `lanes` (what waits in each scope,
and outcomes), `dead_letters`, `inspection` (queries of operators). `records` has the values. No
other package imports SQLite.

A caller declares the methods that it needs as a small Protocol, which `Journal` and the
fakes of its tests implement.
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
