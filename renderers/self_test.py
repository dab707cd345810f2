"""Renders a sample bundle with every kind of service and checks it with the gate.

The daemon does this at its start, and so does `rebundle config check`. They report a custom
template or a render default that cannot be used before an event needs it.
"""

from functools import cache
from itertools import product
from typing import Any, Final

from renderers.bundle import Customisation, Renderer
from renderers.checked import render_checked
from renderers.composition import Composition, Stamp
from renderers.platforms import PLATFORMS

_STAMP: Final = Stamp("self-test", "1")
_GPUS: Final[tuple[dict[str, Any] | None, ...]] = (
    None,
    {"count": "all"},
    {"count": 2},
    {"device_ids": ["0", "1"]},
)
_BATCHING: Final[tuple[dict[str, Any] | None, ...]] = (
    None,
    {"enabled": False},
    {},
    {
        "parameters": {
            "max_batch_size": 8,
            "allowed_batch_sizes": [4, 8],
            "pad_variable_length_inputs": True,
        }
    },
)
_EVERYWHERE: Final[dict[str, Any]] = {
    "engine_name": "Model-1.0",
    "environment": {"OMP_NUM_THREADS": "4", "on": 'a: "$b" # c'},
    "arguments": ["--some-flag=$x", "--another", "a value: of it"],
    "shm_size": "1536m",
    "start_period": "10m",
    "update": "restart",
}
"""Fields that every platform has."""
_ALL_BY_DRIVER: Final = {"count": "all", "driver": "nvidia"}
_BY_CDI: Final = {"device_ids": ["nvidia.com/gpu=0", "nvidia.com/gpu=1:0"], "driver": "cdi"}
_OF_ONE_PLATFORM: Final[tuple[dict[str, Any], ...]] = (
    *(
        {"platform": platform, "arguments": [f"--{option}=1"]}
        for platform, engine in PLATFORMS.items()
        for option in sorted(engine.options)
    ),
    {"platform": "tensorflow", "gpu": _ALL_BY_DRIVER | {"memory_fraction": 0.4}},
    {"platform": "tensorflow", "gpu": _BY_CDI},
    {"platform": "triton", "gpu": {"count": 2, "driver": "nvidia"}},
    {"platform": "triton", "repository": {"models": ["first", "Second"]}},
    {"platform": "triton", "repository": {"models": ["third"]}, "update": "in_place"},
)
_RESOURCES: Final = {
    "limits": {"cpus": "1.5", "memory": "4g"},
    "reservations": {"cpus": "1", "memory": "512m"},
}


def run(customisation: Customisation) -> None:
    """Returns if every kind of service can be rendered with `customisation` and passes the gate.

    Raises:
        TemplateFault: a custom template cannot be rendered.
        GateFailure: the output contradicts the composition.
        RenderError: any other fault of the customisation.
    """
    renderer = Renderer()
    for composition in (_every_kind(), _one_model()):
        render_checked(composition, _STAMP, customisation, renderer=renderer)


@cache
def _every_kind() -> Composition:
    """A composition with a model for each combination of platform, GPUs, resources and batching.

    Other fields change what is written in one way each, so each of them has only a few models.
    """
    kinds: list[dict[str, Any]] = []
    for name, platform in PLATFORMS.items():
        gpus = (None,) if platform.no_gpu else _GPUS
        batchings = (None,) if platform.no_batching else _BATCHING
        for gpu, resources, batching in product(gpus, ({}, _RESOURCES), batchings):
            kind: dict[str, Any] = {"platform": name, "resources": resources}
            if gpu is not None:
                kind["gpu"] = gpu
            if batching is not None:
                kind["batching"] = batching
            kinds.append(kind)
        own = {"platform": name, "engine_name": f"{name}-{_EVERYWHERE['engine_name']}"}
        kinds.append(_EVERYWHERE | own)
    kinds += _OF_ONE_PLATFORM
    return _composition([_model(f"model-{number}", kind) for number, kind in enumerate(kinds)])


@cache
def _one_model() -> Composition:
    return _composition([_model("default", {"platform": next(iter(PLATFORMS))})])


def _model(model_id: str, serving: dict[str, Any]) -> dict[str, Any]:
    scheme = "gs" if model_id.endswith(("0", "2", "4")) else "s3"
    return {
        "id": model_id,
        "version": "7",
        "artifact": {"uri": f"{scheme}://bucket/models/{model_id}"},
        "serving": {"image": "registry.example.com/serving:1.0"} | serving,
    }


def _composition(models: list[dict[str, Any]]) -> Composition:
    return Composition.model_validate(
        {
            "bundle": {"name": "self-test", "target": "every-kind"},
            "models": models,
            "proxy": {
                "image": "registry.example.com/proxy:1.0",
                "signature": {
                    "document": {
                        "inputs": [{"name": "x", "shape": [-1, 3], "scale": 0.5, "of": None}]
                    }
                },
            },
        }
    )
