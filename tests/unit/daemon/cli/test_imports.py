"""A command that only reads imports neither the running daemon nor renderer nor web framework."""

import json
import subprocess
import sys

HEAVY = {
    "daemon.service",
    "daemon.pipeline",
    "daemon.worker",
    "ruamel",
    "jinja2",
    "fastapi",
    "uvicorn",
}
LIST_SCOPES = """
import json, sys
from daemon.cli import app
code = app.run(["scopes", "--bucket", sys.argv[1]])
print(json.dumps([code, sorted(sys.modules)]))
"""


def test_scopes_imports_no_service(tmp_path):
    listed = subprocess.run(
        [sys.executable, "-c", LIST_SCOPES, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, modules = json.loads(listed.stdout.splitlines()[-1])

    assert code == 0
    assert "daemon.publishing.reader" in modules
    assert HEAVY.isdisjoint(modules)
