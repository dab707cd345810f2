"""Reads pointers, manifests, archives and files from the bucket, and verifies them.

A manifest is checked against the digest in the pointer, an archive and its files against the
manifest. With a trust policy, signatures are checked as well. A result is returned only after these
checks.

Manifests and the files of a publication never change, so they are cached, up to a number of bytes.
The cache key has the scope, the name and the digest. So a writer who may decide what is live in one
scope cannot use a result that was verified for another scope.
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
from daemon.publishing.pointer import (
    Chunk,
    HistoryEntry,
    Pointer,
    PreviousChunk,
    Publication,
    PublicationId,
)
from daemon.publishing.protocol import absent
from daemon.publishing.trust.sequence_memory import HighestSequences, ProcessSequences
from daemon.publishing.wording import RENEW, cut_off, leave_out, rebuild
from daemon.runtime import Runtime
from daemon.stores.errors import ObjectDamaged, ObjectMissing, ObjectTooBig, StoreRefused
from daemon.stores.port import ObjectStore, Stored, Version
from renderers.values import RenderedFile, Scope

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
    """A pointer and the version of its object; without an object, the version is None."""

    pointer: Pointer
    version: Version | None
    signed: bool = False


@dataclass(frozen=True, slots=True)
class DamagedManifest:
    """A publication whose manifest cannot be used."""

    publication: PublicationId
    reason: str
    """What is wrong, and what to do about it."""
    unreadable: bool = False
    """The manifest may be undamaged: the store refuses to read it, or it has schema 1.

    `recover` is then the wrong remedy.
    """


@dataclass(frozen=True, slots=True)
class Manifests(Sequence[Manifest]):
    """The manifests that could be read, in the requested order, and those that are damaged."""

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
    """By bundle: the error, with its remedy."""

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, index: int) -> Scope: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Scope, ...]: ...
    def __getitem__(self, index: int | slice) -> Scope | tuple[Scope, ...]:
        return self.found[index]


class Reader:
    """Reads what is published in one bucket. Safe for concurrent tasks of one event loop."""

    def __init__(
        self,
        store: ObjectStore,
        runtime: Runtime,
        *,
        trust: "TrustPolicy | None" = None,
        accepted: "HighestSequences | None" = None,
    ) -> None:
        """Sets up the reader, without access to the bucket.

        Args:
            store: the bucket.
            runtime: clock and threads.
            trust: the policy that determines which signatures are accepted. Without one, nothing
                has to be signed.
            accepted: the highest sequences that earlier readers of this machine have accepted.
        """
        self._store = store
        self._runtime = runtime
        self._trust = trust
        self._demanding = trust if trust is not None and trust.freshness == "required" else None
        """The trust policy if it demands a fresh pointer, else None."""
        self._accepted = accepted or ProcessSequences()
        self._bucket: BucketCheck | None = None
        self._newest_writes: dict[Scope, str] = {}
        """By scope: the write id of the newest pointer that was read. Only with a `BucketCheck`."""
        self._manifests = _LruCache[Manifest](_MOST_MANIFEST_BYTES)
        self._chunks = _LruCache[Chunk](_MOST_CHUNK_BYTES)
        self._files = _LruCache[tuple[RenderedFile, ...]](_MOST_FILES_BYTES)

    def read_only_from(self, bucket: "BucketCheck") -> None:
        """From now on, refuse a pointer that is read from another bucket (ADR 26)."""
        self._bucket = bucket

    async def scopes(self) -> Scopes:
        """Every scope that has a pointer, or traces of one.

        A folder whose name is not valid for a bundle or target is not Rebundle's, and is ignored. A
        bundle whose folder cannot be listed is left out, and is in `Scopes.unreadable`. A scope
        whose own folder cannot be listed is included: reading it fails later.

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
        """The pointer of a scope; for a new scope, an empty one without a version.

        Raises:
            PointerLost: there is no pointer, although something was published.
            OlderSchema: it has schema 1.
            VerificationFailed: it is damaged, has no trusted signature, or is not fresh.
            SequenceWentBack: it is older than one that was accepted before.
            WrongBucket: this is not the bucket to read from.
        """
        read = (
            await self._pointer_of(scope, self._bucket)
            if self._bucket
            else await self._read_pointer(scope)
        )
        if read.version is not None:
            # Only now: a sequence of another bucket would make the pointer of the right bucket look
            # older than one that was accepted.
            await self._accepted.accept(scope, read.pointer.sequence)
        return read

    async def _pointer_of(self, scope: Scope, bucket: "BucketCheck") -> PointerRead:
        """The pointer of a scope, which is certainly from this bucket.

        Ids of writes are random. So a pointer whose history contains the newest write that was read
        before is a successor of that pointer, and the bucket's id need not be read. Any other
        pointer may be from another bucket.
        """
        known = self._newest_writes.get(scope)
        read = None
        if known is not None:
            try:
                read = await self._read_pointer(scope)
            except PublishingError:
                await bucket.check()  # if the bucket is wrong, that is the more useful error
                raise
        if read is None or known is None or not read.pointer.knows_write(known):
            read = await bucket.reading(partial(self._read_pointer, scope))
        if read.version is not None:
            self._newest_writes[scope] = read.pointer.write_id
        return read

    async def _read_pointer(self, scope: Scope) -> PointerRead:
        # The highest sequence is read before the pointer. A concurrent reader may accept a newer
        # pointer during this read, and that must not make this one look outdated.
        highest = await self._accepted.highest(scope)
        # So is freshness.json: a pointer may be newer than its freshness.json, and never older.
        freshness = None
        if self._demanding is not None:
            freshness = await self._optional(layout.freshness(scope), sizes.FRESHNESS, RENEW)
        stored = await self._optional(layout.pointer(scope), sizes.POINTER, rebuild(scope))
        if stored is None:
            trace = await self._trace(scope)
            if trace is None:
                return PointerRead(absent(scope), None)
            # Another writer may have created the scope since: then the trace is newer than the
            # first read of the pointer.
            stored = await self._optional(layout.pointer(scope), sizes.POINTER, rebuild(scope))
            if stored is None:
                raise PointerLost(
                    f"{layout.pointer(scope)} is gone, but {trace}: nothing is published until "
                    f"`rebundle recover {scope} --reason '…'` rebuilds it, or its newest "
                    "version is restored"
                )
        read = await self._decoded(scope, stored)
        if self._demanding is not None:
            await self._check_fresh(
                scope, self._demanding, freshness, stored.body, read.pointer.sequence
            )
        if read.pointer.sequence < highest:
            raise SequenceWentBack(
                f"the pointer of {scope} has sequence {read.pointer.sequence}, and {highest} was "
                "seen here before: "
                "an older one was put back, from a backup or by somebody else; "
                f"`rebundle recover {scope} --reason '…'` writes one that is newer than both. If "
                "it finds nothing to "
                "recover, nothing in the bucket shows the newer one: restart the daemon to "
                "continue from the older one"
            )
        return read

    async def work_on(
        self, size: int, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of the pure function `work` on `size` bytes.

        It runs in a thread if there are many bytes, so that it does not block the event loop.
        """
        if size > sizes.IN_THE_LOOP:
            return await self._runtime.run_in_thread(work, *args, **kwargs)
        return work(*args, **kwargs)

    async def listed_version(self, key: str) -> Version | None:
        """The version of an object by listing it; None if it is gone.

        With it, an object whose body cannot be read can still be replaced.
        """
        return next(
            (entry.version for entry in await self._store.scan(key) if entry.key == key), None
        )

    @property
    def has_policy(self) -> bool:
        """Whether documents without a trusted signature are refused."""
        return self._trust is not None

    async def found_pointer(self, scope: Scope) -> PointerRead | None:
        """The stored pointer, for recovery: its form and signature are checked, its age is not.

        None: the scope has no pointer object.

        Raises:
            VerificationFailed: it is damaged, or has no trusted signature.
        """
        stored = await self._optional(layout.pointer(scope), sizes.POINTER, rebuild(scope))
        return None if stored is None else await self._decoded(scope, stored)

    async def highest_accepted(self, scope: Scope) -> int:
        """The highest sequence that readers of this machine have accepted; 0 before the first."""
        return await self._accepted.highest(scope)

    async def _decoded(self, scope: Scope, stored: Stored) -> PointerRead:
        def decode() -> PointerRead:
            stored_pointer, signed = pointer.opened(stored.body, scope)
            if self._trust is not None:
                self._trust.check_pointer(stored.body, scope)
            return PointerRead(stored_pointer, stored.version, signed)

        return await self.work_on(len(stored.body), decode)

    def check_signers(self, scope: Scope, keyids: Collection[str], roles: Iterable["Role"]) -> None:
        """Check that every role is held by one of these keys, so that signatures are accepted.

        Raises:
            VerificationFailed: no key has one of the roles in the scope.
        """
        if self._trust is None:
            return
        for role in roles:
            if objection := self._trust.objection(keyids, role, scope):
                raise VerificationFailed(objection)

    async def _check_fresh(
        self, scope: Scope, trust: "TrustPolicy", stored: Stored | None, body: bytes, sequence: int
    ) -> None:
        """Check by freshness.json (`stored`) that this pointer was recently the newest one.

        Raises:
            VerificationFailed: it was not, or the scope has no freshness.json.
        """
        if stored is None:
            raise VerificationFailed(
                f"{scope} has no freshness.json, and the trust policy demands it: {RENEW}"
            )
        freshness, now = trust.check_freshness(stored.body, scope), self._runtime.now()
        await self.work_on(len(body), freshness.check, body, sequence, now)

    async def existing(self, scope: Scope) -> PointerRead:
        """The pointer of a scope that must exist.

        Raises:
            NotFound: nothing was ever published in it.
        """
        read = await self.pointer(scope)
        if read.version is None:
            raise NotFound(
                f"nothing is published in {scope}; `rebundle scopes` lists what there is"
            )
        return read

    async def manifest(self, scope: Scope, publication: Publication) -> Manifest:
        """The manifest of a publication in the pointer.

        Raises:
            NotFound: it is gone.
            VerificationFailed: it does not match the digests in the pointer.
            NotTrusted: it has no trusted signature.
        """
        cached = self._manifests.get(_cache_key(scope, publication))
        if cached is not None:
            return cached
        key = layout.manifest(scope, publication.state, publication.attempt)
        remedy = leave_out(scope)
        body = await self._bytes(key, sizes.MANIFEST, remedy)

        def decode() -> Manifest:
            if hashlib.sha256(body).hexdigest() != publication.manifest_sha256:
                raise VerificationFailed(
                    f"{key} is damaged: its sha256 is not the one in the pointer; {remedy}"
                )
            read = _decode_manifest(scope, publication.id, body)
            if read.composition_digest != publication.composition_digest:
                raise VerificationFailed(
                    f"the manifest of {publication.id} has not the composition that the pointer "
                    f"names: {remedy}"
                )
            return read

        read = await self.work_on(len(body), decode)
        await self._check_signature(scope, read, body)
        self._manifests.put(_cache_key(scope, publication), read, len(body))
        return read

    async def named_manifests(self, scope: Scope, names: Iterable[PublicationId]) -> Manifests:
        """The manifests of publications that only the history names, so their digests are unknown.

        A manifest that is gone or damaged is left out: its publication will not be served, and
        repairing it has no use. A manifest that the store refuses to read, or that has schema 1, is
        in `damaged`, with the remedy.
        """

        async def read(name: PublicationId) -> Manifest | DamagedManifest | None:
            try:
                return await self._named_manifest(scope, name)
            except (NotFound, VerificationFailed, ObjectDamaged):
                return None
            except (OlderSchema, StoreRefused) as error:
                return DamagedManifest(name, str(error), unreadable=True)

        return _without_missing(await concurrently(read, names, limit=_MOST_READS_AT_ONCE))

    async def _named_manifest(self, scope: Scope, name: PublicationId) -> Manifest:
        cached = self._manifests.get(f"{scope} {name}")
        if cached is not None:
            return cached
        key = layout.manifest(scope, name.state, name.attempt)
        body = await self._bytes(key, sizes.MANIFEST, leave_out(scope))
        read = await self.work_on(len(body), _decode_manifest, scope, name, body)
        await self._check_signature(scope, read, body)
        self._manifests.put(f"{scope} {name}", read, len(body))
        return read

    async def files(self, scope: Scope, publication: Publication) -> tuple[RenderedFile, ...]:
        """All files of a publication, after checking them against their digests.

        Raises:
            NotFound: manifest or archive is gone.
            VerificationFailed: the manifest does not match the pointer, or the archive or a file
                does not match the manifest.
        """
        cached = self._files.get(_cache_key(scope, publication))
        if cached is not None:
            return cached
        described = await self.manifest(scope, publication)
        key = layout.archive(scope, publication.state, publication.attempt)
        body = await self._bytes(key, described.archive.size, leave_out(scope, "archive"))
        try:
            files = await self._runtime.run_in_thread(verified_files, described, body)
        except VerificationFailed as error:
            raise VerificationFailed(f"{error}: {leave_out(scope, 'archive')}") from error
        self.remember(scope, publication, files)
        return files

    def remember(
        self, scope: Scope, publication: Publication, files: tuple[RenderedFile, ...]
    ) -> None:
        """Cache the files of a publication that this process has just rendered or read."""
        self._files.put(
            _cache_key(scope, publication), files, sum(len(file.body) for file in files)
        )

    async def history(self, current: Pointer, *, since: str = "") -> tuple[HistoryEntry, ...]:
        """The history, oldest entry first, from the pointer and the chunks.

        With `since` (a time as Rebundle writes it), older chunks are read only until an entry is
        older than that. A chunk that was read is included completely.

        Raises:
            VerificationFailed: a chunk does not match the digest in its successor.
            NotFound: a chunk is gone.
        """
        entries = current.history
        previous = current.previous_chunk
        while previous is not None and not (since and entries and entries[0].at < since):
            chunk = await self._chunk(Scope.parse(current.scope), previous)
            entries = (*chunk.entries, *entries)
            previous = chunk.previous_chunk
        return entries

    async def _chunk(self, scope: Scope, reference: PreviousChunk) -> Chunk:
        cached = self._chunks.get(f"{scope} {reference.sha256}")
        if cached is not None:
            return cached
        body = await self._bytes(reference.key, sizes.CHUNK, cut_off(scope))

        def decode() -> Chunk:
            if hashlib.sha256(body).hexdigest() != reference.sha256:
                raise VerificationFailed(
                    f"history chunk {reference.key} is not the one its successor means: "
                    f"{cut_off(scope)}"
                )
            return pointer.decode_chunk(body, reference.key, scope)

        chunk = await self.work_on(len(body), decode)
        self._chunks.put(f"{scope} {reference.sha256}", chunk, len(body))
        return chunk

    async def manifests(self, scope: Scope, publications: Iterable[Publication]) -> Manifests:
        """The manifests of several publications, without those that cannot be used.

        Callers need the files or events that a scope has published. A manifest that is damaged, or
        that the store refuses to read, must not make them fail: it is in `damaged`, and what only
        this manifest lists counts as not published. A manifest that is gone is left out. So is one
        without a trusted signature, which may be older than the key.
        """

        async def read(publication: Publication) -> Manifest | DamagedManifest | None:
            try:
                return await self.manifest(scope, publication)
            except (NotFound, NotTrusted):
                return None
            except VerificationFailed as error:
                return DamagedManifest(publication.id, str(error))
            except ObjectDamaged as error:
                return DamagedManifest(publication.id, f"{error}: {leave_out(scope)}")
            except StoreRefused as error:
                return DamagedManifest(publication.id, str(error), unreadable=True)

        return _without_missing(await concurrently(read, publications, limit=_MOST_READS_AT_ONCE))

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

    async def _bytes(self, key: str, max_bytes: int, remedy: str) -> bytes:
        stored = await self._optional(key, max_bytes, remedy)
        if stored is None:
            raise NotFound(f"{key} is gone from the bucket: {remedy}")
        return stored.body

    async def _optional(self, key: str, max_bytes: int, remedy: str) -> Stored | None:
        """The object with this key; None if it does not exist.

        Raises:
            VerificationFailed: it is larger than anything that Rebundle writes. The message ends
                with `remedy`.
        """
        try:
            return await self._store.get(key, max_bytes=max_bytes)
        except ObjectMissing:
            return None
        except ObjectTooBig as error:
            raise VerificationFailed(f"{error}: it is damaged, or not ours; {remedy}") from error

    async def _trace(self, scope: Scope) -> str | None:
        """Evidence that this scope had a pointer, or None (protocol 4, never softened 4)."""
        for prefix in (layout.live_tree(scope, layout.MARKER), layout.histories(scope)):
            listing = await self._store.scan(prefix)
            # A folder that cannot be listed counts as a trace: otherwise its permissions could make
            # the scope start again from nothing.
            if listing or listing.unreadable:
                return f"{prefix} is there"
        highest = await self._accepted.highest(scope)
        return f"sequence {highest} was seen here" if highest else None


def _without_missing(results: Sequence[Manifest | DamagedManifest | None]) -> Manifests:
    return Manifests(
        tuple(result for result in results if isinstance(result, Manifest)),
        tuple(result for result in results if isinstance(result, DamagedManifest)),
    )


def _is_bundle(name: str) -> bool:
    return _is_scope(name, "any")


def _is_scope(bundle: str, target: str) -> bool:
    try:
        Scope.parse(f"{bundle}/{target}")
    except ValueError:
        return False
    return True


def _cache_key(scope: Scope, publication: Publication) -> str:
    return f"{scope} {publication.id} {publication.manifest_sha256}"


def _decode_manifest(scope: Scope, name: PublicationId, body: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises:
        VerificationFailed: it is damaged, or belongs to another publication.
    """
    try:
        read = manifest.decode(body, layout.manifest(scope, name.state, name.attempt))
    except VerificationFailed as error:
        raise VerificationFailed(f"{name} of {scope}: {error}: {leave_out(scope)}") from error
    if (read.scope, read.state, read.attempt) != (str(scope), name.state, name.attempt):
        raise VerificationFailed(
            f"the manifest of {name} is the one of {read.scope} {read.state}: {leave_out(scope)}"
        )
    return read


def verified_files(described: Manifest, body: bytes) -> tuple[RenderedFile, ...]:
    """The files in the bytes of an archive, after checking them against the manifest.

    Raises:
        VerificationFailed: the archive or a file does not match the manifest.
    """
    name = PublicationId(state=described.state, attempt=described.attempt)
    if hashlib.sha256(body).hexdigest() != described.archive.sha256:
        raise VerificationFailed(f"the archive of {name} does not match its digest")
    try:
        return archive.unpack(body, described.digests)
    except VerificationFailed as error:
        raise VerificationFailed(
            f"the files of {name} are not those of its manifest: {error}"
        ) from error


class _LruCache(Generic[T]):
    """Values by key. Beyond a number of bytes, the least recently used values are dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._most_bytes = max_bytes
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
            _, (_, dropped_size) = self._values.popitem(last=False)
            self._bytes -= dropped_size
