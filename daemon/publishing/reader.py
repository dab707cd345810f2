"""Verified reads: pointer, manifest, archive, files; nothing is handed on that its parent does not vouch for.

Manifests and the files of a publication never change, so they are kept, bounded, by the scope, the name and the
digest that vouch for them: whoever may say what is live in one scope must not borrow what was verified for another.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, ParamSpec, TypeVar, overload

from daemon.concurrency import concurrently
from daemon.publishing import archive, layout, manifest, pointer, sizes
from daemon.publishing.bucket_identity import BucketCheck
from daemon.publishing.errors import (
    NotFound,
    NotTrusted,
    OlderSchema,
    PointerLost,
    PublishingError,
    SequenceWentBack,
    VerificationFailed,
)
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import Chunk, HistoryEntry, Pointer, PreviousChunk, Publication, PublicationId
from daemon.publishing.protocol import absent
from daemon.publishing.trust.sequence_memory import HighestSequences, ProcessSequences
from daemon.publishing.wording import RENEW, cut_off, leave_out, rebuild
from daemon.runtime import Runtime
from daemon.stores.errors import ObjectDamaged, ObjectMissing, ObjectTooBig, StoreRefused
from daemon.stores.port import ObjectStore, Stored, Version
from renderers.model import RenderedFile, Scope

if TYPE_CHECKING:
    from daemon.publishing.trust.policy import Role, TrustPolicy

P = ParamSpec("P")
T = TypeVar("T")
_MOST_MANIFEST_BYTES: Final = 32 << 20
_MOST_FILES_BYTES: Final = 32 << 20
_MOST_CHUNK_BYTES: Final = 8 << 20
_MOST_READS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class PointerRead:
    """A pointer and the version it had; the version is None while the scope has none."""

    pointer: Pointer
    version: Version | None
    signed: bool = False


@dataclass(frozen=True, slots=True)
class DamagedManifest:
    """A retained publication whose manifest cannot be used."""

    publication: PublicationId
    reason: str
    unreadable: bool = False
    """The store does not let it be read, so it may be whole: the reason has the remedy, and `recover` is none."""


@dataclass(frozen=True, slots=True)
class Manifests(Sequence[Manifest]):
    """The manifests that could be read, in the order that was asked for, and those that are damaged."""

    found: tuple[Manifest, ...] = ()
    damaged: tuple[DamagedManifest, ...] = ()

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, index: int) -> Manifest: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Manifest, ...]: ...
    def __getitem__(self, index: int | slice) -> Manifest | tuple[Manifest, ...]:
        return self.found[index]


@dataclass(frozen=True, slots=True)
class Scopes(Sequence[Scope]):
    """The scopes of a bucket, sorted, and the bundles whose folders could not be listed."""

    found: tuple[Scope, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """By bundle: what is wrong, and what to do about it."""

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, index: int) -> Scope: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Scope, ...]: ...
    def __getitem__(self, index: int | slice) -> Scope | tuple[Scope, ...]:
        return self.found[index]


class Reader:
    """Reads what is published in one bucket. Safe for many tasks of one event loop."""

    def __init__(
        self,
        store: ObjectStore,
        runtime: Runtime,
        *,
        trust: "TrustPolicy | None" = None,
        accepted: "HighestSequences | None" = None,
    ) -> None:
        """`trust`: whose signatures count; without one, nothing has to be signed. `accepted`: what earlier readers of
        this machine have seen."""
        self._store = store
        self._runtime = runtime
        self._trust = trust
        self._demanding = trust if trust is not None and trust.freshness == "required" else None
        """The policy, where it demands a fresh pointer."""
        self._accepted = accepted or ProcessSequences()
        self._bucket: BucketCheck | None = None
        self._newest_writes: dict[Scope, str] = {}
        """The write of the newest pointer that was read, for a reader of one bucket only."""
        self._manifests = _Kept[Manifest](_MOST_MANIFEST_BYTES)
        self._chunks = _Kept[Chunk](_MOST_CHUNK_BYTES)
        self._files = _Kept[tuple[RenderedFile, ...]](_MOST_FILES_BYTES)

    def read_only_from(self, bucket: "BucketCheck") -> None:
        """From now on no pointer counts that is of another bucket (ADR 26)."""
        self._bucket = bucket

    async def scopes(self) -> Scopes:
        """Every scope that has a pointer, or traces of one.

        A folder whose name is no bundle or target is somebody else's. A bundle whose folder cannot be listed is left
        out and is in `Scopes.unreadable`. A scope whose own folder cannot be listed is among them: reading it fails.

        Raises:
            StoreRefused, StoreUnavailable: the bucket cannot be listed.
        """
        found: list[Scope] = []
        unreadable: dict[str, str] = {}
        for bundle in filter(_is_bundle, await self._store.folders("")):
            try:
                targets = await self._store.folders(f"{bundle}/")
            except StoreRefused as error:
                unreadable[bundle] = str(error)
                continue
            found.extend(Scope(bundle, target) for target in targets if _is_scope(bundle, target))
        return Scopes(tuple(sorted(found)), unreadable)

    async def pointer(self, scope: Scope) -> PointerRead:
        """The pointer of a scope; for a scope that has none yet, an empty one without a version.

        Raises:
            PointerLost: there is none although something was published.
            OlderSchema: it has schema 1. VerificationFailed: it cannot be read.
            WrongBucket: this is not the bucket to read from.
        """
        read = await self._pointer_of(scope, self._bucket) if self._bucket else await self._read_pointer(scope)
        if read.version is not None:
            # A sequence of another bucket must not make the pointer of the right one look like an older one.
            await self._accepted.accept(scope, read.pointer.sequence)
        return read

    async def _pointer_of(self, scope: Scope, bucket: "BucketCheck") -> PointerRead:
        """The pointer of a scope, certain to be of this bucket.

        Ids of writes are random. So a pointer whose history has the newest write that was read before follows from
        it, and the bucket's id need not be read. Any other pointer may be that of another bucket.
        """
        known = self._newest_writes.get(scope)
        read = None
        if known is not None:
            try:
                read = await self._read_pointer(scope)
            except PublishingError:
                await bucket.check()  # another bucket is a better reason
                raise
        if read is None or known is None or not read.pointer.knows_write(known):
            read = await bucket.reading(partial(self._read_pointer, scope))
        if read.version is not None:
            self._newest_writes[scope] = read.pointer.write_id
        return read

    async def _read_pointer(self, scope: Scope) -> PointerRead:
        # Asked before the read begins: one that overlaps another reading may well show less than that has accepted.
        highest = await self._accepted.highest(scope)
        # Before the pointer, too: a pointer may well be newer than what vouches for it, and never older.
        vouching = None
        if self._demanding is not None:
            vouching = await self._optional(layout.freshness(scope), sizes.FRESHNESS, RENEW)
        stored = await self._optional(layout.pointer(scope), sizes.POINTER, rebuild(scope))
        if stored is None:
            trace = await self._trace(scope)
            if trace is None:
                return PointerRead(absent(scope), None)
            # Another writer may have made the scope since: then the trace is younger than the first reading.
            stored = await self._optional(layout.pointer(scope), sizes.POINTER, rebuild(scope))
            if stored is None:
                raise PointerLost(
                    f"{layout.pointer(scope)} is gone, but {trace}: nothing is published until "
                    f"`rebundle recover {scope} --reason '…'` rebuilds it, or its newest version is restored"
                )
        read = await self._decoded(scope, stored)
        if self._demanding is not None:
            await self._check_fresh(scope, self._demanding, vouching, stored.body, read.pointer.sequence)
        if read.pointer.sequence < highest:
            raise SequenceWentBack(
                f"the pointer of {scope} has sequence {read.pointer.sequence}, and {highest} was seen here before: "
                "an older one was put back, from a backup or by somebody else; "
                f"`rebundle recover {scope} --reason '…'` writes one that is newer than both. If it finds nothing to "
                "recover, nothing in the bucket shows the newer one: restart the daemon to continue from the older one"
            )
        return read

    async def work_on(self, size: int, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of pure `work` on `size` bytes: outside of the event loop where there are many."""
        if size > sizes.IN_THE_LOOP:
            return await self._runtime.run_in_thread(work, *args, **kwargs)
        return work(*args, **kwargs)

    async def listed_version(self, key: str) -> Version | None:
        """The version of an object whose body cannot be read: it can be replaced all the same. None: it is gone."""
        return next((each.version for each in await self._store.scan(key) if each.key == key), None)

    @property
    def has_policy(self) -> bool:
        """Whether what nobody who is trusted signed counts for nothing here."""
        return self._trust is not None

    async def found_pointer(self, scope: Scope) -> PointerRead | None:
        """The pointer object that is there, for recovery: its form and signature are checked, its age is not.

        Raises:
            VerificationFailed: it is damaged, or nobody who is trusted signed it.
        """
        stored = await self._optional(layout.pointer(scope), sizes.POINTER, rebuild(scope))
        return None if stored is None else await self._decoded(scope, stored)

    async def highest_accepted(self, scope: Scope) -> int:
        """The highest sequence that readers of this machine have accepted; 0: none."""
        return await self._accepted.highest(scope)

    async def _decoded(self, scope: Scope, stored: Stored) -> PointerRead:
        def decoded() -> PointerRead:
            found, signed = pointer.opened(stored.body, scope)
            if self._trust is not None:
                self._trust.check_pointer(stored.body, scope)
            return PointerRead(found, stored.version, signed)

        return await self.work_on(len(stored.body), decoded)

    def check_signers(self, scope: Scope, keyids: Collection[str], roles: Iterable["Role"]) -> None:
        """That one of these keys has each of these roles in a scope, so that what they sign would be accepted here.

        Raises:
            VerificationFailed: none has.
        """
        if self._trust is None:
            return
        for role in roles:
            if objection := self._trust.objection(keyids, role, scope):
                raise VerificationFailed(objection)

    async def _check_fresh(
        self, scope: Scope, trust: "TrustPolicy", vouching: Stored | None, body: bytes, sequence: int
    ) -> None:
        """That this pointer was the newest one not long ago."""
        if vouching is None:
            raise VerificationFailed(f"{scope} has no freshness.json, and the trust policy demands it: {RENEW}")
        said, now = trust.check_freshness(vouching.body, scope), self._runtime.now()
        await self.work_on(len(body), said.check, body, sequence, now)

    async def existing(self, scope: Scope) -> PointerRead:
        """The pointer of a scope that must exist.

        Raises:
            NotFound: nothing was ever published there.
        """
        read = await self.pointer(scope)
        if read.version is None:
            raise NotFound(f"nothing is published in {scope}; `rebundle scopes` lists what there is")
        return read

    async def manifest(self, scope: Scope, publication: Publication) -> Manifest:
        """The manifest of a publication the pointer names.

        Raises:
            NotFound: it is gone. VerificationFailed: it is not the one the pointer means.
        """
        kept = self._manifests.get(_key(scope, publication))
        if kept is not None:
            return kept
        key = layout.manifest(scope, publication.state, publication.attempt)
        remedy = leave_out(scope)
        body = await self._bytes(key, sizes.MANIFEST, remedy)

        def decoded() -> Manifest:
            if hashlib.sha256(body).hexdigest() != publication.manifest_sha256:
                raise VerificationFailed(
                    f"the manifest of {publication.id} is not the one that {scope}'s pointer means: {remedy}"
                )
            read = _manifest(scope, publication.id, body)
            if read.composition_digest != publication.composition_digest:
                raise VerificationFailed(
                    f"the manifest of {publication.id} has not the composition that the pointer names: {remedy}"
                )
            return read

        read = await self.work_on(len(body), decoded)
        await self._check_signature(scope, read, body)
        self._manifests.put(_key(scope, publication), read, len(body))
        return read

    async def named_manifests(self, scope: Scope, names: Iterable[PublicationId]) -> Manifests:
        """The manifests of publications that only history names, so that no digest of them is at hand.

        One that is gone is left out, and one that is damaged, too: nothing will be served of it, and nobody mends it.
        One that may not be read, or has schema 1, is in `damaged`, with what to do about it.
        """

        async def read(name: PublicationId) -> Manifest | DamagedManifest | None:
            try:
                return await self._named_manifest(scope, name)
            except (NotFound, VerificationFailed, ObjectDamaged):
                return None
            except (OlderSchema, StoreRefused) as error:
                return DamagedManifest(name, str(error), unreadable=True)

        return _sorted_out(await concurrently(read, names, at_once=_MOST_READS_AT_ONCE))

    async def _named_manifest(self, scope: Scope, name: PublicationId) -> Manifest:
        kept = self._manifests.get(f"{scope} {name}")
        if kept is not None:
            return kept
        key = layout.manifest(scope, name.state, name.attempt)
        body = await self._bytes(key, sizes.MANIFEST, leave_out(scope))
        read = await self.work_on(len(body), _manifest, scope, name, body)
        await self._check_signature(scope, read, body)
        self._manifests.put(f"{scope} {name}", read, len(body))
        return read

    async def files(self, scope: Scope, publication: Publication) -> tuple[RenderedFile, ...]:
        """Every file of a publication, each checked against its digest.

        Raises:
            NotFound: it is gone. VerificationFailed: archive or a file is not what the manifest says.
        """
        kept = self._files.get(_key(scope, publication))
        if kept is not None:
            return kept
        described = await self.manifest(scope, publication)
        key = layout.archive(scope, publication.state, publication.attempt)
        body = await self._bytes(key, described.archive.size, leave_out(scope, "archive"))
        try:
            files = await self._runtime.run_in_thread(verified_files, described, body)
        except VerificationFailed as error:
            raise VerificationFailed(f"{error}: {leave_out(scope, 'archive')}") from error
        self.remember(scope, publication, files)
        return files

    def remember(self, scope: Scope, publication: Publication, files: tuple[RenderedFile, ...]) -> None:
        """Keep the files of a publication that this process has just made or read."""
        self._files.put(_key(scope, publication), files, sum(len(file.body) for file in files))

    async def history(self, current: Pointer, *, since: str = "") -> tuple[HistoryEntry, ...]:
        """The history, the oldest first, through the chunks: all of it, or whole chunks back to a time of ours.

        Raises:
            VerificationFailed: a chunk is not the one its successor means. NotFound: one is gone.
        """
        entries = current.history
        previous = current.previous_chunk
        while previous is not None and not (since and entries and entries[0].at < since):
            chunk = await self._chunk(Scope.parse(current.scope), previous)
            entries = (*chunk.entries, *entries)
            previous = chunk.previous_chunk
        return entries

    async def _chunk(self, scope: Scope, named: PreviousChunk) -> Chunk:
        kept = self._chunks.get(f"{scope} {named.sha256}")
        if kept is not None:
            return kept
        body = await self._bytes(named.key, sizes.CHUNK, cut_off(scope))

        def decoded() -> Chunk:
            if hashlib.sha256(body).hexdigest() != named.sha256:
                raise VerificationFailed(
                    f"history chunk {named.key} is not the one its successor means: {cut_off(scope)}"
                )
            return pointer.decode_chunk(body, named.key, scope)

        chunk = await self.work_on(len(body), decoded)
        self._chunks.put(f"{scope} {named.sha256}", chunk, len(body))
        return chunk

    async def manifests(self, scope: Scope, publications: Iterable[Publication]) -> Manifests:
        """The manifests of several publications, without those that cannot be used.

        Callers ask which files or events a scope has published. One damaged manifest, or one that may not be read,
        must not stop them: what only that manifest lists then counts as not published here. Left out as well is one
        that is gone, and one that no trusted key signed, which may be older than the key.
        """

        async def read(publication: Publication) -> Manifest | DamagedManifest | None:
            try:
                return await self.manifest(scope, publication)
            except (NotFound, NotTrusted):
                return None
            except (VerificationFailed, ObjectDamaged) as error:
                return DamagedManifest(publication.id, str(error))
            except StoreRefused as error:
                return DamagedManifest(publication.id, str(error), unreadable=True)

        return _sorted_out(await concurrently(read, publications, at_once=_MOST_READS_AT_ONCE))

    async def _check_signature(self, scope: Scope, described: Manifest, body: bytes) -> None:
        if self._trust is None:
            return
        key = layout.signature(scope, described.state, described.attempt)
        try:
            stored = await self._optional(key, sizes.SIGNATURE, leave_out(scope))
        except VerificationFailed as error:
            raise NotTrusted(str(error)) from error
        envelope = stored.body if stored else None
        size = len(body) + len(envelope or b"")
        await self.work_on(size, self._trust.check_publication, envelope, described, body, scope)

    async def _bytes(self, key: str, most_bytes: int, remedy: str) -> bytes:
        stored = await self._optional(key, most_bytes, remedy)
        if stored is None:
            raise NotFound(f"{key} is gone from the bucket: {remedy}")
        return stored.body

    async def _optional(self, key: str, most_bytes: int, remedy: str) -> Stored | None:
        """Raises VerificationFailed, with `remedy`, where there is one that nothing here wrote."""
        try:
            return await self._store.get(key, most_bytes=most_bytes)
        except ObjectMissing:
            return None
        except ObjectTooBig as error:
            raise VerificationFailed(f"{error}: it is damaged, or not ours; {remedy}") from error

    async def _trace(self, scope: Scope) -> str | None:
        """What says that this scope had a pointer (protocol 4, never softened 4)."""
        for prefix in (layout.live_tree(scope, layout.MARKER), layout.histories(scope)):
            listing = await self._store.scan(prefix)
            # What cannot be listed may be a trace: a scope must not begin again because of a folder's mode.
            if listing or listing.unreadable:
                return f"{prefix} is there"
        highest = await self._accepted.highest(scope)
        return f"sequence {highest} was seen here" if highest else None


def _sorted_out(found: Sequence[Manifest | DamagedManifest | None]) -> Manifests:
    return Manifests(
        tuple(each for each in found if isinstance(each, Manifest)),
        tuple(each for each in found if isinstance(each, DamagedManifest)),
    )


def _is_bundle(name: str) -> bool:
    return _is_scope(name, "any")


def _is_scope(bundle: str, target: str) -> bool:
    try:
        Scope.parse(f"{bundle}/{target}")
    except ValueError:
        return False
    return True


def _key(scope: Scope, publication: Publication) -> str:
    return f"{scope} {publication.id} {publication.manifest_sha256}"


def _manifest(scope: Scope, name: PublicationId, body: bytes) -> Manifest:
    try:
        read = manifest.decode(body, layout.manifest(scope, name.state, name.attempt))
    except VerificationFailed as error:
        raise VerificationFailed(f"{name} of {scope}: {error}: {leave_out(scope)}") from error
    if (read.scope, read.state, read.attempt) != (str(scope), name.state, name.attempt):
        raise VerificationFailed(f"the manifest of {name} is the one of {read.scope} {read.state}: {leave_out(scope)}")
    return read


def verified_files(described: Manifest, body: bytes) -> tuple[RenderedFile, ...]:
    """The files in an archive's bytes, each checked against the manifest.

    Raises:
        VerificationFailed: archive or a file is not what the manifest says.
    """
    name = PublicationId(state=described.state, attempt=described.attempt)
    if hashlib.sha256(body).hexdigest() != described.archive.sha256:
        raise VerificationFailed(f"the archive of {name} does not match its digest")
    try:
        return archive.unpack(body, described.digests)
    except VerificationFailed as error:
        raise VerificationFailed(f"the files of {name} are not those of its manifest: {error}") from error


class _Kept(Generic[T]):
    """Values by key, the least recently used dropped beyond a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def get(self, key: str) -> T | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: str, value: T, size: int) -> None:
        if key in self._values:
            return
        self._values[key] = (value, size)
        self._bytes += size
        while self._bytes > self._most_bytes and len(self._values) > 1:
            _, (_, dropped) = self._values.popitem(last=False)
            self._bytes -= dropped
