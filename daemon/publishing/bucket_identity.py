"""Which bucket this is: an id in it, and the memory of it in the journal (ADR 19).

A bucket whose volume is not mounted looks like an empty one, and a wrong URL leads to somebody else's. What would be
published there would be lost for the hosts that read the right one. So nothing is published to a bucket that is not
the remembered one; events are accepted meanwhile. A copy of a bucket has its id, and is the same bucket here.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import structlog

from daemon.publishing import layout, sizes
from daemon.publishing.documents import parse, serialised
from daemon.publishing.errors import PublishingError, WrongBucket
from daemon.publishing.grammar import timestamp
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

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")

_TRIES: Final = 3
_REMEDY: Final = "to publish to this one from now on, start the daemon once with `rebundle run --new-bucket`"


class Memory(Protocol):
    """Where the id of the bucket is remembered: a journal."""

    async def bucket(self) -> str | None:
        """The remembered id; None before the first."""
        ...

    async def remember_bucket(self, bucket: str) -> None:
        """Remember an id from now on."""
        ...


class BucketCheck(Protocol):
    """Whether this is the bucket to publish to, for those who act on it."""

    async def check(self) -> None:
        """Read the id. Raises WrongBucket; StoreError, EventError: it could not be found out."""
        ...

    async def confirm(self) -> None:
        """As `check`, unless the last one succeeded."""
        ...

    async def reading(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` finds, with a `check` before it begins and one after it ends.

        One check would not be enough: if the volume is mounted again while `read` is under way, a check
        before it, or after it, sees the right bucket although `read` has seen the other one.
        """
        ...


class AnyBucket:
    """Implements `BucketCheck` where no id is remembered."""

    async def check(self) -> None:
        """Accepts the bucket."""

    async def confirm(self) -> None:
        """Accepts the bucket."""

    async def reading(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` finds."""
        return await read()


ANY_BUCKET: Final = AnyBucket()


class BucketIdentity:
    """Implements `BucketCheck` for one store and one memory."""

    def __init__(
        self,
        store: ObjectStore,
        memory: Memory,
        runtime: Runtime,
        *,
        first: float,
        longest: float,
        new_bucket: bool = False,
    ) -> None:
        """`first` and `longest`: seconds between two tries, which double, with jitter. `new_bucket`: forget which
        bucket was published to before, and publish to this one."""
        self._store = store
        self._memory = memory
        self._runtime = runtime
        self._first = first
        self._longest = longest
        self._new_bucket = new_bucket
        self._confirmed = False
        self._forbidden = False
        self._granted = asyncio.Event()
        self.pending: str | None = "the id of the bucket has not been read yet"
        """Why nothing is published, in words for an operator; None: it is."""

    async def granted(self) -> None:
        """Returns once this is the bucket to publish to, or once nobody is permitted to find out."""
        wait = self._first
        while True:
            try:
                await self.check()
                break
            except (PublishingError, StoreError, EventError) as error:
                log.warning("nothing is published until this is the right bucket, tried again", reason=str(error))
            await self._runtime.sleep(wait * (0.5 + self._runtime.jitter()))
            wait = min(2 * wait, self._longest)
        self._granted.set()

    async def until_granted(self) -> None:
        """Returns once `granted` has, without asking the bucket: for the timers that write to it."""
        await self._granted.wait()

    async def confirm(self) -> None:
        """As `check`, unless the last one succeeded."""
        if not self._confirmed:
            await self.check()

    async def reading(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` finds, with a `check` before it begins and one after it ends.

        Raises:
            As `check`, and what `read` raises.
        """
        await self.check()
        found = await read()
        await self.check()
        return found

    async def check(self) -> None:
        """Read the id of the bucket, or give it one if the memory has none.

        Raises:
            WrongBucket: it is not the remembered one.
            StoreError, EventError: it could not be found out.
        """
        try:
            self._confirmed = await self._is_right()
        except (PublishingError, StoreError, EventError) as error:
            self._confirmed = False
            self.pending = str(error)
            raise
        self.pending = None

    async def _is_right(self) -> bool:
        """Whether it is the bucket to publish to for certain; False: not permitted to find out."""
        try:
            await self._resolve()
        except StoreForbidden as error:
            if not self._forbidden:
                log.warning(
                    "publishes without knowing which bucket this is: its id may not be read or created",
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
            found = await bucket_id(self._store)
            if remembered is not None:
                _compare(remembered, found)
                return
            if found is None:
                await self._create()  # read back: another daemon may have been first
                continue
            await self._memory.remember_bucket(found)
            self._new_bucket = False
            log.info("publishes to this bucket from now on", bucket_id=found)
            return
        raise StoreUnavailable(f"{layout.BUCKET} was created and could not be read back: try again")

    async def _create(self) -> None:
        document = {"schema": 1, "id": self._runtime.random_id(), "created_at": timestamp(self._runtime.now())}
        with contextlib.suppress(ConditionFailed, OutcomeUnknown):
            await self._store.create(layout.BUCKET, Content(serialised(document), "application/json"))


async def bucket_id(store: ObjectStore) -> str | None:
    """The id of a bucket; None if it has none.

    Raises:
        WrongBucket: what is there is no id.
    """
    try:
        body = (await store.get(layout.BUCKET, most_bytes=sizes.BUCKET_ID)).body
        found = parse(body)["id"]
    except ObjectMissing:
        return None
    except (ObjectTooBig, ValueError, KeyError, TypeError) as error:
        raise _damaged() from error
    if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{32}", found):
        raise _damaged()
    return found


async def refusal(store: ObjectStore, memory: Memory) -> str | None:
    """Why a daemon with this memory publishes nothing to this bucket; None if it does, or if nobody can tell."""
    remembered = await memory.bucket()
    if remembered is None:
        return None
    try:
        _compare(remembered, await bucket_id(store))
    except WrongBucket as error:
        return str(error)
    except StoreError:
        return None
    return None


def _compare(remembered: str, found: str | None) -> None:
    if found is None:
        raise WrongBucket(
            f"this bucket has no {layout.BUCKET}, and the journal published to bucket {remembered}: is its volume not "
            f"mounted, or the URL wrong? Publishing continues once the right bucket is there; {_REMEDY}"
        )
    if found != remembered:
        raise WrongBucket(
            f"this is bucket {found}, and the journal published to bucket {remembered}: is another volume mounted, or "
            f"the URL wrong? Publishing continues once the right bucket is there; {_REMEDY}"
        )


def _damaged() -> WrongBucket:
    return WrongBucket(
        f"{layout.BUCKET} is damaged, so it is not known which bucket this is: restore it from its newest version or a "
        f"backup; or delete it, and {_REMEDY}"
    )
