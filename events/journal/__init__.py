"""The embedded journal: an event source in one SQLite file, which needs no server.

`adapter` has the asynchronous interface, `Journal`, with its own thread for SQLite. The other
modules have plain functions on a connection: `database` (schema, instance, error translation),
`files` (the files and their locks), `inserts` (append, reject), `lanes` (what waits in each scope,
and outcomes), `dead_letters`, `inspection` (queries of operators). No other package imports SQLite.
"""

from events.journal.adapter import Journal
from events.journal.limits import JournalLimits

__all__ = ["Journal", "JournalLimits"]
