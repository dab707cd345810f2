"""A reference implementation of the compose file: the whole document through ruamel.yaml, once.

A fresh YAML() loads the template document, inserts every service from its own freshly loaded
template and dumps the result. It is slow, without shortcuts, caches or inserted digests. The
renderer must produce the same bytes.
"""

from typing import Any

from renderers import yaml_templates
from renderers.compose import RenderContext, ResourceDefaults, model_digest
from renderers.composition import Composition, Model, RenderDefaults
from renderers.example import batching_is_on, batching_text
from renderers.template_set import Templates
from renderers.values import canonical_digest


def whole_compose_file(
    composition: Composition, defaults: RenderDefaults, digests: dict[str, str]
) -> str:
    """The compose file; `digests` has the 16 hex digits for router and proxy."""
    templates = Templates.built_in()
    frame = RenderContext.of(composition, defaults, templates)
    shared = _shared(frame)
    files = any(model.artifact.uri.startswith("file://") for model in composition.models)
    download = _service_text("model_download.yaml", frame, files=files)
    tree = yaml_templates.load(
        templates.text("header.yaml")
        + download.removeprefix("services:\n")
        + templates.text("networks.yaml")
    )
    yaml_templates.fill(
        tree,
        shared | {"image": frame.pulled_from(defaults.download_image)},
    )
    services = tree["services"]
    for model in composition.models:
        _insert(services, *_model(model, frame, shared))
    _insert(
        services,
        _service_text("router.yaml", frame),
        shared
        | {"image": frame.pulled_from(defaults.router_image), "content_digest": digests["router"]},
    )
    _insert(
        services,
        _service_text("proxy.yaml", frame),
        shared
        | {"image": frame.pulled_from(composition.proxy.image), "content_digest": digests["proxy"]},
    )
    return yaml_templates.dump(tree)


def _insert(services: Any, text: str, values: dict[str, str]) -> None:
    tree = yaml_templates.load(text)
    yaml_templates.fill(tree, values)
    services.update(tree["services"])


def _model(
    model: Model, frame: RenderContext, shared: dict[str, str]
) -> tuple[str, dict[str, str]]:
    gpu, allotment = model.serving.gpu, ResourceDefaults.of(model, frame.defaults.resources)
    devices = list(gpu.device_ids or []) if gpu else []
    loaded = model.serving.repository.models if model.serving.repository else ()
    text = frame.templates.render(
        f"{model.serving.platform}.yaml",
        gpu=gpu.count if gpu else None,
        devices=len(devices),
        driver=gpu.driver if gpu else None,
        memory_fraction=bool(gpu and gpu.memory_fraction),
        batching=batching_is_on(model),
        update=model.serving.update_or_default,
        environment=len(model.serving.environment),
        arguments=len(model.serving.arguments or ()),
        options_set=model.serving.options_set,
        shm_size=bool(model.serving.shm_size),
        start_period=bool(model.serving.start_period),
        loaded_models=len(loaded),
        labels=len(frame.labels),
    )
    values = shared | {
        "model_id": model.id,
        "engine_name": model.serving.engine_name or model.id,
        "start_period": f"{model.serving.start_period}s",
        "shm_size": _memory(model.serving.shm_size or 0),
        "memory_fraction": (gpu.memory_fraction if gpu else None) or "",
        "variable": model.id.replace("-", "_"),
        "image": frame.pulled_from(model.serving.image),
        "model_digest": model_digest(model),
        "cpu_limit": allotment.cpu_limit,
        "mem_limit": allotment.mem_limit,
        "cpu_reservation": allotment.cpu_reservation,
        "mem_reservation": allotment.mem_reservation,
        "batching_digest": canonical_digest(batching_text(model, frame.templates))[:16],
    }
    for kind, texts in (
        ("device", devices),
        ("loaded_model", loaded),
        ("argument", [_in_compose(text) for text in model.serving.arguments or ()]),
        ("env_name", sorted(model.serving.environment)),
        ("env_value", [_in_compose(text) for _, text in sorted(model.serving.environment.items())]),
    ):
        values |= {f"{kind}:{index}": value for index, value in enumerate(texts)}
    return text, values


def _in_compose(text: str) -> str:
    return text.replace("$", "$$")


def _memory(amount: int) -> str:
    for unit, size in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if amount % size == 0:
            return f"{amount // size}{unit}"
    return f"{amount}b"


def _service_text(name: str, frame: RenderContext, *, files: bool = False) -> str:
    return frame.templates.render(
        name,
        labels=len(frame.labels),
        files=files,
        require_all=frame.defaults.require_all_models,
    )


def _shared(frame: RenderContext) -> dict[str, str]:
    values = {
        "bundle": frame.bundle,
        "network": frame.bundle,
        "target_scalar": yaml_templates.written(frame.target),
    }
    values["restart"] = frame.defaults.restart
    for index, (key, value) in enumerate(frame.labels):
        values |= {f"label_key:{index}": key, f"label_value:{index}": value.replace("$", "$$")}
    return values
