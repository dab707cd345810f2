"""Errors of object stores. The second base class of each is its consequence.

The object-store rules are in docs/stores.md.
"""

from daemon.consequences import Conflict, Damaged, OperatorActionNeeded, Transient


class StoreError(Exception):
    """Base class of all store errors."""


class ObjectMissing(StoreError, Conflict):
    """Read again: there is no object with this key.

    AWS also gives this answer when an absent object is replaced.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}")
        self.key = key


class ObjectTooBig(StoreError, Damaged):
    """The object is larger than any that Rebundle writes under its key."""

    def __init__(self, key: str, max_bytes: int) -> None:
        super().__init__(
            f"{key} is larger than {max_bytes:,} bytes, the most that it may have here"
        )
        self.key = key


class ConditionFailed(StoreError, Conflict):
    """Read again: the object already exists, or has another version than the caller expected.

    This does not prove that the write had no effect. A server gives the same answer to the second
    sending of a write that it has applied. So every answer except success is resolved by reading
    back (object-store rule 2).
    """


class OutcomeUnknown(StoreError, Transient):
    """Read back: the write may have been applied, may still be applied, or may be lost."""


class StoreUnavailable(StoreError, Transient):
    """Try again: the store is unreachable or overloaded. Nothing was written."""


class StoreBusy(StoreUnavailable):
    """Wait, then try again: the store throttles this key or this client (429, SlowDown)."""


class ObjectDamaged(StoreError, Damaged):
    """Several reads did not match the store's checksum: the stored object is damaged."""


class StoreRefused(StoreError, OperatorActionNeeded):
    """The operator must act: no permission, disk full, no bucket, or conditions ignored."""


class StoreForbidden(StoreRefused):
    """The operator must act: the server denies these credentials the operation."""
