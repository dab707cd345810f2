"""The real file system's calls, where they promise more than the system call of the same name."""

import os
import stat
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from daemon.stores.filesystem import Kind, RealFileSystem

FS = RealFileSystem()


def test_status_tells_what_stands_there_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    kinds = {entry.name: (entry.kind, FS.status(tmp_path / entry.name) == entry) for entry in FS.entries(tmp_path)}

    assert kinds == {
        "file": (Kind.FILE, True),
        "folder": (Kind.FOLDER, True),
        "link": (Kind.LINK, True),
        "pipe": (Kind.FIFO, True),
    }
    assert FS.status(tmp_path / "file").size == 3
    assert FS.status(tmp_path / "absent") is None
    assert FS.status(tmp_path / "file" / "below") is None


def test_read_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    assert b"".join(FS.chunks(tmp_path / "file")) == b"123"
    with pytest.raises(OSError, match="not a plain file"):
        list(FS.chunks(tmp_path / "pipe"))
    with pytest.raises(OSError, match="symbolic links"):
        list(FS.chunks(tmp_path / "link"))


@pytest.mark.parametrize(("mode", "left"), [(0o666, 0o664), (0o777, 0o775), (0o600, 0o600)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, mode: int, left: int) -> None:
    before = os.umask(0o002)
    try:
        FS.write(tmp_path / "file", b"123", mode=mode)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == left
    with pytest.raises(FileExistsError):
        FS.write(tmp_path / "file", b"", mode=mode)
    assert (tmp_path / "file").read_bytes() == b"123"


def test_link_gives_no_name_that_is_taken_and_rename_takes_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)

    with pytest.raises(FileExistsError):
        FS.link(tmp_path / "one", tmp_path / "two")
    FS.link(tmp_path / "one", tmp_path / "three")
    FS.rename(tmp_path / "one", tmp_path / "two")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"two": "one", "three": "one"}


def test_a_lock_is_held_once_and_then_again(tmp_path: Path) -> None:
    with FS.lock(tmp_path / "lock") as first, FS.lock(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with FS.lock(tmp_path / "lock") as third:
        assert third


def test_a_lock_of_another_process_goes_when_it_is_killed(tmp_path: Path) -> None:
    script = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); input()"
    with Popen([sys.executable, "-c", script, str(tmp_path / "lock")], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with FS.lock(tmp_path / "lock") as taken:
            assert not taken
        other.kill()
        other.wait()
        with FS.lock(tmp_path / "lock") as taken:
            assert taken


def test_a_lock_file_of_another_user_can_be_held(tmp_path: Path) -> None:
    (tmp_path / "lock").touch(0o444)

    with FS.lock(tmp_path / "lock") as taken:
        assert taken


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
def test_what_root_makes_belongs_to_the_owner_of_its_folder(tmp_path):
    """An operator's verb, run by root, beside a daemon of another user."""
    files, theirs = RealFileSystem(), tmp_path / "bucket"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    files.mkdir(theirs / "folder")
    files.write(theirs / "folder/file", b"1", mode=0o666)
    with files.lock(theirs / "folder/lock") as held:
        assert held

    assert {path.stat().st_uid for path in theirs.rglob("*")} == {65534}
    assert len(list(theirs.rglob("*"))) == 3
