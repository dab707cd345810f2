"""Gathers what is left of a scope, and writes the pointer that `recovery` makes of it.

Everything is looked at, nothing is believed that does not verify: each manifest, archive and file is read. Numbers are
the exception: a sequence counts even if what holds it is damaged, for it can only make the new one higher. The pointer
is written like any other, by compare-and-swap, so that a daemon which goes on from the lost one loses.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError

from daemon.concurrency import concurrently
from daemon.publishing import layout, manifest, ownership, recovery
from daemon.publishing import pointer as pointers
from daemon.publishing.documents import parsed, written
from daemon.publishing.errors import PublishingError, VerificationFailed
from daemon.publishing.livetree import LiveTree, Synced, Unfinished
from daemon.publishing.pointer import CHUNK, Chunk, Entry, Older, Pointer, PublicationId
from daemon.publishing.protocol import absent
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.recovery import Damaged, Found, Recovered, Remains, Unsigned, Wish
from daemon.publishing.retention import Folder, folders
from daemon.stores.errors import ObjectDamaged, ObjectMissing, ObjectTooBig, StoreRefused
from daemon.stores.port import ObjectStore, Stored
from renderers.model import Scope

_READS_AT_ONCE: Final = 8
_MOST_LIVE_TREE_BYTES: Final = 8 << 20
"""Of a file of the live tree whose tag is asked for: one that is larger is an operator's, as far as a pass can tell."""
_SEQUENCE: Final = re.compile(rb'"sequence"\s*:\s*(\d{1,15})\b')
_Read = Mapping[str, tuple[Chunk, bytes]]
"""Chunks by key, with their bytes."""
_CHUNK_KEY: Final = re.compile(r"/(\d{1,15})(?:-(\d{1,15})-[^/]*)?\.json$")
"""Without the sequence of its newest entry and a write: of a release before those were in the key."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery did, or (a preview) would do."""

    scope: Scope
    recovered: Recovered | None
    """None: there was nothing to recover."""
    remains: Remains
    damage: str | None = None
    """What is wrong with the pointer; None if it can be read."""
    live_tree: Synced | Unfinished | None = None


@dataclass(frozen=True, slots=True)
class _DamagedPointer:
    sequence: int = 0
    pointer: Pointer | None = None
    """What it says, if only its signature does not count."""


@dataclass(frozen=True, slots=True)
class _Chunks:
    entries: tuple[Entry, ...]
    highest: int
    """Of every chunk, damaged or not."""
    older: Older | None = None
    chunked: int = 0
    unsigned: tuple[Entry, ...] = ()
    """After a signed pointer, and not led to by it."""


class Recoverer:
    """Recovers scopes of one bucket."""

    def __init__(self, store: ObjectStore, reader: Reader, publisher: Publisher, live_tree: LiveTree) -> None:
        self._store = store
        self._reader = reader
        self._publisher = publisher
        self._live_tree = live_tree

    async def preview(self, scope: Scope, wish: Wish, by: str, reason: str) -> Recovery:
        """What `recover` would do now. Raises as it does."""
        _, found = await self._decide(scope, wish, by, reason)
        return found

    async def recover(self, scope: Scope, wish: Wish, by: str, reason: str) -> Recovery:
        """Write a pointer that can go on, then bring the live tree in step.

        Raises:
            NotFound: nothing is left of the scope, or not of the state that is to be live.
            Refused: the state that is to be live is quarantined.
            PointerMoved: somebody changed or restored the pointer meanwhile; look again.
            OutcomeUnresolved: whether the pointer was written could not be found out; look again.
        """
        base, found = await self._decide(scope, wish, by, reason)
        if found.recovered is None:
            return replace(found, live_tree=await self._live_tree.reconcile(scope))
        written = await self._publisher.swap(scope, base, found.recovered.pointer)
        return replace(found, live_tree=await self._live_tree.follow(scope, written.pointer.sequence))

    async def _decide(self, scope: Scope, wish: Wish, by: str, reason: str) -> tuple[PointerRead, Recovery]:
        base, damage, remains = await self._gather(scope)
        recovered = recovery.recover(remains, self._publisher.writing(by, reason), wish)
        return base, Recovery(scope, recovered, remains, damage)

    # -- what is left

    async def _gather(self, scope: Scope) -> tuple[PointerRead, str | None, Remains]:
        base, damage, damaged = await self._pointer(scope)
        pointer = None if base.version is None or damage else base.pointer
        signed = pointer if self._reader.has_policy else None
        chunks = await self._chunks(scope, signed)
        marker, _ = await self._live_tree.marker(scope)
        tree = PublicationId.parse(marker.publication) if marker and marker.publication else None
        stored, _ = folders(scope, await self._store.scan(layout.states(scope)))
        if base.version is None or damage:
            # A scope whose publications are signed had a signed pointer: who cannot sign must not write one.
            base = replace(base, signed=base.signed or any(each.is_signed for each in stored))
        found, broken = await self._publications(scope, stored)
        traces = {"the damaged pointer": damaged.sequence, **await self._traces(scope)}
        traces["who read here before"] = await self._reader.highest_accepted(scope)
        traces["the history"] = chunks.highest
        if marker is not None:
            traces["the live tree's files"] = max((each.commit[0] for each in marker.files.values()), default=0)
        remains = Remains(
            scope=scope,
            pointer=pointer,
            traces={name: sequence for name, sequence in traces.items() if sequence},
            entries=chunks.entries,
            older=chunks.older,
            chunked=chunks.chunked,
            tree=tree if signed is None else None,
            tree_sequence=marker.sequence if marker and signed is None else 0,
            found=found,
            damaged=broken,
            unsigned=Unsigned(chunks.unsigned, damaged.pointer, tree) if self._reader.has_policy else None,
        )
        return base, damage, remains

    async def _pointer(self, scope: Scope) -> tuple[PointerRead, str | None, _DamagedPointer]:
        """What a compare-and-swap is to start from, what is wrong with it, and what a damaged one tells."""
        key = layout.pointer(scope)
        try:
            read = await self._reader.found_pointer(scope)
            stored = None
        except VerificationFailed as error:
            read, stored, damage = None, await self._get(key), str(error)
        except ObjectDamaged as error:
            versions = [each.version for each in await self._store.scan(key) if each.key == key]
            return PointerRead(absent(scope), versions[0] if versions else None), str(error), _DamagedPointer()
        if read is not None:
            return read, None, _DamagedPointer()
        if stored is None:
            return PointerRead(absent(scope), None), f"{key} is gone", _DamagedPointer()
        # Whether it was signed is told by its bytes: who cannot sign must not replace it (protocol 4).
        base = PointerRead(absent(scope), stored.version, signed=b'"sig"' in stored.body)
        return base, damage, _DamagedPointer(_sequence_in(stored.body), _decoded(stored.body, scope))

    async def _chunks(self, scope: Scope, signed: Pointer | None) -> _Chunks:
        """Every chunk that can be read, and the newest that leads back through all before it.

        `signed`: a pointer whose signature counts; only the chunks that it leads to are believed then.
        """
        keys = [each.key for each in await self._store.scan(layout.histories(scope))]
        bodies = dict(zip(keys, await concurrently(self._get, keys, at_once=_READS_AT_ONCE), strict=True))
        chunks = {key: (_chunk(stored.body), stored.body) for key, stored in bodies.items() if stored is not None}
        read = {key: (chunk, body) for key, (chunk, body) in chunks.items() if chunk is not None and chunk.entries}
        highest = max((max(_newest_by(key), _sequence_in(body)) for key, (_, body) in chunks.items()), default=0)
        if signed is None:
            return _believed(read, highest)
        after = tuple(each for each in _entries(read) if each.sequence > signed.sequence)
        return replace(_believed(_led_to(signed.older, read), highest), unsigned=after)

    async def _publications(
        self, scope: Scope, stored: Iterable[Folder]
    ) -> tuple[tuple[Found, ...], tuple[Damaged, ...]]:
        judged = await concurrently(lambda each: self._verified(scope, each.id), stored, at_once=_READS_AT_ONCE)
        found = tuple(each for each in judged if isinstance(each, Found))
        return found, tuple(each for each in judged if isinstance(each, Damaged))

    async def _verified(self, scope: Scope, name: PublicationId) -> Found | Damaged:
        try:
            stored = await self._store.get(layout.manifest(scope, name.state, name.attempt))
        except ObjectMissing:
            return Damaged(name, "its manifest is gone")
        except ObjectDamaged as error:
            return Damaged(name, str(error))
        try:
            described = manifest.decode(stored.body)
        except VerificationFailed as error:
            return Damaged(name, str(error))
        publication = recovery.manifest_publication(described, _sha256(stored.body))
        try:
            if publication.id != name:
                raise VerificationFailed(f"its manifest is the one of {publication.id}")
            described.composition_value()
            await self._reader.files(scope, publication)
        except (PublishingError, ObjectDamaged) as error:
            return Damaged(name, str(error), described.revision, described.events)
        return Found(publication, described.events)

    async def _traces(self, scope: Scope) -> Mapping[str, int]:
        """The highest sequence that each kind of thing tells, damaged or not."""
        tree = layout.live_tree(scope)
        files = [each.key for each in await self._store.scan(tree) if not ownership.is_credential(each.key)]
        tagged = await concurrently(self._live_tree_file, files, at_once=_READS_AT_ONCE)
        commits = (ownership.parsed_commit(each.tag.get("commit")) for each in tagged if each is not None)
        aside = await self._store.folders(layout.all_replaced(scope))
        marker = await self._get(layout.live_tree(scope, layout.MARKER))
        freshness = await self._get(layout.freshness(scope))
        return {
            "the live tree's marker": _sequence_in(marker.body) if marker else 0,
            "freshness.json": _sequence_in(freshness.body) if freshness else 0,
            "tags of the live tree": max((commit[0] for commit in commits if commit), default=0),
            "bytes kept aside": max((int(each) for each in aside if each.isdecimal()), default=0),
        }

    async def _live_tree_file(self, key: str) -> Stored | None:
        """None for one that tells nothing: gone, damaged, not to be read, or too large to be ours."""
        try:
            return await self._store.get(key, most_bytes=_MOST_LIVE_TREE_BYTES)
        except (ObjectMissing, ObjectDamaged, ObjectTooBig, StoreRefused):
            return None

    async def _get(self, key: str) -> Stored | None:
        try:
            return await self._store.get(key)
        except (ObjectMissing, ObjectDamaged):
            return None


def _chunk(body: bytes) -> Chunk | None:
    try:
        chunk = Chunk.model_validate(parsed(body))
        written(chunk.model_dump(mode="json"))  # what could not be written again would stop the recovery
    except (ValueError, ValidationError, RecursionError):
        return None
    return chunk


def _decoded(body: bytes, scope: Scope) -> Pointer | None:
    try:
        return pointers.decode(body, scope)
    except VerificationFailed:
        return None


def _believed(read: _Read, highest: int) -> _Chunks:
    whole = [key for key in read if _leads_back(key, read)]
    newest = max(whole, key=lambda key: read[key][0].entries[-1].sequence, default=None)
    if newest is None:
        return _Chunks(_entries(read), highest)
    chunk, body = read[newest]
    return _Chunks(_entries(read), highest, Older(key=newest, sha256=_sha256(body)), chunk.entries[-1].sequence)


def _entries(read: _Read) -> tuple[Entry, ...]:
    """The oldest first."""
    return tuple(
        sorted((entry for chunk, _ in read.values() for entry in chunk.entries), key=lambda each: each.sequence)
    )


def _led_to(older: Older | None, read: _Read) -> _Read:
    """The chunks that a pointer leads to, as far as each is the one that its successor means."""
    found: dict[str, tuple[Chunk, bytes]] = {}
    while older is not None and older.key in read and older.key not in found:
        chunk, body = read[older.key]
        if _sha256(body) != older.sha256:
            break
        found[older.key] = chunk, body
        older = chunk.older
    return found


def _newest_by(key: str) -> int:
    """The sequence of a chunk's newest entry, as its key tells; 0: it tells nothing."""
    named = _CHUNK_KEY.search(key)
    if named is None:
        return 0
    oldest, newest = named.groups()
    return int(newest or int(oldest) + CHUNK - 1)


def _leads_back(key: str, read: _Read) -> bool:
    """Whether each chunk from here back is the one that its successor means."""
    seen: set[str] = set()
    while key not in seen:
        seen.add(key)
        older = read[key][0].older
        if older is None:
            return True
        if older.key not in read or _sha256(read[older.key][1]) != older.sha256:
            return False
        key = older.key
    return False


def _sequence_in(body: bytes) -> int:
    """The highest sequence in a document that may be cut off."""
    return max(map(int, _SEQUENCE.findall(body)), default=0)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
