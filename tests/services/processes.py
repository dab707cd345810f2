"""Servers as child processes: on free loopback ports, ready before use, stopped afterwards."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.services.availability import Unavailable

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A TCP port that nothing listens on now.

    The kernel assigns ports of clients from 32768 on, so such a port could be taken again before
    the server binds it.
    """
    while True:
        # Not by `random`: pytest-randomly gives every worker the same seed, and so the same ports.
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    port: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    seconds: float = 30,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `command`, once it accepts connections on `port`.

    It leads a separate process group, so that stopping it stops its children and no other process.
    Raises Unavailable with the end of its log when it exits or does not listen in time.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=env, start_new_session=True
        )
    try:
        deadline = time.monotonic() + seconds
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(
                    f"{command[0]} does not listen on {port}: {log.read_text(errors='replace')[-1000:]}"
                )
            time.sleep(0.02)
        yield process
    finally:
        _stop(process)


def listens(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        # The second signal is sent in any case, because children may outlive their leader.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
