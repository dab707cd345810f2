"""The files of the journal: locked by one run, and checked for being moved or replaced."""

import asyncio
import errno
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from events.errors import JournalDisplaced, JournalLocked, SourceUnavailable
from events.journal.database import open_journal
from events.model import Outcome, OutcomeKind
from events.source import Recorded
from tests.support.journals import next_of
from tests.support.privileges import as_an_ordinary_user, with_permissions_of

GOOD = Outcome(OutcomeKind.PUBLISHED, "folded", "state-1")

IN_ANOTHER_PROCESS = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from events.errors import JournalLocked
from events.journal import Journal

async def main(run):
    options = dict(clock=lambda: datetime.now(UTC), token=lambda: "0" * 32)
    try:
        async with await Journal.open(Path(sys.argv[1]), run=run, **options) as journal:
            print((await journal.backlog()).events)
    except JournalLocked as error:
        print(error)

asyncio.run(main(sys.argv[2] == "run"))
"""


async def opened_elsewhere(path: Path, how: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(IN_ANOTHER_PROCESS), str(path), how]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("displace", [remove, replace])
def test_nothing_is_accepted_once_a_file_is_missing_and_stored_events_are_delivered(
    bench, play, scope, suffix, displace
):
    async def story():
        async with bench.journal() as journal:
            [before] = await journal.append([bench.arrival("1")])
            displace(Path(f"{bench.path}{suffix}"))
            for attempt in (journal.append([bench.arrival("2")]), journal.probe()):
                with pytest.raises(
                    JournalDisplaced, match="rebundle_journal_unacknowledged_events"
                ):
                    await attempt
            assert (await next_of(journal)).position == before.position
            assert (await journal.backlog()).events == 1, "what is refused is not stored"
            await journal.settle(scope, {before.position: GOOD})
            assert await journal.recorded(scope, [before.position]) == {
                before.position: (Recorded(GOOD, None),)
            }

    play(story())


def test_a_restored_journal_file_accepts_again(bench, play, tmp_path):
    async def story():
        async with bench.journal() as journal:
            names = [Path(f"{bench.path}{suffix}") for suffix in ("", "-wal", "-shm")]
            for name in names:
                name.rename(tmp_path / f"aside{name.name}")
            with pytest.raises(JournalDisplaced):
                await journal.append([bench.arrival("1")])
            for name in names:
                (tmp_path / f"aside{name.name}").rename(name)
            await journal.probe()
            [again] = await journal.append([bench.arrival("1")])
            assert not again.known

    play(story())


@pytest.mark.parametrize("command", ["replay", "drop", "take_out"])
def test_no_command_is_confirmed_in_a_missing_file(bench, play, scope, command):
    async def story():
        async with bench.journal() as journal:
            failed, waiting = await journal.append([bench.arrival("1"), bench.arrival("2")])
            await journal.settle(
                scope, {failed.position: Outcome(OutcomeKind.DEAD_LETTERED, "bad")}
            )
            [letter] = await journal.dead_letters()
            bench.path.unlink()
            calls = {
                "replay": lambda: journal.replay(letter.id, by="ann"),
                "drop": lambda: journal.drop(letter.id, by="ann", reason="r"),
                "take_out": lambda: journal.take_out(
                    str(waiting.position), None, reason="r", by="ann"
                ),
            }
            with pytest.raises(JournalDisplaced):
                await calls[command]()

    play(story())


def test_a_second_run_is_refused_although_the_lock_file_was_removed(bench, play):
    async def story():
        async with bench.journal():
            bench.path.with_name("journal.db.lock").unlink()
            assert "stop that one first" in await opened_elsewhere(bench.path, "run")

    play(story())


def test_a_second_run_that_reaches_the_journal_by_another_name_is_refused(bench, play, tmp_path):
    async def story():
        async with bench.journal():
            other = tmp_path / "other.db"
            other.hardlink_to(bench.path)
            assert "another process" in await opened_elsewhere(other, "run")

    play(story())


def test_a_refused_run_leaves_the_locks_of_the_first(bench, play):
    async def story():
        async with bench.journal() as journal:
            with pytest.raises(JournalLocked):
                async with bench.journal():
                    pass
            assert "stop that one first" in await opened_elsewhere(bench.path, "run")
            # With SQLite's own locks lost, another process would believe to be the last one and
            # remove the log.
            assert await opened_elsewhere(bench.path, "beside") == "0\n"
            await journal.append([bench.arrival("1")])

    play(story())


@pytest.mark.parametrize("name", ["journal.db", "journal.db.lock"])
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_a_special_file_in_place_of_a_journal_file_is_refused_at_once(
    bench, play, tmp_path, name, kind
):
    (os.mkfifo if kind == "fifo" else os.mkdir)(tmp_path / name)

    async def story():
        with pytest.raises(SourceUnavailable, match="cannot be opened"):
            async with bench.journal():
                pass

    play(story())


def test_a_hard_link_in_place_of_the_lock_file_is_not_written(bench, play, tmp_path):
    (tmp_path / "precious").write_text("kept")
    Path(f"{bench.path}.lock").hardlink_to(tmp_path / "precious")

    async def story():
        with pytest.raises(SourceUnavailable, match="has a second name"):
            async with bench.journal():
                pass

    play(story())
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_link_in_place_of_the_lock_file_is_not_followed(bench, play, tmp_path):
    Path(f"{bench.path}.lock").symlink_to(tmp_path / "elsewhere")

    async def story():
        with pytest.raises(SourceUnavailable, match="is a symbolic link"):
            async with bench.journal():
                pass
        assert not (tmp_path / "elsewhere").exists()

    play(story())


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("target", ["a file", "a journal", "nothing"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_link_in_the_place_of_the_database_is_not_followed(
    bench, play, tmp_path, target, run, suffix
):
    victim = tmp_path / "victim"
    victim.mkdir()

    async def story():
        if target == "a journal":
            async with bench.journal(path=victim / "file"):
                pass
        elif target == "a file":
            (victim / "file").write_text("root:x:0:0")
        if suffix:
            async with bench.journal():
                pass

    async def used():
        with pytest.raises(SourceUnavailable, match=f"{bench.path}{suffix} is a symbolic link"):
            async with bench.journal(run=run):
                pass

    play(story())
    before = {path.name: path.read_bytes() for path in victim.iterdir()}
    Path(f"{bench.path}{suffix}").symlink_to(victim / "file")
    play(used())
    assert {path.name: path.read_bytes() for path in victim.iterdir()} == before


def test_a_link_above_the_journal_is_followed(bench, play, tmp_path):
    (tmp_path / "state").symlink_to(tmp_path)

    async def story():
        async with bench.journal(path=tmp_path / "state/journal.db") as journal:
            await journal.append([bench.arrival("1")])

    play(story())
    assert bench.path.exists()


ONE, TWO = "1" * 32, "2" * 32


@pytest.mark.parametrize(
    ("first", "second", "copied"),
    [
        (ONE, TWO, True),
        (ONE, ONE, False),
        (ONE, None, False),
        (ONE, "", False),
        (ONE, "uninitialized", False),
        (None, TWO, False),
    ],
)
def test_a_journal_on_another_machine_is_a_copy(bench, play, tmp_path, first, second, copied):
    file = tmp_path / "machine-id"

    def on(machine: str | None) -> None:
        file.unlink(missing_ok=True)
        if machine is not None:
            file.write_text(f"{machine}\n")

    async def story():
        on(first)
        async with bench.journal(machine_id_file=file) as journal:
            original = journal.instance
            assert not journal.is_copy, "it is new"
            await journal.append([bench.arrival("1")])
        on(second)
        async with bench.journal(machine_id_file=file) as journal:
            assert (journal.instance != original, journal.is_copy) == (copied, copied)
            renewed = journal.instance
        async with bench.journal(machine_id_file=file) as journal:
            assert journal.instance == renewed
        on(ONE)
        async with bench.journal(machine_id_file=file) as journal:
            assert (journal.instance != renewed) == (second == TWO), (
                "an unknown value does not erase the known one"
            )

    play(story())


def test_a_journal_that_cannot_be_written_fails_its_probe(bench, play):
    async def story():
        async with bench.journal() as journal:
            await journal.probe()
            await journal._call(lambda db: db.execute("PRAGMA query_only = 1").fetchone())
            with pytest.raises(SourceUnavailable):
                await journal.probe()
            await journal._call(lambda db: db.execute("PRAGMA query_only = 0").fetchone())
            await journal.probe()

    play(story())


def test_the_bucket_is_remembered(bench, play):
    async def story():
        async with bench.journal() as journal:
            assert await journal.bucket() is None
            await journal.remember_bucket("one")
            await journal.remember_bucket("two")
        async with bench.journal(run=False) as journal:
            assert await journal.bucket() == "two"

    play(story())


OTHER_USER = 65534
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")


@pytest.fixture
def home():
    """The folder of another user, which that user can reach."""
    with tempfile.TemporaryDirectory() as made:
        os.chown(made, OTHER_USER, OTHER_USER)
        yield Path(made)


def run_once(path: Path) -> None:
    opened = open_journal(path, token=lambda: "1" * 32, run=True)
    opened.db.execute("UPDATE probe SET at = 'now'")
    opened.close()


def beside(path: Path) -> None:
    open_journal(path, token=lambda: "1" * 32, run=False).close()


@ROOT
def test_the_user_of_a_service_can_open_a_journal_that_root_started(bench, play, home):
    path = home / "var/lib/journal.db"

    async def story():
        async with bench.journal(path=path) as journal:
            await journal.append([bench.arrival("1")])
            found = {
                file.name: (file.stat().st_uid, file.stat().st_gid) for file in home.rglob("*")
            }
            names = {
                "var",
                "lib",
                *(f"journal.db{suffix}" for suffix in ("", "-wal", "-shm", ".lock")),
            }
            assert found == dict.fromkeys(names, (OTHER_USER, OTHER_USER))

    play(story())
    with_permissions_of(OTHER_USER, lambda: run_once(path))


@ROOT
@pytest.mark.parametrize("name", ["journal.db", "journal.db.lock"])
def test_root_changes_the_owner_of_no_existing_file_and_the_service_reports_the_remedy(home, name):
    path = home / "journal.db"
    (home / name).touch(0o600)
    run_once(path)
    assert (home / name).stat().st_uid == 0
    with pytest.raises(
        SourceUnavailable, match=r"belongs to another user.*sudo chown --reference="
    ) as refused:
        with_permissions_of(OTHER_USER, lambda: run_once(path))
    command = str(refused.value).partition("sudo ")[2]
    subprocess.run(["sh", "-c", command], check=True, timeout=60)
    with_permissions_of(OTHER_USER, lambda: run_once(path))


@ROOT
def test_no_file_of_root_remains_where_its_owner_cannot_be_changed(home, monkeypatch):
    def refuse(*_arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("events.journal.files.os.fchown", refuse)
    with pytest.raises(SourceUnavailable, match="Operation not permitted"):
        run_once(home / "journal.db")
    assert list(home.iterdir()) == []


def test_a_journal_without_open_permission_is_reported(tmp_path):
    """File and folder have the same owner, so a change of the owner would not help."""
    path = tmp_path / "journal.db"
    path.touch(0o000)
    Path(f"{path}.lock").touch(0o000)
    with pytest.raises(
        SourceUnavailable,
        match=r"cannot be opened: Permission denied; give it permission: chmod u\+rw .*\.db\. ",
    ):
        as_an_ordinary_user(lambda: run_once(path))


@pytest.mark.parametrize(
    ("closed", "rights"),
    [("my folder/journal.db", "u+rw"), ("my folder", "u+rwx"), (".", "u+rwx")],
)
def test_a_journal_that_may_not_be_read_names_user_command_and_file(tmp_path, closed, rights):
    path, denied = tmp_path / "my folder/journal.db", tmp_path / closed
    run_once(path)
    mode = stat.S_IMODE(denied.stat().st_mode)
    denied.chmod(0)
    with pytest.raises(SourceUnavailable) as refused:
        as_an_ordinary_user(lambda: beside(path))
    denied.chmod(mode)
    user, quoted = pwd.getpwuid(os.geteuid()).pw_name, shlex.quote(str(denied))
    assert f"; give it permission: chmod {rights} {quoted}." in str(refused.value)
    assert f"{user} may not use {denied}: ls -ld {quoted}" in str(refused.value)


@ROOT
def test_a_journal_of_a_service_says_as_which_user_to_use_it(home):
    path = home / "journal.db"
    with_permissions_of(OTHER_USER, lambda: run_once(path))
    path.chmod(0o600)
    with pytest.raises(SourceUnavailable, match=r"run this as a user that may use it: sudo -u "):
        with_permissions_of(OTHER_USER + 1, lambda: beside(path))


@ROOT
def test_a_folder_without_search_permission_is_reported(home):
    (home / "closed").mkdir(0o700)
    with pytest.raises(SourceUnavailable, match=r"Permission denied; .*may not use .*/closed: ls"):
        with_permissions_of(OTHER_USER, lambda: run_once(home / "closed/journal.db"))
