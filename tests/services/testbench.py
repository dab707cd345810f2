"""Google's own emulator of Cloud Storage (googleapis/storage-testbench), which is on no package registry.

STORAGE_TESTBENCH names the folder of its sources; they run in an environment of their own. REBUNDLE_TESTBENCH is the
address of a running one.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.services.availability import NotGiven, Unavailable
from tests.services.gcs import Gcs
from tests.services.processes import LOOPBACK, free_port, serving

_CACHE = Path(__file__).parents[2] / ".cache" / "tools"
_LIMIT_SECONDS = 300
_SERVE = """
import waitress, testbench
from testbench_waitress import testbench_create_server as create
waitress.serve(testbench.run(), _server=create, host={host!r}, port={port}, threads=16)
"""


@contextlib.contextmanager
def testbench(folder: Path) -> Iterator[Gcs]:
    """A server with its log in `folder`. Raises NotGiven without a folder of sources, Unavailable if they do not run."""
    if address := os.environ.get("REBUNDLE_TESTBENCH"):
        yield Gcs(address)
        return
    named = os.environ.get("STORAGE_TESTBENCH", "")
    if not named:
        raise NotGiven("STORAGE_TESTBENCH does not name a folder with the sources of googleapis/storage-testbench")
    if not (Path(named) / "testbench").is_dir():
        raise Unavailable(f"STORAGE_TESTBENCH is {named}, and no googleapis/storage-testbench is there")
    port = free_port()
    command = [str(_environment(Path(named)) / "bin" / "python"), "-c", _SERVE.format(host=LOOPBACK, port=port)]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(Path(named).resolve())}
    with serving(command, port, folder / "testbench.log", env=env):
        yield Gcs(f"http://{LOOPBACK}:{port}")


def _environment(sources: Path) -> Path:
    """What it imports, installed as its own project file says; only the sources stay where they are."""
    digest = hashlib.sha256((sources / "pyproject.toml").read_bytes()).hexdigest()[:12]
    folder = _CACHE / f"testbench-{digest}-py{platform.python_version()}"
    ready = folder / ".ready"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "testbench.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not ready.exists():
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            _run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", str(sources.resolve()))
            ready.touch()
    return folder


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command[:4])} took more than {_LIMIT_SECONDS} s") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:4])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
