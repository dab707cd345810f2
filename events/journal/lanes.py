"""The queries of an event source: what waits in each scope, and the outcomes of events.

An event has one lane row per scope that it goes to. Outcomes are recorded before the write that
commits them, in a table of their own. After it the final outcome is stored in the lane row, which
settles it. When all its rows are settled, the event is acknowledged and never delivered again.
"""

import json
import shlex
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from events.journal.database import decoding, writing
from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.records import Replay
from events.source import Delivery, Recorded, Taken

_MAX_RECORDED: Final = 16
"""The maximum number of stored outcomes of one event in one scope.

Several writes with unknown results may follow each other while a bucket has errors.
"""
_MAX_TAKEN_BYTES: Final = 4 << 20

Decoded = WeakValueDictionary[int, Event]
"""The decoded events in use, by offset: an event that waits in 1,000 lanes is decoded once."""


def take_after(
    db: sqlite3.Connection, decoded: Decoded, instance: str, offset: int, limit: int
) -> Taken:
    """The first readable unacknowledged events behind `offset`, at most `limit`.

    Their bodies have about 4 MiB: decoding them blocks the thread that also accepts events.
    """
    rows = db.execute(
        "SELECT * FROM events WHERE acknowledged_at IS NULL AND position > ? ORDER BY position",
        (offset,),
    )
    deliveries: list[Delivery] = []
    damaged: list[_Damage] = []
    size = 0
    more = False
    while (row := rows.fetchone()) is not None:
        if len(deliveries) >= limit or size >= _MAX_TAKEN_BYTES:
            more = True
            break
        lanes = db.execute(
            "SELECT scope FROM lanes WHERE position = ? ORDER BY scope", (row["position"],)
        )
        scopes = tuple(lane["scope"] for lane in lanes) if row["assigned"] else None
        match _read_delivery(row, decoded, instance, scopes):
            case Delivery() as delivery:
                deliveries.append(delivery)
                # Not of a damaged one: a call returns at least one delivery if there is one.
                size += row["size"]
            case damage:
                damaged.append(damage)
    # Before the update, which changes the rows that the open query still reads.
    rows.close()
    _note_damage(db, damaged)
    return Taken(tuple(deliveries), more)


def waiting(
    db: sqlite3.Connection, decoded: Decoded, instance: str, scope: str, *, up_to: int, limit: int
) -> tuple[Delivery, ...]:
    """The readable events that wait in the scope, in order."""
    rows = db.execute(
        "SELECT e.* FROM lanes l JOIN events e ON e.position = l.position"
        " WHERE l.scope = ? AND l.settled_at IS NULL AND l.position <= ? AND e.assigned"
        " ORDER BY l.position",
        (scope, up_to),
    )
    deliveries: list[Delivery] = []
    damaged: list[_Damage] = []
    while len(deliveries) < limit and (row := rows.fetchone()) is not None:
        match _read_delivery(row, decoded, instance, (scope,)):
            case Delivery() as delivery:
                deliveries.append(delivery)
            case damage:
                damaged.append(damage)
    # Before the update, which changes the rows that the open query still reads.
    rows.close()
    _note_damage(db, damaged)
    return tuple(deliveries)


@dataclass(frozen=True, slots=True)
class _Damage:
    """An event whose row a disk, or another program, has damaged."""

    offset: int
    error: str
    """The fault and the remedy."""


def _read_delivery(
    row: sqlite3.Row, decoded: Decoded, instance: str, scopes: tuple[str, ...] | None
) -> Delivery | _Damage:
    try:
        with decoding(row, "an event"):
            return _delivery(row, decoded, instance, scopes)
    except sqlite3.DatabaseError as error:
        command = f"rebundle dead-letters add {shlex.quote(str(row['id']))} --reason '…'"
        return _Damage(row["position"], f"{error}: `{command}`, then send it again")


def _note_damage(db: sqlite3.Connection, damaged: Iterable[_Damage]) -> None:
    """Stores the fault in the lanes of the damaged events.

    They stay there until an operator takes them out, and delay no other event.
    """
    db.executemany(
        "UPDATE lanes SET error = ?1 WHERE position = ?2 AND settled_at IS NULL AND error IS "
        "NOT ?1",
        [(damage.error, damage.offset) for damage in damaged],
    )


def _delivery(
    row: sqlite3.Row, decoded: Decoded, instance: str, scopes: tuple[str, ...] | None
) -> Delivery:
    event = decoded.get(row["position"])
    if event is None:
        event = decoded[row["position"]] = event_of(row["body"])
    return Delivery(
        event=event,
        identity=identity_of(row),
        digest=row["digest"],
        position=Position(instance, row["position"]),
        accepted_at=row["accepted_at"],
        scopes=scopes,
        replay_of=replay_of(row, instance),
    )


def event_of(body: bytes) -> Event:
    """The event in a stored body, which was validated before it was stored."""
    envelope = json.loads(body)
    del envelope["specversion"], envelope["datacontenttype"]
    known = {name: envelope.pop(name) for name in ("id", "source", "type", "data")}
    if not all(isinstance(known[name], str) for name in ("id", "source", "type")):
        raise TypeError("id, source and type must be text")
    subject, time = envelope.pop("subject", None), envelope.pop("time", None)
    return Event(**known, subject=subject, time=time, extensions=envelope)


def identity_of(row: sqlite3.Row) -> Identity:
    """The identity of an event's row."""
    return Identity(row["intake"], row["source"], row["id"])


def replay_of(row: sqlite3.Row, instance: str) -> Replay | None:
    """The dead letter that the event in this row replays, if it is a replay."""
    if row["replay_position"] is None:
        return None
    return Replay(Position(instance, row["replay_position"]), row["replay_scope"])


def published_scopes(db: sqlite3.Connection) -> frozenset[str]:
    """The scopes with a published event that is still stored."""
    rows = db.execute(
        "SELECT DISTINCT scope FROM lanes WHERE kind IN (?, ?, ?)",
        (OutcomeKind.PUBLISHED, OutcomeKind.LATE, OutcomeKind.WITHHELD),
    )
    return frozenset(row["scope"] for row in rows)


def assign(db: sqlite3.Connection, now: str, scopes: Mapping[int, Sequence[str]]) -> None:
    """Stores the scopes of events. The first assignment is final."""
    with writing(db):
        for offset, names in scopes.items():
            add_lanes(db, now, offset, names)


def add_lanes(db: sqlite3.Connection, now: str, offset: int, scopes: Sequence[str]) -> None:
    """Like `assign`, inside a transaction. An event without scopes is acknowledged at once."""
    is_first = db.execute(
        "UPDATE events SET assigned = 1 WHERE position = ? AND assigned = 0", (offset,)
    ).rowcount
    if is_first:
        db.executemany(
            "INSERT INTO lanes (position, scope) VALUES (?, ?) ON CONFLICT DO NOTHING",
            [(offset, scope) for scope in scopes],
        )
        _acknowledge(db, now, offset)


def recorded(
    db: sqlite3.Connection, scope: str, offsets: Sequence[int]
) -> dict[int, tuple[Recorded, ...]]:
    """The settled outcome of each event, else its recorded ones."""
    outcomes = {offset: _outcomes(db, scope, offset) for offset in offsets}
    return {offset: of_event for offset, of_event in outcomes.items() if of_event}


def _outcomes(db: sqlite3.Connection, scope: str, offset: int) -> tuple[Recorded, ...]:
    lane = db.execute(
        "SELECT * FROM lanes WHERE scope = ? AND position = ? AND settled_at IS NOT NULL",
        (scope, offset),
    ).fetchone()
    if lane is not None:
        return (Recorded(outcome_of(lane), None),)
    rows = db.execute(
        "SELECT * FROM recorded WHERE scope = ? AND position = ? ORDER BY number", (scope, offset)
    )
    return tuple(Recorded(outcome_of(row), row["write_id"]) for row in rows)


def outcome_of(row: sqlite3.Row) -> Outcome:
    """The outcome in a row."""
    return Outcome(OutcomeKind(row["kind"]), row["reason"], row["state"])


def record(
    db: sqlite3.Connection, scope: str, write_id: str, outcomes: Mapping[int, Outcome]
) -> None:
    """Stores outcomes before the write that commits them."""
    with writing(db):
        for offset, outcome in outcomes.items():
            db.execute(
                "INSERT INTO recorded (position, scope, write_id, kind, reason, state)"
                " SELECT position, ?, ?, ?, ?, ? FROM events WHERE position = ? AND NOT EXISTS"
                " (SELECT 1 FROM lanes WHERE position = ? AND scope = ? AND settled_at IS "
                "NOT NULL)",
                (
                    scope,
                    write_id,
                    outcome.kind,
                    outcome.reason,
                    outcome.state,
                    offset,
                    offset,
                    scope,
                ),
            )
            db.execute(
                "DELETE FROM recorded WHERE position = ? AND scope = ? AND number NOT IN"
                " (SELECT number FROM recorded WHERE position = ? AND scope = ?"
                " ORDER BY number DESC LIMIT ?)",
                (offset, scope, offset, scope, _MAX_RECORDED),
            )


def withdraw(db: sqlite3.Connection, scope: str, write_id: str) -> None:
    """Deletes the outcomes of a write that was lost."""
    with writing(db):
        db.execute("DELETE FROM recorded WHERE write_id = ? AND scope = ?", (write_id, scope))


def settle(db: sqlite3.Connection, now: str, scope: str, outcomes: Mapping[int, Outcome]) -> None:
    """Completes these events in the scope."""
    with writing(db):
        for offset, outcome in outcomes.items():
            settle_one(db, now, scope, offset, outcome)


def settle_one(
    db: sqlite3.Connection,
    now: str,
    scope: str,
    offset: int,
    outcome: Outcome,
    *,
    by: str | None = None,
) -> None:
    """Completes one event in the scope, inside a transaction.

    `by` is the operator who takes it out of its lane, if one does.
    """
    is_folded = outcome.kind is not OutcomeKind.DEAD_LETTERED
    if is_folded and _overtake_dead_letter(db, now, scope, offset, outcome):
        return
    _store_outcome(db, scope, offset, outcome)
    is_settled_now = db.execute(
        "UPDATE lanes SET settled_at = ?, error = NULL WHERE position = ? AND scope = ? AND "
        "settled_at IS NULL",
        (now, offset, scope),
    ).rowcount
    if not is_settled_now:
        return
    db.execute("DELETE FROM recorded WHERE position = ? AND scope = ?", (offset, scope))
    if outcome.kind is OutcomeKind.DEAD_LETTERED:
        db.execute(
            "INSERT INTO dead_letters (position, scope, status, reason, at, by) VALUES (?, ?, "
            "'open', ?, ?, ?)",
            (offset, scope, outcome.reason, now, by),
        )
    db.execute(
        "UPDATE dead_letters SET status = 'replayed', closed_at = ? WHERE status = 'replaying' AND "
        "replayed_as = ?",
        (now, offset),
    )
    _acknowledge(db, now, offset)


def _store_outcome(db: sqlite3.Connection, scope: str, offset: int, outcome: Outcome) -> None:
    """Writes the outcome into the lane's row.

    Not if the lane is settled, or if the event is acknowledged or gone.
    """
    db.execute(
        "INSERT INTO lanes (position, scope, kind, reason, state)"
        " SELECT position, ?, ?, ?, ? FROM events WHERE position = ? AND acknowledged_at IS NULL"
        " ON CONFLICT (position, scope) DO UPDATE"
        " SET kind = excluded.kind, reason = excluded.reason, state = excluded.state"
        " WHERE lanes.settled_at IS NULL",
        (scope, outcome.kind, outcome.reason, outcome.state, offset),
    )


def _overtake_dead_letter(
    db: sqlite3.Connection, now: str, scope: str, offset: int, outcome: Outcome
) -> bool:
    """Closes the dead letter if an operator took the event out while its commit was in progress.

    The commit has succeeded, so its outcome counts. A replay requested in the meantime finds the
    event already folded, and changes nothing.
    """
    overtaken = db.execute(
        "UPDATE dead_letters SET status = 'overtaken', closed_at = ?"
        " WHERE position = ? AND scope = ? AND by IS NOT NULL AND status IN ('open', 'replaying')",
        (now, offset, scope),
    ).rowcount
    if overtaken:
        db.execute(
            "UPDATE lanes SET kind = ?, reason = ?, state = ? WHERE position = ? AND scope = ?",
            (outcome.kind, outcome.reason, outcome.state, offset, scope),
        )
    return bool(overtaken)


def _acknowledge(db: sqlite3.Connection, now: str, offset: int) -> None:
    """Acknowledges the event if its scopes are assigned and it is settled in all of them."""
    db.execute(
        "UPDATE events SET acknowledged_at = ?"
        " WHERE position = ? AND assigned AND acknowledged_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM lanes WHERE position = ? AND lanes.settled_at IS NULL)",
        (now, offset, offset),
    )


def note_failure(db: sqlite3.Connection, scope: str, offsets: Sequence[int], error: str) -> None:
    """Stores why these events wait, and counts a failed try."""
    with writing(db):
        db.executemany(
            "UPDATE lanes SET failed_tries = failed_tries + 1, error = ?"
            " WHERE position = ? AND scope = ? AND settled_at IS NULL",
            [(error, offset, scope) for offset in offsets],
        )
