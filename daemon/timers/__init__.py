"""Work that the daemon repeats: `every` repeats a job, and each module here has one job."""

from collections.abc import Awaitable, Callable

from daemon.runtime import Runtime


async def every(
    period: float | Callable[[], float],
    runtime: Runtime,
    job: Callable[[], Awaitable[None]],
    *,
    jitter: bool = False,
    wait_first: bool = False,
) -> None:
    """Run `job` until cancelled, with a pause of `period` seconds after each run.

    A callable `period` is asked before each pause, so that a failed job can be retried earlier.
    `jitter` spreads the pauses from half a period to one and a half, so that several daemons do not
    run at once. `wait_first`: pause before the first run, too. An error of `job` ends the
    repetition, so a job has to catch what its next run may repair.
    """
    if not wait_first:
        await job()
    while True:
        seconds = period() if callable(period) else period
        await runtime.sleep(seconds * (0.5 + runtime.jitter()) if jitter else seconds)
        await job()
