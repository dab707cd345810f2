"""Every kind of file-system object at every place of a bucket: a fault at one place affects no
other.

A bucket with two published scopes is damaged in one of them, or beside them. With any obstacle,
listings succeed and report what they could not read, the other scope stays readable, nothing
blocks, no large body is read into memory, and objects beside the damage can be written.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from daemon.publishing import layout
from daemon.publishing.errors import PublishingError
from daemon.publishing.reader import Reader
from daemon.stores.directory.filesystem import DirectoryEntry, RealFileSystem
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import ObjectTooBig, StoreError, StoreRefused
from daemon.stores.object_keys import is_key
from daemon.stores.port import Content, Listing
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.filesystems import Operation, PassingFileSystem, Sync, SyncFolder
from tests.support.odd_entries import (
    OBSTACLES,
    SPECIAL,
    UNREADABLE_FOLDERS,
    a_huge_sparse_file,
    an_unreadable_file,
    put,
)
from tests.support.privileges import as_an_ordinary_user

STRUCK: Final = Scope("visual-anomaly", "core-versions")
UNAFFECTED: Final = Scope("other", "cpu")


BELOW: Final = ("below", "d", "inside", "notes")
"""Folder names with which an obstacle in the place of a bundle looks like a scope."""


# ---- places


@dataclass(frozen=True)
class Place:
    """A path of the bucket. Existing content is removed first."""

    name: str
    path: str


_TREE = layout.live_tree(STRUCK).rstrip("/")
PLACES: Final = [
    Place("the root of the bucket", "anything"),
    Place("lost+found", "lost+found"),
    Place("a name of 255 bytes", "n" * 255),
    Place("a name that is not UTF-8", os.fsdecode(b"latin-\xe9")),
    Place("a name with a line feed", "two\nlines"),
    Place("a bundle", STRUCK.bundle),
    Place("another bundle", "zz"),
    Place("a file beside the targets", f"{STRUCK.bundle}/notes"),
    Place("the target", str(STRUCK)),
    Place("the pointer", layout.pointer(STRUCK)),
    Place("the freshness", layout.freshness(STRUCK)),
    Place("all states", f"{STRUCK}/states"),
    Place("a state", f"{STRUCK}/states/state-1"),
    Place("a file among the states", f"{STRUCK}/states/state-1/notes"),
    Place("the history", f"{STRUCK}/history"),
    Place("a chunk", f"{STRUCK}/history/1-64-x.json"),
    Place("the live tree", _TREE),
    Place("the marker", f"{_TREE}/{layout.MARKER}"),
    Place("base", f"{_TREE}/base"),
    Place("a file of base", f"{_TREE}/base/bundle/docker-compose.yaml"),
    Place("example", f"{_TREE}/example"),
    Place("a file of example", f"{_TREE}/example/mine"),
    Place("a name of example that is not UTF-8", f"{_TREE}/example/" + os.fsdecode(b"\xff")),
    Place("the credentials", f"{_TREE}/example/creds"),
    Place("a credential", f"{_TREE}/example/creds/key.json"),
    Place("what was kept", f"{STRUCK}/.rebundle/replaced"),
    Place("a probe", ".rebundle/probe/left"),
    Place("the tags of a scope", f".rebundle/store/{STRUCK}"),
    Place("a tag file", f".rebundle/store/{_TREE}/README.md"),
    Place("a temporary file", ".rebundle/tmp/left"),
]


def keys_of(scope: Scope) -> list[str]:
    tree = [
        "README.md",
        layout.MARKER,
        "base/bundle/docker-compose.yaml",
        "example/conf/.env",
        "example/creds/key.json",
    ]
    return [
        layout.pointer(scope),
        layout.freshness(scope),
        layout.history(scope, 1, 64, "x"),
        layout.archive(scope, "state-1", "a1"),
        layout.manifest(scope, "state-1", "a1"),
        layout.replaced(scope, 3, "base/bundle/docker-compose.yaml"),
        *(layout.live_tree(scope, path) for path in tree),
    ]


class UnsyncedFileSystem(PassingFileSystem):
    """Syncs nothing: no power is cut in these tests."""

    def change(self, operation: Operation) -> None:
        if not isinstance(operation, Sync | SyncFolder):
            super().change(operation)


def open_store(root: Path, name: str) -> DirectoryStore:
    files = UnsyncedFileSystem(RealFileSystem())
    return DirectoryStore(root, InlineRuntime(name), files, unread=layout.is_credential)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "bucket"

    async def write() -> None:
        store = open_store(root, "before")
        for key in [*keys_of(STRUCK), *keys_of(UNAFFECTED)]:
            await store.create(
                key, Content(key.encode(), tag={"n": "1"} if layout.LIVE_TREE in key else {})
            )

    asyncio.run(write())
    return root


async def look_around(root: Path, place: Place, object_: Callable[[Path], None]) -> None:
    store = open_store(root, "after")
    listing = await store.scan("")
    await the_listing_says_what_it_could_not_see(listing, place, object_)
    await every_object_without_a_fault_is_read_as_listed(store, listing)
    assert dict(await open_store(root, "after").versions([entry.key for entry in listing])) == {
        entry.key: entry.version for entry in listing if entry.fault is None
    }
    await the_scopes_are_found(store, place, object_)
    await the_other_scope_is_as_before(store, listing)
    await objects_can_be_written(store, UNAFFECTED, tag={"n": "2"})
    if not place.path.startswith(".rebundle/"):
        await objects_can_be_written(store, place.path.rpartition("/")[0], tag={})
    assert [entry.key for entry in await store.scan("")] == [entry.key for entry in listing]


def is_shown(place: Place) -> bool:
    return is_key(place.path) and not place.path.startswith((".rebundle/store/", ".rebundle/tmp/"))


async def the_listing_says_what_it_could_not_see(
    listing: Listing, place: Place, object_: Callable[[Path], None]
) -> None:
    faults = {entry.key: entry.fault for entry in listing if entry.fault is not None}
    if object_ in SPECIAL or (
        object_ is an_unreadable_file and not layout.is_credential(place.path)
    ):
        assert list(faults) == [place.path] * is_shown(place)
        assert all(re.search(r"(mv|chmod a\+r) ", fault) for fault in faults.values())
    else:
        assert faults == {}
    unreadable = {path.key: path.reason for path in listing.unreadable}
    assert list(unreadable) == [place.path] * (object_ in UNREADABLE_FOLDERS and is_shown(place))
    assert all("chmod a+rx " in reason for reason in unreadable.values())
    named = place.path.encode("utf-8", "backslashreplace").decode()
    assert [name.rstrip("/") for name in listing.invalid] == [named] * (not is_key(place.path))


async def every_object_without_a_fault_is_read_as_listed(
    store: DirectoryStore, listing: Listing
) -> None:
    for entry in listing:
        if entry.fault is not None:
            with pytest.raises(StoreRefused):
                await store.get(entry.key)
        elif layout.is_credential(entry.key):
            continue  # never opened, so it is unknown whether it can be read
        elif entry.size < 1 << 30:
            assert (await store.get(entry.key)).version == entry.version
        else:
            with pytest.raises(ObjectTooBig):
                await store.get(entry.key, max_bytes=1 << 20)


async def the_scopes_are_found(
    store: DirectoryStore, place: Place, object_: Callable[[Path], None]
) -> None:
    reader = Reader(store, InlineRuntime())
    found = await reader.scopes()
    scopes = set(found)
    bundle, _, rest = place.path.partition("/")
    hidden = (
        object_ in UNREADABLE_FOLDERS and not rest and bundle in {STRUCK.bundle, "anything", "zz"}
    )
    assert list(found.unreadable) == [bundle] * hidden
    assert UNAFFECTED in scopes
    if place.path not in {STRUCK.bundle, str(STRUCK)}:
        assert STRUCK in scopes
    allowed = {
        UNAFFECTED,
        STRUCK,
        *(Scope(name, below) for name in ("anything", "zz", STRUCK.bundle) for below in BELOW),
    }
    assert scopes <= allowed
    # The reader decides how much of an object is read, not the store.
    for scope in (
        (scopes & {Scope(STRUCK.bundle, "notes"), STRUCK})
        if object_ is not a_huge_sparse_file
        else ()
    ):
        with suppress(StoreError, PublishingError):
            await reader.pointer(scope)


async def the_other_scope_is_as_before(store: DirectoryStore, listing: Listing) -> None:
    kept = sorted(keys_of(UNAFFECTED), key=str.encode)
    assert [entry.key for entry in listing if entry.key.startswith(f"{UNAFFECTED}/")] == kept
    scanned = await store.scan(f"{UNAFFECTED}/")
    assert ([entry.key for entry in scanned], scanned.unreadable) == (kept, ())
    for key in kept:
        stored = await store.get(key)
        assert (stored.body, dict(stored.tag)) == (
            key.encode(),
            {"n": "1"} if layout.LIVE_TREE in key else {},
        )


async def objects_can_be_written(
    store: DirectoryStore, folder: object, tag: dict[str, str]
) -> None:
    key = f"{folder}/beside".lstrip("/")
    version = await store.create(key, Content(b"1", tag=tag))
    version = await store.replace(key, Content(b"2", tag=tag), version)
    await store.delete(key, version)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_fault_at_one_path_affects_no_other(sound: Path, tmp_path: Path, place: Place) -> None:
    root = tmp_path / "bucket"
    shutil.copytree(sound, root)
    path = root / place.path
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    for object_ in OBSTACLES:
        with put(path, object_):
            as_an_ordinary_user(lambda: asyncio.run(look_around(root, place, object_)))  # noqa: B023  # it is called here


# ---- when it was last written

YEARS: Final = {
    "before every datetime": -70_000_000_000,
    "before every document": -3_000_000_000,
    "after every document": 40_000_000_000,
    "after every datetime": 99_999_999_999_999,
}


class TimedFileSystem(UnsyncedFileSystem):
    """Reports one time for one file, as a file system with 64-bit times does."""

    def __init__(self, path: Path, seconds: int) -> None:
        super().__init__(RealFileSystem())
        self._inode = path.stat().st_ino
        self._nanoseconds = seconds * 10**9

    def status(self, path: Path) -> DirectoryEntry | None:
        entry = super().status(path)
        return entry and self._timed(entry)

    def entries(self, folder: Path) -> Iterator[DirectoryEntry]:
        for entry in super().entries(folder):
            yield self._timed(entry)

    def _timed(self, entry: DirectoryEntry) -> DirectoryEntry:
        odd = entry.inode == self._inode
        return entry._replace(modified_ns=self._nanoseconds) if odd else entry


@pytest.mark.parametrize("seconds", YEARS.values(), ids=YEARS)
@pytest.mark.parametrize("key", [*keys_of(STRUCK), ".rebundle/tmp/left"])
def test_a_file_of_any_time_is_listed_read_and_replaced(
    sound: Path, tmp_path: Path, key: str, seconds: int
) -> None:
    root = tmp_path / "bucket"
    shutil.copytree(sound, root)
    (root / key).touch()

    async def look() -> None:
        files = TimedFileSystem(root.resolve() / key, seconds)
        store = DirectoryStore(root, InlineRuntime("after"), files, unread=layout.is_credential)
        listing = {listed.key: listed for listed in await store.scan("")}
        assert listing.keys() == {*keys_of(STRUCK), *keys_of(UNAFFECTED)}
        assert all(listed.fault is None for listed in listing.values())
        assert all(1900 <= listed.modified.year <= 2999 for listed in listing.values())
        if key in listing:
            body = (await store.get(key)).body if not layout.is_credential(key) else b""
            await store.replace(key, Content(body + b"2"), listing[key].version)
        else:
            await store.create("new", Content(b"1"))

    asyncio.run(look())
