"""A folder as the bucket: keys are files, which operators read with cp and rsync and change with an editor.

A write is staged as a temporary file, synced, and then gets its name in one step (link for a new object, rename over an
old one), after which the names are synced up to the root: a folder may be there because somebody made it a moment ago
and was killed before it was durable. All writers of a key hold its lock file, so that compare and write are one
step between threads and processes; the system frees the locks of the dead. An editor takes no lock, and against it
nothing is atomic: the live tree keeps what it replaces (protocol 5).

What an object's tag is and how it survives a crash: `tags`. An object that never had one has no tag file: its version
is its digest alone, which is enough where bodies never repeat (the pointer) or never change (states). The tag `mode`
with the value `0755` makes the file executable. Content type and caching mean nothing here.

Below `.rebundle/`, `store/` (tags), `tmp/` and `locks/` are the store's own and no keys. Symbolic links are not
followed: a listing leaves them out, an operation on one is refused. Left out, too, are names that no key can have. A
temporary file that a crash left is removed by the first write of a later store once it is a day old; if its writer was
only asleep, its write fails and has changed nothing. The calls themselves: `filesystem`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from daemon.runtime import Runtime
from daemon.stores.diskerrors import after_writing, before_writing, while_writing
from daemon.stores.errors import ConditionFailed, ObjectMissing, ObjectTooBig, StoreRefused, StoreUnavailable
from daemon.stores.filesystem import Entry, FileSystem, Kind, RealFileSystem
from daemon.stores.keys import by_bytes, check_folder, check_key, check_prefix, is_key
from daemon.stores.port import Content, Listed, Listing, Stored, Version
from daemon.stores.tags import TagEntry, decode_tags, encode_tags, fitting, version_of

P = ParamSpec("P")
T = TypeVar("T")

LOCK_SECONDS: Final = 30.0
"""How long a write waits for the writers before it: another process may be stopped while it holds the lock."""
STALE_SECONDS: Final = 86_400.0
"""The age at which a temporary file can only be a crash's."""

_TAGS: Final = ".rebundle/store"
_TEMPORARIES: Final = ".rebundle/tmp"
_LOCKS: Final = ".rebundle/locks"
_PRIVATE: Final = frozenset({_TAGS, _TEMPORARIES, _LOCKS})


class _Busy(Exception):
    """Somebody else holds the lock of the key."""


@dataclass(frozen=True, slots=True)
class _Found:
    body: bytes
    sha256: str
    entry: TagEntry | None

    @property
    def version(self) -> Version:
        return version_of(self.sha256, self.entry)


def _nothing(_key: str) -> bool:
    return False


class DirectoryStore:
    """An ObjectStore in a folder of a local file system, for any number of processes. An absent folder is an empty
    store; the first write makes it.

    `unread` says which keys a listing must not open (an operator's credentials): they are listed without a digest, and
    with a version that tells only whether the file changed.
    """

    def __init__(
        self,
        root: Path,
        runtime: Runtime,
        filesystem: FileSystem | None = None,
        *,
        unread: Callable[[str], bool] = _nothing,
    ) -> None:
        self._root = root.resolve()
        self._runtime = runtime
        self._fs = filesystem or RealFileSystem()
        self._unread = unread
        self._tidied = False
        self._root_is_durable = False

    # ---- reading

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object. Raises ObjectMissing."""
        _check(key)
        found = await self._runtime.offload(self._get, key, most_bytes)
        return Stored(found.body, found.version, {} if found.entry is None else found.entry.tag)

    async def scan(self, prefix: str) -> Listing:
        """All objects whose key starts with `prefix`, sorted by the key's bytes, with their digests."""
        return await self._runtime.offload(self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix`, sorted. A folder without any file is none."""
        return await self._runtime.offload(self._folders, check_folder(prefix).rstrip("/"))

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
                return await self._runtime.offload(self._locked, key, work, *args, **kwargs)
            except _Busy as busy:
                if self._runtime.monotonic() >= limit:
                    raise StoreUnavailable(
                        f"{key}: other writers held {self._lock_path(key)} for {LOCK_SECONDS:.0f} s; is one stopped?"
                    ) from busy
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
        self._check_way(key)
        found = self._fs.status(self._root / key)
        if found is not None:
            raise _taken(key, found)
        return self._put(key, content, (), self._fs.link)

    def _replace(self, key: str, content: Content, version: Version) -> Version:
        current = self._expect(key, version)

        def place(staged: Path, path: Path) -> None:
            # Staging takes many milliseconds, and an editor takes no lock: look once more, as late as can be.
            if self._body(key) != current.body:
                raise ConditionFailed(f"{key} was changed while it was being replaced")
            self._fs.rename(staged, path)

        return self._put(key, content, () if current.entry is None else (current.entry,), place)

    def _delete(self, key: str, version: Version) -> None:
        self._expect(key, version)
        path, tags = self._root / key, self._tag_path(key)
        with while_writing(key):
            self._fs.unlink(path)
        with after_writing(key), suppress(FileNotFoundError):
            self._fs.sync_folder(path.parent)
        # What follows is tidying. A tag file that a crash leaves fits no body, or the very bytes it was made for.
        with suppress(OSError):
            self._fs.unlink(tags)
        self._prune(path.parent, self._root)
        self._prune(tags.parent, self._root / _TAGS)

    def _put(
        self, key: str, content: Content, kept: Sequence[TagEntry], place: Callable[[Path, Path], None]
    ) -> Version:
        path, tags = self._root / key, self._tag_path(key)
        sha256 = hashlib.sha256(content.body).hexdigest()
        entry: TagEntry | None = None
        with self._staged(content.body, executable=content.tag.get("mode") == "0755") as staged:
            if content.tag or self._fs.status(tags) is not None:
                entry = TagEntry(sha256, self._runtime.token(), dict(content.tag))
                self._write_tags(tags, (*kept, entry))
            with while_writing(key):
                self._place(staged, path, place)
            with after_writing(key):
                self._sync_up(path.parent)
        return version_of(sha256, entry)

    def _write_tags(self, tags: Path, entries: Sequence[TagEntry]) -> None:
        with self._staged(encode_tags(entries), executable=False) as staged:
            self._place(staged, tags, self._fs.rename)
            self._sync_up(tags.parent)

    @contextmanager
    def _staged(self, body: bytes, *, executable: bool) -> Iterator[Path]:
        """A synced temporary file, until the end of the block: a rename has then taken it, a link has doubled it."""
        staged = self._root / _TEMPORARIES / self._runtime.token()
        try:
            self._fs.write(staged, body, executable=executable)
            self._fs.sync(staged)
            yield staged
        finally:
            with suppress(OSError):
                self._fs.unlink(staged)

    def _place(self, staged: Path, path: Path, place: Callable[[Path, Path], None]) -> None:
        """Give the staged file its name, in a folder that another writer may be removing because it is empty."""
        for _ in range(20):
            with suppress(FileNotFoundError):
                self._make_folders(path.parent)
                return place(staged, path)
        raise FileNotFoundError(2, "the folder or the temporary file is removed again and again", str(path))

    # ---- folders

    def _make_folders(self, folder: Path) -> None:
        for step in (*reversed(folder.parents), folder):
            found = self._fs.status(step)
            if found is None:
                if not step.is_relative_to(self._root) or step == self._root:
                    self._root_is_durable = False
                with suppress(FileExistsError):
                    self._fs.mkdir(step)
            elif found.kind is not Kind.FOLDER:
                raise StoreRefused(f"{step} stands where a folder is needed: move it away")

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
        for entry in self._fs.entries(folder):
            if entry.modified < oldest:
                with suppress(OSError):
                    self._fs.unlink(folder / entry.name)

    # ---- finding

    def _get(self, key: str, most_bytes: int | None) -> _Found:
        with before_writing(key):
            self._check_size(key, most_bytes)
            found = self._find(key)
        if most_bytes is not None and len(found.body) > most_bytes:  # it grew after its size was looked at
            raise ObjectTooBig(key, most_bytes)
        return found

    def _check_size(self, key: str, most_bytes: int | None) -> None:
        found = self._fs.status(self._root / key)
        if most_bytes is not None and found is not None and found.kind is Kind.FILE and found.size > most_bytes:
            raise ObjectTooBig(key, most_bytes)

    def _expect(self, key: str, version: Version) -> _Found:
        found = self._find(key)
        if found.version != version:
            raise ConditionFailed(f"object {key} is not at version {version} any more, but at {found.version}")
        return found

    def _find(self, key: str) -> _Found:
        """Body and tag that belong together, read without the lock.

        The tag file is read first: it names the next body before that body is there. A body that it does not name
        came later still, unless the tag file is the same afterwards: then nobody here wrote it.
        """
        entries = self._entries(key)
        while True:
            body = self._body(key)
            sha256 = hashlib.sha256(body).hexdigest()
            entry = fitting(entries, sha256)
            known, entries = entries, self._entries(key) if entry is None else entries
            if entry is not None or known == entries:
                return _Found(body, sha256, entry)

    def _body(self, key: str) -> bytes:
        self._check_way(key)
        path = self._root / key
        found = self._fs.status(path)
        if found is None or found.kind is Kind.FOLDER:
            raise ObjectMissing(key)
        if found.kind is not Kind.FILE:
            raise _linked(path)
        try:
            return self._fs.read(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(key) from None

    def _entries(self, key: str) -> tuple[TagEntry, ...]:
        try:
            return decode_tags(self._fs.read(self._tag_path(key)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return ()

    def _check_way(self, key: str) -> None:
        """Refuse a key that leads through a symbolic link, perhaps out of the store."""
        path = self._root
        for part in key.split("/")[:-1]:
            path /= part
            found = self._fs.status(path)
            if found is not None and found.kind is Kind.OTHER:
                raise _linked(path)

    # ---- listing

    def _scan(self, prefix: str) -> Listing:
        folder = prefix.rpartition("/")[0]
        with before_writing(prefix or "/"):
            self._check_way(f"{folder}/")
            found = [self._listed(key, entry) for key, entry in self._walk(folder, prefix)]
        return Listing(tuple(sorted((each for each in found if each is not None), key=lambda each: by_bytes(each.key))))

    def _listed(self, key: str, entry: Entry) -> Listed | None:
        modified = datetime.fromtimestamp(entry.modified, UTC)
        unread = Listed(key, Version(f"unread-{entry.size}-{entry.modified}"), entry.size, modified)
        if self._unread(key):
            return unread
        try:
            found = self._find(key)
        except (ObjectMissing, StoreRefused):
            # Gone, or turned into a link, since the folder was read.
            return None
        except PermissionError:
            return unread
        return Listed(key, found.version, len(found.body), modified, found.sha256)

    def _folders(self, folder: str) -> list[str]:
        with before_writing(folder or "/"):
            self._check_way(f"{folder}/")
            names = [key for key, entry in self._children(folder) if entry.kind is Kind.FOLDER and self._holds_one(key)]
        return sorted((key.rpartition("/")[2] for key in names), key=by_bytes)

    def _holds_one(self, folder: str) -> bool:
        return next(iter(self._walk(folder, "")), None) is not None

    def _walk(self, folder: str, prefix: str) -> Iterator[tuple[str, Entry]]:
        """The files below a folder whose keys start with the prefix."""
        for key, entry in self._children(folder):
            if entry.kind is Kind.FILE and key.startswith(prefix):
                yield key, entry
            elif entry.kind is Kind.FOLDER and (f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/")):
                yield from self._walk(key, prefix)

    def _children(self, folder: str) -> Iterable[tuple[str, Entry]]:
        try:
            entries = self._fs.entries(self._root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if key not in _PRIVATE and is_key(key):
                yield key, entry

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


def _taken(key: str, found: Entry) -> ConditionFailed | StoreRefused:
    match found.kind:
        case Kind.FILE:
            return ConditionFailed(f"object {key} exists already")
        case Kind.FOLDER:
            return StoreRefused(f"{key}: a folder stands where an object is to be stored: move it away")
        case Kind.OTHER:
            return StoreRefused(f"{key}: a symbolic link or special file stands there: put a plain file in its place")


def _linked(path: Path) -> StoreRefused:
    return StoreRefused(f"{path} is a symbolic link or special file, which this store does not follow: replace it")
