"""Reads the object store's clock, from the time of an object that is written for this purpose.

The ages of objects are by the store's clock, so code that compares ages needs the time of the same
clock. The clock of this machine may be days ahead. The object is next to those of the probe, where
every publisher may create and delete. Without delete permission the object stays, until the
bucket's lifecycle rule for objects of the probe removes it.
"""

import contextlib
from datetime import datetime

from daemon.stores.errors import ConditionFailed, OutcomeUnknown, StoreError, StoreUnavailable
from daemon.stores.port import Content, ObjectStore
from daemon.stores.probe import PREFIX


async def store_time(store: ObjectStore, token: str) -> datetime:
    """Return a time of the store's clock between this call and its return.

    `token` is random and must not be reused.

    Raises:
        StoreUnavailable: the object was not written, or the answer was lost; try again.
    """
    key = f"{PREFIX}clock-{token}"
    # The answer may be lost, or report a failure for the second sending of a write that was
    # applied. Only the listing shows whether the object exists.
    with contextlib.suppress(ConditionFailed, OutcomeUnknown):
        await store.create(key, Content(b"what time is it\n", "text/plain"))
    written = next((listed for listed in await store.scan(key) if listed.key == key), None)
    if written is None:
        raise StoreUnavailable(
            f"the store's clock could not be read: {key} was not stored; this is retried"
        )
    with contextlib.suppress(StoreError):
        await store.delete(key, written.version)
    return written.modified
