"""Reads pointers, manifests, archives and files from the bucket, and verifies them.

A manifest is checked against the digest in the pointer, an archive and its files against the
manifest. With a trust policy, signatures are checked as well. A result is returned only after these
checks.

Manifests and the files of a publication never change, so they are cached, up to a number of bytes.
The cache key has the scope, the name and the digest. So a writer who may decide what is live in one
scope cannot use a result that was verified for another scope.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, overload

from daemon.concurrency import concurrently
from daemon.publishing import layout, sizes
from daemon.publishing.bucket_identity import ANY_BUCKET, BucketCheck
from daemon.publishing.errors import (
    NothingPublished,
    NotTrusted,
    ObjectGone,
    OlderSchema,
    PointerLost,
    PublishingError,
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
from daemon.publishing.verification import LastAccepted, Verifier, verified_files
from daemon.publishing.wording import RENEW, cut_off, leave_out, rebuild
from daemon.runtime import Runtime
from daemon.stores.errors import ObjectDamaged, ObjectMissing, ObjectTooBig, StoreRefused
from daemon.stores.port import ObjectStore, Stored, Version
from renderers.cache import Cache
from renderers.values import RenderedFile, Scope

if TYPE_CHECKING:  # see `verification`
    from daemon.publishing.trust.policy import TrustPolicy

P = ParamSpec("P")
T = TypeVar("T")
_POINTERS_IN_ONE_CALL: Final = 64
"""In a directory, a call for each pointer costs more than reading it."""
_MOST_MANIFEST_BYTES: Final = sizes.MANIFEST
_MOST_FILES_BYTES: Final = 64 << 20
_MOST_CHUNK_BYTES: Final = sizes.CHUNK
_MOST_SCOPES: Final = 10_000
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
        accepted: HighestSequences | None = None,
        bucket: BucketCheck = ANY_BUCKET,
    ) -> None:
        """Sets up the reader, without access to the bucket.

        Args:
            store: the bucket.
            runtime: clock and threads.
            trust: the policy that determines which signatures are accepted. Without one, nothing
                has to be signed.
            accepted: the highest sequences that earlier readers of this machine have accepted.
            bucket: refuses a pointer that is read from another bucket (ADR 26).
        """
        self._store = store
        self._runtime = runtime
        self.verifier = Verifier(trust)
        """Decides what is accepted; a writer asks it before it writes."""
        self._accepted = accepted or ProcessSequences()
        self._bucket = bucket
        self._newest_writes = Cache[str](_MOST_SCOPES)
        """By scope: the write id of the newest pointer that was read."""
        self._manifests = Cache[Manifest](_MOST_MANIFEST_BYTES)
        self._chunks = Cache[Chunk](_MOST_CHUNK_BYTES)
        self._files = Cache[tuple[RenderedFile, ...]](_MOST_FILES_BYTES)

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
        # Before the pointer: a concurrent reader may accept a newer pointer during this read, and
        # that must not make this one look outdated.
        highest = await self._accepted.highest(scope)
        read = await self._read_from_bucket(scope, highest)
        if read.version is not None:
            # Only now: a sequence of another bucket would make the pointer of the right bucket look
            # older than one that was accepted.
            await self._accepted.accept(scope, read.pointer.sequence)
        return read

    async def _read_from_bucket(self, scope: Scope, highest: int) -> PointerRead:
        """The pointer of a scope, which is certainly from the bucket to read from.

        Ids of writes are random. So a pointer whose history contains the newest write that was read
        before is a successor of that pointer, and the bucket's id need not be read. Any other
        pointer may be from another bucket.
        """
        known = self._newest_writes.get(scope)
        read = None
        if known is not None:
            try:
                read = await self._read_pointer(scope, highest)
            except PublishingError:
                await self._bucket.check()  # if the bucket is wrong, that is the more useful error
                raise
        if read is None or known is None or not read.pointer.knows_write(known):
            read = await self._bucket.reading(partial(self._read_pointer, scope, highest))
        if read.version is None:
            self._newest_writes.pop(scope)
        else:
            self._newest_writes.put(scope, read.pointer.write_id, 1)
        return read

    async def _read_pointer(self, scope: Scope, highest: int) -> PointerRead:
        # freshness.json is read first: a pointer may be newer than it, and never older.
        freshness = None
        if self.verifier.requires_freshness:
            freshness = await self._optional(layout.freshness(scope), sizes.FRESHNESS, RENEW)
        stored = await self._stored_pointer(scope)
        if stored is None:
            trace = await self._trace(scope)
            if trace is None:
                return PointerRead(absent(scope), None)
            # Another writer may have created the scope since: then the trace is newer than the
            # first read of the pointer.
            stored = await self._stored_pointer(scope)
            if stored is None:
                raise PointerLost(
                    f"{layout.pointer(scope)} is gone, but {trace}: nothing is published until "
                    f"`rebundle recover {scope} --reason '…'` rebuilds it, or its newest "
                    "version is restored"
                )
        accepted = LastAccepted(highest, freshness.body if freshness else None)
        found, is_signed = await self.work_on(
            len(stored.body),
            self.verifier.newest_pointer,
            stored.body,
            scope,
            accepted,
            self._runtime.now(),
        )
        return PointerRead(found, stored.version, is_signed)

    async def _stored_pointer(self, scope: Scope) -> Stored | None:
        return await self._optional(layout.pointer(scope), sizes.POINTER, rebuild(scope))

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

    async def found_pointer(self, scope: Scope) -> PointerRead | None:
        """The stored pointer, for recovery: its form and signature are checked, its age is not.

        None: the scope has no pointer object.

        Raises:
            VerificationFailed: it is damaged, or has no trusted signature.
        """
        stored = await self._stored_pointer(scope)
        if stored is None:
            return None
        found, is_signed = await self.work_on(
            len(stored.body), self.verifier.pointer, stored.body, scope
        )
        return PointerRead(found, stored.version, is_signed)

    async def highest_accepted(self, scope: Scope) -> int:
        """The highest sequence that readers of this machine have accepted; 0 before the first."""
        return await self._accepted.highest(scope)

    @property
    def pointers_in_one_call(self) -> int:
        """How many scopes to give to one call of `still_current`.

        With a trust policy each pointer is read alone, so there is nothing to share.
        """
        return 1 if self.verifier.trust is not None else _POINTERS_IN_ONE_CALL

    async def still_current(
        self, pointers: Mapping[Scope, tuple[Version, int]]
    ) -> frozenset[Scope]:
        """The scopes whose pointer still has this version and sequence, and would be accepted.

        A scope whose pointer cannot be read is left out. With a trust policy, give one scope.

        Raises StoreError, PublishingError: none can be read, or the one would not be accepted.
        """
        if self.verifier.trust is not None:
            # Its signature may no longer be trusted, or fresh.
            read = {scope: (await self.pointer(scope)).version for scope in pointers}
            return frozenset(
                scope for scope, (version, _) in pointers.items() if read[scope] == version
            )
        found = await self._store.versions([layout.pointer(scope) for scope in pointers])
        current: set[Scope] = set()
        for scope, (version, sequence) in pointers.items():
            is_unchanged = found.get(layout.pointer(scope)) == version
            # Equal bytes have equal versions in many stores: an older pointer may have been
            # restored.
            if is_unchanged and await self._accepted.highest(scope) <= sequence:
                current.add(scope)
        return frozenset(current)

    async def existing(self, scope: Scope) -> PointerRead:
        """The pointer of a scope that must exist.

        Raises:
            NothingPublished: nothing was ever published in it.
        """
        read = await self.pointer(scope)
        if read.version is None:
            raise NothingPublished(
                f"nothing is published in {scope}; `rebundle scopes` lists what there is"
            )
        return read

    async def manifest(self, scope: Scope, publication: Publication) -> Manifest:
        """The manifest of a publication in the pointer.

        Raises:
            ObjectGone: it is gone.
            VerificationFailed: it does not match the digests in the pointer.
            NotTrusted: it has no trusted signature.
        """
        return await self._manifest(scope, publication.id, publication)

    async def _manifest(
        self, scope: Scope, name: PublicationId, named_by: Publication | None
    ) -> Manifest:
        cache_key = f"{scope} {name}" if named_by is None else _cache_key(scope, named_by)
        cached = self._manifests.get(cache_key)
        if cached is not None:
            return cached
        read, size = await self._stored_manifest(scope, name, named_by)
        self._manifests.put(cache_key, read, size)
        return read

    async def check_stored(self, scope: Scope, publication: Publication) -> None:
        """Check that a publication is still in the bucket as its pointer names it.

        The manifest is read and verified, without the cache. The archive is only listed: it must
        have its size, and its digest where the store lists digests.

        Raises:
            ObjectGone: manifest or archive is gone.
            VerificationFailed: one of them does not match the pointer.
            NotTrusted: the manifest has no trusted signature.
            StoreRefused: one of them cannot be read.
        """
        described, _ = await self._stored_manifest(scope, publication.id, publication)
        remedy = leave_out(scope, "archive")
        key = layout.archive(scope, publication.state, publication.attempt)
        listing = (await self._store.scan(key)).complete()
        listed = next((entry for entry in listing if entry.key == key), None)
        if listed is None:
            raise ObjectGone(f"{key} is gone from the bucket: {remedy}")
        if listed.fault is not None:
            raise StoreRefused(listed.fault)
        stored = (listed.size, listed.sha256 or described.archive.sha256)
        if stored != (described.archive.size, described.archive.sha256):
            raise VerificationFailed(
                f"the archive of {publication.id} does not match its digest: {remedy}"
            )

    async def _stored_manifest(
        self, scope: Scope, name: PublicationId, named_by: Publication | None
    ) -> tuple[Manifest, int]:
        """The manifest in the bucket, verified, and the number of its bytes."""
        key = layout.manifest(scope, name.state, name.attempt)
        body = await self._bytes(key, sizes.MANIFEST, leave_out(scope))
        envelope = await self._envelope(scope, name) if self.verifier.trust is not None else None
        read = await self.work_on(
            len(body) + len(envelope or b""),
            self.verifier.manifest,
            body,
            scope,
            name,
            envelope=envelope,
            named_by=named_by,
        )
        return read, len(body)

    async def _envelope(self, scope: Scope, name: PublicationId) -> bytes | None:
        """The signature of a publication; None if it has none."""
        key = layout.signature(scope, name.state, name.attempt)
        try:
            stored = await self._optional(key, sizes.SIGNATURE, leave_out(scope))
        except VerificationFailed as error:
            raise NotTrusted(str(error)) from error
        return None if stored is None else stored.body

    async def named_manifests(self, scope: Scope, names: Iterable[PublicationId]) -> Manifests:
        """The manifests of publications that only the history names, so their digests are unknown.

        A manifest that is gone or damaged is left out: its publication will not be served, and
        repairing it has no use. A manifest that the store refuses to read, or that has schema 1, is
        in `damaged`, with the remedy.
        """

        async def read(name: PublicationId) -> Manifest | DamagedManifest | None:
            try:
                return await self._manifest(scope, name, None)
            except (VerificationFailed, ObjectDamaged):
                return None
            except (OlderSchema, StoreRefused) as error:
                return DamagedManifest(name, str(error), unreadable=True)

        return _without_missing(await concurrently(read, names, limit=_MOST_READS_AT_ONCE))

    async def files(self, scope: Scope, publication: Publication) -> tuple[RenderedFile, ...]:
        """All files of a publication, after checking them against their digests.

        Raises:
            ObjectGone: manifest or archive is gone.
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
            ObjectGone: a chunk is gone.
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

        chunk = await self.work_on(len(body), self.verifier.chunk, body, scope, reference)
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
            except (ObjectGone, NotTrusted):
                return None
            except VerificationFailed as error:
                return DamagedManifest(publication.id, str(error))
            except ObjectDamaged as error:
                return DamagedManifest(publication.id, f"{error}: {leave_out(scope)}")
            except StoreRefused as error:
                return DamagedManifest(publication.id, str(error), unreadable=True)

        return _without_missing(await concurrently(read, publications, limit=_MOST_READS_AT_ONCE))

    async def _bytes(self, key: str, max_bytes: int, remedy: str) -> bytes:
        stored = await self._optional(key, max_bytes, remedy)
        if stored is None:
            raise ObjectGone(f"{key} is gone from the bucket: {remedy}")
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
            raise VerificationFailed(
                f"{error}: it is damaged, or another program wrote it; {remedy}"
            ) from error

    async def _trace(self, scope: Scope) -> str | None:
        """Evidence that this scope had a pointer, or None (protocol 4, absolute rule 4)."""
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
