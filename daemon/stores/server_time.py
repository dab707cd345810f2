"""What time a store has: read off an object that is written for that, and removed again.

How old objects are is told by the store's clock, so whoever judges by ages asks for that clock, too; this machine's may
be days ahead. The object lies beside the probe's, where whoever publishes may create and delete. Who may not delete
leaves it there, to the bucket's rule for what a probe has left.
"""

import contextlib
from datetime import datetime

from daemon.stores.errors import ConditionFailed, OutcomeUnknown, StoreError, StoreUnavailable
from daemon.stores.port import Content, ObjectStore
from daemon.stores.probe import PREFIX


async def store_time(store: ObjectStore, token: str) -> datetime:
    """A moment of the store's clock between this call and its return. `token` is random, and never given twice.

    Raises:
        StoreUnavailable: it was not written, or its answer was lost on the way; try again.
    """
    key = f"{PREFIX}clock-{token}"
    # A lost answer, or one's own success seen as a failure: what counts is whether it is there.
    with contextlib.suppress(ConditionFailed, OutcomeUnknown):
        await store.create(key, Content(b"what time is it\n", "text/plain"))
    written = next((each for each in await store.scan(key) if each.key == key), None)
    if written is None:
        raise StoreUnavailable(f"the store's clock could not be read, {key} was not stored; it is tried again")
    with contextlib.suppress(StoreError):
        await store.delete(key, written.version)
    return written.modified
