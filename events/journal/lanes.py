"""What waits in which scope, and what became of it: the event source's half of the journal.

An event has one row for each scope it goes to. Outcomes are recorded before the commit they belong to, beside the row;
the row keeps the one that is settled after it. When all rows are settled, so is the event, and it is never delivered
again.
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
from events.source import Delivery, Recorded, Replay

_MOST_RECORDED: Final = 16
"""Of one event in one scope. Tries whose outcome nobody knows follow each other while a bucket is in trouble."""


Decoded = WeakValueDictionary[int, Event]
"""By offset, the events that somebody holds: one that waits in 1,000 lanes is decoded once."""


def next_after(db: sqlite3.Connection, decoded: Decoded, instance: str, offset: int) -> Delivery | None:
    """The first unsettled event behind `offset` that can be read."""
    query = "SELECT * FROM events WHERE settled_at IS NULL AND position > ? ORDER BY position LIMIT 1"
    while (row := db.execute(query, (offset,)).fetchone()) is not None:
        lanes = db.execute("SELECT scope FROM lanes WHERE position = ? ORDER BY scope", (row["position"],))
        scopes = tuple(lane["scope"] for lane in lanes) if row["assigned"] else None
        match _read(row, decoded, instance, scopes):
            case Delivery() as delivery:
                return delivery
            case damage:
                _note_damage(db, [damage])
        offset = row["position"]
    return None


def waiting(
    db: sqlite3.Connection, decoded: Decoded, instance: str, scope: str, *, upto: int, most: int
) -> tuple[Delivery, ...]:
    """What waits in the scope and can be read, in order."""
    rows = db.execute(
        "SELECT e.* FROM lanes l JOIN events e ON e.position = l.position"
        " WHERE l.scope = ? AND l.settled_at IS NULL AND l.position <= ? AND e.assigned ORDER BY l.position",
        (scope, upto),
    )
    found: list[Delivery] = []
    damaged: list[_Damage] = []
    while len(found) < most and (row := rows.fetchone()) is not None:
        match _read(row, decoded, instance, (scope,)):
            case Delivery() as delivery:
                found.append(delivery)
            case damage:
                damaged.append(damage)
    rows.close()
    _note_damage(db, damaged)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Damage:
    """An event whose row a disk, or somebody else, has damaged."""

    offset: int
    error: str
    """What is wrong, and what to do about it."""


def _read(row: sqlite3.Row, decoded: Decoded, instance: str, scopes: tuple[str, ...] | None) -> Delivery | _Damage:
    try:
        with decoding(row, "an event"):
            return _delivery(row, decoded, instance, scopes)
    except sqlite3.DatabaseError as error:
        remedy = f"`rebundle dead-letters add {shlex.quote(str(row['id']))} --reason '…'`, then send it again"
        return _Damage(row["position"], f"{error}: {remedy}")


def _note_damage(db: sqlite3.Connection, damaged: Iterable[_Damage]) -> None:
    """A damaged event stays in its lanes, with the reason, until an operator takes it out; it delays no other event."""
    db.executemany(
        "UPDATE lanes SET error = ?1 WHERE position = ?2 AND settled_at IS NULL AND error IS NOT ?1",
        [(each.error, each.offset) for each in damaged],
    )


def _delivery(row: sqlite3.Row, decoded: Decoded, instance: str, scopes: tuple[str, ...] | None) -> Delivery:
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
    """The event of a kept body, which was judged before it was kept."""
    envelope = json.loads(body)
    del envelope["specversion"], envelope["datacontenttype"]
    known = {name: envelope.pop(name) for name in ("id", "source", "type", "data")}
    subject, time = envelope.pop("subject", None), envelope.pop("time", None)
    return Event(**known, subject=subject, time=time, extensions=envelope)


def identity_of(row: sqlite3.Row) -> Identity:
    """The identity of an event's row."""
    return Identity(row["intake"], row["source"], row["id"])


def replay_of(row: sqlite3.Row, instance: str) -> Replay | None:
    """Which dead letter an event's row settles."""
    if row["replay_position"] is None:
        return None
    return Replay(Position(instance, row["replay_position"]), row["replay_scope"])


def published_scopes(db: sqlite3.Connection) -> frozenset[str]:
    """The scopes in which an event that is still remembered was published."""
    rows = db.execute(
        "SELECT DISTINCT scope FROM lanes WHERE kind IN (?, ?, ?)",
        (OutcomeKind.PUBLISHED, OutcomeKind.LATE, OutcomeKind.WITHHELD),
    )
    return frozenset(row["scope"] for row in rows)


def assign(db: sqlite3.Connection, now: str, offset: int, scopes: Sequence[str]) -> None:
    """Remember where an event goes; the first word on it stays."""
    with writing(db):
        add_lanes(db, now, offset, scopes)


def add_lanes(db: sqlite3.Connection, now: str, offset: int, scopes: Sequence[str]) -> None:
    """The same, inside a transaction. An event that goes nowhere is settled at once."""
    first = db.execute("UPDATE events SET assigned = 1 WHERE position = ? AND assigned = 0", (offset,)).rowcount
    if first:
        rows = [(offset, scope) for scope in scopes]
        db.executemany("INSERT INTO lanes (position, scope) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
        _acknowledge(db, now, offset)


def recorded(db: sqlite3.Connection, scope: str, offsets: Sequence[int]) -> dict[int, tuple[Recorded, ...]]:
    """What was settled, or else recorded, the newest last."""
    found = {offset: _recorded(db, scope, offset) for offset in offsets}
    return {offset: told for offset, told in found.items() if told}


def _recorded(db: sqlite3.Connection, scope: str, offset: int) -> tuple[Recorded, ...]:
    lane = db.execute(
        "SELECT * FROM lanes WHERE scope = ? AND position = ? AND settled_at IS NOT NULL", (scope, offset)
    ).fetchone()
    if lane is not None:
        return (Recorded(outcome_of(lane), None),)
    rows = db.execute("SELECT * FROM recorded WHERE scope = ? AND position = ? ORDER BY number", (scope, offset))
    return tuple(Recorded(outcome_of(row), row["commit_id"]) for row in rows)


def outcome_of(row: sqlite3.Row) -> Outcome:
    """The outcome in a row."""
    return Outcome(OutcomeKind(row["kind"]), row["reason"], row["state"])


def record(db: sqlite3.Connection, scope: str, commit: str, outcomes: Mapping[int, Outcome]) -> None:
    """Keep outcomes of a commit that is about to be tried."""
    with writing(db):
        for offset, outcome in outcomes.items():
            db.execute(
                "INSERT INTO recorded (position, scope, commit_id, kind, reason, state)"
                " SELECT position, ?, ?, ?, ?, ? FROM events WHERE position = ? AND NOT EXISTS"
                " (SELECT 1 FROM lanes WHERE position = ? AND scope = ? AND settled_at IS NOT NULL)",
                (scope, commit, outcome.kind, outcome.reason, outcome.state, offset, offset, scope),
            )
            db.execute(
                "DELETE FROM recorded WHERE position = ? AND scope = ? AND number NOT IN"
                " (SELECT number FROM recorded WHERE position = ? AND scope = ? ORDER BY number DESC LIMIT ?)",
                (offset, scope, offset, scope, _MOST_RECORDED),
            )


def withdraw(db: sqlite3.Connection, scope: str, commit: str) -> None:
    """Forget outcomes of a commit that was lost."""
    with writing(db):
        db.execute("DELETE FROM recorded WHERE commit_id = ? AND scope = ?", (commit, scope))


def settle(db: sqlite3.Connection, now: str, scope: str, outcomes: Mapping[int, Outcome]) -> None:
    """These events are done in the scope."""
    with writing(db):
        for offset, outcome in outcomes.items():
            settle_one(db, now, scope, offset, outcome)


def settle_one(
    db: sqlite3.Connection, now: str, scope: str, offset: int, outcome: Outcome, *, by: str | None = None
) -> None:
    """One event is done in the scope, inside a transaction; `by` an operator who takes it out of its lane."""
    if outcome.kind is not OutcomeKind.DEAD_LETTERED and _overtake_dead_letter(db, now, scope, offset, outcome):
        return
    _keep(db, scope, offset, outcome)
    done = db.execute(
        "UPDATE lanes SET settled_at = ?, error = NULL WHERE position = ? AND scope = ? AND settled_at IS NULL",
        (now, offset, scope),
    ).rowcount
    if not done:
        return
    db.execute("DELETE FROM recorded WHERE position = ? AND scope = ?", (offset, scope))
    if outcome.kind is OutcomeKind.DEAD_LETTERED:
        db.execute(
            "INSERT INTO dead_letters (position, scope, status, reason, at, by) VALUES (?, ?, 'open', ?, ?, ?)",
            (offset, scope, outcome.reason, now, by),
        )
    db.execute(
        "UPDATE dead_letters SET status = 'replayed', closed_at = ? WHERE status = 'replaying' AND replayed_as = ?",
        (now, offset),
    )
    _acknowledge(db, now, offset)


def _keep(db: sqlite3.Connection, scope: str, offset: int, outcome: Outcome) -> None:
    """Writes the outcome into the lane's row unless that is settled, or the event is gone or done."""
    db.execute(
        "INSERT INTO lanes (position, scope, kind, reason, state)"
        " SELECT position, ?, ?, ?, ? FROM events WHERE position = ? AND settled_at IS NULL"
        " ON CONFLICT (position, scope) DO UPDATE SET kind = excluded.kind, reason = excluded.reason,"
        " state = excluded.state WHERE lanes.settled_at IS NULL",
        (scope, outcome.kind, outcome.reason, outcome.state, offset),
    )


def _overtake_dead_letter(db: sqlite3.Connection, now: str, scope: str, offset: int, outcome: Outcome) -> bool:
    """An operator took the event out while its commit was under way, and the commit won: what is published counts.
    A replay that was asked for since finds the event known, and changes nothing."""
    overtaken = db.execute(
        "UPDATE dead_letters SET status = 'overtaken', closed_at = ? WHERE position = ? AND scope = ?"
        " AND by IS NOT NULL AND status IN ('open', 'replaying')",
        (now, offset, scope),
    ).rowcount
    if overtaken:
        db.execute(
            "UPDATE lanes SET kind = ?, reason = ?, state = ? WHERE position = ? AND scope = ?",
            (outcome.kind, outcome.reason, outcome.state, offset, scope),
        )
    return bool(overtaken)


def _acknowledge(db: sqlite3.Connection, now: str, offset: int) -> None:
    """An event is done once it is known where it goes and every scope of it has settled."""
    db.execute(
        "UPDATE events SET settled_at = ? WHERE position = ? AND assigned AND settled_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM lanes WHERE position = ? AND lanes.settled_at IS NULL)",
        (now, offset, offset),
    )


def note_failure(db: sqlite3.Connection, scope: str, offsets: Sequence[int], error: str) -> None:
    """Remember why these wait."""
    with writing(db):
        db.executemany(
            "UPDATE lanes SET attempts = attempts + 1, error = ?"
            " WHERE position = ? AND scope = ? AND settled_at IS NULL",
            [(error, offset, scope) for offset in offsets],
        )
