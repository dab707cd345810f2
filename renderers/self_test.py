"""Renders and judges a bundle that has every kind of service, before a real one does.

A template of a bundle's own, or a default, that cannot be rendered or that the gate refuses is found when the daemon
starts and by `rebundle config check`, not at the next event.
"""

from functools import cache
from typing import Any, Final

from renderers import gate
from renderers.bundle import Customisation, Renderer
from renderers.model import Composition, Stamp
from renderers.platforms import PLATFORMS

_STAMP: Final = Stamp("rehearsal", "1")
_GPUS: Final[tuple[dict[str, Any] | None, ...]] = (None, {"count": "all"}, {"count": 2}, {"device_ids": ["0", "1"]})
_BATCHING: Final[tuple[dict[str, Any] | None, ...]] = (
    None,
    {"enabled": False},
    {},
    {"parameters": {"max_batch_size": 8, "allowed_batch_sizes": [4, 8], "pad_variable_length_inputs": True}},
)
_RESOURCES: Final = {
    "limits": {"cpus": "1.5", "memory": "4g"},
    "reservations": {"cpus": "1", "memory": "512m"},
}


def rehearse(customisation: Customisation) -> None:
    """Returns if every kind of service can be rendered so, and passes the gate.

    Raises:
        RenderError: the first one that cannot (TemplateFault), or does not pass (GateFailure).
    """
    defaults, templates = customisation.defaults, customisation.templates
    renderer = Renderer()
    for composition in (_every_kind(), _one_model()):
        rendered = renderer.render(composition, defaults, _STAMP, templates)
        gate.check(composition, defaults, rendered, templates.overridden)


@cache
def _every_kind() -> Composition:
    kinds = [
        {"platform": platform, "resources": resources} | ({} if gpu is None else {"gpu": gpu}) | extra
        for platform, able in PLATFORMS.items()
        for gpu in (_GPUS if not able.no_gpu else (None,))
        for resources in ({}, _RESOURCES)
        for extra in (
            [{} if batching is None else {"batching": batching} for batching in _BATCHING]
            if not able.no_batching
            else [{}]
        )
    ]
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
            "bundle": {"name": "rehearsal", "target": "every-kind"},
            "models": models,
            "proxy": {
                "image": "registry.example.com/proxy:1.0",
                "signature": {"document": {"inputs": [{"name": "x", "shape": [-1, 3], "scale": 0.5, "of": None}]}},
            },
        }
    )
