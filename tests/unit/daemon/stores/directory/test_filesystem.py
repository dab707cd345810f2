"""Calls of the real file system that guarantee more than the system call of the same name."""

import contextlib
import ctypes
import errno
import os
import stat
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from daemon.stores.directory.filesystem import Kind, RealFileSystem

FS = RealFileSystem()


@pytest.fixture(params=["openat2", "step by step"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the folder of a name is reached. An older kernel does it step by step."""
    if request.param == "step by step":
        monkeypatch.setattr(
            "daemon.stores.directory.filesystem._opened_at_once", lambda _path, _flags: None
        )


def test_status_reports_the_kind_of_file_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    kinds = {
        entry.name: (entry.kind, FS.status(tmp_path / entry.name) == entry)
        for entry in FS.entries(tmp_path)
    }

    assert kinds == {
        "file": (Kind.FILE, True),
        "folder": (Kind.FOLDER, True),
        "link": (Kind.LINK, True),
        "pipe": (Kind.FIFO, True),
    }
    assert FS.status(tmp_path / "file").size == 3
    assert FS.status(tmp_path / "absent") is None
    assert FS.status(tmp_path / "file" / "below") is None


def test_a_folder_whose_files_have_no_status_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that may be read but not searched: its names can be listed, and nothing else."""

    class Unsearchable:
        name = "file"

        def stat(self, *, follow_symlinks: bool) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "file")

    monkeypatch.setattr(os, "scandir", lambda _folder: contextlib.nullcontext([Unsearchable()]))

    with pytest.raises(PermissionError) as refused:
        list(FS.entries(tmp_path))

    assert refused.value.filename == str(tmp_path)


def test_a_null_byte_in_a_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")

    with pytest.raises(ValueError, match="null"):
        list(FS.chunks(tmp_path / "file\0more"))


def test_read_follows_no_link_and_does_not_block_on_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    assert b"".join(FS.chunks(tmp_path / "file")) == b"123"
    with pytest.raises(IsADirectoryError):
        list(FS.chunks(tmp_path))
    with pytest.raises(OSError, match="not a plain file"):
        list(FS.chunks(tmp_path / "pipe"))
    with pytest.raises(OSError, match="symbolic links"):
        list(FS.chunks(tmp_path / "link"))


@pytest.mark.parametrize(("mode", "left"), [(0o666, 0o664), (0o777, 0o775), (0o600, 0o600)])
def test_the_umask_applies_to_the_mode_of_a_new_file(tmp_path: Path, mode: int, left: int) -> None:
    before = os.umask(0o002)
    try:
        FS.write(tmp_path / "file", b"123", mode=mode)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == left
    with pytest.raises(FileExistsError):
        FS.write(tmp_path / "file", b"", mode=mode)
    assert (tmp_path / "file").read_bytes() == b"123"


def test_link_refuses_an_existing_name_and_rename_replaces_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)

    with pytest.raises(FileExistsError):
        FS.link(tmp_path / "one", tmp_path / "two")
    FS.link(tmp_path / "one", tmp_path / "three")
    FS.rename(tmp_path / "one", tmp_path / "two")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "two": "one",
        "three": "one",
    }


def test_a_lock_is_exclusive_and_can_be_taken_again(tmp_path: Path) -> None:
    with FS.lock(tmp_path / "lock") as first, FS.lock(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with FS.lock(tmp_path / "lock") as third:
        assert third


def test_a_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    script = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); input()"
    with Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")], stdin=PIPE, stdout=PIPE
    ) as other:
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
def test_a_file_created_by_root_belongs_to_the_owner_of_its_folder(tmp_path):
    """A command that root runs, beside a daemon of another user."""
    files, bucket = RealFileSystem(), tmp_path / "bucket"
    bucket.mkdir()
    os.chown(bucket, 65534, 65534)
    files.mkdir(bucket / "folder")
    files.write(bucket / "folder/file", b"1", mode=0o666)
    with files.lock(bucket / "folder/lock") as held:
        assert held

    assert {path.stat().st_uid for path in bucket.rglob("*")} == {65534}
    assert len(list(bucket.rglob("*"))) == 3


def test_no_call_goes_through_a_link_in_any_part_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "real/below/file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    through = tmp_path / "link/below/file"

    for call in (
        lambda: FS.status(through),
        lambda: list(FS.entries(through.parent)),
        lambda: list(FS.entries(tmp_path / "link")),
        lambda: list(FS.chunks(through)),
        lambda: FS.sync(through),
        lambda: FS.unlink(through),
        lambda: FS.rmdir(through.parent),
        lambda: FS.rename(tmp_path / "real/below/file", through),
    ):
        with pytest.raises(OSError, match=f"symbolic links: '{tmp_path}/link'"):
            call()
    assert (FS.status(tmp_path / "link"), FS.status(tmp_path / "real/below/file/none")) != (
        None,
        None,
    )
    assert through.read_bytes() == b"1"


def test_exchange_swaps_names_of_any_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "folder").mkdir()

    FS.exchange(tmp_path / "file", tmp_path / "folder")

    assert ((tmp_path / "file").is_dir(), (tmp_path / "folder").read_bytes()) == (True, b"1")
    with pytest.raises(FileNotFoundError):
        FS.exchange(tmp_path / "file", tmp_path / "absent")
    assert (tmp_path / "file").is_dir()


def test_a_c_library_without_the_call_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older:
        @staticmethod
        def syscall(*_arguments: object) -> int:
            ctypes.set_errno(errno.ENOSYS)
            return -1

    monkeypatch.setattr("daemon.stores.directory.filesystem._libc", Older())

    with pytest.raises(OSError, match="not implemented"):
        FS.exchange(tmp_path / "one", tmp_path / "other")


def test_the_root_of_the_system_is_a_folder_that_can_be_listed() -> None:
    assert FS.status(Path("/")).kind is Kind.FOLDER
    assert {entry.name for entry in FS.entries(Path("/"))} == {
        path.name for path in Path("/").iterdir()
    }
