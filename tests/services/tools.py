"""Finds programs on the path that a distribution ships and no wheel has."""

import os
import shutil
from pathlib import Path

from tests.services.availability import Unavailable

SHELLS = {"dash": ("dash",), "busybox": ("busybox", "sh")}
"""The POSIX shells that an image may have as /bin/sh, and the command of each."""


def tool(name: str, *, package: str | None = None) -> Path:
    """The program: the one that REBUNDLE_<NAME> names, or the one on the path.

    Raises Unavailable.
    """
    variable = f"REBUNDLE_{name.upper().replace('-', '_')}"
    # Debian puts servers where only root's path looks.
    found = os.environ.get(variable) or shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if not found:
        raise Unavailable(
            f"{name} is neither in {variable} nor on the path (Debian: apt-get install {package or name})"
        )
    return Path(found)


def shell(name: str) -> tuple[str, ...]:
    """The command that starts one of SHELLS. Raises Unavailable."""
    _, *arguments = SHELLS[name]
    return (str(tool(SHELLS[name][0])), *arguments)
