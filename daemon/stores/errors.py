"""Errors of object stores, one class for each reaction of the caller.

The object-store rules are in docs/stores.md.
"""


class StoreError(Exception):
    """Base class of all store errors."""


class ObjectMissing(StoreError):
    """There is no object with this key.

    AWS also gives this answer when an absent object is replaced.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}")
        self.key = key


class ObjectTooBig(StoreError):
    """Do not retry: the object is larger than the caller accepts."""

    def __init__(self, key: str, max_bytes: int) -> None:
        super().__init__(
            f"{key} is larger than {max_bytes:,} bytes, the limit for an object of its kind"
        )
        self.key = key


class ConditionFailed(StoreError):
    """Read again: the object already exists, or has another version than the caller expected.

    This does not prove that the write had no effect. A server gives the same answer to the second
    sending of a write that it has applied. So every answer except success is resolved by reading
    back (object-store rule 2).
    """


class OutcomeUnknown(StoreError):
    """Read back: the write may have been applied, may still be applied, or may be lost."""


class StoreUnavailable(StoreError):
    """Try again: the store is unreachable or overloaded. Nothing was written."""


class StoreBusy(StoreUnavailable):
    """Wait, then try again: the store throttles this key or this client (429, SlowDown)."""


class ObjectDamaged(StoreUnavailable):
    """Several reads did not match the store's checksum: the stored object is damaged."""


class StoreRefused(StoreError):
    """The operator must act: no permission, disk full, no bucket, or conditions ignored."""


class StoreForbidden(StoreRefused):
    """The operator must act: the server denies these credentials the operation."""
