"""Makes the live tree follow the pointer, with one level-triggered pass (protocol 5).

The live tree is what operators see of a scope. A pass has this order, which the conditions of its
writes rely on:

1. List the tree, *then* read the pointer.
2. Write the differences under conditions.
3. List the tree again, and only then write the status `synced`.

The tree is eventually consistent, and its marker shows how far it is. Readers that need atomicity
read the pointer, the manifest and the archive. `ownership` decides what may be done to which file.

A pass reads no file whose content follows from its version: the marker has the version of every
file written here, and a process remembers the files it has read. If the listing is that of the last
pass, a pass costs this listing and the pointer. But the marker is unsigned. Under a trust policy,
or when it is to verify, a process does not rely on the marker and reads every file once.

A failure that concerns one file (no permission, a folder or link in the way, too large) is the
result of that path, and the other files follow (ADR 18). A temporary failure of the store (it is
unreachable, an answer is lost) ends the pass.
"""

import hashlib
import shlex
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from daemon.concurrency import both, concurrently
from daemon.publishing import documents, grammar, layout, sizes
from daemon.publishing.errors import (
    NewerSchema,
    NotFound,
    OperationRefused,
    PointerLost,
    PublishingError,
)
from daemon.publishing.live_tree import ownership
from daemon.publishing.live_tree.ownership import (
    Blocked,
    Marker,
    PathVerdict,
    Present,
    Put,
    Remove,
    Unread,
    Wanted,
)
from daemon.publishing.live_tree.results import (
    FinishedPass,
    PathReport,
    Restored,
    Survey,
    UnfinishedPass,
)
from daemon.publishing.pointer import Pointer, Publication, PublicationId
from daemon.publishing.reader import DamagedManifest, Reader
from daemon.publishing.retry import while_busy
from daemon.runtime import Runtime
from daemon.stores.errors import (
    ConditionFailed,
    ObjectDamaged,
    ObjectMissing,
    ObjectTooBig,
    OutcomeUnknown,
    StoreError,
    StoreRefused,
)
from daemon.stores.port import Content, Listed, ObjectStore, Stored, Version
from renderers.cache import Cache
from renderers.values import RenderedFile, Scope

T = TypeVar("T")

_ROUNDS: Final = 5
_READS_AT_ONCE: Final = 16
_WRITES_AT_ONCE: Final = 16
_WAITS: Final = 6
"""How often a store may ask one write to slow down, about 15 s in all. Then the pass ends."""
_DIGESTS_BYTES: Final = 16 << 20
_SEEN_BYTES: Final = 16 << 20
_LAST_PASSES_FILES: Final = 100_000
_BYTES_A_FILE: Final = 256
"""Approximate memory of one entry."""
_RETRY_SECONDS: Final = 300.0
"""When to try a path again that did not follow, although the listing shows no change.

An empty folder that was in the way appears in no listing.
"""
_RACED: Final = (ConditionFailed, ObjectMissing, OutcomeUnknown)
_OF_ONE_PATH: Final = (StoreRefused, ObjectTooBig, ObjectDamaged)
"""Failures that concern one path only, and that the next try will most likely meet again."""


_Listing = Mapping[str, Listed]


@dataclass(frozen=True, slots=True)
class _Tree:
    """A live tree as one listing shows it, by path."""

    files: _Listing
    marker: Version | None
    marked_at: datetime | None
    """When the marker was written, by the store's clock."""
    unreadable: Mapping[str, str]
    """Folders that could not be listed, with the reasons.

    A name ends in `/`; it is empty for the tree itself.
    """
    invalid: tuple[str, ...]
    """Names that are not valid keys. Hosts copy these files, too."""


@dataclass(frozen=True, slots=True)
class _Examined:
    """The files of a tree."""

    present: Mapping[str, Present | Unread]
    damaged: tuple[DamagedManifest, ...]


@dataclass(frozen=True, slots=True)
class _Retained:
    """The files of every retained publication whose manifest can be used."""

    digests: frozenset[tuple[str, str]]
    sizes: frozenset[tuple[str, int]]
    damaged: tuple[DamagedManifest, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    """A path was written, or deleted (None)."""

    version: Version | None


@dataclass(frozen=True, slots=True)
class _Applied:
    """The results of the actions of a round."""

    versions: Mapping[str, Version | None]
    """The version of every path that was written; None for a path that was deleted."""
    blocked: Mapping[str, Blocked]
    raced: bool
    """Whether a path differed from the listing, or an answer was lost."""


@dataclass(frozen=True, slots=True)
class _Body:
    """What one version of a path was found to hold."""

    sha256: str
    version: Version
    tagged: bool
    commit: ownership.Commit | None


@dataclass(frozen=True, slots=True)
class _LastPass:
    """The tree after a finished pass.

    Nothing is to be done while the listing and the pointer stay the same.
    """

    tree: _Tree
    """As the last listing showed it. Its `marker` is the version before this pass."""
    version: Version
    """The marker's."""
    marker: Marker
    live: PublicationId
    result: FinishedPass
    retry_at: float | None
    """When paths that did not follow are to be tried again, on the monotonic clock."""

    def is_still(self, tree: _Tree, current: Pointer, ticks: float) -> bool:
        """Whether nothing has changed since, and no retry is due."""
        live = current.live.id if current.live else None
        pointer_same = (self.live, self.result.sequence) == (live, current.sequence)
        tree_same = (self.version, self.tree.files, self.tree.unreadable, self.tree.invalid) == (
            tree.marker,
            tree.files,
            tree.unreadable,
            tree.invalid,
        )
        due = self.retry_at is not None and ticks >= self.retry_at
        return pointer_same and tree_same and not due


class LiveTree:
    """Makes live trees follow their pointers.

    Any number of daemons and commands may do so at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        reader: Reader,
        runtime: Runtime,
        *,
        trusts_markers: bool = True,
        move_command: Callable[[str], str] | None = None,
    ) -> None:
        """Prepare passes over the live trees of a bucket.

        `trusts_markers`: a pass does not read files whose content the marker has. The marker is
        unsigned: everyone with write access to the bucket can write it. `move_command`: returns,
        for a key, the command that moves the object out of the tree that hosts copy.
        """
        self._store = store
        self._reader = reader
        self._runtime = runtime
        self._trusts_markers = trusts_markers
        self._move_command = move_command
        self._digests = Cache[Mapping[str, str]](_DIGESTS_BYTES)
        self._seen = Cache[_Body](_SEEN_BYTES)
        self._last_passes = Cache[_LastPass](_LAST_PASSES_FILES)

    async def reconcile(self, scope: Scope) -> FinishedPass | UnfinishedPass:
        """One pass over a scope's live tree.

        Raises:
            PointerLost: the tree follows a newer pointer than the present one.
            NewerSchema: a newer release is at work.
        """
        done: dict[str, PathVerdict] = {}
        sequence = 0
        for _ in range(_ROUNDS):
            tree = await self._list(scope)
            current = (await self._reader.pointer(scope)).pointer
            sequence = current.sequence
            if current.schema_ > documents.SCHEMA:
                raise NewerSchema(
                    f"the pointer of {scope} was written by a newer release: this release does not "
                    "change its live tree; use that release here, too"
                )
            if current.live is None:
                return FinishedPass(sequence)
            last = self._last_passes.get(scope)
            if last is not None and last.is_still(tree, current, self._runtime.monotonic()):
                return last.result
            finished = await self._round(scope, tree, current, done)
            if finished is not None:
                verdicts = done | {verdict.path: verdict for verdict in finished.verdicts}
                return replace(
                    finished, verdicts=tuple(verdicts[path] for path in sorted(verdicts))
                )
        return UnfinishedPass(
            sequence, "the live tree or the pointer kept changing; the next pass continues"
        )

    async def follow(self, scope: Scope, sequence: int) -> FinishedPass | UnfinishedPass:
        """Run the pass after a change of the pointer that was committed as `sequence`.

        A failure of the pass is returned, not raised: the change is committed, and an error would
        suggest that it is not. A daemon's next pass, or the same command again, continues.
        """
        try:
            return await self.reconcile(scope)
        except Exception as error:  # noqa: BLE001  # also an unexpected one: the change is committed
            expected = isinstance(error, StoreError | PublishingError)
            reason = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
            return UnfinishedPass(
                sequence, f"committed as sequence {sequence}, the live tree follows later: {reason}"
            )

    async def _round(
        self, scope: Scope, tree: _Tree, current: Pointer, done: dict[str, PathVerdict]
    ) -> FinishedPass | None:
        """Run one round and record in `done` what it writes.

        None: something changed meanwhile, and the caller starts over.
        """
        live = current.live
        assert live is not None, "a scope without a live state has no tree to sync"
        marker, version, trusting = await self._listed_marker(scope, tree.marker)
        if marker is not None and marker.sequence > current.sequence:
            await self.refuse_lost_pointer(scope, marker)
            return None
        files, wanted = await self._wanted(scope, current, live)
        seen = await self._examine(scope, tree, wanted, marker, current, trusting=trusting)
        verdicts = ownership.plan_paths(wanted, seen.present, marker, tree.invalid)
        actions = [verdict for verdict in verdicts if isinstance(verdict, Put | Remove)]
        applied = _Applied({}, {}, raced=False)
        shown: _Tree | None = tree
        if actions:
            begun = ownership.marker_before(marker, wanted)
            version = await self._write_marker(scope, begun, marker, version)
            marker = begun
            if version is None:
                return None
            applied = await self._apply(scope, actions, files, wanted)
            verdicts = tuple(applied.blocked.get(verdict.path, verdict) for verdict in verdicts)
            done.update(
                {verdict.path: verdict for verdict in verdicts if isinstance(verdict, Put | Remove)}
            )
            base = {
                path: listed.version
                for path, listed in tree.files.items()
                if _follows(path, wanted)
            }
            shown = (
                None
                if applied.raced
                else await self._shows(scope, wanted, {**base, **applied.versions})
            )
        # Also if the round has to start over: the marker keeps what is confirmed so far.
        after = ownership.marker_after(
            marker, wanted, seen.present, verdicts, applied.versions, confirmed=shown is not None
        )
        version = (
            version if after == marker else await self._write_marker(scope, after, marker, version)
        )
        if version is None or shown is None:
            return None
        finished = FinishedPass(current.sequence, verdicts, seen.damaged)
        unchanged = replace(finished, verdicts=_without_actions(verdicts))
        # If a damaged manifest becomes readable again, no listing of the tree changes.
        doubtful = (
            finished.blocked
            or seen.damaged
            or any(isinstance(there, Unread) for there in seen.present.values())
        )
        retry_at = self._runtime.monotonic() + _RETRY_SECONDS if doubtful else None
        last = _LastPass(shown, version, after, live.id, unchanged, retry_at)
        self._last_passes.put(scope, last, 1 + 2 * len(shown.files))
        return finished

    async def _listed_marker(
        self, scope: Scope, version: Version | None
    ) -> tuple[Marker | None, Version | None, bool]:
        """The marker, its version, and whether to rely on it.

        It is not read if this process wrote it last.
        """
        last = self._last_passes.get(scope)
        if last is not None and last.version == version:
            return last.marker, version, True
        return *await self.marker(scope), self._trusts_markers

    async def refuse_lost_pointer(self, scope: Scope, marker: Marker | None = None) -> None:
        """Check that the live tree is not ahead of its pointer.

        A pass never brings a tree ahead of its pointer. So such a tree shows that an older pointer
        was restored.

        Raises:
            PointerLost: the tree is ahead.
        """
        if marker is None:
            marker, _ = await self.marker(scope)
        if marker is None:
            return
        # Read after the marker: its writer had read a pointer of the marker's sequence.
        current = (await self._reader.pointer(scope)).pointer
        if current.sequence < marker.sequence:
            raise PointerLost(
                f"{layout.pointer(scope)} is at sequence {current.sequence}, and the live tree's "
                f"marker is at {marker.sequence}: an older pointer was restored, or another "
                "program wrote the marker. The live tree is not changed, and a daemon that starts "
                f"publishes nothing here, until `rebundle recover {scope} --reason '…'` writes a "
                "pointer that is newer than both"
            )

    async def survey(self, scope: Scope, *, reading_all: bool = False) -> Survey:
        """Examine a scope's live tree without changing it.

        `reading_all`: read every file instead of relying on the marker.
        """
        tree = await self._list(scope)
        if not tree.files and tree.marker is None:
            tree = replace(tree, unreadable={**tree.unreadable, **await self._in_the_way(scope)})
        marker, _ = await self.marker(scope)
        # Read after the marker: its writer had read a pointer of the marker's sequence.
        current = (await self._reader.pointer(scope)).pointer
        if current.live is None:
            return Survey(marker, PathReport(current.sequence))
        _, wanted = await self._wanted(scope, current, current.live)
        seen = await self._examine(scope, tree, wanted, marker, current, trusting=not reading_all)
        seen_at = (
            tree.marked_at.isoformat(timespec="seconds").replace("+00:00", "Z")
            if tree.marked_at
            else None
        )
        verdicts = ownership.plan_paths(wanted, seen.present, marker, tree.invalid)
        verdicts = ownership.known_blocked(verdicts, wanted, marker, seen_at)
        return Survey(marker, PathReport(current.sequence, verdicts, seen.damaged))

    async def _wanted(
        self, scope: Scope, current: Pointer, live: Publication
    ) -> tuple[dict[str, RenderedFile], Wanted]:
        files = {file.path: file for file in await self._reader.files(scope, live)}
        digests = self._digests.get(live.manifest_sha256)
        if digests is None:
            digests = {path: _sha256(file.body) for path, file in files.items()}
            self._digests.put(live.manifest_sha256, digests, _BYTES_A_FILE * len(digests))
        lengths = {path: len(file.body) for path, file in files.items()}
        return files, Wanted(
            live, current.sequence, await self._commit_position(current, live), digests, lengths
        )

    async def marker(self, scope: Scope) -> tuple[Marker | None, Version | None]:
        """The marker and its version.

        A marker that cannot be read counts as absent, and is replaced.

        Raises:
            OlderSchema: it has schema 1.
        """
        key = layout.live_tree(scope, layout.MARKER)
        try:
            stored = await self._store.get(key, max_bytes=sizes.MARKER)
        except ObjectMissing:
            return None, None
        except ObjectTooBig:
            return None, await self._reader.listed_version(key)
        return await self._reader.work_on(
            len(stored.body), _marker_in, stored.body, key
        ), stored.version

    async def restore_example(self, scope: Scope, path: str, *, dry_run: bool = False) -> Restored:
        """Write live's default of one file of example/, after keeping the present file aside.

        With `dry_run` nothing is written.

        Raises:
            NotFound: live has no such file.
            OperationRefused: the present file cannot be kept aside. It is below example/creds/,
                where Rebundle reads nothing, or it is too large.
            ConditionFailed: another writer changed the file meanwhile; try again.
        """
        current = (await self._reader.existing(scope)).pointer
        files = await self._reader.files(scope, current.live) if current.live else ()
        file = next(
            (
                candidate
                for candidate in files
                if candidate.path == path and path.startswith(ownership.EXAMPLE)
            ),
            None,
        )
        if file is None or current.live is None:
            raise NotFound(
                f"{scope} has no default for {path}; its paths start with {ownership.EXAMPLE}"
            )
        digests = {path: _sha256(file.body)}
        wanted = Wanted(
            current.live,
            current.sequence,
            await self._commit_position(current, current.live),
            digests,
        )
        if path.startswith(layout.CREDENTIALS):
            await self._create_credentials(scope, file, wanted, dry_run=dry_run)
            return Restored(file, None)
        try:
            there = await self._read(scope, path, sizes.KEPT_ASIDE)
        except ObjectTooBig as error:
            raise OperationRefused(self._why(scope, path, error)) from error
        restored = Restored(file, there.body if there else None)
        if restored.written and not dry_run:
            put = Put(path, there.version, keep_aside=True) if there else Put(path, None)
            await self._while_busy(lambda: self._put(scope, put, file, wanted))
        return restored

    async def _create_credentials(
        self, scope: Scope, file: RenderedFile, wanted: Wanted, *, dry_run: bool
    ) -> None:
        key = layout.live_tree(scope, file.path)
        exists = OperationRefused(
            f"{file.path} is there, and what lies below {layout.CREDENTIALS} is never read, "
            f"so it cannot be kept aside: {self._move_away(key)} first"
        )
        if dry_run:
            if await self._reader.listed_version(key) is not None:
                raise exists
            return
        try:
            await self._while_busy(lambda: self._put(scope, Put(file.path, None), file, wanted))
        except ConditionFailed as error:
            raise exists from error

    async def _list(self, scope: Scope) -> _Tree:
        prefix = layout.live_tree(scope)
        listing = await self._store.scan(prefix)
        files = {listed.key.removeprefix(prefix): listed for listed in listing}
        marker = files.pop(layout.MARKER, None)
        # An unreadable folder above the tree hides the whole tree.
        unreadable = {
            ""
            if prefix.startswith(f"{folder.key}/")
            else f"{folder.key}/".removeprefix(prefix): folder.reason
            for folder in listing.unreadable
        }
        invalid = tuple(name.removeprefix(prefix) for name in listing.invalid)
        if marker is None:
            return _Tree(files, None, None, unreadable, invalid)
        return _Tree(files, marker.version, marker.modified, unreadable, invalid)

    async def _in_the_way(self, scope: Scope) -> Mapping[str, str]:
        """Why no file of an empty tree can be written, as in `_Tree.unreadable`.

        A file of a directory may have the name of the tree's folder. No listing below it shows it.
        """
        key = layout.live_tree(scope).rstrip("/")
        if await self._reader.listed_version(key) is None:
            return {}
        return {"": f"{key} is a file where a folder belongs: {self._move_away(key)}"}

    async def _commit_position(self, current: Pointer, live: Publication) -> ownership.Commit:
        position = ownership.commit_position(
            ((entry.sequence, entry.published) for entry in current.history), live
        )
        if position != (0, 0) or current.previous_chunk is None:
            return position
        entries = await self._reader.history(current)
        return ownership.commit_position(
            ((entry.sequence, entry.published) for entry in entries), live
        )

    async def _examine(
        self,
        scope: Scope,
        tree: _Tree,
        wanted: Wanted,
        marker: Marker | None,
        current: Pointer,
        *,
        trusting: bool,
    ) -> _Examined:
        """The files of the tree, and who wrote them.

        The manifests of retained publications are read only if some bytes differ from live.
        """

        async def look(path: str) -> Present | Unread | None:
            return await self._look(scope, path, tree.files[path], wanted, marker)

        retained: _Retained | None = None
        present = {
            path: _known_without_reading(path, listed, wanted, marker if trusting else None)
            for path, listed in tree.files.items()
        }
        unknown = [path for path, seen in present.items() if seen is None]
        large = [
            path
            for path in unknown
            if tree.files[path].size > sizes.KEPT_ASIDE
            and wanted.sizes.get(path) != tree.files[path].size
        ]
        if large:
            retained = await self._retained(scope, current)
            odd = [path for path in large if (path, tree.files[path].size) not in retained.sizes]
            present |= {
                path: Unread(self._too_large(scope, path, f"{tree.files[path].size:,} bytes"))
                for path in odd
            }
            unknown = [path for path in unknown if present[path] is None]
        present |= zip(
            unknown, await concurrently(look, unknown, limit=_READS_AT_ONCE), strict=True
        )
        examined = {path: seen for path, seen in present.items() if seen is not None}
        doubtful = {
            path: seen
            for path, seen in examined.items()
            if isinstance(seen, Present) and not seen.ours
        }
        doubtful = {
            path: seen for path, seen in doubtful.items() if not path.startswith(layout.CREDENTIALS)
        }
        if doubtful:
            retained = retained or await self._retained(scope, current)
            for path, seen in doubtful.items():
                examined[path] = Present(
                    seen.sha256, seen.version, ours=(path, seen.sha256) in retained.digests
                )
        known = wanted.files.keys() | (marker.files.keys() if marker else ())
        return _Examined(_with_hidden(examined, tree, known), retained.damaged if retained else ())

    async def _look(
        self, scope: Scope, path: str, listed: Listed, wanted: Wanted, marker: Marker | None
    ) -> Present | Unread | None:
        """The file at a path. It is read only if this process does not know its version."""
        recorded = marker.files.get(path) if marker else None
        body = self._seen.get((scope, path, listed.version))
        if body is None or (body.tagged and _may_move(path, body.sha256, wanted)):
            try:
                stored = await self._read(scope, path, max(listed.size, sizes.KEPT_ASIDE))
            except _OF_ONE_PATH as error:
                return Unread(self._why(scope, path, error))
            if stored is None:
                return None
            sha256 = _sha256(stored.body)
            tagged = stored.tag.get("sha256") == sha256
            commit = ownership.parsed_commit(stored.tag.get("commit")) if tagged else None
            body = _Body(sha256, stored.version, tagged, commit)
            self._seen.put((scope, path, stored.version), body, _BYTES_A_FILE)
        written = recorded is not None and recorded.sha256 == body.sha256
        ours = body.tagged or written or wanted.files.get(path) == body.sha256
        return Present(body.sha256, body.version, ours=ours, commit=body.commit)

    async def _retained(self, scope: Scope, current: Pointer) -> _Retained:
        manifests = await self._reader.manifests(scope, current.retained)
        files = [file for manifest in manifests for file in manifest.files]
        return _Retained(
            frozenset((file.path, file.sha256) for file in files),
            frozenset((file.path, file.size) for file in files),
            manifests.damaged,
        )

    async def _read(self, scope: Scope, path: str, max_bytes: int) -> Stored | None:
        try:
            return await self._store.get(layout.live_tree(scope, path), max_bytes=max_bytes)
        except ObjectMissing:
            return None

    async def _apply(
        self,
        scope: Scope,
        actions: Sequence[Put | Remove],
        files: Mapping[str, RenderedFile],
        wanted: Wanted,
    ) -> _Applied:
        async def act(action: Put | Remove) -> Version | None:
            match action:
                case Put(path=path):
                    return await self._while_busy(
                        lambda: self._put(scope, action, files[path], wanted)
                    )
                case Remove(path=path, version=version):
                    await self._while_busy(
                        lambda: self._store.delete(layout.live_tree(scope, path), version)
                    )
                    return None

        async def try_to(action: Put | Remove) -> _Written | Blocked | None:
            try:
                return _Written(await act(action))
            except _RACED:
                return None
            except _OF_ONE_PATH as error:
                return Blocked(action.path, self._why(scope, action.path, error))

        results = await concurrently(try_to, actions, limit=_WRITES_AT_ONCE)
        by_path = {action.path: result for action, result in zip(actions, results, strict=True)}
        return _Applied(
            {
                path: result.version
                for path, result in by_path.items()
                if isinstance(result, _Written)
            },
            {path: result for path, result in by_path.items() if isinstance(result, Blocked)},
            raced=None in results,
        )

    async def _put(self, scope: Scope, put: Put, file: RenderedFile, wanted: Wanted) -> Version:
        key = layout.live_tree(scope, put.path)
        sequence, index = wanted.commit
        tag = {
            "sha256": wanted.files[put.path],
            "publication": str(wanted.publication.id),
            "commit": f"{sequence}.{index}",
            "mode": file.mode,
        }
        content = Content(file.body, "text/plain; charset=utf-8", tag=tag)
        if put.over is None:
            return await self._store.create(key, content)
        if put.keep_aside:
            there = await self._store.get(key, max_bytes=sizes.KEPT_ASIDE)
            if there.version != put.over:
                raise ConditionFailed(f"{key} changed during the pass")
            await self._keep_aside(scope, put.path, there.body, wanted.sequence)
        return await self._store.replace(key, content, put.over)

    async def _keep_aside(self, scope: Scope, path: str, body: bytes, sequence: int) -> None:
        """Store bytes that are about to be replaced, once for every path and digest.

        The copy is kept for `retention.days` after the last time that these bytes were replaced.
        """
        key = layout.replaced(scope, path, _sha256(body))
        content = Content(body, tag={"sequence": str(sequence)})
        try:
            await self._store.create(key, content)
        except ConditionFailed:
            kept = await self._store.get(key, max_bytes=sizes.KEPT_ASIDE)
            if kept.body != body:
                raise StoreRefused(
                    f"{key} does not hold the bytes that its name says: {self._move_away(key)}"
                ) from None
            # Written again so that its retention starts again. Without that permission the copy
            # keeps its earlier time.
            with suppress(StoreRefused):
                await self._store.replace(key, content, kept.version)

    async def _shows(
        self, scope: Scope, wanted: Wanted, expected: Mapping[str, Version | None]
    ) -> _Tree | None:
        """A new listing, if it has exactly these versions and the pointer is unchanged; else None.

        A paused pass may have written meanwhile, so the presence of a file does not suffice.
        """
        tree, read = await both(self._list(scope), self._reader.pointer(scope))
        if read.pointer.sequence != wanted.sequence:
            return None
        versions = {path: listed.version for path, listed in tree.files.items()}
        # Credentials are left out. A store that must not read them has no version of them, and the
        # successful create suffices.
        readable = {
            path: version
            for path, version in expected.items()
            if not path.startswith(layout.CREDENTIALS)
        }
        return (
            tree
            if all(versions.get(path) == version for path, version in readable.items())
            else None
        )

    async def _write_marker(
        self, scope: Scope, marker: Marker, old: Marker | None, version: Version | None
    ) -> Version | None:
        """Write the marker and return its version; None if another pass was faster.

        The marker's sequence never goes down.
        """
        if marker == old:
            return version
        key = layout.live_tree(scope, layout.MARKER)
        content = Content(
            documents.serialised(marker.model_dump(mode="json", by_alias=True)), "application/json"
        )
        try:
            if version is None:
                return await self._while_busy(lambda: self._store.create(key, content))
            return await self._while_busy(lambda: self._store.replace(key, content, version))
        except _RACED:
            return None

    def _too_large(self, scope: Scope, path: str, size: str) -> str:
        moved = self._move_away(layout.live_tree(scope, path))
        return (
            f"{path} has {size}, more than is read or kept aside: {moved}; "
            f"{_writes_again(scope, path)}"
        )

    def _move_away(self, key: str) -> str:
        return "move it away" + (f" (`{self._move_command(key)}`)" if self._move_command else "")

    def _why(self, scope: Scope, path: str, error: StoreError) -> str:
        """Why a path does not follow, and what to do about it."""
        match error:
            case ObjectTooBig():
                return self._too_large(scope, path, f"more than {sizes.KEPT_ASIDE:,} bytes")
            case ObjectDamaged():
                moved = self._move_away(layout.live_tree(scope, path))
                return f"{error}; restore it, or {moved}; {_writes_again(scope, path)}"
        return str(error)

    async def _while_busy(self, write: Callable[[], Awaitable[T]]) -> T:
        return await while_busy(self._runtime, write, _WAITS)


def _writes_again(scope: Scope, path: str) -> str:
    """What writes live's file to a path that is free again."""
    if path.startswith(ownership.EXAMPLE):
        # A default that is gone was deleted by an operator, so a pass does not write it.
        return f"then run `rebundle example restore {scope} {shlex.quote(path)}`"
    return "the next pass writes live's file"


def _marker_in(body: bytes, key: str) -> Marker | None:
    try:
        document = documents.parse(body)
        documents.check_schema(document, key, numbered=False)
        return grammar.checked(Marker, document)
    except ValueError:
        return None


def _known_without_reading(
    path: str, listed: Listed, wanted: Wanted, marker: Marker | None
) -> Present | Unread | None:
    """The file at a path, from the listing or the marker; None: it has to be read."""
    if listed.fault is not None:
        return Unread(listed.fault)
    if listed.sha256 is not None and listed.sha256 == wanted.files.get(path):
        return Present(listed.sha256, listed.version, ours=True)
    if path.startswith(layout.CREDENTIALS):
        return Present("", listed.version, ours=False)
    recorded = marker.files.get(path) if marker else None
    if (
        recorded is None
        or recorded.version != listed.version
        or _may_move(path, recorded.sha256, wanted)
    ):
        return None
    return Present(recorded.sha256, listed.version, ours=True, commit=recorded.commit)


def _with_hidden(
    present: Mapping[str, Present | Unread], tree: _Tree, known: Collection[str]
) -> Mapping[str, Present | Unread]:
    """The files of a tree, including those that no listing shows.

    Those are below a folder that cannot be listed, or below a link in the place of a folder.
    `known`: the paths that may be there. A folder that hides none of them becomes one entry.
    """
    reasons = dict(tree.unreadable)
    reasons |= {
        f"{path}/": listed.fault for path, listed in tree.files.items() if listed.fault is not None
    }
    if not reasons:
        return present
    hidden = {
        path: folder for path in known for folder in _folders_above(path) if folder in reasons
    }
    hiding = set(hidden.values())
    shown = {path: seen for path, seen in present.items() if f"{path}/" not in hiding}
    alone = {
        folder: Unread(reason) for folder, reason in tree.unreadable.items() if folder not in hiding
    }
    return shown | alone | {path: Unread(reasons[folder]) for path, folder in hidden.items()}


def _folders_above(path: str) -> Iterator[str]:
    """The folders of a path: for `a/b/c` they are `` (the tree), `a/` and `a/b/`."""
    parts = path.split("/")
    return ("".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts)))


def _may_move(path: str, sha256: str, wanted: Wanted) -> bool:
    """Whether the file's place in commit order matters.

    It matters for a default of example/ for which live has other bytes. Only the object's own tag
    has that place: where versions are digests, bodies that went A, B, A have one version and two
    tags.
    """
    return path.startswith(ownership.EXAMPLE) and wanted.files.get(path, sha256) != sha256


def _follows(path: str, wanted: Wanted) -> bool:
    """Whether a path always has to equal live, no matter who changed it."""
    return path in wanted.files and not path.startswith(ownership.EXAMPLE)


def _without_actions(verdicts: Iterable[PathVerdict]) -> tuple[PathVerdict, ...]:
    """The verdicts that remain after a pass: those that need no write or deletion."""
    return tuple(verdict for verdict in verdicts if not isinstance(verdict, Put | Remove))


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
