"""The meaning of a failed system call, depending on when it failed."""

import errno
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from daemon.stores.directory.os_errors import after_writing, before_writing, while_writing
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    OutcomeUnknown,
    StoreRefused,
    StoreUnavailable,
)
from tests.support.privileges import as_an_ordinary_user


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/srv/bucket/file")


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EXDEV]
)
@pytest.mark.parametrize("when", [before_writing, while_writing])
def test_an_error_that_an_operator_must_repair_is_refused_with_advice(when, number: int) -> None:
    with (
        pytest.raises(StoreRefused, match=r"^key: .+ \(/srv/bucket/file\); .+") as refused,
        when("key"),
    ):
        raise failure(number)

    assert refused.value.__cause__ is not None


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE])
def test_another_error_before_the_rename_wrote_nothing(number: int) -> None:
    with pytest.raises(StoreUnavailable, match="key"), before_writing("key"):
        raise failure(number)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINTR])
def test_another_error_during_the_rename_is_unknown(number: int) -> None:
    with pytest.raises(OutcomeUnknown, match="may have been written"), while_writing("key"):
        raise failure(number)


def test_an_existing_or_missing_name_is_a_certain_result() -> None:
    with pytest.raises(ConditionFailed, match="exists"), while_writing("key"):
        raise failure(errno.EEXIST)
    with pytest.raises(StoreUnavailable, match="removed"), while_writing("key"):
        raise failure(errno.ENOENT)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_every_error_after_the_rename_is_unknown(number: int) -> None:
    with pytest.raises(OutcomeUnknown, match="power cut"), after_writing("key"):
        raise failure(number)


@pytest.mark.parametrize("when", [before_writing, while_writing, after_writing])
def test_errors_of_the_store_pass_unchanged(when) -> None:
    with pytest.raises(ObjectMissing), when("key"):
        raise ObjectMissing("key")


NAMES = ["plain", "it's a folder"]


def denied(work) -> str:
    """The message about a permission that an ordinary user lacks."""

    def run() -> str:
        with pytest.raises(StoreRefused) as raised, before_writing("key"):
            work()
        return str(raised.value)

    return as_an_ordinary_user(run)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("mode", "what"), [(0o000, "list"), (0o600, "enter"), (0o500, "write"), (0o000, "read")]
)
def test_the_command_for_a_permission_fault_grants_access(
    tmp_path: Path, name: str, mode: int, what: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    file = folder / "file"
    file.write_bytes(b"1")
    closed = file if what == "read" else folder
    closed.chmod(mode)
    work = {
        "list": lambda: list(folder.iterdir()),
        "enter": file.read_bytes,
        "write": lambda: (folder / "new").write_bytes(b"2"),
        "read": file.read_bytes,
    }[what]

    message = denied(work)

    quoted = shlex.quote(str(closed))
    assert f"(its owner and mode: ls -ld {quoted})" in message
    command = message.partition(") permission: ")[2].partition(" (its owner")[0]
    assert command.endswith(quoted)
    subprocess.run(["sh", "-c", command], check=True)
    as_an_ordinary_user(work)


def test_the_command_for_a_file_of_another_user_changes_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345678)
    monkeypatch.setattr(
        os, "access", lambda path, mode, **_: path != tmp_path or not mode & os.W_OK
    )
    with (
        pytest.raises(
            StoreRefused, match=f"give this user .12345678. permission: chown 12345678 {tmp_path} "
        ),
        before_writing("key"),
    ):
        raise OSError(errno.EACCES, "Permission denied", str(tmp_path / "new"))


def test_an_error_without_a_number_is_reported_by_its_text() -> None:
    with pytest.raises(StoreUnavailable, match="key: strange"), before_writing("key"):
        raise OSError("strange")


def test_a_denial_that_the_modes_do_not_explain_is_reported_with_where_to_look(
    tmp_path: Path,
) -> None:
    place = re.escape(str(tmp_path))
    with (
        pytest.raises(
            StoreRefused, match=rf"permission; to see what it has: ls -ld {place}; getfacl {place}$"
        ),
        before_writing("key"),
    ):
        raise OSError(errno.EACCES, "Permission denied", str(tmp_path / "new"))
