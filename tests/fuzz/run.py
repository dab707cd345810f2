"""Coverage-guided fuzzing of every parser: `make fuzz MINUTES=20`, optionally with the name of one
target.

Atheris is in a separate environment (`requirements/tools/atheris.lock`). Each target runs in a
separate process, with the corpus of the repository and the inputs that earlier runs found in
`.cache/fuzz`. An input that shows a fault is kept in `.cache/fuzz/faults`: put it into the corpus,
and `test_corpus` fails until the parser is right.
"""

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS
from tests.services.environments import environment

ROOT = Path(__file__).parents[2]
FOUND = ROOT / ".cache" / "fuzz"
FAULTS = FOUND / "faults"
_MOST_SECONDS_FOR_ONE_INPUT = 10
_MOST_MEGABYTES = 2048
_LONGEST_INPUT = 64 << 10


@dataclass(frozen=True, slots=True)
class Result:
    """The result for one target."""

    target: str
    inputs: int
    coverage: int
    fault: str
    """The end of its output; empty if there was none."""


def fuzz(name: str, seconds: int) -> Result:
    """Runs one target for so many seconds, or until its first fault."""
    found = FOUND / name
    for folder in (found, FAULTS):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = [
        *(
            "-print_final_stats=1",
            f"-max_total_time={seconds}",
            f"-timeout={_MOST_SECONDS_FOR_ONE_INPUT}",
        ),
        *(
            f"-rss_limit_mb={_MOST_MEGABYTES}",
            f"-max_len={_LONGEST_INPUT}",
            f"-artifact_prefix={FAULTS}/{name}-",
        ),
        *(str(found), str(CORPUS / name)),
    ]
    (packages,) = environment("atheris").glob("lib/python*/site-packages")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.instrumented", name, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 120,
        check=False,
    )
    covered = [int(number) for number in re.findall(r"\bcov: (\d+)", done.stderr)]
    executed = re.findall(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    lines = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not line.startswith(("INFO:", "#", "stat::"))
    ]
    fault = "\n".join(lines[-40:]) if done.returncode else ""
    return Result(name, int(executed[-1]) if executed else 0, max(covered, default=0), fault)


def main() -> int:
    """The exit code: 1 if any target has a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all, if none is named")
    parser.add_argument("--minutes", type=float, default=5, help="for all targets together")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    seconds = max(1, round(options.minutes * 60 / len(names)))
    print(
        f"{len(names)} targets, {seconds} s each\n\n| target | inputs | coverage | fault |\n| --- | --- | --- | --- |"
    )
    results = []
    for name in names:
        result = fuzz(name, seconds)
        print(
            f"| {name} | {result.inputs:,} | {result.coverage} | {'yes' if result.fault else ''} |",
            flush=True,
        )
        results.append(result)
    faults = [result for result in results if result.fault]
    for result in faults:
        print(f"\n{result.target}:\n{result.fault}", file=sys.stderr)
    if faults:
        print(
            f"\nThe inputs are in {FAULTS}. To keep one as a test: cp FILE {CORPUS}/TARGET/NAME",
            file=sys.stderr,
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
