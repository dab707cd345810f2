"""The port for time, randomness and threads.

The code that decides or publishes takes them from here, never from the standard library, so that a simulation can run
the real pipeline in virtual time. The import contracts and ruff's banned API enforce this.
"""

from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Runtime(Protocol):
    """Clock, randomness and threads of one process."""

    def now(self) -> datetime:
        """The time, in UTC with its zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for ages and limits."""
        ...

    def random_id(self) -> str:
        """A random id, 32 hex digits, never the same twice."""
        ...

    def jitter(self) -> float:
        """A random number from 0 to 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    async def run_in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of blocking or heavy `work`, done off the event loop."""
        ...
