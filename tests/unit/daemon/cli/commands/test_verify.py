"""`rebundle verify`: checks pointers, publications and live trees of a bucket."""

import gzip
import json

import pytest

from daemon.publishing.reader import Reader
from daemon.stores.errors import StoreUnavailable
from tests.support.buckets import SCOPE


def checks(result):
    return {check["what"].split("@")[0]: check["ok"] for check in result.json["checks"]}


def test_a_healthy_scope_passes_every_check_and_unchecked_parts_are_named(bucket, rebundle):
    result = rebundle("verify", SCOPE, "-o", "json")

    assert result.code == 0
    assert checks(result) == {
        "pointer, sequence 3": True,
        "history": True,
        "state state-3": True,
        "state state-2": True,
        "state state-1": True,
        "live tree": True,
    }
    assert "signatures" in result.json["not_checked"][0]


def test_all_scopes_of_the_bucket(bucket, rebundle):
    assert rebundle("verify", "--all").code == 0


def test_one_state_alone(bucket, rebundle):
    assert list(checks(rebundle("verify", SCOPE, "state-1", "-o", "json"))) == [
        "pointer, sequence 3",
        "history",
        "state state-1",
    ]


@pytest.mark.parametrize("arguments", [[], [SCOPE, "--all"]])
def test_the_scopes_to_verify_are_given_once(bucket, rebundle, arguments):
    assert rebundle("verify", *arguments).code == 2


def test_a_changed_archive_fails_its_state_and_hides_no_other(bucket, rebundle):
    (archive,) = (bucket / str(SCOPE) / "states" / "state-1").glob("*/bundle.tar.gz")
    archive.write_bytes(
        gzip.compress(gzip.decompress(archive.read_bytes()).replace(b"101", b"109"), mtime=0)
    )

    result = rebundle("verify", SCOPE, "-o", "json")

    assert result.code == 5
    assert [what for what, ok in checks(result).items() if not ok] == ["state state-1"]


def test_a_lost_manifest_is_found(bucket, rebundle):
    (manifest,) = (bucket / str(SCOPE) / "states" / "state-2").glob("*/manifest.json")
    manifest.unlink()

    result = rebundle("verify", SCOPE)

    assert result.code == 5
    assert "gone from the bucket" in result.out


def test_a_hand_edit_below_base_is_found_and_explained(bucket, rebundle):
    edited = bucket / str(SCOPE) / "docker-compose-gen/base/bundle/docker-compose.yaml"
    edited.write_text("mine\n")

    result = rebundle("verify", SCOPE)

    assert result.code == 5
    assert "edited by hand: base/bundle/docker-compose.yaml" in result.out
    assert edited.read_text() == "mine\n"


def test_a_blocked_path_is_the_only_problem_that_is_reported(bucket, rebundle):
    blocked = bucket / str(SCOPE) / "docker-compose-gen/base/bundle/docker-compose.yaml"
    blocked.unlink()
    blocked.symlink_to("/nowhere")

    (failed,) = [
        check for check in rebundle("verify", SCOPE, "-o", "json").json["checks"] if not check["ok"]
    ]

    assert failed["problem"].startswith("base/bundle/docker-compose.yaml does not follow: ")
    assert "marked as synced" not in failed["problem"]


def test_a_hand_edit_does_not_hide_that_another_file_is_missing_or_that_a_state_is_damaged(
    bucket, rebundle
):
    tree = bucket / str(SCOPE) / "docker-compose-gen"
    (tree / "base/bundle/docker-compose.yaml").write_text("mine\n")
    (tree / "base/bundle/nginx/models.map").unlink()
    (archive,) = (bucket / str(SCOPE) / "states" / "state-1").glob("*/bundle.tar.gz")
    archive.unlink()

    result = rebundle("verify", SCOPE, "-o", "json")

    failed = {
        check["what"].split("@")[0]: check["problem"]
        for check in result.json["checks"]
        if not check["ok"]
    }
    assert (result.code, set(failed)) == (5, {"state state-1", "live tree"})
    assert "edited by hand: base/bundle/docker-compose.yaml" in failed["live tree"]
    assert "these paths differ from live: base/bundle/nginx/models.map" in failed["live tree"]
    assert f"else `rebundle recover {SCOPE} --reason 'damaged archive'`" in failed["state state-1"]


def test_a_damaged_manifest_of_an_old_state_hides_no_edit_and_stops_no_rollback(bucket, rebundle):
    tree = bucket / str(SCOPE) / "docker-compose-gen"
    (tree / "example/conf/bundle/.env").write_text("MINE=1\n")
    (manifest,) = (bucket / str(SCOPE) / "states/state-2").glob("*/manifest.json")
    manifest.write_bytes(manifest.read_bytes() + b"x")
    (tree / "base/bundle/docker-compose.yaml").write_text("mine\n")

    result = rebundle("verify", SCOPE, "-o", "json")

    failed = {
        check["what"].split("@")[0]: check["problem"]
        for check in result.json["checks"]
        if not check["ok"]
    }
    assert (result.code, set(failed)) == (5, {"state state-2", "live tree"})
    assert f"`rebundle recover {SCOPE} --reason 'damaged manifest'`" in failed["state state-2"]
    assert "edited by hand: base/bundle/docker-compose.yaml" in failed["live tree"]
    status = rebundle("status", SCOPE)
    assert "unreadable" not in status.out
    rolled = rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "-y", "-o", "json")
    assert (rolled.code, rolled.json["live_tree"]["follows"]) == (0, True)
    assert json.loads((tree / "base/.rebundle.json").read_bytes())["state"] == "state-1"


def test_an_unexpected_error_is_one_row_and_the_most_severe_sets_the_exit_code(
    bucket, rebundle, monkeypatch
):
    def fails(*_args, **_more):
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(Reader, "history", fails)
    result = rebundle("verify", "--all", "-o", "json")

    (failed,) = [check for check in result.json["checks"] if not check["ok"]]
    assert (result.code, failed["what"]) == (1, "history")
    assert "unexpected KeyError" in failed["problem"]
    (bucket / "another/target").mkdir(parents=True)
    (bucket / "another/target/pointer.json").write_text("{}")
    result = rebundle("verify", "--all", "-o", "json")
    assert (result.code, len(result.json["checks"])) == (5, 7)


def test_a_bucket_that_cannot_be_reached_is_a_row_too(bucket, rebundle, monkeypatch):
    async def away(*_args):
        raise StoreUnavailable("the bucket is away")

    monkeypatch.setattr(Reader, "files", away)
    result = rebundle("verify", SCOPE, "-o", "json")

    assert (result.code, sum(not check["ok"] for check in result.json["checks"])) == (6, 4)


def test_an_override_of_example_is_no_fault(bucket, rebundle):
    (bucket / str(SCOPE) / "docker-compose-gen/example/conf/bundle/.env").write_text("MINE=1\n")

    assert rebundle("verify", SCOPE).code == 0


def test_a_missing_file_of_base_is_found(bucket, rebundle):
    (bucket / str(SCOPE) / "docker-compose-gen/base/bundle/nginx/models.map").unlink()

    result = rebundle("verify", SCOPE)

    assert result.code == 5
    assert "these paths differ from live: base/bundle/nginx/models.map" in result.out


def test_an_unreadable_pointer_is_a_failed_check(bucket, rebundle):
    (bucket / str(SCOPE) / "pointer.json").write_text("{}")

    assert rebundle("verify", "--all").code == 5


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"revision": "9"}, "its revision is 1, but the pointer has 9"),
        ({"composition_digest": "0" * 64}, "does not have the composition that the pointer names"),
        ({"manifest_sha256": "0" * 64}, "does not match the digest in the pointer"),
    ],
)
def test_a_pointer_that_contradicts_the_manifest_is_found(bucket, rebundle, changed, problem):
    path = bucket / str(SCOPE) / "pointer.json"
    document = json.loads(path.read_bytes())
    document["signed"]["retained"][0] |= changed
    path.write_text(json.dumps(document))

    result = rebundle("verify", SCOPE, "-o", "json")

    assert result.code == 5
    (failed,) = [check for check in result.json["checks"] if not check["ok"]]
    assert failed["what"].startswith("state state-1@")
    assert problem in failed["problem"]


def test_a_lost_pointer_is_a_failed_check_and_hides_no_other_scope(bucket, rebundle):
    marker = bucket / "another/target/docker-compose-gen/.rebundle.json"
    marker.parent.mkdir(parents=True)
    marker.write_text("{}")

    result = rebundle("verify", "--all", "-o", "json")

    assert result.code == 5
    assert [check["ok"] for check in result.json["checks"]] == [False, *[True] * 6]


def test_a_pointer_that_contradicts_its_own_history_is_found(bucket, rebundle):
    path = bucket / str(SCOPE) / "pointer.json"
    document = json.loads(path.read_bytes())
    document["signed"]["sequence"] = 7
    path.write_text(json.dumps(document))

    result = rebundle("verify", SCOPE, "-o", "json")

    assert result.code == 5
    assert [what for what, ok in checks(result).items() if not ok] == [
        "pointer, sequence 7",
        "history",
    ]


def test_a_live_tree_whose_marker_is_behind_is_reported_and_not_a_failure(bucket, rebundle):
    tree = bucket / str(SCOPE) / "docker-compose-gen"
    marker = tree / ".rebundle.json"
    marker.write_text(marker.read_text().replace('"synced"', '"updating"'))
    (tree / "base/bundle/monitoring.txt").unlink()

    result = rebundle("verify", SCOPE)

    assert result.code == 0
    assert "behind the pointer, as its marker records" in result.out


def test_a_live_tree_that_differs_from_its_synced_marker_fails(bucket, rebundle):
    (bucket / str(SCOPE) / "docker-compose-gen/base/bundle/monitoring.txt").unlink()

    result = rebundle("verify", SCOPE)

    assert result.code == 5
    assert (
        "marked as synced, but these paths differ from live: base/bundle/monitoring.txt"
        in result.out
    )


def test_a_marker_ahead_of_its_pointer_is_found_by_verify_and_status(bucket, rebundle):
    marker = bucket / str(SCOPE) / "docker-compose-gen" / ".rebundle.json"
    document = json.loads(marker.read_text())
    marker.write_text(json.dumps(document | {"sequence": 5000}))

    verified = rebundle("verify", SCOPE, "-o", "json")
    (why,) = next(
        row for row in rebundle("status", "-o", "json").json["scopes"] if row["scope"] == str(SCOPE)
    )["attention"]

    assert verified.code == 5
    assert [what for what, ok in checks(verified).items() if not ok] == ["live tree"]
    assert all("5000" in text and "recover" in text for text in (verified.out, why))


def test_verifying_an_empty_bucket_is_not_a_success(rebundle, tmp_path):
    (tmp_path / "empty").mkdir()
    result = rebundle("verify", "--all", "--bucket", str(tmp_path / "empty"))

    assert result.code == 3
    assert "there is nothing to verify" in result.err


def test_a_reference_without_a_digest_is_reported_once_for_all_states_that_use_it(bucket, rebundle):
    lines = rebundle("verify", SCOPE).out.splitlines()

    listed = [
        line.split(maxsplit=2) for line in lines[lines.index("not pinned by a digest (7)") + 2 :]
    ]
    assert [name for kind, name, where in listed if (kind, where) == ("image", "every state")] == [
        "registry.example.com/visual-anomaly/model-proxy:1.0.0",
        "registry.example.com/visual-anomaly/nginx:1.28.0-alpine",
        "registry.example.com/visual-anomaly/rclone:1.71.0",
        "registry.example.com/visual-anomaly/tensorflow-serving:2.19.1",
    ]
    assert listed[4:] == [
        ["artifact", "gs://example-bucket/models/101/2", "state-3 and 1 more"],
        ["artifact", "gs://example-bucket/models/102/1", "state-3"],
        ["artifact", "gs://example-bucket/models/101/1", "state-1"],
    ]


def test_a_scope_and_all_exclude_each_other(bucket, rebundle):
    assert "exclude each other" in rebundle("verify", SCOPE, "--all").err
    assert "name a scope" in rebundle("verify").err
