"""Reads what a person names on the command line, and writes a rendered tree.

A tree appears under its name at once and whole, or not at all.
"""

import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daemon.cli.failures import CommandError, UsageError
from daemon.stores.directory.filesystem import RealFileSystem
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


def write_tree(directory: Path, files: Sequence[RenderedFile]) -> None:
    """Write the files below `directory`, which is absent or empty. What root writes belongs to the owner of the folder
    around it, and whoever may write that one cannot make root write anywhere else.

    Raises:
        CommandError: the file system does not let us; nothing is left behind.
    """
    fs = RealFileSystem()
    try:
        directory = directory.absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        parent = directory.parent.resolve()
        staged = parent / f".{directory.name}.{secrets.token_hex(8)}"
        fs.mkdir(staged)
        try:
            folders = {staged / each for file in files for each in Path(file.path).parents} - {staged}
            for folder in sorted(folders):
                fs.mkdir(folder)
            for file in files:
                fs.write(staged / file.path, file.body, mode=0o777 if file.executable else 0o666)
            fs.rename(staged, parent / directory.name)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    except OSError as error:
        raise CommandError(f"{directory} cannot be written: {error.strerror}") from error
