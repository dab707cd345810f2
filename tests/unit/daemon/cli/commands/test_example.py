"""`rebundle example restore`: writes defaults of example/ and keeps copies of overrides."""

import io
from pathlib import Path

from tests.support.buckets import SCOPE, live_file

ENV = "example/conf/bundle/.env"
CREDENTIALS = "example/creds/bundle/.env"


def test_restore_writes_the_default_and_keeps_a_copy_of_the_override(bucket, rebundle):
    default = live_file(bucket, ENV).read_bytes()
    live_file(bucket, ENV).write_bytes(b"MINE=1\n")

    result = rebundle("example", "restore", SCOPE, ENV, "--yes", "-o", "json")

    assert (result.code, result.json["written"]) == (0, True)
    assert live_file(bucket, ENV).read_bytes() == default
    (kept,) = (
        path for path in (bucket / str(SCOPE) / ".rebundle/replaced").rglob("*") if path.is_file()
    )
    assert kept.read_bytes() == b"MINE=1\n"


def test_restore_says_where_the_override_is_kept(bucket, rebundle):
    live_file(bucket, ENV).write_bytes(b"MINE=1\n")

    result = rebundle("example", "restore", SCOPE, ENV, "--yes")

    kept = result.out.removesuffix("\n").partition("your file is kept as ")[2]
    assert Path(kept).read_bytes() == b"MINE=1\n"
    assert result.out.startswith(f"{ENV}: the default is back; ")


def test_a_dry_run_shows_the_difference_and_writes_nothing(bucket, rebundle):
    live_file(bucket, ENV).write_bytes(b"MINE=1\n")

    result = rebundle("example", "restore", SCOPE, ENV, "--dry-run", "-o", "json")

    assert (result.code, result.json["written"], result.json["dry_run"]) == (0, False, True)
    assert not Path(result.json["kept_as"]).exists()
    assert "\n-MINE=1\n" in result.err
    assert live_file(bucket, ENV).read_bytes() == b"MINE=1\n"
    shown = rebundle("example", "restore", SCOPE, ENV, "--dry-run")
    assert "the default would be restored; your file would be kept as /" in shown.out


def test_restore_asks_only_about_a_file_that_would_change(bucket, rebundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())

    result = rebundle("example", "restore", SCOPE, ENV)

    assert (result.code, result.out) == (0, f"{ENV}: is already the default\n")
    assert rebundle("example", "restore", f"{SCOPE}x", ENV).code == 3
    assert rebundle("example", "restore", SCOPE, "example/nothing").code == 3


def test_restore_recreates_a_deleted_file(bucket, rebundle):
    live_file(bucket, ENV).unlink()
    assert f"{ENV}: deleted by an operator" in rebundle("status", SCOPE).out

    result = rebundle("example", "restore", SCOPE, ENV, "--yes")

    assert (result.code, result.out) == (0, f"{ENV}: was deleted; the default is back\n")
    assert live_file(bucket, ENV).exists()


def test_restore_of_the_default_writes_nothing(bucket, rebundle):
    assert (
        rebundle("example", "restore", SCOPE, ENV, "--yes", "-o", "json").json["written"] is False
    )


def test_changed_credentials_are_never_read_copied_or_replaced(bucket, rebundle):
    live_file(bucket, CREDENTIALS).write_bytes(b"SECRET=1\n")

    for also in ("--yes", "--dry-run"):
        result = rebundle("example", "restore", SCOPE, CREDENTIALS, also)
        assert result.code == 4
        assert "SECRET" not in result.out + result.err
    assert live_file(bucket, CREDENTIALS).read_bytes() == b"SECRET=1\n"
    assert not (bucket / str(SCOPE) / ".rebundle/replaced").exists()


def test_deleted_credentials_are_recreated(bucket, rebundle):
    live_file(bucket, CREDENTIALS).unlink()

    assert rebundle("example", "restore", SCOPE, CREDENTIALS, "--yes").code == 0
    assert live_file(bucket, CREDENTIALS).exists()


def test_a_path_that_live_does_not_have_is_not_found(bucket, rebundle):
    assert (
        rebundle("example", "restore", SCOPE, "base/bundle/docker-compose.yaml", "--yes").code == 3
    )


def test_restore_needs_yes_without_a_terminal(bucket, rebundle, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    live_file(bucket, ENV).write_bytes(b"MINE=1\n")

    assert rebundle("example", "restore", SCOPE, ENV).code == 2
