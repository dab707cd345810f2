"""Waits out a store that says slow down: a wait, not a failure (protocol 4, never softened 8).

The same request goes out again, under the same condition: nothing was written by the one that was put off.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from daemon.runtime import Runtime
from daemon.stores.errors import StoreBusy

T = TypeVar("T")
_FIRST_SECONDS: Final = 0.4
_LONGEST_SECONDS: Final = 5.0


async def patiently(runtime: Runtime, write: Callable[[], Awaitable[T]], waits: int) -> T:
    """What `write` returns, once the store takes it; between two tries a wait that doubles, with jitter.

    Raises:
        StoreBusy: the store said slow down more than `waits` times.
    """
    for turn in range(waits):
        try:
            return await write()
        except StoreBusy:
            await runtime.sleep(min(_FIRST_SECONDS * 2**turn, _LONGEST_SECONDS) * (0.5 + runtime.jitter()))
    return await write()
