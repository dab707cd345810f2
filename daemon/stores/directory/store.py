"""Object store in a local folder: keys are paths of files.

Operators read the files with cp and rsync, and change them with an editor.

Writes. The body goes into a temporary file, which is synced and then gets its name in one step.
Then all folders up to the root are synced: another writer may have made one of them and been killed
before it was durable. All writers of a key hold its lock file, so that compare and write are one
step between threads and processes. The operating system releases the locks of a dead process.

Editors take no lock. So a replacement exchanges the names of the new and the old file, checks the
file that came out, and restores it if it is not the one that was compared (ADR 17). A deletion
moves the file out, checks it, and restores it in the same way. If the file system cannot exchange
names, a replacement compares once more and renames. No store can detect what an editor writes
through a descriptor that it opened earlier.

Tags. `tag_file` describes their format and how they survive a crash. An object that never had a tag
has no tag file. Its version is its digest alone. This is enough where bodies never repeat (the
pointer) or never change (states). The tag `mode` with the value `0755` makes the file executable.
The content type has no effect here.

Listings. A listing caches each object, and the digest of each file. It reads a file or its tag file
again if device, inode, size or a time has changed, if it changed within the last two seconds, if
others have taken its place in the cache, or if the two do not match. (A program
that writes through a memory map changes no time until the page is written back.) It does not read
files larger than `UNREAD_BYTES`, nor those that `unread` names: their version is made of device,
inode, size and times, here and in `get`. A fault of one file or folder is reported with it, and
everything else is listed (ADR 17):

| entry | in a listing |
| --- | --- |
| a file that cannot be read | an object with a `fault` |
| a symbolic link, FIFO, socket or device | an object with a `fault`; never followed or opened |
| a subfolder that cannot be listed | in `Listing.unreadable` |
| an invalid key (not UTF-8, control characters, too long) | in `Listing.invalid`, by name only |

Private folders. `store/` (tags), `tmp/`, `locks/` and `aside/` (files that operators moved away)
below `.rebundle/` are not keys. The first write of a store removes temporary files that are at
least a day old: a crash left them. If the writer of one was only suspended, its write fails and has
changed nothing. One kind is kept: a file `<token>.<digest>.<digest>` whose bytes have neither
digest. It was saved by another program at the moment of a crash.
"""

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from daemon import local_files
from daemon.concurrency import Places
from daemon.runtime import Runtime
from daemon.stores.directory.filesystem import DirectoryEntry, FileSystem, Kind, RealFileSystem
from daemon.stores.directory.os_errors import (
    after_writing,
    before_writing,
    is_of_the_process,
    knows_no_exchange,
    unreadable,
    while_writing,
)
from daemon.stores.directory.tag_file import TagEntry, decode_tags, encode_tags, fitting, version_of
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    ObjectTooBig,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.object_keys import by_bytes, check_folder, check_key, check_prefix, is_key
from daemon.stores.port import Content, Listed, Listing, Stored, UnreadableFolder, Version
from daemon.stores.remedies import ASIDE, move_file
from renderers.cache import Cache

P = ParamSpec("P")
T = TypeVar("T")

LOCK_SECONDS: Final = 30.0
"""How long a write waits for other writers: a process may be stopped while it holds the lock."""
STALE_SECONDS: Final = 86_400.0
"""A temporary file of this age was left by a crash."""
UNREAD_BYTES: Final = 64 << 20
"""A listing does not read larger files.

No file that a pass over a live tree writes is that large.
"""

_TAGS: Final = ".rebundle/store"
_TEMPORARIES: Final = ".rebundle/tmp"
_LOCKS: Final = ".rebundle/locks"
_PRIVATE: Final = frozenset({_TAGS, _TEMPORARIES, _LOCKS, ASIDE})
_MAX_TAG_BYTES: Final = 1 << 16
_MAX_FOLDERS_SEARCHED: Final = 64
_MAX_STALE_REMOVED: Final = 1_000
_TRIES: Final = 20
_CONCURRENT_CALLS: Final = 2
"""A call makes many short system calls, and its thread waits for the interpreter after each. Eight
threads spent half of the CPU on that, and delayed the event loop (ADR 36)."""
_PLACE_SECONDS: Final = 0.02
"""A longer call probably waits for the disk: the next one starts without waiting for its end."""
_DIGESTS_BYTES: Final = 16 << 20
_OBJECTS_BYTES: Final = 64 << 20
_BYTES_OF_AN_ENTRY: Final = 400
"""Approximate memory of a cached value, without what its size depends on."""
_FIRST_MODIFIED: Final = datetime(1900, 1, 1, tzinfo=UTC)
_LAST_MODIFIED: Final = datetime(2999, 12, 31, tzinfo=UTC)
_SETTLED_SECONDS: Final = 2.0
"""More than the resolution of file times: two changes within it may leave the same times."""


class _Busy(Exception):
    """Another thread or process holds the lock of the key."""


@dataclass(frozen=True, slots=True)
class _Examined:
    """The file of an object that has the version its writer expects."""

    entry: DirectoryEntry
    sha256: str | None
    """None: the version is made without reading the body."""
    tags: tuple[TagEntry, ...]
    """The tag entries that may apply to its body."""


@dataclass(frozen=True, slots=True)
class _Known:
    """An object of an earlier listing.

    It is the same as long as its file and its tag file have the same status.
    """

    file: DirectoryEntry
    tag_file: DirectoryEntry | None
    listed: Listed


def _no_key(_key: str) -> bool:
    return False


class DirectoryStore:
    """An ObjectStore in a folder of a local file system, for any number of processes.

    All calls of one instance come from one event loop.

    An absent folder is an empty store, and the first write makes it. But once this store has seen
    the folder, or if it `must_exist`, its absence is StoreRefused for reads and writes: the volume
    is no longer mounted, or the folder was moved, and a new one would hide that (docs/stores.md).

    - `must_exist`: the folder was used before.
    - `unread`: keys whose files a listing must not open (an operator's credentials).
    - `private`: keys whose files only their owner may read and write, whatever the umask.
    - `unread_bytes`: see UNREAD_BYTES.
    """

    def __init__(
        self,
        root: Path,
        runtime: Runtime,
        filesystem: FileSystem | None = None,
        *,
        must_exist: bool = False,
        unread: Callable[[str], bool] = _no_key,
        private: Callable[[str], bool] = _no_key,
        unread_bytes: int = UNREAD_BYTES,
    ) -> None:
        self._root = root.resolve()
        self._runtime = runtime
        self._fs = filesystem or RealFileSystem()
        self._unread = unread
        self._private = private
        self._unread_bytes = unread_bytes
        self._digests = Cache[tuple[str, int]](_DIGESTS_BYTES)
        """Digest and size, by the status of a file."""
        self._objects = Cache[_Known](_OBJECTS_BYTES)
        """By key."""
        self._places = Places(_CONCURRENT_CALLS, _PLACE_SECONDS)
        self._removed_stale = False
        self._root_is_durable = False
        self._must_exist = must_exist

    # ---- reading

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        """Read an object. Raises ObjectMissing, ObjectTooBig."""
        _check_key(key)
        return await self._run(self._get, key, max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        """Read the versions of some objects. Like a listing, it reads only files that changed."""
        for key in keys:
            _check_key(key)
        return await self._run(self._versions, keys)

    async def scan(self, prefix: str) -> Listing:
        """List all objects whose key starts with `prefix`, sorted by the bytes of their keys.

        A subfolder that cannot be listed is in `Listing.unreadable`. If the folder of the prefix
        itself cannot be listed, StoreRefused is raised.
        """
        return await self._run(self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """List the names of the folders in the folder `prefix`, sorted, without empty folders.

        A folder may hold objects, and is included, if it cannot be listed or if the search meets
        more than 64 folders before the first file. Raises StoreRefused if `prefix` itself cannot
        be listed.
        """
        return await self._run(self._folders, check_folder(prefix).rstrip("/"))

    # ---- writing

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object, durably. Raises ConditionFailed, OutcomeUnknown."""
        return await self._run_locked(key, self._create, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version, durably.

        Raises ConditionFailed, ObjectMissing, OutcomeUnknown.
        """
        return await self._run_locked(key, self._replace, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version, durably.

        Raises ConditionFailed, ObjectMissing, OutcomeUnknown.
        """
        await self._run_locked(key, self._delete, version)

    async def _run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread when there is a place for it."""
        async with self._places.hold():
            return await self._runtime.run_in_thread(work, *args, **kwargs)

    async def _run_locked(
        self, key: str, work: Callable[Concatenate[str, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` in a thread while no other thread or process writes the key.

        The wait for the lock occupies no thread: writers that wait for a stopped process must not
        use up the pool.
        """
        _check_key(key)
        limit = self._runtime.monotonic() + LOCK_SECONDS
        while True:
            try:
                return await self._run(self._lock_and_run, key, work, *args, **kwargs)
            except _Busy as busy:
                if self._runtime.monotonic() >= limit:
                    raise StoreRefused(
                        f"{key}: {local_files.held_for(self._lock_path(key), LOCK_SECONDS)}"
                    ) from busy
            await self._runtime.sleep(0.001 + 0.02 * self._runtime.jitter())

    def _lock_and_run(
        self, key: str, work: Callable[Concatenate[str, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with before_writing(key, self._root):
            self._make_folders(self._root / _TEMPORARIES)
            self._make_folders(self._root / _LOCKS)
            self._remove_stale_once()
            with self._fs.lock(self._lock_path(key)) as held:
                if not held:
                    raise _Busy(key)
                return work(key, *args, **kwargs)

    def _create(self, key: str, content: Content) -> Version:
        existing = self._fs.status(self._root / key)
        if existing is not None:
            raise self._cannot_create(key, existing.kind)
        return self._put(key, content, (), self._fs.link)

    def _replace(self, key: str, content: Content, version: Version) -> Version:
        current = self._examine(key, version)

        def place(staged: Path, path: Path) -> None:
            # Staging takes many milliseconds, and an editor
            # takes no lock: check again, as late as possible.
            if not self._is_unchanged(path, current):
                raise ConditionFailed(f"{key} was changed while it was being replaced")
            self._exchange(key, staged, path, current, hashlib.sha256(content.body).hexdigest())

        return self._put(key, content, current.tags, place)

    def _delete(self, key: str, version: Version) -> None:
        current = self._examine(key, version)
        path, tags = self._root / key, self._tag_path(key)
        out = (
            self._root / _TEMPORARIES / _recoverable_name(self._runtime.random_id(), current.sha256)
        )
        with while_writing(key, self._root):
            self._fs.rename(path, out)
            if not self._is_unchanged(out, current):
                self._restore(out, path)
                raise ConditionFailed(f"{key} was changed while it was being deleted")
        with after_writing(key), suppress(FileNotFoundError):
            self._fs.sync_folder(path.parent)
        # The object is deleted; the rest is cleanup. A tag file that a crash leaves applies to no
        # body, or only to the very bytes that it was made for.
        for leftover in (out, tags):
            with suppress(OSError):
                self._fs.unlink(leftover)
        self._prune(path.parent, self._root)
        self._prune(tags.parent, self._root / _TAGS)

    def _put(
        self,
        key: str,
        content: Content,
        current_tags: Sequence[TagEntry],
        place: Callable[[Path, Path], None],
    ) -> Version:
        path, tags = self._root / key, self._tag_path(key)
        sha256 = hashlib.sha256(content.body).hexdigest()
        entry: TagEntry | None = None
        with self._staged(content.body, self._mode(key, content)) as staged:
            if content.tag or self._fs.status(tags) is not None:
                entry = TagEntry(sha256, self._runtime.random_id(), dict(content.tag))
                self._write_tags(tags, (*current_tags, entry))
            new = self._status(staged)
            with while_writing(key, self._root):
                self._place(staged, path, place)
            with after_writing(key):
                self._sync_up(path.parent)
        if not self._is_versioned_by_status(key, len(content.body)):
            return version_of(sha256, entry)
        # Read the status only now: adding and removing names of the file changes its times.
        placed = self._fs.status(path)
        return _version_by_status(
            placed if placed is not None and placed.is_same_file(new) else new
        )

    def _mode(self, key: str, content: Content) -> int:
        mode = 0o777 if content.tag.get("mode") == "0755" else 0o666
        return mode & 0o700 if self._private(key) else mode

    def _write_tags(self, tags: Path, entries: Sequence[TagEntry]) -> None:
        with self._staged(encode_tags(entries), 0o666) as staged:
            self._place(staged, tags, self._fs.rename)
            self._sync_up(tags.parent)

    @contextmanager
    def _staged(self, body: bytes, mode: int) -> Iterator[Path]:
        """Yield a synced temporary file and remove it at the end of the block.

        By then a rename may have moved it, or a link may have given it a second name.
        """
        staged = self._root / _TEMPORARIES / self._runtime.random_id()
        try:
            self._fs.write(staged, body, mode=mode)
            self._fs.sync(staged)
            yield staged
        finally:
            with suppress(OSError):
                self._fs.unlink(staged)

    def _place(self, staged: Path, path: Path, place: Callable[[Path, Path], None]) -> None:
        """Give the staged file its name, and make its folder.

        It tries again, because another writer may remove the folder while it is empty.
        """
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                self._make_folders(path.parent)
                return place(staged, path)
        raise FileNotFoundError(
            2, "the folder or the temporary file was repeatedly removed", str(path)
        )

    # ---- replacement while an editor may save the file

    def _exchange(
        self, key: str, staged: Path, path: Path, current: _Examined, sha256: str
    ) -> None:
        """Exchange the staged file and the file at the path, if that is still the examined one.

        Until that is checked, the file that comes out has a name with both digests. `_discard` does
        not remove it if its bytes are different, so a crash loses nothing.
        """
        ours = self._status(staged)
        out = staged.with_name(_recoverable_name(staged.name, current.sha256, sha256))
        self._fs.rename(staged, out)
        try:
            self._fs.exchange(out, path)
        except FileNotFoundError:
            self._fs.unlink(out)
            raise ObjectMissing(key) from None
        except OSError as error:
            if knows_no_exchange(error):
                return self._fs.rename(out, path)
            self._discard(out)
            raise
        if self._is_unchanged(out, current):
            return self._fs.unlink(out)
        self._exchange_back(key, out, path, ours)
        raise ConditionFailed(
            f"{key} was changed while it was being replaced; the changed file was restored"
        )

    def _exchange_back(self, key: str, out: Path, path: Path, ours: DirectoryEntry) -> None:
        """Restore the file that came out of an exchange.

        The file that comes out of this second exchange is ours, or was saved even later by another
        program. In that case it is restored as well.
        """
        for _ in range(_TRIES):
            restored = self._status(out)
            try:
                self._fs.exchange(out, path)
            except FileNotFoundError:
                return self._restore(out, path)
            if self._status(out).is_same_file(ours):
                # Sync the exchange before the removal: a power cut must not keep only the removal.
                self._fs.sync_folder(path.parent)
                return self._fs.unlink(out)
            ours = restored
        raise StoreUnavailable(
            f"{key} was repeatedly saved by another program; its last version is in {out}"
        )

    def _restore(self, out: Path, path: Path) -> None:
        """Restore the name of a file, unless another program has saved a newer file there."""
        if self._status(out).kind is Kind.FOLDER:
            return self._fs.rename(out, path)
        with suppress(FileExistsError):
            self._place(out, path, self._fs.link)
        self._fs.sync_folder(path.parent)
        return self._fs.unlink(out)

    def _status(self, path: Path) -> DirectoryEntry:
        entry = self._fs.status(path)
        if entry is None:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return entry

    def _is_unchanged(self, path: Path, examined: _Examined) -> bool:
        """Whether the examined file is still at the path, with the same bytes."""
        entry = self._fs.status(path)
        if entry is None or not entry.is_same_file(examined.entry):
            return False
        return examined.sha256 is None or self._digest_and_size(path)[0] == examined.sha256

    def _discard(self, temporary: Path) -> None:
        """Remove a temporary file, unless its name has digests and its bytes have none of them.

        Such bytes were saved by another program, so the file is kept.
        """
        _, *digests = temporary.name.split(".")
        with suppress(OSError):
            if not digests or self._digest_and_size(temporary)[0] in digests:
                self._fs.unlink(temporary)

    # ---- folders

    def _make_folders(self, folder: Path) -> None:
        if not self._is_folder(folder):
            for step in (*reversed(folder.parents), folder):
                if not self._is_folder(step):
                    self._make_folder(step)
        self._must_exist = True

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_relative_to(self._root) or folder == self._root:
            self._check_root()
        with suppress(FileExistsError):
            self._fs.mkdir(folder)

    def _check_root(self) -> None:
        """Raise StoreRefused if the folder of the store is absent and has to exist.

        Of the reads, only those that find nothing need it.
        """
        must_exist = self._must_exist  # before the look: another thread may make the folder now
        if self._is_folder(self._root):
            self._must_exist = True
        elif must_exist:
            raise self._absent_root()

    def _is_folder(self, path: Path) -> bool:
        entry = self._fs.status(path)
        if entry is not None and entry.kind is not Kind.FOLDER:
            raise StoreRefused(self._wrong_kind(path, entry.kind, "a folder"))
        return entry is not None

    def _sync_up(self, folder: Path) -> None:
        """Make a name in the folder durable, and the names of all folders up to the root."""
        for step in (folder, *folder.parents):
            if not step.is_relative_to(self._root):
                break
            # Missing: another writer deleted the object that was just placed, and its empty folder.
            with suppress(FileNotFoundError):
                self._fs.sync_folder(step)
        if not self._root_is_durable:
            for step in self._root.parents:
                # A user who may not read a folder above the root cannot have made it.
                with suppress(PermissionError):
                    self._fs.sync_folder(step)
            self._root_is_durable = True

    def _prune(self, folder: Path, top: Path) -> None:
        """Remove the folders that a deletion left empty: a bucket has no empty folders."""
        with suppress(OSError):
            while folder != top:
                self._fs.rmdir(folder)
                folder = folder.parent

    def _remove_stale_once(self) -> None:
        if self._removed_stale:
            return
        self._removed_stale = True
        oldest = self._runtime.now().timestamp() - STALE_SECONDS
        folder = self._root / _TEMPORARIES
        with suppress(OSError):
            for entry in [*islice(self._fs.entries(folder), _MAX_STALE_REMOVED)]:
                if entry.modified < oldest:
                    self._discard(folder / entry.name)

    # ---- versions and bodies

    def _get(self, key: str, max_bytes: int | None) -> Stored:
        def read() -> tuple[str, bytes]:
            body = self._body(key, max_bytes)
            return hashlib.sha256(body).hexdigest(), body

        with before_writing(key, self._root):
            for _ in range(_TRIES):
                before = self._file(key)
                sha256, body, entry = self._read_with_tag(key, read)
                tag = {} if entry is None else entry.tag
                if not self._is_versioned_by_status(key, len(body)):
                    return Stored(body, version_of(sha256, entry), tag)
                if self._fs.status(self._root / key) == before:
                    return Stored(body, _version_by_status(before), tag)
        raise _changed_repeatedly(key)

    def _examine(self, key: str, version: Version) -> _Examined:
        entry = self._file(key)
        if self._is_versioned_by_status(key, entry.size):
            actual, examined = (
                _version_by_status(entry),
                _Examined(entry, None, self._tag_entries(key)),
            )
        else:
            sha256, _, tag = self._read_with_tag(
                key, lambda: self._digest_and_size(self._root / key)
            )
            actual = version_of(sha256, tag)
            examined = _Examined(entry, sha256, () if tag is None else (tag,))
        if actual != version:
            raise ConditionFailed(
                f"object {key} is no longer at version {version}, but at {actual}"
            )
        return examined

    def _read_with_tag(
        self, key: str, read: Callable[[], tuple[str, T]]
    ) -> tuple[str, T, TagEntry | None]:
        """Return a digest and its tag entry, with the other result of `read`, without the lock.

        The tag file is read first, because it names the next body before that body is in place. If
        it does not name the body, the body is newer than the tag file that was read, so both are
        read again. If the tag file has not changed meanwhile, no store wrote the body: it has no
        tag.
        """
        entries = self._tag_entries(key)
        for _ in range(_TRIES):
            sha256, result = read()
            entry = fitting(entries, sha256)
            before, entries = entries, self._tag_entries(key) if entry is None else entries
            if entry is not None or before == entries:
                return sha256, result, entry
        raise _changed_repeatedly(key)

    def _is_versioned_by_status(self, key: str, size: int) -> bool:
        """Whether the version of an object is made of its file's status, not of its body."""
        return self._unread(key) or size > self._unread_bytes

    def _file(self, key: str) -> DirectoryEntry:
        """Return the status of an object's file. Raises ObjectMissing, StoreRefused."""
        path = self._root / key
        entry = self._fs.status(path)
        if entry is None:
            self._check_root()
            raise ObjectMissing(key)
        if entry.kind is not Kind.FILE:
            raise StoreRefused(self._wrong_kind(path, entry.kind))
        self._must_exist = True
        return entry

    def _body(self, key: str, max_bytes: int | None) -> bytes:
        size = self._file(key).size
        if max_bytes is not None and size > max_bytes:
            raise ObjectTooBig(key, max_bytes)
        try:
            body = self._read(self._root / key, max_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_root()
            raise ObjectMissing(key) from None
        if max_bytes is not None and len(body) > max_bytes:
            raise ObjectTooBig(key, max_bytes)
        return body

    def _tag_entries(self, key: str) -> tuple[TagEntry, ...]:
        """Return the tag entries of an object.

        If the tag file cannot be read there are none: the body counts as one of another program.
        """
        return self._if_accessible(lambda: self._read_tags(self._tag_path(key))) or ()

    def _read_tags(self, tag_file: Path) -> tuple[TagEntry, ...]:
        raw = self._read(tag_file, _MAX_TAG_BYTES)
        return decode_tags(raw) if len(raw) <= _MAX_TAG_BYTES else ()

    def _read(self, path: Path, max_bytes: int | None) -> bytes:
        """Read a file.

        Stop soon after `max_bytes`: a longer result means that the file is larger.
        """
        # Not a list of chunks: joining them would need the memory of a second body.
        body = io.BytesIO()
        for chunk in self._fs.chunks(path):
            body.write(chunk)
            if max_bytes is not None and body.tell() > max_bytes:
                break
        return body.getvalue()

    def _digest_and_size(self, path: Path) -> tuple[str, int]:
        """Return digest and size of a file. Reading stops soon after `unread_bytes`."""
        digest, size = hashlib.sha256(), 0
        for chunk in self._fs.chunks(path):
            digest.update(chunk)
            size += len(chunk)
            if size > self._unread_bytes:
                break
        return digest.hexdigest(), size

    # ---- listing

    def _versions(self, keys: Sequence[str]) -> dict[str, Version]:
        found: dict[str, Version] = {}
        with before_writing("/", self._root):
            for key in keys:
                if (listed := self._listed_by_status(key)) is not None and listed.fault is None:
                    found[key] = listed.version
            self._check_root()
        return found

    def _listed_by_status(self, key: str) -> Listed | None:
        """Return an object as a listing shows it.

        None if it is missing, or if its status cannot be read.
        """
        # First, because a tag file names the next body before it is in place.
        tags = self._if_accessible(lambda: self._tag_file_by_status(key))
        entry = self._if_accessible(lambda: self._fs.status(self._root / key))
        if entry is None:
            return None
        return self._unchanged(key, entry, tags) or self._listed(key, entry, tags)

    def _tag_file_by_status(self, key: str) -> Mapping[str, DirectoryEntry]:
        """Return the tag file of an object, in the form of `_tag_files`."""
        entry = self._fs.status(self._tag_path(key))
        return {entry.name: entry} if entry is not None else {}

    def _if_accessible(self, read: Callable[[], T]) -> T | None:
        """Return the result of `read`; None if the system denies access to its path."""
        try:
            return read()
        except OSError as error:
            if is_of_the_process(error):
                raise
            return None

    def _scan(self, prefix: str) -> Listing:
        top = prefix.rpartition("/")[0]
        objects: list[Listed] = []
        hidden: list[UnreadableFolder] = []
        invalid: list[str] = []
        waiting = [top]
        with before_writing(prefix or "/", self._root):
            while waiting:
                folder = waiting.pop()
                tags, children = self._read_folder(folder, None if folder == top else hidden)
                for key, entry in children:
                    name = f"{key}/" if entry.kind is Kind.FOLDER else key
                    if not name.startswith(prefix):
                        continue
                    if (known := self._unchanged(key, entry, tags)) is not None:
                        objects.append(known)
                    elif not is_key(key):
                        invalid.append(name.encode("utf-8", "backslashreplace").decode())
                    elif entry.kind is Kind.FOLDER:
                        waiting.append(key)
                    elif (listed := self._listed(key, entry, tags)) is not None:
                        objects.append(listed)
            # Afterwards: the volume may have been unmounted during the listing.
            self._check_root()
        objects.sort(key=lambda listed: by_bytes(listed.key))
        hidden.sort(key=lambda folder: by_bytes(folder.key))
        return Listing(tuple(objects), tuple(hidden), tuple(sorted(invalid)))

    def _read_folder(
        self, folder: str, hidden: list[UnreadableFolder] | None
    ) -> tuple[Mapping[str, DirectoryEntry] | None, Sequence[tuple[str, DirectoryEntry]]]:
        """Return the tag files of a folder's files (see `_tag_files`), and its entries.

        A folder that cannot be listed is appended to `hidden`, if given; else its error is raised.
        """
        try:
            # First, because a tag file names the next body before it is in place.
            return self._tag_files(folder), list(self._entries(folder))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            if hidden is None or is_of_the_process(error):
                raise
            reason = unreadable(self._root / folder, error, Kind.FOLDER)
            hidden.append(UnreadableFolder(folder, reason))
        return None, ()

    def _listed(
        self, key: str, entry: DirectoryEntry, tags: Mapping[str, DirectoryEntry] | None
    ) -> Listed | None:
        """Return an object of a listing, with a fault if it is unreadable; None if it is gone.

        `tags`: see `_tag_files`.
        """
        if entry.kind is not Kind.FILE:
            return _unread_object(key, entry, self._wrong_kind(self._root / key, entry.kind))
        if self._is_versioned_by_status(key, entry.size):
            return _unread_object(key, entry)
        try:
            return self._read_object(key, entry, tags)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None  # removed since the folder was read
        except StoreUnavailable as error:
            fault = str(error)
        except OSError as error:
            if is_of_the_process(error):
                raise
            fault = unreadable(self._root / key, error, Kind.FILE)
        return _unread_object(key, entry, fault)

    def _read_object(
        self, key: str, entry: DirectoryEntry, tags: Mapping[str, DirectoryEntry] | None
    ) -> Listed:
        if tags is not None and (settled := self._settled(key, entry, tags.get(entry.name))):
            return settled
        sha256, size, tag = self._read_with_tag(key, lambda: self._cached_digest_and_size(key))
        return Listed(key, version_of(sha256, tag), size, _modified(entry), sha256)

    def _tag_files(self, folder: str) -> Mapping[str, DirectoryEntry] | None:
        """Return the tag files of a folder's files by name; None if they cannot be listed."""
        try:
            return {entry.name: entry for entry in self._fs.entries(self._root / _TAGS / folder)}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            if is_of_the_process(error):
                raise
            return None

    def _unchanged(
        self, key: str, file: DirectoryEntry, tags: Mapping[str, DirectoryEntry] | None
    ) -> Listed | None:
        """Return the object of an earlier listing if its files have the status they had then."""
        known = self._objects.get(key)
        if known is None or tags is None or known.file != file:
            return None
        return known.listed if known.tag_file == tags.get(file.name) else None

    def _settled(
        self, key: str, file: DirectoryEntry, tag_file: DirectoryEntry | None
    ) -> Listed | None:
        """Return an object whose file has a status that shows that nothing writes it.

        None: use `_read_with_tag`.
        """
        if not self._has_settled(file):
            return None
        entries, same_tags = self._entries_of(key, tag_file)
        (sha256, size), same_file = self._digest_of(key, file)
        tag = fitting(entries, sha256)
        if not (same_tags and same_file and (tag is not None or not entries)):
            return None
        listed = Listed(key, version_of(sha256, tag), size, _modified(file), sha256)
        self._objects.put(key, _Known(file, tag_file, listed), 3 * _BYTES_OF_AN_ENTRY + len(key))
        return listed

    def _entries_of(
        self, key: str, tag_file: DirectoryEntry | None
    ) -> tuple[tuple[TagEntry, ...], bool]:
        """Return the tag entries of an object, and whether they are certain."""
        if tag_file is None:
            return (), True
        try:
            return self._read_of_status(self._tag_path(key), tag_file, self._read_tags)
        except OSError as error:
            if is_of_the_process(error):
                raise
            return (), False

    def _cached_digest_and_size(self, key: str) -> tuple[str, int]:
        value, _ = self._digest_of(key, self._status(self._root / key))
        return value

    def _digest_of(self, key: str, entry: DirectoryEntry) -> tuple[tuple[str, int], bool]:
        """Return digest and size of a file, and whether they are those of this status."""
        _name, _kind, *status = entry
        known = self._digests.get(tuple(status))
        if known is not None:
            return known, True
        value, is_certain = self._read_of_status(self._root / key, entry, self._digest_and_size)
        if is_certain:
            self._digests.put(tuple(status), value, _BYTES_OF_AN_ENTRY)
        return value, is_certain

    def _read_of_status(
        self, path: Path, entry: DirectoryEntry, read: Callable[[Path], T]
    ) -> tuple[T, bool]:
        """Return what was read from a file, and whether the file had this status all the time."""
        # Before the read, which may take long: a change within it must change the times.
        had_settled = self._has_settled(entry)
        value = read(path)
        return value, had_settled and self._fs.status(path) == entry

    def _has_settled(self, entry: DirectoryEntry) -> bool:
        """Whether a change of this file would certainly change its times."""
        return self._runtime.now().timestamp() - entry.changed_ns / 1e9 > _SETTLED_SECONDS

    def _folders(self, folder: str) -> list[str]:
        with before_writing(folder or "/", self._root):
            try:
                children = [
                    key for key, entry in self._children(folder) if entry.kind is Kind.FOLDER
                ]
            except (FileNotFoundError, NotADirectoryError):
                children = []
            names = [key.rpartition("/")[2] for key in children if self._may_hold_objects(key)]
            self._check_root()
        return sorted(names, key=by_bytes)

    def _may_hold_objects(self, folder: str) -> bool:
        """Whether objects may be below the folder.

        Searches the nearest folders first, up to a limit.
        """
        waiting = deque([folder])
        for _ in range(_MAX_FOLDERS_SEARCHED):
            if not waiting:
                return False
            try:
                for key, entry in self._children(waiting.popleft()):
                    if entry.kind is not Kind.FOLDER or len(waiting) > _MAX_FOLDERS_SEARCHED:
                        return True
                    waiting.append(key)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if is_of_the_process(error):
                    raise
                return True
        return bool(waiting)

    def _children(self, folder: str) -> Iterator[tuple[str, DirectoryEntry]]:
        """Yield the entries of a folder that are keys, or folders of keys."""
        return ((key, entry) for key, entry in self._entries(folder) if is_key(key))

    def _entries(self, folder: str) -> Iterator[tuple[str, DirectoryEntry]]:
        """Yield the entries of a folder, except the store's own, by their paths in the store."""
        for entry in self._fs.entries(self._root / folder):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if key not in _PRIVATE:
                yield key, entry
        self._must_exist = True

    # ---- messages

    def _cannot_create(self, key: str, kind: Kind) -> ConditionFailed | StoreRefused:
        if kind is Kind.FILE:
            return ConditionFailed(f"object {key} exists already")
        return StoreRefused(self._wrong_kind(self._root / key, kind))

    def _absent_root(self) -> StoreRefused:
        return StoreRefused(
            f"there is no folder {self._root}, which was the bucket before: is its volume not "
            "mounted? Mount it, or move the folder back; nothing is created in its place. For a "
            "new bucket start the daemon once with `rebundle run --new-bucket`"
        )

    def _wrong_kind(self, path: Path, kind: Kind, belongs: str = "a file") -> str:
        command = move_file(self._root, path)
        return (
            f"{path} is {kind.value} where {belongs} belongs; it is not followed or opened; move "
            f"it away: {command}"
        )

    # ---- names

    def _tag_path(self, key: str) -> Path:
        return self._root / _TAGS / key

    def _lock_path(self, key: str) -> Path:
        # Keys share 256 lock files. Lock files are never
        # removed, so one per key would accumulate forever.
        return self._root / _LOCKS / hashlib.sha256(key.encode()).hexdigest()[:2]


def _check_key(key: str) -> None:
    check_key(key)
    if any(f"{key}/".startswith(f"{folder}/") for folder in _PRIVATE):
        raise ValueError(f"key {key!r} is reserved for the store")


def _version_by_status(entry: DirectoryEntry) -> Version:
    """Return a version made of a file's status, not of its body.

    It only shows whether the file changed.
    """
    return Version(
        f"stat-{entry.device:x}-{entry.inode:x}-{entry.size}-{entry.modified_ns}-{entry.changed_ns}"
    )


def _modified(entry: DirectoryEntry) -> datetime:
    """Return when a file was last written, within the years that a stored document may have.

    Every program can set this time, and a file system with 64-bit times takes years that no
    `datetime` has.
    """
    if entry.modified <= _FIRST_MODIFIED.timestamp():
        return _FIRST_MODIFIED
    if entry.modified >= _LAST_MODIFIED.timestamp():
        return _LAST_MODIFIED
    return datetime.fromtimestamp(entry.modified, UTC)


def _unread_object(key: str, entry: DirectoryEntry, fault: str | None = None) -> Listed:
    return Listed(
        key,
        _version_by_status(entry),
        entry.size,
        _modified(entry),
        fault=fault,
    )


def _recoverable_name(token: str, *digests: str | None) -> str:
    """Name a temporary file that may be removed if its bytes have one of these digests."""
    return ".".join((token, *(digest or "-" for digest in digests)))


def _changed_repeatedly(key: str) -> StoreUnavailable:
    return StoreUnavailable(f"{key} was changed repeatedly while it was read")
