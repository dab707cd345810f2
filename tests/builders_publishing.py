"""Builds pointers, publications and complete states for tests of publishing, without a renderer."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from daemon.publishing import protocol
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.manifest import Manifest, RenderedState
from daemon.publishing.operator_commands import Operations
from daemon.publishing.pointer import FoldedEvent, Pointer, Publication, Revision
from daemon.publishing.protocol import BatchProgress, Writing
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.signatures import Signer
from daemon.publishing.trust.policy import TrustPolicy
from daemon.runtime import Runtime
from daemon.stores.errors import ObjectMissing
from daemon.stores.port import ObjectStore
from renderers.composition import Composition, RenderDefaults
from renderers.values import RenderedFile, Scope, canonical_json
from tests.builders import composition_document

SCOPE = Scope("visual-anomaly", "core-versions")
AT = "2026-01-01T00:00:00.000Z"


def make_publication(
    state: str = "state-1",
    revision: int = 1,
    *,
    derived: int = 0,
    kind: Literal["explicit", "derived"] = "explicit",
    late: bool = False,
    attempt: str = "",
    composition: str = "",
    pinned: bool = False,
) -> Publication:
    """A publication as in a pointer.

    Unless given, its composition is derived from the name of its state.
    """
    return Publication(
        state=state,
        revision=Revision(producer=revision, derived=derived),
        kind=kind,
        late=late,
        attempt=attempt or f"attempt-of-{state}",
        manifest_sha256="0" * 64,
        composition_digest=composition or hashlib.sha256(state.encode()).hexdigest(),
        renderer="1",
        at=AT,
        pinned=pinned,
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest, in the form in which a publisher writes them."""
    return (canonical_json(manifest.model_dump(mode="json", by_alias=True)) + "\n").encode()


def writing(number: int = 1, *, by: str = "ann", reason: str = "because") -> Writing:
    return Writing(f"write-{number}", f"2026-01-01T00:00:{number % 60:02}.000Z", by, reason)


def progress(
    highest: int = 1,
    derived: int = 0,
    positions: Mapping[str, int] | None = None,
    folded: Iterable[FoldedEvent] = (),
) -> BatchProgress:
    return BatchProgress(Revision(highest, derived), positions or {}, tuple(folded))


def published(*publications: Publication, start: Pointer | None = None) -> Pointer:
    """A pointer after one publish for each publication."""
    pointer = start or protocol.absent(SCOPE)
    for publication in publications:
        highest = max(pointer.highest_revision.producer, publication.revision.producer)
        counters = progress(
            highest, publication.revision.derived, {"journal:1": pointer.sequence + 1}
        )
        pointer = protocol.publish(pointer, writing(pointer.sequence + 1), [publication], counters)
    return pointer


def make_files(text: str = "1", **more: str) -> tuple[RenderedFile, ...]:
    """A small tree with one file of each kind that the live tree distinguishes, and `more` by path."""
    texts = {
        "README.md": f"readme {text}\n",
        "base/.rebundle.json": json.dumps({"state": text}),
        "base/docker-compose.yml": f"services {text}\n",
        "example/conf/bundle/.env": f"# defaults {text}\n",
        "example/creds/s3.env": f"# credentials {text}\n",
    } | more
    files = [RenderedFile(path, body.encode()) for path, body in texts.items()]
    return (
        *files,
        RenderedFile("base/bundle/download.sh", f"exit # {text}\n".encode(), executable=True),
    )


def make_state(
    number: int = 1, *, files: tuple[RenderedFile, ...] | None = None, **fields: Any
) -> RenderedState:
    """An explicit state to be stored."""
    document = composition_document(1)
    document["models"][0]["version"] = str(number)
    given: dict[str, Any] = {
        "composition": Composition.model_validate(document),
        "defaults": RenderDefaults(),
        "state": f"state-{number}",
        "revision": Revision(producer=number),
        "kind": "explicit",
        "late": False,
        "files": make_files(str(number)) if files is None else files,
        "renderer": "1",
        "templates": "0" * 64,
        "events": (),
    }
    return RenderedState(**given | fields)


class Bucket:
    """All objects that work on a store, as in one process."""

    def __init__(
        self,
        store: ObjectStore,
        runtime: Runtime,
        *,
        trust: TrustPolicy | None = None,
        signers: Sequence[Signer] = (),
    ) -> None:
        self.store = store
        self.reader = Reader(store, runtime, trust=trust)
        self.publisher = Publisher(store, self.reader, runtime, signers=signers)
        self.live_tree = LiveTree(store, self.reader, runtime, trusts_markers=trust is None)
        self.operations = Operations(self.reader, self.publisher, self.live_tree)

    async def publish(self, *states: RenderedState) -> PointerRead:
        """One compare-and-swap for each state. The live tree is unchanged."""
        for state in states:
            base = await self.reader.pointer(SCOPE)
            publication = await self.publisher.store_state(SCOPE, state)
            highest = max(base.pointer.highest_revision.producer, state.revision.producer)
            counters = progress(
                highest, state.revision.derived, {"journal:1": base.pointer.sequence + 1}
            )
            following = protocol.publish(
                base.pointer, self.publisher.writing("daemon"), [publication], counters
            )
            read = await self.publisher.swap(SCOPE, base, following)
        return read

    async def pointer(self) -> Pointer:
        return (await self.reader.pointer(SCOPE)).pointer


async def tree(
    store: ObjectStore, prefix: str = f"{SCOPE}/docker-compose-gen/"
) -> dict[str, bytes]:
    """Every object below a prefix, except the marker of the live tree."""
    listed = [entry.key for entry in await store.scan(prefix)]
    bodies = {key.removeprefix(prefix): (await store.get(key)).body for key in listed}
    bodies.pop(".rebundle.json", None)
    return bodies


async def body_of(store: ObjectStore, key: str) -> bytes | None:
    try:
        return (await store.get(key)).body
    except ObjectMissing:
        return None
