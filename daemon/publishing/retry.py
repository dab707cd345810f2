"""Repeats writes that a store throttles, and changes of a pointer that another writer moved."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from daemon.publishing.errors import PointerMoved
from daemon.retry import Backoff, retry
from daemon.runtime import Runtime
from daemon.stores.errors import StoreBusy
from renderers.values import Scope

T = TypeVar("T")
_THROTTLED: Final = Backoff(first=0.4, longest=5.0)
_CHANGES: Final = 5


async def while_busy(runtime: Runtime, write: Callable[[], Awaitable[T]], waits: int) -> T:
    """Call `write` until the store accepts it, and return its result (protocol 4).

    The answer "slow down" (429, SlowDown) is not a failure: nothing was written. The same request
    is sent again, under the same condition.

    Raises:
        StoreBusy: the store answered "slow down" more than `waits` times.
    """
    return await retry(write, StoreBusy, _THROTTLED, runtime, tries=1 + waits)


async def while_moved(scope: Scope, change: Callable[[], Awaitable[T]]) -> T:
    """Call `change`, which reads the pointer first, until no other writer is faster.

    There is no pause: each call reads the pointer that has won.

    Raises:
        PointerMoved: other writers were faster five times in a row.
    """
    for _ in range(_CHANGES):
        try:
            return await change()
        except PointerMoved as error:
            moved = error
    raise PointerMoved(
        f"other writers changed {scope} {_CHANGES} times in a row; try again"
    ) from moved
