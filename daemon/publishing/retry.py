"""Repeats a write to a store that answers "slow down" (protocol 4, never softened 8).

Such an answer causes a wait and is not a failure. The same request is sent again, under the same
condition: the store wrote nothing for the one that it refused.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from daemon.runtime import Runtime
from daemon.stores.errors import StoreBusy

T = TypeVar("T")
_FIRST_SECONDS: Final = 0.4
_LONGEST_SECONDS: Final = 5.0


async def patiently(runtime: Runtime, write: Callable[[], Awaitable[T]], waits: int) -> T:
    """Call `write` until the store accepts it, and return its result.

    The wait between two tries doubles, up to a limit, with jitter.

    Raises:
        StoreBusy: the store answered "slow down" more than `waits` times.
    """
    for attempt in range(waits):
        try:
            return await write()
        except StoreBusy:
            await runtime.sleep(
                min(_FIRST_SECONDS * 2**attempt, _LONGEST_SECONDS) * (0.5 + runtime.jitter())
            )
    return await write()
