"""Servers that must not be published to: they accept conditions and ignore them.

A suite that passes on them proves nothing. So the contract suite and the races run on them, and
must fail (`tests.contract.test_negative_controls`). The servers are wheels, each in a separate
environment. `tests.support.faulty_s3_server` has a server that honours conditions and still loses races.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.services.environments import environment
from tests.services.gcs import Gcs
from tests.services.processes import LOOPBACK, free_port, serving

ACCESS_KEY = "test"
SECRET_KEY = "test"


@contextlib.contextmanager
def nanio(folder: Path) -> Iterator[str]:
    """The address of an S3 server that ignores every condition of a write. Raises Unavailable."""
    port = free_port()
    command = (
        *_program("nanio"),
        "serve",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--data-dir",
        str(folder / "data"),
    )
    keys = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    with serving(command, port, folder / "nanio.log", env=_clean(folder) | keys):
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def localbucket(folder: Path) -> Iterator[str]:
    """The address of an S3 server that honours If-None-Match and ignores If-Match.

    Raises Unavailable.
    """
    port = free_port()
    data = folder / "data"
    data.mkdir()
    command = (*_program("localbucket"), "--host", LOOPBACK, "--port", str(port), str(data))
    with serving(command, port, folder / "localbucket.log", env=_clean(folder)):
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def gcp_storage_emulator(folder: Path) -> Iterator[Gcs]:
    """A GCS server that ignores every precondition. Raises Unavailable."""
    port = free_port()
    command = (
        *_program("gcp-storage-emulator"),
        "start",
        "-H",
        LOOPBACK,
        "--port",
        str(port),
        "-M",
    )
    with serving(command, port, folder / "gcp-storage-emulator.log", env=_clean(folder)):
        yield Gcs(f"http://{LOOPBACK}:{port}")


def _program(name: str) -> tuple[str]:
    return (str(environment(name) / "bin" / name),)


def _clean(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder)}
