"""`rebundle doctor` on a folder and on servers with defects."""

import pytest

from tests.support.faulty_s3_server import Defect, faulty_s3


@pytest.fixture(autouse=True)
def _credentials(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def verdicts(result):
    return {finding["step"]: finding["verdict"] for finding in result.json["findings"]}


def test_the_configured_bucket_is_probed_and_left_as_it_was(bucket, rebundle):
    def files():
        return {
            path: path.read_bytes()
            for path in bucket.rglob("*")
            if path.is_file() and path.parent.name != "locks"
        }

    before = files()

    result = rebundle("doctor", "-o", "json")

    assert (result.code, result.json["store"], result.json["usable"]) == (0, "directory", True)
    assert set(verdicts(result).values()) == {"ok"}
    assert all(
        finding["explanation"] and finding["seconds"] >= 0 for finding in result.json["findings"]
    )
    assert files() == before


def test_the_table_shows_every_step_and_the_clock(bucket, rebundle):
    output = rebundle("doctor", bucket).out

    assert "equal to this machine's" in output
    assert "replace stale" in output
    assert "bundles can be published here" in output


def test_the_bucket_is_named_once(bucket, rebundle):
    result = rebundle("doctor", bucket, "--bucket", bucket)

    assert (result.code, "name the bucket once" in result.err) == (2, True)


def test_a_server_that_ignores_conditions_is_refused(bucket, rebundle):
    with faulty_s3(Defect.IGNORES_CONDITIONS) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")
        output = rebundle("doctor", server.url("p")).out

    assert (result.code, result.json["usable"], verdicts(result)["create once"]) == (
        6,
        False,
        "refused",
    )
    assert "published states could be overwritten" in output
    assert "do not publish here" in output
    assert server.objects == {}


@pytest.mark.parametrize(
    ("defect", "form"), [(Defect.NONE, "quoted"), (Defect.COMPARES_WITHOUT_QUOTES, "unquoted")]
)
def test_the_form_of_etags_that_the_server_compares_is_detected(bucket, rebundle, defect, form):
    with faulty_s3(defect) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")

    assert (result.code, result.json["etags"]) == (0, form)
    assert verdicts(result)["replace stale"] == "ok"


def test_credentials_without_delete_permission_are_reported_and_suffice(bucket, rebundle):
    with faulty_s3(Defect.FORBIDS_DELETION) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")

    assert (result.code, verdicts(result)["clean up"]) == (0, "note")
    assert {key.rpartition("/")[0] for key in server.objects} == {"p/.rebundle/probe"}


def test_an_unreachable_server_gets_no_verdict(bucket, rebundle):
    with faulty_s3(Defect.NONE) as server:
        pass

    result = rebundle("doctor", server.url(), "-o", "json")

    assert (result.code, verdicts(result)) == (6, {"create": "failed"})
    assert "it is unknown" in rebundle("doctor", server.url()).out


def test_guarantees_that_the_server_lacks_are_reported(bucket, rebundle):
    """It compares no digests."""
    with faulty_s3(Defect.NONE) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")

    assert (result.code, verdicts(result)["checksum"], verdicts(result)["delete stale"]) == (
        0,
        "note",
        "ok",
    )
    assert server.objects == {}
