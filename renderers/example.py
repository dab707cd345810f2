"""Renders example/, the files that operators copy and fill in, and the batching parameters.

A file in example/ is a default: once an operator has changed it in the live tree, it is never
overwritten (protocol 5). So nothing in base/ may depend on what these files hold for single models.
The batching parameters of a model are in base/ or in example/ (`batching_path`).
"""

from typing import Final

from renderers.compose import ResourceDefaults
from renderers.composition import BatchingParameters, Model
from renderers.identifiers import variable_name
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates, protobuf_string

UPDATE_PATH: Final = "example/update.sh"
ENV_PATH: Final = "example/conf/bundle/.env"
_STATIC: Final = {
    "example/.env": "deployment.env",
    "example/docker-compose.yaml": "deployment.yaml",
    "example/creds/bundle/.env": "creds.env",
    "example/creds/bundle/gcs.json": "gcs.json",
}
_WRAPPED: Final = (
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "thread_pool_name",
    "enable_large_batch_splitting",
    "max_execution_batch_size",
)
"""The fields whose value is in a message of its own, in the order of the file."""


def static_files(templates: Templates) -> dict[str, str]:
    """The files that are the same in every bundle, as path -> text."""
    return {path: templates.text(name) for path, name in _STATIC.items()}


def env_head(templates: Templates) -> str:
    """The part of conf/bundle/.env above the lines of the models."""
    return templates.text("conf.env")


def env_lines(model: Model, resources: ResourceDefaults, templates: Templates) -> str:
    """The lines of one model in conf/bundle/.env."""
    name = variable_name(model.id)
    return templates.render(
        "serving.env", service=f"s{model.id}s", variable=name, allotment=resources
    )


def batching_path(model: Model) -> str | None:
    """The path of the model's batching file; None where the platform has none.

    It is in base/ if the composition enables batching, else in example/ for the operator.
    """
    if PLATFORMS[model.serving.platform].no_batching:
        return None
    folder = "base/bundle" if batching_is_on(model) else "example/conf/bundle"
    return f"{folder}/batching_{model.id}.txt"


def batching_is_on(model: Model) -> bool:
    """Whether the composition enables batching."""
    return model.serving.batching is not None and model.serving.batching.enabled


def batching_text(model: Model, templates: Templates) -> str:
    """The batching file, in the text format of TensorFlow Serving's BatchingParameters."""
    service = f"s{model.id}s"
    batching = model.serving.batching
    if batching is None or not batching.enabled:
        return templates.render("batching_placeholder.txt", service=service)
    return _parameters(service, batching.parameters, templates)


def _parameters(service: str, parameters: BatchingParameters, templates: Templates) -> str:
    values = ((name, getattr(parameters, name)) for name in _WRAPPED)
    return templates.render(
        "batching_on.txt",
        service=service,
        wrapped=[(name, _literal(value)) for name, value in values if value is not None],
        sizes=parameters.allowed_batch_sizes or (),
        pad=parameters.pad_variable_length_inputs,
    )


def _literal(value: object) -> str:
    """A value in protobuf's text format."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return protobuf_string(value) if isinstance(value, str) else str(value)
