"""update.sh: what it checks, what it shows, and what it leaves when it is killed."""

import signal
import subprocess
import time
from collections.abc import Mapping

import pytest

from renderers.composition import Composition
from tests.services.processes import free_port
from tests.support.engine_host import Host, Models
from tests.support.updates import (
    ROUTER,
    UPDATE_SH,
    failures,
    models_on_disk,
    update_sh,
    with_models,
)

FACTORS = {"101": 3.0, "102": 7.0}


@pytest.fixture(scope="module")
def basis(models: Models) -> Composition:
    return models.bundle(
        models.tensorflow("101", "3", factor=3), models.tensorflow("102", "7", factor=7)
    )


@pytest.fixture(scope="module")
def factors() -> Mapping[str, float]:
    return FACTORS


def override(host: Host, text: str) -> None:
    (host.directory / "docker-compose.override.yaml").write_text(text)


def test_a_dry_run_shows_what_would_change_and_changes_nothing(
    host: Host, basis: Composition, models: Models
) -> None:
    host.replace_base(
        models.bundle(
            models.tensorflow("101", "4", factor=4, resources={"limits": {"memory": "1g"}}),
            models.tensorflow("104", "1", factor=11),
        )
    )
    before = host.containers()

    output = update_sh(host, "--dry-run")

    assert output.code == 0, output.text
    lines = [line.split()[:2] for line in output.stdout.splitlines()]
    assert ["fetch", "101/4"] in lines
    assert ["fetch", "104/1"] in lines
    assert ["replace", "s101s"] in lines
    assert ["start", "s104s"] in lines
    assert ["remove", "s102s"] in lines
    assert host.containers() == before


@pytest.mark.parametrize("seconds", [2, 5, 8, 11])
def test_an_update_that_is_killed_is_repaired_by_the_next_one(
    host: Host, basis: Composition, models: Models, seconds: int
) -> None:
    changed = with_models(
        basis,
        models,
        models.tensorflow("101", "4", factor=4, resources={"limits": {"memory": "1g"}}),
    )
    with host.load() as load:
        host.replace_base(changed)
        with subprocess.Popen(
            ["sh", "update.sh"],
            cwd=host.directory,
            env=host.script_environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        output = update_sh(host)

    assert output.code == 0, output.text
    assert failures(load) == {}
    host.wait_for_factors(FACTORS | {"101": 4.0})
    names = host.engine.run(
        "ps", "--filter", f"name={host.project}-s101s", "--format", "{{.Names}}"
    )
    assert len(names.split()) == 1
    assert host.run("exec", "-T", ROUTER, "sh", "-c", "ls /etc/nginx/bundle/pinned.*").code != 0


def test_a_container_that_does_not_become_healthy_is_taken_back(
    host: Host, basis: Composition, models: Models
) -> None:
    override(host, "services:\n  s101s:\n    command: !override [--unknown_flag=1]\n")
    before = host.containers()
    with host.load() as load:
        # It ends again and again, so nothing is gained by waiting for it.
        output = update_sh(host)

    assert output.code == 1
    assert failures(load) == {}
    assert "s101s: the new container does not become healthy (" in output.text
    assert "), and the old one stays" in output.text
    assert "unknown" in output.text
    assert host.containers() == before


def test_an_override_of_a_service_that_left_is_named_before_anything_changes(
    host: Host, basis: Composition, models: Models
) -> None:
    override(
        host,
        "services:\n  s102s:\n    stop_grace_period: 5s\n  s101s:\n    stop_grace_period: 6s\n",
    )
    UPDATE_SH.update(host, basis)
    host.replace_base(models.bundle(*[model for model in basis.models if model.id != "102"]))
    before = host.containers()

    output = update_sh(host)

    assert output.code == 1
    assert "docker-compose.override.yaml:2 changes s102s, which is not in the bundle" in output.text
    assert host.containers() == before

    output = update_sh(host, "--skip-override-of", "s102s")

    assert output.code == 0, output.text
    assert "s102s" not in host.services()
    inspected = host.engine.inspect(host.containers()["s101s"])
    assert inspected["Config"]["StopTimeout"] == 6


def test_more_cpus_than_the_host_has_are_named_before_anything_changes(
    host: Host, basis: Composition
) -> None:
    override(host, "services:\n  s101s:\n    deploy: {resources: {limits: {cpus: '64'}}}\n")

    output = update_sh(host)

    assert output.code == 1
    assert "s101s may use 64 CPUs, and this host has" in output.text
    assert "SERVING_101_CPU_LIMIT" in output.text


def test_a_service_with_a_port_of_the_host_is_replaced(
    host: Host, basis: Composition, models: Models
) -> None:
    """Two containers cannot have the port at the same time."""
    override(host, f"services:\n  s101s:\n    ports: ['{free_port()}:8501']\n")
    before = host.containers()

    output = update_sh(host)

    assert output.code == 0, output.text
    assert host.containers()["s101s"] != before["s101s"]
    host.wait_for_factors(FACTORS)


def test_a_platform_that_does_not_start_leaves_the_former_one_serving(
    host: Host, basis: Composition, models: Models
) -> None:
    other = models.triton("101", "4", factor=4, arguments=["--no-such-flag"])
    with host.load() as load:
        host.replace_base(with_models(basis, models, other))
        output = update_sh(host)

    assert output.code == 1
    assert failures(load) == {}
    assert "101/3" in models_on_disk(host)


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        ({"count": "all"}, "docker has no runtime nvidia here"),
        ({"count": "all", "driver": "nvidia"}, "docker cannot give GPUs here"),
    ],
    ids=["by the runtime", "by a request"],
)
def test_a_gpu_without_the_toolkit_is_named_before_anything_changes(
    host: Host, basis: Composition, models: Models, gpu: dict[str, str], reason: str
) -> None:
    host.replace_base(with_models(basis, models, models.tensorflow("101", "3", factor=3, gpu=gpu)))
    before = host.containers()

    output = update_sh(host)

    assert output.code == 1
    assert f"s101s: {reason}" in output.text
    assert host.containers() == before


def test_an_image_that_cannot_be_pulled_is_named_before_anything_changes(
    host: Host, basis: Composition, models: Models
) -> None:
    absent = models.tensorflow("101", "3", factor=3, image="registry.invalid/engine:1")
    host.replace_base(with_models(basis, models, absent))
    before = host.containers()

    output = update_sh(host)

    assert output.code == 1
    assert "registry.invalid/engine:1 cannot be pulled, and no container was changed" in output.text
    assert host.containers() == before


def test_a_faulty_call_shows_the_usage(host: Host) -> None:
    assert update_sh(host, "--nothing").code == 2
    assert update_sh(host, "--help").stdout.startswith("usage: sh update.sh")
