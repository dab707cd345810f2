"""The host of a bundle is switched off and on again while bucket and image registry are away.

The test has an engine of its own, because the shared one must not end.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import engine as engine_service
from tests.services.compose import Compose
from tests.services.engine import Engine
from tests.services.images import Images
from tests.support.engine_host import Host, Models, Store, eventually
from tests.support.updates import FACTORS, UP, UPDATE_SH


@pytest.fixture
def other_engine(
    engine: Engine, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """An engine with the images, which no other test uses."""
    if not engine.own:
        pytest.skip("the environment names an engine, which cannot be switched off")
    used = (
        *(images.nginx, images.rclone, images.model_proxy, images.tensorflow_serving),
        *(images.openvino, images.triton, images.store),
    )
    shared = engine.environment
    folder = tmp_path / "an engine"
    folder.mkdir()
    monkeypatch.setattr(engine_service, "CACHE", folder)
    with (
        engine_service.engine() as other,
        subprocess.Popen(
            [engine.client, "save", *used], env=shared, stdout=subprocess.PIPE
        ) as saved,
    ):
        other.run("load", "--quiet", stdin=saved.stdout)
        yield other
    # It ends a moment after its last user, and pytest keeps its folders otherwise.
    eventually(lambda: not Path(other.host.removeprefix("unix://")).exists())
    shutil.rmtree(folder)


def test_a_host_that_was_switched_off_serves_again_and_is_updated_without_bucket_and_registry(
    other_engine: Engine, compose: Compose, images: Images, tmp_path: Path
) -> None:
    # No restart policy brings the store back, and the engine reaches no registry.
    with Store.running(other_engine, images) as store:
        models = Models(images, store)
        bundle = models.bundle(
            models.tensorflow("101", "3", factor=3),
            models.openvino("102", "7", factor=7),
            models.triton("103", "2", factor=2),
        )
        folder = tmp_path / "a host"
        folder.mkdir()
        host = Host.deploy(other_engine, compose, bundle, folder, store, images)
        host.up()
        host.wait_for_factors(FACTORS)
        before = host.containers()

        engine_service.cut_power()
        with engine_service.rebooted():
            host.wait_for_factors(FACTORS)
            assert host.containers() == before
            state = other_engine.inspect(store.container)["State"]
            assert not state["Running"]

            for way in (UP, UPDATE_SH):
                output = way.command(host)
                assert output.code == 0, output.text
                host.wait_for_factors(FACTORS)
                after = host.containers()
                assert {name for name in after if after[name] != before[name]} <= {"model_download"}
