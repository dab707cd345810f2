"""Reads what a person names on the command line, and writes a rendered tree.

A tree appears under its name at once and whole, or not at all.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from daemon.cli.failures import CommandError, UsageError
from renderers.model import RenderedFile

STDIN: Final = "-"
_MOST_BYTES: Final = 64 << 20


def read_input(name: str) -> bytes:
    """The bytes of a file, or of standard input for `-`; at most 64 MiB.

    Raises:
        UsageError: it cannot be read, or is too big.
    """
    try:
        if name == STDIN:
            body = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as opened:
                body = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    if len(body) > _MOST_BYTES:
        raise UsageError(f"{name} is over 64 MiB: is it the right file?")
    return body


def check_vacant(directory: Path) -> None:
    """Refuse a folder that has something in it.

    Raises:
        UsageError: nothing is ever written over.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(f"{directory} is not empty: name a folder that is absent or empty")
    except OSError as error:
        raise UsageError(f"{directory} cannot be looked at: {error.strerror}") from error


def write_tree(directory: Path, files: Iterable[RenderedFile]) -> None:
    """Write the files below `directory`, which is absent or empty.

    Raises:
        CommandError: the file system does not let us; nothing is left behind.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            for file in files:
                _write(staged / file.path, file)
            umask = os.umask(0)
            os.umask(umask)
            staged.chmod(0o777 & ~umask)
            staged.rename(directory)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    except OSError as error:
        raise CommandError(f"{directory} cannot be written: {error.strerror}") from error


def _write(path: Path, file: RenderedFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.body)
    if file.executable:
        path.chmod(path.stat().st_mode | 0o111)
