"""Queries for operators, metrics and readiness, and the retention of the journal."""

import sqlite3
from datetime import datetime

from events.journal.database import decoding, meta, set_meta, writing
from events.journal.lanes import identity_of, outcome_of, replay_of
from events.model import Position
from events.records import Backlog, EventStatus, LaneBacklog, LaneStatus

_AT_A_TIME = 1_000


def find(db: sqlite3.Connection, event_id: str) -> tuple[EventStatus, ...]:
    """The status of each event with this id: several senders may use it, and replays repeat it."""
    instance = meta(db, "instance")
    rows = db.execute("SELECT * FROM events WHERE id = ? ORDER BY position", (event_id,)).fetchall()
    return tuple(_event_status(db, row, instance) for row in rows)


def _event_status(db: sqlite3.Connection, row: sqlite3.Row, instance: str) -> EventStatus:
    lanes = db.execute(
        "SELECT l.*, d.id AS dead_letter FROM lanes l"
        " LEFT JOIN dead_letters d ON d.position = l.position AND d.scope = l.scope"
        " WHERE l.position = ? ORDER BY l.scope",
        (row["position"],),
    )
    return EventStatus(
        identity=identity_of(row),
        type=row["type"],
        position=Position(instance, row["position"]),
        accepted_at=row["accepted_at"],
        acknowledged_at=row["acknowledged_at"],
        lanes=tuple(map(_lane_status, lanes)),
        replay_of=replay_of(row, instance),
    )


def _lane_status(row: sqlite3.Row) -> LaneStatus:
    with decoding(row, f"the outcome of event @{row['position']} in a scope"):
        return LaneStatus(
            scope=row["scope"],
            outcome=None if row["settled_at"] is None else outcome_of(row),
            settled_at=row["settled_at"],
            failed_tries=row["failed_tries"],
            error=row["error"],
            dead_letter=None if row["dead_letter"] is None else str(row["dead_letter"]),
        )


def backlog(db: sqlite3.Connection) -> Backlog:
    """The current backlog."""
    counted = db.execute("SELECT events, bytes FROM backlog").fetchone()
    oldest, undispatched = db.execute(
        "SELECT min(accepted_at), coalesce(sum(NOT assigned), 0) FROM events"
        " WHERE acknowledged_at IS NULL"
    ).fetchone()
    lanes = db.execute(
        "SELECT l.scope, count(*) AS waiting, min(e.accepted_at) AS oldest,"
        " max(l.failed_tries) AS failed_tries,"
        " (SELECT f.error FROM lanes f"
        "  WHERE f.scope = l.scope AND f.settled_at IS NULL AND f.error IS NOT NULL"
        "  ORDER BY f.position LIMIT 1) AS error"
        " FROM lanes l JOIN events e ON e.position = l.position"
        " WHERE l.settled_at IS NULL GROUP BY l.scope"
    )
    return Backlog(
        events=counted["events"],
        bytes=counted["bytes"],
        oldest=oldest,
        undispatched=undispatched,
        lanes=tuple(LaneBacklog(**dict(row)) for row in lanes),
        dead_letters=db.execute(
            "SELECT count(*) FROM dead_letters WHERE status = 'open'"
        ).fetchone()[0],
        rejected=db.execute("SELECT count(*) FROM rejected").fetchone()[0],
    )


def newest(db: sqlite3.Connection) -> datetime | None:
    """When the newest event was accepted; None if there is none."""
    row = db.execute("SELECT accepted_at FROM events ORDER BY position DESC LIMIT 1").fetchone()
    return None if row is None else datetime.fromisoformat(row["accepted_at"])


def probe(db: sqlite3.Connection, now: str, size: int) -> None:
    """Writes one row of at least `size` bytes durably."""
    with writing(db):
        db.execute("UPDATE probe SET at = ? || hex(zeroblob(?))", (now, size // 2))


def remember(db: sqlite3.Connection, key: str, value: str) -> None:
    """Stores a value of the `meta` table, in a transaction."""
    with writing(db):
        set_meta(db, key, value)


def prune(db: sqlite3.Connection, bodies_before: str, identities_before: str) -> int:
    """Deletes bodies of events acknowledged, and events accepted, before these times.

    One call changes a limited number of rows and returns that number: call again until it is 0. An
    event with an open dead letter keeps its body, and one with any dead letter keeps its row.
    """
    with writing(db):
        bodies = db.execute(
            "UPDATE events SET body = NULL WHERE position IN"
            " (SELECT position FROM events WHERE acknowledged_at < ? AND body IS NOT NULL"
            " AND position NOT IN"
            " (SELECT position FROM dead_letters WHERE status IN ('open', 'replaying')) LIMIT ?)",
            (bodies_before, _AT_A_TIME),
        ).rowcount
        letters = db.execute(
            "DELETE FROM dead_letters WHERE closed_at < ?", (identities_before,)
        ).rowcount
        events = db.execute(
            "DELETE FROM events WHERE position IN"
            " (SELECT position FROM events"
            " WHERE acknowledged_at < ? AND body IS NULL AND accepted_at < ?"
            " AND position NOT IN (SELECT position FROM dead_letters) LIMIT ?)",
            (bodies_before, identities_before, _AT_A_TIME),
        ).rowcount
    return bodies + letters + events
