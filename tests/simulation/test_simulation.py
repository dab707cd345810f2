"""After any crash and any lost request, nothing is lost or torn, in the world of any seed.

    REBUNDLE_SEED=…   the first seed (by default the day's); CI runs new ones every day
    REBUNDLE_SEEDS=…  how many

A seed that failed is recorded in seeds.txt, and every run of the tests includes it.
"""

import inspect
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.bugs import BUGS, planted
from tests.simulation.scenario import SCOPES, Act, Arrival, fresh, model, scenario_of, state
from tests.simulation.store import Crash, Faults
from tests.simulation.world import play, simulate

FIRST = int(os.environ.get("REBUNDLE_SEED") or int(time.time() // 86_400) * 1_000_000)
SEEDS = int(os.environ.get("REBUNDLE_SEEDS", "1000"))
PARTS = 20
MOST_CALLS = 150
FAILED_BEFORE = [
    line.split()[0]
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def _hold(seed):
    run = simulate(seed)
    assert run.broken is None, f"{run.broken}\nreplay: make simulate SEED={seed}"


@pytest.mark.parametrize(
    "part", range(PARTS), ids=lambda part: f"from_{FIRST + part * (SEEDS // PARTS)}"
)
def test_the_invariants_hold_in_fresh_worlds(part):
    for number in range(SEEDS // PARTS):
        _hold(fresh(FIRST + part * (SEEDS // PARTS) + number))


@pytest.mark.parametrize("seed", FAILED_BEFORE)
def test_the_invariants_hold_in_every_world_that_once_broke_them(seed):
    _hold(seed)


_DIGESTS = "from tests.simulation.world import simulate; print([simulate(f'3/{seed}').digest for seed in range(12)])"


def test_a_seed_makes_the_same_world_in_two_processes_with_different_hash_seeds():
    output = [
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
    assert output[0] == output[1]
    assert len(set(eval(output[0]))) == 12


def _crash_scenario(*, by_content, crash=None):
    """Two daemons, interleaved states and models, a rollback and a collection, without any other
    fault.
    """
    scenario = scenario_of("crash-points")
    output = [
        state("event-0", SCOPES[0], "state-1", 1, ("1", "1")),
        state("event-1", SCOPES[0], "state-2", 2, ("2", "1")),
        model("event-2", SCOPES[:1], "102", "2", updated=True),
        state("event-3", SCOPES[0], "state-3", 3, ("1", "2")),
    ]
    arrivals = [
        Arrival(0.5 * number, number % 2, event, (str(SCOPES[0]),), asked)
        for number, (event, asked) in enumerate(output)
    ]
    return replace(
        scenario,
        seed="crash-points",
        by_content=by_content,
        deletes_blindly=False,
        paced=False,
        replicas=2,
        shared_log=False,
        scopes=SCOPES[:1],
        faults=Faults(),
        short_history=True,
        few_retained=False,
        restarted_at_rest=False,
        arrivals=arrivals,
        acts=[
            Act(25.0, "rollback", "rollback-0"),
            Act(30.0, "hold", "hold-0"),
            Act(90.0, "gc", "gc-0"),
        ],
        crash=crash,
    )


@pytest.mark.parametrize("by_content", [False, True], ids=["generations", "etags"])
@pytest.mark.parametrize("process", ["daemon-0.1", "rollback-0", "gc-0"])
def test_a_crash_at_every_single_call_is_repaired_by_the_others(process, by_content):
    """Invariant 11. The pending request arrives, or does not."""
    undisturbed = play(_crash_scenario(by_content=by_content, crash=Crash(process, 0)))
    assert undisturbed.broken is None
    writes = {"create", "replace", "delete"}
    assert writes & set(undisturbed.calls)
    for call, what in enumerate(undisturbed.calls[:MOST_CALLS], 1):
        for applied in (False, True) if what in writes else (False,):
            run = play(_crash_scenario(by_content=by_content, crash=Crash(process, call, applied)))
            assert run.broken is None, (
                f"{process} crashed at call {call}, {what}, applied: {applied}: {run.broken}"
            )


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.rare])
def test_a_planted_bug_is_found(name):
    """Rare ones need more worlds than CI runs: `make simulate-bugs`."""
    assert any(simulate(fresh(number), bug=name).broken for number in range(200)), (
        "no world found it"
    )


@pytest.mark.parametrize("name", BUGS)
def test_the_text_that_a_bug_changes_exists_and_is_restored(name):
    bug = BUGS[name]
    right = inspect.getattr_static(bug.owner, bug.name)
    with planted(name):
        assert inspect.getattr_static(bug.owner, bug.name) is not right
    assert inspect.getattr_static(bug.owner, bug.name) is right


def test_every_bug_and_every_world_is_in_the_table():
    page = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    output = dict(re.findall(r"^\| `([a-z0-9-]+)` \|.*\| (\d+) of \d+ \|", page, re.MULTILINE))
    assert set(output) == set(BUGS), "run `make simulate-bugs`"
    assert "0" not in output.values()
