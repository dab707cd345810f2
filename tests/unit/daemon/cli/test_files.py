"""Writing a tree into a folder as a whole, and reading input files."""

import io
import os

import pytest

from daemon.cli import files
from daemon.cli.failures import CommandError, UsageError
from daemon.cli.files import check_vacant, read_input, write_tree
from daemon.publishing.errors import NotFound
from daemon.stores.directory.filesystem import RealFileSystem
from renderers.values import RenderedFile

FILES = (RenderedFile("base/a", b"1"), RenderedFile("base/b/run.sh", b"2", executable=True))


def test_a_tree_is_written_completely_with_its_modes(tmp_path):
    write_tree(tmp_path / "deep" / "out", FILES)

    assert (tmp_path / "deep/out/base/a").read_bytes() == b"1"
    assert os.access(tmp_path / "deep/out/base/b/run.sh", os.X_OK)
    assert not os.access(tmp_path / "deep/out/base/a", os.X_OK)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()

    write_tree(tmp_path / "out", FILES)

    assert (tmp_path / "out/base/a").exists()


def test_a_failure_leaves_nothing_behind(tmp_path):
    clash = (RenderedFile("base", b"1"), RenderedFile("base/a", b"1"))

    with pytest.raises(CommandError, match="cannot be written"):
        write_tree(tmp_path / "out", clash)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_gets_files_meanwhile_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()

    with pytest.raises(CommandError):
        write_tree(tmp_path / "out", FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_vacant_folder_is_absent_or_empty(tmp_path):
    check_vacant(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    check_vacant(tmp_path / "empty")
    (tmp_path / "file").touch()

    for occupied in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="absent or empty"):
            check_vacant(occupied)


def test_input_comes_from_a_file_or_from_standard_input(tmp_path, monkeypatch):
    (tmp_path / "in").write_bytes(b"x")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"y")))

    assert read_input(str(tmp_path / "in")) == b"x"
    assert read_input("-") == b"y"
    with pytest.raises(NotFound, match="there is no file"):
        read_input(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="Is a directory"):
        read_input(str(tmp_path))


def test_a_link_that_replaces_the_staged_folder_is_not_followed(tmp_path, monkeypatch):
    """A user who may write the parent folder must not be able to redirect writes of root."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    class Swapped(RealFileSystem):
        def mkdir(self, folder):
            super().mkdir(folder)
            if folder.parent == tmp_path:
                folder.rename(tmp_path / "taken away")
                folder.symlink_to(elsewhere)

    monkeypatch.setattr(files, "RealFileSystem", Swapped)
    with pytest.raises(CommandError, match="cannot be written"):
        write_tree(tmp_path / "out", FILES)
    assert list(elsewhere.iterdir()) == []


def test_a_tree_in_a_folder_behind_a_link_is_written_to_the_target(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_tree(tmp_path / "link" / "out", FILES)
    assert (tmp_path / "real/out/base/a").read_bytes() == b"1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_tree_that_root_writes_belongs_to_the_owner_of_the_folder_around_it(tmp_path):
    os.chown(tmp_path, 12345, 12345)
    write_tree(tmp_path / "out", FILES)
    assert {path.stat().st_uid for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))} == {
        12345
    }
