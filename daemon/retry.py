"""Repeats work that failed, on the clock and the randomness of a runtime."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeVar

from daemon.runtime import Runtime

T = TypeVar("T")
_MOST_DOUBLINGS: Final = 32
"""A failure may last for weeks: without this limit 2**n would leave the range of floats."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between tries, in seconds. They double, and jitter of ±50 % spreads clients."""

    first: float
    """The pause before the second try."""
    longest: float
    """The longest pause, before jitter."""

    async def wait(self, failed: int, runtime: Runtime) -> None:
        """Wait after `failed` tries in a row have failed; at least 1."""
        pause = min(self.first * 2 ** min(failed - 1, _MOST_DOUBLINGS), self.longest)
        await runtime.sleep(pause * (0.5 + runtime.jitter()))


async def retry(
    work: Callable[[], Awaitable[T]],
    on: type[Exception] | tuple[type[Exception], ...],
    backoff: Backoff,
    runtime: Runtime,
    *,
    tries: int | None = None,
    failed: Callable[[Exception], Awaitable[None]] | None = None,
) -> T:
    """Call `work` until it succeeds, and return its result.

    Args:
        work: the call to repeat.
        on: the errors after which it is repeated. Others are raised at once.
        backoff: the pauses.
        runtime: clock and randomness.
        tries: how often `work` is called at most; None: without a limit.
        failed: awaited with the error before each pause.

    Raises:
        The error of the last try.
    """
    for number in count(1):
        try:
            return await work()
        except on as error:
            if number == tries:
                raise
            if failed is not None:
                await failed(error)
        await backoff.wait(number, runtime)
    raise AssertionError("the loop has no end")
