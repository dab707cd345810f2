"""The live tree: what operators see of a scope, made to follow `live` by one level-triggered pass (protocol 5).

List, *then* read the pointer, write the differences under conditions, list again, and only then say "synced": this
order is what makes the conditions mean something. The tree is eventually consistent and its marker says so; whoever
needs atomicity reads pointer, manifest, archive. What may be done to which file is decided in `ownership`.

A pass reads no file whose version says what it holds: the marker has the version of everything written here, and what
was looked at once is remembered. A pass that finds the listing of the last one costs that listing and the pointer. But
nobody signs the marker: who has a trust policy, or was asked to verify, does not believe it and reads each file once.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from daemon.concurrency import both, concurrently
from daemon.publishing import grammar, layout, ownership, sizes
from daemon.publishing.documents import parsed
from daemon.publishing.errors import NewerSchema, NotFound, PointerLost, PublishingError, Refused
from daemon.publishing.ownership import (
    DeletedByOperator,
    Marker,
    Override,
    Present,
    Put,
    Remove,
    Stray,
    Verdict,
    Wanted,
)
from daemon.publishing.patience import patiently
from daemon.publishing.pointer import SCHEMA, Pointer, Publication, PublicationId
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, ObjectTooBig, OutcomeUnknown, StoreError
from daemon.stores.port import Content, Listed, ObjectStore, Stored, Version
from renderers.cache import Cache
from renderers.model import RenderedFile, Scope, canonical_json

T = TypeVar("T")

_ROUNDS: Final = 5
_READS_AT_ONCE: Final = 16
_WRITES_AT_ONCE: Final = 16
_WAITS: Final = 6
"""Times that a store may say slow down to one write, some 15 s in all, before the next pass goes on."""
_DIGESTS_BYTES: Final = 16 << 20
_SEEN_BYTES: Final = 16 << 20
_SETTLED_FILES: Final = 100_000
_BYTES_A_FILE: Final = 256
"""What an entry takes in memory, about."""
_RACED: Final = (ConditionFailed, ObjectMissing, OutcomeUnknown)


@dataclass(frozen=True, slots=True)
class Synced:
    """A live tree that follows `sequence`, and what the pass had to say about it."""

    sequence: int
    verdicts: tuple[Verdict, ...] = ()

    @property
    def follows(self) -> bool:
        """Whether base/ and README.md equal live. A blocked path of example/ does not count."""
        return True

    @property
    def written(self) -> tuple[str, ...]:
        """Paths that were created or replaced."""
        return tuple(each.path for each in self.verdicts if isinstance(each, Put))

    @property
    def kept_aside(self) -> tuple[str, ...]:
        """Paths below base/ whose foreign bytes were kept under .rebundle/replaced/ first."""
        return tuple(each.path for each in self.verdicts if isinstance(each, Put) and each.keep_aside)

    @property
    def overrides(self) -> tuple[str, ...]:
        """Operators' own files of example/."""
        return tuple(each.path for each in self.verdicts if isinstance(each, Override))

    @property
    def deleted_by_operator(self) -> tuple[str, ...]:
        """Files of example/ that stay deleted."""
        return tuple(each.path for each in self.verdicts if isinstance(each, DeletedByOperator))

    @property
    def strays(self) -> tuple[str, ...]:
        """Files below base/ that are nobody's."""
        return tuple(each.path for each in self.verdicts if isinstance(each, Stray))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A live tree that others kept changing during the pass, or that could not be brought on; the next pass goes on."""

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class Survey:
    """How a live tree stands now: what its marker says, and what a pass would do and say."""

    marker: Marker | None
    seen: Synced

    @property
    def removed(self) -> tuple[str, ...]:
        """Paths of ours that a pass would delete."""
        return tuple(each.path for each in self.seen.verdicts if isinstance(each, Remove))

    @property
    def marked(self) -> bool:
        """Whether the marker claims that the tree follows the pointer as it is now."""
        marker = self.marker
        return marker is not None and marker.status == "synced" and marker.sequence == self.seen.sequence

    @property
    def is_ahead(self) -> bool:
        """Whether the marker claims that the tree follows a newer pointer than there is: no pass goes on then."""
        return self.marker is not None and self.marker.sequence > self.seen.sequence

    @property
    def in_step(self) -> bool:
        """Whether a pass would find nothing to do, and the marker says so."""
        return self.marked and not (self.seen.written or self.removed)


_Listing = Mapping[str, Listed]


@dataclass(frozen=True, slots=True)
class _Body:
    """What was read under a version of a path."""

    sha256: str
    version: Version
    tagged: bool
    commit: ownership.Commit | None


@dataclass(frozen=True, slots=True)
class _Settled:
    """How a finished pass left a tree. Nothing is to be done while the listing and the pointer are the same."""

    listed: _Listing
    version: Version
    """The marker's."""
    marker: Marker
    live: PublicationId
    synced: Synced

    def is_still(self, listed: _Listing, marker: Version | None, current: Pointer) -> bool:
        """Whether nothing has changed since."""
        live = current.live.id if current.live else None
        same = (self.version, self.live, self.synced.sequence) == (marker, live, current.sequence)
        return same and self.listed == listed


class LiveTree:
    """Makes live trees follow their pointers. Any number of daemons and commands may do so at once."""

    def __init__(self, store: ObjectStore, reader: Reader, runtime: Runtime, *, believes_markers: bool = True) -> None:
        """`believes_markers`: a pass does not read what a marker tells, which anybody may have written."""
        self._store = store
        self._reader = reader
        self._runtime = runtime
        self._believes_markers = believes_markers
        self._digests = Cache[Mapping[str, str]](_DIGESTS_BYTES)
        self._seen = Cache[_Body](_SEEN_BYTES)
        self._settled = Cache[_Settled](_SETTLED_FILES)

    async def reconcile(self, scope: Scope) -> Synced | Unfinished:
        """One pass over a scope's live tree.

        Raises:
            PointerLost: the tree follows a newer pointer than there is. NewerSchema: a newer release is at work.
        """
        said: dict[str, Verdict] = {}
        sequence = 0
        for _ in range(_ROUNDS):
            listed, marked = await self._list(scope)
            current = (await self._reader.pointer(scope)).pointer
            sequence = current.sequence
            if current.schema_ > SCHEMA:
                raise NewerSchema(f"the pointer of {scope} was written by a newer release: its live tree is left alone")
            if current.live is None:
                return Synced(sequence)
            settled = self._settled.get(scope)
            if settled is not None and settled.is_still(listed, marked, current):
                return settled.synced
            finished = await self._round(scope, listed, marked, current, said)
            if finished:
                return Synced(sequence, tuple(said[path] for path in sorted(said)))
        return Unfinished(sequence, "the live tree or the pointer kept changing; the next pass goes on")

    async def follow(self, scope: Scope, sequence: int) -> Synced | Unfinished:
        """The pass after a change of the pointer that was won as `sequence`.

        What keeps the tree from following is told, not raised: the change is committed, and a failure would say that
        it is not. A daemon's next pass, or the same command again, brings the tree on.
        """
        try:
            return await self.reconcile(scope)
        except (StoreError, PublishingError) as error:
            return Unfinished(sequence, f"committed as sequence {sequence}, the live tree follows later: {error}")

    async def _round(
        self, scope: Scope, listed: _Listing, marked: Version | None, current: Pointer, said: dict[str, Verdict]
    ) -> bool:
        """Whether the tree follows `current` now; False: something moved, start over."""
        live = current.live
        assert live is not None, "a scope without one has no tree to bring in step"
        marker, version, believing = await self._listed_marker(scope, marked)
        if marker is not None and marker.sequence > current.sequence:
            await self.refuse_lost_pointer(scope, marker)
            return False
        files, wanted = await self._wanted(scope, current, live)
        present = await self._present(scope, listed, wanted, marker, current, believing=believing)
        verdicts = ownership.judge_all(wanted, present, marker)
        said.update({verdict.path: verdict for verdict in verdicts})
        actions = [verdict for verdict in verdicts if isinstance(verdict, Put | Remove)]
        applied: Mapping[str, Version | None] = {}
        if actions:
            begun = ownership.marker_before(marker, wanted)
            version = await self._write_marker(scope, begun, marker, version)
            marker = begun
            if version is None:
                return False
            written = await self._apply(scope, actions, files, wanted)
            if written is None:
                return False
            applied = written
            base = {path: each.version for path, each in listed.items() if _follows(path, wanted)}
            shown = await self._shows(scope, wanted, base | applied)
            if shown is None:
                return False
            listed = shown
        synced = ownership.marker_after(marker, wanted, present, verdicts, applied)
        version = version if synced == marker else await self._write_marker(scope, synced, marker, version)
        if version is not None:
            still = Synced(current.sequence, _still(verdicts))
            self._settled.put(scope, _Settled(listed, version, synced, live.id, still), 1 + 2 * len(listed))
        return version is not None

    async def _listed_marker(self, scope: Scope, version: Version | None) -> tuple[Marker | None, Version | None, bool]:
        """The marker, and whether to believe it: without a read where it is the one that this process wrote last."""
        settled = self._settled.get(scope)
        if settled is not None and settled.version == version:
            return settled.marker, version, True
        return *await self.marker(scope), self._believes_markers

    async def refuse_lost_pointer(self, scope: Scope, marker: Marker | None = None) -> None:
        """A live tree never runs ahead of its pointer: one that does tells of a pointer that was put back.

        Raises:
            PointerLost: it does.
        """
        if marker is None:
            marker, _ = await self.marker(scope)
        if marker is None:
            return
        # Read after the marker: whoever wrote that had seen a pointer of this sequence.
        current = (await self._reader.pointer(scope)).pointer
        if current.sequence < marker.sequence:
            raise PointerLost(
                f"{layout.pointer(scope)} is at sequence {current.sequence}, and the live tree's marker has followed "
                f"{marker.sequence} already: an older pointer was put back, or somebody else wrote the marker. The "
                "live tree stays as it is, and a daemon that starts publishes nothing here, until "
                f"`rebundle recover {scope} --reason '…'`, which goes on above both"
            )

    async def survey(self, scope: Scope, *, reading_all: bool = False) -> Survey:
        """How a scope's live tree stands, without touching it: as its marker says, or `reading_all` files itself."""
        listed, _ = await self._list(scope)
        marker, _ = await self.marker(scope)
        # After the marker: whoever wrote that had seen a pointer of its sequence.
        current = (await self._reader.pointer(scope)).pointer
        if current.live is None:
            return Survey(marker, Synced(current.sequence))
        _, wanted = await self._wanted(scope, current, current.live)
        present = await self._present(scope, listed, wanted, marker, current, believing=not reading_all)
        return Survey(marker, Synced(current.sequence, ownership.judge_all(wanted, present, marker)))

    async def _wanted(
        self, scope: Scope, current: Pointer, live: Publication
    ) -> tuple[dict[str, RenderedFile], Wanted]:
        files = {file.path: file for file in await self._reader.files(scope, live)}
        digests = self._digests.get(live.manifest_sha256)
        if digests is None:
            digests = {path: _sha256(file.body) for path, file in files.items()}
            self._digests.put(live.manifest_sha256, digests, _BYTES_A_FILE * len(digests))
        return files, Wanted(live, current.sequence, await self._commit_position(current, live), digests)

    async def marker(self, scope: Scope) -> tuple[Marker | None, Version | None]:
        """The marker and its version; one that cannot be read counts as absent, and is replaced."""
        key = layout.live_tree(scope, layout.MARKER)
        try:
            stored = await self._store.get(key, most_bytes=sizes.MARKER)
        except ObjectMissing:
            return None, None
        except ObjectTooBig:
            return None, await self._reader.listed_version(key)
        return await self._reader.work_on(len(stored.body), _marker_in, stored.body), stored.version

    async def restore_example(self, scope: Scope, path: str) -> bool:
        """Write live's default of one file of example/ over what is there, which is kept aside first.

        Returns whether anything had to be written.

        Raises:
            NotFound: live has no such file.
            Refused: there is one below example/creds/, which nothing here reads, so that it cannot be kept.
            ConditionFailed: somebody changed the file meanwhile; try again.
        """
        current = (await self._reader.existing(scope)).pointer
        files = await self._reader.files(scope, current.live) if current.live else ()
        file = next((each for each in files if each.path == path and path.startswith(ownership.EXAMPLE)), None)
        if file is None or current.live is None:
            raise NotFound(f"{scope} has no default for {path}; its paths start with {ownership.EXAMPLE}")
        digests = {path: _sha256(file.body)}
        wanted = Wanted(current.live, current.sequence, await self._commit_position(current, current.live), digests)
        if path.startswith(ownership.CREDENTIALS):
            await self._create_credentials(scope, file, wanted)
            return True
        there = await self._read(scope, path)
        if there is None:
            await self._patiently(lambda: self._put(scope, Put(path, None), file, wanted))
        elif there.body == file.body:
            return False
        else:
            over = Put(path, there.version, keep_aside=True)
            await self._patiently(lambda: self._put(scope, over, file, wanted))
        return True

    async def _create_credentials(self, scope: Scope, file: RenderedFile, wanted: Wanted) -> None:
        try:
            await self._patiently(lambda: self._put(scope, Put(file.path, None), file, wanted))
        except ConditionFailed as error:
            raise Refused(
                f"{file.path} is there, and what lies below {ownership.CREDENTIALS} is never read, so it cannot be "
                "kept aside: move it away first"
            ) from error

    async def _list(self, scope: Scope) -> tuple[_Listing, Version | None]:
        """The files of the tree by path, and the marker's version."""
        prefix = layout.live_tree(scope)
        listed = {each.key.removeprefix(prefix): each for each in await self._store.scan(prefix)}
        marker = listed.pop(layout.MARKER, None)
        return listed, marker.version if marker else None

    async def _commit_position(self, current: Pointer, live: Publication) -> ownership.Commit:
        position = ownership.commit_position(((each.sequence, each.published) for each in current.history), live)
        if position != (0, 0) or current.older is None:
            return position
        entries = await self._reader.history(current)
        return ownership.commit_position(((each.sequence, each.published) for each in entries), live)

    async def _present(
        self,
        scope: Scope,
        listed: _Listing,
        wanted: Wanted,
        marker: Marker | None,
        current: Pointer,
        *,
        believing: bool,
    ) -> dict[str, Present]:
        """What is there; only bytes that differ from what is wanted are looked at closely."""

        async def look(path: str) -> Present | None:
            return await self._look(scope, path, listed[path], wanted, marker)

        believed = marker if believing else None
        told = {path: _told(path, each, wanted, believed) for path, each in listed.items()}
        untold = [path for path, seen in told.items() if seen is None]
        told |= zip(untold, await concurrently(look, untold, at_once=_READS_AT_ONCE), strict=True)
        present = {path: seen for path, seen in told.items() if seen is not None}
        doubtful = [
            path for path, seen in present.items() if not seen.ours and not path.startswith(ownership.CREDENTIALS)
        ]
        if doubtful:
            ours = await self._retained_files(scope, current)
            for path in doubtful:
                seen = present[path]
                present[path] = Present(seen.sha256, seen.version, ours=(path, seen.sha256) in ours)
        return present

    async def _look(
        self, scope: Scope, path: str, listed: Listed, wanted: Wanted, marker: Marker | None
    ) -> Present | None:
        """What stands at a path. Only a version that this process does not know is read."""
        recorded = marker.files.get(path) if marker else None
        body = self._seen.get((scope, path, listed.version))
        if body is None or (body.tagged and _may_move(path, body.sha256, wanted)):
            stored = await self._read(scope, path)
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

    async def _retained_files(self, scope: Scope, current: Pointer) -> frozenset[tuple[str, str]]:
        manifests = await self._reader.manifests(scope, current.retained)
        return frozenset((file.path, file.sha256) for manifest in manifests for file in manifest.files)

    async def _read(self, scope: Scope, path: str) -> Stored | None:
        try:
            return await self._store.get(layout.live_tree(scope, path))
        except ObjectMissing:
            return None

    async def _apply(
        self, scope: Scope, actions: Sequence[Put | Remove], files: Mapping[str, RenderedFile], wanted: Wanted
    ) -> dict[str, Version | None] | None:
        """The version of each path afterwards, None where there is nothing; None if one was not as expected."""

        async def act(action: Put | Remove) -> Version | None:
            match action:
                case Put(path=path):
                    return await self._patiently(lambda: self._put(scope, action, files[path], wanted))
                case Remove(path=path, version=version):
                    await self._patiently(lambda: self._store.delete(layout.live_tree(scope, path), version))
                    return None

        async def try_to(action: Put | Remove) -> tuple[bool, Version | None]:
            try:
                return True, await act(action)
            except _RACED:
                return False, None

        results = await concurrently(try_to, actions, at_once=_WRITES_AT_ONCE)
        if not all(done for done, _ in results):
            return None
        return {action.path: version for action, (_, version) in zip(actions, results, strict=True)}

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
            there = await self._store.get(key)
            if there.version != put.over:
                raise ConditionFailed(f"{key} changed during the pass")
            await self._keep_aside(layout.replaced(scope, wanted.sequence, put.path), there)
        return await self._store.replace(key, content, put.over)

    async def _keep_aside(self, key: str, there: Stored) -> None:
        """Store bytes nobody here wrote; a second, different set for one path gets a name by its digest."""
        for name in (key, f"{key}.{_sha256(there.body)[:16]}"):
            try:
                await self._store.create(name, Content(there.body))
            except ConditionFailed:
                if (await self._store.get(name)).body == there.body:
                    return
            else:
                return

    async def _shows(self, scope: Scope, wanted: Wanted, expected: Mapping[str, Version | None]) -> _Listing | None:
        """A new listing, if it shows exactly these versions and the pointer still asks for them.

        A paused pass may have written since: that a file is there does not say that it is ours.
        """
        listed, read = await both(self._list(scope), self._reader.pointer(scope))
        if read.pointer.sequence != wanted.sequence:
            return None
        versions = {path: each.version for path, each in listed[0].items()}
        # Not those of credentials: a store that must not read them cannot tell their version, and a create is enough.
        told = {path: each for path, each in expected.items() if not path.startswith(ownership.CREDENTIALS)}
        return listed[0] if all(versions.get(path) == version for path, version in told.items()) else None

    async def _write_marker(
        self, scope: Scope, marker: Marker, old: Marker | None, version: Version | None
    ) -> Version | None:
        """The marker's version afterwards; None if another pass was faster. Its sequence never goes down."""
        if marker == old:
            return version
        key = layout.live_tree(scope, layout.MARKER)
        content = Content((canonical_json(marker.model_dump(mode="json")) + "\n").encode(), "application/json")
        try:
            if version is None:
                return await self._patiently(lambda: self._store.create(key, content))
            return await self._patiently(lambda: self._store.replace(key, content, version))
        except _RACED:
            return None

    async def _patiently(self, write: Callable[[], Awaitable[T]]) -> T:
        return await patiently(self._runtime, write, _WAITS)


def _marker_in(body: bytes) -> Marker | None:
    try:
        return grammar.checked(Marker, parsed(body))
    except ValueError:
        return None


def _told(path: str, listed: Listed, wanted: Wanted, marker: Marker | None) -> Present | None:
    """What stands at a path, where listing or marker says it."""
    if listed.sha256 is not None and listed.sha256 == wanted.files.get(path):
        return Present(listed.sha256, listed.version, ours=True)
    if path.startswith(ownership.CREDENTIALS):
        return Present("", listed.version, ours=False)
    recorded = marker.files.get(path) if marker else None
    if recorded is None or recorded.version != listed.version or _may_move(path, recorded.sha256, wanted):
        return None
    return Present(recorded.sha256, listed.version, ours=True, commit=recorded.commit)


def _may_move(path: str, sha256: str, wanted: Wanted) -> bool:
    """Whether it counts when a file was committed: a default of example/ that live has another text for.

    Its own tag tells that. Where versions are digests, bodies that went A, B, A have one version and two tags.
    """
    return path.startswith(ownership.EXAMPLE) and wanted.files.get(path, sha256) != sha256


def _follows(path: str, wanted: Wanted) -> bool:
    """Whether a path has to be what live says, whoever changes it."""
    return path in wanted.files and not path.startswith(ownership.EXAMPLE)


def _still(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """What is left to say about a tree once the pass has acted."""
    return tuple(verdict for verdict in verdicts if not isinstance(verdict, Put | Remove))


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
