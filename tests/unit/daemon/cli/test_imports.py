"""A command that only reads imports what it needs: imports are most of the time that it takes."""

import json
import subprocess
import sys

import pytest

NOT_FOR_READING = {
    "daemon.service",
    "daemon.pipeline",
    "daemon.worker",
    "daemon.telemetry",
    "daemon.publishing.maintenance.garbage_collector",
    "daemon.stores.probe",
    "events.schemas",
    "cryptography",
    "fastapi",
    "jinja2",
    "prometheus_client",
    "rich",
    "ruamel",
    "structlog",
    "tenacity",
    "uvicorn",
    "yaml",
}
NOT_FOR_A_POINTER = NOT_FOR_READING | {
    "daemon.publishing.live_tree.sync",
    "daemon.publishing.publisher",
    "daemon.inspection.comparison",
    "events.journal",
    "sqlite3",
}
RUN = """
import json, sys
before = set(sys.modules)  # measuring the coverage of a subprocess imports modules, too
from daemon.cli import app
code = app.run(sys.argv[1:])
print(json.dumps([code, sorted(set(sys.modules) - before)]))
"""


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        (("scopes",), NOT_FOR_A_POINTER),
        (("states", "visual-anomaly/core-versions"), NOT_FOR_A_POINTER),
        (("history", "visual-anomaly/core-versions"), NOT_FOR_A_POINTER),
        (("show", "visual-anomaly/core-versions"), NOT_FOR_READING),
        (("status",), NOT_FOR_READING),
        (("verify", "--all"), NOT_FOR_READING),
        (("diff", "visual-anomaly/core-versions"), NOT_FOR_READING),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_that_only_reads_imports_no_more_than_it_needs(bucket, command, unwanted):
    listed = subprocess.run(
        [sys.executable, "-c", RUN, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, modules = json.loads(listed.stdout.splitlines()[-1])

    assert code == 0
    assert "daemon.publishing.reader" in modules
    assert unwanted.isdisjoint(modules), sorted(unwanted & set(modules))
