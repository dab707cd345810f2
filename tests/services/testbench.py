"""Google's emulator of Cloud Storage (googleapis/storage-testbench), on no package registry.

STORAGE_TESTBENCH names the folder of its sources. Their dependencies come from a lock
(`requirements/tools`) with the versions that release 0.45.0 requires. REBUNDLE_TESTBENCH is the
address of a running one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.services.availability import NotGiven, Unavailable
from tests.services.environments import environment
from tests.services.gcs import Gcs
from tests.services.processes import LOOPBACK, free_port, serving

_SERVE = """
import waitress, testbench
from testbench_waitress import testbench_create_server as create
waitress.serve(testbench.run(), _server=create, host={host!r}, port={port}, threads=16)
"""


@contextlib.contextmanager
def testbench(folder: Path) -> Iterator[Gcs]:
    """A server with its log in `folder`.

    Raises NotGiven without a folder of sources, Unavailable if they do not run.
    """
    if address := os.environ.get("REBUNDLE_TESTBENCH"):
        yield Gcs(address)
        return
    named = os.environ.get("STORAGE_TESTBENCH", "")
    if not named:
        raise NotGiven(
            "STORAGE_TESTBENCH does not name a folder with the sources of googleapis/storage-testbench"
        )
    if not (Path(named) / "testbench").is_dir():
        raise Unavailable(
            f"STORAGE_TESTBENCH is {named}, and no googleapis/storage-testbench is there"
        )
    port = free_port()
    command = [
        str(environment("testbench") / "bin" / "python"),
        "-c",
        _SERVE.format(host=LOOPBACK, port=port),
    ]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(Path(named).resolve()),
    }
    with serving(command, port, folder / "testbench.log", env=env):
        yield Gcs(f"http://{LOOPBACK}:{port}")
