"""The rendered project as Docker Compose reads it, in every edition that a bundle supports.

The expected values are computed here from the composition, without templates and without the
renderer.
"""

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from renderers.composition import Composition, Gpu, Model, RenderDefaults
from renderers.platforms import PLATFORMS
from tests.builders import (
    GOLDEN_DEFAULTS,
    composition_document,
    golden_composition,
    make_composition,
    make_model,
)
from tests.builders import model_document as plain_document
from tests.services.availability import available
from tests.services.compose import Compose, ConfigRefused
from tests.services.compose import compose as compose_edition
from tests.support.target_host import DeployedBundle

REGISTRY = "registry.example.com"

# Each is a valid id, and a keyword, number or date in YAML, or a keyword of nginx's map.
AWKWARD_IDS = (
    *(
        "a",
        "7",
        "a" * 61,
        "9" * 61,
        "00000000-0000-0000-0000-000000000000",
        "a-b_c",
        "a--b",
        "c__d",
    ),
    *("on", "off", "y", "n", "yes", "no", "true", "false", "null", "nan", "inf"),
    *("0x1f", "0o17", "0b1", "1e3", "1_000", "007", "2026-01-01", "0", "00"),
    *(
        "default",
        "include",
        "hostnames",
        "volatile",
        "map",
        "s",
        "ss",
        "rel_dir",
        "model_download",
        "nginx",
    ),
)
AWKWARD_BUNDLES = (
    "on",
    "null",
    "007",
    "1e3",
    "0x1f",
    "2026-01-01",
    "default",
    "host",
    "none",
    "a",
    "a" * 57,
    "a-b_c",
)


def of_models(*documents: dict[str, Any], **bundle: str) -> Composition:
    return Composition.model_validate(
        composition_document(1, **bundle) | {"models": list(documents)}
    )


def mixed(models: int) -> Composition:
    """As many models: every platform, with and without GPUs, on both clouds, and either update."""
    documents = []
    for index in range(models):
        name = list(PLATFORMS)[index % len(PLATFORMS)]
        serving: dict[str, Any] = {}
        if not PLATFORMS[name].no_gpu:
            serving |= [
                {},
                {"gpu": {"count": "all"}},
                {"gpu": {"count": 3}},
                {"gpu": {"device_ids": ["0", "7"]}},
            ][index // 2 % 4]
        if not PLATFORMS[name].no_batching and index % 3 == 0:
            serving |= {"batching": {"parameters": {"max_batch_size": index + 1}}}
        if index % 7 == 0:
            serving |= {"update": ["restart", "in_place"][index // 7 % 2]}
        if index % 5 == 0:
            serving |= {
                "resources": {
                    "limits": {"cpus": "1.5", "memory": "3g"},
                    "reservations": {"memory": 1000},
                }
            }
        uri = f"{['s3', 'gs'][index % 2]}://example-bucket/{index}"
        documents.append(
            plain_document(f"m{index}", platform=name, serving=serving, artifact={"uri": uri})
        )
    return of_models(*documents)


COMPOSITIONS = {
    "golden": golden_composition(),
    **{f"{models} models": make_composition(models) for models in (1, 2, 50)},
    "every platform": mixed(60),
    "no gpu": of_models(*(plain_document(f"{name}-cpu", platform=name) for name in PLATFORMS)),
    "only gpu": of_models(
        *(
            plain_document(f"{name}-{count}", platform=name, serving={"gpu": {"count": count}})
            for name, platform in PLATFORMS.items()
            if not platform.no_gpu
            for count in ("all", 1)
        )
    ),
    "awkward ids": of_models(
        *(
            plain_document(awkward_id, platform=list(PLATFORMS)[i % len(PLATFORMS)])
            for i, awkward_id in enumerate(AWKWARD_IDS)
        )
    ),
    **{
        f"bundle {name}": of_models(plain_document("on"), bundle=name, target=name)
        for name in AWKWARD_BUNDLES
    },
}
OWN_DEFAULTS = RenderDefaults.model_validate(
    {
        "download_image": "rclone/rclone:1",
        "router_image": f"{REGISTRY}/nginx:1",
        "registries": {"docker.io": "mirror.example.com:5000/hub", REGISTRY: "localhost:5000"},
        "restart": "no",
        "resources": {"limits": {"cpus": 4, "memory": "1.5g"}, "reservations": {"cpus": "0.125"}},
        "labels": {
            "team": "on",
            "cost": "${HOME:-x} $$ {{x}} # 'y' \"z\"",
            "null": "1e3",
            "empty": "",
        },
    }
)


# Values of the composition, in the form of `docker-compose config`


def expected_command(model: Model) -> list[str]:
    match model.serving.platform:
        case "tensorflow":
            batching = ["--enable_batching", "--batching_parameters_file=/etc/batching.txt"]
            return [
                *(
                    "--enable_model_warmup",
                    f"--model_name={model.id}",
                    f"--model_base_path=/models/{model.id}",
                    "--max_num_load_retries=0",
                ),
                *polling(model),
                *(batching if has_batching(model) else []),
                "--port=9000",
            ]
        case "triton":
            return [
                *("tritonserver", "--model-repository=/models", "--model-control-mode=explicit"),
                f"--load-model={model.id}",
            ]
        case "openvino":
            return [
                f"--model_name={model.id}",
                f"--model_path=/models/{model.id}",
                "--port=9000",
                "--rest_port=8000",
                *polling(model),
            ]
        case other:
            pytest.fail(
                f"platform {other} is new: say in {Path(__file__).name} which command its service has"
            )


def is_restarted(model: Model) -> bool:
    """Whether a new version is loaded by a new container, and not by the engine that runs."""
    return model.serving.update == "restart"


def polling(model: Model) -> list[str]:
    return ["--file_system_poll_wait_seconds=0"] if is_restarted(model) else []


def has_batching(model: Model) -> bool:
    return model.serving.batching is not None and model.serving.batching.enabled


def expected_mounts(model: Model, bundle: DeployedBundle) -> dict[str, tuple[str, bool]]:
    """By target, the source and whether it is read only."""
    models = bundle.folder / "base/model-serving/model-download/models"
    target = "/models" if model.serving.platform == "triton" else f"/models/{model.id}"
    mounts = {target: (f"{models}/{model.id}", True)}
    if has_batching(model):
        mounts["/etc/batching.txt"] = (
            f"{bundle.folder}/base/bundle/batching_{model.id}.txt",
            False,
        )
    return mounts


def expected_resources(model: Model, defaults: RenderDefaults) -> dict[str, dict[str, object]]:
    """Decimal CPUs and bytes. A zero means no limit, and is not shown."""
    both = {}
    for kind in ("limits", "reservations"):
        own, default = getattr(model.serving.resources, kind), getattr(defaults.resources, kind)
        cpus = default.cpus if own.cpus is None else own.cpus
        memory = default.memory if own.memory is None else own.memory
        both[kind] = {"cpus": Decimal(cpus or 0), "memory": memory or 0}
    return both


def sees_all_gpus(model: Model) -> bool:
    """The runtime lists these GPUs.

    Beside a reservation, it would list more than the reserved ones.
    """
    return model.serving.gpu is not None and model.serving.gpu.count == "all"


def expected_devices(gpu: Gpu | None) -> list[dict[str, object]]:
    """All GPUs come through the runtime, a number or a selection of them through a reservation."""
    match gpu:
        case Gpu(count=int(count)):
            return [{"capabilities": ["gpu"], "count": count}]
        case Gpu(device_ids=tuple(devices)):
            return [{"capabilities": ["gpu"], "device_ids": list(devices)}]
        case _:
            return []


def expected_image(image: str, defaults: RenderDefaults) -> str:
    """From the mirror in the defaults, if there is one."""
    host, _, rest = image.partition("/")
    if not rest or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", image if rest else f"library/{image}"
    return f"{defaults.registries[host]}/{rest}" if host in defaults.registries else image


def expected_labels(model: Model, defaults: RenderDefaults) -> dict[str, str]:
    """Without the digest of a batching file, which depends on its text."""
    identity = model.artifact.digest or short_digest(model.version, model.artifact.uri)
    version = short_digest(identity, model.serving_version)
    return {
        **defaults.labels,
        "bundle.model": model.id,
        **({"bundle.model-version": version} if is_restarted(model) else {}),
    }


def short_digest(*values: object) -> str:
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Output of `docker-compose config`, in the same form


def shown_mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """The folders and files of the host."""
    return _mounts_of("bind", service)


def shown_volumes(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return _mounts_of("volume", service)


def _mounts_of(kind: str, service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {
        volume["target"]: (volume["source"], volume.get("read_only", False))
        for volume in service.get("volumes", [])
        if volume["type"] == kind
    }


def shown_resources(service: dict[str, Any]) -> dict[str, dict[str, object]]:
    resources = service["deploy"]["resources"]
    return {
        kind: {"cpus": Decimal(str(found.get("cpus", 0))), "memory": int(found.get("memory", 0))}
        for kind, found in ((kind, resources.get(kind, {})) for kind in ("limits", "reservations"))
    }


def shown_devices(service: dict[str, Any]) -> list[dict[str, object]]:
    devices = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
    return [
        {key: device[key] for key in ("capabilities", "count", "device_ids") if key in device}
        for device in devices
    ]


def shown_labels(service: dict[str, Any]) -> dict[str, str]:
    """`config` doubles each `$` of its output, so that its output can be read again."""
    return {key: value.replace("$$", "$") for key, value in service.get("labels", {}).items()}


def check_model(
    service: dict[str, Any],
    model: Model,
    network: str,
    bundle: DeployedBundle,
    defaults: RenderDefaults,
) -> None:
    assert service["image"] == expected_image(model.serving.image, defaults)
    assert service["command"] == expected_command(model)
    assert shown_mounts(service) == expected_mounts(model, bundle)
    assert shown_volumes(service) == {}
    assert service["init"] is True
    assert shown_resources(service) == expected_resources(model, defaults)
    assert shown_devices(service) == expected_devices(model.serving.gpu)
    assert (service.get("runtime") == "nvidia") == sees_all_gpus(model)
    assert service["restart"] == defaults.restart
    labels = shown_labels(service)
    assert (labels.pop("bundle.batching", None) is not None) == has_batching(model)
    assert labels == expected_labels(model, defaults)
    assert set(service["networks"]) == {network}
    assert service["depends_on"]["model_download"]["condition"] == "service_completed_successfully"
    assert service["healthcheck"]["start_period"] == "2m0s"
    assert not {"ports", "environment", "privileged", "devices", "network_mode"} & service.keys()


def check_project(
    project: dict[str, Any],
    composition: Composition,
    bundle: DeployedBundle,
    defaults: RenderDefaults = GOLDEN_DEFAULTS,
) -> None:
    services, network, router = (
        project["services"],
        composition.bundle.name,
        f"{composition.bundle.name}-nginx",
    )
    of_models = {f"s{model.id}s": model for model in composition.models}
    assert set(services) == {"model_download", "model_proxy", router} | set(of_models)
    for name, model in of_models.items():
        check_model(services[name], model, network, bundle, defaults)
    images = {
        "model_download": defaults.download_image,
        router: defaults.router_image,
        "model_proxy": composition.proxy.image,
    }
    for name, image in images.items():
        service = services[name]
        assert service["image"] == expected_image(image, defaults), name
        assert service["restart"] == ("no" if name == "model_download" else defaults.restart), name
        assert set(service["networks"]) == {network}, name
        labels = shown_labels(service)
        assert {
            key: labels[key] for key in labels if not key.startswith("bundle.")
        } == defaults.labels, name
        # Docker creates a missing source as a folder.
        assert {
            source for source, _ in shown_mounts(service).values() if not Path(source).exists()
        } == set(), name
    assert set(project["networks"]) == {network}
    # model_download writes the map there that the router reads.
    assert set(project["volumes"]) == {router}
    assert shown_volumes(services["model_download"]) == {"/router": (router, False)}
    assert shown_volumes(services[router]) == {"/etc/nginx/bundle": (router, False)}
    assert shown_volumes(services["model_proxy"]) == {}
    assert services["model_download"]["init"] is True
    assert services["model_proxy"]["command"] == [
        *(
            "mproxy",
            "server",
            "--tf-serving-connection-string",
            f"{router}:8500",
            "-c",
            "/etc/bundle-signature.yaml",
        )
    ]
    assert services["model_proxy"]["depends_on"] == {
        router: {"condition": "service_started", "required": True}
    }


@pytest.mark.parametrize("composition", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_compose_reads_the_values_of_the_composition(
    compose: Compose, composition: Composition, tmp_path: Path
) -> None:
    bundle = DeployedBundle.install(composition, tmp_path)

    check_project(compose.config(bundle.directory), composition, bundle)


def test_compose_reads_the_defaults_of_a_scope(compose: Compose, tmp_path: Path) -> None:
    composition = mixed(20)
    bundle = DeployedBundle.install(composition, tmp_path, OWN_DEFAULTS)

    check_project(compose.config(bundle.directory), composition, bundle, OWN_DEFAULTS)


@pytest.mark.slow
def test_compose_sees_each_of_500_models(compose: Compose, tmp_path: Path) -> None:
    composition = mixed(500)
    bundle = DeployedBundle.install(composition, tmp_path)

    check_project(compose.config(bundle.directory), composition, bundle)


@pytest.mark.slow
def test_compose_sees_each_of_2000_models(tmp_path: Path) -> None:
    newest, composition = available(lambda: compose_edition("newest")), mixed(2000)
    bundle = DeployedBundle.install(composition, tmp_path)

    check_project(newest.config(bundle.directory), composition, bundle)


def test_every_file_that_is_mounted_into_a_model_exists(compose: Compose, tmp_path: Path) -> None:
    bundle = DeployedBundle.install(mixed(60), tmp_path)

    services = compose.config(bundle.directory)["services"]

    mounted = {
        Path(source)
        for service in services.values()
        for source, _ in shown_mounts(service).values()
    }
    # Docker creates a missing source as a folder: right for a model that is not downloaded yet,
    # wrong for anything else.
    models = bundle.folder / "base/model-serving/model-download/models"
    assert {path for path in mounted if not path.exists() and path.parent != models} == set()


def test_targets_on_one_host_mount_only_their_own_files(compose: Compose, tmp_path: Path) -> None:
    targets = ("core-versions", "edge", "null")
    bundles = {
        target: DeployedBundle.install(
            make_composition(4, target=target), tmp_path / f"the {target} host"
        )
        for target in targets
    }

    projects = {target: compose.config(bundle.directory) for target, bundle in bundles.items()}

    for target, project in projects.items():
        check_project(project, make_composition(4, target=target), bundles[target])
        sources = {
            source
            for service in project["services"].values()
            for source, _ in shown_mounts(service).values()
        }
        assert all(source.startswith(f"{bundles[target].folder}/") for source in sources)


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


def test_an_empty_rel_dir_is_refused_with_a_remedy(compose: Compose, tmp_path: Path) -> None:
    bundle = DeployedBundle.install(golden_composition(), tmp_path)
    bundle.set(".env", "REL_DIR", "")

    with pytest.raises(ConfigRefused, match=r"REL_DIR.*\.env"):
        compose.config(bundle.directory)


def test_an_added_model_has_limits_although_the_deployment_directory_does_not_mention_it(
    compose: Compose, tmp_path: Path
) -> None:
    before = golden_composition()
    limits = {"limits": {"cpus": 1.5, "memory": "3g"}, "reservations": {"cpus": 1, "memory": "1g"}}
    joining = make_model("new-one", serving={"resources": limits})
    bundle = DeployedBundle.install(before, tmp_path)

    bundle.replace_base(before.with_model(joining))

    services = compose.config(bundle.directory)["services"]
    assert shown_resources(services["snew-ones"]) == expected_resources(joining, GOLDEN_DEFAULTS)


def test_an_override_file_of_the_deployment_directory_is_merged_into_an_included_service(
    compose: Compose, tmp_path: Path
) -> None:
    bundle = DeployedBundle.install(golden_composition(), tmp_path)
    before = compose.config(bundle.directory)["services"]
    (bundle.directory / "docker-compose.override.yaml").write_text(
        """\
services:
  s101s:
    command: ["--model_name=101", "--grpc_max_threads=16"]
    environment:
      TF_CPP_MIN_LOG_LEVEL: "2"
"""
    )

    services = compose.config(bundle.directory)["services"]

    changed = {
        "command": ["--model_name=101", "--grpc_max_threads=16"],
        "environment": {"TF_CPP_MIN_LOG_LEVEL": "2"},
    }
    assert services == before | {"s101s": before["s101s"] | changed}


@pytest.mark.parametrize(("written", "effective"), [("", "2"), ("0.25", "0.25"), ("0", "0")])
def test_a_limit_is_that_of_the_bundle_until_the_operator_sets_one(
    compose: Compose, tmp_path: Path, written: str, effective: str
) -> None:
    model = make_model("with-dash", serving={"resources": {"limits": {"cpus": 2}}})
    bundle = DeployedBundle.install(golden_composition().with_model(model), tmp_path)
    if written:
        bundle.set("conf/bundle/.env", "SERVING_with_dash_CPU_LIMIT", written)

    services = compose.config(bundle.directory)["services"]

    assert shown_resources(services["swith-dashs"])["limits"]["cpus"] == Decimal(effective)
