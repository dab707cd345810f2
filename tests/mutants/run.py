"""Mutation tests of the pure modules: `make mutants`, or `make mutants MODULE=daemon/batches.py`
for one of them.

mutmut changes one thing of a module at a time and runs the unit tests of that module. A change that
no test notices survives. The table of `docs/mutants.md` gets the figures of each module that ran;
the diffs of the survivors are in `.cache/mutants/<module>/survivors.txt`.

Two tools are maintained. mutmut forks a worker for each mutant from a process that has imported
everything and run nothing, so all caches are empty. cosmic-ray starts a Python for each, which
takes about twenty times as long here. mutmut does not change functions with a decorator
(properties), constants of a module or class, and annotations.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.services.environments import environment

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mutants.md"
WORK = ROOT / ".cache" / "mutants"
_COPIED = ("daemon", "events", "renderers", "tests", "docs")
_MOST_SECONDS = 4 * 3600
_KILLED = {1, 3, 24, -24, 152, 255, 36, -11, -9}
"""Exit codes of a worker whose tests failed, crashed or took too long."""

_GRAMMAR = "tests/unit/daemon/publishing/test_grammar.py"
_GATE = "tests/unit/renderers/gate/test_generated_files.py"
_SELF_TEST = "tests/unit/renderers/test_self_test.py"
_RECOVERY = tuple(
    f"tests/unit/daemon/publishing/maintenance/test_recovery_rules{part}.py"
    for part in ("", "_replay", "_unsigned", "_records")
)
_GOLDEN = "tests/unit/daemon/cli/test_golden_documents.py"


def _commands(*names: str) -> tuple[str, ...]:
    """The tests of commands, and of their JSON."""
    return (*(f"tests/unit/daemon/cli/commands/test_{name}.py" for name in names), _GOLDEN)


MORE_TESTS = {
    "daemon/inspection/pointer_changes.py": _commands("rollback"),
    "daemon/inspection/checks.py": _commands("verify"),
    "daemon/inspection/collection.py": _commands("gc"),
    "daemon/inspection/comparison.py": _commands("diff"),
    "daemon/inspection/escaping.py": _commands("history"),
    "daemon/inspection/history.py": _commands("history"),
    "daemon/inspection/journal.py": _commands("dead_letters", "status"),
    "daemon/inspection/live_tree.py": _commands("status"),
    "daemon/inspection/manifests.py": _commands("show", "status"),
    "daemon/inspection/probe.py": _commands("doctor"),
    "daemon/inspection/scopes.py": _commands("scopes", "states", "show"),
    "daemon/inspection/status.py": _commands("status"),
    "daemon/changes.py": ("tests/unit/daemon/test_events_without_scopes.py",),
    "daemon/used_states.py": (
        "tests/unit/daemon/test_folding.py",
        "tests/unit/daemon/test_pipeline.py",
    ),
    "daemon/failures.py": ("tests/unit/daemon/cli/test_failures.py",),
    "daemon/publishing/trust/freshness.py": (_GRAMMAR,),
    "daemon/publishing/manifest.py": (_GRAMMAR,),
    "daemon/publishing/live_tree/ownership.py": (
        "tests/unit/daemon/publishing/live_tree/test_ownership_markers.py",
    ),
    "daemon/publishing/pointer.py": (
        _GRAMMAR,
        "tests/unit/daemon/publishing/test_operator_commands.py",
    ),
    "daemon/publishing/protocol.py": ("tests/unit/daemon/publishing/test_protocol_changes.py",),
    "daemon/publishing/live_tree/results.py": (
        "tests/unit/daemon/publishing/live_tree/test_sync.py",
        "tests/unit/daemon/publishing/live_tree/test_sync_paths.py",
        "tests/unit/daemon/cli/test_pointer_changes.py",
    ),
    "daemon/publishing/maintenance/recovery_remains.py": _RECOVERY,
    "daemon/publishing/maintenance/recovery_report.py": _RECOVERY,
    "daemon/publishing/maintenance/recovery_rules.py": _RECOVERY[1:],
    "daemon/publishing/signatures.py": (_GRAMMAR,),
    "daemon/publishing/trust/policy.py": (
        "tests/unit/daemon/publishing/trust/test_policy_reasons.py",
    ),
    "renderers/checked.py": (_SELF_TEST,),
    "renderers/yaml_templates.py": (_SELF_TEST, "tests/unit/renderers/test_yaml_emitter.py"),
    "renderers/gate/expectations.py": (_GATE, "tests/unit/renderers/gate/test_diff.py"),
    "renderers/gate/generated_files.py": (_SELF_TEST,),
    "renderers/gate/checks.py": (_GATE, _SELF_TEST),
    "renderers/gate/static_files.py": (_GATE, _SELF_TEST),
}
"""Unit tests of a module beside the one of its name."""
_CALLED_ONCE = {
    "daemon/publishing/grammar.py",
    "renderers/identifiers.py",
    "renderers/self_test.py",
}
"""Functions of these modules run at import, or once because their result is cached. mutmut sees no
test, or one only, that calls them, so their survivors are tested once more.
"""

_CONFIGURATION = """

[tool.mutmut]
source_paths = ["daemon", "events", "renderers"]
only_mutate = ["{module}"]
also_copy = ["docs"]
pytest_add_cli_args = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov",
    "--hypothesis-profile", "mutants"]
process_isolation = "forkserver"
timeout_multiplier = 6
pytest_add_cli_args_test_selection = {tests}
use_git_change_detection = false
track_dependencies = false
"""
_MUTMUT = "import sys; sys.path.append(sys.argv.pop(1)); from mutmut.__main__ import cli; cli()"
_FRESH = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
_DIFFS = """
import sys
sys.path.append(sys.argv.pop(1))
from mutmut.mutation.diff_apply import get_diff_for_mutant
for name in sys.argv[2:]:
    print("#", name, get_diff_for_mutant(name, path=sys.argv[1]), sep="\\n")
"""


class MutationFailed(Exception):
    """mutmut ended without a result. The text says where its output is."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The results for the mutants of one module."""

    module: str
    mutants: int
    killed: int

    def row(self) -> str:
        """The row of the table."""
        share = self.killed / self.mutants if self.mutants else 1
        return f"| `{self.module}` | {self.mutants} | {self.killed} | {share:.1%} |"


def pure_modules() -> Iterator[str]:
    """The files of the import contract for pure modules."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    (contract,) = (item for item in contracts if item["name"].startswith("pure modules"))
    for name in contract["source_modules"]:
        path = name.replace(".", "/")
        if (ROOT / path).is_dir():
            yield from sorted(str(file.relative_to(ROOT)) for file in (ROOT / path).rglob("*.py"))
        else:
            yield f"{path}.py"


def tests_of(module: str) -> list[str]:
    """The unit tests of a module."""
    path = Path(module)
    candidates = (f"tests/unit/{path.parent}/test_{path.name}", *MORE_TESTS.get(module, ()))
    return [candidate for candidate in candidates if (ROOT / candidate).exists()]


def mutate(module: str, *, survivors_only: bool = False, workers: int = 2) -> Figures:
    """Runs the mutants of one module, or with today's tests those that survived before.

    Raises MutationFailed.
    """
    folder = WORK / module.removesuffix(".py").replace("/", ".")
    before = _codes(folder, module) if survivors_only else {}
    names = [name for name, code in before.items() if code not in _KILLED]
    if not survivors_only:
        shutil.rmtree(folder, ignore_errors=True)
    for name in _COPIED:
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    configuration = _CONFIGURATION.format(module=module, tests=json.dumps(tests_of(module)))
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + configuration)
    with (folder / "mutmut.log").open("w") as log:
        _run(_MUTMUT, folder, log, "run", "--max-children", str(workers), *names)
    # mutmut forgets the results of a module when its tests change.
    codes = before | {
        name: code
        for name, code in _codes(folder, module).items()
        if code is not None or not before
    }
    if None in codes.values():
        raise MutationFailed(f"{module}: not all mutants ran, see {folder / 'mutmut.log'}")
    if module in _CALLED_ONCE:
        codes |= {
            name: _tested(folder, module, name)
            for name, code in codes.items()
            if code not in _KILLED
        }
    with (folder / "survivors.txt").open("w") as diffs:
        _run(
            _DIFFS,
            folder,
            diffs,
            module,
            *(name for name, code in codes.items() if code not in _KILLED),
        )
    return Figures(module, len(codes), sum(code in _KILLED for code in codes.values()))


def _codes(folder: Path, module: str) -> dict[str, int | None]:
    """The exit code of each mutant's tests, as mutmut stores them. Raises MutationFailed."""
    try:
        codes: dict[str, int | None] = json.loads(
            (folder / "mutants" / f"{module}.meta").read_text()
        )["exit_code_by_key"]
    except (OSError, ValueError, KeyError) as error:
        raise MutationFailed(f"{module}: no result, see {folder / 'mutmut.log'}") from error
    return codes


def _tested(folder: Path, module: str, name: str) -> int:
    """The exit code of all tests of a module with one mutant, in a process that imports it with
    that mutant.
    """
    arguments = (
        "-x",
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "--hypothesis-profile",
        "mutants",
    )
    with (folder / "fresh.log").open("a") as log:
        return _run(
            _FRESH, folder / "mutants", log, *arguments, *tests_of(module), MUTANT_UNDER_TEST=name
        )


def _run(program: str, folder: Path, output: IO[str], *arguments: str, **variables: str) -> int:
    """The exit code of a program that has mutmut after this project's packages on its path."""
    (packages,) = environment("mutmut").glob("lib/python*/site-packages")
    command = [sys.executable, "-c", program, str(packages), *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        stdout=output,
        stderr=subprocess.STDOUT,
        timeout=_MOST_SECONDS,
        check=False,
    ).returncode


def updated(page: str, figures: Figures) -> str:
    """The page with the row of one module replaced or added; rows are sorted."""
    row = re.compile(r"^\| `(.+?)` \|.*\n", re.MULTILINE)
    rows = {match[1]: match[0] for match in row.finditer(page)} | {
        figures.module: figures.row() + "\n"
    }
    head, rule, rest = page.partition("| --- | --- | --- | --- |\n")
    return head + rule + "".join(rows[module] for module in sorted(rows)) + row.sub("", rest)


def main() -> int:
    """The exit code: 1 if mutmut failed for a module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "modules", nargs="*", help="files; all pure modules that have unit tests, if none is named"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="only those that survived, with today's tests"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="mutants that are tested at the same time"
    )
    options = parser.parse_args()
    failed = False
    for module in options.modules or [module for module in pure_modules() if tests_of(module)]:
        print(f"{module}: tests {' '.join(tests_of(module))} (minutes)", flush=True)
        try:
            figures = mutate(module, survivors_only=options.survivors, workers=options.workers)
        except MutationFailed as error:
            failed = True
            print(error, file=sys.stderr)
        else:
            print(figures.row(), flush=True)
            PAGE.write_text(updated(PAGE.read_text(), figures))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
