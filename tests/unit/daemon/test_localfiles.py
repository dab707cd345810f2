"""Who else may read a secret, or change what is trusted, on a real file system."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import localfiles
from daemon.localfiles import Unsafe

TOKEN = "0123456789abcdef"
SOMEBODY = 12345


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a path another user's: really where root runs the tests, else by being somebody else."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, SOMEBODY, -1)
        else:
            monkeypatch.setattr(localfiles.os, "geteuid", lambda: SOMEBODY)

    return give


def file(path: Path, text: str = TOKEN, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o700])
def test_the_owner_and_one_group_may_read_a_secret(tmp_path: Path, mode: int) -> None:
    assert localfiles.read_secret(file(tmp_path / "s", mode=mode), 100) == TOKEN.encode()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o660, 0o666, 0o644])
def test_a_secret_that_others_may_read_or_a_group_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = file(tmp_path / "a secret", mode=mode)
    with pytest.raises(Unsafe, match=f"chmod 600 '{path}'"):
        localfiles.read_secret(path, 100)


def test_what_is_no_file_is_refused_and_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(Unsafe, match="no regular file"):
        localfiles.read_secret(tmp_path / "fifo", 100)
    with pytest.raises((Unsafe, IsADirectoryError)):
        localfiles.read_secret(tmp_path, 100)


def test_no_more_of_a_secret_is_read_than_its_limit_and_one_byte(tmp_path: Path) -> None:
    assert len(localfiles.read_secret(file(tmp_path / "s", "x" * 1000), 10)) == 11


def test_a_token_has_no_newline_at_its_end(tmp_path: Path) -> None:
    assert localfiles.read_token(file(tmp_path / "t", f"{TOKEN}\r\n")) == TOKEN
    assert localfiles.read_token(file(tmp_path / "t", "x" * 4096 + "\n")) == "x" * 4096


@pytest.mark.parametrize("text", ["", "short", "x" * 4097, f"{TOKEN} {TOKEN}", f"{TOKEN}\nsecond", "\xff" * 20])
def test_what_is_no_token_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="must be 16 to 4096 ASCII characters") as refused:
        localfiles.read_token(file(tmp_path / "t", text))
    assert not text or text not in str(refused.value)


def test_a_file_that_only_we_may_write_may_decide(tmp_path: Path) -> None:
    localfiles.check_writers(file(tmp_path / "policy", mode=0o644))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_decides_nothing(tmp_path: Path, mode: int) -> None:
    path = file(tmp_path / "policy", mode=mode)
    with pytest.raises(Unsafe, match=f"chmod go-w {path}"):
        localfiles.check_writers(path)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_file_in_a_folder_that_others_may_write_decides_nothing(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = file(folder / "policy")
    folder.chmod(mode)
    with pytest.raises(Unsafe, match=f"chmod go-w {folder}"):
        localfiles.check_writers(path)


def test_what_a_link_leads_to_counts_and_so_does_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "policy").symlink_to(file(folder / "policy"))
    localfiles.check_writers(tmp_path / "policy")
    folder.chmod(0o777)
    with pytest.raises(Unsafe, match=f"chmod go-w {folder}"):
        localfiles.check_writers(tmp_path / "policy")


def test_another_users_file_decides_nothing_unless_that_user_is_allowed(
    tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    path = file(tmp_path / "policy")
    give_away(path)
    with pytest.raises(Unsafe, match=r"belongs to another user \(uid \d+\): chown \d+ /"):
        localfiles.check_writers(path)
    localfiles.check_writers(path, also=frozenset({path.stat().st_uid}))


def test_what_is_mounted_read_only_can_be_written_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a ConfigMap, whose folder everybody may write by its mode."""
    path = file(tmp_path / "policy", mode=0o666)
    found = os.statvfs(path)
    fields = [*found]
    fields[8] |= os.ST_RDONLY
    monkeypatch.setattr(localfiles.os, "statvfs", lambda _: os.statvfs_result(fields))
    localfiles.check_writers(path)


def test_a_private_file_is_its_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(localfiles.create_private(tmp_path / "f"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        localfiles.create_private(tmp_path / "f")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    os.close(localfiles.create_private(tmp_path / "f"))
    assert ((tmp_path / "f").stat().st_uid, (tmp_path / "f").stat().st_gid) == (SOMEBODY, SOMEBODY)


def test_a_lock_is_made_once_and_found_again(tmp_path: Path) -> None:
    for _ in range(2):
        os.close(localfiles.open_lock(tmp_path / "lock"))
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_a_link_or_a_fifo_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "made by following")
    with pytest.raises(OSError, match="symbolic links"):
        localfiles.open_lock(tmp_path / "link")
    assert not (tmp_path / "made by following").exists()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unsafe, match="no regular file"):
        localfiles.open_lock(tmp_path / "fifo")
