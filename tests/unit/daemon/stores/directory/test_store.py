"""Faults that only a directory has: editors, links, foreign files, full disks, writers that are
stopped or killed.

The contract suite has what all stores share; `tests/powercut` has power cuts.
"""

import asyncio
import errno
import hashlib
import itertools
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from daemon.stores.directory import store as directory_store
from daemon.stores.directory.filesystem import DirectoryEntry, RealFileSystem
from daemon.stores.directory.store import LOCK_SECONDS, STALE_SECONDS, DirectoryStore
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    ObjectTooBig,
    OutcomeUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.port import Content, Listed, Version
from daemon.stores.remedies import move_file
from tests.builders_runtime import InlineRuntime, ThreadRuntime, done
from tests.support.filesystems import (
    FailingFileSystem,
    Link,
    Mkdir,
    Operation,
    PassingFileSystem,
    Rename,
    Sync,
    SyncFolder,
    Write,
)
from tests.support.privileges import as_an_ordinary_user

T = TypeVar("T")
PROJECT = Path(__file__).parents[5]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root, InlineRuntime())


def tagged(body: bytes, **tag: str) -> Content:
    return Content(body, tag=tag)


def keys(store: DirectoryStore, prefix: str = "") -> list[str]:
    return [listed.key for listed in done(store.scan(prefix))]


# ---- an ordinary folder


def test_an_object_is_a_file_under_its_key(store: DirectoryStore, root: Path) -> None:
    done(store.create("bundle/target/base/download.sh", tagged(b"#!/bin/sh\n", mode="0755")))
    done(store.create("bundle/target/base/models.txt", tagged(b"101\n", mode="0644")))

    script, models = root / "bundle/target/base/download.sh", root / "bundle/target/base/models.txt"
    assert (script.read_bytes(), stat.S_IMODE(script.stat().st_mode)) == (b"#!/bin/sh\n", 0o755)
    assert (models.read_bytes(), stat.S_IMODE(models.stat().st_mode)) == (b"101\n", 0o644)
    assert sorted(path.name for path in root.iterdir()) == [".rebundle", "bundle"]


def test_the_mode_follows_the_tag_of_each_write(store: DirectoryStore, root: Path) -> None:
    version = done(store.create("file", tagged(b"1")))
    version = done(store.replace("file", tagged(b"2", mode="0755"), version))
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o755
    done(store.replace("file", tagged(b"3"), version))
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o644


def test_reading_creates_no_folder(store: DirectoryStore, root: Path) -> None:
    assert keys(store) == []
    with pytest.raises(ObjectMissing):
        done(store.get("key"))

    assert not root.exists()


CALLS = {
    "get": lambda store: store.get("a/key"),
    "scan": lambda store: store.scan("a/"),
    "folders": lambda store: store.folders(""),
    "create": lambda store: store.create("a/new", Content(b"1")),
    "replace": lambda store: store.replace("a/key", Content(b"2"), Version("1")),
    "delete": lambda store: store.delete("a/key", Version("1")),
}


@pytest.mark.parametrize("seen_by", ["get", "scan", "folders", "create", "must_exist"])
@pytest.mark.parametrize("call", CALLS)
def test_a_root_that_vanished_is_refused_and_not_made_again(
    root: Path, seen_by: str, call: str
) -> None:
    done(DirectoryStore(root, InlineRuntime("other")).create("a/key", tagged(b"1", n="1")))
    store = DirectoryStore(root, InlineRuntime(), must_exist=seen_by == "must_exist")
    if seen_by in CALLS:
        done(CALLS[seen_by](store))
    root.rename(root.with_name("elsewhere"))

    with pytest.raises(StoreRefused, match=r"there is no folder .* is its volume not mounted"):
        done(CALLS[call](store))

    assert not root.exists()
    root.with_name("elsewhere").rename(root)
    assert done(store.get("a/key")).body == b"1"


def test_a_root_that_vanishes_with_its_volume_during_a_listing_is_refused(root: Path) -> None:
    class Unmounting(RealFileSystem):
        def entries(self, folder: Path) -> Iterator[DirectoryEntry]:
            if folder.name == "b":
                root.rename(root.with_name("elsewhere"))
            yield from super().entries(folder)

    done(DirectoryStore(root, InlineRuntime()).create("b/key", Content(b"1")))
    with pytest.raises(StoreRefused, match="there is no folder"):
        done(DirectoryStore(root, InlineRuntime(), Unmounting()).scan(""))
    root.with_name("elsewhere").rename(root)
    with pytest.raises(StoreRefused, match="there is no folder"):
        done(DirectoryStore(root, InlineRuntime(), Unmounting()).folders(""))


def test_a_plain_file_in_place_of_the_root_is_refused(store: DirectoryStore, root: Path) -> None:
    root.write_text("a file")
    for call in CALLS.values():
        with pytest.raises(StoreRefused, match="is a plain file"):
            done(call(store))


def test_a_root_behind_a_link_is_the_target_folder(tmp_path: Path, root: Path) -> None:
    root.mkdir()
    (tmp_path / "link").symlink_to(root)

    done(DirectoryStore(tmp_path / "link", InlineRuntime()).create("key", Content(b"1")))

    assert (root / "key").read_bytes() == b"1"


def test_a_deletion_removes_only_empty_folders(store: DirectoryStore, root: Path) -> None:
    kept = done(store.create("a/kept", tagged(b"1", n="1")))
    version = done(store.create("a/b/c/key", tagged(b"1", n="1")))

    done(store.delete("a/b/c/key", version))
    assert sorted(path.name for path in (root / "a").iterdir()) == ["kept"]

    done(store.delete("a/kept", kept))
    assert [path.name for path in root.iterdir()] == [".rebundle"]
    assert list((root / ".rebundle/store").iterdir()) == []


def test_nothing_is_left_in_the_folder_of_temporary_files(
    store: DirectoryStore, root: Path
) -> None:
    version = done(store.create("key", tagged(b"1", n="1")))
    with pytest.raises(ConditionFailed):
        done(store.create("key", tagged(b"2", n="1")))
    version = done(store.replace("key", tagged(b"2", n="2"), version))
    done(store.delete("key", version))

    assert list((root / ".rebundle/tmp").iterdir()) == []


def test_private_files_of_the_store_are_neither_listed_nor_keys(store: DirectoryStore) -> None:
    done(store.create("a/key", tagged(b"1", n="1")))
    done(store.create(".rebundle/probe/1", Content(b"probe")))

    assert keys(store) == [".rebundle/probe/1", "a/key"]
    assert done(store.folders(".rebundle/")) == ["probe"]
    for private in (
        ".rebundle/store",
        ".rebundle/store/a/key",
        ".rebundle/tmp/1",
        ".rebundle/locks/00",
    ):
        with pytest.raises(ValueError, match="reserved"):
            done(store.get(private))
        with pytest.raises(ValueError, match="reserved"):
            done(store.create(private, Content(b"")))


def test_the_lock_files_do_not_grow_with_the_keys(store: DirectoryStore, root: Path) -> None:
    for number in range(600):
        done(store.create(f"key-{number}", Content(b"")))

    assert len(list((root / ".rebundle/locks").iterdir())) <= 256


def test_without_a_tag_there_is_no_tag_file_and_the_version_is_the_digest(
    store: DirectoryStore, root: Path
) -> None:
    version = done(store.create("pointer.json", Content(b"1")))

    assert version == hashlib.sha256(b"1").hexdigest()
    assert not (root / ".rebundle/store").exists()


# ---- editors and other programs


def test_a_file_that_was_edited_has_no_tag_and_another_version(
    store: DirectoryStore, root: Path
) -> None:
    version = done(store.create("file", tagged(b"ours", n="1")))
    (root / "file").write_bytes(b"theirs")

    stored = done(store.get("file"))

    assert (stored.body, dict(stored.tag)) == (b"theirs", {})
    assert stored.version == hashlib.sha256(b"theirs").hexdigest() != version
    with pytest.raises(ConditionFailed):
        done(store.replace("file", tagged(b"new", n="2"), version))
    done(store.replace("file", tagged(b"new", n="2"), stored.version))
    assert done(store.get("file")).tag == {"n": "2"}


def test_an_undone_edit_restores_tag_and_version(store: DirectoryStore, root: Path) -> None:
    version = done(store.create("file", tagged(b"ours", n="1")))
    (root / "file").write_bytes(b"theirs")
    (root / "file").write_bytes(b"ours")

    stored = done(store.get("file"))

    assert (stored.version, stored.tag) == (version, {"n": "1"})


def test_a_file_that_an_operator_removed_is_recreated_without_its_old_tag(
    store: DirectoryStore, root: Path
) -> None:
    version = done(store.create("file", tagged(b"ours", n="1")))
    (root / "file").unlink()

    with pytest.raises(ObjectMissing):
        done(store.replace("file", Content(b"new"), version))
    done(store.create("file", Content(b"ours")))

    stored = done(store.get("file"))
    assert (dict(stored.tag), stored.version == version) == ({}, False)


def test_a_file_of_an_operator_is_an_object(store: DirectoryStore, root: Path) -> None:
    (root / "example/conf").mkdir(parents=True)
    (root / "example/conf/.env").write_bytes(b"A=1\n")
    os.utime(root / "example/conf/.env", (1_700_000_000, 1_700_000_000))

    digest = hashlib.sha256(b"A=1\n").hexdigest()
    modified = datetime.fromtimestamp(1_700_000_000, UTC)
    assert list(done(store.scan("example/"))) == [
        Listed("example/conf/.env", digest, 4, modified, digest)
    ]
    with pytest.raises(ConditionFailed):
        done(store.create("example/conf/.env", tagged(b"A=\n")))
    assert (root / "example/conf/.env").read_bytes() == b"A=1\n"


def test_an_object_with_a_damaged_tag_file_counts_as_foreign(
    store: DirectoryStore, root: Path
) -> None:
    done(store.create("file", tagged(b"ours", n="1")))
    (root / ".rebundle/store/file").write_bytes(b"{torn")

    stored = done(store.get("file"))

    assert (stored.body, dict(stored.tag)) == (b"ours", {})
    done(store.replace("file", tagged(b"ours", n="2"), stored.version))
    assert done(store.get("file")).tag == {"n": "2"}


def test_an_empty_folder_is_not_an_object(store: DirectoryStore, root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/file").touch()

    assert done(store.folders("")) == ["d"]


def test_links_and_special_files_are_listed_with_their_fault_and_refused(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside/secret")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")

    faults = {entry.key: entry.fault or "" for entry in done(store.scan(""))}
    assert list(faults) == ["dangling", "folder", "link", "pipe"]
    assert [fault.split(" is ")[1].split(" where")[0] for fault in faults.values()] == [
        "a symbolic link"
    ] * 3 + ["a FIFO"]
    assert f"move it away: {move_file(root, root / 'pipe')}" in faults["pipe"]
    assert list(done(store.folders(""))) == []
    for key in ("link", "dangling", "pipe", "folder/secret", "folder/new"):
        for call in (store.get(key), store.create(key, Content(b"new")), store.delete(key, "1")):
            with pytest.raises(StoreRefused, match="a FIFO" if key == "pipe" else "symbolic link"):
                done(call)
    for listing in (store.scan("folder/"), store.folders("folder/")):
        with pytest.raises(StoreRefused) as raised:
            done(listing)
        assert f"move it away: {move_file(root, root / 'folder')}" in str(raised.value)
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["secret"]


def test_a_scope_whose_folder_is_closed_is_refused_with_the_command_that_opens_it(
    root: Path,
) -> None:
    scope = root / "bundle/target"
    scope.mkdir(parents=True)
    scope.chmod(0o000)
    for call in ("scan", "folders"):

        def work(call: str = call) -> str:
            with pytest.raises(StoreRefused) as raised:
                done(getattr(DirectoryStore(root, InlineRuntime()), call)("bundle/target/"))
            return str(raised.value)

        message = as_an_ordinary_user(work)
        assert f"chmod a+rx {scope} (its owner and mode: ls -ld {scope})" in message


def test_a_file_in_place_of_a_folder_and_the_reverse_are_refused(
    store: DirectoryStore, root: Path
) -> None:
    (root / "folder").mkdir(parents=True)
    (root / "file").write_bytes(b"1")

    with pytest.raises(StoreRefused, match="move it away"):
        done(store.create("folder", Content(b"")))
    with pytest.raises(StoreRefused, match="move it away"):
        done(store.create("file/below", Content(b"")))
    with pytest.raises(StoreRefused, match="move it away"):
        done(store.get("folder"))
    with pytest.raises(ObjectMissing):
        done(store.get("file/below"))
    assert list(done(store.scan("file/"))) == []


def test_names_that_no_key_can_have_are_left_out(store: DirectoryStore, root: Path) -> None:
    root.mkdir()
    for name in (b"latin-\xe9", b"line\nbreak"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).touch()
    (root / "good").touch()

    assert keys(store) == ["good"]


class HidingFileSystem(PassingFileSystem):
    """One file may not be read. Tests may run as root, which no mode stops."""

    def __init__(self, hidden: str) -> None:
        super().__init__(RealFileSystem())
        self._hidden = hidden

    def chunks(self, path: Path) -> Iterable[bytes]:
        if path.name == self._hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return super().chunks(path)


def test_a_file_that_may_not_be_read_is_listed_without_a_digest(root: Path) -> None:
    (root / "creds").mkdir(parents=True)
    (root / "creds/key.json").write_bytes(b"secret")
    (root / "other").write_bytes(b"1")
    store = DirectoryStore(root, InlineRuntime(), HidingFileSystem("key.json"))

    hidden, other = done(store.scan(""))

    assert (hidden.key, hidden.size, hidden.sha256) == ("creds/key.json", 6, None)
    assert f"chmod a+r {root}/creds/key.json" in (hidden.fault or "")
    assert (other.sha256 is not None, other.fault) == (True, None)
    with pytest.raises(StoreRefused, match="permission"):
        done(store.get("creds/key.json"))


def test_files_excluded_from_reading_are_listed_unopened(root: Path) -> None:
    (root / "example/creds").mkdir(parents=True)
    (root / "example/creds/key.json").write_bytes(b"secret")
    store = DirectoryStore(
        root,
        InlineRuntime(),
        HidingFileSystem("key.json"),
        unread=lambda key: "/creds/" in f"/{key}",
    )

    [before] = done(store.scan(""))
    (root / "example/creds/key.json").write_bytes(b"another secret")
    [after] = done(store.scan(""))

    assert (before.size, before.sha256, after.size) == (6, None, 14)
    assert before.version != after.version


@pytest.mark.parametrize(("mode", "left"), [("0644", 0o600), ("0755", 0o700)])
def test_a_private_file_is_readable_only_by_its_owner_with_any_umask(
    root: Path, mode: str, left: int
) -> None:
    store = DirectoryStore(root, InlineRuntime(), private=lambda key: "/creds/" in f"/{key}")
    before = os.umask(0)
    try:
        version = done(store.create("example/creds/key.json", tagged(b"1", mode=mode)))
        done(store.create("example/open", tagged(b"1", mode=mode)))
        assert stat.S_IMODE((root / "example/creds/key.json").stat().st_mode) == left
        done(store.replace("example/creds/key.json", tagged(b"2", mode=mode), version))
    finally:
        os.umask(before)

    assert stat.S_IMODE((root / "example/creds/key.json").stat().st_mode) == left
    assert stat.S_IMODE((root / "example/open").stat().st_mode) == left | left >> 3 | left >> 6


class BarringFileSystem(PassingFileSystem):
    """One folder may not be listed."""

    def __init__(self, barred: str) -> None:
        super().__init__(RealFileSystem())
        self._barred = barred

    def entries(self, folder: Path) -> Iterable[DirectoryEntry]:
        if folder.name == self._barred:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return super().entries(folder)


def test_an_unlistable_folder_fails_only_its_own_listing(root: Path) -> None:
    (root / "scope/lost+found/below").mkdir(parents=True)
    (root / "scope/key").write_bytes(b"1")
    (root / "scope/lost+found/key").write_bytes(b"1")
    store = DirectoryStore(root, InlineRuntime(), BarringFileSystem("lost+found"))

    for prefix in ("", "scope/", "scope/l"):
        listing = done(store.scan(prefix))
        assert [entry.key for entry in listing] == ["scope/key"] * (prefix != "scope/l")
        [folder] = listing.unreadable
        assert folder.key == "scope/lost+found"
        assert f"chmod a+rx {root}/scope/lost+found" in folder.reason
    assert done(store.scan("scope/k")).unreadable == ()
    assert (done(store.folders("")), done(store.folders("scope/"))) == (["scope"], ["lost+found"])
    for call in (store.scan("scope/lost+found/"), store.folders("scope/lost+found/")):
        with pytest.raises(StoreRefused, match="permission"):
            done(call)


# ---- what a listing reads


class CountingReads(PassingFileSystem):
    """Counts the bytes read from files outside the private folders of the store."""

    def __init__(self) -> None:
        super().__init__(RealFileSystem())
        self.read: list[tuple[str, int]] = []

    def chunks(self, path: Path) -> Iterable[bytes]:
        for chunk in super().chunks(path):
            if ".rebundle" not in path.parts:
                self.read.append((path.name, len(chunk)))
            yield chunk


@pytest.fixture
def later() -> InlineRuntime:
    """A time after which a file that a test has just written cannot change unnoticed."""
    runtime = InlineRuntime("later")
    runtime.seconds = time.time() + 3600
    return runtime


def test_a_listing_reads_a_file_once_and_again_when_it_changed(
    root: Path, later: InlineRuntime
) -> None:
    files = CountingReads()
    store = DirectoryStore(root, later, files)
    done(store.create("tagged", tagged(b"ours", n="1")))
    done(store.create("plain", Content(b"plain")))

    first = done(store.scan(""))
    assert sorted(files.read) == [("plain", 5), ("tagged", 4)]
    files.read.clear()
    assert done(store.scan("")) == first
    assert files.read == []

    found = (root / "tagged").stat()
    (root / "tagged").write_bytes(b"YOUR")
    os.utime(root / "tagged", ns=(found.st_atime_ns, found.st_mtime_ns))
    plain, changed = done(store.scan(""))
    assert files.read == [("tagged", 4)]
    assert (plain, changed.sha256) == (first[0], hashlib.sha256(b"YOUR").hexdigest())


def test_versions_read_only_files_that_changed_since_they_were_listed_or_asked_for(
    root: Path, later: InlineRuntime
) -> None:
    files = CountingReads()
    store = DirectoryStore(root, later, files)
    keys = ["plain", "tagged"]
    done(store.create("tagged", tagged(b"ours", n="1")))
    done(store.create("plain", Content(b"plain")))

    first = done(store.versions(keys))
    assert sorted(files.read) == [("plain", 5), ("tagged", 4)]
    files.read.clear()
    assert done(store.versions(keys)) == first
    assert {entry.key: entry.version for entry in done(store.scan(""))} == first
    assert files.read == []

    (root / "plain").write_bytes(b"other")
    done(DirectoryStore(root, later).replace("tagged", tagged(b"ours", n="2"), first["tagged"]))
    files.read.clear()
    changed = done(store.versions(keys))
    assert all(changed[key] != first[key] for key in keys)
    assert sorted(files.read) == [("plain", 5), ("tagged", 4)]


def test_a_folder_that_cannot_be_entered_hides_only_the_versions_below_it(root: Path) -> None:
    class Closed(PassingFileSystem):
        def status(self, path: Path) -> DirectoryEntry | None:
            if path.parent.name == "closed":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return super().status(path)

    store = DirectoryStore(root, InlineRuntime(), Closed(RealFileSystem()))
    version = done(store.create("open/key", Content(b"1")))

    assert done(store.versions(["closed/key", "open/key", "open/absent"])) == {"open/key": version}
    root.rename(root.with_name("away"))
    with pytest.raises(StoreRefused, match="there is no folder"):
        done(store.versions(["open/key"]))


def test_a_file_that_changed_a_moment_ago_is_read_again(root: Path) -> None:
    runtime, files = InlineRuntime(), CountingReads()
    store = DirectoryStore(root, runtime, files)
    done(store.create("key", Content(b"1")))
    runtime.seconds = (root / "key").stat().st_ctime + 1

    for _ in range(2):
        done(store.scan(""))

    assert files.read == [("key", 1)] * 2


def test_another_tag_of_the_same_bytes_is_noticed_without_reading_them(
    root: Path, later: InlineRuntime
) -> None:
    files = CountingReads()
    store = DirectoryStore(root, later, files)
    done(store.create("key", tagged(b"1", n="1")))
    done(store.scan(""))
    (root / ".rebundle/store/key").unlink()
    files.read.clear()

    [listed] = done(store.scan(""))

    assert (listed.version, files.read) == (hashlib.sha256(b"1").hexdigest(), [])


def test_a_file_that_changes_during_a_slow_read_is_read_again(
    root: Path, later: InlineRuntime
) -> None:
    """Both writes are within the resolution of the times, and the read ends after they settled."""
    runtime = InlineRuntime()
    store = DirectoryStore(root, runtime, files := CountingReads())
    done(store.create("key", Content(b"1")))
    changed = (root / "key").stat().st_ctime
    runtime.seconds = changed + 1
    read = files.chunks

    def slow(path: Path) -> Iterable[bytes]:
        yield from read(path)
        runtime.seconds = changed + 10

    files.chunks = slow  # type: ignore[method-assign]
    done(store.scan(""))
    files.chunks = read  # type: ignore[method-assign]
    files.read.clear()
    done(store.scan(""))

    assert files.read == [("key", 1)]


def test_a_tag_file_that_could_not_be_read_once_is_read_again(
    root: Path, later: InlineRuntime
) -> None:
    class FailingOnce(PassingFileSystem):
        failed = False

        def chunks(self, path: Path) -> Iterable[bytes]:
            if ".rebundle" in path.parts and not self.failed:
                self.failed = True
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return super().chunks(path)

    version = done(DirectoryStore(root, later).create("key", tagged(b"1", n="1")))
    store = DirectoryStore(root, later, FailingOnce(RealFileSystem()))

    done(store.scan(""))
    [listed] = done(store.scan(""))

    assert listed.version == version


def test_a_too_large_file_is_listed_unread_and_its_version_is_stable(
    root: Path, later: InlineRuntime
) -> None:
    files = CountingReads()
    store = DirectoryStore(root, later, files, unread_bytes=8)
    created = done(store.create("a/big", tagged(b"123456789", n="1")))
    files.read.clear()

    [listed] = done(store.scan("a/"))
    assert (listed.size, listed.sha256, listed.fault, listed.version, files.read) == (
        9,
        None,
        None,
        created,
        [],
    )
    stored = done(store.get("a/big"))
    assert (stored.body, stored.version, stored.tag) == (b"123456789", created, {"n": "1"})

    replaced = done(store.replace("a/big", tagged(b"another big body", n="2"), created))
    assert (
        done(store.scan(""))[0].version == done(store.get("a/big")).version == replaced != created
    )
    with pytest.raises(ConditionFailed):
        done(store.replace("a/big", tagged(b"a third big body", n="3"), created))
    small = done(store.replace("a/big", tagged(b"small", n="4"), replaced))
    assert small.startswith(hashlib.sha256(b"small").hexdigest())
    big = done(store.replace("a/big", tagged(b"123456789", n="5"), small))
    (root / "a/big").write_bytes(b"987654321")
    with pytest.raises(ConditionFailed):
        done(store.delete("a/big", big))
    files.read.clear()
    done(store.delete("a/big", done(store.scan(""))[0].version))
    assert (keys(store), files.read) == ([], [])


def test_a_body_that_is_replaced_and_removed_at_once_has_a_unique_version(
    root: Path,
) -> None:
    class Overtaken(PassingFileSystem):
        def link(self, source: Path, target: Path) -> None:
            super().link(source, target)
            target.unlink()
            target.write_bytes(b"another")

    store = DirectoryStore(root, InlineRuntime(), Overtaken(RealFileSystem()), unread_bytes=4)

    version = done(store.create("key", Content(b"12345")))

    assert version != done(store.get("key")).version


def test_a_large_file_that_changes_while_it_is_read_is_read_again(root: Path) -> None:
    store = DirectoryStore(root, InlineRuntime(), unread_bytes=4)
    done(store.create("key", Content(b"12345")))

    class Appended(PassingFileSystem):
        times = 1

        def chunks(self, path: Path) -> Iterable[bytes]:
            yield from super().chunks(path)
            if path.name == "key" and path.parent == root and self.times:
                self.times -= 1
                with path.open("ab") as file:
                    file.write(b"6")

    files = Appended(RealFileSystem())
    stored = done(DirectoryStore(root, InlineRuntime(), files, unread_bytes=4).get("key"))
    assert (stored.body, stored.version) == (b"123456", done(store.scan(""))[0].version)

    files.times = 100
    with pytest.raises(StoreUnavailable, match="repeatedly"):
        done(DirectoryStore(root, InlineRuntime(), files, unread_bytes=4).get("key"))


def test_a_file_whose_tags_change_endlessly_has_a_specific_fault(root: Path) -> None:
    class Flipping(PassingFileSystem):
        times = 0

        def chunks(self, path: Path) -> Iterable[bytes]:
            if ".rebundle" in path.parts and path.name == "key":
                self.times += 1
                return [b'[{"sha256": "%d", "id": "", "tag": {}}]' % self.times]
            return super().chunks(path)

    store = DirectoryStore(root, InlineRuntime(), Flipping(RealFileSystem()))
    for name in ("key", "other"):
        done(store.create(name, tagged(b"1", n="1")))

    faulty, other = done(store.scan(""))

    assert (faulty.fault, other.fault) == ("key was changed repeatedly while it was read", None)


@pytest.mark.parametrize("limit", [0, 3])
def test_a_read_stops_at_the_limit_of_the_caller(root: Path, limit: int) -> None:
    files = CountingReads()
    store = DirectoryStore(root, InlineRuntime(), files)
    done(store.create("key", Content(b"1234")))

    with pytest.raises(ObjectTooBig):
        done(store.get("key", max_bytes=limit))
    assert files.read == []
    assert done(store.get("key", max_bytes=4)).body == b"1234"


def test_a_file_that_grows_during_a_read_is_refused_at_the_limit(root: Path) -> None:
    class Endless(PassingFileSystem):
        def chunks(self, path: Path) -> Iterable[bytes]:
            return (
                itertools.repeat(b"x" * 100)
                if path.name == "key" and path.parent == root
                else super().chunks(path)
            )

    store = DirectoryStore(root, InlineRuntime(), Endless(RealFileSystem()), unread_bytes=1000)
    root.mkdir()
    (root / "key").write_bytes(b"")

    with pytest.raises(ObjectTooBig):
        done(store.get("key", max_bytes=1000))
    assert done(store.scan(""))[0].key == "key"


def test_a_lack_of_file_descriptors_is_reported_and_blames_no_file(root: Path) -> None:
    class Exhausted(PassingFileSystem):
        def __init__(self, where: str) -> None:
            super().__init__(RealFileSystem())
            self._where = where

        def chunks(self, path: Path) -> Iterable[bytes]:
            return self._fail(path) or super().chunks(path)

        def entries(self, folder: Path) -> Iterable[DirectoryEntry]:
            return self._fail(folder) or super().entries(folder)

        def status(self, path: Path) -> DirectoryEntry | None:
            if path.parent.name == "b":
                self._fail(path.parent)
            return super().status(path)

        def _fail(self, path: Path) -> None:
            if path.relative_to(root).as_posix() == self._where:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    done(DirectoryStore(root, InlineRuntime()).create("a/b/key", tagged(b"1", n="1")))
    for where in ("a/b/key", ".rebundle/store/a/b/key", "a/b"):
        store = DirectoryStore(root, InlineRuntime(), Exhausted(where))
        for call in (store.scan(""), store.versions(["a/b/key"])):
            with pytest.raises(StoreUnavailable, match="Too many open files"):
                done(call)
    with pytest.raises(StoreUnavailable, match="Too many open files"):
        done(DirectoryStore(root, InlineRuntime(), Exhausted("a/b")).folders(""))


# ---- concurrent calls


class Hanging(PassingFileSystem):
    """Counts concurrent reads. The status of a name that begins with `hangs` is not answered."""

    def __init__(self) -> None:
        super().__init__(RealFileSystem())
        self.most = self._running = 0
        self._counting = threading.Lock()
        self.goes_on = threading.Event()

    def status(self, path: Path) -> DirectoryEntry | None:
        if path.name.startswith("hangs"):
            self.goes_on.wait(20)
        return super().status(path)

    def chunks(self, path: Path) -> Iterable[bytes]:
        with self._counting:
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(0.01)
        with self._counting:
            self._running -= 1
        return super().chunks(path)


def test_two_calls_run_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_store, "_PLACE_SECONDS", 60)
    files = Hanging()

    async def play(store: DirectoryStore) -> None:
        await store.create("key", Content(b"1"))
        await asyncio.gather(*(store.get("key") for _ in range(16)))

    with ThreadRuntime(16) as runtime:
        asyncio.run(play(DirectoryStore(root, runtime, files)))
    assert files.most == 2


def test_calls_that_hang_do_not_delay_the_others(root: Path) -> None:
    files = Hanging()

    async def play(store: DirectoryStore) -> None:
        await store.create("key", Content(b"1"))
        hanging = [asyncio.create_task(store.get(f"hangs{number}")) for number in range(4)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert (await store.get("key")).body == b"1"
        assert not any(task.done() for task in hanging)
        files.goes_on.set()
        await asyncio.gather(*hanging, return_exceptions=True)

    with ThreadRuntime(16) as runtime:
        asyncio.run(play(DirectoryStore(root, runtime, files)))


# ---- how far a search in folders reaches


class CountingEntries(PassingFileSystem):
    """Counts the folders that are listed."""

    def __init__(self) -> None:
        super().__init__(RealFileSystem())
        self.folders: list[str] = []

    def entries(self, folder: Path) -> Iterable[DirectoryEntry]:
        self.folders.append(folder.name)
        return super().entries(folder)


def test_the_search_for_an_object_in_a_folder_stops_at_the_nearest(root: Path) -> None:
    for name in "abc":
        (root / "scope/target/docker-compose-gen" / "/".join(name * 30)).mkdir(parents=True)
    (root / "scope/target/pointer.json").touch()
    files = CountingEntries()
    store = DirectoryStore(root, InlineRuntime(), files)

    assert done(store.folders("")) == ["scope"]
    assert files.folders == ["bucket", "scope", "target"]
    files.folders.clear()
    assert done(store.folders("scope/")) == ["target"]
    assert files.folders == ["scope", "target"]


@pytest.mark.parametrize("shape", ["deep", "wide"])
def test_a_search_for_an_object_is_bounded(root: Path, shape: str) -> None:
    if shape == "deep":
        (root / "a" / "/".join("x" * 200)).mkdir(parents=True)
    for number in range(200) if shape == "wide" else ():
        (root / f"a/{number}").mkdir(parents=True)
    (root / "empty/too").mkdir(parents=True)
    files = CountingEntries()

    assert done(DirectoryStore(root, InlineRuntime(), files).folders("")) == ["a"]
    assert len(files.folders) < 70


class VanishingFileSystem(PassingFileSystem):
    """A file disappears between the listing of its folder and its reading."""

    def chunks(self, path: Path) -> Iterable[bytes]:
        if path.name == "vanishing":
            path.unlink()
        return super().chunks(path)


def test_a_file_that_vanishes_during_a_listing_is_left_out(root: Path) -> None:
    root.mkdir()
    for name in ("vanishing", "staying"):
        (root / name).write_bytes(b"1")

    assert keys(DirectoryStore(root, InlineRuntime(), VanishingFileSystem(RealFileSystem()))) == [
        "staying"
    ]


def test_a_file_that_vanishes_while_it_is_read_is_missing(root: Path) -> None:
    root.mkdir()
    (root / "vanishing").write_bytes(b"1")

    with pytest.raises(ObjectMissing):
        done(
            DirectoryStore(root, InlineRuntime(), VanishingFileSystem(RealFileSystem())).get(
                "vanishing"
            )
        )


def test_a_folder_that_vanishes_during_a_search_has_no_object(root: Path) -> None:
    class Removing(PassingFileSystem):
        def entries(self, folder: Path) -> Iterable[DirectoryEntry]:
            if folder.name == "vanishing":
                folder.rmdir()
            return super().entries(folder)

    (root / "a/vanishing").mkdir(parents=True)

    store = DirectoryStore(root, InlineRuntime(), Removing(RealFileSystem()))
    assert (done(store.folders("")), done(store.folders("absent/"))) == ([], [])


def test_a_file_that_the_disk_cannot_read_has_a_specific_fault(root: Path) -> None:
    class Broken(PassingFileSystem):
        def chunks(self, path: Path) -> Iterable[bytes]:
            if path.name == "broken":
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return super().chunks(path)

    root.mkdir()
    for name in ("broken", "sound"):
        (root / name).write_bytes(b"1")

    broken, sound = done(DirectoryStore(root, InlineRuntime(), Broken(RealFileSystem())).scan(""))

    assert (broken.fault, sound.fault) == (f"Input/output error ({root}/broken)", None)


# ---- readers beside writers


class InterruptedReads(PassingFileSystem):
    """Other writers act just before the body of `file` is read."""

    def __init__(self, meanwhile: list[Callable[[], None]]) -> None:
        super().__init__(RealFileSystem())
        self._meanwhile = meanwhile

    def chunks(self, path: Path) -> Iterable[bytes]:
        if path.name == "file" and path.parent.name == "bucket" and self._meanwhile:
            self._meanwhile.pop(0)()
        return super().chunks(path)


def test_a_reader_overtaken_twice_still_finds_the_tag_of_the_body(
    store: DirectoryStore, root: Path
) -> None:
    version = asyncio.run(store.create("file", tagged(b"0", n="0")))

    async def twice(first: int) -> None:
        nonlocal version
        for n in (first, first + 1):
            version = await store.replace("file", tagged(b"%d" % n, n=str(n)), version)

    def run(first: int) -> None:
        with ThreadPoolExecutor(1) as other_thread:
            other_thread.submit(asyncio.run, twice(first)).result()

    reader = DirectoryStore(
        root, InlineRuntime(), InterruptedReads([lambda: run(1), lambda: run(3)])
    )

    stored = done(reader.get("file"))

    assert (stored.body, stored.version, stored.tag) == (b"4", version, {"n": "4"})


# ---- crashes and failures


class Crash(BaseException):
    """Stands for the end of the process: the store does not catch it."""


class CrashingFileSystem(PassingFileSystem):
    """The process ends just before the n-th change. Later calls do nothing."""

    def __init__(self, n: int) -> None:
        super().__init__(RealFileSystem())
        self._left = n

    def change(self, operation: Operation) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Crash
        super().change(operation)


def test_a_crash_at_any_change_leaves_the_old_or_the_new_object_with_its_tag(
    tmp_path: Path,
) -> None:
    crashes = 0
    for boundary in itertools.count(1):
        root = tmp_path / str(boundary)
        store = DirectoryStore(root, InlineRuntime("before"))
        old = done(store.create("a/file", tagged(b"old", n="1")))
        crashing = DirectoryStore(root, InlineRuntime("crashing"), CrashingFileSystem(boundary))
        try:
            done(crashing.replace("a/file", tagged(b"new", n="2"), old))
        except Crash:
            crashes += 1
        else:
            break

        stored = done(store.get("a/file"))
        assert (stored.body, dict(stored.tag)) in [(b"old", {"n": "1"}), (b"new", {"n": "2"})]
        assert stored.body == b"new" or stored.version == old
        done(store.replace("a/file", tagged(b"newer", n="3"), stored.version))
        assert done(store.get("a/file")).tag == {"n": "3"}
    assert crashes > 10


def failing_store(
    root: Path, kind: type[Operation], number: int, *, after: bool = False
) -> DirectoryStore:
    return DirectoryStore(
        root,
        InlineRuntime("failing"),
        FailingFileSystem(RealFileSystem(), kind, number, after=after),
    )


@pytest.mark.parametrize(
    ("kind", "number", "error"),
    [
        (Write, errno.ENOSPC, StoreRefused),
        (Write, errno.EIO, StoreUnavailable),
        (Sync, errno.ENOSPC, StoreRefused),
        (Sync, errno.EIO, StoreUnavailable),
        (Mkdir, errno.EROFS, StoreRefused),
        (Link, errno.EPERM, StoreRefused),
        (Link, errno.EIO, OutcomeUnknown),
        (SyncFolder, errno.EIO, OutcomeUnknown),
        (SyncFolder, errno.ENOSPC, OutcomeUnknown),
    ],
)
def test_a_failed_create_reports_whether_it_wrote(
    store: DirectoryStore, root: Path, kind: type[Operation], number: int, error: type[StoreError]
) -> None:
    done(store.create("first", Content(b"1")))

    with pytest.raises(error):
        done(failing_store(root, kind, number).create("a/key", Content(b"2")))

    assert keys(store) == (["a/key", "first"] if kind is SyncFolder else ["first"])
    assert list((root / ".rebundle/tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "number", "error", "applied"),
    [
        (Rename, errno.ENOSPC, StoreRefused, False),
        (Rename, errno.EIO, OutcomeUnknown, False),
        (SyncFolder, errno.EIO, OutcomeUnknown, True),
    ],
)
def test_a_failed_replacement_reports_whether_it_wrote(
    store: DirectoryStore,
    root: Path,
    kind: type[Operation],
    number: int,
    error: type[StoreError],
    applied: bool,
) -> None:
    version = done(store.create("key", Content(b"1")))

    with pytest.raises(error):
        done(failing_store(root, kind, number).replace("key", Content(b"2"), version))

    assert done(store.get("key")).body == (b"2" if applied else b"1")


def test_a_link_that_was_created_despite_its_error_is_unknown(
    store: DirectoryStore, root: Path
) -> None:
    with pytest.raises(OutcomeUnknown):
        done(failing_store(root, Link, errno.EIO, after=True).create("key", Content(b"1")))

    assert done(store.get("key")).body == b"1"


def test_a_tag_that_cannot_be_written_leaves_the_object_unchanged(
    store: DirectoryStore, root: Path
) -> None:
    version = done(store.create("key", tagged(b"1", n="1")))

    with pytest.raises(StoreUnavailable):
        done(
            failing_store(root, SyncFolder, errno.EIO).replace("key", tagged(b"2", n="2"), version)
        )

    stored = done(store.get("key"))
    assert (stored.body, stored.version, stored.tag) == (b"1", version, {"n": "1"})
    assert list((root / ".rebundle/tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "number", "error"),
    [
        (Rename, errno.EACCES, StoreRefused),
        (Rename, errno.EIO, OutcomeUnknown),
        (SyncFolder, errno.EIO, OutcomeUnknown),
    ],
)
def test_a_failed_deletion_reports_whether_it_deleted(
    store: DirectoryStore, root: Path, kind: type[Operation], number: int, error: type[StoreError]
) -> None:
    version = done(store.create("key", Content(b"1")))

    with pytest.raises(error):
        done(failing_store(root, kind, number).delete("key", version))

    assert keys(store) == ([] if kind is SyncFolder else ["key"])


def test_a_writer_whose_temporary_file_was_removed_changes_nothing(
    store: DirectoryStore, root: Path
) -> None:
    class Sweeping(PassingFileSystem):
        def link(self, source: Path, target: Path) -> None:
            source.unlink(missing_ok=True)
            super().link(source, target)

    with pytest.raises(StoreUnavailable):
        done(
            DirectoryStore(root, InlineRuntime(), Sweeping(RealFileSystem())).create(
                "key", Content(b"1")
            )
        )

    assert keys(store) == []


def test_an_object_that_is_deleted_at_once_was_still_created(
    root: Path,
) -> None:
    class Overtaken(PassingFileSystem):
        def link(self, source: Path, target: Path) -> None:
            super().link(source, target)
            target.unlink()
            target.parent.rmdir()

    store = DirectoryStore(root, InlineRuntime(), Overtaken(RealFileSystem()))

    assert done(store.create("a/key", Content(b"1"))) == hashlib.sha256(b"1").hexdigest()
    assert keys(store) == []


def test_temporary_files_of_a_crash_are_removed_after_a_day_and_not_before(root: Path) -> None:
    runtime = InlineRuntime()
    done(DirectoryStore(root, runtime).create("key", Content(b"1")))
    now = runtime.seconds
    for name, age in (("old", STALE_SECONDS + 1), ("young", STALE_SECONDS - 1)):
        (root / ".rebundle/tmp" / name).write_bytes(b"")
        os.utime(root / ".rebundle/tmp" / name, (now - age, now - age))

    done(DirectoryStore(root, runtime).create("another", Content(b"1")))

    assert [path.name for path in (root / ".rebundle/tmp").iterdir()] == ["young"]


def test_a_lock_that_is_never_released_raises_an_error(root: Path) -> None:
    runtime = InlineRuntime()
    store = DirectoryStore(root, runtime)
    done(store.create("key", Content(b"1")))
    [lock] = (root / ".rebundle/locks").iterdir()
    began = runtime.seconds

    with (
        RealFileSystem().lock(lock),
        pytest.raises(StoreRefused, match=f"held {lock} for 30 s.*`fuser -v {lock}`"),
    ):
        done(store.delete("key", hashlib.sha256(b"1").hexdigest()))

    assert LOCK_SECONDS <= runtime.seconds - began < LOCK_SECONDS + 1
    assert keys(store) == ["key"]


COUNTER = """
import asyncio, sys
from pathlib import Path
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import ConditionFailed
from daemon.stores.port import Content
from tests.builders_runtime import ThreadRuntime

async def count(root, name, steps):
    with ThreadRuntime() as runtime:
        store = DirectoryStore(Path(root), runtime)
        for step in range(steps):
            while True:
                stored = await store.get("counter")
                assert stored.tag["text"] == stored.body.decode(), stored
                body = f"{int(stored.body.split()[0]) + 1} {name}.{step}"
                try:
                    await store.replace("counter", Content(body.encode(), tag={"text": body}), stored.version)
                    break
                except ConditionFailed:
                    continue

asyncio.run(count(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_processes_that_increment_one_counter_lose_no_update(
    store: DirectoryStore, root: Path
) -> None:
    done(store.create("counter", tagged(b"0 start", text="0 start")))

    counters = [
        subprocess.Popen([sys.executable, "-c", COUNTER, str(root), str(number), "60"], cwd=PROJECT)
        for number in range(4)
    ]

    assert [counter.wait(60) for counter in counters] == [0] * 4
    assert done(store.get("counter")).body.split()[0] == b"240"
