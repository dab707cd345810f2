"""Docker Compose's own binary. Without an engine, `config` reads and merges like `up`.

EDITIONS have `config`: the oldest and the newest release that is available as a wheel, and our front
end to the loader library of 2.22, the oldest release that a bundle supports. ENGINE_EDITIONS act on
an engine: both wheels, 2.22.0 itself, and the last release of 2. Go builds these two, once, in about
two minutes each.

REBUNDLE_COMPOSE_2_22, REBUNDLE_COMPOSE_OLDEST, REBUNDLE_COMPOSE_NEWEST, REBUNDLE_COMPOSE_2_22_0 and
REBUNDLE_COMPOSE_2_40_3 name others.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.services.environments import environment
from tests.services.goprograms import go_command, go_program

Edition = Literal["2.22", "oldest", "newest"]
EDITIONS: tuple[Edition, ...] = ("2.22", "oldest", "newest")
EngineEdition = Literal["2.22.0", "2.40.3", "oldest", "newest"]
ENGINE_EDITIONS: tuple[EngineEdition, ...] = ("2.22.0", "2.40.3", "oldest", "newest")
_FROM_SOURCE = {
    "2.22.0": "h1:3rRz4L7tPU75wRsV8JZh2/aTgerQvPa1cpzZN+tHqUY=",
    "2.40.3": "h1:XeYkQu1svDtyfZPv5nTwFryQ25ZJMkIlc4pz9HalMPI=",
}
"""The checksum of each release's Go module."""
_LIMIT_SECONDS = 120


class ConfigRefused(Exception):
    """Compose does not accept the project; the text is its output."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command printed on both streams, in that order, and its exit code."""

    code: int
    text: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Compose:
    """One release of the binary."""

    binary: Path

    def config(self, directory: Path, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The project as `up` would see it. Raises ConfigRefused."""
        return json.loads(self._run(directory, env or {}, "--format", "json"))

    def accepts(self, directory: Path) -> bool:
        """Whether the project in `directory` is valid."""
        try:
            self._run(directory, {}, "--quiet")
        except ConfigRefused:
            return False
        return True

    def hashes(self, directory: Path) -> dict[str, str]:
        """By service, the hash whose change makes `up` recreate its container."""
        lines = self._run(directory, {}, "--hash", "*").splitlines()
        return dict(line.split(" ", 1) for line in lines if line)

    def command(
        self,
        directory: Path,
        *words: str,
        env: Mapping[str, str],
        limit: float = _LIMIT_SECONDS,
    ) -> Output:
        """What `docker compose WORDS` does in `directory`, with no other variables than `env`.

        Raises subprocess.TimeoutExpired after `limit` seconds.
        """
        done = subprocess.run(
            [str(self.binary), *words],
            cwd=directory,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        return Output(done.returncode, done.stdout + done.stderr, done.stdout)

    def _run(self, directory: Path, env: Mapping[str, str], *arguments: str) -> str:
        # Nothing of the caller's environment: a SERVING_… or REL_DIR set there would override the
        # files.
        clean = {"PATH": os.environ["PATH"], "HOME": str(directory)} | dict(env)
        done = subprocess.run(
            [str(self.binary), "config", *arguments],
            cwd=directory,
            env=clean,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise ConfigRefused(done.stderr.strip())
        return done.stdout


def compose(edition: Edition | EngineEdition) -> Compose:
    """One of EDITIONS or ENGINE_EDITIONS. Raises Unavailable."""
    if named := os.environ.get(f"REBUNDLE_COMPOSE_{edition.upper().replace('.', '_')}"):
        return Compose(Path(named))
    if edition == "2.22":
        return Compose(go_program("compose_loader"))
    if checksum := _FROM_SOURCE.get(edition):
        module = f"github.com/docker/compose/v2@v{edition}"
        return Compose(go_command(module, "./cmd", checksum))
    return Compose(environment(f"compose-{edition}") / "bin" / "docker-compose")
