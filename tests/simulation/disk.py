"""The real journal in a simulated world: its file outlives processes; it may be restored or copied.

Its calls run in the loop's own thread, one after the other. After each call this module reads the
changes from the tables and reports them to the oracle, independent of the adapter's result.
"""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from events.errors import IdentityConflict, NotWaiting, SourceUnavailable
from events.journal import Journal
from events.journal.limits import JournalLimits
from events.model import Event, Identity, Outcome, OutcomeKind, Position
from events.records import Arrival, DeadLetterStatus
from events.source import Delivery, Pause, Recorded, Taken
from tests.simulation.loop import Inline, databases
from tests.simulation.model import Request
from tests.simulation.oracle import Ledger, Oracle

LIMITS = JournalLimits(bodies_kept=timedelta(seconds=20), identities_kept=timedelta(seconds=45))
_POLL_SECONDS = 20.0
_MEMORY = Path("/dev/shm")


class Disk:
    """One journal's file, and what was reported to the oracle."""

    def __init__(self, name: str, oracle: Oracle, clock: Callable[[], datetime]) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
        self._path = self._folder / "journal.db"
        self._name = name
        self._oracle = oracle
        self._clock = clock
        self._lives = 0
        self.requests: dict[tuple[str, str], tuple[Request, Arrival]] = {}
        """The request of each event, by the digests of its identity and its content."""
        self.ledger = Ledger(oracle, "")
        self.journal: Journal | None = None
        """The journal of the daemon, while it runs."""
        self._journals: list[Journal] = []
        """Every journal that was opened, also by a command."""
        self._eyes: sqlite3.Connection | None = None
        self._seen = -1
        self._backup: tuple[bytes, Ledger] | None = None

    async def open(self, reached: Callable[[str], Awaitable[None]], process: str) -> "DiskSource":
        """Like `run` opens it."""
        self.journal = await self._opened(process, run=True)
        return DiskSource(self, self.journal, reached)

    async def _opened(self, process: str, *, run: bool) -> Journal:
        worker = Inline()
        self._lives += 1
        life = self._lives
        tokens = (f"{self._name}-{life}-{number}" for number in range(1_000_000))
        worker.after = lambda: self._look(process)
        self._seen = -1
        journal = await Journal.open(
            self._path,
            clock=self._clock,
            token=lambda: next(tokens),
            run=run,
            limits=LIMITS,
            poll=_POLL_SECONDS,
            worker=worker,
        )
        self._journals.append(journal)
        return journal

    async def accept(
        self, event: Event, identity: Identity, digest: str, scopes: Any, asked: Request
    ) -> bool:
        """Like the daemon's intake.

        Returns whether it is running, and the event is durable or refused for good.
        """
        arrival = Arrival(event, identity, digest, scopes)
        self.requests[identity.digest[:16], digest[:16]] = asked, arrival
        if self.journal is None:
            return False
        try:
            await self.journal.append([arrival])
        except IdentityConflict:
            rows = self.ledger.rows.values()
            if not any(row.event.identity == identity.digest[:16] for row in rows):
                self._oracle.fail(f"{identity.id} is refused as another content, and is not there")
        except SourceUnavailable:
            return False
        return True

    # -- operators

    async def by_hand(self, process: str, work: Callable[[Journal], Awaitable[Any]]) -> None:
        """A command that opens the journal beside the daemon."""
        if self._path.exists():
            async with await self._opened(process, run=False) as journal:
                await work(journal)

    def back_up(self) -> None:
        """Copy the file in its present state."""
        if self._path.exists():
            with databases(), contextlib.closing(sqlite3.connect(self._path)) as db:
                self._backup = db.serialize(), self.ledger.copy()

    def restore(self) -> list[tuple[Request, Arrival]]:
        """Write the backup over the file, while no daemon runs.

        Returns the events that are no longer in it.
        """
        assert self.journal is None
        if self._backup is None:
            return []
        body, ledger = self._backup
        lost = self._replaced_by(ledger)
        self._write(body)
        return lost

    def copy_from(self, other: "Disk") -> list[tuple[Request, Arrival]]:
        """Continue with a copy of another journal's file, under another inode."""
        assert self.journal is None
        other.back_up()
        if other._backup is None:
            return []
        body, ledger = other._backup
        lost = self._replaced_by(ledger)
        self.requests |= other.requests
        self._path.unlink(missing_ok=True)
        self._write(body)
        return lost

    def _replaced_by(self, ledger: Ledger) -> list[tuple[Request, Arrival]]:
        kept = {(row.event.identity, row.event.digest) for row in ledger.rows.values()}
        here = {(row.event.identity, row.event.digest) for row in self.ledger.rows.values()}
        self.ledger.abandon()
        self.ledger = ledger.copy()
        return [self.requests[item] for item in sorted(here - kept)]

    def _write(self, body: bytes) -> None:
        if self._eyes is not None:
            self._eyes.close()
            self._eyes = None
        for suffix in ("-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.truncate()
            file.write(body)

    def remove(self) -> None:
        """The world has ended."""
        if self._eyes is not None:
            self._eyes.close()
        for journal in self._journals:
            if not journal._closed:  # its daemon was still working when the world broke
                journal._opened.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- the content of the file

    def _look(self, process: str) -> None:
        """Report new rows in the tables to the oracle."""
        if not self._path.exists():
            return
        if self._eyes is None:
            self._eyes = sqlite3.connect(self._path, isolation_level=None)
            self._eyes.row_factory = sqlite3.Row
            self._seen = -1
        db = self._eyes
        version = db.execute("PRAGMA data_version").fetchone()[0]
        if (
            version == self._seen
            or not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lanes'").fetchone()
        ):
            return
        self._seen = version
        instance = db.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()[0]
        if instance != self.ledger.instance:
            self.ledger = self.ledger.renewed(instance)
        self._oracle.ledger_of[process, instance] = self.ledger
        lanes: dict[int, list[str]] = {}
        settled = []
        for row in db.execute("SELECT * FROM lanes ORDER BY position, scope"):
            lanes.setdefault(row["position"], []).append(row["scope"])
            if row["settled_at"] is not None:
                settled.append(row)
        self._look_at_events(db.execute("SELECT * FROM events ORDER BY position"), lanes)
        taken = {
            (row["position"], row["scope"])
            for row in db.execute("SELECT * FROM dead_letters")
            if row["by"]
        }
        for row in settled:
            known = self.ledger.rows.get(row["position"])
            if known is not None and row["scope"] not in known.settled:
                if (row["position"], row["scope"]) in taken:
                    known.excused.add(row["scope"])
                outcome = Outcome(OutcomeKind(row["kind"]), row["reason"], row["state"])
                self.ledger.settle(process, row["scope"], row["position"], outcome)

    def _look_at_events(
        self, rows: Iterable[sqlite3.Row], lanes: Mapping[int, Sequence[str]]
    ) -> None:
        for row in rows:
            offset = row["position"]
            scopes = tuple(lanes.get(offset, ())) if row["assigned"] else None
            if row["replay_scope"] is not None and scopes != (row["replay_scope"],):
                self._oracle.fail(f"a replay for {row['replay_scope']} goes to {scopes}")
            if offset not in self.ledger.rows:
                identity = Identity(row["intake"], row["source"], row["id"])
                known = identity.digest[:16], row["digest"][:16]
                self.ledger.accept(offset, *known, self.requests[known][0], scopes)
            elif scopes is not None and self.ledger.rows[offset].scopes is None:
                self.ledger.assign(offset, scopes)


class DiskSource:
    """Implements events.source.EventSource for one process, which may end at each call."""

    def __init__(
        self, disk: Disk, journal: Journal, reached: Callable[[str], Awaitable[None]]
    ) -> None:
        self._disk = disk
        self._journal = journal
        self._reached = reached

    @property
    def owns_instance(self) -> bool:
        return self._journal.owns_instance

    async def close(self) -> None:
        self._disk.journal = None
        await self._journal.close()

    async def take(self, limit: int) -> Taken:
        taken = await self._journal.take(limit)
        await self._reached("take")
        return taken

    async def assign(self, scopes: Mapping[Position, Sequence[str]]) -> None:
        await self._reached("assign")
        await self._journal.assign(scopes)
        await self._reached("assigned")

    async def waiting(self, scope: str, limit: int) -> Sequence[Delivery]:
        await self._reached("waiting")
        return await self._journal.waiting(scope, limit)

    async def compare(
        self,
        scope: str,
        positions: Mapping[str, int],
        pause: Pause,
        *,
        unaccounted: bool = False,
    ) -> str | None:
        await self._reached("compare")
        return await self._journal.compare(scope, positions, pause, unaccounted=unaccounted)

    async def recorded(
        self, scope: str, positions: Sequence[Position]
    ) -> Mapping[Position, Sequence[Recorded]]:
        await self._reached("recorded")
        return await self._journal.recorded(scope, positions)

    async def record(self, scope: str, commit: str, outcomes: Mapping[Position, Outcome]) -> None:
        await self._reached("record")
        await self._journal.record(scope, commit, outcomes)
        await self._reached("recorded it")

    async def withdraw(self, scope: str, commit: str) -> None:
        await self._reached("withdraw")
        await self._journal.withdraw(scope, commit)
        await self._reached("withdrawn")

    async def settle(self, scope: str, outcomes: Mapping[Position, Outcome]) -> None:
        await self._reached("settle")
        await self._journal.settle(scope, outcomes)
        await self._reached("settled")

    async def note_failure(self, scope: str, positions: Sequence[Position], error: str) -> None:
        await self._reached("note")
        await self._journal.note_failure(scope, positions, error)


async def replay_one(journal: Journal, choose: Callable[[Sequence[str]], str], by: str) -> None:
    """Send an open dead letter again, if there is one."""
    letters = await journal.dead_letters(DeadLetterStatus.OPEN)
    if letters:
        await journal.replay(choose([letter.id for letter in letters]), by=by)


async def take_out(journal: Journal, offset: int, by: str) -> None:
    """Make a dead letter of an event that waits, if it still does."""
    with contextlib.suppress(NotWaiting):
        await journal.take_out(f"@{offset}", None, reason="stuck", by=by)
