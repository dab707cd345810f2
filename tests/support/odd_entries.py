"""What can be in the place of a file or a folder of a directory bucket."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final


def a_link_to_a_file(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def a_link_to_a_folder(path: Path) -> None:
    path.symlink_to("/etc")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    # By a short name, for a socket's address is at most 108 bytes.
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/s")
    finally:
        os.close(here)
    path.with_name("s").rename(path)


def an_unreadable_file(path: Path) -> None:
    path.write_bytes(b"secret")
    path.chmod(0)


def an_unreadable_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"1")
    path.chmod(0)


def a_folder_that_may_be_listed_and_not_entered(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"1")
    path.chmod(0o444)


def an_empty_folder(path: Path) -> None:
    path.mkdir()


def a_folder(path: Path) -> None:
    (path / "below").mkdir(parents=True)
    (path / "below/file").write_bytes(b"1")


def a_deep_folder(path: Path) -> None:
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(120):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def a_huge_sparse_file(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def an_empty_file(path: Path) -> None:
    path.touch()


OBSTACLES: Final[list[Callable[[Path], None]]] = [
    a_link_to_a_file,
    a_link_to_a_folder,
    a_link_to_nothing,
    a_link_to_itself,
    a_fifo,
    a_socket,
    an_unreadable_file,
    an_unreadable_folder,
    a_folder_that_may_be_listed_and_not_entered,
    an_empty_folder,
    a_folder,
    a_deep_folder,
    a_huge_sparse_file,
    an_empty_file,
]


SPECIAL: Final = {
    a_link_to_a_file,
    a_link_to_a_folder,
    a_link_to_nothing,
    a_link_to_itself,
    a_fifo,
    a_socket,
}
UNREADABLE_FOLDERS: Final = {an_unreadable_folder, a_folder_that_may_be_listed_and_not_entered}


@contextmanager
def put(path: Path, thing: Callable[[Path], None]) -> Iterator[None]:
    """Has this thing at the path during the block. The block may move it away."""
    thing(path)
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
