"""Time, chance and threads, as one injected value.

Whatever decides or publishes takes these from here, never from the standard library, so that a simulation can run
the real pipeline in virtual time.
"""

from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Runtime(Protocol):
    """What the outside world gives a program beside its data."""

    def now(self) -> datetime:
        """The time, in UTC with its zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for ages and limits."""
        ...

    def token(self) -> str:
        """A random id, 32 hex digits, never the same twice."""
        ...

    def jitter(self) -> float:
        """A random number from 0 to 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    async def offload(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of blocking or heavy `work`, done off the event loop."""
        ...
