"""SIGKILL before and after every write to a real S3 or GCS server and to the journal: nothing is
lost or torn.

`entry` and `tests.support.crashes` explain how it is done and what is compared. A disk has a
separate test.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.services import gcs, testbench, versitygw
from tests.services.availability import available
from tests.support.crashes import STORIES, Story

PROJECT = Path(__file__).parents[2]
# Each takes half a minute: one on every machine, all of them when there is time for crash tests.
CUT_SHORT = STORIES if "REBUNDLE_CRASH_MINUTES" in os.environ else STORIES[1:2]


@dataclass(frozen=True, slots=True)
class Server:
    """A bucket with a prefix per test, and the settings to use it."""

    url: str
    query: str
    env: Mapping[str, str] = field(default_factory=dict)


def _versitygw(stack: ExitStack, folder: Path) -> Server:
    address = available(lambda: stack.enter_context(versitygw.versitygw(folder)))
    keys = {
        "AWS_ACCESS_KEY_ID": versitygw.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": versitygw.SECRET_KEY,
    }
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=versitygw.ACCESS_KEY,
        aws_secret_access_key=versitygw.SECRET_KEY,
    )
    client.create_bucket(Bucket="kills")
    client.close()
    return Server("s3://kills", f"endpoint={address}&region=us-east-1", keys)


def _fake_gcs_server(stack: ExitStack, folder: Path) -> Server:
    return _gcs(available(lambda: stack.enter_context(gcs.gcs(folder))))


def _testbench(stack: ExitStack, folder: Path) -> Server:
    return _gcs(available(lambda: stack.enter_context(testbench.testbench(folder))))


def _gcs(server: gcs.Gcs) -> Server:
    server.create_bucket("kills")
    return Server("gs://kills", f"endpoint={server.address}")


@pytest.fixture(
    scope="module",
    params=[_versitygw, _fake_gcs_server, _testbench],
    ids=["versitygw", "fake-gcs-server", "storage-testbench"],
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with ExitStack() as stack:
        yield request.param(stack, tmp_path_factory.mktemp("server"))


def kills(folder: Path, story: Story, server: Server) -> dict[str, Any]:
    url = f"{server.url}/{story.name}"
    command = [
        sys.executable,
        "-m",
        "tests.acceptance.entry",
        "kills-on",
        str(folder),
        story.name,
        url,
        server.query,
    ]
    # A killed process writes no coverage data; measuring it would only slow it down.
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COVERAGE_", "AWS_"))
    }
    run = subprocess.run(
        command,
        cwd=PROJECT,
        env=env | server.env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("story", CUT_SHORT, ids=lambda story: story.name)
def test_a_kill_at_any_write_to_a_server_loses_nothing_tears_nothing_and_ends_the_same(
    server: Server, story: Story, tmp_path: Path
) -> None:
    found = kills(tmp_path, story, server)
    print({item: found[item] for item in ("kills", "unaccepted", "reads")})

    assert found["end"] == 0, "the last child was not killed, and succeeded"
    assert found["kills"] > 15
    assert found["unaccepted"] == 2
    assert found["reads"] > found["kills"]
    assert found["torn"] == []
    assert found["wrong"] == [], found["expected"]
    assert set(found["expected"]["outcomes"]) == {
        item.id for item in (*story.before, *story.events)
    }
