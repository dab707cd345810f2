"""Edits of an operator in a live tree, and what a pass leaves in it."""

import hashlib

from daemon.publishing import layout
from daemon.publishing.live_tree.ownership import Marker
from daemon.publishing.live_tree.results import FinishedPass
from daemon.stores.errors import ObjectMissing
from daemon.stores.port import Content, ObjectStore
from tests.builders_publishing import SCOPE, Bucket, tree


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def edit(store: ObjectStore, path: str, body: bytes | None) -> None:
    """An operator writes or (None) deletes a file, if it exists, with no tag and no condition."""
    key = layout.live_tree(SCOPE, path)
    try:
        version = (await store.get(key)).version
    except ObjectMissing:
        if body is not None:
            await store.create(key, Content(body))
        return
    if body is None:
        await store.delete(key, version)
    else:
        await store.replace(key, Content(body), version)


async def finished_pass(process: Bucket) -> FinishedPass:
    result = await process.live_tree.reconcile(SCOPE)
    assert isinstance(result, FinishedPass), result
    return result


async def marker_of(store: ObjectStore) -> Marker:
    return Marker.model_validate_json(
        (await store.get(layout.live_tree(SCOPE, layout.MARKER))).body
    )


async def kept(store: ObjectStore) -> set[tuple[str, bytes]]:
    """The path and the bytes of each copy below .rebundle/replaced/, which is named by its digest."""
    copies = await tree(store, layout.all_replaced(SCOPE))
    assert all(key.endswith(f"/{sha256(body)}") for key, body in copies.items())
    return {(key.rpartition("/")[0], body) for key, body in copies.items()}
