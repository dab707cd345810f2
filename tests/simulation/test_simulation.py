"""Whoever crashes, whatever is lost: nothing is lost, nothing torn, in every world that a seed makes.

    REBUNDLE_SEED=…   the first seed (by default the day's); CI plays fresh ones every day
    REBUNDLE_SEEDS=…  how many

A seed that failed stands in seeds.txt and is played for ever.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.world import simulate

FIRST = int(os.environ.get("REBUNDLE_SEED") or int(time.time() // 86_400) * 1_000_000)
SEEDS = int(os.environ.get("REBUNDLE_SEEDS", "2000"))
PARTS = 20
FAILED_BEFORE = [
    line.split()[0]
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def _hold(seed):
    run = simulate(seed)
    assert run.broken is None, f"{run.broken}\nreplay: make simulate SEED={seed}"


@pytest.mark.parametrize("part", range(PARTS), ids=lambda part: f"from_{FIRST + part * (SEEDS // PARTS)}")
def test_the_invariants_hold_in_fresh_worlds(part):
    for number in range(SEEDS // PARTS):
        _hold(str(FIRST + part * (SEEDS // PARTS) + number))


@pytest.mark.parametrize("seed", FAILED_BEFORE)
def test_the_invariants_hold_in_every_world_where_they_once_did_not(seed):
    _hold(seed)


_DIGESTS = "from tests.simulation.world import simulate; print([simulate(str(seed)).digest for seed in range(12)])"


def test_a_seed_makes_the_same_world_in_two_processes_with_different_hash_seeds():
    told = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", _DIGESTS],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "77")
    ]
    assert told[0] == told[1]
    assert len(set(eval(told[0]))) == 12
