"""A Docker Engine: the one that the environment names, or Debian's, started for the tests.

REBUNDLE_DOCKER_HOST names a running engine of this machine (`unix:///var/run/docker.sock`).
DOCKER_HOST counts as well if it answers. Otherwise root starts Debian's `dockerd` with images in
`.cache/engine` of the checkout. All test runs of a checkout share it; it ends with the last one
(`engine_keeper`), also when they are killed.

That engine has namespaces of its own for its network, mounts and processes. So it changes no
firewall rule of this machine, two checkouts do not meet, published ports collide with nothing, and
the kernel removes what a killed engine leaves. It has no way out of this machine: a test cannot
pull an image by mistake. Its containers see a name server that knows no name.
"""

import contextlib
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.services import engine_keeper
from tests.services.availability import Unavailable
from tests.services.tools import tool

CACHE = Path(__file__).parents[2] / ".cache" / "engine"
# Reserved for tests of network devices (RFC 2544), so that no host has a route to it.
_POINT_TO_POINT = ipaddress.ip_network("198.18.0.0/15")
_START_SECONDS = 90
_LIMIT_SECONDS = 300


class EngineFailed(Exception):
    """A command of the Docker client failed; the text has the command and its output."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine.

    `host`: what DOCKER_HOST would be. `client`: a Docker client that it understands. `address`: the
    IPv4 address of the engine's host, which this machine and containers reach; published ports are
    there. `own`: started for the tests, so nobody else's images and containers are in it.
    """

    host: str
    client: Path
    address: str
    own: bool

    @property
    def environment(self) -> dict[str, str]:
        """Variables for clients of this engine, Compose too. Settings of the user do not count."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(CACHE / "home"),
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(CACHE / "home"),
            # Debian has no buildx.
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_ANSI": "never",
        }

    def run(
        self, *words: str | Path, stdin: IO[bytes] | None = None, limit: float = _LIMIT_SECONDS
    ) -> str:
        """What `docker WORDS` prints. Raises EngineFailed, also after `limit` seconds."""
        try:
            done = subprocess.run(
                [self.client, *words],
                env=self.environment,
                stdin=stdin or subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineFailed(f"docker {' '.join(map(str, words))} took over {limit} s") from error
        if done.returncode:
            output = (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace").strip()
            raise EngineFailed(f"docker {' '.join(map(str, words))}: {output}")
        return done.stdout.decode(errors="replace")

    def inspect(self, name: str) -> dict[str, Any]:
        """A container, image, network or volume. Raises EngineFailed."""
        return json.loads(self.run("inspect", name))[0]

    def exists(self, image: str) -> bool:
        """Whether the engine has an image of this name."""
        try:
            self.run("image", "inspect", image)
        except EngineFailed:
            return False
        return True

    def kill(self, container: str, image: str) -> None:
        """Ends the first process of a container by SIGKILL, as the kernel does when memory is
        short.

        `docker kill` would count as a stop by hand: the restart policy does not act on it. `image`
        has a `kill` command.
        """
        process = str(self.inspect(container)["State"]["Pid"])
        self.run(
            *("run", "--rm", "--pid", "host", "--network", "none"),
            *("--entrypoint", "kill", image, "-9", process),
        )

    def clear(self) -> None:
        """Removes every container, network and volume. Only for an engine that is `own`."""
        if containers := self.run("ps", "--all", "--quiet").split():
            self.run("rm", "--force", "--volumes", *containers)
        self.run("network", "prune", "--force")
        self.run("volume", "prune", "--force")


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """The engine, as long as the block runs. Raises Unavailable."""
    (CACHE / "home").mkdir(parents=True, exist_ok=True)
    if named := _named():
        yield named
    else:
        with _own(is_new=True) as started:
            yield started


@contextlib.contextmanager
def rebooted() -> Iterator[Engine]:
    """An own engine that `cut_power` has ended, as its host finds it at the next start: with its
    containers, networks and volumes. Raises Unavailable.
    """
    with _own(is_new=False) as started:
        yield started


def cut_power() -> None:
    """Ends every process of the own engine at once, those of its containers too."""
    users = bytes(CACHE / "users")
    for process in Path("/proc").glob("[0-9]*"):
        # It may have ended meanwhile.
        with contextlib.suppress(OSError):
            # The first process of the namespaces and its parent: the kernel ends all others.
            if users in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def _named() -> Engine | None:
    """The engine in the environment. Raises Unavailable when REBUNDLE_DOCKER_HOST is no engine."""
    for variable in ("REBUNDLE_DOCKER_HOST", "DOCKER_HOST"):
        host = os.environ.get(variable)
        if not host:
            continue
        found = Engine(host, tool("docker", package="docker.io"), "", own=False)
        try:
            (configuration,) = found.inspect("bridge")["IPAM"]["Config"]
        except EngineFailed as error:
            if variable == "DOCKER_HOST":
                continue
            raise Unavailable(
                f"no engine answers at {host}, which {variable} names: {error}"
            ) from error
        return Engine(host, found.client, _first_address(configuration), own=False)
    return None


def _first_address(configuration: Mapping[str, str]) -> str:
    """The address of the engine's host in a network. An engine that has just made its first network
    does not name it.
    """
    first = next(ipaddress.ip_network(configuration["Subnet"]).hosts())
    return configuration.get("Gateway", str(first))


@contextlib.contextmanager
def _own(*, is_new: bool) -> Iterator[Engine]:
    if os.geteuid() != 0:
        raise Unavailable(
            "only root can start an engine: name a running one in REBUNDLE_DOCKER_HOST"
        )
    dockerd = tool("dockerd", package="docker.io")
    for name, package in (("iptables", "iptables"), ("ip", "iproute2"), ("unshare", "util-linux")):
        tool(name, package=package)
    digest = hashlib.sha256(bytes(CACHE)).hexdigest()
    # A socket's path has at most 107 bytes, and the checkout's path may have any length.
    folder = Path("/run") / f"rebundle-engine-{digest[:8]}"
    links = list(_POINT_TO_POINT.subnets(new_prefix=30))
    here, there = links[int(digest[:8], 16) % len(links)].hosts()
    # The client beside the server has its API; another one on the path may be too new for it.
    beside = dockerd.parent.with_name("bin") / "docker"
    client = beside if beside.exists() else tool("docker", package="docker.io")
    started = Engine(f"unix://{folder}/docker.sock", client, str(there), own=True)
    with (CACHE / "users").open("w") as users:
        with (CACHE / "start.lock").open("w") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            # Waits while the keeper of an ending engine holds it exclusively.
            fcntl.flock(users, fcntl.LOCK_SH)
            if not _answers(folder / "docker.sock"):
                _start(dockerd, folder, f"rb{digest[:8]}", str(here), str(there))
                if is_new:
                    # What a killed run has left. Nobody else uses the engine yet.
                    started.clear()
        yield started


def _answers(path: Path) -> bool:
    connection = http.client.HTTPConnection("engine", timeout=10)
    with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as connection.sock:
        try:
            connection.sock.settimeout(10)
            connection.sock.connect(str(path))
            connection.request("GET", "/_ping")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def _start(dockerd: Path, folder: Path, device: str, here: str, there: str) -> None:
    log = CACHE / "dockerd.log"
    alive, held_by_keeper = os.pipe()
    with (
        os.fdopen(alive, "rb", buffering=0) as alive_file,
        os.fdopen(held_by_keeper, "wb") as held_file,
        Path("/proc/self/ns/net").open("rb") as network,
        log.open("wb") as output,
    ):
        arguments = engine_keeper.Arguments(
            dockerd=str(dockerd),
            data=str(CACHE / "data"),
            folder=str(folder),
            users=str(CACHE / "users"),
            network=network.fileno(),
            alive=held_file.fileno(),
            device=device,
            here=here,
            there=there,
        )
        # No child of this process: other test runs may use the engine longer.
        subprocess.run(
            [
                *("setsid", "--fork"),
                *("unshare", "--net", "--mount", "--propagation", "slave"),
                *("--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-P", engine_keeper.__file__, json.dumps(arguments)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(network.fileno(), held_file.fileno()),
            check=True,
        )
        held_file.close()
        os.set_blocking(alive_file.fileno(), False)
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(folder / "docker.sock"):
            # The end of the pipe: no process is left that could write.
            ended = alive_file.read(1) == b""
            if ended or time.monotonic() > deadline:
                tail = log.read_text(errors="replace").strip()[-1500:]
                raise Unavailable(f"dockerd does not start here ({log}): {tail}")
            time.sleep(0.1)
