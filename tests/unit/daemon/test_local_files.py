"""Which other users may read a secret, or change a trusted file, on a real file system."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import local_files
from daemon.local_files import Unsafe

TOKEN = "0123456789abcdef"
OTHER_USER = 12345


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Gives a path to another user: really if root runs the tests, else by changing this process's
    user id.
    """

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, OTHER_USER, -1)
        else:
            monkeypatch.setattr(local_files.os, "geteuid", lambda: OTHER_USER)

    return give


def file(path: Path, text: str = TOKEN, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o700])
def test_the_owner_and_one_group_may_read_a_secret(tmp_path: Path, mode: int) -> None:
    assert local_files.read_secret(file(tmp_path / "s", mode=mode), 100) == TOKEN.encode()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o660, 0o666, 0o644])
def test_a_secret_that_others_may_read_or_a_group_may_write_is_refused(
    tmp_path: Path, mode: int
) -> None:
    path = file(tmp_path / "a secret", mode=mode)
    with pytest.raises(Unsafe, match=f"chmod 600 '{path}'"):
        local_files.read_secret(path, 100)


def test_a_special_file_is_refused_and_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(Unsafe, match="not a regular file"):
        local_files.read_secret(tmp_path / "fifo", 100)
    with pytest.raises((Unsafe, IsADirectoryError)):
        local_files.read_secret(tmp_path, 100)


def test_a_secret_is_read_up_to_one_byte_above_its_limit(tmp_path: Path) -> None:
    assert len(local_files.read_secret(file(tmp_path / "s", "x" * 1000), 10)) == 11


def test_a_token_has_no_newline_at_its_end(tmp_path: Path) -> None:
    assert local_files.read_token(file(tmp_path / "t", f"{TOKEN}\r\n")) == TOKEN
    assert local_files.read_token(file(tmp_path / "t", "x" * 4096 + "\n")) == "x" * 4096


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 4097, f"{TOKEN} {TOKEN}", f"{TOKEN}\nsecond", "\xff" * 20]
)
def test_an_invalid_token_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="must be 16 to 4096 ASCII characters") as refused:
        local_files.read_token(file(tmp_path / "t", text))
    assert not text or text not in str(refused.value)


def test_a_file_that_only_this_user_may_write_is_trusted(tmp_path: Path) -> None:
    local_files.check_writers(file(tmp_path / "policy", mode=0o644))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(tmp_path: Path, mode: int) -> None:
    path = file(tmp_path / "policy", mode=mode)
    with pytest.raises(Unsafe, match=f"chmod go-w {path}"):
        local_files.check_writers(path)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_file_in_a_folder_that_others_may_write_is_not_trusted(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = file(folder / "policy")
    folder.chmod(mode)
    with pytest.raises(Unsafe, match=f"chmod go-w {folder}"):
        local_files.check_writers(path)


def test_the_target_of_a_link_and_its_folder_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "policy").symlink_to(file(folder / "policy"))
    local_files.check_writers(tmp_path / "policy")
    folder.chmod(0o777)
    with pytest.raises(Unsafe, match=f"chmod go-w {folder}"):
        local_files.check_writers(tmp_path / "policy")


def test_a_file_of_another_user_is_trusted_only_if_that_user_is_allowed(
    tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    path = file(tmp_path / "policy")
    give_away(path)
    with pytest.raises(Unsafe, match=r"belongs to another user \(uid \d+\): chown \d+ /"):
        local_files.check_writers(path)
    local_files.check_writers(path, also=frozenset({path.stat().st_uid}))


def test_a_file_on_a_read_only_mount_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a ConfigMap, whose folder has a mode that lets all users write."""
    path = file(tmp_path / "policy", mode=0o666)
    found = os.statvfs(path)
    fields = [*found]
    fields[8] |= os.ST_RDONLY
    monkeypatch.setattr(local_files.os, "statvfs", lambda _: os.statvfs_result(fields))
    local_files.check_writers(path)


def held(path: Path) -> bool:
    with local_files.lock(path) as is_held:
        return is_held


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_file_gets_exactly_its_mode_and_leaves_no_other_name(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        local_files.replace(tmp_path / "private", b"1")
        local_files.replace(tmp_path / "public", b"2", mode=0o644)
        assert held(tmp_path / "lock")
    finally:
        os.umask(before)
    modes = {path.name: mode_of(path) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "public": 0o644, "lock": 0o600}
    assert ((tmp_path / "private").read_bytes(), (tmp_path / "public").read_bytes()) == (b"1", b"2")


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "hard link", "fifo"])
def test_an_existing_object_of_the_name_is_replaced_and_not_written_into(
    tmp_path: Path, kind: str
) -> None:
    precious, path = file(tmp_path / "precious", "kept"), tmp_path / "f"
    match kind:
        case "file":
            path.write_text("old")
        case "link":
            path.symlink_to(precious)
        case "dangling link":
            path.symlink_to(tmp_path / "made by following")
        case "hard link":
            path.hardlink_to(precious)
        case _:
            os.mkfifo(path)
    local_files.replace(path, b"new")
    assert (path.is_symlink(), path.read_text(), precious.read_text()) == (False, "new", "kept")
    assert {item.name for item in tmp_path.iterdir()} == {"f", "precious"}


def test_a_failed_replacement_leaves_only_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(IsADirectoryError):
        local_files.replace(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_file_created_by_root_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER_USER, OTHER_USER)
    local_files.make_folder(tmp_path / "a" / "b")
    local_files.replace(tmp_path / "a" / "b" / "f", b"")
    assert held(tmp_path / "a" / "b" / "lock")
    found = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.rglob("*")}
    assert found == dict.fromkeys(("a", "b", "f", "lock"), (OTHER_USER, OTHER_USER))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take any file")
def test_root_changes_the_owner_of_no_existing_file(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER_USER, OTHER_USER)
    (tmp_path / "folder").mkdir()
    local_files.make_folder(tmp_path / "folder")
    assert held(file(tmp_path / "lock"))
    assert [(tmp_path / name).stat().st_uid for name in ("folder", "lock")] == [0, 0]


def test_created_folders_are_private(tmp_path: Path) -> None:
    for _ in range(2):
        local_files.make_folder(tmp_path / "a" / "b")
    assert [mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b")] == [0o700, 0o700]
    with pytest.raises(NotADirectoryError):
        local_files.make_folder(file(tmp_path / "f") / "a")


def test_a_lock_has_one_holder_and_others_fail_at_once(tmp_path: Path) -> None:
    with local_files.lock(tmp_path / "lock") as first:
        assert (first, held(tmp_path / "lock")) == (True, False)
    assert held(tmp_path / "lock")


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "fifo", "folder", "socket"])
def test_a_lock_file_must_be_a_plain_file_with_one_name(tmp_path: Path, kind: str) -> None:
    precious, path = file(tmp_path / "precious", "kept"), tmp_path / "a lock"
    before = precious.stat()
    match kind:
        case "link":
            path.symlink_to(precious)
        case "dangling link":
            path.symlink_to(tmp_path / "made by following")
        case "hard link":
            path.hardlink_to(precious)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
    with pytest.raises(Unsafe, match=f"remove it \\(rm '{path}'\\)"):
        held(path)
    after = precious.stat()
    assert (after.st_uid, after.st_mode, precious.read_text()) == (
        before.st_uid,
        before.st_mode,
        "kept",
    )
    assert not (tmp_path / "made by following").exists()


def test_a_lock_that_cannot_be_opened_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        held(tmp_path / "absent" / "lock")


def test_a_file_whose_mode_cannot_be_set_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(local_files.os, "fchmod", refuse)
    with pytest.raises(PermissionError):
        local_files.replace(tmp_path / "f", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_may_not_be_read_is_an_error_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = file(tmp_path / "lock"), os.open

    def refuse(name: str, flags: int, *args: int, **options: int) -> int:
        if name == "lock" and not flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return opened(name, flags, *args, **options)

    monkeypatch.setattr(local_files.os, "open", refuse)
    with pytest.raises(PermissionError):
        held(path)


def test_a_plain_file_is_read_up_to_its_limit_and_a_fifo_blocks_nothing(tmp_path: Path) -> None:
    assert local_files.read_plain(file(tmp_path / "f", "x" * 1000, 0o644), 10) == b"x" * 11
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unsafe, match="not a regular file"):
        local_files.read_plain(tmp_path / "fifo", 10)
