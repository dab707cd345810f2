"""Measures times fairly on a shared machine.

The participants take turns within each round, so that a slow moment affects all of them. A warm-up
round is discarded. Figures are medians, and a ratio is the median of the ratios of the rounds.
"""

import gc
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Series:
    """All counted rounds of one participant."""

    rounds: tuple[Timing, ...]

    @property
    def cpu(self) -> float:
        """Median."""
        return statistics.median(round_.cpu for round_ in self.rounds)

    @property
    def wall(self) -> float:
        """Median."""
        return statistics.median(round_.wall for round_ in self.rounds)


def ratio(one: Series, other: Series, *, by: str = "cpu") -> float:
    """How many times as long `one` takes as `other`: the median of the ratios of the rounds."""
    pairs = zip(one.rounds, other.rounds, strict=True)
    return statistics.median(getattr(a, by) / getattr(b, by) for a, b in pairs)


Work = Callable[[int], object]
"""Does the job of one round. The number makes each round a different job."""


def in_turn(participants: Mapping[str, Work], rounds: int, *, repeat: int = 1) -> dict[str, Series]:
    """Times of every participant.

    `repeat` calls in a row count as one, for jobs too short for the clock.
    """
    taken: dict[str, list[Timing]] = {name: [] for name in participants}
    for number in range(rounds + 1):
        for name, work in participants.items():
            taken[name].append(_timed(work, number, repeat))
    return {name: Series(tuple(times[1:])) for name, times in taken.items()}


def _timed(work: Work, number: int, repeat: int) -> Timing:
    gc.collect()
    outside = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, wall = time.process_time(), time.perf_counter()
    for again in range(repeat):
        result = work(number * repeat + again)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if isinstance(result, Timing):
        return result
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu += after.ru_utime + after.ru_stime - outside.ru_utime - outside.ru_stime
    return Timing(cpu / repeat, wall / repeat)


def process(*command: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
    """A whole process, from start to end."""
    subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        check=True,
        capture_output=True,
        timeout=600,
    )


def peak_megabytes(code: str) -> float:
    """The largest resident size of a separate Python process that runs `code`."""
    # Not getrusage: its value survives exec, so a child would begin with the size of its parent.
    report = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return int(done.stdout.split()[-1]) / 1024


def machine() -> dict[str, str]:
    """The machine and the versions of the measurement."""
    model = next(
        (
            line.partition(": ")[2]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": f"{model}, {os.cpu_count()} cores",
    }


def cpu_seconds(pid: int) -> float:
    """The CPU that a process has used so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
