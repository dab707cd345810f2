"""A folder as the bucket: keys are files, which operators read with cp and rsync and change with an editor.

A write is staged as a temporary file, synced, and then gets its name in one step, after which the names are synced up
to the root: a folder may be there because somebody made it a moment ago and was killed before it was durable. All
writers of a key hold its lock file, so that compare and write are one step between threads and processes; the system
frees the locks of the dead.

An editor takes no lock. So a replacement lets the new file and the old one change places, looks at what came out, and
puts it back if it is not what was compared (issue 16). A deletion moves the file out, looks, and puts it back the same
way. Where the file system cannot exchange names, a replacement compares once more and renames. What an editor writes
through a descriptor that it opened before is beyond any store.

What an object's tag is and how it survives a crash: `tag_file`. An object that never had one has no tag file: its
version is its digest alone, which is enough where bodies never repeat (the pointer) or never change (states). The tag
`mode` with the value `0755` makes the file executable. Content type and caching mean nothing here.

A listing reads a file once: its digest is remembered with device, inode, size and times. It does not read what is
larger than `UNREAD_BYTES`, nor what `unread` names: the version of such a file is made of these figures, here and in
`get`. A fault of one file or folder is reported with it, and everything else is listed (ADR 17):

| what is there | in a listing |
| --- | --- |
| a file that cannot be read | an object with a `fault` |
| a symbolic link, FIFO, socket or device | an object with a `fault`; nothing follows or opens it |
| a folder that cannot be listed | in `Listing.unreadable`; below the folder that was asked for |
| a name that no key can have (not UTF-8, control characters, too long) | left out, with what is below |

Below `.rebundle/`, `store/` (tags), `tmp/`, `locks/` and `aside/` (what operators moved away) are no keys. A temporary
file that a crash left is removed by the first write of a later store once it is a day old; if its writer was only
asleep, its write fails and has changed nothing. One kind stays: `<token>.<digest>.<digest>` with bytes of neither
digest is what somebody saved at the moment of a crash. The calls themselves: `filesystem`.
"""

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from daemon import local_files
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
from daemon.stores.errors import ConditionFailed, ObjectMissing, ObjectTooBig, StoreRefused, StoreUnavailable
from daemon.stores.object_keys import by_bytes, check_folder, check_key, check_prefix, is_key
from daemon.stores.port import Content, Listed, Listing, Stored, UnreadableFolder, Version
from daemon.stores.remedies import ASIDE, move_file
from renderers.cache import Cache

P = ParamSpec("P")
T = TypeVar("T")

LOCK_SECONDS: Final = 30.0
"""How long a write waits for the writers before it: another process may be stopped while it holds the lock."""
STALE_SECONDS: Final = 86_400.0
"""The age at which a temporary file can only be a crash's."""
UNREAD_BYTES: Final = 64 << 20
"""The size above which a listing reads no file: more than any file that a pass over a live tree writes."""

_TAGS: Final = ".rebundle/store"
_TEMPORARIES: Final = ".rebundle/tmp"
_LOCKS: Final = ".rebundle/locks"
_PRIVATE: Final = frozenset({_TAGS, _TEMPORARIES, _LOCKS, ASIDE})
_MOST_TAG_BYTES: Final = 1 << 16
_MOST_FOLDERS_SEARCHED: Final = 64
_MOST_TIDIED: Final = 1_000
_TRIES: Final = 20
_DIGESTS_BYTES: Final = 16 << 20
_BYTES_A_DIGEST: Final = 400
"""What a remembered digest takes in memory, about."""
_SETTLED_SECONDS: Final = 2.0
"""Above the resolution of any file system's times: two changes that are closer may show the same ones."""


class _Busy(Exception):
    """Somebody else holds the lock of the key."""


@dataclass(frozen=True, slots=True)
class _Examined:
    """An object that has the version its writer expects, and what was found there."""

    entry: DirectoryEntry
    sha256: str | None
    """None: it is not read for that."""
    tags: tuple[TagEntry, ...]
    """Those of its body."""


def _nothing(_key: str) -> bool:
    return False


class DirectoryStore:
    """An ObjectStore in a folder of a local file system, for any number of processes. An absent folder is an empty
    store; the first write makes it.

    `unread` says which keys a listing must not open (an operator's credentials). `private` says which keys only the
    owner of the file may read and write, whatever the umask. `unread_bytes`: see UNREAD_BYTES.
    """

    def __init__(
        self,
        root: Path,
        runtime: Runtime,
        filesystem: FileSystem | None = None,
        *,
        unread: Callable[[str], bool] = _nothing,
        private: Callable[[str], bool] = _nothing,
        unread_bytes: int = UNREAD_BYTES,
    ) -> None:
        self._root = root.resolve()
        self._runtime = runtime
        self._fs = filesystem or RealFileSystem()
        self._unread = unread
        self._private = private
        self._unread_bytes = unread_bytes
        self._digests = Cache[str](_DIGESTS_BYTES)
        self._tidied = False
        self._root_is_durable = False

    # ---- reading

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object. Raises ObjectMissing, ObjectTooBig."""
        _check(key)
        return await self._runtime.run_in_thread(self._get, key, most_bytes)

    async def scan(self, prefix: str) -> Listing:
        """All objects whose key starts with `prefix`, sorted by the key's bytes, with their digests.

        Raises StoreRefused if the folder of the prefix cannot be listed; one below it is in `Listing.unreadable`.
        """
        return await self._runtime.run_in_thread(self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix`, sorted: the folders in it, but empty ones.

        One that cannot be listed, or has more than 64 folders before the first file, may hold an object and is among
        them. Raises StoreRefused if `prefix` itself cannot be listed.
        """
        return await self._runtime.run_in_thread(self._folders, check_folder(prefix).rstrip("/"))

    # ---- writing

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object, durably. Raises ConditionFailed, OutcomeUnknown."""
        return await self._alone(key, self._create, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version, durably. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        return await self._alone(key, self._replace, content, version)

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version, durably. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        await self._alone(key, self._delete, version)

    async def _alone(self, key: str, work: Callable[Concatenate[str, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, done while no other thread or process writes the key.

        It waits outside of the threads: writers behind a stopped process must not use up the pool.
        """
        _check(key)
        limit = self._runtime.monotonic() + LOCK_SECONDS
        while True:
            try:
                return await self._runtime.run_in_thread(self._locked, key, work, *args, **kwargs)
            except _Busy as busy:
                if self._runtime.monotonic() >= limit:
                    raise StoreRefused(f"{key}: {local_files.held_for(self._lock_path(key), LOCK_SECONDS)}") from busy
            await self._runtime.sleep(0.001 + 0.02 * self._runtime.jitter())

    def _locked(self, key: str, work: Callable[Concatenate[str, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with before_writing(key):
            self._make_folders(self._root / _TEMPORARIES)
            self._make_folders(self._root / _LOCKS)
            self._tidy_once()
            with self._fs.lock(self._lock_path(key)) as held:
                if not held:
                    raise _Busy(key)
                return work(key, *args, **kwargs)

    def _create(self, key: str, content: Content) -> Version:
        found = self._fs.status(self._root / key)
        if found is not None:
            raise self._taken(key, found.kind)
        return self._put(key, content, (), self._fs.link)

    def _replace(self, key: str, content: Content, version: Version) -> Version:
        current = self._expect(key, version)

        def place(staged: Path, path: Path) -> None:
            # Staging takes many milliseconds, and an editor takes no lock: look once more, as late as can be.
            if not self._is(path, current):
                raise ConditionFailed(f"{key} was changed while it was being replaced")
            self._change_places(key, staged, path, current, hashlib.sha256(content.body).hexdigest())

        return self._put(key, content, current.tags, place)

    def _delete(self, key: str, version: Version) -> None:
        current = self._expect(key, version)
        path, tags = self._root / key, self._tag_path(key)
        out = self._root / _TEMPORARIES / _kept_name(self._runtime.random_id(), current.sha256)
        with while_writing(key):
            self._fs.rename(path, out)
            if not self._is(out, current):
                self._put_back(out, path)
                raise ConditionFailed(f"{key} was changed while it was being deleted")
        with after_writing(key), suppress(FileNotFoundError):
            self._fs.sync_folder(path.parent)
        # What follows is tidying. A tag file that a crash leaves fits no body, or the very bytes it was made for.
        for leftover in (out, tags):
            with suppress(OSError):
                self._fs.unlink(leftover)
        self._prune(path.parent, self._root)
        self._prune(tags.parent, self._root / _TAGS)

    def _put(
        self, key: str, content: Content, kept: Sequence[TagEntry], place: Callable[[Path, Path], None]
    ) -> Version:
        path, tags = self._root / key, self._tag_path(key)
        sha256 = hashlib.sha256(content.body).hexdigest()
        entry: TagEntry | None = None
        with self._staged(content.body, self._mode(key, content)) as staged:
            if content.tag or self._fs.status(tags) is not None:
                entry = TagEntry(sha256, self._runtime.random_id(), dict(content.tag))
                self._write_tags(tags, (*kept, entry))
            new = self._status(staged)
            with while_writing(key):
                self._place(staged, path, place)
            with after_writing(key):
                self._sync_up(path.parent)
        if not self._goes_by_figures(key, len(content.body)):
            return version_of(sha256, entry)
        # Only now, for the names that it had and lost are among the figures.
        found = self._fs.status(path)
        return _figures(found if found is not None and found.is_same_file(new) else new)

    def _mode(self, key: str, content: Content) -> int:
        mode = 0o777 if content.tag.get("mode") == "0755" else 0o666
        return mode & 0o700 if self._private(key) else mode

    def _write_tags(self, tags: Path, entries: Sequence[TagEntry]) -> None:
        with self._staged(encode_tags(entries), 0o666) as staged:
            self._place(staged, tags, self._fs.rename)
            self._sync_up(tags.parent)

    @contextmanager
    def _staged(self, body: bytes, mode: int) -> Iterator[Path]:
        """A synced temporary file, until the end of the block: a rename has then taken it, a link has doubled it."""
        staged = self._root / _TEMPORARIES / self._runtime.random_id()
        try:
            self._fs.write(staged, body, mode=mode)
            self._fs.sync(staged)
            yield staged
        finally:
            with suppress(OSError):
                self._fs.unlink(staged)

    def _place(self, staged: Path, path: Path, place: Callable[[Path, Path], None]) -> None:
        """Give the staged file its name, in a folder that another writer may be removing because it is empty."""
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                self._make_folders(path.parent)
                return place(staged, path)
        raise FileNotFoundError(2, "the folder or the temporary file is removed again and again", str(path))

    # ---- beside an editor

    def _change_places(self, key: str, staged: Path, path: Path, current: _Examined, sha256: str) -> None:
        """Let the staged file and the one at the path change places, if that is still the one examined.

        Until that is known, the file that comes out has a name that `_discard` respects: a crash loses nothing.
        """
        ours = self._status(staged)
        out = staged.with_name(_kept_name(staged.name, current.sha256, sha256))
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
        if self._is(out, current):
            return self._fs.unlink(out)
        self._change_back(key, out, path, ours)
        raise ConditionFailed(f"{key} was changed while it was being replaced; what was saved is back in its place")

    def _change_back(self, key: str, out: Path, path: Path, ours: DirectoryEntry) -> None:
        """Put what came out back. What comes out then is ours, or was saved even later and belongs there, too."""
        for _ in range(_TRIES):
            came = self._status(out)
            try:
                self._fs.exchange(out, path)
            except FileNotFoundError:
                return self._put_back(out, path)
            if self._status(out).is_same_file(ours):
                # A power cut must not keep the removal and lose the exchange.
                self._fs.sync_folder(path.parent)
                return self._fs.unlink(out)
            ours = came
        raise StoreUnavailable(f"{key} is saved again and again; what was saved last is in {out}")

    def _put_back(self, out: Path, path: Path) -> None:
        """Give a file that was taken away its name again, unless somebody has saved a newer one there."""
        if self._status(out).kind is Kind.FOLDER:
            return self._fs.rename(out, path)
        with suppress(FileExistsError):
            self._place(out, path, self._fs.link)
        self._fs.sync_folder(path.parent)
        return self._fs.unlink(out)

    def _status(self, path: Path) -> DirectoryEntry:
        found = self._fs.status(path)
        if found is None:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return found

    def _is(self, path: Path, examined: _Examined) -> bool:
        """Whether the very file that was examined is at the path, with the same bytes."""
        found = self._fs.status(path)
        if found is None or not found.is_same_file(examined.entry):
            return False
        return examined.sha256 is None or self._hashed(path)[0] == examined.sha256

    def _discard(self, kept: Path) -> None:
        """Remove a temporary file whose bytes its name knows; others belong to somebody, and stay."""
        _, *known = kept.name.split(".")
        with suppress(OSError):
            if not known or self._hashed(kept)[0] in known:
                self._fs.unlink(kept)

    # ---- folders

    def _make_folders(self, folder: Path) -> None:
        if self._is_folder(folder):
            return
        for step in (*reversed(folder.parents), folder):
            if not self._is_folder(step):
                if not step.is_relative_to(self._root) or step == self._root:
                    self._root_is_durable = False
                with suppress(FileExistsError):
                    self._fs.mkdir(step)

    def _is_folder(self, path: Path) -> bool:
        found = self._fs.status(path)
        if found is not None and found.kind is not Kind.FOLDER:
            raise StoreRefused(self._odd(path, found.kind, "where a folder is needed"))
        return found is not None

    def _sync_up(self, folder: Path) -> None:
        """Make a name in the folder durable, with the names of the folder and of all above it."""
        for step in (folder, *folder.parents):
            if not step.is_relative_to(self._root):
                break
            # Gone: another writer deleted the object just placed, and the folder with it.
            with suppress(FileNotFoundError):
                self._fs.sync_folder(step)
        if not self._root_is_durable:
            for step in self._root.parents:
                # Whoever may not read a folder above the root did not make it either.
                with suppress(PermissionError):
                    self._fs.sync_folder(step)
            self._root_is_durable = True

    def _prune(self, folder: Path, top: Path) -> None:
        """Remove the folders that a deletion left empty, as they vanish from a bucket."""
        with suppress(OSError):
            while folder != top:
                self._fs.rmdir(folder)
                folder = folder.parent

    def _tidy_once(self) -> None:
        if self._tidied:
            return
        self._tidied = True
        oldest = self._runtime.now().timestamp() - STALE_SECONDS
        folder = self._root / _TEMPORARIES
        with suppress(OSError):
            for entry in [*islice(self._fs.entries(folder), _MOST_TIDIED)]:
                if entry.modified < oldest:
                    self._discard(folder / entry.name)

    # ---- finding

    def _get(self, key: str, most_bytes: int | None) -> Stored:
        def read() -> tuple[str, bytes]:
            body = self._body(key, most_bytes)
            return hashlib.sha256(body).hexdigest(), body

        with before_writing(key):
            for _ in range(_TRIES):
                before = self._file(key)
                sha256, body, entry = self._tagged(key, read)
                tag = {} if entry is None else entry.tag
                if not self._goes_by_figures(key, len(body)):
                    return Stored(body, version_of(sha256, entry), tag)
                if self._fs.status(self._root / key) == before:
                    return Stored(body, _figures(before), tag)
        raise _restless(key)

    def _expect(self, key: str, version: Version) -> _Examined:
        entry = self._file(key)
        if self._goes_by_figures(key, entry.size):
            found, examined = _figures(entry), _Examined(entry, None, self._entries(key))
        else:
            sha256, _, tag = self._tagged(key, lambda: self._hashed(self._root / key))
            found = version_of(sha256, tag)
            examined = _Examined(entry, sha256, () if tag is None else (tag,))
        if found != version:
            raise ConditionFailed(f"object {key} is not at version {version} any more, but at {found}")
        return examined

    def _tagged(self, key: str, read: Callable[[], tuple[str, T]]) -> tuple[str, T, TagEntry | None]:
        """Digest and tag that belong together, with what else `read` gives, found without the lock.

        The tag file is read first: it names the next body before that body is there. A body that it does not name
        came later still, unless the tag file is the same afterwards: then nobody here wrote it.
        """
        entries = self._entries(key)
        for _ in range(_TRIES):
            sha256, found = read()
            entry = fitting(entries, sha256)
            known, entries = entries, self._entries(key) if entry is None else entries
            if entry is not None or known == entries:
                return sha256, found, entry
        raise _restless(key)

    def _goes_by_figures(self, key: str, size: int) -> bool:
        """Whether the version of an object is made of its file's size and times, so that nothing needs to read it."""
        return self._unread(key) or size > self._unread_bytes

    def _file(self, key: str) -> DirectoryEntry:
        """What is known of an object without reading it."""
        path = self._root / key
        found = self._fs.status(path)
        if found is None or found.kind is Kind.FOLDER:
            raise ObjectMissing(key)
        if found.kind is not Kind.FILE:
            raise StoreRefused(self._odd(path, found.kind, "where an object can be"))
        return found

    def _body(self, key: str, most_bytes: int | None) -> bytes:
        size = self._file(key).size
        if most_bytes is not None and size > most_bytes:
            raise ObjectTooBig(key, most_bytes)
        try:
            body = self._read(self._root / key, most_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(key) from None
        if most_bytes is not None and len(body) > most_bytes:
            raise ObjectTooBig(key, most_bytes)
        return body

    def _entries(self, key: str) -> tuple[TagEntry, ...]:
        """The tags of an object; none where the tag file cannot be read: then the body counts as somebody else's."""
        try:
            raw = self._read(self._tag_path(key), _MOST_TAG_BYTES)
        except OSError as error:
            if is_of_the_process(error):
                raise
            return ()
        return decode_tags(raw) if len(raw) <= _MOST_TAG_BYTES else ()

    def _read(self, path: Path, most_bytes: int | None) -> bytes:
        """The bytes of a file; of one that has more than `most_bytes`, a few more than that."""
        # Not a list of parts: joining them takes the memory of a second body.
        body = io.BytesIO()
        for chunk in self._fs.chunks(path):
            body.write(chunk)
            if most_bytes is not None and body.tell() > most_bytes:
                break
        return body.getvalue()

    def _hashed(self, path: Path) -> tuple[str, int]:
        """Digest and size of a file, up to the size that is read for it."""
        digest, size = hashlib.sha256(), 0
        for chunk in self._fs.chunks(path):
            digest.update(chunk)
            size += len(chunk)
            if size > self._unread_bytes:
                break
        return digest.hexdigest(), size

    def _remembered(self, path: Path) -> tuple[str, int]:
        """Digest and size of a file, without a read where it is the one that was read before."""
        entry = self._status(path)
        figures = _figures(entry)
        known = self._digests.get(figures)
        if known is not None:
            return known, entry.size
        sha256, size = self._hashed(path)
        if self._runtime.now().timestamp() - entry.changed_ns / 1e9 > _SETTLED_SECONDS:
            self._digests.put(figures, sha256, _BYTES_A_DIGEST)
        return sha256, size

    # ---- listing

    def _scan(self, prefix: str) -> Listing:
        top = prefix.rpartition("/")[0]
        found: list[Listed | None] = []
        hidden: list[UnreadableFolder] = []
        waiting = [top]
        with before_writing(prefix or "/"):
            while waiting:
                folder = waiting.pop()
                try:
                    children = list(self._children(folder))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    if folder == top or is_of_the_process(error):
                        raise
                    hidden.append(UnreadableFolder(folder, unreadable(self._root / folder, error, Kind.FOLDER)))
                    continue
                for key, entry in children:
                    if entry.kind is not Kind.FOLDER and key.startswith(prefix):
                        found.append(self._listed(key, entry))
                    elif entry.kind is Kind.FOLDER and f"{key}/".startswith(prefix):
                        waiting.append(key)
        objects = sorted((each for each in found if each is not None), key=lambda each: by_bytes(each.key))
        return Listing(tuple(objects), tuple(sorted(hidden, key=lambda each: by_bytes(each.key))))

    def _listed(self, key: str, entry: DirectoryEntry) -> Listed | None:
        path = self._root / key
        if entry.kind is not Kind.FILE:
            return _unread(key, entry, self._odd(path, entry.kind, "where an object can be"))
        if self._goes_by_figures(key, entry.size):
            return _unread(key, entry)
        try:
            sha256, size, tag = self._tagged(key, lambda: self._remembered(path))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None  # gone since the folder was read
        except StoreUnavailable as error:
            return _unread(key, entry, str(error))
        except OSError as error:
            if is_of_the_process(error):
                raise
            return _unread(key, entry, unreadable(path, error, Kind.FILE))
        modified = datetime.fromtimestamp(entry.modified, UTC)
        return Listed(key, version_of(sha256, tag), size, modified, sha256)

    def _folders(self, folder: str) -> list[str]:
        with before_writing(folder or "/"):
            try:
                children = [key for key, entry in self._children(folder) if entry.kind is Kind.FOLDER]
            except (FileNotFoundError, NotADirectoryError):
                return []
            names = [key.rpartition("/")[2] for key in children if self._may_hold_one(key)]
        return sorted(names, key=by_bytes)

    def _may_hold_one(self, folder: str) -> bool:
        """Whether an object can be below the folder: the nearest first, and only as far as it takes."""
        waiting = deque([folder])
        for _ in range(_MOST_FOLDERS_SEARCHED):
            if not waiting:
                return False
            try:
                for key, entry in self._children(waiting.popleft()):
                    if entry.kind is not Kind.FOLDER or len(waiting) > _MOST_FOLDERS_SEARCHED:
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
        """What can be a key or lead to one, in a folder."""
        for entry in self._fs.entries(self._root / folder):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if key not in _PRIVATE and is_key(key):
                yield key, entry

    # ---- what is no object

    def _taken(self, key: str, kind: Kind) -> ConditionFailed | StoreRefused:
        if kind is Kind.FILE:
            return ConditionFailed(f"object {key} exists already")
        return StoreRefused(self._odd(self._root / key, kind, "where an object is to be stored"))

    def _odd(self, path: Path, kind: Kind, where: str) -> str:
        command = move_file(self._root, path)
        return f"{path} is {kind.value} {where}, and is not followed or opened; move it away: {command}"

    # ---- names

    def _tag_path(self, key: str) -> Path:
        return self._root / _TAGS / key

    def _lock_path(self, key: str) -> Path:
        # One of 256 files, for they stay: a file for each key would outnumber the objects in the end.
        return self._root / _LOCKS / hashlib.sha256(key.encode()).hexdigest()[:2]


def _check(key: str) -> None:
    check_key(key)
    if any(f"{key}/".startswith(f"{folder}/") for folder in _PRIVATE):
        raise ValueError(f"key {key!r} is the store's own")


def _figures(entry: DirectoryEntry) -> Version:
    """The version of a file that is not read: it tells only whether the file changed."""
    return Version(f"stat-{entry.device:x}-{entry.inode:x}-{entry.size}-{entry.modified_ns}-{entry.changed_ns}")


def _unread(key: str, entry: DirectoryEntry, fault: str | None = None) -> Listed:
    return Listed(key, _figures(entry), entry.size, datetime.fromtimestamp(entry.modified, UTC), fault=fault)


def _kept_name(token: str, *digests: str | None) -> str:
    """The name of a temporary file that may be removed while it has bytes of one of these digests."""
    return ".".join((token, *(each or "-" for each in digests)))


def _restless(key: str) -> StoreUnavailable:
    return StoreUnavailable(f"{key} was changed again and again while it was read")
