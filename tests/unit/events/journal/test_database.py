"""Opening the journal's database: locks, instances, schemas and damaged files."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing

import pytest

from events.errors import (
    JournalDamaged,
    JournalFull,
    JournalLocked,
    JournalMissing,
    JournalOfOtherSchema,
    SourceUnavailable,
)
from events.journal.database import translated
from events.model import Outcome, OutcomeKind
from tests.support.journals import next_of, waiting_in

GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")


def test_a_new_journal_gets_its_directory_and_is_private_to_its_owner(bench, play, tmp_path):
    async def story():
        path = tmp_path / "some where" / "else" / "journal.db"
        before = os.umask(0)
        try:
            async with bench.journal(path=path) as journal:
                await journal.append([bench.arrival("1")])
                assert {name.name for name in path.parent.iterdir()} >= {
                    "journal.db",
                    "journal.db-wal",
                }
                for name in path.parent.iterdir():
                    assert stat.S_IMODE(name.stat().st_mode) == 0o600, name
        finally:
            os.umask(before)

    play(story())


def test_commits_are_synced_to_the_log_before_they_return(bench, play):
    async def story():
        async with bench.journal() as journal:
            db = journal._opened.db
            pragmas = ("journal_mode", "synchronous", "foreign_keys")
            values = [
                await journal._call(lambda _, p=p: db.execute(f"PRAGMA {p}").fetchone()[0])
                for p in pragmas
            ]
            assert values == ["wal", 2, 1]

    play(story())


def test_a_second_run_on_the_journal_is_refused_with_the_holder_of_the_lock(bench, play):
    async def story():
        async with bench.journal():
            with pytest.raises(
                JournalLocked, match=f"process {os.getpid()} on .*: stop that one first"
            ):
                async with bench.journal():
                    pass
        async with bench.journal():
            pass  # the lock was released with the journal

    play(story())


def test_a_run_of_another_process_is_refused_and_a_concurrent_command_is_not(bench, play, tmp_path):
    script = f"""
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from events.errors import JournalLocked
from events.journal import Journal

async def main():
    options = dict(clock=lambda: datetime.now(UTC), token=lambda: "0" * 32)
    try:
        await Journal.open(Path({str(tmp_path / "journal.db")!r}), run=True, **options)
    except JournalLocked:
        print("locked")
    async with await Journal.open(Path({str(tmp_path / "journal.db")!r}), run=False, **options) as beside:
        print([each.event_id for each in await beside.take_out("1", None, reason="stuck", by="ann")])

asyncio.run(main())
"""

    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival("1")])
            command = [sys.executable, "-c", script]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=60, check=True
            )
            assert done.stdout == "locked\n['1']\n"
            assert len(await journal.dead_letters()) == 1

    play(story())


def test_a_command_does_not_create_a_journal(bench, play):
    async def story():
        with pytest.raises(JournalMissing, match="start `rebundle run`"):
            async with bench.journal(run=False):
                pass
        assert not bench.path.exists()

    play(story())


def test_a_reopened_journal_is_the_same_instance(bench, play):
    async def story():
        async with bench.journal() as journal:
            first = journal.instance
        async with bench.journal() as journal:
            assert journal.instance == first == f"journal:{1:032x}"
        async with bench.journal(run=False) as beside:
            assert beside.instance == first

    play(story())


def test_a_copied_journal_delivers_its_unsettled_events_under_a_new_instance(
    bench, play, scope, tmp_path
):
    async def story():
        async with bench.journal() as journal:
            done, recorded, _ = await journal.append(
                [bench.arrival(str(number)) for number in range(3)]
            )
            await journal.record(scope, "write", {recorded.position: GOOD})
            await journal.settle(scope, {done.position: GOOD})
            original = journal.instance
        copy = tmp_path / "copy.db"
        shutil.copy(bench.path, copy)
        async with bench.journal(path=copy) as journal:
            assert journal.instance != original
            deliveries = [await next_of(journal), await next_of(journal)]
            assert [delivery.event.id for delivery in deliveries] == ["1", "2"]
            assert {delivery.position.instance for delivery in deliveries} == {journal.instance}
            # That commit named a position of the original.
            assert await journal.recorded(scope, [deliveries[0].position]) == {}
            # Positions of the original do not count here.
            assert {delivery.position for delivery in await waiting_in(journal, scope)} & {
                recorded.position
            } == set()
            await journal.settle(scope, {recorded.position: GOOD})
            assert {delivery.position for delivery in await waiting_in(journal, scope)} & {
                deliveries[0].position
            } == {deliveries[0].position}
            renewed = journal.instance
        async with bench.journal(path=copy) as journal:
            assert journal.instance == renewed
        async with bench.journal() as journal:
            assert journal.instance == original

    play(story())


def test_a_command_on_a_copy_keeps_its_instance(bench, play, tmp_path):
    async def story():
        async with bench.journal() as journal:
            original = journal.instance
        copy = tmp_path / "copy.db"
        shutil.copy(bench.path, copy)
        async with bench.journal(path=copy, run=False) as journal:
            assert journal.instance == original

    play(story())


def test_a_file_that_is_not_a_database_is_damaged_and_left_unchanged(bench, play):
    async def story():
        bench.path.write_bytes(b"not a database at all, but long enough to look at" * 50)
        before = bench.path.read_bytes()
        for run in (True, False):
            with pytest.raises(JournalDamaged, match="move it aside"):
                async with bench.journal(run=run):
                    pass
        assert bench.path.read_bytes() == before

    play(story())


def test_a_database_of_another_program_is_not_a_journal(bench, play):
    async def story():
        with closing(sqlite3.connect(bench.path)) as db:
            db.execute("CREATE TABLE photos (id)")
        with pytest.raises(JournalDamaged, match="not a journal"):
            async with bench.journal():
                pass

    play(story())


def test_a_torn_page_is_found_when_the_journal_is_opened_to_run(bench, play):
    async def story():
        async with bench.journal() as journal:
            await journal.append(
                [bench.arrival(str(number), data={"a": "x" * 500}) for number in range(200)]
            )
        body = bytearray(bench.path.read_bytes())
        for page in range(10, len(body) // 4096):
            body[page * 4096 : page * 4096 + 2000] = b"\xee" * 2000
        bench.path.write_bytes(body)
        with pytest.raises(JournalDamaged):
            async with bench.journal():
                pass

    play(story())


@pytest.mark.parametrize("version", ["1", "3", "5"])
def test_a_journal_of_another_schema_is_refused_and_left_as_it_is(bench, play, version):
    async def story():
        async with bench.journal():
            pass
        with closing(sqlite3.connect(bench.path, isolation_level=None)) as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (version,))
        before = bench.path.read_bytes()
        for run in (True, False):
            with pytest.raises(
                JournalOfOtherSchema, match=f"has schema {version}.*set journal.path to a new file"
            ):
                async with bench.journal(run=run):
                    pass
        assert bench.path.read_bytes() == before

    play(story())


def test_a_journal_whose_schema_is_no_number_is_damaged(bench, play):
    async def story():
        async with bench.journal():
            pass
        with closing(sqlite3.connect(bench.path, isolation_level=None)) as db:
            db.execute("UPDATE meta SET value = 'one' WHERE key = 'schema'")
        for run in (True, False):
            with pytest.raises(JournalDamaged, match="schema version is 'one'"):
                async with bench.journal(run=run):
                    pass

    play(story())


def test_an_unwritable_place_is_an_error_and_not_a_traceback(bench, play, tmp_path):
    async def story():
        (tmp_path / "file").write_text("x")
        with pytest.raises(SourceUnavailable):
            async with bench.journal(path=tmp_path / "file" / "journal.db"):
                pass
        (tmp_path / "folder.db").mkdir()
        with pytest.raises((SourceUnavailable, JournalDamaged)):
            async with bench.journal(path=tmp_path / "folder.db"):
                pass

    play(story())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, JournalFull),
        (sqlite3.SQLITE_BUSY, SourceUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, SourceUnavailable),
        (sqlite3.SQLITE_CORRUPT_VTAB, JournalDamaged),
        (sqlite3.SQLITE_NOTADB, JournalDamaged),
    ],
)
def test_errors_of_sqlite_become_errors_that_a_caller_can_handle(tmp_path, code, kind):
    error = sqlite3.OperationalError("told by SQLite")
    error.sqlite_errorcode = code
    with pytest.raises(kind, match="told by SQLite"), translated(tmp_path):
        raise error


def test_a_file_system_without_shared_memory_maps_is_named(tmp_path):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMMAP
    with (
        pytest.raises(SourceUnavailable, match="move it to a local file system"),
        translated(tmp_path / "journal.db"),
    ):
        raise error


def test_a_full_disk_is_a_full_journal_and_nothing_is_stored(bench, play):
    async def story():
        async with bench.journal() as journal:
            await journal.append([bench.arrival("1")])
            pages = await journal._call(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
            await journal._call(
                lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone()
            )
            with pytest.raises(JournalFull, match="no space"):
                await journal.append(
                    [bench.arrival("2"), bench.arrival("3", data={"a": "x" * 100_000})]
                )
            await journal._call(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
            [accepted] = await journal.append([bench.arrival("2")])
            assert not accepted.known

    play(story())


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("table", ["parts", "meta"])
def test_a_database_of_another_program_stays_byte_for_byte_unchanged(
    bench, play, tmp_path, table, run
):
    """Root may run a command where another user has made the journal's name a second name of a
    database.
    """
    other, link = tmp_path / "other.db", tmp_path / "journal.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute(f"CREATE TABLE {table} (key TEXT, value TEXT)")
        db.commit()
    link.hardlink_to(other)
    before = other.read_bytes()

    async def story():
        with pytest.raises(JournalDamaged):
            async with bench.journal(path=link, run=run):
                pass

    play(story())
    assert other.read_bytes() == before
    assert not (tmp_path / "other.db-wal").exists()
