"""Makes buckets with real publications, by renderer, publisher and protocol: no daemon needed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from daemon.publishing import layout, protocol
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.manifest import ManifestEvent, RenderedState
from daemon.publishing.operator_commands import Operations
from daemon.publishing.pointer import Pointer, Publication, Revision
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from daemon.stores.directory.filesystem import RealFileSystem
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.port import ObjectStore
from renderers.bundle import RENDERER_VERSION, Renderer
from renderers.composition import Composition, RenderDefaults, Stamp
from renderers.template_set import Templates
from renderers.values import Scope
from tests.builders import GOLDEN_DEFAULTS, make_composition, make_model
from tests.builders_runtime import ThreadRuntime

T = TypeVar("T")
SCOPE = Scope("visual-anomaly", "core-versions")

_renderer = Renderer()


def composition_with(*versions: str) -> Composition:
    """A small composition of SCOPE: models 101, 102, ... with these versions."""
    base = make_composition(1)
    models = tuple(
        make_model(str(101 + index), version=version) for index, version in enumerate(versions)
    )
    return Composition(bundle=base.bundle, models=models, proxy=base.proxy)


@cache
def _files(composition: str, state: str, revision: str, defaults: str) -> Any:
    return _renderer.render(
        Composition.model_validate_json(composition),
        RenderDefaults.model_validate_json(defaults),
        Stamp(state, revision),
    )


class PublishedBucket:
    """All objects that work on one store, and a short way to publish into it."""

    def __init__(self, store: ObjectStore, runtime: Runtime) -> None:
        self.store = store
        self.reader = Reader(store, runtime)
        self.publisher = Publisher(store, self.reader, runtime)
        self.live_tree = LiveTree(store, self.reader, runtime)
        self.operations = Operations(self.reader, self.publisher, self.live_tree)

    async def store_state(
        self,
        composition: Composition,
        state: str,
        revision: Revision,
        *,
        late: bool = False,
        defaults: RenderDefaults = GOLDEN_DEFAULTS,
    ) -> Publication:
        """Upload one state. Nothing references it yet."""
        files = _files(composition.canonical, state, str(revision), defaults.model_dump_json())
        event = ManifestEvent(
            intake="http",
            source="https://registry.example.com/",
            id=f"event-of-{state}",
            type="io.rebundle.bundle_state.created.v1",
            digest="0" * 64,
            instance="journal:11111111-1111-1111-1111-111111111111",
            offset=revision.producer,
        )
        described = RenderedState(
            composition=composition,
            defaults=defaults,
            state=state,
            revision=revision,
            kind="derived" if revision.derived else "explicit",
            late=late,
            files=files,
            renderer=RENDERER_VERSION,
            templates=Templates.built_in().digest,
            events=(event,),
        )
        return await self.publisher.store_state(composition.scope, described)

    async def commit(self, scope: Scope, published: Sequence[Publication]) -> Pointer:
        """Reference the publications in the pointer, and sync the live tree."""
        base = await self.reader.pointer(scope)
        following = protocol.publish(
            base.pointer, self.publisher.writing("rebundle@test"), published
        )
        read = await self.publisher.swap(scope, base, following)
        await self.live_tree.reconcile(scope)
        return read.pointer

    async def publish(
        self, composition: Composition, state: str, revision: int, *, late: bool = False
    ) -> Pointer:
        """One explicit state, committed, with its live tree."""
        publication = await self.store_state(
            composition, state, Revision(producer=revision), late=late
        )
        return await self.commit(composition.scope, [publication])

    async def pointer(self, scope: Scope = SCOPE) -> Pointer:
        """The pointer now."""
        return (await self.reader.existing(scope)).pointer


def in_bucket(path: Path, work: Callable[[PublishedBucket], Awaitable[T]]) -> T:
    """The result of `work` on the directory bucket at `path`, in a new event loop."""

    async def run() -> T:
        with ThreadRuntime() as runtime:
            return await work(
                PublishedBucket(DirectoryStore(path, runtime, RealFileSystem()), runtime)
            )

    return asyncio.run(run())


def pointer(path: Path) -> Pointer:
    """The pointer of SCOPE in the directory bucket at `path`, now."""
    return in_bucket(path, lambda bucket: bucket.pointer())


def live_file(path: Path, name: str) -> Path:
    """A file of SCOPE's live tree in the directory bucket at `path`."""
    return path / layout.live_tree(SCOPE, name)
