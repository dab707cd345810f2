"""`rebundle example restore`: writes defaults of example/ and keeps copies of overrides."""

import io

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


def test_restore_recreates_a_deleted_file(bucket, rebundle):
    live_file(bucket, ENV).unlink()
    assert f"{ENV}: deleted by an operator" in rebundle("status", SCOPE).out

    assert rebundle("example", "restore", SCOPE, ENV, "--yes").code == 0
    assert live_file(bucket, ENV).exists()


def test_restore_of_the_default_writes_nothing(bucket, rebundle):
    assert (
        rebundle("example", "restore", SCOPE, ENV, "--yes", "-o", "json").json["written"] is False
    )


def test_changed_credentials_are_never_read_copied_or_replaced(bucket, rebundle):
    live_file(bucket, CREDENTIALS).write_bytes(b"SECRET=1\n")

    result = rebundle("example", "restore", SCOPE, CREDENTIALS, "--yes")

    assert result.code == 4
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

    assert rebundle("example", "restore", SCOPE, ENV).code == 2
