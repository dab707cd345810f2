"""The journal's database: its schema, its instance, and the translation of SQLite's errors.

With WAL the command line can read and write beside a running daemon. With synchronous=FULL a commit
is durable when it returns. `files` has the locks of `run`.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from events.errors import (
    JournalDamaged,
    JournalDisplaced,
    JournalFull,
    JournalMissing,
    JournalOfOtherSchema,
    SourceUnavailable,
)
from events.journal.files import (
    MACHINE_ID,
    FileId,
    HeldFiles,
    hold,
    identities,
    machine_id,
    refuse_links,
    remedy,
    unusable,
)

SCHEMA_VERSION: Final = 4
_BUSY_SECONDS: Final = 10.0
_LARGEST_OFFSET: Final = 2**53
_BODIES: Final = frozenset({"body"})
"""Columns that hold bytes; every other one holds text or a number."""

_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    intake TEXT NOT NULL,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    digest TEXT NOT NULL,
    body BLOB,
    size INTEGER NOT NULL,
    accepted_at TEXT NOT NULL,
    assigned INTEGER NOT NULL,
    acknowledged_at TEXT,
    replay_position INTEGER,
    replay_scope TEXT
);
CREATE UNIQUE INDEX event_identity ON events (id, source, intake) WHERE replay_position IS NULL;
CREATE INDEX event_id ON events (id);
CREATE INDEX event_waiting ON events (position) WHERE acknowledged_at IS NULL;
CREATE INDEX event_acknowledged ON events (acknowledged_at) WHERE acknowledged_at IS NOT NULL;

CREATE TABLE lanes (
    position INTEGER NOT NULL REFERENCES events (position) ON DELETE CASCADE,
    scope TEXT NOT NULL,
    kind TEXT,
    reason TEXT,
    state TEXT,
    settled_at TEXT,
    failed_tries INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    PRIMARY KEY (position, scope)
) WITHOUT ROWID;
CREATE INDEX lane_waiting ON lanes (scope, position) WHERE settled_at IS NULL;

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL REFERENCES events (position),
    scope TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TEXT NOT NULL,
    by TEXT,
    replayed_as INTEGER,
    closed_at TEXT,
    closed_by TEXT,
    closed_reason TEXT,
    UNIQUE (position, scope)
);

CREATE TABLE rejected (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    intake TEXT NOT NULL,
    at TEXT NOT NULL,
    problems TEXT NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);

-- Updated at each change: an append must not count a hundred thousand rows.
CREATE TABLE backlog (events INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO backlog VALUES (0, 0);
CREATE TRIGGER backlog_grows AFTER INSERT ON events WHEN NEW.acknowledged_at IS NULL BEGIN
    UPDATE backlog SET events = events + 1, bytes = bytes + NEW.size;
END;
CREATE TRIGGER backlog_shrinks AFTER UPDATE OF acknowledged_at ON events
    WHEN OLD.acknowledged_at IS NULL AND NEW.acknowledged_at IS NOT NULL BEGIN
    UPDATE backlog SET events = events - 1, bytes = bytes - NEW.size;
END;

-- One row per write: several may be in progress, and only the bucket shows which one succeeded.
CREATE TABLE recorded (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL REFERENCES events (position) ON DELETE CASCADE,
    scope TEXT NOT NULL,
    write_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    state TEXT
);
CREATE INDEX recorded_event ON recorded (position, scope);
CREATE INDEX recorded_write ON recorded (write_id);

-- One row that the daemon writes every few seconds, to check that the journal can be written.
CREATE TABLE probe (at TEXT NOT NULL);
INSERT INTO probe VALUES ('');
"""


@dataclass(frozen=True, slots=True)
class OpenJournal:
    """An open journal. Only the thread that opened it may use it."""

    path: Path
    db: sqlite3.Connection
    instance: str
    highest: int
    """The highest offset ever used when it was opened; 0 for none."""
    held: HeldFiles | None
    """The locks of `run`."""
    files: tuple[FileId | None, ...]
    """The files that SQLite has open."""
    is_copy: bool
    """Whether it got a new instance because its file is a copy of another one."""

    def close(self) -> None:
        """Closes the file, then releases the locks."""
        self.db.close()
        if self.held is not None:
            self.held.release()

    def refuse_displaced(self) -> None:
        """Raises JournalDisplaced if the files at the path are not those that SQLite has open."""
        if identities(self.path) != self.files:
            raise JournalDisplaced(
                f"the journal {self.path}, or the -wal or -shm beside it, "
                "was removed or replaced while it is in use: "
                "accepted events are still published, but a restart would lose those that wait. "
                "Restore the original files, or wait until "
                "rebundle_journal_unacknowledged_events in /metrics is 0 and then restart"
            )


def open_journal(
    path: Path, *, token: Callable[[], str], run: bool, machine_id_file: Path = MACHINE_ID
) -> OpenJournal:
    """Opens the journal at `path`.

    With `run` it is created if it does not exist, and locked against another `run`.

    Raises:
        JournalLocked: another `run` holds the lock.
        JournalMissing: there is no journal, and this is not a `run`.
        JournalDamaged: the file is not a journal, or is damaged.
        JournalOfOtherSchema: another release wrote the journal.
        SourceUnavailable: the file system refuses it.
    """
    path = path.parent.resolve() / path.name
    refuse_links(path)
    with contextlib.ExitStack() as undo:
        held = None
        if run:
            held = hold(path)
            undo.callback(held.release)
        else:
            _require(path)
        with translated(path):
            db = _connect(path)
            undo.callback(db.close)
            _check_schema(path, db, token, run=run)
            is_copy = False
            if run:
                _check_pages(path, db)
                is_copy = _renew_copy(path, db, token, machine_id(machine_id_file))
            opened = OpenJournal(
                path, db, meta(db, "instance"), _highest(db), held, identities(path), is_copy
            )
        undo.pop_all()
        return opened


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translates SQLite's errors, except those that only a programming error can cause."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        translation = port_error(path, error)
        if translation is error:
            raise
        raise translation from error


def port_error(path: Path, error: sqlite3.DatabaseError) -> Exception:
    """What an error of SQLite means for the caller; itself if it shows a programming error."""
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return error
    # An error that `decoding` raises has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_IOERR_SHMMAP:
        return SourceUnavailable(
            f"the journal {path} cannot be used now: {error}: its file system has no shared memory "
            "maps, like some network and desktop mounts: move it to a local file system"
        )
    # The low byte is the primary code.
    match code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_FULL:
            return JournalFull(f"no space is left for the journal {path}: {error}")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return SourceUnavailable(
                f"the journal {path} cannot be used now: {error}{remedy(path)}"
            )
        case _:
            return SourceUnavailable(f"the journal {path} cannot be used now: {error}")


@contextlib.contextmanager
def decoding(row: sqlite3.Row, kind: str) -> Iterator[None]:
    """Raises sqlite3.DatabaseError for values in a row that no release writes.

    A faulty disk or another program has written them: the journal is damaged.
    """
    for name in row.keys():  # noqa: SIM118  # a row iterates over its values
        if name not in _BODIES and isinstance(row[name], bytes):
            raise sqlite3.DatabaseError(
                f"{kind} has a value that no release writes ({name} is not text)"
            )
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise sqlite3.DatabaseError(
            f"{kind} has a value that no release writes ({error})"
        ) from error


@contextlib.contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """One transaction: durable when it ends, rolled back when it fails.

    It takes the write lock at its start, because SQLite waits for the lock there. A transaction
    that starts with a read and writes later could be refused at once.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back already when the commit failed.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def timestamp(moment: datetime) -> str:
    """The time as UTC text, which sorts by time."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def meta(db: sqlite3.Connection, key: str) -> str:
    """A value of the `meta` table; empty if there is none."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return "" if row is None else str(row["value"])


def _highest(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return 0 if row is None else int(row["seq"])


def set_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    """Stores a value of the `meta` table."""
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def renew_instance(db: sqlite3.Connection, instance: str) -> None:
    """Stores a new instance and deletes the recorded outcomes, inside a transaction.

    A recorded outcome belongs to a write with a position of the old instance. Under the new one it
    is impossible to find out whether that write succeeded.
    """
    set_meta(db, "instance", instance)
    db.execute("DELETE FROM recorded")


def store_new_instance(db: sqlite3.Connection, instance: str, passed: int) -> str:
    """Stores the new instance of a journal that was restored or copied, and returns it.

    New events get offsets above `passed`, so that an offset in a log never refers to two events.
    """
    with writing(db):
        renew_instance(db, instance)
        highest = min(passed, _LARGEST_OFFSET)
        db.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'events'", (highest,))
        db.execute(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', ?"
            " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events')",
            (highest,),
        )
    return instance


def _require(path: Path) -> None:
    """Raises JournalMissing, or SourceUnavailable if it cannot be seen whether it exists."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JournalMissing(
            f"there is no journal at {path}: start `rebundle run`, or name another path"
        ) from error
    except OSError as error:
        raise unusable(path, error) from error


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=True)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException:
        db.close()
        raise
    return db


def _check_schema(
    path: Path, db: sqlite3.Connection, token: Callable[[], str], *, run: bool
) -> None:
    tables = {
        row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    if tables or not run:
        _refuse_other_schemas(path, db, tables)
    # After the checks, because this writes: it must not change the database of another program.
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise JournalDamaged(
            f"{path} is on a file system that does not support a journal (no write-ahead log): "
            "move it to a local file system"
        )
    if not tables:
        _create(path, db, token)


def _refuse_other_schemas(path: Path, db: sqlite3.Connection, tables: Collection[str]) -> None:
    """Raises JournalDamaged for what is not a journal, JournalOfOtherSchema for another schema."""
    if "meta" not in tables:
        raise _damaged(path, "it is not a journal")
    version = meta(db, "schema")
    if not version.isdigit():
        raise _damaged(path, f"its schema version is {version!r}")
    if int(version) != SCHEMA_VERSION:
        raise JournalOfOtherSchema(
            f"the journal {path} has schema {version}, and this release supports only schema "
            f"{SCHEMA_VERSION}: run the release that wrote it until no event waits, then move it "
            "away, or set journal.path to a new file"
        )


def _create(path: Path, db: sqlite3.Connection, token: Callable[[], str]) -> None:
    place = path.stat()
    with writing(db):
        for statement in _statements(_TABLES):
            db.execute(statement)
        set_meta(db, "schema", str(SCHEMA_VERSION))
        set_meta(db, "instance", f"journal:{token()}")
        set_meta(db, "device", str(place.st_dev))
        set_meta(db, "inode", str(place.st_ino))


def _statements(script: str) -> Iterator[str]:
    """The single statements of a script.

    `executescript` would commit each one, and a power cut between them would leave half a journal.
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _check_pages(path: Path, db: sqlite3.Connection) -> None:
    result = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise _damaged(path, result)


def _renew_copy(path: Path, db: sqlite3.Connection, token: Callable[[], str], machine: str) -> bool:
    """Gives a copied file a new instance: its positions are not those of the original (protocol 2).

    Returns whether it is a copy of a journal that has had events.

    A file is a copy if its device, its inode or the id of the machine differs from the stored one.
    A machine without an id is not compared. The boot id cannot replace the machine id: every
    restart after a power cut would count as a copy.
    """
    place = path.stat()
    now = {"device": str(place.st_dev), "inode": str(place.st_ino)}
    if machine:
        now["machine"] = machine
    changed = {key for key, value in now.items() if meta(db, key) != value}
    # A first machine id is not a change: the journal was created without one.
    is_renewed = bool(changed) and (changed != {"machine"} or bool(meta(db, "machine")))
    if changed:
        with writing(db):
            if is_renewed:
                renew_instance(db, f"journal:{token()}")
            for key, value in now.items():
                set_meta(db, key, value)
    return is_renewed and _highest(db) > 0


def _damaged(path: Path, fault: str) -> JournalDamaged:
    return JournalDamaged(
        f"the journal {path} cannot be used: {fault}. Restore it from a backup, "
        "or move it aside and start with a new one; "
        "senders must then send again what was not published"
    )
