"""A real S3 server: versitygw, a Go module that keeps objects as files. For races and for kills.

REBUNDLE_VERSITYGW gives the address of a running server that accepts the keys below; otherwise this
module builds and starts one. The first build takes a minute or two.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.services.goprograms import go_module
from tests.services.processes import LOOPBACK, free_port, serving

MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
ACCESS_KEY = "test"
SECRET_KEY = "test"


@contextlib.contextmanager
def versitygw(folder: Path) -> Iterator[str]:
    """The server's address. Its objects and log go to `folder`, whose file system must support
    extended attributes.

    Raises Unavailable.
    """
    if address := os.environ.get("REBUNDLE_VERSITYGW"):
        yield address
        return
    with _running(folder, "versitygw.log") as address:
        yield address


@contextlib.contextmanager
def versitygw_with_names(folder: Path, domain: str) -> Iterator[str]:
    """The address of a server that also takes a bucket's name from hosts below `domain`.

    Servers with the same folder have the same objects. Raises Unavailable.
    """
    with _running(folder, f"{domain}.log", "--virtual-domain", domain) as address:
        yield address


@contextlib.contextmanager
def _running(folder: Path, log: str, *options: str) -> Iterator[str]:
    objects = folder / "objects"
    objects.mkdir(exist_ok=True)
    port = free_port()
    given = ("--port", f"{LOOPBACK}:{port}", "--access", ACCESS_KEY, "--secret", SECRET_KEY)
    command = [str(go_module(MODULE)), *given, *options, "posix", str(objects)]
    with serving(command, port, folder / log):
        yield f"http://{LOOPBACK}:{port}"
