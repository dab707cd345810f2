"""Dead letters of accepted events: listed, created, replayed and dropped.

An open dead letter stays until an operator handles it (protocol 2).
"""

import sqlite3
from collections.abc import Iterator
from typing import Final

from events.errors import NotWaiting
from events.journal.database import decoding, meta, writing
from events.journal.inserts import insert
from events.journal.lanes import event_of, identity_of, settle_one
from events.model import Event, Outcome, OutcomeKind, Position
from events.records import Arrival, DeadLetter, DeadLetterStatus, Replay

_SELECT = (
    "SELECT d.*, e.id AS event_id, e.type, e.body FROM dead_letters d JOIN events e ON "
    "e.position = d.position"
)

_MAX_DIGITS: Final = 18
_WAITING_AT = "SELECT position FROM events WHERE position = ? AND acknowledged_at IS NULL"
_WAITING_BY_ID = (
    "SELECT position FROM events WHERE id = ? AND acknowledged_at IS NULL ORDER BY position"
)


def number_of(letter_id: str) -> int:
    """The number of the row of a dead letter. Raises NotWaiting if it cannot have one."""
    if not _is_number(letter_id):
        raise NotWaiting(_absent(letter_id))
    return int(letter_id)


def _absent(letter_id: object) -> str:
    return f"there is no dead letter {letter_id}; `rebundle dead-letters list --all` lists them"


def _is_number(text: str) -> bool:
    """Whether the text is a number that a row can have."""
    return text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS


def dead_letters(db: sqlite3.Connection, status: DeadLetterStatus | None) -> tuple[DeadLetter, ...]:
    """The dead letters with this status (None: all), oldest first."""
    instance = meta(db, "instance")
    rows = db.execute(f"{_SELECT} WHERE ? IS NULL OR d.status = ? ORDER BY d.id", (status, status))
    return tuple(_dead_letter(row, instance) for row in rows)


def dead_letter(db: sqlite3.Connection, number: int) -> DeadLetter:
    """The dead letter with this number.

    Raises:
        NotWaiting: there is none with this number.
    """
    row = db.execute(f"{_SELECT} WHERE d.id = ?", (number,)).fetchone()
    if row is None:
        raise NotWaiting(_absent(number))
    return _dead_letter(row, meta(db, "instance"))


def take_out(
    db: sqlite3.Connection, now: str, event: str, scope: str | None, *, reason: str, by: str
) -> tuple[DeadLetter, ...]:
    """Turns a stuck event into dead letters, in one scope or in all scopes where it waits.

    `event` is its id or its position (`journal:…@12` or `@12`).

    Raises:
        NotWaiting: it does not wait there, or several events have this id.
    """
    with writing(db):
        offset = _waiting_event(db, event)
        scopes = [scope] if scope is not None else list(_waiting_scopes(db, offset))
        if not scopes:
            raise NotWaiting(
                f"event {event} has no scopes yet: name its scope, or start the daemon"
            )
        if scope is not None and not _waits_in(db, offset, scope):
            raise NotWaiting(f"event {event} does not wait in {scope}")
        for lane in scopes:
            settle_one(db, now, lane, offset, Outcome(OutcomeKind.DEAD_LETTERED, reason), by=by)
        rows = db.execute(f"{_SELECT} WHERE d.position = ? ORDER BY d.id", (offset,)).fetchall()
        return tuple(
            _dead_letter(row, meta(db, "instance")) for row in rows if row["scope"] in scopes
        )


def replay(db: sqlite3.Connection, now: str, number: int, by: str) -> Position:
    """Appends the event again, for the scope of the dead letter, which closes when it settles.

    Raises:
        NotWaiting: the dead letter is not open, or its event is damaged.
    """
    with writing(db):
        letter = _open_dead_letter(db, number)
        if letter.event is None:
            raise NotWaiting(
                f"the event of dead letter {number} is damaged in the journal: send it again"
            )
        assert letter.scope is not None  # the table requires it
        row = db.execute(
            "SELECT * FROM events WHERE position = ?", (letter.position.offset,)
        ).fetchone()
        arrival = Arrival(
            event=letter.event,
            identity=identity_of(row),
            digest=row["digest"],
            scopes=(letter.scope,),
            replay_of=Replay(letter.position, letter.scope),
        )
        offset = insert(db, now, arrival)
        db.execute(
            "UPDATE dead_letters SET status = 'replaying', replayed_as = ?, closed_by = ? WHERE "
            "id = ?",
            (offset, by, number),
        )
        return Position(letter.position.instance, offset)


def drop(db: sqlite3.Connection, now: str, number: int, by: str, reason: str) -> None:
    """Closes a dead letter without a replay.

    Raises:
        NotWaiting: it is not open.
    """
    with writing(db):
        _open_dead_letter(db, number)
        db.execute(
            "UPDATE dead_letters SET status = 'dropped', closed_at = ?, closed_by = ?, "
            "closed_reason = ? WHERE id = ?",
            (now, by, reason, number),
        )


def _open_dead_letter(db: sqlite3.Connection, number: int) -> DeadLetter:
    letter = dead_letter(db, number)
    if letter.status is DeadLetterStatus.REPLAYING:
        assert letter.replayed_as is not None
        raise NotWaiting(
            f"dead letter {number} is being replayed at position {letter.replayed_as.offset}"
        )
    if letter.status is not DeadLetterStatus.OPEN:
        raise NotWaiting(f"dead letter {number} is closed: {letter.status}")
    return letter


def _waiting_event(db: sqlite3.Connection, event: str) -> int:
    offset = _offset(event, meta(db, "instance"))
    query, value = (_WAITING_BY_ID, event) if offset is None else (_WAITING_AT, offset)
    waiting = [row["position"] for row in db.execute(query, (value,))]
    if not waiting:
        raise NotWaiting(f"no event {event} waits")
    if len(waiting) > 1:
        places = ", ".join(f"@{position}" for position in waiting)
        raise NotWaiting(f"several events with id {event} wait: name a position, one of {places}")
    return int(waiting[0])


def _offset(event: str, instance: str) -> int | None:
    """The offset if the text is a position, None if it is an event id.

    Raises NotWaiting: it is a position of another instance.
    """
    named, at, offset = event.rpartition("@")
    if not at or not _is_number(offset) or (named and not named.startswith("journal:")):
        return None
    if named and named != instance:
        raise NotWaiting(f"the position {event} is of another journal; this one is {instance}")
    return int(offset)


def _waiting_scopes(db: sqlite3.Connection, offset: int) -> Iterator[str]:
    rows = db.execute(
        "SELECT scope FROM lanes WHERE position = ? AND settled_at IS NULL ORDER BY scope",
        (offset,),
    )
    return (row["scope"] for row in rows.fetchall())


def _waits_in(db: sqlite3.Connection, offset: int, scope: str) -> bool:
    row = db.execute(
        "SELECT e.assigned, l.scope, l.settled_at FROM events e"
        " LEFT JOIN lanes l ON l.position = e.position AND l.scope = ? WHERE e.position = ?",
        (scope, offset),
    ).fetchone()
    return not row["assigned"] if row["scope"] is None else row["settled_at"] is None


def _dead_letter(row: sqlite3.Row, instance: str) -> DeadLetter:
    with decoding(row, f"dead letter {row['id']}"):
        return DeadLetter(
            id=str(row["id"]),
            position=Position(instance, row["position"]),
            scope=row["scope"],
            status=DeadLetterStatus(row["status"]),
            reason=row["reason"],
            at=row["at"],
            by=row["by"],
            event_id=row["event_id"],
            type=row["type"],
            replayed_as=None
            if row["replayed_as"] is None
            else Position(instance, row["replayed_as"]),
            closed_at=row["closed_at"],
            closed_by=row["closed_by"],
            closed_reason=row["closed_reason"],
            event=_event(row["body"]),
        )


def _event(body: bytes | None) -> Event | None:
    """The event in a stored body; None if the body was deleted or is damaged.

    Its dead letter is listed in either case.
    """
    if body is None:
        return None
    try:
        return event_of(body)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
