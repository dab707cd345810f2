"""The import contracts detect forbidden imports: each of these lines, planted into a copy, breaks a
contract.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLANTS = {
    # a vendor library outside its home
    "renderers/gate/expectations.py": "import ruamel.yaml",
    "renderers/self_test.py": "import ruamel.yaml",
    "renderers/gate/parsers.py": "import jinja2",
    "daemon/http/server.py": "import jinja2",
    "daemon/inspection/scopes.py": "import yaml",
    "daemon/cli/commands/show.py": "import fastapi",
    "daemon/publishing/signatures.py": "import cryptography",
    "daemon/stores/probe.py": "import boto3",
    "daemon/stores/locations.py": "import google",
    "events/schemas.py": "import aiokafka",
    "events/errors.py": "import sqlite3",
    # against the layers, or beside a module of the same layer
    "renderers/pinning.py": "from renderers import gate",
    "renderers/limits.py": "from renderers import bundle",
    "renderers/identifiers.py": "from renderers import images",
    "renderers/images.py": "from renderers import compose",
    "renderers/gate/incremental.py": "from renderers import images",
    "daemon/stores/directory/store.py": "from daemon.stores import s3",
    "daemon/stores/wrappers/timeout.py": "from daemon.stores.wrappers import rate_limit",
    "daemon/cli/commands/pin.py": "from daemon.cli.commands import hold",
    "daemon/publishing/protocol.py": "from daemon.publishing import reader",
    "daemon/inspection/comparison.py": "from daemon import worker",
    "daemon/inspection/live_tree.py": "from daemon.inspection import scopes",
    "daemon/readiness.py": "from daemon import settings",
    "daemon/bucket.py": "from renderers import bundle",
    "daemon/worker.py": "from daemon import bucket",
    "daemon/cli/session.py": "from daemon import service",
    "daemon/changes.py": "from daemon import settings",
    "events/dialects/cloudevents.py": "from daemon import changes",
    "events/journal/lanes.py": "from events.journal import inserts",
    "daemon/stores/directory/tag_file.py": "from daemon.stores.directory import os_errors",
    "daemon/publishing/live_tree/ownership.py": "from daemon.publishing.live_tree import sync",
    "daemon/publishing/maintenance/recovery_remains.py": "from daemon.publishing.maintenance import recovery_rules",
    "daemon/publishing/trust/freshness.py": "from daemon.publishing.trust import policy",
    # I/O, time or randomness in a pure module
    "daemon/publishing/layout.py": "import time",
    "daemon/cli/formatting.py": "import os",
    "daemon/publishing/pointer.py": "import random",
    "daemon/publishing/grammar.py": "import uuid",
    "daemon/folding.py": "import asyncio",
    "renderers/bundle.py": "import threading",
    "renderers/readme.py": "import socket",
}
UNPLACED = ("daemon/extra.py", "daemon/cli/extra.py", "daemon/publishing/extra.py", "daemon/stores/extra.py",
            "daemon/http/extra.py", "renderers/extra.py", "renderers/gate/extra.py", "events/extra.py",
            "events/journal/extra.py", "daemon/publishing/trust/extra.py")  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """The output of import-linter for a copy with every plant."""
    folder = tmp_path_factory.mktemp("planted")
    for name in ("daemon", "events", "renderers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, line in PLANTS.items():
        with (folder / path).open("a") as file:
            file.write(f"\n{line}\n")
    for path in UNPLACED:
        (folder / path).touch()
    lint = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache"],
        cwd=folder,
        env={"PATH": "", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", PLANTS)
def test_an_import_against_the_rules_breaks_a_contract(report, path):
    line = PLANTS[path]
    imported = re.sub(
        r"from (\S+) import (\S+)", r"\1.\2", line.removeprefix("import ")
    ).removesuffix(".yaml")
    module = path.removesuffix(".py").replace("/", ".")
    number = len((ROOT / path).read_text().splitlines()) + 2

    assert re.search(rf"{re.escape(module)} -> {re.escape(imported)}[\w.]* \(l\.{number}\)", report)


@pytest.mark.parametrize("path", UNPLACED)
def test_a_module_without_a_layer_breaks_a_contract(report, path):
    module = path.removesuffix(".py").replace("/", ".")

    assert re.search(rf"^- {re.escape(module)}$", report, re.MULTILINE)
