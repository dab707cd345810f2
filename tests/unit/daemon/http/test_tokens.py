"""Tokens are rotated without a restart, and a mistake in a file locks no client out."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.http.auth import Credentials
from daemon.http.tokens import Tokens

FIRST, SECOND, ROLLBACK = "first-token-0123456", "second-token-012345", "rollback-token-0123"


def write(file: Path, token: str, mode: int = 0o600) -> None:
    """Replaces the file by another one, like a person or a secret store does."""
    half = file.with_suffix(".half")
    half.write_text(token)
    half.chmod(mode)
    half.rename(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "token", FIRST)
    return tmp_path / "token"


@pytest.fixture
def tokens(file: Path) -> Tokens:
    made = Tokens(Credentials(FIRST, ROLLBACK), {"token": file})
    made.refresh()
    return made


def test_a_token_is_valid_from_the_first_check_after_its_file_changed(
    file: Path, tokens: Tokens
) -> None:
    write(file, SECOND + "\n")
    assert tokens.current() == Credentials(FIRST, ROLLBACK)
    tokens.refresh()
    assert tokens.current() == Credentials(SECOND, ROLLBACK)
    assert tokens.failing == {}


def test_a_token_that_changed_while_the_daemon_started_is_noticed(file: Path) -> None:
    write(file, SECOND)
    tokens = Tokens(Credentials(FIRST), {"token": file})
    tokens.refresh()
    assert tokens.current() == Credentials(SECOND)


def test_two_roles_can_exchange_their_tokens(tmp_path: Path) -> None:
    files = {"token": tmp_path / "token", "rollback_token": tmp_path / "rollback"}
    write(files["token"], FIRST)
    write(files["rollback_token"], ROLLBACK)
    tokens = Tokens(Credentials(FIRST, ROLLBACK), files)
    write(files["token"], ROLLBACK)
    tokens.refresh()
    assert tokens.current() == Credentials(FIRST, ROLLBACK), (
        "half of a swap would give one token both roles"
    )
    write(files["rollback_token"], FIRST)
    tokens.refresh()
    assert (tokens.current(), tokens.failing) == (Credentials(ROLLBACK, FIRST), {})


BAD = {
    "open to others": lambda file: file.chmod(0o644),
    "gone": Path.unlink,
    "empty": lambda file: write(file, ""),
    "no token": lambda file: write(file, "two words of which neither is one"),
    "the token of the other role": lambda file: write(file, ROLLBACK),
    "a folder": lambda file: (file.unlink(), file.mkdir(mode=0o700)),
    "a fifo": lambda file: (file.unlink(), os.mkfifo(file, 0o600)),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_an_unusable_file_keeps_the_token_and_is_reported_until_it_is_repaired(
    file: Path, tokens: Tokens, spoil
) -> None:
    spoil(file)
    for _ in range(2):
        tokens.refresh()
        assert tokens.current() == Credentials(FIRST, ROLLBACK)
        assert list(tokens.failing) == [str(file)]
    if file.is_dir():
        file.rmdir()
    write(file, SECOND)
    tokens.refresh()
    assert (tokens.current(), tokens.failing) == (Credentials(SECOND, ROLLBACK), {})


def test_one_bad_file_does_not_prevent_reading_the_other(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "rollback"
    write(other, ROLLBACK)
    tokens = Tokens(
        Credentials(FIRST, "former-rollback-token"), {"token": file, "rollback_token": other}
    )
    file.unlink()
    tokens.refresh()
    assert tokens.current() == Credentials(FIRST, ROLLBACK)
    assert list(tokens.failing) == [str(file)]


def test_the_log_reports_an_unusable_file_once_and_never_its_content(
    file: Path, tokens: Tokens
) -> None:
    write(file, "short-secret")
    with capture_logs() as logs:
        for _ in range(3):
            tokens.refresh()
        write(file, SECOND)
        tokens.refresh()
    assert [line["event"] for line in logs] == [
        "token file unusable, the former token stays valid",
        "token changed",
    ]
    assert "short-secret" not in str(logs)
    assert SECOND not in str(logs)
