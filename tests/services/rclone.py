"""rclone, which downloads the models on a target host. From REBUNDLE_RCLONE or the path (Debian: rclone)."""

import os
import shutil
from pathlib import Path

from tests.services.availability import Unavailable


def rclone() -> Path:
    """The binary. Raises Unavailable."""
    found = os.environ.get("REBUNDLE_RCLONE") or shutil.which("rclone")
    if not found:
        raise Unavailable("rclone is neither in REBUNDLE_RCLONE nor on the path (Debian: apt-get install rclone)")
    return Path(found)


def shells() -> dict[str, tuple[str, ...]]:
    """The POSIX shells of this machine that an image of rclone may have as /bin/sh, by name."""
    known = {"dash": ("dash",), "busybox": ("busybox", "sh")}
    return {name: command for name, command in known.items() if shutil.which(command[0])}
