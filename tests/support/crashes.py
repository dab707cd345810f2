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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from daemon.bucket import Bucket, open_bucket
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
from events.journal import Arrival, Journal
from events.model import Event, Identity
from events.source import EventSource
from renderers import gate
from renderers.bundle import Customisation, Renderer
from renderers.model import Scope
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
    """What a scope has seen before, and the events whose publication is cut short."""

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

    async def next(self) -> Any:
        if self._left == 0:
            self._all.set()
        delivery = await self._source.next()
        self._left -= 1
        return delivery

    async def waiting(self, *args: Any) -> Any:
        await self._all.wait()
        return await self._source.waiting(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class UnsyncedFileSystem(PassingFileSystem):
    """Takes no time to make anything durable: a killed process loses nothing that it had not synced."""

    def change(self, operation: Operation) -> None:
        if not isinstance(operation, Sync | SyncFolder):
            super().change(operation)


Around = Callable[[Any], Any]
"""A site's file system or store -> the same with its calls wrapped."""


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
        """The bucket for looking at."""
        return DirectoryStore(self.bucket, InlineRuntime())

    @property
    def overridden(self) -> bytes:
        """The operator's file as it is now."""
        return self.override.read_bytes()

    def prepare(self, story: Story) -> None:
        """All that was before, with a file of an operator's in the live tree."""
        self.folder.mkdir(parents=True)
        asyncio.run(self.work(send=story.before))
        if story.before:
            self.override.write_bytes(OVERRIDDEN)

    def keep(self, aside: Path) -> None:
        """Copy what is there."""
        shutil.copytree(self.folder, aside)

    def restore(self, aside: Path) -> None:
        """Put back what was copied; the journal stays the same file, for another one would be a copy (protocol 2)."""
        shutil.rmtree(self.bucket, ignore_errors=True)
        if (aside / "bucket").exists():
            shutil.copytree(aside / "bucket", self.bucket)
        self.restore_journal(aside)

    def restore_journal(self, aside: Path) -> None:
        """Put back what was copied, as the same file."""
        for rest in self.folder.glob("journal.db-*"):
            rest.unlink()
        with self.journal.open("r+b") as file:
            file.write((aside / "journal.db").read_bytes())
            file.truncate()

    def open(self, runtime: Runtime, around: Around | None = None) -> Bucket:
        """The bucket; `around` wraps what is below it: here a disk."""
        filesystem = UnsyncedFileSystem(RealFileSystem())
        return open_bucket(str(self.bucket), runtime, around(filesystem) if around else filesystem)

    async def work(
        self,
        *,
        send: Sequence[Event] = (),
        accepted: Callable[[], None] = lambda: None,
        around: Around | None = None,
        between: Callable[[EventSource], EventSource] = lambda source: source,
        limit: float = 10,
    ) -> None:
        """Accept events as the HTTP intake does, and run a worker until all events are settled and every tree is synced."""
        with ThreadRuntime() as runtime:
            journal = await Journal.open(
                self.journal, clock=runtime.now, token=runtime.random_id, run=True, poll=0.02
            )
            async with journal:
                opened_at = await journal.highest()
                burst = Burst(journal, len(send))
                source = between(burst)
                if send:
                    await source.append([_arrival(each) for each in send])  # type: ignore[attr-defined]
                    accepted()
                bucket = self.open(runtime, around)
                worker = _worker(source, bucket, runtime, opened_at)
                stop = Stop()
                async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
                    group.create_task(worker.run(stop))
                    while (await journal.backlog()).events or not await _in_step(bucket):  # noqa: ASYNC110  # both are files
                        await asyncio.sleep(0.005)
                    stop.request("done")

    def account(self) -> dict[str, Any]:
        """What a crash must not change."""
        return asyncio.run(_account(self))


class Below:
    """A folder of a store as a separate store: many of them share one client, which is slow to create."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store = store
        self._prefix = f"{folder}/"

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        return await self._store.get(self._prefix + key, most_bytes=most_bytes)

    async def scan(self, prefix: str) -> Listing:
        found = await self._store.scan(self._prefix + prefix)
        return Listing(
            tuple(replace(each, key=each.key.removeprefix(self._prefix)) for each in found)
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
    return open_bucket(f"{url}?{query}", InlineRuntime()).store


@dataclass(frozen=True)
class ServerSite(Worksite):
    """The same with a bucket on a server: `url` up to the name of the site, which is the last part of the prefix."""

    url: str = ""
    query: str = ""
    name: str = "site"

    def open(self, runtime: Runtime, around: Around | None = None) -> Bucket:
        """The bucket; `around` comes between it and the server."""
        url = f"{self.url}/{self.name}?{self.query}"
        # The server here takes writes as they come.
        return open_bucket(
            url, runtime, around=around or (lambda store: store), gcs_write_seconds=0
        )

    def prepare(self, story: Story) -> None:
        """All that was before, with a file of an operator's in the live tree."""
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
        """Another site with the same objects. Their versions are others, and those that the marker has fit none."""

        async def copy() -> None:
            for each in await self.shared.scan(""):
                stored = await self.shared.get(each.key)
                await other.shared.create(each.key, Content(stored.body, tag=stored.tag))

        asyncio.run(copy())


def _arrival(event: Event) -> Arrival:
    change = interpret(event)
    return Arrival(event, Identity("http", event.source, event.id), change.digest, change.scopes)


def _worker(source: EventSource, bucket: Bucket, runtime: Runtime, opened_at: int) -> Worker:
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
        opened_at=opened_at,
    )


_RENDERER = Renderer()


async def _in_step(bucket: Bucket) -> bool:
    return all(
        [(await bucket.live_tree.survey(scope)).in_sync for scope in await bucket.reader.scopes()]
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
                {each.id for story in STORIES for each in (*story.before, *story.events)}
            )
        }
    scopes = {
        str(scope): await _scope_account(store, reader, scope) for scope in await reader.scopes()
    }
    return {
        "waits": backlog.events,
        "dead letters": [(each.event_id, each.scope) for each in letters],
        "outcomes": {event_id: lanes for event_id, lanes in outcomes.items() if lanes},
        "scopes": scopes,
    }


async def _scope_account(store: ObjectStore, reader: Reader, scope: Scope) -> dict[str, Any]:
    pointer = (await reader.pointer(scope)).pointer
    await check_history(reader, pointer)
    prefix = layout.live_tree(scope)
    listed = await store.scan(prefix)
    return {
        "live": _told(pointer.live),
        "desired": _told(pointer.desired),
        "numbers": (pointer.highest_revision.producer, pointer.highest_revision.derived),
        "positions": sorted(pointer.positions.values()),
        "held": pointer.hold is not None,
        "explicit": sorted({each.state for each in pointer.retained if each.kind == "explicit"}),
        "live tree": {
            each.key.removeprefix(prefix): hashlib.sha256(
                (await store.get(each.key)).body
            ).hexdigest()
            for each in listed
            if not each.key.endswith(f"/{layout.LIVE_TREE}{layout.MARKER}")
        },
    }


def _told(publication: Publication | None) -> Any:
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
        while not (await live_tree.survey(scope)).in_sync:
            assert time.monotonic() < deadline, f"the live tree of {scope} stays behind"
            await asyncio.sleep(0.05)


async def check_history(reader: Reader, pointer: Pointer) -> None:
    """Sequences have no gap and no repetition, from the first to the pointer's own."""
    sequences = [entry.sequence for entry in await reader.history(pointer)]
    assert sequences == list(range(1, pointer.sequence + 1)), sequences


async def read_whole(
    store: ObjectStore, runtime: Runtime, scope: Scope = GOLDEN, *, retained: bool = True
) -> Pointer | None:
    """Pointer, then the manifest and the archive of all it names (or of live and desired), as a reader does who knows
    nothing yet.

    None while nothing is published. Raises a PublishingError for whatever is not whole.
    """
    reader = Reader(store, runtime)
    try:
        pointer = (await reader.existing(scope)).pointer
    except NotFound:
        return None
    named = (pointer.live, pointer.desired, *(pointer.retained if retained else ()))
    for publication in {str(each.id): each for each in named if each}.values():
        await reader.files(scope, publication)
    return pointer


def normal(account: dict[str, Any]) -> Any:
    """As JSON has it, to be compared across processes."""
    return json.loads(json.dumps(account))
