"""The rendered project as Docker Compose itself reads it, on the oldest and the newest release that can be had.

What is expected is built here from the composition, without templates and without the renderer.
"""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from renderers.model import Composition, Gpu, Model
from tests.builders import GOLDEN_DEFAULTS, golden_composition, make_composition, make_model
from tests.deployed import DeployedBundle
from tests.services.compose import Compose, ConfigRefused

COMPOSITIONS = {
    "golden": golden_composition(),
    **{f"{models} models": make_composition(models) for models in (1, 5, 40, 200)},
}


@pytest.fixture(params=COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
def composition(request: pytest.FixtureRequest) -> Composition:
    return request.param


# What the composition says, as `docker-compose config` should show it


def expected_command(model: Model) -> list[str]:
    if model.serving.platform == "triton":
        return [
            "tritonserver",
            "--model-repository=/models",
            "--model-control-mode=explicit",
            f"--load-model={model.id}",
        ]
    batching = ["--enable_batching", "--batching_parameters_file=/etc/batching.txt"] if has_batching(model) else []
    return ["--enable_model_warmup", f"--model_name={model.id}", f"--model_base_path=/models/{model.id}", *batching]


def has_batching(model: Model) -> bool:
    return model.serving.batching is not None and model.serving.batching.enabled


def expected_mounts(model: Model, bundle: DeployedBundle) -> dict[str, str]:
    mounts = {f"/models/{model.id}": f"{bundle.folder}/base/model-serving/model-download/models/{model.id}"}
    if has_batching(model):
        mounts["/etc/batching.txt"] = f"{bundle.folder}/base/bundle/batching_{model.id}.txt"
    return mounts


def expected_resources(model: Model) -> dict[str, dict[str, object]]:
    """Decimal CPUs and bytes; a zero is no limit, and not shown."""
    both = {}
    for kind in ("limits", "reservations"):
        amounts = getattr(model.serving.resources, kind)
        both[kind] = {"cpus": Decimal(amounts.cpus or 0), "memory": amounts.memory or 0}
    return both


def sees_all_gpus(model: Model) -> bool:
    """Then the runtime shows them: beside a reservation it would show more than was reserved."""
    return model.serving.gpu is not None and model.serving.gpu.count == "all"


def expected_devices(gpu: Gpu | None) -> list[dict[str, object]]:
    """All GPUs come through the runtime; a number or a choice of them through a reservation."""
    match gpu:
        case Gpu(count=int(count)):
            return [{"capabilities": ["gpu"], "count": count}]
        case Gpu(device_ids=tuple(devices)):
            return [{"capabilities": ["gpu"], "device_ids": list(devices)}]
        case _:
            return []


# What `docker-compose config` shows, in the same words


def shown_mounts(service: dict[str, Any]) -> dict[str, str]:
    return {volume["target"]: volume["source"] for volume in service.get("volumes", [])}


def shown_resources(service: dict[str, Any]) -> dict[str, dict[str, object]]:
    resources = service["deploy"]["resources"]
    return {
        kind: {"cpus": Decimal(str(found.get("cpus", 0))), "memory": int(found.get("memory", 0))}
        for kind, found in ((kind, resources.get(kind, {})) for kind in ("limits", "reservations"))
    }


def shown_devices(service: dict[str, Any]) -> list[dict[str, object]]:
    devices = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
    return [
        {key: device[key] for key in ("capabilities", "count", "device_ids") if key in device} for device in devices
    ]


def test_compose_sees_what_the_composition_says(compose: Compose, composition: Composition, tmp_path: Path) -> None:
    bundle = DeployedBundle.install(composition, tmp_path)

    services = compose.config(bundle.directory)["services"]

    router = f"{composition.bundle.name}-nginx"
    of_models = {f"s{model.id}s": model for model in composition.models}
    assert set(services) == {"model_download", "model_proxy", router} | set(of_models)
    for name, model in of_models.items():
        service = services[name]
        assert service["image"] == model.serving.image, name
        assert service["command"] == expected_command(model), name
        assert shown_mounts(service) == expected_mounts(model, bundle), name
        assert shown_resources(service) == expected_resources(model), name
        assert shown_devices(service) == expected_devices(model.serving.gpu), name
        assert (service.get("runtime") == "nvidia") == sees_all_gpus(model), name
        assert service["depends_on"]["model_download"]["condition"] == "service_completed_successfully", name
        assert "ports" not in service, name
        assert set(service["networks"]) == {composition.bundle.name}, name
    assert services["model_download"]["image"] == GOLDEN_DEFAULTS.download_image
    assert services[router]["image"] == GOLDEN_DEFAULTS.router_image
    assert services["model_proxy"]["image"] == composition.proxy.image


def test_every_file_that_is_mounted_exists(compose: Compose, composition: Composition, tmp_path: Path) -> None:
    bundle = DeployedBundle.install(composition, tmp_path)

    services = compose.config(bundle.directory)["services"]

    mounted = {Path(source) for service in services.values() for source in shown_mounts(service).values()}
    # Docker makes a folder of what is missing: right for a model that is yet to be downloaded, wrong for anything else.
    models = bundle.folder / "base/model-serving/model-download/models"
    assert {path for path in mounted if not path.exists() and path.parent != models} == set()


def test_only_the_proxy_has_ports_on_the_host_and_the_deployment_directory_moves_them(
    compose: Compose, tmp_path: Path
) -> None:
    bundle = DeployedBundle.install(golden_composition(), tmp_path)
    bundle.set("conf/bundle/.env", "MODEL_PROXY_HTTP_PORT", "18000")

    services = compose.config(bundle.directory)["services"]

    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["model_proxy"]
    assert {(port["published"], port["target"]) for port in published["model_proxy"]} == {
        ("18000", 8000),
        ("8005", 8005),
    }


def test_an_empty_rel_dir_is_refused_with_what_to_do(compose: Compose, tmp_path: Path) -> None:
    bundle = DeployedBundle.install(golden_composition(), tmp_path)
    bundle.set(".env", "REL_DIR", "")

    with pytest.raises(ConfigRefused, match=r"REL_DIR.*\.env"):
        compose.config(bundle.directory)


def test_a_model_that_joins_is_limited_though_the_deployment_directory_knows_nothing_of_it(
    compose: Compose, tmp_path: Path
) -> None:
    before = golden_composition()
    limits = {"limits": {"cpus": 1.5, "memory": "3g"}, "reservations": {"cpus": 1, "memory": "1g"}}
    joining = make_model("new-one", serving={"resources": limits})
    bundle = DeployedBundle.install(before, tmp_path)

    bundle.replace_base(before.with_model(joining))

    services = compose.config(bundle.directory)["services"]
    assert shown_resources(services["snew-ones"]) == expected_resources(joining)


@pytest.mark.parametrize(("written", "effective"), [("", "2"), ("0.25", "0.25"), ("0", "0")])
def test_a_limit_is_the_bundles_own_until_the_operator_writes_one(
    compose: Compose, tmp_path: Path, written: str, effective: str
) -> None:
    model = make_model("with-dash", serving={"resources": {"limits": {"cpus": 2}}})
    bundle = DeployedBundle.install(golden_composition().with_model(model), tmp_path)
    if written:
        bundle.set("conf/bundle/.env", "SERVING_with_dash_CPU_LIMIT", written)

    services = compose.config(bundle.directory)["services"]

    assert shown_resources(services["swith-dashs"])["limits"]["cpus"] == Decimal(effective)


# Which containers an update recreates


def changed_services(compose: Compose, folder: Path, before: Composition, after: Composition) -> set[str]:
    bundle = DeployedBundle.install(before, folder)
    old = compose.hashes(bundle.directory)
    bundle.replace_base(after)
    new = compose.hashes(bundle.directory)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def without_model(composition: Composition, model_id: str) -> Composition:
    models = tuple(model for model in composition.models if model.id != model_id)
    return Composition(bundle=composition.bundle, models=models, proxy=composition.proxy)


BASIS = make_composition(9)
FIRST = BASIS.models[0]
ROUTER = f"{BASIS.bundle.name}-nginx"


@pytest.mark.parametrize(
    ("after", "recreated"),
    [
        pytest.param(BASIS, set(), id="the same composition"),
        pytest.param(
            BASIS.with_model(make_model("101", version="77")), {"model_download", "s101s"}, id="another version"
        ),
        pytest.param(
            BASIS.with_model(make_model("101", serving={"resources": {"limits": {"cpus": 3}}})),
            {"s101s"},
            id="other limits",
        ),
        pytest.param(
            BASIS.with_model(make_model("101", serving={"batching": {"parameters": {"max_batch_size": 8}}})),
            {"s101s"},
            id="batching comes on",
        ),
        pytest.param(
            BASIS.with_model(
                make_model("105", version="5", serving={"batching": {"parameters": {"max_batch_size": 8}}})
            ),
            {"s105s"},
            id="other batching parameters, in a file of the same name",
        ),
        pytest.param(
            BASIS.with_model(FIRST.model_copy(update={"name": "another name"})), set(), id="only another display name"
        ),
        pytest.param(BASIS.with_model(make_model("500")), {"model_download", ROUTER, "s500s"}, id="a model joins"),
        pytest.param(without_model(BASIS, "101"), {"model_download", ROUTER, "s101s"}, id="a model leaves"),
    ],
)
def test_an_update_recreates_exactly_the_services_it_affects(
    compose: Compose, tmp_path: Path, after: Composition, recreated: set[str]
) -> None:
    assert changed_services(compose, tmp_path, BASIS, after) == recreated


def test_another_signature_recreates_only_the_proxy(compose: Compose, tmp_path: Path) -> None:
    signature = BASIS.proxy.signature.model_copy(update={"document": {"other": True}})
    proxy = BASIS.proxy.model_copy(update={"signature": signature})
    after = Composition(bundle=BASIS.bundle, models=BASIS.models, proxy=proxy)

    assert changed_services(compose, tmp_path, BASIS, after) == {"model_proxy"}


def test_an_image_of_a_model_recreates_only_that_model(compose: Compose, tmp_path: Path) -> None:
    serving = FIRST.serving.model_copy(update={"image": "registry.example.com/other/tensorflow-serving:3"})
    after = BASIS.with_model(make_model("101", version=FIRST.version, serving=serving.model_dump(exclude_none=True)))

    assert changed_services(compose, tmp_path, BASIS, after) == {"s101s"}
