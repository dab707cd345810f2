"""Runs many worlds on all cores, or one with a complete trace.

`make simulate` and `make simulate-bugs` use it.

    python -m tests.simulation.run --seeds 10000 [--first 1]
    python -m tests.simulation.run --seed 2/17 [--bug blind-retry]    its trace
    python -m tests.simulation.run --bugs 500                         the table of docs/simulation.md
"""

import argparse
import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.simulation.bugs import BUGS
from tests.simulation.scenario import fresh
from tests.simulation.world import simulate

_PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"
_BEGIN, _END = "<!-- bugs -->\n", "<!-- /bugs -->\n"
_AT_ONCE = 50
_MORE_FOR_RARE = 5


def _some(seeds: range) -> tuple[int, int, float, list[tuple[str, str]]]:
    """Worlds, changes of pointers, seconds of CPU, and violations."""
    began = time.process_time()
    runs = [simulate(fresh(seed)) for seed in seeds]
    broken = [(run.seed, run.broken) for run in runs if run.broken is not None]
    return len(runs), sum(run.changes for run in runs), time.process_time() - began, broken


def _collect_seldom() -> None:
    """The garbage of a world is small and the caches of all worlds are large: scanning them costs a
    tenth of the time.
    """
    gc.set_threshold(50_000)


def _worlds(first: int, seeds: int) -> int:
    """Run so many worlds. Returns how many were broken."""
    parts = [
        range(at, min(at + _AT_ONCE, first + seeds)) for at in range(first, first + seeds, _AT_ONCE)
    ]
    played = changes = failed = 0
    cpu, began, reported = 0.0, time.monotonic(), 0.0
    with ProcessPoolExecutor(initializer=_collect_seldom) as pool:
        for runs, some, seconds, broken in pool.map(_some, parts):
            played, changes, cpu, failed = (
                played + runs,
                changes + some,
                cpu + seconds,
                failed + len(broken),
            )
            for seed, what in broken:
                print(f"world {seed}: {what}\n  replay: make simulate SEED={seed}", flush=True)
            if time.monotonic() - reported > 10 or played == seeds:
                reported = time.monotonic()
                rate = played / (reported - began)
                print(
                    f"{played} worlds from {first}, {failed} broken, {changes} changes of pointers; "
                    f"{1000 * cpu / played:.1f} ms of CPU each, {rate:.0f} a second",
                    flush=True,
                )
    return failed


def _one(seed: str, bug: str | None) -> int:
    run = simulate(seed, bug=bug, traced=True)
    print("\n".join(run.trace))
    print(f"world {seed}: {run.broken or 'every invariant holds'}; trace {run.digest[:16]}")
    return run.broken is not None


def _found(seeds: int, bug: str) -> tuple[str, int]:
    """In how many of so many worlds this bug causes a violation."""
    return bug, sum(simulate(seed, bug=bug).broken is not None for seed in _worlds_for(bug, seeds))


def _worlds_for(bug: str, seeds: int) -> list[str]:
    return [fresh(seed) for seed in range(seeds * (_MORE_FOR_RARE if BUGS[bug].rare else 1))]


def _bugs(seeds: int) -> int:
    """Write the table. Returns how many bugs were never found."""
    rows: list[str] = []
    never = 0
    with ProcessPoolExecutor() as pool:
        for name, found in pool.map(partial(_found, seeds), BUGS):
            never += not found
            share = f"{found} of {len(_worlds_for(name, seeds))}"
            rows.append(f"| `{name}` | {BUGS[name].what} | {share} |\n")
            print(f"{name}: {share}", flush=True)
    head = "| bug | what it does | worlds that find it |\n| --- | --- | ---: |\n"
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _PAGE.write_text(before + _BEGIN + head + "".join(rows) + _END + after)
    return never


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2_000, help="how many worlds")
    parser.add_argument(
        "--first", type=int, default=int(time.time() // 86_400) * 1_000_000, help="the first seed"
    )
    parser.add_argument("--seed", help="one world, with its trace")
    parser.add_argument("--bug", choices=sorted(BUGS), help="planted in that one")
    parser.add_argument(
        "--bugs", type=int, metavar="WORLDS", help="plant each bug into so many worlds"
    )
    asked = parser.parse_args()
    os.environ.setdefault("PYTHONWARNINGS", "error")
    if asked.seed is not None:
        return _one(asked.seed, asked.bug)
    return min(1, _bugs(asked.bugs) if asked.bugs else _worlds(asked.first, asked.seeds))


if __name__ == "__main__":
    sys.exit(main())
