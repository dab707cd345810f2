"""Identifies the bucket: by an id in it, which the journal remembers (ADR 19).

If its volume is not mounted, a bucket looks empty. A wrong URL leads to another bucket. Hosts read
the right bucket, and would never see what is published elsewhere. So nothing is published to a
bucket that is not the remembered one. Events are accepted meanwhile. A copy of a bucket has the
same id, and counts as the same bucket.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from daemon.logs import Logger
from daemon.publishing import layout, sizes
from daemon.publishing.documents import parse, serialised
from daemon.publishing.errors import PublishingError, WrongBucket
from daemon.publishing.grammar import timestamp
from daemon.retry import Backoff, retry
from daemon.runtime import Runtime
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    ObjectTooBig,
    OutcomeUnknown,
    StoreError,
    StoreForbidden,
    StoreUnavailable,
)
from daemon.stores.port import Content, ObjectStore
from events.errors import EventError

log: Final = Logger(__name__)

T = TypeVar("T")

_TRIES: Final = 3
_CHECK_ERRORS: Final = (PublishingError, StoreError, EventError)
_REMEDY: Final = (
    "to publish to this one from now on, start the daemon once with `rebundle run --new-bucket`"
)


class BucketMemory(Protocol):
    """Remembers the id of the bucket. A journal implements it."""

    async def bucket(self) -> str | None:
        """The remembered id; None before the first one."""
        ...

    async def remember_bucket(self, bucket: str) -> None:
        """Remember this id instead of the one before."""
        ...


class BucketCheck(Protocol):
    """Checks that a store is the bucket to publish to, for the code that reads and writes it."""

    async def check(self) -> None:
        """Read the id of the bucket, and compare it.

        Raises:
            WrongBucket: it is not the remembered one.
            StoreError, EventError: the id, or the memory of it, cannot be read.
        """
        ...

    async def confirm(self) -> None:
        """As `check`, if the last one did not succeed; else nothing."""
        ...

    async def reading(self, read: Callable[[], Awaitable[T]]) -> T:
        """Await `read` between two calls of `check`, and return its result.

        One check is not enough. The volume may be unmounted or mounted during `read`: then a check
        only before it, or only after it, sees the right bucket although `read` saw another one.
        """
        ...


class AnyBucket:
    """Implements `BucketCheck` where no id is remembered: it accepts every bucket."""

    async def check(self) -> None:
        """Accepts the bucket."""

    async def confirm(self) -> None:
        """Accepts the bucket."""

    async def reading(self, read: Callable[[], Awaitable[T]]) -> T:
        """Await `read`, and return its result."""
        return await read()


ANY_BUCKET: Final = AnyBucket()


class BucketIdentity:
    """Implements `BucketCheck` for one store and one memory."""

    def __init__(
        self,
        store: ObjectStore,
        memory: BucketMemory,
        runtime: Runtime,
        backoff: Backoff,
        *,
        new_bucket: bool = False,
    ) -> None:
        """Sets up the check, without access to the bucket.

        Args:
            store: the bucket.
            memory: where its id is remembered.
            runtime: clock and random ids.
            backoff: the pauses between the tries of `check_until_granted`.
            new_bucket: replace the remembered id by that of this bucket.
        """
        self._store = store
        self._memory = memory
        self._runtime = runtime
        self._backoff = backoff
        self._new_bucket = new_bucket
        self._confirmed = False
        self._forbidden = False
        self._granted = asyncio.Event()
        self.pending: str | None = "the id of the bucket has not been read yet"
        """Why nothing is published, as a message for operators. None: publishing is allowed."""

    async def check_until_granted(self) -> None:
        """Repeat `check` until it succeeds, which grants publishing.

        It also succeeds if the store forbids reading or creating the id.
        """

        async def failed(error: Exception) -> None:
            log.warning(
                "nothing is published until this is the right bucket, tried again",
                reason=str(error),
            )

        await retry(self.check, _CHECK_ERRORS, self._backoff, self._runtime, failed=failed)
        self._granted.set()

    async def wait_until_granted(self) -> None:
        """Wait until `check_until_granted` has returned, without access to the bucket.

        For the timers that write to the bucket.
        """
        await self._granted.wait()

    async def confirm(self) -> None:
        """As `check`, if the last one did not succeed; else nothing."""
        if not self._confirmed:
            await self.check()

    async def reading(self, read: Callable[[], Awaitable[T]]) -> T:
        """Await `read` between two calls of `check`, and return its result.

        Raises:
            As `check`, and as `read`.
        """
        await self.check()
        result = await read()
        await self.check()
        return result

    async def check(self) -> None:
        """Read the id of the bucket and compare it with the remembered one.

        Without a remembered id, the id of this bucket is remembered. A bucket without an id then
        gets one.

        Raises:
            WrongBucket: it is not the remembered one.
            StoreError, EventError: the id, or the memory of it, cannot be read or written.
        """
        try:
            self._confirmed = await self._is_right()
        except _CHECK_ERRORS as error:
            self._confirmed = False
            self.pending = str(error)
            raise
        self.pending = None

    async def _is_right(self) -> bool:
        """Whether the id was confirmed; False: the store forbids reading or creating it."""
        try:
            await self._resolve()
        except StoreForbidden as error:
            if not self._forbidden:
                log.warning(
                    "publishes without knowing which bucket this is: reading or creating its id "
                    "is forbidden",
                    reason=str(error),
                    hint=f"permit reading and creating {layout.BUCKET} (docs/stores.md)",
                )
            self._forbidden = True
            return False
        self._forbidden = False
        return True

    async def _resolve(self) -> None:
        remembered = None if self._new_bucket else await self._memory.bucket()
        for _ in range(_TRIES):
            current = await bucket_id(self._store)
            if remembered is not None:
                _require_same(remembered, current)
                return
            if current is None:
                await self._create()  # then read back: another daemon may have created it first
                continue
            await self._memory.remember_bucket(current)
            self._new_bucket = False
            log.info("publishes to this bucket from now on", bucket_id=current)
            return
        raise StoreUnavailable(f"{layout.BUCKET} was created and could not be read back: try again")

    async def _create(self) -> None:
        document = {
            "schema": 1,
            "id": self._runtime.random_id(),
            "created_at": timestamp(self._runtime.now()),
        }
        with contextlib.suppress(ConditionFailed, OutcomeUnknown):
            await self._store.create(
                layout.BUCKET, Content(serialised(document), "application/json")
            )


async def bucket_id(store: ObjectStore) -> str | None:
    """The id of a bucket; None if it has none.

    Raises:
        WrongBucket: the object with the id is damaged.
        StoreError: it cannot be read.
    """
    try:
        body = (await store.get(layout.BUCKET, max_bytes=sizes.BUCKET_ID)).body
        identity = parse(body)["id"]
    except ObjectMissing:
        return None
    except (ObjectTooBig, ValueError, KeyError, TypeError) as error:
        raise _damaged_id() from error
    if not isinstance(identity, str) or not re.fullmatch("[0-9a-f]{32}", identity):
        raise _damaged_id()
    return identity


async def refusal(store: ObjectStore, memory: BucketMemory) -> str | None:
    """Why a daemon with this memory publishes nothing to this bucket.

    None: it publishes. It also publishes if the store forbids reading the id.
    """
    remembered = await memory.bucket()
    try:
        current = await bucket_id(store)
        if remembered is not None:
            _require_same(remembered, current)
    except StoreForbidden:
        return None
    except (WrongBucket, StoreError) as error:
        return str(error)
    return None


def _require_same(remembered: str, actual: str | None) -> None:
    """Raises WrongBucket if the ids differ."""
    if actual is None:
        raise WrongBucket(
            f"this bucket has no {layout.BUCKET}, and the journal published to bucket "
            f"{remembered}: is its volume not mounted, or the URL wrong? Publishing continues once "
            f"the right bucket is there; {_REMEDY}"
        )
    if actual != remembered:
        raise WrongBucket(
            f"this is bucket {actual}, and the journal published to bucket {remembered}: is "
            "another volume mounted, or the URL wrong? Publishing continues once the right bucket "
            f"is there; {_REMEDY}"
        )


def _damaged_id() -> WrongBucket:
    return WrongBucket(
        f"{layout.BUCKET} is damaged, so it is not known which bucket this is: restore it from its "
        f"newest version or a backup; or delete it, and {_REMEDY}"
    )
