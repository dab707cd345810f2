"""Runs `dockerd` as long as anybody holds the file of its users, then stops it (`engine`).

It is the first process of its namespaces, so every process of the engine ends with it. It uses the
standard library only, because it is started as a file.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TypedDict

_STOP_SECONDS = 20
_HEADER_BYTES = 12


class Arguments(TypedDict):
    """`data`: what is kept. `folder`: what is not. `users`: the file that users hold.

    `network`: a descriptor of the network namespace of the tests. `alive`: a descriptor that is
    open as long as the engine runs. `device`, `here`, `there`: the name of the link on the side of
    the tests, and the addresses of both sides.
    """

    dockerd: str
    data: str
    folder: str
    users: str
    network: int
    alive: int
    device: str
    here: str
    there: str


def main(arguments: Arguments) -> None:
    """Returns when the engine has ended."""
    folder = Path(arguments["folder"])
    # Includes the pid file of a killed engine, whose number would be that of a process here.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / "daemon.json").write_text("{}")
    _link(arguments)
    # dockerd would use a containerd of this machine, which is outside of the namespaces.
    Path("/run/containerd").mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "tmpfs", "/run/containerd")
    server = subprocess.Popen(
        [
            arguments["dockerd"],
            *("--data-root", arguments["data"], "--exec-root", str(folder / "exec")),
            *("--pidfile", str(folder / "docker.pid"), "--host", f"unix://{folder}/docker.sock"),
            *("--config-file", str(folder / "daemon.json"), "--log-level", "warn"),
            *("--dns", arguments["there"]),
        ],
        stdin=subprocess.DEVNULL,
    )
    threading.Thread(target=_stop_when_unused, args=(arguments["users"], server.pid)).start()
    threading.Thread(target=_know_no_name, args=(arguments["there"],)).start()
    # Orphans of the whole namespace become children of this process.
    ended = 0
    while ended != server.pid:
        ended, _ = os.waitpid(-1, 0)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # The threads still wait.


def _stop_when_unused(users: str, server: int) -> None:
    # Held until this process has ended, so that no engine is started meanwhile.
    with Path(users).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, how)
            threading.Event().wait(_STOP_SECONDS)


def _know_no_name(address: str) -> None:
    """Answers every DNS query with NXDOMAIN, as a name server outside does for a service's name.

    Docker's own server asks it for names that no container has. Without an answer from it, this
    release of the engine gives none either, and clients wait until their time is up.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            query, asker = server.recvfrom(4096)
            end = _HEADER_BYTES
            while end < len(query) and query[end]:
                end += query[end] + 1
            question = query[_HEADER_BYTES : end + 5]
            counts = b"\0\1\0\0\0\0\0\0"
            server.sendto(query[:2] + b"\x81\x83" + counts + question, asker)


def _link(arguments: Arguments) -> None:
    """Connects both network namespaces by a pair of devices."""
    network = f"/proc/self/fd/{arguments['network']}"
    outside = ("nsenter", f"--net={network}")
    device, kept = arguments["device"], (arguments["network"],)
    # The kernel may take a moment to remove the one of a killed engine.
    with contextlib.suppress(subprocess.CalledProcessError):
        _run(*outside, "ip", "link", "delete", device, kept=kept)
    _run("ip", "link", "set", "lo", "up")
    _run(*("ip", "link", "add", "outside", "type", "veth", "peer", "name", device))
    _run("ip", "link", "set", device, "netns", network, kept=kept)
    _run("ip", "address", "add", f"{arguments['there']}/30", "dev", "outside")
    _run("ip", "link", "set", "outside", "up")
    _run(*outside, "ip", "address", "add", f"{arguments['here']}/30", "dev", device, kept=kept)
    _run(*outside, "ip", "link", "set", device, "up", kept=kept)


def _run(*command: str, kept: tuple[int, ...] = ()) -> None:
    subprocess.run(command, check=True, pass_fds=kept)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
