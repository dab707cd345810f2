"""The daemon in the environment of deploy/: systemd's notify protocol, credentials, one writable
folder.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services.processes import LOOPBACK, free_port

REBUNDLE = str(Path(sys.executable).with_name("rebundle"))
_LIMIT_SECONDS = 30


@pytest.fixture
def host(tmp_path: Path) -> dict[str, str]:
    """What systemd would set for the process of deploy/rebundle.service."""
    credentials, state = tmp_path / "credentials", tmp_path / "state"
    credentials.mkdir()
    state.mkdir()
    for name in ("http-token", "http-rollback-token"):
        (credentials / name).write_text(f"{name}-0123456789abcdef\n")
        (credentials / name).chmod(0o440)
    return {
        "PATH": os.environ["PATH"],
        "CREDENTIALS_DIRECTORY": str(credentials),
        "REBUNDLE_BUCKET": (state / "bucket").as_uri(),
        "REBUNDLE_JOURNAL__PATH": str(state / "journal.db"),
        "REBUNDLE_HTTP__LISTEN": f"{LOOPBACK}:{free_port()}",
        "STATE_DIRECTORY": str(state),
    }


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(_LIMIT_SECONDS)
        yield server


@contextmanager
def running(env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    log = Path(env["STATE_DIRECTORY"]).with_name("log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [REBUNDLE, "run"], cwd=env["STATE_DIRECTORY"], env=env, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_healthy(env: dict[str, str]) -> bool:
    command = [REBUNDLE, "healthcheck"]
    return (
        subprocess.run(
            command, env=env, capture_output=True, timeout=_LIMIT_SECONDS, check=False
        ).returncode
        == 0
    )


def notified(manager: socket.socket, wanted: str) -> str:
    """The first message that contains `wanted`.

    The socket's timeout ends a wait for a message that never comes.
    """
    while wanted not in (message := manager.recv(4096).decode()):
        pass
    return message


def test_the_daemon_notifies_the_manager_when_it_is_ready_alive_and_stopping(
    host: dict[str, str], manager: socket.socket
) -> None:
    host |= {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1000000"}
    with running(host) as daemon:
        notified(manager, "READY=1")
        healthy = is_healthy(host)
        notified(manager, "WATCHDOG=1")
        daemon.send_signal(signal.SIGTERM)
        notified(manager, "STOPPING=1")

        assert daemon.wait(_LIMIT_SECONDS) == 0
    assert healthy


def test_an_unreachable_daemon_is_not_healthy(host: dict[str, str]) -> None:
    assert not is_healthy(host)


def test_the_daemon_writes_nowhere_but_into_its_state_folder(
    host: dict[str, str], manager: socket.socket, tmp_path: Path
) -> None:
    host |= {
        "NOTIFY_SOCKET": manager.getsockname(),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    (tmp_path / "temporary").mkdir()
    (tmp_path / "home").mkdir()
    with running(host) as daemon:
        notified(manager, "READY=1")
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(_LIMIT_SECONDS)

    assert not any((tmp_path / "temporary").iterdir())
    assert not any((tmp_path / "home").iterdir())
    assert {path.name for path in Path(host["STATE_DIRECTORY"]).iterdir()} >= {"journal.db"}
