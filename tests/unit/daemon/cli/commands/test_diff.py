"""`rebundle diff`: compares two publications, by default live and desired."""

from tests.support.buckets import SCOPE


def test_live_and_desired_are_compared_unless_named(bucket, rebundle):
    result = rebundle("diff", SCOPE, "--exit-code")

    assert (result.code, result.out) == (0, "")
    assert "do not differ" in result.err


def test_a_difference_is_a_unified_diff_with_a_summary_of_models(bucket, rebundle):
    result = rebundle("diff", SCOPE, "state-1", "state-3", "--exit-code")

    assert result.code == 1
    assert "+ 102 1" in result.err
    assert "~ 101 1 → 2" in result.err
    assert "+102 s102s:9000;" in result.out.splitlines()
    assert "\033" not in result.out


def test_without_exit_code_a_difference_is_no_failure(bucket, rebundle):
    assert rebundle("diff", SCOPE, "state-1", "state-3").code == 0


def test_names_alone(bucket, rebundle):
    result = rebundle("diff", SCOPE, "state-1", "state-2", "--name-only", "--quiet")

    assert result.err == ""
    assert result.out.splitlines() == ["base/model-serving/model-download/models.txt"]


def test_the_document_has_models_and_each_files_diff(bucket, rebundle):
    view = rebundle("diff", SCOPE, "state-3", "state-1", "-o", "json").json

    assert view["models"]["removed"] == [{"id": "102", "version": "1"}]
    assert view["models"]["moved"] == [{"id": "101", "from": "2", "to": "1"}]
    assert {file["path"]: file["status"] for file in view["files"]}[
        "example/conf/bundle/batching_102.txt"
    ] == "removed"
    assert all(file["diff"].startswith("--- ") for file in view["files"])


def test_credentials_never_appear(bucket, rebundle):
    result = rebundle("diff", SCOPE, "state-1", "state-3")

    assert "creds/" not in "".join(
        line for line in result.out.splitlines() if line.startswith(("---", "+++"))
    )
