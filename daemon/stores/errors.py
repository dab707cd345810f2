"""What a store can answer beside yes, branched by what the caller should do."""


class StoreError(Exception):
    """Root of everything a store raises."""


class ObjectMissing(StoreError):
    """There is no object under this key (on AWS also the answer to a replacement of an absent object)."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}")
        self.key = key


class ObjectTooBig(StoreError):
    """Give up: the object is larger than what the caller accepts of it."""

    def __init__(self, key: str, most_bytes: int) -> None:
        super().__init__(f"{key} is larger than {most_bytes:,} bytes, the limit for an object of its kind")
        self.key = key


class ConditionFailed(StoreError):
    """The object is there already, or is not the version the caller knew: read again, then decide.

    From a server this does not prove that the write was lost: it may be the answer to a second sending of a write
    that was applied (object-store protocol: every answer but success is resolved by reading back).
    """


class OutcomeUnknown(StoreError):
    """The write may have been applied, may still be, or may be lost: resolve it by reading back."""


class StoreUnavailable(StoreError):
    """Try again: the store cannot be reached or is overloaded. Nothing was written."""


class StoreBusy(StoreUnavailable):
    """Slow down: too many writes to this key, or requests to this store (429, SlowDown). A wait, not a failure."""


class ObjectDamaged(StoreUnavailable):
    """What came does not fit the store's own checksum, several times in a row: it is damaged where it is stored."""


class StoreRefused(StoreError):
    """The operator must act: no permission, disk full, not a bucket, conditions not honoured."""


class StoreForbidden(StoreRefused):
    """The operator must act: a server answers that the credentials may not do this."""
