"""The live tree: what operators see of a scope, made to follow `live` by one level-triggered pass (protocol 5).

List, *then* read the pointer, write the differences under conditions, list again, and only then say "synced": this
order is what makes the conditions mean something. The tree is eventually consistent and its marker says so; whoever
needs atomicity reads pointer, manifest, archive. What may be done to which file is decided in `ownership`.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from daemon.publishing import layout, ownership
from daemon.publishing.errors import NewerSchema, NotFound, Refused
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
from daemon.publishing.pointer import SCHEMA, Pointer, Publication
from daemon.publishing.reader import Reader
from daemon.stores.errors import ConditionFailed, ObjectMissing, OutcomeUnknown
from daemon.stores.port import Content, Listed, ObjectStore, Stored, Version
from renderers.model import RenderedFile, Scope, canonical_json

_ROUNDS: Final = 5
_WRITES_AT_ONCE: Final = 8
_RACED: Final = (ConditionFailed, ObjectMissing, OutcomeUnknown)


@dataclass(frozen=True, slots=True)
class Synced:
    """A live tree that follows `sequence`, and what the pass had to say about it."""

    sequence: int
    verdicts: tuple[Verdict, ...] = ()

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
    """A live tree that others kept changing during the pass; the next pass goes on."""

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
    def in_step(self) -> bool:
        """Whether a pass would find nothing to do, and the marker says so."""
        return self.marked and not (self.seen.written or self.removed)


class LiveTree:
    """Makes live trees follow their pointers. Any number of daemons and commands may do so at once."""

    def __init__(self, store: ObjectStore, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    async def reconcile(self, scope: Scope) -> Synced | Unfinished:
        """One pass over a scope's live tree."""
        said: dict[str, Verdict] = {}
        sequence = 0
        for _ in range(_ROUNDS):
            listed = await self._list(scope)
            current = (await self._reader.pointer(scope)).pointer
            sequence = current.sequence
            if current.schema_ > SCHEMA:
                raise NewerSchema(f"the pointer of {scope} was written by a newer release: its live tree is left alone")
            if current.live is None:
                return Synced(sequence)
            finished = await self._round(scope, listed, current, current.live, said)
            if finished:
                return Synced(sequence, tuple(said[path] for path in sorted(said)))
        return Unfinished(sequence, "the live tree or the pointer kept changing; the next pass goes on")

    async def _round(
        self, scope: Scope, listed: Mapping[str, Listed], current: Pointer, live: Publication, said: dict[str, Verdict]
    ) -> bool:
        """Whether the tree follows `current` now; False: something moved, start over."""
        marker, version = await self.marker(scope)
        if marker is not None and marker.sequence > current.sequence:
            return False
        files, wanted = await self._wanted(scope, current, live)
        present = await self._present(scope, listed, wanted, marker, current)
        verdicts = ownership.judge_all(wanted, present, marker)
        said.update({verdict.path: verdict for verdict in verdicts})
        synced = ownership.marker_after(marker, wanted, present, verdicts)
        actions = [verdict for verdict in verdicts if isinstance(verdict, Put | Remove)]
        if actions:
            begun = synced.model_copy(update={"status": "updating", "files": marker.files if marker else {}})
            version = await self._write_marker(scope, begun, marker, version)
            marker = begun
            if version is None:
                return False
            applied = await self._apply(scope, actions, files, wanted)
            if applied is None:
                return False
            base = {path: each.version for path, each in listed.items() if _follows(path, wanted)}
            if not await self._shows(scope, wanted, base | applied):
                return False
        return synced == marker or await self._write_marker(scope, synced, marker, version) is not None

    async def survey(self, scope: Scope) -> Survey:
        """How a scope's live tree stands, without touching it."""
        listed = await self._list(scope)
        current = (await self._reader.pointer(scope)).pointer
        marker, _ = await self.marker(scope)
        if current.live is None:
            return Survey(marker, Synced(current.sequence))
        _, wanted = await self._wanted(scope, current, current.live)
        present = await self._present(scope, listed, wanted, marker, current)
        return Survey(marker, Synced(current.sequence, ownership.judge_all(wanted, present, marker)))

    async def _wanted(
        self, scope: Scope, current: Pointer, live: Publication
    ) -> tuple[dict[str, RenderedFile], Wanted]:
        files = {file.path: file for file in await self._reader.files(scope, live)}
        digests = {path: _sha256(file.body) for path, file in files.items()}
        return files, Wanted(live, current.sequence, await self._commit_position(current, live), digests)

    async def marker(self, scope: Scope) -> tuple[Marker | None, Version | None]:
        """The marker and its version; one that cannot be read counts as absent, and is replaced."""
        try:
            stored = await self._store.get(layout.live_tree(scope, layout.MARKER))
        except ObjectMissing:
            return None, None
        try:
            return Marker.model_validate(json.loads(stored.body)), stored.version
        except (ValueError, ValidationError):
            return None, stored.version

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
            await self._put(scope, Put(path, None), file, wanted)
        elif there.body == file.body:
            return False
        else:
            await self._put(scope, Put(path, there.version, keep_aside=True), file, wanted)
        return True

    async def _create_credentials(self, scope: Scope, file: RenderedFile, wanted: Wanted) -> None:
        try:
            await self._put(scope, Put(file.path, None), file, wanted)
        except ConditionFailed as error:
            raise Refused(
                f"{file.path} is there, and what lies below {ownership.CREDENTIALS} is never read, so it cannot be "
                "kept aside: move it away first"
            ) from error

    async def _list(self, scope: Scope) -> dict[str, Listed]:
        prefix = layout.live_tree(scope)
        listed = {each.key.removeprefix(prefix): each for each in await self._store.scan(prefix)}
        listed.pop(layout.MARKER, None)
        return listed

    async def _commit_position(self, current: Pointer, live: Publication) -> ownership.Commit:
        position = ownership.commit_position(((each.sequence, each.published) for each in current.history), live)
        if position != (0, 0) or current.older is None:
            return position
        entries = await self._reader.history(current)
        return ownership.commit_position(((each.sequence, each.published) for each in entries), live)

    async def _present(
        self, scope: Scope, listed: Mapping[str, Listed], wanted: Wanted, marker: Marker | None, current: Pointer
    ) -> dict[str, Present]:
        """What is there; only bytes that differ from what is wanted are looked at closely."""
        present: dict[str, Present] = {}
        doubtful: list[str] = []
        for path, each in listed.items():
            if each.sha256 is not None and each.sha256 == wanted.files.get(path):
                present[path] = Present(each.sha256, each.version, ours=True)
            elif path.startswith(ownership.CREDENTIALS):
                present[path] = Present("", each.version, ours=False)
            else:
                seen = await self._look(scope, path, wanted, marker)
                if seen is None:
                    continue
                present[path] = seen
                if not seen.ours:
                    doubtful.append(path)
        if doubtful:
            ours = await self._retained_files(scope, current)
            for path in doubtful:
                seen = present[path]
                present[path] = Present(seen.sha256, seen.version, ours=(path, seen.sha256) in ours)
        return present

    async def _look(self, scope: Scope, path: str, wanted: Wanted, marker: Marker | None) -> Present | None:
        stored = await self._read(scope, path)
        if stored is None:
            return None
        sha256 = _sha256(stored.body)
        recorded = marker.files.get(path) if marker else None
        tagged = stored.tag.get("sha256") == sha256
        ours = tagged or (recorded is not None and recorded.sha256 == sha256) or wanted.files.get(path) == sha256
        commit = ownership.parsed_commit(stored.tag.get("commit")) if tagged else None
        return Present(sha256, stored.version, ours=ours, commit=commit)

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
        gate = asyncio.Semaphore(_WRITES_AT_ONCE)

        async def act(action: Put | Remove) -> Version | None:
            async with gate:
                match action:
                    case Put(path=path):
                        return await self._put(scope, action, files[path], wanted)
                    case Remove(path=path, version=version):
                        await self._store.delete(layout.live_tree(scope, path), version)
                        return None

        async def try_to(action: Put | Remove) -> tuple[bool, Version | None]:
            try:
                return True, await act(action)
            except _RACED:
                return False, None

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(try_to(action)) for action in actions]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        results = [task.result() for task in tasks]
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

    async def _shows(self, scope: Scope, wanted: Wanted, expected: Mapping[str, Version | None]) -> bool:
        """Whether a new listing shows exactly these versions, and the pointer still asks for them.

        A paused pass may have written since: that a file is there does not say that it is ours.
        """
        listed = await self._list(scope)
        if (await self._reader.pointer(scope)).pointer.sequence != wanted.sequence:
            return False
        versions = {path: each.version for path, each in listed.items()}
        # Not those of credentials: a store that must not read them cannot tell their version, and a create is enough.
        told = {path: each for path, each in expected.items() if not path.startswith(ownership.CREDENTIALS)}
        return all(versions.get(path) == version for path, version in told.items())

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
                return await self._store.create(key, content)
            return await self._store.replace(key, content, version)
        except _RACED:
            return None


def _follows(path: str, wanted: Wanted) -> bool:
    """Whether a path has to be what live says, whoever changes it."""
    return path in wanted.files and not path.startswith(ownership.EXAMPLE)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
