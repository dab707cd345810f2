"""Finds nginx, which routes the calls of a bundle: REBUNDLE_NGINX or the path (Debian: nginx)."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.services.processes import serving
from tests.services.tools import tool

_LIMIT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Nginx:
    """The binary."""

    binary: Path

    def check(self, conf: Path) -> str:
        """The output of `nginx -t` for a configuration; empty if it is valid without a warning."""
        done = self._run(conf, "-t", "-q")
        return done.stderr.strip() or ("" if done.returncode == 0 else f"exit {done.returncode}")

    def reload(self, conf: Path) -> None:
        """Make a running nginx reload its files."""
        self._run(conf, "-s", "reload").check_returncode()

    @contextlib.contextmanager
    def serving(self, conf: Path, port: int) -> Iterator[None]:
        """nginx on this configuration, which listens on `port`. Raises Unavailable."""
        with serving(self._command(conf, "-g", "daemon off;"), port, conf.parent / "nginx.log"):
            yield

    def _run(self, conf: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self._command(conf, *arguments)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )

    def _command(self, conf: Path, *arguments: str) -> list[str]:
        # Its own log of the start, too, because the compiled-in one belongs to root.
        return [
            str(self.binary),
            "-p",
            str(conf.parent),
            "-c",
            str(conf),
            "-e",
            "stderr",
            *arguments,
        ]


def nginx() -> Nginx:
    """The binary. Raises Unavailable."""
    return Nginx(tool("nginx"))
