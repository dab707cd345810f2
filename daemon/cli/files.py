"""Reads the files that the command line names, and writes a rendered tree atomically."""

import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from daemon.cli.failures import OutputUnwritable, UsageError
from daemon.publishing.errors import NotFound
from daemon.stores.directory.filesystem import RealFileSystem
from events.errors import InvalidEvent
from renderers.values import RenderedFile

STDIN: Final = "-"
_MOST_BYTES: Final = 64 << 20


def read_input(name: str) -> bytes:
    """Read a file, or standard input for `-`; at most 64 MiB.

    Raises:
        NotFound: there is no such file.
        UsageError: the file cannot be read or is too large.
    """
    try:
        if name == STDIN:
            body = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as opened:
                body = opened.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        if name.startswith("-"):
            raise UsageError(f"{name} is neither an option nor a file") from error
        raise NotFound(f"there is no file {name}") from error
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    if len(body) > _MOST_BYTES:
        raise UsageError(f"{name} is larger than 64 MiB: check that it is the right file")
    return body


def in_file(name: str, error: InvalidEvent) -> InvalidEvent:
    """The error of a file's content, with the file's name at each problem."""
    return InvalidEvent(
        *(replace(problem, path=f"{name}: {problem.path}") for problem in error.problems)
    )


def check_vacant(directory: Path) -> None:
    """Check that `directory` is absent or empty, so that nothing is overwritten.

    Raises:
        UsageError: it is not.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(f"{directory} is not empty: name a directory that is absent or empty")
    except OSError as error:
        raise UsageError(f"{directory} cannot be read: {error.strerror}") from error


def write_tree(directory: Path, files: Sequence[RenderedFile]) -> None:
    """Write the files below `directory`, which is absent or empty: all of them, or none.

    The files are written to a staging directory, which is then renamed. Files that root writes
    belong to the owner of the parent directory. A user with write access to the parent cannot
    redirect these writes.

    Raises:
        OutputUnwritable: the file system refused; the staging directory is removed.
    """
    fs = RealFileSystem()
    try:
        directory = directory.absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        parent = directory.parent.resolve()
        staged = parent / f".{directory.name}.{secrets.token_hex(8)}"
        fs.mkdir(staged)
        try:
            folders = {staged / parent for file in files for parent in Path(file.path).parents}
            for folder in sorted(folders - {staged}):
                fs.mkdir(folder)
            for file in files:
                fs.write(staged / file.path, file.body, mode=0o777 if file.executable else 0o666)
            fs.rename(staged, parent / directory.name)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    except OSError as error:
        raise OutputUnwritable(f"{directory} cannot be written: {error.strerror}") from error
