"""The port for time, randomness and threads.

Code that decides or publishes uses this port, never the standard library, so that a simulation can
run the real pipeline in virtual time. The import contracts and ruff's banned API enforce this.
"""

from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Runtime(Protocol):
    """Clock, randomness and threads of one process."""

    def now(self) -> datetime:
        """Return the time, in UTC with its zone."""
        ...

    def monotonic(self) -> float:
        """Return the seconds of a clock that never goes back, for ages and limits."""
        ...

    def random_id(self) -> str:
        """Return a random id of 32 hex digits. Ids never repeat."""
        ...

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    async def run_in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking or heavy `work` outside the event loop. Return its result."""
        ...
