"""Scenarios in which publications are interrupted, and what must be the same as without a crash.

`Worksite` is a daemon's bucket and journal in one folder, without HTTP: the real journal, worker,
pipeline and directory store. Attempts, writes and the number of publications may differ after a
crash. The result of `account` may not.
"""

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from daemon.bucket import Bucket, bucket_on, open_store
from daemon.changes import interpret
from daemon.lifecycle import Stop
from daemon.pipeline import Pipeline
from daemon.publishing import layout
from daemon.publishing.errors import NotFound
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.reader import Reader
from daemon.rendering import Rendering
from daemon.runtime import Runtime
from daemon.stores.directory.filesystem import RealFileSystem
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version
from daemon.worker import Worker
from events.journal import Journal
from events.model import Event, Identity
from events.records import Arrival
from events.source import EventSource
from renderers import gate
from renderers.bundle import Customisation, Renderer
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime, ThreadRuntime
from tests.support.filesystems import Operation, PassingFileSystem, Sync, SyncFolder
from tests.support.scenes import (
    BACKOFF,
    GOLDEN,
    Watcher,
    complete_model_event,
    model_event,
    rollback_event,
    state_event,
)

OVERRIDE = "example/conf/bundle/.env"
OVERRIDDEN = b"# ours, not yours\nSERVING_101_CPU_LIMIT=7\n"


@dataclass(frozen=True, slots=True)
class Story:
    """The earlier events of a scope, and the events whose publication is interrupted."""

    name: str
    before: tuple[Event, ...]
    events: tuple[Event, ...]


_FIRST = state_event(1, version="1")

STORIES = (
    Story("the_first_publication_of_a_scope", (), (_FIRST,)),
    Story("a_newer_state", (_FIRST,), (state_event(2, version="2"),)),
    Story("a_model_version", (_FIRST,), (model_event("new-version"),)),
    Story(
        "three_states_at_once", (_FIRST,), tuple(state_event(n, version=str(n)) for n in (2, 3, 4))
    ),
    Story(
        "a_rollback_request",
        (_FIRST, state_event(2, version="2")),
        (rollback_event("back", "state-1"),),
    ),
    Story(
        "a_batch_with_a_late_state_and_a_dead_letter",
        (state_event(5, version="5"),),
        (
            model_event("incomplete", "999", scopes=[GOLDEN]),
            complete_model_event("joins", "104", scopes=[GOLDEN]),
            state_event(3, version="3"),
        ),
    ),
)


class Burst:
    """An EventSource whose events all wait in the lanes before the first batch is taken."""

    def __init__(self, source: Journal, events: int) -> None:
        self._source = source
        self._left = events
        self._all = asyncio.Event()

    async def take(self, limit: int) -> Any:
        if self._left == 0:
            self._all.set()
        taken = await self._source.take(limit)
        self._left -= len(taken.deliveries)
        return taken

    async def waiting(self, *args: Any) -> Any:
        await self._all.wait()
        return await self._source.waiting(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class UnsyncedFileSystem(PassingFileSystem):
    """Skips every sync: a killed process loses nothing that it had not synced."""

    def change(self, operation: Operation) -> None:
        if not isinstance(operation, Sync | SyncFolder):
            super().change(operation)


Around = Callable[[Any], Any]
"""The file system or store of a site -> the same with its calls wrapped."""


@dataclass(frozen=True)
class Worksite:
    """The folder of a daemon: its bucket and its journal."""

    folder: Path

    @property
    def bucket(self) -> Path:
        return self.folder / "bucket"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.db"

    @property
    def override(self) -> Path:
        return self.bucket / layout.live_tree(GOLDEN, OVERRIDE)

    @property
    def shared(self) -> ObjectStore:
        """The bucket for reading."""
        return DirectoryStore(self.bucket, InlineRuntime())

    @property
    def overridden(self) -> bytes:
        """The operator's file as it is now."""
        return self.override.read_bytes()

    def prepare(self, story: Story) -> None:
        """Everything before the interruption, with a file of an operator in the live tree."""
        self.folder.mkdir(parents=True)
        asyncio.run(self.work(send=story.before))
        if story.before:
            self.override.write_bytes(OVERRIDDEN)

    def keep(self, aside: Path) -> None:
        """Copy the present content."""
        shutil.copytree(self.folder, aside)

    def restore(self, aside: Path) -> None:
        """Restore the copy.

        The journal stays the same file, because another one would be a copy (protocol 2).
        """
        shutil.rmtree(self.bucket, ignore_errors=True)
        if (aside / "bucket").exists():
            shutil.copytree(aside / "bucket", self.bucket)
        self.restore_journal(aside)

    def restore_journal(self, aside: Path) -> None:
        """Restore the copy, as the same file."""
        for rest in self.folder.glob("journal.db-*"):
            rest.unlink()
        with self.journal.open("r+b") as file:
            file.write((aside / "journal.db").read_bytes())
            file.truncate()

    def open(self, runtime: Runtime, around: Around | None = None) -> Bucket:
        """The bucket. `around` wraps what is below it: here a disk."""
        filesystem = UnsyncedFileSystem(RealFileSystem())
        disk = around(filesystem) if around else filesystem
        return bucket_on(open_store(str(self.bucket), runtime, disk), runtime)

    async def work(
        self,
        *,
        send: Sequence[Event] = (),
        accepted: Callable[[], None] = lambda: None,
        around: Around | None = None,
        between: Callable[[EventSource], EventSource] = lambda source: source,
        limit: float = 10,
    ) -> None:
        """Accept events as the HTTP intake does, and run a worker until all events are settled and
        every tree is synced.
        """
        with ThreadRuntime() as runtime:
            journal = await Journal.open(
                self.journal, clock=runtime.now, token=runtime.random_id, run=True, poll=0.02
            )
            async with journal:
                burst = Burst(journal, len(send))
                source = between(burst)
                if send:
                    await source.append([_arrival(item) for item in send])  # type: ignore[attr-defined]
                    accepted()
                bucket = self.open(runtime, around)
                worker = _worker(source, bucket, runtime)
                stop = Stop()
                async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
                    group.create_task(worker.run(stop))
                    while (await journal.backlog()).events or not await _in_step(bucket):  # noqa: ASYNC110  # both are files
                        await asyncio.sleep(0.005)
                    stop.request("done")

    def account(self) -> dict[str, Any]:
        """The result, which a crash must not change."""
        return asyncio.run(_account(self))


class Below:
    """A folder of a store as a separate store.

    Many of them share one client, which is slow to create.
    """

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self._prefix = f"{folder}/"

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        return await self._store.get(self._prefix + key, max_bytes=max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        found = await self._store.versions([self._prefix + key for key in keys])
        return {key.removeprefix(self._prefix): version for key, version in found.items()}

    async def scan(self, prefix: str) -> Listing:
        found = await self._store.scan(self._prefix + prefix)
        return Listing(
            tuple(replace(entry, key=entry.key.removeprefix(self._prefix)) for entry in found)
        )

    async def folders(self, prefix: str) -> Sequence[str]:
        return await self._store.folders(self._prefix + prefix)

    async def create(self, key: str, content: Content) -> Version:
        return await self._store.create(self._prefix + key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        return await self._store.replace(self._prefix + key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        await self._store.delete(self._prefix + key, version)


@cache
def _shared(url: str, query: str, _process: int) -> ObjectStore:
    return open_store(f"{url}?{query}", InlineRuntime()).store


@dataclass(frozen=True)
class ServerSite(Worksite):
    """The same with a bucket on a server.

    `url` is that of the bucket, up to the name of the site, which is the last part of the prefix.
    """

    url: str = ""
    query: str = ""
    name: str = "site"

    def open(self, runtime: Runtime, around: Around | None = None) -> Bucket:
        """The bucket. `around` is between it and the server."""
        url = f"{self.url}/{self.name}?{self.query}"
        # This server accepts writes of one key without a pause.
        opened = open_store(
            url, runtime, around=around or (lambda store: store), gcs_write_seconds=0
        )
        return bucket_on(opened, runtime)

    def prepare(self, story: Story) -> None:
        """Everything before the interruption, with a file of an operator in the live tree."""
        self.folder.mkdir(parents=True)
        asyncio.run(self.work(send=story.before))
        if story.before:
            asyncio.run(self._override())

    @property
    def shared(self) -> ObjectStore:
        """The bucket for reading only, without a thread and without a separate client."""
        return Below(_shared(self.url, self.query, os.getpid()), self.name)

    async def _override(self) -> None:
        key = layout.live_tree(GOLDEN, OVERRIDE)
        await self.shared.replace(key, Content(OVERRIDDEN), (await self.shared.get(key)).version)

    @property
    def overridden(self) -> bytes:
        """The operator's file as it is now."""
        return asyncio.run(self.shared.get(layout.live_tree(GOLDEN, OVERRIDE))).body

    def copy_to(self, other: "ServerSite") -> None:
        """Another site with the same objects.

        Their versions differ, so those in the marker match none.
        """

        async def copy() -> None:
            for entry in await self.shared.scan(""):
                stored = await self.shared.get(entry.key)
                await other.shared.create(entry.key, Content(stored.body, tag=stored.tag))

        asyncio.run(copy())


def _arrival(event: Event) -> Arrival:
    change = interpret(event)
    return Arrival(event, Identity("http", event.source, event.id), change.digest, change.scopes)


def _worker(source: EventSource, bucket: Bucket, runtime: Runtime) -> Worker:
    watcher = Watcher()
    pipeline = Pipeline(
        source=source,
        reader=bucket.reader,
        publisher=bucket.publisher,
        live_tree=bucket.live_tree,
        rendering=Rendering(_RENDERER, gate.check, lambda _scope: Customisation()),
        runtime=runtime,
        observer=watcher,
        writer="test",
    )
    return Worker(
        source=source,
        reader=bucket.reader,
        pipeline=pipeline,
        runtime=runtime,
        observer=watcher,
        backoff=BACKOFF,
        live_tree_seconds=3600,
    )


_RENDERER = Renderer()


async def _in_step(bucket: Bucket) -> bool:
    return all(
        [(await bucket.live_tree.survey(scope)).synced for scope in await bucket.reader.scopes()]
    )


async def _account(site: Worksite) -> dict[str, Any]:
    runtime = InlineRuntime("account")
    store = site.shared
    reader = Reader(store, runtime)
    journal = await Journal.open(
        site.journal, clock=runtime.now, token=runtime.random_id, run=False
    )
    async with journal:
        backlog = await journal.backlog()
        letters = await journal.dead_letters()
        outcomes = {
            event_id: sorted(
                (lane.scope, str(lane.outcome.kind), lane.outcome.state)
                if lane.outcome
                else (lane.scope, "waits", None)
                for status in await journal.find(event_id)
                for lane in status.lanes
            )
            for event_id in sorted(
                {item.id for story in STORIES for item in (*story.before, *story.events)}
            )
        }
    scopes = {
        str(scope): await _scope_account(store, reader, scope) for scope in await reader.scopes()
    }
    return {
        "waits": backlog.events,
        "dead letters": [(letter.event_id, letter.scope) for letter in letters],
        "outcomes": {event_id: lanes for event_id, lanes in outcomes.items() if lanes},
        "scopes": scopes,
    }


async def _scope_account(store: ObjectStore, reader: Reader, scope: Scope) -> dict[str, Any]:
    pointer = (await reader.pointer(scope)).pointer
    await check_history(reader, pointer)
    prefix = layout.live_tree(scope)
    listed = await store.scan(prefix)
    return {
        "live": _summary(pointer.live),
        "desired": _summary(pointer.desired),
        "numbers": (pointer.highest_revision.producer, pointer.highest_revision.derived),
        "positions": sorted(pointer.positions.values()),
        "held": pointer.hold is not None,
        "explicit": sorted(
            {
                publication.state
                for publication in pointer.retained
                if publication.kind == "explicit"
            }
        ),
        "live tree": {
            entry.key.removeprefix(prefix): hashlib.sha256(
                (await store.get(entry.key)).body
            ).hexdigest()
            for entry in listed
            if not entry.key.endswith(f"/{layout.LIVE_TREE}{layout.MARKER}")
        },
    }


def _summary(publication: Publication | None) -> Any:
    if publication is None:
        return None
    return (
        publication.state,
        str(publication.revision),
        publication.kind,
        publication.composition_digest,
    )


async def until_in_step(bucket: Path, scopes: Sequence[Scope], seconds: float = 60) -> None:
    """Returns when the live tree of each scope follows its pointer."""
    runtime = InlineRuntime()
    store = DirectoryStore(bucket, runtime)
    live_tree = LiveTree(store, Reader(store, runtime), runtime)
    deadline = time.monotonic() + seconds
    for scope in scopes:
        while not (await live_tree.survey(scope)).synced:
            assert time.monotonic() < deadline, f"the live tree of {scope} stays behind"
            await asyncio.sleep(0.05)


async def check_history(reader: Reader, pointer: Pointer) -> None:
    """Checks that sequences have no gap and no repetition, from the first to that of the pointer."""
    sequences = [entry.sequence for entry in await reader.history(pointer)]
    assert sequences == list(range(1, pointer.sequence + 1)), sequences


async def read_whole(
    store: ObjectStore, runtime: Runtime, scope: Scope = GOLDEN, *, retained: bool = True
) -> Pointer | None:
    """The pointer, then manifest and archive of all its publications (or of live and desired), as
    read by a new reader.

    None while nothing is published. Raises a PublishingError for anything that is not whole.
    """
    reader = Reader(store, runtime)
    try:
        pointer = (await reader.existing(scope)).pointer
    except NotFound:
        return None
    named = (pointer.live, pointer.desired, *(pointer.retained if retained else ()))
    for publication in {str(name.id): name for name in named if name}.values():
        await reader.files(scope, publication)
    return pointer


def normal(account: dict[str, Any]) -> Any:
    """As JSON has it, to be compared across processes."""
    return json.loads(json.dumps(account))
