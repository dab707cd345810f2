"""Gathers what is left of a scope, and writes the pointer that `recovery_rules` makes of it.

Every manifest, archive and file is read, and only what verifies is used. Sequence numbers are the
exception: a sequence counts even if its document is damaged, because it can only make the new
sequence higher. The pointer is written by compare-and-swap like any other. So a daemon that
continues from the lost pointer loses the race.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from daemon.concurrency import concurrently
from daemon.publishing import layout, manifest, sizes
from daemon.publishing import pointer as pointers
from daemon.publishing.errors import NotTrusted, PublishingError, VerificationFailed
from daemon.publishing.live_tree import ownership
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.maintenance import recovery_rules
from daemon.publishing.maintenance.recovery_remains import (
    DamagedPublication,
    Remains,
    UnreadablePublication,
    Unsigned,
    UntrustedPublication,
    VerifiedPublication,
)
from daemon.publishing.maintenance.recovery_rules import Recovered, RecoveryOptions
from daemon.publishing.maintenance.retention_rules import folders
from daemon.publishing.pointer import Chunk, HistoryEntry, Pointer, PreviousChunk, PublicationId
from daemon.publishing.protocol import absent
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.stores.errors import ObjectDamaged, ObjectMissing, ObjectTooBig, StoreRefused
from daemon.stores.port import ObjectStore, Stored
from renderers.values import Scope

_READS_AT_ONCE: Final = 8
_SEQUENCE: Final = re.compile(rb'"sequence"\s*:\s*(\d{1,15})\b')
_CHUNK_KEY: Final = re.compile(r"/\d{1,15}-(\d{1,15})-[^/]*\.json$")


@dataclass(frozen=True, slots=True)
class _ReadChunk:
    """A chunk, and the sha256 of its bytes."""

    chunk: Chunk
    sha256: str


_ChunksByKey = Mapping[str, _ReadChunk]


@dataclass(frozen=True, slots=True)
class Recovery:
    """The result of a recovery, or of its preview."""

    scope: Scope
    recovered: Recovered | None
    """None: there was nothing to recover."""
    remains: Remains
    damage: str | None = None
    """What is wrong with the pointer; None if it can be read."""
    live_tree: FinishedPass | UnfinishedPass | None = None

    @property
    def unreferenced_uploads(self) -> tuple[PublicationId, ...]:
        """The whole uploads that no change, and not the recovered pointer either, names."""
        named = self.recovered.pointer.retained if self.recovered else ()
        taken = {publication.id for publication in named}
        return tuple(upload for upload in self.remains.unreferenced_uploads if upload not in taken)


@dataclass(frozen=True, slots=True)
class _DamagedPointer:
    sequence: int = 0
    pointer: Pointer | None = None
    """The parsed pointer, if only its signature is invalid."""


@dataclass(frozen=True, slots=True)
class _Chunks:
    entries: tuple[HistoryEntry, ...]
    highest: int
    """The highest sequence in any chunk, damaged or not."""
    previous_chunk: PreviousChunk | None = None
    """The newest chunk from which the chain back is complete."""
    chunked: int = 0
    chain_holds: bool = True
    unsigned: tuple[HistoryEntry, ...] = ()
    """Changes after a signed pointer, which its chain does not include."""
    are_there: bool = False
    """Whether there is any chunk, damaged or not."""


class Recoverer:
    """Recovers scopes of one bucket."""

    def __init__(
        self, store: ObjectStore, reader: Reader, publisher: Publisher, live_tree: LiveTree
    ) -> None:
        self._store = store
        self._reader = reader
        self._publisher = publisher
        self._live_tree = live_tree

    async def preview(
        self, scope: Scope, options: RecoveryOptions, by: str, reason: str
    ) -> Recovery:
        """What `recover` would do now. It raises the same errors."""
        _, recovery = await self._decide(scope, options, by, reason)
        return recovery

    async def recover(
        self, scope: Scope, options: RecoveryOptions, by: str, reason: str
    ) -> Recovery:
        """Write a usable pointer, then sync the live tree.

        Raises:
            NotFound: nothing is left of the scope, or of the state that is to be live.
            OlderSchema: a document of the scope has schema 1; nothing was written.
            OperationRefused: the state that is to be live is quarantined.
            StateUnreadable: the state that has to be live cannot be read, or is refused by the
                trust policy.
            PointerMoved: another writer changed or restored the pointer meanwhile; check again.
            OutcomeUnresolved: it is unknown whether the pointer was written; check again.
        """
        base, recovery = await self._decide(scope, options, by, reason)
        if recovery.recovered is None:
            return replace(recovery, live_tree=await self._live_tree.reconcile(scope))
        written = await self._publisher.swap(scope, base, recovery.recovered.pointer)
        return replace(
            recovery, live_tree=await self._live_tree.follow(scope, written.pointer.sequence)
        )

    async def _decide(
        self, scope: Scope, options: RecoveryOptions, by: str, reason: str
    ) -> tuple[PointerRead, Recovery]:
        base, damage, remains = await self._gather(scope)
        recovered = recovery_rules.recover(remains, self._publisher.writing(by, reason), options)
        return base, Recovery(scope, recovered, remains, damage)

    # -- what is left

    async def _gather(self, scope: Scope) -> tuple[PointerRead, str | None, Remains]:
        base, damage, damaged = await self._pointer(scope)
        pointer = None if base.version is None or damage else base.pointer
        has_policy = self._reader.verifier.trust is not None
        signed = pointer if has_policy else None
        chunks = await self._chunks(scope, pointer)
        marker, marker_version = await self._live_tree.marker(scope)
        freshness = await self._reader.listed_version(layout.freshness(scope))
        tree = PublicationId.parse(marker.publication) if marker and marker.publication else None
        stored, _ = folders(scope, (await self._store.scan(layout.states(scope))).complete())
        if base.version is None or damage:
            # If publications are signed, the pointer was signed, too. A writer without a signing
            # key must not replace it.
            base = replace(base, signed=base.signed or any(folder.is_signed for folder in stored))
        results = await concurrently(
            lambda folder: self._verified(scope, folder.id), stored, limit=_READS_AT_ONCE
        )
        traces = {"the damaged pointer": damaged.sequence, **await self._traces(scope)}
        traces["sequence seen on this machine"] = await self._reader.highest_accepted(scope)
        traces["the history"] = chunks.highest
        if marker is not None:
            traces["the files that the live tree's marker lists"] = max(
                (file.commit[0] for file in marker.files.values()), default=0
            )
        remains = Remains(
            scope=scope,
            pointer=pointer,
            traces={name: sequence for name, sequence in traces.items() if sequence},
            entries=chunks.entries,
            chain_holds=chunks.chain_holds,
            previous_chunk=chunks.previous_chunk,
            chunked=chunks.chunked,
            tree=tree if signed is None else None,
            tree_sequence=marker.sequence if marker and signed is None else 0,
            found=tuple(result for result in results if isinstance(result, VerifiedPublication)),
            damaged=tuple(result for result in results if isinstance(result, DamagedPublication)),
            unreadable=tuple(
                result for result in results if isinstance(result, UnreadablePublication)
            ),
            unsigned=Unsigned(chunks.unsigned, damaged.pointer, tree) if has_policy else None,
            had_pointer=chunks.are_there
            or any(trace is not None for trace in (base.version, marker_version, freshness)),
        )
        return base, damage, remains

    async def _pointer(self, scope: Scope) -> tuple[PointerRead, str | None, _DamagedPointer]:
        """The pointer that the compare-and-swap replaces, and its damage.

        Returns also what can be read of a damaged pointer.
        """
        key = layout.pointer(scope)
        try:
            read = await self._reader.found_pointer(scope)
        except (VerificationFailed, ObjectDamaged) as error:
            damage = str(error)
        else:
            if read is not None:
                return read, None, _DamagedPointer()
            return PointerRead(absent(scope), None), f"{key} is gone", _DamagedPointer()
        stored = await self._get(key, sizes.POINTER)
        if stored is None:
            return (
                PointerRead(absent(scope), await self._reader.listed_version(key)),
                damage,
                _DamagedPointer(),
            )
        # The bytes show whether it was signed. A writer without a signing key must not replace a
        # signed pointer (protocol 4).
        base = PointerRead(absent(scope), stored.version, signed=b'"sig"' in stored.body)
        return (
            base,
            damage,
            await self._reader.work_on(len(stored.body), _damaged_pointer, stored.body, scope),
        )

    async def _chunks(self, scope: Scope, pointer: Pointer | None) -> _Chunks:
        """Every readable chunk, and the newest one from which the chain back is complete.

        Under a trust policy and with a validly signed pointer, only chunks in its chain are used.
        """
        keys = [
            listed.key for listed in (await self._store.scan(layout.histories(scope))).complete()
        ]
        stored = await concurrently(
            lambda key: self._get(key, sizes.CHUNK), keys, limit=_READS_AT_ONCE
        )
        bodies = {
            key: document.body
            for key, document in zip(keys, stored, strict=True)
            if document is not None
        }
        read = await self._reader.work_on(
            sum(map(len, bodies.values())), _readable_chunks, bodies, scope
        )
        highest = max(
            (max(_newest_by(key), _sequence_in(body)) for key, body in bodies.items()), default=0
        )
        previous = pointer.previous_chunk if pointer is not None else None
        chain, holds = _chain_from(previous, read)
        if pointer is None or self._reader.verifier.trust is None:
            return replace(
                _chunk_summary(read, highest, previous), chain_holds=holds, are_there=bool(keys)
            )
        after = tuple(entry for entry in _entries(read) if entry.sequence > pointer.sequence)
        return replace(
            _chunk_summary(chain, highest, previous),
            chain_holds=holds,
            unsigned=after,
            are_there=bool(keys),
        )

    async def _verified(
        self, scope: Scope, name: PublicationId
    ) -> VerifiedPublication | DamagedPublication | UnreadablePublication:
        """Read and check a publication.

        A fault of this publication is returned as a result. Only temporary failures of the store
        are raised.
        """
        try:
            return await self._checked(scope, name)
        except StoreRefused as error:
            return UnreadablePublication(name, str(error))

    async def _checked(
        self, scope: Scope, name: PublicationId
    ) -> VerifiedPublication | DamagedPublication:
        try:
            key = layout.manifest(scope, name.state, name.attempt)
            stored = await self._store.get(key, max_bytes=sizes.MANIFEST)
        except ObjectMissing:
            return DamagedPublication(name, "its manifest is gone")
        except (ObjectDamaged, ObjectTooBig) as error:
            return DamagedPublication(name, str(error))
        size = len(stored.body)
        try:
            described = await self._reader.work_on(size, manifest.decode, stored.body, key)
        except VerificationFailed as error:
            return DamagedPublication(name, str(error))
        publication = described.publication(_sha256(stored.body))
        try:
            if publication.id != name:
                raise VerificationFailed(f"its manifest belongs to {publication.id}")
            await self._reader.work_on(size, described.composition_value)
            await self._reader.files(scope, publication)
        except (PublishingError, ObjectDamaged) as error:
            kind = UntrustedPublication if isinstance(error, NotTrusted) else DamagedPublication
            return kind(
                name,
                str(error),
                described.revision,
                described.events,
                described.composition_digest,
                described.kind,
            )
        return VerifiedPublication(publication, described.events)

    async def _traces(self, scope: Scope) -> Mapping[str, int]:
        """The highest sequence by kind of object, damaged objects included."""
        listed = await self._store.scan(layout.live_tree(scope))
        files = [
            file.key
            for file in listed
            if file.size <= sizes.FILE and not layout.is_credential(file.key)
        ]
        commits = await concurrently(self._commit, files, limit=_READS_AT_ONCE)
        marker = await self._get(layout.live_tree(scope, layout.MARKER), sizes.MARKER)
        freshness = await self._get(layout.freshness(scope), sizes.FRESHNESS)
        return {
            "the live tree's marker": _sequence_in(marker.body) if marker else 0,
            "freshness.json": _sequence_in(freshness.body) if freshness else 0,
            "the files of the live tree": max(commits, default=0),
        }

    async def _commit(self, key: str) -> int:
        """The sequence in the tag of a file; 0: none.

        A file that must not be read counts as 0 and does not stop the recovery.
        """
        try:
            stored = await self._get(key, sizes.FILE)
        except StoreRefused:
            return 0
        commit = ownership.parsed_commit(stored.tag.get("commit")) if stored else None
        return commit[0] if commit else 0

    async def _get(self, key: str, max_bytes: int) -> Stored | None:
        try:
            return await self._store.get(key, max_bytes=max_bytes)
        except (ObjectMissing, ObjectDamaged, ObjectTooBig):
            return None


def _readable_chunks(bodies: Mapping[str, bytes], scope: Scope) -> _ChunksByKey:
    """The chunks that are not damaged and have entries."""
    read: dict[str, _ReadChunk] = {}
    for key, body in bodies.items():
        with suppress(VerificationFailed):
            chunk = pointers.decode_chunk(body, key, scope)
            if chunk.entries:
                read[key] = _ReadChunk(chunk, _sha256(body))
    return read


def _damaged_pointer(body: bytes, scope: Scope) -> _DamagedPointer:
    try:
        pointer = pointers.decode(body, scope)
    except VerificationFailed:
        pointer = None
    return _DamagedPointer(_sequence_in(body), pointer)


def _chunk_summary(read: _ChunksByKey, highest: int, named: PreviousChunk | None) -> _Chunks:
    """All entries, and the newest chunk from which the chain back is complete.

    `named`: the chunk that a pointer names. A writer that lost a race leaves a second chunk with
    the same entries, so of two equally new chunks the one that a pointer or chunk names is used.
    """
    whole = [
        key
        for key, found in read.items()
        if _chain_from(PreviousChunk(key=key, sha256=found.sha256), read)[1]
    ]
    names = {
        link.key
        for link in (named, *(found.chunk.previous_chunk for found in read.values()))
        if link is not None
    }
    newest = max(
        whole, key=lambda key: (read[key].chunk.entries[-1].sequence, key in names), default=None
    )
    if newest is None:
        return _Chunks(_entries(read), highest)
    found = read[newest]
    return _Chunks(
        _entries(read),
        highest,
        PreviousChunk(key=newest, sha256=found.sha256),
        found.chunk.entries[-1].sequence,
    )


def _entries(read: _ChunksByKey) -> tuple[HistoryEntry, ...]:
    """The entries of all chunks, the oldest first."""
    return tuple(
        sorted(
            (entry for found in read.values() for entry in found.chunk.entries),
            key=lambda entry: entry.sequence,
        )
    )


def _chain_from(previous: PreviousChunk | None, read: _ChunksByKey) -> tuple[_ChunksByKey, bool]:
    """The chain of chunks from here back, and whether it is complete.

    It ends before the first chunk that is missing or does not have the digest that its successor
    names.
    """
    chain: dict[str, _ReadChunk] = {}
    while previous is not None and previous.key not in chain:
        found = read.get(previous.key)
        if found is None or found.sha256 != previous.sha256:
            return chain, False
        chain[previous.key] = found
        previous = found.chunk.previous_chunk
    return chain, previous is None


def _newest_by(key: str) -> int:
    """The sequence of a chunk's newest entry, from its key; 0: the key has none."""
    match = _CHUNK_KEY.search(key)
    return int(match[1]) if match else 0


def _sequence_in(body: bytes) -> int:
    """The highest sequence in a document, which may be truncated."""
    return max(map(int, _SEQUENCE.findall(body)), default=0)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
