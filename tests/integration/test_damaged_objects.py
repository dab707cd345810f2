"""Bytes that rot on the disk of a server, as reported by the command line."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import boto3
import pytest

from daemon.stores.s3 import S3Store
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import ThreadRuntime
from tests.contract.servers import ACCESS_KEY, REGION, SECRET_KEY
from tests.services.availability import available
from tests.services.versitygw import versitygw
from tests.support.daemon_process import PROJECT

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}


async def publish(address: str) -> None:
    runtime = ThreadRuntime()
    with (
        closing(runtime),
        closing(S3Store("rotten", "", runtime, endpoint=address, region=REGION)) as store,
    ):
        bucket = Bucket(store, runtime)
        await bucket.publish(make_state(1), make_state(2))
        await bucket.live_tree.reconcile(SCOPE)


def rot(file: Path) -> None:
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    with file.open("r+b") as opened:  # in place: the server keeps its checksum beside the bytes
        opened.write(body)


def rebundle(folder: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REBUNDLE_", "AWS_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments, "--bucket", f"s3://rotten?endpoint={address}"],
        cwd=folder,
        env=kept | KEYS | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_rotten_object_is_one_failed_check_and_recover_continues_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.environ.get("REBUNDLE_VERSITYGW"):
        pytest.skip("the files of a server that runs elsewhere cannot be changed")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with ExitStack() as stack:
        address = available(lambda: stack.enter_context(versitygw(tmp_path)))
        with closing(boto3.client("s3", endpoint_url=address, region_name=REGION)) as client:
            client.create_bucket(Bucket="rotten")
        asyncio.run(publish(address))
        scope = tmp_path / "objects" / "rotten" / str(SCOPE)
        rot(next((scope / "states" / "state-1").rglob("bundle.tar.gz")))
        rot(scope / "docker-compose-gen" / "base" / "docker-compose.yml")
        verified = rebundle(tmp_path, address, "verify", "--all", "-o", "json")
        rot(scope / "pointer.json")
        status = rebundle(tmp_path, address, "status", "-o", "json")
        lost = rebundle(tmp_path, address, "verify", "--all", "-o", "json")
        recovered = rebundle(
            tmp_path, address, "recover", str(SCOPE), "--reason", "bytes rot", "--yes"
        )
        after = rebundle(tmp_path, address, "verify", str(SCOPE), "-o", "json")

    assert verified.returncode == 5, verified.stderr
    rows = {
        check["what"].split("@")[0]: check["problem"]
        for check in json.loads(verified.stdout)["checks"]
    }
    assert [what for what, problem in rows.items() if problem] == ["state state-1", "live tree"]
    assert all("is damaged" in problem for problem in rows.values() if problem)
    assert status.returncode == 5, status.stderr
    (attention,) = json.loads(status.stdout)["scopes"][0]["attention"]
    assert "is damaged" in attention
    assert lost.returncode == 5
    assert [check["what"] for check in json.loads(lost.stdout)["checks"]] == ["pointer"]
    assert recovered.returncode == 0, recovered.stderr
    assert "left out state-1@" in recovered.stdout + recovered.stderr
    assert {
        check["what"].split(",")[0]: check["ok"] for check in json.loads(after.stdout)["checks"]
    }["pointer"]
