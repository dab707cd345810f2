"""The advice of the bundle's README on override files, with the oldest and the newest release of Docker
Compose that a bundle supports.
"""

import re
from collections.abc import Callable

import pytest

from renderers.composition import Composition
from tests.services import compose as compose_service
from tests.services.availability import available
from tests.support.engine_host import Host, Models
from tests.support.updates import update_sh

FACTORS = {"101": 3.0, "102": 5.0, "103": 7.0}
COMMAND = ["--model_name=103", "--model_base_path=/models/103", "--port=9000"]
ALL_GPUS, ONE_GPU = {"count": "all"}, {"count": 1}


@pytest.fixture(scope="module", params=["2.22.0", "newest"])
def edition(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def basis(models: Models) -> Composition:
    return models.bundle(
        models.tensorflow("101", "1", 3, gpu=ALL_GPUS),
        models.tensorflow("102", "1", 5, gpu=ONE_GPU),
        models.tensorflow("103", "1", 7),
    )


@pytest.fixture
def host(deploy: Callable[..., Host], basis: Composition, edition: str) -> Host:
    return deploy(basis, compose=available(lambda: compose_service.compose(edition)))


def advice(host: Host) -> str:
    """The override file of the README for a host without GPUs."""
    readme = (host.folder / "README.md").read_text()
    (text,) = re.findall(r"^```\n(services:\n.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    return text.replace("<model_id>", "101").replace("<other_model_id>", "102")


def write(host: Host, text: str) -> None:
    (host.directory / "docker-compose.override.yaml").write_text(text)


def test_models_with_gpus_run_on_the_cpu_and_a_model_that_left_is_skipped(
    host: Host, basis: Composition, models: Models
) -> None:
    assert host.run("up", "--detach").code != 0
    write(host, f"{advice(host)}  s103s:\n    command: {COMMAND}\n")
    host.up()
    host.wait_for_factors(FACTORS)
    # A command is replaced as a whole.
    assert host.engine.inspect(host.containers()["s103s"])["Config"]["Cmd"] == COMMAND
    host.replace_base(models.bundle(*basis.models[:2]))

    refused = host.run("up", "--detach", "--remove-orphans")
    named = update_sh(host)
    skipped = update_sh(host, "--skip-override-of", "s103s")

    assert 'service "s103s" has neither an image nor a build context specified' in refused.text
    assert "docker-compose.override.yaml:6 changes s103s, which is not in the bundle" in named.text
    assert (refused.code != 0, named.code, skipped.code) == (True, 1, 0), skipped.text
    assert "s103s" not in host.services()
    assert host.factors() == {"101": 3, "102": 5}


def test_devices_replace_those_of_the_bundle_where_compose_knows_the_tag(
    host: Host, edition: str
) -> None:
    (devices,) = re.findall(r"`(devices: !override .*?)`", (host.folder / "README.md").read_text())
    write(
        host, f"services:\n  s102s:\n    deploy: {{resources: {{reservations: {{{devices}}}}}}}\n"
    )

    host.succeed("create", "s102s")

    requests = host.engine.inspect(host.containers()["s102s"])["HostConfig"]["DeviceRequests"]
    asked = [(request["Count"], request["DeviceIDs"]) for request in requests]
    appended = [] if edition == "newest" else [(1, None)]
    assert asked == [*appended, (0, ["1"])]
