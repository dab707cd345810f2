"""The whole path: an event, the daemon, a bucket, a copy on a host, an answer over HTTP."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from events.model import BUNDLE_STATE_CREATED
from tests.services.compose import Compose
from tests.services.engine import Engine
from tests.services.images import Images
from tests.support.daemon_process import DaemonProcess, clean_log, post
from tests.support.engine_host import Host, Models, Store, eventually
from tests.support.scenes import GOLDEN, event

LIVE_TREE = f"{GOLDEN.bundle}/{GOLDEN.target}/docker-compose-gen"


@pytest.fixture
def bucket(store: Store) -> str:
    with contextlib.closing(store.client()) as client:
        client.create_bucket(Bucket="bundles")
    return "bundles"


@pytest.fixture
def daemon(store: Store, bucket: str, images: Images, tmp_path: Path) -> Iterator[DaemonProcess]:
    """On the bucket, with the images that are in the engine."""
    log = tmp_path / "daemon.log"
    environment = {
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "REBUNDLE_RENDER__DOWNLOAD_IMAGE": images.rclone,
        "REBUNDLE_RENDER__ROUTER_IMAGE": images.nginx,
    }
    url = f"s3://{bucket}?endpoint={store.endpoint}&region=us-east-1"
    with clean_log(log), DaemonProcess(url, tmp_path / "j.db", log, environment=environment) as run:
        yield run
        assert run.stop() == 0


def stamp(store: Store, bucket: str) -> str:
    with contextlib.closing(store.client()) as client:
        try:
            found = client.get_object(Bucket=bucket, Key=f"{LIVE_TREE}/base/.rebundle.json")
        except ClientError:
            return ""
        return found["Body"].read().decode()


def test_a_model_of_an_event_answers_over_http(
    engine: Engine,
    compose: Compose,
    images: Images,
    models: Models,
    store: Store,
    bucket: str,
    daemon: DaemonProcess,
    tmp_path: Path,
) -> None:
    composition = models.bundle(models.tensorflow("101", "3", factor=3))
    data = composition.model_dump(mode="json", exclude_none=True)
    data |= {"state": {"id": "state-1", "revision": 1}}

    answer = post(daemon.port(), event("first", BUNDLE_STATE_CREATED, data))
    assert answer is not None
    assert answer.status == 202, answer.body
    eventually(lambda: "state-1" in stamp(store, bucket))
    host = Host.beside(engine, compose, composition, tmp_path / "host", images)
    store.copy(f"{bucket}/{LIVE_TREE}", host.folder)
    host.fill_in(store)
    try:
        host.up()
        host.wait_for_factors({"101": 3})
    finally:
        host.remove()
