"""An editor that saves at the worst moment: between the store's last check of a file and its
rename.

The editor acts just before a call of the file-system port, which is the latest possible moment, and
repeatedly.
"""

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from daemon.stores.directory.filesystem import RealFileSystem
from daemon.stores.directory.store import STALE_SECONDS, DirectoryStore
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
)
from daemon.stores.port import Content, Version
from tests.builders_runtime import InlineRuntime, done
from tests.support.filesystems import (
    Exchange,
    FailingFileSystem,
    Operation,
    PassingFileSystem,
    Rename,
    Write,
)

T = TypeVar("T")
Save = Callable[[Path], None]


class EditedFileSystem(PassingFileSystem):
    """An editor saves a file just before each exchange of its name, and before a rename that
    removes it.
    """

    def __init__(self, path: Path, saves: list[Save]) -> None:
        super().__init__(RealFileSystem())
        self.path = path
        self.saves = saves

    def change(self, operation: Operation) -> None:
        match operation:
            case Exchange(_, self.path) | Rename(self.path, _) if self.saves:
                self.saves.pop(0)(self.path)
            case _:
                pass
        super().change(operation)


def in_place(path: Path) -> None:
    path.write_bytes(b"edited in place")


def by_a_rename(path: Path) -> None:
    fresh = path.with_name("fresh~")
    fresh.write_bytes(b"saved by a rename")
    fresh.replace(path)


def as_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"1")


def the_same_bytes_at_another_time(path: Path) -> None:
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))


def in_the_same_moment(path: Path) -> None:
    """Neither time nor size shows this edit."""
    found = path.stat()
    path.write_bytes(b"OLD")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def saving(text: str) -> Save:
    def save(path: Path) -> None:
        path.unlink()
        path.write_text(text)

    return save


SAVES: list[Save] = [
    in_place,
    by_a_rename,
    as_a_link,
    as_a_folder,
    the_same_bytes_at_another_time,
    in_the_same_moment,
]


def look(path: Path) -> object:
    if path.is_symlink():
        return path.readlink()
    if path.is_dir():
        return sorted(item.name for item in path.iterdir())
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bucket/example/file"


@pytest.fixture
def version(file: Path) -> Version:
    return done(store_of(file).create("example/file", Content(b"old", tag={"n": "1"})))


def store_of(file: Path, *saves: Save, name: str = "") -> DirectoryStore:
    return DirectoryStore(file.parents[1], InlineRuntime(name), EditedFileSystem(file, list(saves)))


def temporaries(file: Path) -> list[Path]:
    return list((file.parents[1] / ".rebundle/tmp").iterdir())


NEW = Content(b"new", tag={"n": "2"})


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
@pytest.mark.parametrize("operation", ["replace", "delete"])
def test_a_save_at_the_last_moment_is_restored(
    file: Path, version: Version, operation: str, save: Save, tmp_path: Path
) -> None:
    expected = tmp_path / "expected"
    shutil.copy2(file, expected)
    save(expected)
    store = store_of(file, save, name="writer")

    with pytest.raises(ConditionFailed):
        done(
            store.replace("example/file", NEW, version)
            if operation == "replace"
            else store.delete("example/file", version)
        )

    assert look(file) == look(expected)
    assert temporaries(file) == []


def test_a_save_while_the_new_file_is_staged_is_noticed_before_the_exchange(
    file: Path, version: Version
) -> None:
    class SavedDuringStaging(PassingFileSystem):
        def change(self, operation: Operation) -> None:
            assert not isinstance(operation, Exchange)
            if isinstance(operation, Write):
                file.write_bytes(b"saved")
            super().change(operation)

    store = DirectoryStore(
        file.parents[1], InlineRuntime("writer"), SavedDuringStaging(RealFileSystem())
    )

    with pytest.raises(ConditionFailed):
        done(store.replace("example/file", NEW, version))

    assert (file.read_bytes(), temporaries(file)) == (b"saved", [])


@pytest.mark.parametrize("number", [2, 3, 4, 7])
def test_the_newest_of_many_saves_wins(file: Path, version: Version, number: int) -> None:
    saves = [saving(f"save {item}") for item in range(number)]

    with pytest.raises(ConditionFailed):
        done(store_of(file, *saves, name="writer").replace("example/file", NEW, version))

    assert file.read_bytes() == b"save %d" % (number - 1)
    assert temporaries(file) == []


def test_a_file_that_is_saved_endlessly_is_finally_kept_aside(file: Path, version: Version) -> None:
    store = store_of(file, *[saving(str(number)) for number in range(100)])

    with pytest.raises(StoreUnavailable, match="its last version is in"):
        done(store.replace("example/file", NEW, version))

    [aside] = temporaries(file)
    assert int(aside.read_bytes()) - int(file.read_bytes()) == 1


def test_a_file_that_is_removed_at_the_last_moment_is_missing(file: Path, version: Version) -> None:
    with pytest.raises(ObjectMissing):
        done(store_of(file, Path.unlink, name="writer").replace("example/file", NEW, version))

    assert (file.exists(), temporaries(file)) == (False, [])


def test_a_save_that_is_followed_by_a_removal_is_not_lost(file: Path, version: Version) -> None:
    with pytest.raises(ConditionFailed):
        done(
            store_of(file, in_place, Path.unlink, name="writer").replace(
                "example/file", NEW, version
            )
        )

    assert (file.read_bytes(), temporaries(file)) == (b"edited in place", [])


def test_a_newer_save_during_a_deletion_stays(file: Path, version: Version) -> None:
    class SavedAgain(EditedFileSystem):
        def link(self, source: Path, target: Path) -> None:
            target.write_bytes(b"newer")
            super().link(source, target)

    store = DirectoryStore(file.parents[1], InlineRuntime("writer"), SavedAgain(file, [in_place]))

    with pytest.raises(ConditionFailed):
        done(store.delete("example/file", version))

    assert (file.read_bytes(), temporaries(file)) == (b"newer", [])


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_names_cannot_be_exchanged_a_replacement_compares_and_renames(
    file: Path, version: Version, number: int
) -> None:
    store = DirectoryStore(
        file.parents[1],
        InlineRuntime("writer"),
        FailingFileSystem(RealFileSystem(), Exchange, number),
    )

    done(store.replace("example/file", NEW, version))

    assert (done(store.get("example/file")).tag, temporaries(file)) == ({"n": "2"}, [])


@pytest.mark.parametrize("after", [False, True])
def test_an_exchange_that_fails_is_of_unknown_outcome_and_loses_nothing(
    file: Path, version: Version, after: bool
) -> None:
    failing = FailingFileSystem(RealFileSystem(), Exchange, errno.EIO, after=after)

    with pytest.raises(OutcomeUnknown):
        done(
            DirectoryStore(file.parents[1], InlineRuntime("x"), failing).replace(
                "example/file", NEW, version
            )
        )

    assert (file.read_bytes(), temporaries(file)) == (b"new" if after else b"old", [])


class Crash(BaseException):
    """Stands for the end of the process."""


class CrashingEditedFileSystem(EditedFileSystem):
    """The process ends just before its n-th change."""

    def __init__(self, path: Path, saves: list[Save], n: int) -> None:
        super().__init__(path, saves)
        self._left = n

    def change(self, operation: Operation) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Crash
        super().change(operation)


@pytest.mark.parametrize("operation", ["replace", "delete"])
def test_a_crash_at_any_moment_keeps_the_save_of_an_editor(tmp_path: Path, operation: str) -> None:
    kept_aside = crashes = 0
    for n in itertools.count(1):
        file = tmp_path / str(n) / "bucket/example/file"
        version = done(store_of(file).create("example/file", Content(b"old", tag={"n": "1"})))
        edited = CrashingEditedFileSystem(file, [by_a_rename], n)
        store = DirectoryStore(file.parents[1], InlineRuntime("writer"), edited)
        try:
            done(
                store.replace("example/file", NEW, version)
                if operation == "replace"
                else store.delete("example/file", version)
            )
        except Crash:
            crashes += 1
        except StoreError:
            break

        saved = not edited.saves
        runtime = InlineRuntime("a day later")
        runtime.seconds = (
            max(temporary.stat().st_mtime for temporary in [*temporaries(file), file.parent])
            + STALE_SECONDS
            + 1
        )
        done(DirectoryStore(file.parents[1], runtime).create("other", Content(b"")))

        left = [path.read_bytes() for path in temporaries(file)]
        assert left in ([], [b"saved by a rename"])
        kept_aside += bool(left)
        assert saved == (
            b"saved by a rename" in [*left, *([file.read_bytes()] if file.exists() else [])]
        )
    assert crashes >= 4
    assert kept_aside > 0
