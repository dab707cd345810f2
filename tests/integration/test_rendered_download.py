"""The rendered download.sh and models.txt with real rclone, real S3 and GCS servers, and each shell
an image may have.

Files are uploaded under the URIs of the composition, so rclone is asked for exactly what the
renderer writes.
"""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import make_model
from tests.services.gcs import TokenEndpoint
from tests.services.gcs import token_endpoint as other_token_endpoint
from tests.support.download_host import Host, composition, model


def test_every_model_is_fetched_into_the_folder_its_engine_reads(host: Host) -> None:
    tensorflow, triton = (
        model("101", "3", host.bucket),
        model("103", "2", host.bucket, platform="triton"),
    )
    host.upload(tensorflow, triton)

    code, log = host.download(composition(tensorflow, triton))

    assert code == 0, log
    assert host.files == {
        "101/3/saved_model.pb": "101 3 saved_model.pb",
        "101/3/variables/data": "101 3 variables/data",
        "103/103/config.pbtxt": "103 2 config.pbtxt",
        "103/103/1/model.onnx": "103 2 1/model.onnx",
    }


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_key_with_every_character_that_a_uri_may_have_is_fetched(
    host: Host, token_endpoint: TokenEndpoint, scheme: str
) -> None:
    unusual = make_model(
        "odd", artifact={"uri": f"{scheme}://{host.bucket}/Az09._=+@,~-/a,b=c@d+e~f/x"}
    )
    host.upload(unusual)
    host.trust(token_endpoint.service_account)

    code, log = host.download(composition(unusual))

    assert code == 0, log
    assert "odd/1/saved_model.pb" in host.files


def test_fetching_again_changes_nothing(host: Host) -> None:
    wanted = model("101", "3", host.bucket)
    host.upload(wanted)
    host.download(composition(wanted))
    before = {path: (host.models / path).stat().st_mtime_ns for path in host.files}

    code, log = host.download(composition(wanted))

    assert code == 0, log
    assert {path: (host.models / path).stat().st_mtime_ns for path in host.files} == before


def test_what_is_on_disk_needs_no_network_and_a_refresh_that_fails_keeps_it(host: Host) -> None:
    tensorflow, triton = (
        model("101", "3", host.bucket),
        model("103", "2", host.bucket, platform="triton"),
    )
    host.upload(tensorflow, triton)
    host.download(composition(tensorflow, triton))
    before = host.files
    for listed in host.client.list_objects_v2(Bucket=host.bucket)["Contents"]:
        host.client.delete_object(Bucket=host.bucket, Key=listed["Key"])

    nowhere = host.credentials | {"RCLONE_S3_ENDPOINT": "http://127.0.0.1:9"}
    code, log = host.download(composition(tensorflow, triton), nowhere)

    assert code == 0, log
    assert host.files == before

    refresh = host.credentials | {"MODEL_DOWNLOAD_REFRESH": "1"}
    code, log = host.download(composition(tensorflow, triton), refresh)

    assert code == 1
    assert all(f"FAILED {folder}" in log for folder in ("101/3", "103"))
    assert host.files == before


def test_a_model_that_fails_does_not_prevent_the_others(host: Host) -> None:
    there, missing = model("101", "3", host.bucket), model("102", "1", host.bucket)
    host.upload(there)

    code, log = host.download(composition(there, missing))

    assert code == 1
    assert "FAILED 102/1" in log
    assert set(host.files) == {"101/3/saved_model.pb", "101/3/variables/data"}


def test_a_new_version_replaces_the_old_one_and_a_rollback_restores_it(
    host: Host,
) -> None:
    old, new = model("101", "3", host.bucket), model("101", "4", host.bucket)
    host.upload(old, new)

    for wanted in (old, new, old):
        code, log = host.download(composition(wanted))
        assert code == 0, log
        # The engine serves the highest number. No engine runs, so what is lower stays for a run.
        assert max(path.name for path in (host.models / "101").iterdir()) == wanted.version
        assert (
            host.files[f"101/{wanted.version}/saved_model.pb"]
            == f"101 {wanted.version} saved_model.pb"
        )


def test_a_version_is_not_visible_before_it_is_complete(host: Host, tmp_path: Path) -> None:
    old, new = model("101", "3", host.bucket), model("101", "4", host.bucket)
    host.upload(old, new)
    host.download(composition(old))
    # The engine polls the folder: check it like the engine, each time rclone has just finished.
    watched = tmp_path / "bin/rclone"
    watched.parent.mkdir()
    watched.write_text(
        f'#!/bin/sh\n"{host.rclone}" "$@"\ncode=$?\nls "{host.models}/101" >>"{tmp_path}/seen"\nexit $code\n'
    )
    watched.chmod(0o755)

    code, log = replace(host, rclone=watched).download(composition(new))

    assert code == 0, log
    assert set((tmp_path / "seen").read_text().split()) == {"3"}
    assert {path.name for path in (host.models / "101").iterdir()} == {"3", "4"}


def test_without_an_engine_the_version_before_stays_and_no_older_one(host: Host) -> None:
    """A container may be stopped for a moment, or stay as its successor does not start."""
    versions = [model("101", number, host.bucket) for number in ("3", "4", "5")]
    host.upload(*versions)
    seen = []
    for version in versions:
        host.download(composition(version))
        host.download(composition(version))
        seen.append({path.name for path in (host.models / "101").iterdir()})
    assert seen == [{"3"}, {"3", "4"}, {"4", "5"}]


@pytest.mark.parametrize("other", ["1-1", "failed", "models", "missing"])
def test_an_id_is_no_name_of_another_models_files(host: Host, other: str) -> None:
    one, two = model("1", "1", host.bucket), model(other, "1", host.bucket, platform="triton")
    missing = model("2", "9", host.bucket)
    host.upload(one, two)

    code, log = host.download(composition(one, two, missing))
    assert code == 1
    assert [line for line in log.splitlines() if "FAILED" in line] == ["model_download: FAILED 2/9"]
    before = host.files

    code, log = host.download(composition(one, two))

    assert code == 0, log
    assert "reading" not in log
    assert host.files == before


def test_the_remains_of_a_killed_download_are_not_a_version(host: Host) -> None:
    wanted = model("101", "3", host.bucket)
    host.upload(wanted)
    half = host.models / ".incoming/101/3"
    half.mkdir(parents=True)
    (half / "saved_model.pb").write_text("half")
    (half / "stale").write_text("of another try")

    code, log = host.download(composition(wanted))

    assert code == 0, log
    assert host.files == {
        "101/3/saved_model.pb": "101 3 saved_model.pb",
        "101/3/variables/data": "101 3 variables/data",
    }


def test_a_version_that_cannot_be_fetched_leaves_the_served_one(host: Host) -> None:
    old, missing = model("101", "3", host.bucket), model("101", "4", host.bucket)
    host.upload(old)
    host.download(composition(old))
    before = host.files

    code, _ = host.download(composition(missing))

    assert (code, host.files) == (1, before)


def test_missing_s3_credentials_are_named_with_the_file_to_put_them_in(host: Host) -> None:
    wanted = model("101", "3", host.bucket)
    host.upload(wanted)

    code, log = host.download(composition(wanted), credentials={})

    assert (code, host.files) == (1, {})
    assert "RCLONE_S3_ACCESS_KEY_ID" in log
    assert "creds/bundle/.env" in log


def test_the_placeholder_is_not_used_as_a_service_account(host: Host) -> None:
    code, log = host.download(composition(model("101", "3", "example-bucket", scheme="gs")))

    assert (code, host.files) == (1, {})
    assert "creds/bundle/gcs.json" in log


def test_a_bundle_on_s3_needs_no_service_account(host: Host) -> None:
    wanted = model("101", "3", host.bucket)
    host.upload(wanted)
    (host.bundle.directory / "creds/bundle/gcs.json").unlink()

    code, log = host.download(composition(wanted))

    assert code == 0, log


def test_a_bundle_on_both_storages_is_fetched_with_the_service_account_and_the_keys(
    host: Host, token_endpoint: TokenEndpoint
) -> None:
    on_gcs, triton = (
        model("101", "3", host.bucket, scheme="gs"),
        model("103", "2", host.bucket, "triton", "gs"),
    )
    openvino = model("ov", "1", host.bucket, "openvino")
    host.upload(on_gcs, triton, openvino)
    host.trust(token_endpoint.service_account)

    code, log = host.download(composition(on_gcs, triton, openvino))

    assert code == 0, log
    assert set(host.files) == {
        *("101/3/saved_model.pb", "101/3/variables/data"),
        *("103/103/config.pbtxt", "103/103/1/model.onnx"),
        *("ov/1/model.xml", "ov/1/model.bin"),
    }
    assert host.files["101/3/variables/data"] == "101 3 variables/data"
    assert set(token_endpoint.let_in) == {
        json.loads(token_endpoint.service_account)["client_email"]
    }


def test_a_rejected_service_account_affects_only_the_models_on_gcs(
    host: Host, token_endpoint: TokenEndpoint
) -> None:
    on_gcs, on_s3 = model("101", "3", host.bucket, scheme="gs"), model("102", "1", host.bucket)
    host.upload(on_gcs, on_s3)
    with other_token_endpoint() as other:
        stolen = json.loads(other.service_account) | {"token_uri": token_endpoint.address}
        host.trust(json.dumps(stolen))

        code, log = host.download(composition(on_gcs, on_s3))

    assert code == 1
    assert "FAILED 101/3" in log
    assert "invalid_grant" in log
    assert set(host.files) == {"102/1/saved_model.pb", "102/1/variables/data"}


def test_a_missing_source_on_gcs_fails_and_keeps_the_files(
    host: Host, token_endpoint: TokenEndpoint
) -> None:
    there = model("103", "2", host.bucket, "triton", "gs")
    host.upload(there)
    host.trust(token_endpoint.service_account)
    host.download(composition(there))
    before = host.files
    assert before

    for gone in (
        model("103", "9", host.bucket, "triton", "gs"),
        model("103", "2", f"{host.bucket}-gone", "triton", "gs"),
    ):
        code, log = host.download(composition(gone))

        assert (code, host.files) == (1, before), log
        assert "FAILED 103" in log


@pytest.mark.parametrize("spelling", ["Minio", "minio", "MinIO"])
def test_a_common_spelling_of_a_provider_is_one_that_rclone_knows(
    host: Host, spelling: str
) -> None:
    wanted = model("101", "3", host.bucket)
    host.upload(wanted)

    code, log = host.download(
        composition(wanted), host.credentials | {"RCLONE_S3_PROVIDER": spelling}
    )

    assert code == 0, log
    # rclone guesses, prints a notice, and continues.
    assert "provider" not in log


@pytest.mark.parametrize(
    ("platform", "files", "where"),
    [
        ("tensorflow", ["MLmodel", "data/model/saved_model.pb"], "data/model/saved_model.pb"),
        ("tensorflow", ["0001/saved_model.pb"], "0001/saved_model.pb"),
        ("triton", ["103/config.pbtxt", "103/1/model.onnx"], "103/config.pbtxt"),
        ("openvino", ["1/model.xml", "1/model.bin"], "1/model.xml"),
        ("tensorflow", ["model.tar.gz"], "an archive"),
    ],
    ids=["mlflow", "a root of versions", "a repository", "openvino", "an archive"],
)
def test_what_the_engine_would_not_load_is_reported_with_its_place(
    host: Host, platform: str, files: list[str], where: str
) -> None:
    wanted = model("101", "3", host.bucket, platform)
    for file in files:
        host.client.put_object(Bucket=host.bucket, Key=f"models/101/3/{file}", Body=b"x")

    code, log = host.download(composition(wanted))

    assert (code, host.files) == (1, {})
    assert "the engine finds no model here" in log
    assert where in log


def test_a_store_that_cannot_be_reached_is_tried_once_and_reported_at_once(host: Host) -> None:
    wanted = [model(str(number), "1", host.bucket) for number in range(101, 109)]
    nowhere = host.credentials | {"RCLONE_S3_ENDPOINT": "http://127.0.0.1:9"}

    code, log = host.download(composition(*wanted), nowhere)

    assert code == 1
    lines = log.splitlines()
    # Three at a time; the others are not tried.
    assert 1 <= sum("the store cannot be reached: check the network" in line for line in lines) <= 3
    assert sum("is not tried: the store cannot be reached" in line for line in lines) >= 5
    assert "reading s3:" in lines[0]


def test_a_name_with_a_word_for_credentials_is_reported_as_a_wrong_name(host: Host) -> None:
    gone = make_model("102", artifact={"uri": "s3://no-such-token-credentials/a"})
    _, log = host.download(composition(gone))
    assert "there are no such files: check the URI of the artifact" in log


def test_an_archive_of_one_host_is_tried_although_another_host_does_not_answer(host: Host) -> None:
    digest = "sha256:" + 64 * "0"
    archives = [
        make_model(name, artifact={"uri": f"https://{address}/a.tar", "digest": digest})
        for name, address in (("101", "127.0.0.1:9"), ("102", "localhost:9"))
    ]
    for each in archives:
        _, log = host.download(composition(each))
    _, log = host.download(composition(*archives))
    assert "not tried" not in log


def test_a_missing_name_is_reported_as_such(host: Host) -> None:
    wanted = model("101", "3", host.bucket)

    _, log = host.download(composition(wanted))
    assert "there are no such files: check the URI of the artifact" in log

    gone = make_model("102", artifact={"uri": "s3://no-such-bucket-here/a"})
    _, log = host.download(composition(gone))
    assert "there are no such files: check the URI of the artifact" in log


def test_a_store_of_its_own_has_its_own_credentials(host: Host) -> None:
    own = make_model("101", artifact={"uri": f"s3://{host.bucket}/models/101/1", "store": "team-a"})
    host.upload(own)
    wrong = host.credentials | {"RCLONE_S3_ENDPOINT": "http://127.0.0.1:9", "RCLONE_S3_REGION": "x"}

    code, log = host.download(composition(own), wrong)

    assert code == 1
    assert "put them into creds/bundle/team-a.env" in log

    lines = [f"{name}='{value}'" for name, value in host.credentials.items()]
    text = "# team a\n" + "\n".join(lines) + "\nIGNORED-NAME=$(touch /tmp/executed)\n"
    (host.bundle.directory / "creds/bundle/team-a.env").write_text(text)
    code, log = host.download(composition(own), wrong)

    assert code == 0, log
    assert "101/1/saved_model.pb" in host.files


def test_a_file_uri_is_below_the_folder_files_of_the_deployment_directory(host: Host) -> None:
    wanted = make_model("101", artifact={"uri": "file:///models/101"})
    listed = host.bundle.folder / "base/model-serving/model-download/models.txt"
    host.bundle.replace_base(composition(wanted))
    assert listed.read_text().endswith(" local:/files/models/101\n")
    assert "- ${REL_DIR}/files:/files:ro\n" in host.bundle.compose_file.read_text()


@pytest.mark.parametrize("reachable", [True, False], ids=["reachable", "unreachable"])
def test_a_former_version_folder_with_the_name_of_the_model_gives_way(
    host: Host, reachable: bool
) -> None:
    """The release before this one had the versions of a Triton model directly in its folder, and
    this one has there the model by its name.
    """
    wanted = model("103", "2", host.bucket, platform="triton")
    host.upload(wanted)
    former = {"config.pbtxt": "former", "103/model.onnx": "former", "7/model.onnx": "former"}
    for name, text in former.items():
        path = host.models / "103" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    nowhere = host.credentials | {"RCLONE_S3_ENDPOINT": "http://127.0.0.1:9"}

    for _ in range(2):
        code, log = host.download(composition(wanted), host.credentials if reachable else nowhere)

        assert code == 0, log
        assert {
            path.removeprefix("103/103/"): text
            for path, text in host.files.items()
            if path.startswith("103/103/")
        } == (
            {"config.pbtxt": "103 2 config.pbtxt", "1/model.onnx": "103 2 1/model.onnx"}
            if reachable
            else former
        )


def test_a_disk_that_is_too_full_keeps_what_is_there(host: Host) -> None:
    old, new = model("101", "3", host.bucket), model("101", "4", host.bucket)
    host.upload(old, new)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", host.models], check=True)
    try:
        host.client.put_object(
            Bucket=host.bucket, Key="models/101/4/variables/data", Body=bytes(5 << 20)
        )
        host.download(composition(old))
        before = host.files

        code, log = host.download(composition(new))

        assert (code, host.files) == (1, before)
        assert "101/4: the disk is too full: " in log

        # Each of them fits alone.
        several = [model(name, "1", host.bucket) for name in ("102", "104", "105")]
        host.upload(*several)
        for each in several:
            key = f"models/{each.id}/1/variables/data"
            host.client.put_object(Bucket=host.bucket, Key=key, Body=bytes(5 << 19))

        code, log = host.download(composition(old, *several))

        assert code == 1
        assert "the disk is too full" in log, log
        assert "101/3 is there" in log
    finally:
        subprocess.run(["umount", host.models], check=True)


def test_the_map_has_the_models_that_are_there(host: Host) -> None:
    there, missing = model("101", "3", host.bucket), model("102", "1", host.bucket)
    host.upload(there)
    host.download(composition(there, missing))
    assert (host.router / "models").read_text() == "101 s101s:9000;\n"

    # A model that was served keeps its line when its new version is missing.
    (host.router / "models").write_text("102 s102s:9000;\n")
    # An update that was killed has left its calls at a certain container.
    (host.router / "models.map").write_text("102 site-s102s-2:9000;\n")
    host.download(composition(there, missing))
    assert (host.router / "models").read_text() == "101 s101s:9000;\n102 s102s:9000;\n"


def test_a_full_disk_keeps_the_map_of_the_router(host: Host) -> None:
    wanted = model("101", "3", host.bucket)
    host.upload(wanted)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", host.router], check=True)
    try:
        (host.router / "models").write_text("101 s101s:9000;\n")
        code, log = host.download(composition(wanted))
        assert code == 1
        assert "the map of the router cannot be written: is the disk full?" in log
        assert (host.router / "models").read_text() == "101 s101s:9000;\n"
    finally:
        subprocess.run(["umount", host.router], check=True)


def test_the_others_may_start_without_a_model_that_is_missing(host: Host) -> None:
    there, missing = model("101", "3", host.bucket), model("102", "1", host.bucket)
    host.upload(there)

    code, log = host.download(
        composition(there, missing), host.credentials | {"REQUIRE_ALL_MODELS": "false"}
    )

    assert code == 0
    assert "FAILED 102/1" in log
    assert "1 model(s) are missing; the services of the others start" in log
