"""Every command that opens a bucket is protected against servers that ignore conditions."""

import asyncio
import re
import shlex

import pytest

from daemon.bucket import open_store
from daemon.lifecycle import SystemRuntime
from daemon.publishing import layout
from tests.builders_runtime import ThreadRuntime
from tests.support.buckets import SCOPE, PublishedBucket, composition_with
from tests.support.faulty_s3_server import Defect, FaultyS3, faulty_s3


@pytest.fixture(autouse=True)
def _credentials(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def publish(server: FaultyS3) -> None:
    with ThreadRuntime() as runtime:
        bucket = PublishedBucket(open_store(server.url("p"), runtime).store, runtime)
        asyncio.run(bucket.publish(composition_with("1"), "state-1", 1))


def writes(server: FaultyS3) -> list[str]:
    return [request.key for request in server.requests if request.method == "PUT"]


@pytest.mark.parametrize("command", ["hold", "republish"])
def test_a_command_changes_nothing_on_a_server_that_ignores_conditions(bucket, rebundle, command):
    with faulty_s3(Defect.IGNORES_CONDITIONS) as server:
        publish(server)
        before = dict(server.objects)

        result = rebundle(command, SCOPE, "--reason", "a look", "--bucket", server.url("p"))

        assert (result.code, "this store is not safe to publish to" in result.err) == (6, True)
        assert server.objects == before


def test_the_check_costs_a_writing_command_one_request_and_a_reading_one_none(bucket, rebundle):
    with faulty_s3(Defect.NONE) as server:
        publish(server)
        server.requests.clear()

        assert rebundle("status", SCOPE, "--bucket", server.url("p")).code == 0
        assert writes(server) == []
        assert rebundle("hold", SCOPE, "--reason", "a look", "--bucket", server.url("p")).code == 0

        asked, *others = writes(server)
        assert asked.startswith("p/.rebundle/probe/")
        assert others[0] == f"p/{layout.pointer(SCOPE)}"
        assert not [key for key in server.objects if "/probe/" in key]


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("status", SCOPE),
        ("scopes",),
        ("verify", "--all"),
        ("history", SCOPE),
        ("gc", "--all"),
        ("hold", SCOPE, "--reason", "r"),
        ("recover", SCOPE, "--reason", "r"),
        ("doctor",),
    ],
    ids=lambda command: command[0],
)
def test_a_missing_bucket_is_an_error_that_names_its_path_and_source(
    rebundle, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REBUNDLE_BUCKET", raising=False)
    settings = tmp_path / "rebundle.toml"
    settings.write_text('bucket = "of-file"\n')
    for more, source, name in (
        ((), "default", "var/bucket"),
        (("--bucket", "mistyped"), "flag --bucket", "mistyped"),
        (("--config", settings), f"{settings}:1", "of-file"),
    ):
        result = rebundle(*command, *more)
        assert result.code == 6
        assert f"there is no bucket at {tmp_path / name} ({source})" in result.err
    monkeypatch.setenv("REBUNDLE_BUCKET", "of-environment")
    assert f"{tmp_path / 'of-environment'} (environment REBUNDLE_BUCKET)" in rebundle(*command).err
    assert [path.name for path in tmp_path.iterdir()] == ["rebundle.toml"], "nothing is created"


def test_doctor_creates_a_bucket_on_request(rebundle, tmp_path):
    [command] = re.findall(
        r"`rebundle (doctor .* --create)`", rebundle("doctor", tmp_path / "a new one").err
    )

    assert rebundle(*shlex.split(command)).code == 0
    assert rebundle("scopes", "--bucket", tmp_path / "a new one").code == 0


def test_a_directory_bucket_is_not_checked_for_conditional_writes(bucket, rebundle):
    assert rebundle("hold", SCOPE, "--reason", "a look").code == 0

    assert not (bucket / ".rebundle" / "probe").exists()


def test_a_bucket_that_does_not_answer_for_long_is_announced_once(bucket, rebundle, monkeypatch):
    monkeypatch.setattr("daemon.stores.wrappers.timeout.SLOW_SECONDS", 0)
    monkeypatch.setattr("daemon.cli.session.SystemRuntime", Waiting)

    assert rebundle("states", SCOPE).err.count(f"still waiting for {bucket} …") == 1
    assert "still waiting" not in rebundle("states", SCOPE, "--quiet").err


class Waiting(SystemRuntime):
    """Every call takes a turn of the event loop longer than the notice."""

    async def run_in_thread(self, work, *arguments, **options):
        await asyncio.sleep(0.01)
        return await super().run_in_thread(work, *arguments, **options)
