"""`rebundle scopes`: lists the scopes of a bucket with their live state."""

import structlog

from daemon.logs import Logger
from daemon.publishing.reader import Reader, Scopes
from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import StoreRefused
from tests.support.buckets import SCOPE, composition_with, in_bucket


def test_scopes_lists_every_scope_with_its_live_state(bucket, rebundle):
    (scope,) = rebundle("scopes", "-o", "json").json["scopes"]

    assert (scope["scope"], scope["live"]["state"], scope["sequence"]) == (str(SCOPE), "state-3", 3)
    assert "state-3" in rebundle("scopes").out


def test_an_unreadable_scope_does_not_hide_the_others(bucket, rebundle):
    broken = bucket / "other" / "target"
    broken.mkdir(parents=True)
    (broken / "pointer.json").write_text("{")

    result = rebundle("scopes", "-o", "json")

    assert result.code == 5
    views = {row["scope"]: row for row in result.json["scopes"]}
    assert "is damaged" in views["other/target"]["error"]
    assert views[str(SCOPE)]["error"] is None


def test_a_folder_without_a_publication_is_not_a_scope(bucket, rebundle):
    (bucket / "other/target/states/state-1/attempt").mkdir(parents=True)
    (bucket / "other/target/states/state-1/attempt/manifest.json").write_text("{}")

    assert [row["scope"] for row in rebundle("scopes", "-o", "json").json["scopes"]] == [str(SCOPE)]
    assert [row["scope"] for row in rebundle("status", "-o", "json").json["scopes"]] == [str(SCOPE)]
    assert rebundle("verify", "--all").code == 0
    assert rebundle("verify", "other/target").code == 3


def test_an_empty_bucket_is_reported_as_empty(tmp_path, rebundle):
    (tmp_path / "empty").mkdir()
    result = rebundle("scopes", "--bucket", tmp_path / "empty")

    assert (result.code, result.out.splitlines()) == (
        0,
        ["SCOPE   LIVE   DESIRED   SEQUENCE   NOTE   AGE"],
    )
    assert "nothing is published" in result.err


def test_an_unusable_bucket_is_a_backend_failure(rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_BUCKET", "s3://bucket/prefix?endpoint=http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")

    result = rebundle("scopes")

    assert result.code == 6
    assert result.err.startswith(
        "rebundle: s3://bucket cannot be used: Unable to locate credentials"
    )


def test_scopes_shows_why_desired_is_not_live(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-2", "--reason", "bad")
    in_bucket(bucket, lambda published: published.publish(composition_with("2"), "state-5", 5))
    assert "desired is quarantined" in rebundle("scopes").out

    rebundle("hold", SCOPE, "--reason", "freeze")
    assert "held, desired is quarantined" in rebundle("scopes").out
    rebundle("quarantine", SCOPE, "state-5", "--reason", "fine", "--lift")
    rebundle("hold", SCOPE, "--reason", "freeze")
    assert "held  " in rebundle("scopes").out


def test_scopes_shows_that_desired_waits_for_resume_after_a_lifted_quarantine(bucket, rebundle):
    rebundle("quarantine", SCOPE, "state-2", "--reason", "bad")
    in_bucket(bucket, lambda published: published.publish(composition_with("2"), "state-5", 5))
    rebundle("quarantine", SCOPE, "state-5", "--reason", "fine", "--lift")

    assert "desired waits for resume" in rebundle("scopes").out


def test_log_lines_of_a_store_do_not_mix_with_the_data(bucket, rebundle, monkeypatch):
    async def scopes(_reader):
        Logger("daemon.stores").info("nobody need know")
        Logger("daemon.stores").warning("the server has said\nsomething odd", key="x")
        return Scopes()

    structlog.reset_defaults()
    monkeypatch.setattr(Reader, "scopes", scopes)
    result = rebundle("scopes", "-o", "json")

    assert result.json["scopes"] == []
    assert "something odd" in result.err
    assert "nobody need know" not in result.err


def test_a_bundle_whose_folder_cannot_be_listed_is_a_row_and_hides_no_other(
    bucket, rebundle, monkeypatch
):
    folders = DirectoryStore.folders
    (bucket / "private/edge").mkdir(parents=True)
    (bucket / "private/edge/pointer.json").write_text("{}")

    async def listed(store, prefix):
        if prefix == "private/":
            raise StoreRefused(
                "private: Permission denied; give this user permission to read and write the folder"
            )
        return await folders(store, prefix)

    monkeypatch.setattr(DirectoryStore, "folders", listed)
    for command in (("scopes",), ("status",)):
        result = rebundle(*command, "-o", "json")
        assert (result.code, [row["scope"] for row in result.json["scopes"]]) == (6, [str(SCOPE)])
        assert "Permission denied" in result.json["unreadable_folders"]["private"]
        assert "give this user permission" in rebundle(*command).out
    verified = rebundle("verify", "--all", "-o", "json")
    assert (verified.code, [c["scope"] for c in verified.json["checks"] if not c["ok"]]) == (
        6,
        ["private/"],
    )
    collected = rebundle("gc", "--all", "--dry-run", "-o", "json")
    assert (collected.code, collected.json["errors"][0]["scope"]) == (6, "private/")
    assert rebundle("status", SCOPE).code == 0
