"""The whole path: an event, the daemon, a bucket, a copy on a host, an answer over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from events.model import BUNDLE_STATE_CREATED
from tests.services.compose import Compose
from tests.services.engine import Engine
from tests.services.images import Images
from tests.support.daemon_process import DaemonProcess, clean_log, post
from tests.support.engine_host import Host, Models, Store, eventually
from tests.support.publishing_daemon import BUCKET, LIVE_TREE, publishing_daemon, stamp
from tests.support.scenes import event


@pytest.fixture
def daemon(store: Store, images: Images, tmp_path: Path) -> Iterator[DaemonProcess]:
    """On the bucket, with the images that are in the engine."""
    with (
        clean_log(tmp_path / "daemon.log"),
        publishing_daemon(store, images, tmp_path) as run,
    ):
        yield run
        assert run.stop() == 0


def test_a_model_of_an_event_answers_over_http(
    engine: Engine,
    compose: Compose,
    images: Images,
    models: Models,
    store: Store,
    daemon: DaemonProcess,
    tmp_path: Path,
) -> None:
    composition = models.bundle(models.tensorflow("101", "3", factor=3))
    data = composition.model_dump(mode="json", exclude_none=True)
    data |= {"state": {"id": "state-1", "revision": 1}}

    answer = post(daemon.port(), event("first", BUNDLE_STATE_CREATED, data))
    assert answer is not None
    assert answer.status == 202, answer.body
    eventually(lambda: "state-1" in stamp(store))
    host = Host.beside(engine, compose, composition, tmp_path / "host", images)
    store.copy(f"{BUCKET}/{LIVE_TREE}", host.folder)
    host.fill_in(store)
    try:
        host.up()
        host.wait_for_factors({"101": 3})
    finally:
        host.remove()
