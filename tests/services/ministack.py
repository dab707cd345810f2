"""An S3 server for everyday tests: ministack, a wheel.

It starts in under a second and honours conditional writes. It is not for crash tests, because it
tears overwritten objects when it is killed. REBUNDLE_MINISTACK gives the address of a running
server; otherwise this module installs and starts one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.services.environments import environment
from tests.services.processes import LOOPBACK, free_port, serving

ACCESS_KEY = "test"
SECRET_KEY = "test"


@contextlib.contextmanager
def ministack(folder: Path) -> Iterator[str]:
    """The server's address; its log goes to `folder`. Raises Unavailable."""
    if address := os.environ.get("REBUNDLE_MINISTACK"):
        yield address
        return
    port = free_port()
    # By default it listens on every interface.
    settings = {"BIND_HOST": LOOPBACK, "GATEWAY_PORT": str(port), "SERVICES": "s3"}
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [str(environment("ministack") / "bin" / "python"), "-m", "ministack"]
    with serving(command, port, folder / "ministack.log", env=clean | settings):
        yield f"http://{LOOPBACK}:{port}"
