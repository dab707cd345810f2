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
    objects = folder / "objects"
    objects.mkdir()
    port = free_port()
    keys = ("--access", ACCESS_KEY, "--secret", SECRET_KEY)
    command = [str(go_module(MODULE)), "--port", f"{LOOPBACK}:{port}", *keys, "posix", str(objects)]
    with serving(command, port, folder / "versitygw.log"):
        yield f"http://{LOOPBACK}:{port}"
