"""The expected content of a bundle's compose file, as plain values, built without any template.

The gate compares the rendered file with these values. They repeat the rules of the renderer on
purpose: the only code shared with it is the model of a composition.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from renderers.composition import Amounts, Composition, Model, RenderDefaults, Serving
from renderers.gate import parsers
from renderers.gate.custom_services import Bytes, Duration
from renderers.values import Value, canonical_digest

_GRPC_PORTS: Final = {"tensorflow": 9000, "triton": 8001, "openvino": 9000}
_LOADS_NUMBERS: Final = frozenset({"tensorflow", "openvino"})
_BATCHES: Final = frozenset({"tensorflow"})
_TIMES: Final = {"interval": "5s", "timeout": "5s", "retries": 3}
_TRITONS_SHARED_MEMORY: Final = 1 << 30
_STATUS_PORTS: Final = {"tensorflow": 8501, "openvino": 8000}
_STATUS_PROBE: Final = (
    "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET /v1/models/{name} HTTP/1.0\\r\\n\\r\\n' >&3"
    " && grep -q '\"AVAILABLE\"' <&3"
)

_ROUTER_PROBE: Final = (
    "wget -q -O /dev/null http://127.0.0.1:8080/healthz && find /tmp/watching -mmin -1 | grep -q ."
)


@dataclass(frozen=True, slots=True, repr=False)
class Default:
    """An amount that a variable of the target host can replace: `${variable:-amount}`."""

    variable: str
    amount: Decimal

    def __repr__(self) -> str:
        return f"${{{self.variable}:-{self.amount}}}"  # as an operator sees it in the file

    def is_in(self, found: Any) -> bool:
        """Whether `found` is this variable with this amount, in any unit."""
        parsed = parsers.amount(found)
        if parsed is None:
            return False
        variable, number, factor = parsed
        return variable == self.variable and self.is_amount(number, factor)

    def is_amount(self, number: str, factor: int) -> bool:
        """Whether `number` times the `factor` of its unit equals the amount."""
        return Decimal(number) * factor == self.amount


def model_service(
    model: Model, composition: Composition, defaults: RenderDefaults, batching_file: str | None
) -> dict[str, Any]:
    """The service s<id>s; `batching_file` is the text of the mounted file if batching is on."""
    serving = model.serving
    mount = f"/models/{_engine_name(model)}" if loads_numbers(model) else "/models"
    volumes = [f"../model-serving/model-download/models/{model.id}:{mount}:ro"]
    labels = {"bundle.model": model.id}
    if update(model) == "restart":
        labels["bundle.model-version"] = short_digest([identity(model), model.serving_version])
    service: dict[str, Any] = {
        "depends_on": {"model_download": {"condition": "service_completed_successfully"}},
        "image": _pulled_from(model.serving.image, defaults),
        "init": True,
        "restart": defaults.restart,
        "labels": labels | _labels(defaults),
        "networks": [composition.bundle.name],
        "volumes": volumes,
        "command": _command(model),
        "healthcheck": _TIMES
        | {"start_period": Duration(_start_seconds(model)), "test": _probe(model)},
        "deploy": {"resources": _resources(model, defaults)},
    }
    if _takes_all_by_runtime(serving):
        service["runtime"] = "nvidia"
    if serving.shm_size is not None or serving.platform == "triton":
        service["shm_size"] = _bytes(serving.shm_size or _TRITONS_SHARED_MEMORY)
    if serving.environment:
        service["environment"] = {
            name: _literal(value) for name, value in serving.environment.items()
        }
    if batching_file is not None:
        service["labels"] = (
            labels | {"bundle.batching": short_digest(batching_file)} | _labels(defaults)
        )
        volumes.append(f"./batching_{model.id}.txt:/etc/batching.txt")
    return service


def grpc_port(model: Model) -> int:
    """The gRPC port of the model's engine."""
    return _GRPC_PORTS[model.serving.platform]


def loads_numbers(model: Model) -> bool:
    """Whether the engine serves the folder of one version; models.txt then has its number."""
    return model.serving.platform in _LOADS_NUMBERS


def update(model: Model) -> str:
    """How the service gets a new version: in_place or restart."""
    if model.serving.update is not None:
        return model.serving.update
    return "in_place" if model.serving.repository is None else "restart"


def identity(model: Model) -> str:
    """The text in models.txt that changes with the content of the model."""
    return model.artifact.digest or short_digest([model.version, model.artifact.uri])


def list_fields(model: Model) -> tuple[str, ...]:
    """The fields of the model's line in models.txt, apart from its source."""
    folder = f"{model.id}/{model.serving_version}" if loads_numbers(model) else model.id
    serving = model.serving
    engine, name = str(serving.platform), _engine_name(model)
    if serving.repository is not None:
        engine, name = "triton-repository", ",".join(serving.repository.models)
    return (
        folder,
        engine,
        name,
        update(model),
        str(_start_seconds(model)),
        identity(model),
        model.artifact.store or "-",
    )


def batching_folder(model: Model) -> str | None:
    """The folder of the model's batching file; None where the platform has none.

    The file is generated in base/ if the composition enables batching. Otherwise it is a
    placeholder in example/ for the operator.
    """
    if model.serving.platform not in _BATCHES:
        return None
    batching = model.serving.batching
    return "base/bundle" if batching is not None and batching.enabled else "example/conf/bundle"


def model_comments(model: Model) -> list[str]:
    """The commented-out options of a model's service, in order, as the file has them."""
    serving = model.serving
    comments = _options(serving.platform, model.id, batching=batching_parameters(model) is not None)
    if serving.platform == "tensorflow" and serving.gpu is not None:
        comments += [] if serving.gpu.memory_fraction else [_MEMORY_OPTION]
    if serving.arguments is not None:
        comments = [option for option in comments if not _is_set(option, serving.arguments)]
    return comments + (_GPU_OPTIONS if _takes_all_by_runtime(serving) else [])


_MEMORY_OPTION: Final = "#- --per_process_gpu_memory_fraction=<float>"
_TOGETHER: Final = (
    ("batching_", "--enable_batching", "--batching_parameters_file"),
    ("/etc/monitoring.txt", "--monitoring_config_file"),
)
"""For each option of several lines: what all of its lines contain one of, the flags among it."""


def _is_set(option: str, arguments: Sequence[str]) -> bool:
    """Whether the arguments set an option, or one that has no meaning without it."""
    flags = [_bare(argument) for argument in arguments if argument.startswith("-")]
    for texts in _TOGETHER:
        if any(text in option for text in texts):
            return any(_bare(text) in flags for text in texts if text.startswith("--"))
    return option.startswith("#- --") and _bare(option[3:]) in flags


def _bare(flag: str) -> str:
    """The name of a flag, without what makes no difference to an engine."""
    name = re.split("[= ]", flag, maxsplit=1)[0].strip("-").lower().replace("-", "_")
    return name[2:].lstrip("_") if name.startswith("no") else name


_OPENVINO_NUMBERS: Final = ("nireq", "grpc_workers", "rest_workers")
_GPU_OPTIONS: Final = ["#devices:", "#- capabilities: [gpu]", "#count: 1"]


def _options(platform: str, model_id: str, *, batching: bool) -> list[str]:
    if platform == "openvino":
        return ["#- --metrics_enable", *(f"#- --{name}=<int_val>" for name in _OPENVINO_NUMBERS)]
    if platform != "tensorflow":
        return []
    own_file = f"#- ${{REL_DIR}}/conf/bundle/batching_{model_id}.txt:/etc/batching.txt"
    own_flags = ["#- --enable_batching", "#- --batching_parameters_file=/etc/batching.txt"]
    return [
        *([] if batching else [own_file]),
        "#- ./monitoring.txt:/etc/monitoring.txt",
        "#- --tensorflow_inter_op_parallelism=<int_val>",
        "#- --tensorflow_intra_op_parallelism=<int_val>",
        *([] if batching else own_flags),
        "#- --monitoring_config_file=/etc/monitoring.txt",
        "#- --grpc_max_threads=<int_val>",
    ]


def place(option: str) -> tuple[str, int]:
    """The key of a service that an option belongs below, and the column of its comment sign."""
    if option in _GPU_OPTIONS:
        return "deploy", 10 + 2 * _GPU_OPTIONS.index(option)
    return "volumes" if ":/etc/" in option else "command", 6


def proxy_comments(composition: Composition) -> list[str]:
    """The commented-out options of model_proxy, in order."""
    target = _scalar(composition.bundle.target)
    return [
        "#- --inference-engine-service-name-format",
        "#- <inference_svc_name_format>",
        "#- --target-bundle",
        f"#- {target}",
    ]


@lru_cache(maxsize=256)
def _scalar(text: str) -> str:
    """`text` as a YAML scalar that parses to the same text."""
    return text if parsers.yaml_text(text).value == text else f'"{text}"'


def shown(listing: str, composition: Composition) -> dict[str, Any]:
    """The part of a service that a README listing shows, with its highlighted options enabled.

    A model's service appears as that of the model <model_id>, here `sample`; see `SAMPLE_IMAGE`.
    """
    if listing == "proxy":
        service = proxy_service("", composition, RenderDefaults())
        *command, flag, path = service["command"]
        name_format = ["--inference-engine-service-name-format", "<inference_svc_name_format>"]
        service["command"] = [
            *command,
            *name_format,
            flag,
            path,
            "--target-bundle",
            composition.bundle.target,
        ]
        return {"model_proxy": {key: service[key] for key in ("volumes", "command")}}
    sample = _sample(shown_template(listing), is_gpu=listing == "gpu")
    service = model_service(sample, composition, RenderDefaults(), None)
    volumes, command, keys = _SHOWN[listing]
    service["networks"] = ["<network>"]
    service["volumes"] += volumes
    # TensorFlow Serving's options stand above its port, the last flag.
    end = len(service["command"]) - (sample.serving.platform == "tensorflow")
    service["command"][end:end] = command
    if listing == "gpu":
        service["deploy"]["resources"]["reservations"]["devices"] = [
            {"capabilities": ["gpu"], "count": 1}
        ]
    return {"ssamples": {key: service[key] for key in keys}}


def options(listing: str, composition: Composition) -> list[str]:
    """All commented-out options of the service in a README listing, highlighted or not."""
    if listing == "proxy":
        return proxy_comments(composition)
    return model_comments(_sample(shown_template(listing), is_gpu=listing == "gpu"))


def shown_template(listing: str) -> str:
    """The template of the service in a README listing, without its suffix."""
    return listing if listing in {"proxy", "openvino"} else "tensorflow"


SAMPLE_IMAGE: Final = "registry.example.com/serving:1"
_KEYS: Final = ("depends_on", "image", "networks", "volumes", "command")
_SHOWN: Final[dict[str, tuple[list[str], list[str], tuple[str, ...]]]] = {
    "gpu": ([], [], ("depends_on", "image", "networks", "deploy")),
    "batching": (
        ["${REL_DIR}/conf/bundle/batching_sample.txt:/etc/batching.txt"],
        ["--enable_batching", "--batching_parameters_file=/etc/batching.txt"],
        _KEYS,
    ),
    "monitoring": (
        ["./monitoring.txt:/etc/monitoring.txt"],
        ["--monitoring_config_file=/etc/monitoring.txt"],
        _KEYS,
    ),
    "parallelism": (
        [],
        [
            "--tensorflow_inter_op_parallelism=<int_val>",
            "--tensorflow_intra_op_parallelism=<int_val>",
        ],
        _KEYS,
    ),
    "threads": ([], ["--grpc_max_threads=<int_val>"], _KEYS),
    "openvino": (
        [],
        ["--metrics_enable", *(f"--{name}=<int_val>" for name in _OPENVINO_NUMBERS)],
        _KEYS,
    ),
}


def _sample(platform: str, *, is_gpu: bool) -> Model:
    gpu = {"gpu": {"count": "all"}} if is_gpu else {}
    serving = {"platform": platform, "image": SAMPLE_IMAGE} | gpu
    artifact = {"uri": "gs://bucket/sample"}
    return Model.model_validate(
        {"id": "sample", "version": "1", "artifact": artifact, "serving": serving}
    )


def image_folders(composition: Composition, defaults: RenderDefaults) -> frozenset[str]:
    """The registries and folders that a bundle's images are pulled from."""
    images = {model.serving.image for model in composition.models}
    images |= {defaults.download_image, defaults.router_image, composition.proxy.image}
    pulled = (_pulled_from(image, defaults) for image in images)
    return frozenset(image.rpartition("/")[0] or "docker.io/library" for image in pulled)


def batching_parameters(model: Model) -> dict[str, Any] | None:
    """The parameters in base/bundle/batching_<id>.txt, or None where batching is off."""
    batching = model.serving.batching
    if batching is None or not batching.enabled:
        return None
    parameters = _as_json(batching.parameters)
    return {key: value for key, value in parameters.items() if value is not None}


def download_service(composition: Composition, defaults: RenderDefaults) -> dict[str, Any]:
    """The service model_download."""
    here = "../model-serving/model-download"
    return {
        "image": _pulled_from(defaults.download_image, defaults),
        "init": True,
        "restart": "no",
        **({"labels": _labels(defaults)} if defaults.labels else {}),
        "networks": [composition.bundle.name],
        "env_file": ["${REL_DIR}/creds/bundle/.env"],
        "environment": {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_GCS_SERVICE_ACCOUNT_FILE": "/creds/gcs.json",
            **({} if defaults.require_all_models else {"REQUIRE_ALL_MODELS": "false"}),
        },
        "volumes": [
            f"{here}/models:/models",
            f"{here}/models.txt:/etc/model-download/models.txt:ro",
            f"{here}/download.sh:/etc/model-download/download.sh:ro",
            "./nginx/models.map:/etc/model-download/models.map:ro",
            f"{composition.bundle.name}-nginx:/router",
            "${REL_DIR}/creds/bundle:/creds:ro",
            *(["${REL_DIR}/files:/files:ro"] if _reads_files(composition) else []),
        ],
        "entrypoint": ["/bin/sh", "/etc/model-download/download.sh"],
    }


def _reads_files(composition: Composition) -> bool:
    return any(model.artifact.uri.startswith("file://") for model in composition.models)


def router_service(
    digest: str, composition: Composition, defaults: RenderDefaults
) -> dict[str, Any]:
    """The service <bundle>-nginx; `digest` is the digest of its program."""
    return {
        "image": _pulled_from(defaults.router_image, defaults),
        "restart": defaults.restart,
        "labels": {"bundle.router": digest} | _labels(defaults),
        "networks": [composition.bundle.name],
        "sysctls": {"net.ipv4.tcp_tw_reuse": "1"},
        "volumes": [
            "${REL_DIR}/conf/bundle:/etc/nginx/deployment:ro",
            "./nginx/router.sh:/etc/router/router.sh:ro",
            f"{composition.bundle.name}-nginx:/etc/nginx/bundle",
        ],
        "entrypoint": ["/bin/sh", "/etc/router/router.sh"],
        "healthcheck": _TIMES | {"test": ["CMD", "/bin/sh", "-c", _ROUTER_PROBE]},
    }


def proxy_service(
    digest: str, composition: Composition, defaults: RenderDefaults
) -> dict[str, Any]:
    """The service model_proxy; `digest` is the digest of the signature."""
    router = f"{composition.bundle.name}-nginx"
    return {
        "depends_on": {router: {"condition": "service_started"}},
        "image": _pulled_from(composition.proxy.image, defaults),
        "restart": defaults.restart,
        "labels": {"bundle.signature": digest} | _labels(defaults),
        "networks": [composition.bundle.name],
        "ports": ["${MODEL_PROXY_HTTP_PORT:-8000}:8000", "${MODEL_PROXY_GRPC_PORT:-8005}:8005"],
        "volumes": ["./proxy/bundle-signature.yaml:/etc/bundle-signature.yaml"],
        "command": [
            *("mproxy", "server", "--tf-serving-connection-string", f"{router}:8500"),
            *("-c", "/etc/bundle-signature.yaml"),
        ],
    }


def _command(model: Model) -> list[str]:
    match model.serving.platform:
        case "tensorflow":
            return _tensorflow_command(model)
        case "triton":
            return _triton_command(model)
        case "openvino":
            return [
                f"--model_name={_engine_name(model)}",
                f"--model_path=/models/{_engine_name(model)}",
                "--port=9000",
                "--rest_port=8000",
                *_polling(model),
                *_arguments(model),
            ]


def _tensorflow_command(model: Model) -> list[str]:
    command = [
        "--enable_model_warmup",
        f"--model_name={_engine_name(model)}",
        f"--model_base_path=/models/{_engine_name(model)}",
        "--max_num_load_retries=0",
    ]
    command += _polling(model)
    if batching_parameters(model) is not None:
        command += ["--enable_batching", "--batching_parameters_file=/etc/batching.txt"]
    gpu = model.serving.gpu
    if gpu is not None and gpu.memory_fraction is not None:
        command.append(f"--per_process_gpu_memory_fraction={gpu.memory_fraction}")
    # Behind the flags of the image's entrypoint, which ends up with the last one.
    return [*command, *_arguments(model), "--port=9000"]


def _arguments(model: Model) -> list[str]:
    return [_literal(argument) for argument in model.serving.arguments or ()]


def _polling(model: Model) -> list[str]:
    """An engine that only a new container updates looks at its folder once."""
    return ["--file_system_poll_wait_seconds=0"] if update(model) == "restart" else []


def _triton_command(model: Model) -> list[str]:
    repository = model.serving.repository
    # model_download makes models/<id>/<id> lead to the files of a repository.
    folder = "/models" if repository is None else f"/models/{model.id}"
    loaded = (_engine_name(model),) if repository is None else repository.models
    options = [
        f"--model-repository={folder}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in loaded),
    ]
    return ["tritonserver", *options, *_arguments(model)]


def _engine_name(model: Model) -> str:
    return model.id if model.serving.engine_name is None else model.serving.engine_name


def _start_seconds(model: Model) -> int:
    period = model.serving.start_period
    return 120 if period is None else period


def _takes_all_by_runtime(serving: Serving) -> bool:
    """Whether the service has all GPUs without a device request."""
    return serving.gpu is not None and serving.gpu.count == "all" and serving.gpu.driver is None


def _bytes(amount: int) -> Bytes:
    units = ((30, "g"), (20, "m"), (10, "k"), (0, "b"))
    shift, unit = next((shift, unit) for shift, unit in units if amount % (1 << shift) == 0)
    return Bytes(amount, f"{amount >> shift}{unit}")


def _probe(model: Model) -> list[str]:
    port = _STATUS_PORTS.get(model.serving.platform)
    if port is not None:
        return ["CMD", "bash", "-c", _STATUS_PROBE.format(port=port, name=_engine_name(model))]
    return ["CMD", "curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:8000/v2/health/ready"]


def amounts(model: Model, defaults: RenderDefaults) -> dict[str, dict[str, Default]]:
    """The limits and reservations of a model's service."""
    own, default = model.serving.resources, defaults.resources
    prefix = f"SERVING_{model.id.replace('-', '_')}"
    return {
        "limits": _amounts(prefix, "LIMIT", own.limits, default.limits),
        "reservations": _amounts(prefix, "RESERVATION", own.reservations, default.reservations),
    }


def _resources(model: Model, defaults: RenderDefaults) -> dict[str, Any]:
    resources: dict[str, dict[str, Any]] = {**amounts(model, defaults)}
    reservations = resources["reservations"]
    gpu = model.serving.gpu
    if gpu is None or _takes_all_by_runtime(model.serving):
        return resources
    request: dict[str, Any] = {"capabilities": ["gpu"]}
    if gpu.driver is not None:
        request["driver"] = gpu.driver
    if gpu.device_ids is not None:
        request["device_ids"] = list(gpu.device_ids)
    else:
        request["count"] = gpu.count
    reservations["devices"] = [request]
    return resources


def _amounts(prefix: str, suffix: str, own: Amounts, default: Amounts) -> dict[str, Default]:
    cpus = next((value for value in (own.cpus, default.cpus) if value is not None), "0")
    memory = next((value for value in (own.memory, default.memory) if value is not None), 0)
    return {
        "cpus": Default(f"{prefix}_CPU_{suffix}", Decimal(cpus)),
        "memory": Default(f"{prefix}_MEM_{suffix}", Decimal(memory)),
    }


def _pulled_from(image: str, defaults: RenderDefaults) -> str:
    host, slash, rest = image.partition("/")
    if not slash or not (set(host) & {".", ":"} or host == "localhost" or host.lower() != host):
        host, rest = "docker.io", image
    wanted = _one_name(host)
    keys = sorted(defaults.registries, key=lambda key: (key != host, key))
    key = next((key for key in keys if _one_name(key) == wanted), None)
    if key is None:
        return image
    inside = f"library/{rest}" if wanted == "docker.io" and "/" not in rest else rest
    return f"{defaults.registries[key]}/{inside}"


def _one_name(host: str) -> str:
    # Names of hosts have no case, and 443 is the port of a name without one.
    name, _, port = host.lower().partition(":")
    if port in {"", "443"}:
        return "docker.io" if name in {"index.docker.io", "registry-1.docker.io"} else name
    return f"{name}:{port}"


def _labels(defaults: RenderDefaults) -> dict[str, str]:
    return {key: _literal(value) for key, value in defaults.labels.items()}


def _literal(text: str) -> str:
    """A text as it stands in a compose file: Compose reads $$ as $."""
    return text.replace("$", "$$")


def short_digest(value: object) -> str:
    """The first 16 hex digits of a value's digest, as labels have them."""
    return canonical_digest(value)[:16]


def _as_json(value: Value) -> dict[str, Any]:
    return value.model_dump(mode="json")
