"""Obstacles that another user of the bucket's folder can plant for a command of root. Root follows
none of them, does not wait for them, creates nothing outside and changes no owner through them.
"""

import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from daemon.stores.directory.filesystem import RealFileSystem, UnfitLock
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import StoreRefused
from daemon.stores.port import Content
from tests.builders_runtime import InlineRuntime, done

T = TypeVar("T")
FS = RealFileSystem()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "bucket"
    done(DirectoryStore(root, InlineRuntime()).create("first", Content(b"1")))
    return root


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parents[3] / "outside")


def a_link_to_a_file(path: Path) -> None:
    (path.parents[3] / "target").touch()
    path.symlink_to(path.parents[3] / "target")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    # A short name, because the address of a socket is at most 108 bytes.
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def a_second_name_of_a_file(path: Path) -> None:
    target = path.parents[3] / "target"
    target.touch(0o600)
    os.link(target, path)


@pytest.mark.parametrize(
    "put",
    [a_fifo, a_link_to_nothing, a_link_to_a_file, a_folder, a_socket, a_second_name_of_a_file],
)
def test_an_object_in_place_of_a_lock_file_is_refused_with_the_command_that_removes_it(
    root: Path, put: Callable[[Path], None]
) -> None:
    locks = root / ".rebundle/locks"
    for number in range(256):
        (locks / f"{number:02x}").unlink(missing_ok=True)
        put(locks / f"{number:02x}")
    outside = sorted(path.name for path in root.parent.iterdir())

    with pytest.raises(StoreRefused, match=rf"a lock file must .*rm -r {locks}/[0-9a-f]{{2}}$"):
        done(DirectoryStore(root, InlineRuntime()).create("key", Content(b"1")))

    assert sorted(path.name for path in root.parent.iterdir()) == outside
    assert not (root / "key").exists()


@pytest.mark.parametrize("name", ["tmp", "locks", "store"])
@pytest.mark.parametrize("put", [a_fifo, a_link_to_nothing, a_socket])
def test_an_object_in_place_of_a_private_folder_is_refused(
    root: Path, name: str, put: Callable[[Path], None]
) -> None:
    folder = root / ".rebundle" / name
    for path in folder.iterdir() if folder.exists() else ():
        path.unlink()
    if folder.exists():
        folder.rmdir()
    put(folder)
    outside = sorted(path.name for path in root.parent.iterdir())

    with pytest.raises(
        StoreRefused, match=f"{folder} is .* where a folder belongs.*; move it away: mv {folder} "
    ):
        done(DirectoryStore(root, InlineRuntime()).create("key", Content(b"1", tag={"n": "1"})))

    assert sorted(path.name for path in root.parent.iterdir()) == outside


def test_a_link_to_a_folder_outside_is_not_written_through(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    for name in ("tmp", "locks"):
        elsewhere = root / ".rebundle" / name
        elsewhere.rename(elsewhere.with_name(f"{name}.old"))
        elsewhere.symlink_to(tmp_path / "outside")
    (root / "folder").symlink_to(tmp_path / "outside")

    with pytest.raises(StoreRefused):
        done(DirectoryStore(root, InlineRuntime()).create("key", Content(b"1")))
    for call in (
        lambda: FS.write(root / "folder/file", b"1", mode=0o666),
        lambda: FS.mkdir(root / "folder/below"),
        lambda: FS.lock(root / "folder/lock").__enter__(),
        lambda: FS.sync_folder(root / "folder"),
        lambda: FS.exchange(root / "first", root / "folder/file"),
        lambda: FS.rename(root / "first", root / "folder/file"),
        lambda: FS.link(root / "first", root / "folder/file"),
    ):
        with pytest.raises(OSError, match=f"symbolic links: '{root}/folder'"):
            call()

    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("private", ["tags", "a temporary file"])
def test_a_fifo_in_place_of_a_private_file_blocks_nothing(root: Path, private: str) -> None:
    store = DirectoryStore(root, InlineRuntime("writer"))
    version = done(store.create("key", Content(b"1", tag={"n": "1"})))
    if private == "tags":
        (root / ".rebundle/store/key").unlink()
        os.mkfifo(root / ".rebundle/store/key")
    else:
        os.mkfifo(root / ".rebundle/tmp/left")
        os.utime(root / ".rebundle/tmp/left", (0, 0))

    found = done(DirectoryStore(root, InlineRuntime("another")).get("key"))
    assert (found.body, found.version == version) == (b"1", private != "tags")
    done(
        DirectoryStore(root, InlineRuntime("another")).replace(
            "key", Content(b"2", tag={"n": "2"}), found.version
        )
    )

    assert done(store.get("key")).tag == {"n": "2"}


def test_a_tag_file_of_any_size_uses_little_memory(root: Path) -> None:
    store = DirectoryStore(root, InlineRuntime("writer"))
    done(store.create("key", Content(b"1", tag={"n": "1"})))
    os.truncate(root / ".rebundle/store/key", 1 << 40)

    assert dict(done(store.get("key")).tag) == {}


def test_a_lock_file_that_is_removed_while_it_is_taken_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removing(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        (tmp_path / "lock").unlink()

    flock = fcntl.flock
    monkeypatch.setattr("daemon.stores.directory.filesystem.fcntl.flock", removing)

    with FS.lock(tmp_path / "lock") as held:
        assert not held


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_changes_the_owner_only_of_files_it_just_created(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    os.chown(bucket, 65534, 65534)
    mine = bucket / "mine"
    mine.touch(0o600)
    (bucket / "folder").mkdir(0o700)

    with FS.lock(mine) as held:
        assert held
    for call in (lambda: FS.mkdir(bucket / "folder"), lambda: FS.write(mine, b"", mode=0o666)):
        with pytest.raises(FileExistsError):
            call()

    assert [path.stat().st_uid for path in (mine, bucket / "folder")] == [0, 0]
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600


def test_a_lock_that_is_not_a_plain_file_is_distinguished_from_a_held_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")

    with pytest.raises(UnfitLock, match="must be a plain file"), FS.lock(tmp_path / "lock"):
        pass
