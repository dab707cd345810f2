"""`rebundle doctor`, on a folder and on servers with oddities."""

import pytest

from tests.support.odd_s3 import Oddity, odd_s3


@pytest.fixture(autouse=True)
def _credentials(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def verdicts(result):
    return {each["step"]: each["verdict"] for each in result.json["findings"]}


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
    assert all(each["explanation"] and each["seconds"] >= 0 for each in result.json["findings"])
    assert files() == before


def test_the_table_tells_every_step_and_the_clock(bucket, rebundle):
    told = rebundle("doctor", bucket).out

    assert "equal to this machine's" in told
    assert "replace stale" in told
    assert "bundles can be published here" in told


def test_the_bucket_is_named_once(bucket, rebundle):
    result = rebundle("doctor", bucket, "--bucket", bucket)

    assert (result.code, "name the bucket once" in result.err) == (2, True)


def test_a_server_that_ignores_conditions_is_refused(bucket, rebundle):
    with odd_s3(Oddity.IGNORES_CONDITIONS) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")
        told = rebundle("doctor", server.url("p")).out

    assert (result.code, result.json["usable"], verdicts(result)["create once"]) == (
        6,
        False,
        "refused",
    )
    assert "published states could be overwritten" in told
    assert "do not publish here" in told
    assert server.objects == {}


@pytest.mark.parametrize(
    ("oddity", "form"), [(Oddity.NONE, "quoted"), (Oddity.COMPARES_WITHOUT_QUOTES, "unquoted")]
)
def test_the_form_of_etags_that_the_server_compares_is_found_out(bucket, rebundle, oddity, form):
    with odd_s3(oddity) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")

    assert (result.code, result.json["etags"]) == (0, form)
    assert verdicts(result)["replace stale"] == "ok"


def test_keys_that_may_not_delete_are_told_and_suffice(bucket, rebundle):
    with odd_s3(Oddity.FORBIDS_DELETION) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")

    assert (result.code, verdicts(result)["clean up"]) == (0, "note")
    assert {key.rpartition("/")[0] for key in server.objects} == {"p/.rebundle/probe"}


def test_a_server_that_is_away_is_not_judged(bucket, rebundle):
    with odd_s3(Oddity.NONE) as server:
        pass

    result = rebundle("doctor", server.url(), "-o", "json")

    assert (result.code, verdicts(result)) == (6, {"create": "failed"})
    assert "it is unknown" in rebundle("doctor", server.url()).out


def test_what_the_server_lacks_by_itself_is_told(bucket, rebundle):
    """It compares no digests."""
    with odd_s3(Oddity.NONE) as server:
        result = rebundle("doctor", server.url("p"), "-o", "json")

    assert (result.code, verdicts(result)["checksum"], verdicts(result)["delete stale"]) == (
        0,
        "note",
        "ok",
    )
    assert server.objects == {}
