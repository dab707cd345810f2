"""Inserts into the journal: accepted events, with the identity check, and rejected requests."""

import json
import shlex
import sqlite3
from collections.abc import Sequence

from events.errors import IdentityConflict, JournalFull, Problem
from events.journal.database import decoding, meta, writing
from events.journal.lanes import add_lanes
from events.journal.limits import JournalLimits
from events.model import Position
from events.records import Accepted, Arrival, Rejected
from events.strict_json import MAX_PROBLEMS, described

Appended = list[Accepted] | Exception
"""The result of one request: its events are stored, or why none of them is."""


def append(
    db: sqlite3.Connection, now: str, limits: JournalLimits, requests: Sequence[Sequence[Arrival]]
) -> list[Appended]:
    """Stores the events of each request durably, all of them or none, in one transaction.

    A sync of the disk takes longer than the rest, so requests that arrive together share one. A
    request that is refused is refused alone.
    """
    try:
        return _append_together(db, now, limits, requests)
    except Exception as error:  # noqa: BLE001  # each request gets its own
        if len(requests) == 1:
            return [error]
    # For example a full disk, where a smaller request may still have room.
    return [result for request in requests for result in append(db, now, limits, [request])]


def _append_together(
    db: sqlite3.Connection, now: str, limits: JournalLimits, requests: Sequence[Sequence[Arrival]]
) -> list[Appended]:
    results: list[Appended] = []
    with writing(db):
        for arrivals in requests:
            db.execute("SAVEPOINT request")
            try:
                results.append(_append_one(db, now, limits, arrivals))
            except (IdentityConflict, JournalFull) as error:
                db.execute("ROLLBACK TO request")
                results.append(error)
            db.execute("RELEASE request")
    return results


def _append_one(
    db: sqlite3.Connection, now: str, limits: JournalLimits, arrivals: Sequence[Arrival]
) -> list[Accepted]:
    instance = meta(db, "instance")
    accepted = []
    for index, arrival in enumerate(arrivals):
        known = None if arrival.replay_of else _known_offset(db, index, arrival)
        offset = insert(db, now, arrival) if known is None else known
        accepted.append(Accepted(Position(instance, offset), known=known is not None))
    # After the inserts, which the exception undoes. A repetition is accepted even when full.
    if not all(acceptance.known for acceptance in accepted):
        _check_limits(db, limits)
    return accepted


def insert(db: sqlite3.Connection, now: str, arrival: Arrival) -> int:
    """Inserts an event, inside a transaction, and returns its offset."""
    identity, replay = arrival.identity, arrival.replay_of
    body = arrival.event.structured()
    cursor = db.execute(
        "INSERT INTO events (intake, source, id, type, digest, body, size, accepted_at, assigned,"
        " replay_position, replay_scope) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
        (
            identity.intake,
            identity.source,
            identity.id,
            arrival.event.type,
            arrival.digest,
            body,
            len(body),
            now,
            replay.position.offset if replay else None,
            replay.scope if replay else None,
        ),
    )
    assert cursor.lastrowid is not None
    if arrival.scopes is not None:
        add_lanes(db, now, cursor.lastrowid, arrival.scopes)
    return cursor.lastrowid


def _known_offset(db: sqlite3.Connection, index: int, arrival: Arrival) -> int | None:
    """The offset of an event with the same identity, or None.

    A row counts until it is deleted, even if its retention has ended already.
    """
    identity = arrival.identity
    row = db.execute(
        "SELECT position, digest FROM events WHERE id = ? AND source = ? AND intake = ? AND "
        "replay_position IS NULL",
        (identity.id, identity.source, identity.intake),
    ).fetchone()
    if row is None:
        return None
    if row["digest"] != arrival.digest:
        raise IdentityConflict(
            f"the id {described(identity.id)} was sent before, from the same source, "
            "with different content: send new content under a new id; "
            f"`rebundle status {shlex.quote(identity.id)}` shows the status of the first event",
            index=index,
            event_id=identity.id,
        )
    return int(row["position"])


def _check_limits(db: sqlite3.Connection, limits: JournalLimits) -> None:
    waiting = db.execute("SELECT events, bytes FROM backlog").fetchone()
    if (
        waiting["events"] > limits.max_unacknowledged
        or waiting["bytes"] > limits.max_unacknowledged_bytes
    ):
        raise JournalFull(
            "the journal has reached its limit of unacknowledged events "
            f"({limits.max_unacknowledged} events, {limits.max_unacknowledged_bytes} bytes): "
            "send again later"
        )


def reject(
    db: sqlite3.Connection,
    now: str,
    limits: JournalLimits,
    *,
    sender: str,
    body: bytes,
    problems: Sequence[Problem],
) -> None:
    """Stores a rejected request, and deletes the oldest ones beyond the limits."""
    shown = problems[:MAX_PROBLEMS]
    encoded = json.dumps([[problem.path, problem.expected, problem.found] for problem in shown])
    with writing(db):
        db.execute(
            "INSERT INTO rejected (intake, at, problems, size, body) VALUES (?, ?, ?, ?, ?)",
            (sender, now, encoded, len(body), body[: limits.max_rejected_bytes]),
        )
        db.execute(
            "DELETE FROM rejected WHERE number <= (SELECT number FROM (SELECT number,"
            " row_number() OVER newest AS entries, sum(length(body)) OVER newest AS bytes"
            " FROM rejected"
            " WINDOW newest AS (ORDER BY number DESC)) WHERE entries > ? OR bytes > ?"
            " ORDER BY number DESC LIMIT 1)",
            (limits.max_rejected, limits.max_rejected_bytes),
        )


def rejected(db: sqlite3.Connection, limit: int) -> tuple[Rejected, ...]:
    """The newest rejected requests, newest first."""
    rows = db.execute("SELECT * FROM rejected ORDER BY number DESC LIMIT ?", (limit,))
    return tuple(map(_rejected, rows))


def _rejected(row: sqlite3.Row) -> Rejected:
    with decoding(row, f"rejected request {row['number']}"):
        return Rejected(
            number=row["number"],
            intake=row["intake"],
            at=row["at"],
            problems=tuple(Problem(*map(str, fields)) for fields in json.loads(row["problems"])),
            size=row["size"],
            body=row["body"],
        )
