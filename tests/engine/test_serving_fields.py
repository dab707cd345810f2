"""The optional fields of `serving` in containers: names, variables, flags, times, memory and GPUs."""

from collections.abc import Callable
from typing import Any

import pytest

from renderers.composition import Composition
from tests.services.engine import Engine
from tests.support.engine_host import Host, Models, eventually

TEXT = "$HOME ${x} \"a\" 'b' \\ # c: d"
FACTORS = {"101": 3.0, "102": 5.0, "103": 2.0, "104": 42.0}


@pytest.fixture(scope="module")
def host(deploy: Callable[[Composition], Host], models: Models) -> Host:
    more: dict[str, Any] = {
        "environment": {"TEXT": TEXT},
        "shm_size": "96m",
        "start_period": "90s",
    }
    host = deploy(
        models.bundle(
            models.tensorflow(
                *("101", "3", 3),
                engine_name="Llama-3.1-8b",
                arguments=["--grpc_max_threads=7", "--saved_model_tags=$x"],
                **more,
            ),
            models.openvino("102", "1", 5, engine_name="Ov", arguments=["--nireq=2"]),
            models.triton(
                *("103", "2", 2),
                name="Llama7b",
                engine_name="Llama7b",
                arguments=["--log-verbose=1", "--exit-timeout-secs", "7"],
                **more,
            ),
            models.ensemble("104", "1", (6, 7)),
        )
    )
    host.up()
    host.wait_for_factors(FACTORS)
    return host


def test_clients_call_a_model_by_its_name_in_the_engine_and_are_routed_by_its_id(
    host: Host,
) -> None:
    answers = {model: host.predict(model) for model in FACTORS}
    with host.load(seconds=1) as load:
        pass

    assert {model: answer["model"] for model, answer in answers.items()} == {
        "101": "Llama-3.1-8b",
        "102": "Ov",
        "103": "Llama7b",
        "104": "both",
    }
    assert {model: load.factors(model) for model in FACTORS} == {
        model: [factor] for model, factor in FACTORS.items()
    }
    assert {model: load.failed(model) for model in FACTORS} == dict.fromkeys(FACTORS, 0)


def test_a_new_version_of_a_model_with_a_name_of_its_own_is_loaded_without_a_failed_call(
    host: Host, models: Models
) -> None:
    before, containers = host.composition, host.containers()
    fields = {
        model.id: model.serving.model_dump(mode="json", exclude_none=True)
        for model in before.models
    }
    joined = models.bundle(
        models.tensorflow("101", "4", 30, **fields["101"]),
        models.openvino("102", "2", 50, **fields["102"]),
        models.triton("103", "3", 20, name="Llama7b", **fields["103"]),
        before.models[3],
    )
    try:
        with host.load() as load:
            host.update(joined)
            host.wait_for_factors({"101": 30, "102": 50, "103": 20, "104": 42})
        after = host.containers()
    finally:
        host.update(before)
        host.wait_for_factors(FACTORS)

    assert {model: load.results[model].failures for model in FACTORS} == {
        key: {} for key in FACTORS
    }
    assert {name for name in after if after[name] != containers[name]} <= {"model_download"}


def test_a_new_version_of_a_repository_gets_a_new_container(host: Host, models: Models) -> None:
    before, containers = host.composition, host.containers()
    try:
        host.update(models.bundle(*before.models[:3], models.ensemble("104", "2", (2, 4))))
        host.wait_for_factors(FACTORS | {"104": 8})
        after = host.containers()
    finally:
        host.update(before)
        host.wait_for_factors(FACTORS)

    assert after["s104s"] != containers["s104s"]


@pytest.mark.parametrize("service", ["s101s", "s103s"])
def test_a_container_has_the_variables_memory_and_time_to_start_of_its_model(
    host: Host, engine: Engine, service: str
) -> None:
    found = engine.inspect(host.containers()[service])

    assert f"TEXT={TEXT}" in found["Config"]["Env"]
    assert found["HostConfig"]["ShmSize"] == 96 << 20
    assert found["Config"]["Healthcheck"]["StartPeriod"] == 90 * 10**9


def test_arguments_reach_the_process_of_the_engine(host: Host, engine: Engine) -> None:
    lines = {
        service: engine.run("exec", host.containers()[service], "cat", "/proc/1/cmdline")
        for service in ("s101s", "s102s", "s103s")
    }
    # The first process is Docker's init, which has the command as its arguments.
    words = {service: line.split("\0") for service, line in lines.items()}

    assert {"--grpc_max_threads=7", "--saved_model_tags=$x"} <= set(words["s101s"])
    assert [word for word in words["s101s"] if word][-1] == "--port=9000"
    assert "--nireq=2" in words["s102s"]
    at = words["s103s"].index("--exit-timeout-secs")
    assert words["s103s"][at - 1 : at + 2] == ["--log-verbose=1", "--exit-timeout-secs", "7"]


def test_a_flag_that_the_engine_does_not_know_is_in_its_log(
    deploy: Callable[[Composition], Host], models: Models
) -> None:
    host = deploy(models.bundle(models.tensorflow("101", "1", 3, arguments=["--no_such_flag=1"])))

    host.run("up", "--detach")

    # `up` does not wait for what the process prints.
    eventually(lambda: "unknown argument: --no_such_flag=1" in host.logs("s101s"))


GPUS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all by the driver": (
        {"count": "all", "driver": "nvidia"},
        {"Driver": "nvidia", "Count": -1, "DeviceIDs": None},
    ),
    "two by the driver": (
        {"count": 2, "driver": "nvidia"},
        {"Driver": "nvidia", "Count": 2, "DeviceIDs": None},
    ),
    "a MIG device": (
        {"device_ids": ["MIG-c7384736-a75d-5afc-978f-d2f1294409fd"]},
        {"Driver": "", "Count": 0, "DeviceIDs": ["MIG-c7384736-a75d-5afc-978f-d2f1294409fd"]},
    ),
    "by CDI": (
        {"device_ids": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"], "driver": "cdi"},
        {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]},
    ),
}


@pytest.mark.parametrize("kind", GPUS)
def test_a_created_container_requests_the_gpus_of_its_model(
    deploy: Callable[[Composition], Host], models: Models, engine: Engine, kind: str
) -> None:
    gpu, request = GPUS[kind]
    host = deploy(models.bundle(models.triton("103", "1", 2, gpu=gpu)))

    host.succeed("create", "s103s")

    found = engine.inspect(host.containers()["s103s"])["HostConfig"]
    (asked,) = found["DeviceRequests"]
    assert {key: asked[key] for key in request} == request
    assert asked["Capabilities"] == [["gpu"]]
    assert found["Runtime"] != "nvidia"
