"""Every commented option of a bundle's services on the engine, enabled as the bundle's README says.

Each model has one choice of its options enabled: those that need each other, or all of them. So one
start of a bundle tries every choice. The stand-ins refuse a flag that the real servers do not have.
"""

import re
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from renderers import compose
from renderers.composition import Composition
from renderers.gate import options
from renderers.gate.options import Group
from renderers.template_set import Templates
from tests.services.engine import Engine
from tests.support.engine_host import Host, Models, eventually

VALUES = {"<int_val>": "2", "<float>": "0.5", "<inference_svc_name_format>": "s{}s"}
TOGETHER = ("batching", "monitoring")
"""Options that need each other have one of these words in common."""


def choices(service: str) -> list[list[Group]]:
    """The ways to enable options of a service: all of them come last."""
    found: dict[str, list[Group]] = {}
    for group in options.groups(service):
        word = next((word for word in TOGETHER if word in group.text), group.text)
        found.setdefault(word, []).append(group)
    alone = list(found.values())
    every = [group for groups in alone for group in groups]
    return alone if len(alone) < 2 else [*alone, every]


def choices_of(platform: str) -> range:
    """The numbers of the choices of a model's service, which uses no GPU."""
    return range(len(choices(compose.sample(platform, Templates.built_in()))))


def enable(host: Host, service: str, is_chosen: Callable[[int, list[Group]], bool]) -> list[str]:
    """Makes a choice in the compose file. Returns the enabled lines, without their indentation."""
    path = host.folder / "base/bundle/docker-compose.yaml"
    text = path.read_text()
    found = re.search(rf"^  {re.escape(service)}:\n(?:    .*\n|\n)+", text, re.MULTILINE)
    assert found is not None, f"{service} is not in the compose file"
    (chosen,) = (
        groups for number, groups in enumerate(choices(found[0])) if is_chosen(number, groups)
    )
    lines = options.enabled(found[0], chosen).splitlines(keepends=True)
    for number in [number for group in chosen for number in group.lines]:
        for placeholder, value in VALUES.items():
            lines[number - 1] = lines[number - 1].replace(placeholder, value)
    path.write_text(text.replace(found[0], "".join(lines)))
    return [lines[number - 1].strip() for group in chosen for number in group.lines]


def numbered(wanted: int) -> Callable[[int, list[Group]], bool]:
    return lambda number, _: number == wanted


def containing(word: str) -> Callable[[int, list[Group]], bool]:
    """The choice of the options with this word alone."""
    return lambda _, groups: all(word in group.text for group in groups)


def on_the_cpu(host: Host, *services: str) -> None:
    """What the README says for models that use all GPUs."""
    text = "".join(f"  {service}:\n    runtime: runc\n" for service in services)
    (host.directory / "docker-compose.override.yaml").write_text(f"services:\n{text}")


def flags(lines: list[str]) -> set[str]:
    return {line.removeprefix("- ") for line in lines if line.startswith("- --")}


def test_every_choice_of_options_of_every_engine_starts_and_answers(
    deploy: Callable[[Composition], Host], models: Models, engine: Engine
) -> None:
    bundle = models.bundle(
        *(models.tensorflow(f"10{n}", "1", 100 + n) for n in choices_of("tensorflow")),
        *(models.openvino(f"20{n}", "1", 200 + n) for n in choices_of("openvino")),
        models.tensorflow("300", "1", 300, gpu={"count": "all"}),
        models.triton("400", "1", 400),
    )
    host = deploy(bundle)
    enabled = {
        f"s{model.id}s": enable(host, f"s{model.id}s", numbered(int(model.id[-1])))
        for model in bundle.models
        if model.id[0] in "12"
    }
    enabled["s300s"] = enable(host, "s300s", containing("memory_fraction"))
    on_the_cpu(host, "s300s")

    host.up()

    host.wait_for_factors({model.id: float(model.id) for model in bundle.models})
    eventually(lambda: {found.health for found in host.services().values()} <= {"", "healthy"})
    for service, lines in enabled.items():
        container = engine.inspect(host.containers()[service])
        assert container["RestartCount"] == 0
        assert flags(lines) <= set(container["Config"]["Cmd"])
        mounted = {mount["Destination"] for mount in container["Mounts"]}
        assert {line.rpartition(":")[2] for line in lines if ":/etc/" in line} <= mounted
    assert len(enabled) == 12
    assert "Batching: " in host.logs("s100s")
    with host.load(seconds=1) as load:
        pass
    assert [model.id for model in bundle.models if load.failed(model.id)] == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, ["--inference-engine-service-name-format", "s{}s"]),
        (1, ["--target-bundle", "core-versions"]),
        (2, ["--inference-engine-service-name-format", "s{}s", "--target-bundle", "core-versions"]),
    ],
    ids=["name format", "target", "both"],
)
def test_every_choice_of_options_of_the_proxy_starts_and_answers(
    proxied: Host, engine: Engine, number: int, expected: list[str]
) -> None:
    proxied.replace_base(proxied.composition)
    enable(proxied, "model_proxy", numbered(number))

    proxied.up("--timeout", "1")

    proxied.wait_for_factors({"101": 3})
    command = engine.inspect(proxied.containers()["model_proxy"])["Config"]["Cmd"]
    assert [word for word in command if word in expected] == expected
    address = f"http://{engine.address}:{proxied.http_port}/api/v1/config"
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert (b"core-versions" in answer.read()) == ("--target-bundle" in expected)


@pytest.fixture(scope="module")
def proxied(deploy: Callable[[Composition], Host], models: Models) -> Host:
    return deploy(models.bundle(models.tensorflow("101", "1", 3)))


@pytest.mark.parametrize("platform", ["tensorflow", "triton"])
def test_the_devices_of_a_model_that_uses_all_gpus_are_what_its_container_requests(
    deploy: Callable[[Composition], Host], models: Models, engine: Engine, platform: str
) -> None:
    """Without a GPU, such a container can be created, and not started."""
    make: Any = {"tensorflow": models.tensorflow, "triton": models.triton}[platform]
    host = deploy(models.bundle(make("101", "1", 3, gpu={"count": "all"})))
    every = len(choices(compose.sample(platform, Templates.built_in(), gpu="all"))) - 1
    lines = enable(host, "s101s", numbered(every))
    on_the_cpu(host, "s101s")

    host.succeed("create", "s101s")

    container = engine.inspect(host.containers()["s101s"])
    (asked,) = container["HostConfig"]["DeviceRequests"]
    assert (asked["Count"], asked["DeviceIDs"], asked["Capabilities"]) == (1, None, [["gpu"]])
    assert flags(lines) <= set(container["Config"]["Cmd"])
