"""Renders the compose file, one block per service, each through ruamel.yaml.

A block is the key of a service and everything below it. It ends with its own separator, so joined
blocks are byte for byte what ruamel.yaml would write for the whole document. (So no template may
end with a sequence on one line: ruamel.yaml would attach the separator to the document instead of
the block.) Router and proxy have a label with a digest of files that they read at their start. The
blocks are cached with a placeholder for it, and `sealed` inserts the hex digits, which YAML always
writes in double quotes. model_download has no such label: every `up` runs it again, and Compose
2.22 to 2.28 recreates each service that depends on a recreated one.

Variants (gpu, batching, the number of labels) are chosen in the template's text. Values are set in
the parsed tree.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Final, Literal

from renderers import images, yaml_templates
from renderers.composition import Amounts, Composition, Model, RenderDefaults, Resources
from renderers.errors import TemplateFault
from renderers.identifiers import variable_name
from renderers.template_set import Templates
from renderers.values import canonical_digest, canonical_json

PATH: Final = "base/bundle/docker-compose.yaml"
_PLACEHOLDER: Final = b'"<content_digest>"'
_SERVICES: Final = "services:\n"
_FOOTER: Final = "networks.yaml"
_SHARED: Final = frozenset({"bundle", "network", "target_scalar", "restart"})
_OF_MODELS: Final = frozenset(
    {
        "image",
        "model_id",
        "engine_name",
        "variable",
        "model_digest",
        "batching_digest",
        "cpu_limit",
        "mem_limit",
        "cpu_reservation",
        "mem_reservation",
        "memory_fraction",
        "shm_size",
        "start_period",
    }
)
_OF_OTHERS: Final = {
    "model_download.yaml": frozenset({"image"}),
    "router.yaml": frozenset({"image", "content_digest"}),
    "proxy.yaml": frozenset({"image", "content_digest"}),
    _FOOTER: frozenset[str](),
}
"""The placeholders of the templates that are not those of a model's service."""
_SHARED_LIST: Final = frozenset({"label_key", "label_value"})
_LISTS_OF_MODELS: Final = frozenset({"device", "env_name", "env_value", "argument", "loaded_model"})
"""Placeholders with a number, such as `<device:0>`."""
_MEMORY_UNITS: Final = ((1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"), (1, "b"))


@dataclass(frozen=True, slots=True)
class RenderContext:
    """The inputs that all services of a bundle share."""

    bundle: str
    target: str
    defaults: RenderDefaults
    templates: Templates

    @classmethod
    def of(
        cls, composition: Composition, defaults: RenderDefaults, templates: Templates
    ) -> "RenderContext":
        """The context of a composition with these defaults and templates."""
        return cls(composition.bundle.name, composition.bundle.target, defaults, templates)

    @property
    def key(self) -> str:
        """A cache key: equal for equal contexts."""
        return canonical_json(
            [self.bundle, self.target, self.defaults.digest, self.templates.digest]
        )

    @property
    def labels(self) -> list[tuple[str, str]]:
        """The labels of every service, sorted."""
        return sorted(self.defaults.labels.items())

    def pulled_from(self, image: str) -> str:
        """The image with its registry replaced by the configured mirror, if there is one."""
        return images.pulled_from(image, self.defaults.registries)


@dataclass(frozen=True, slots=True)
class ResourceDefaults:
    """A model's resources unless a variable of the target host replaces them.

    In Compose's notation; "0" means no limit.
    """

    cpu_limit: str
    mem_limit: str
    cpu_reservation: str
    mem_reservation: str

    @classmethod
    def of(cls, model: Model, defaults: Resources) -> "ResourceDefaults":
        """The composition's values, else the defaults, else no limit."""
        limits, reservations = model.serving.resources.limits, model.serving.resources.reservations
        return cls(
            *_amounts(limits, defaults.limits),
            *_amounts(reservations, defaults.reservations),
        )


@dataclass(frozen=True)
class Variant:
    """What the template of a service makes of its text; the values are set in the parsed tree."""

    gpu: int | str | None = None
    """The number of GPUs, "all", or None."""
    devices: int = 0
    """How many GPUs are named by their ids."""
    driver: str | None = None
    """The driver that a request for GPUs names."""
    memory_fraction: bool = False
    batching: bool = False
    update: str = "in_place"
    """`in_place` or `restart`."""
    environment: int = 0
    """How many variables the composition gives the engine."""
    arguments: int = 0
    """How many flags and values of flags the composition adds."""
    options_set: frozenset[str] = frozenset()
    """Options that the composition sets, which are not rendered."""
    shm_size: bool = False
    start_period: bool = False
    loaded_models: int = 0
    """How many models of a repository Triton loads; 0 without a repository."""
    labels: int = 0
    files: bool = False
    """Whether model_download reads models from a folder of the host."""
    require_all: bool = True


_PLAIN: Final = Variant()


def model_digest(model: Model) -> str:
    """16 hex digits that change with the files of a model.

    They are in the labels of a service that only a new container updates.
    """
    return canonical_digest([model.identity, model.serving_version])[:16]


def header(context: RenderContext) -> bytes:
    """Everything above the first service."""
    return context.templates.text("header.yaml").encode()


def model_block(
    model: Model, context: RenderContext, resources: ResourceDefaults, batching: str | None
) -> bytes:
    """The service of a model; `batching` is the text of its batching file if batching is on."""
    serving = model.serving
    gpu = serving.gpu
    devices = (gpu.device_ids or ()) if gpu else ()
    arguments, repository = serving.arguments or (), serving.repository
    loaded = repository.models if repository else ()
    template = _template(
        context.templates,
        f"{serving.platform}.yaml",
        Variant(
            gpu=gpu.count if gpu else None,
            devices=len(devices),
            driver=gpu.driver if gpu else None,
            memory_fraction=gpu is not None and gpu.memory_fraction is not None,
            batching=batching is not None,
            update=serving.update_or_default,
            environment=len(serving.environment),
            arguments=len(arguments),
            options_set=serving.options_set,
            shm_size=serving.shm_size is not None,
            start_period=serving.start_period is not None,
            loaded_models=len(loaded),
            labels=len(context.labels),
        ),
    )
    values = {
        "model_id": model.id,
        "engine_name": model.engine_name,
        "variable": variable_name(model.id),
        "image": context.pulled_from(serving.image),
        "model_digest": model_digest(model),
        "start_period": f"{serving.start_seconds}s",
        **asdict(resources),
    }
    if batching is not None:
        values["batching_digest"] = canonical_digest(batching)[:16]
    if gpu is not None and gpu.memory_fraction is not None:
        values["memory_fraction"] = gpu.memory_fraction
    if serving.shm_size is not None:
        values["shm_size"] = _memory(serving.shm_size)
    values |= {f"device:{index}": device for index, device in enumerate(devices)}
    values |= {f"loaded_model:{index}": name for index, name in enumerate(loaded)}
    values |= {f"argument:{index}": _literal(text) for index, text in enumerate(arguments)}
    for index, (name, value) in enumerate(sorted(serving.environment.items())):
        values[f"env_name:{index}"] = name
        values[f"env_value:{index}"] = _literal(value)
    return _block(template, values, context)


def download_block(context: RenderContext, *, files: bool) -> bytes:
    """The service model_download; `files` if it reads models from a folder of the host."""
    variant = Variant(
        labels=len(context.labels), files=files, require_all=context.defaults.require_all_models
    )
    image = context.pulled_from(context.defaults.download_image)
    return _fixed_block("model_download.yaml", image, context, variant)


def router_block(context: RenderContext) -> bytes:
    """The router's service, with the placeholder of its digest."""
    image = context.pulled_from(context.defaults.router_image)
    return _fixed_block("router.yaml", image, context, Variant(labels=len(context.labels)))


def proxy_block(image: str, context: RenderContext) -> bytes:
    """The service model_proxy, with the placeholder of its digest."""
    variant = Variant(labels=len(context.labels))
    return _fixed_block("proxy.yaml", context.pulled_from(image), context, variant)


def sealed(block: bytes, digest: str) -> bytes:
    """`block` with the first 16 hex digits of `digest` in the place of its placeholder."""
    return block.replace(_PLACEHOLDER, f'"{digest[:16]}"'.encode(), 1)


def footer(context: RenderContext) -> bytes:
    """Everything below the last service."""
    return _template(context.templates, _FOOTER).filled(_context_values(context)).encode()


def sample(platform: str, templates: Templates, gpu: Literal["all"] | None = None) -> str:
    """A model's block with its placeholders unfilled, for the README.

    It is made from the template of the compose file, so the README and that file agree.
    """
    values = {field.name: "0" for field in fields(ResourceDefaults)} | {
        "variable": "<model_id>",
        "engine_name": "<model_id>",
    }
    template = _template(templates, f"{platform}.yaml", Variant(gpu=gpu))
    return template.filled(values).removeprefix(_SERVICES)


def _fixed_block(name: str, image: str, context: RenderContext, variant: Variant) -> bytes:
    return _block(_template(context.templates, name, variant), {"image": image}, context)


def _block(
    template: yaml_templates.Template, values: Mapping[str, str], context: RenderContext
) -> bytes:
    text = template.filled({**values, **_context_values(context)})
    return text.removeprefix(_SERVICES).encode()


def _context_values(context: RenderContext) -> dict[str, str]:
    values = {
        "bundle": context.bundle,
        "network": context.bundle,
        "target_scalar": yaml_templates.written(context.target),
        "restart": context.defaults.restart,
    }
    for index, (key, value) in enumerate(context.labels):
        values[f"label_key:{index}"] = key
        values[f"label_value:{index}"] = _literal(value)
    return values


def _literal(text: str) -> str:
    """The text as Compose, which interpolates variables, reads it unchanged."""
    return text.replace("$", "$$")


@lru_cache(maxsize=256)
def _template(
    templates: Templates, name: str, variant: Variant = _PLAIN
) -> yaml_templates.Template:
    text = templates.render(name, **vars(variant))
    lines = text.split("\n")
    try:
        template = yaml_templates.Template.parse(text)
        if templates.overridden:
            yaml_templates.refuse_extras(text)
    except yaml_templates.NotYaml as error:
        where = f"line {error.line} of its output, {lines[error.line - 1].strip()!r}"
        message = f"its output is not valid YAML for a service: {error} ({where})"
        raise TemplateFault(name, error.line, message) from error
    if name != _FOOTER and (
        not text.startswith(_SERVICES) or [*map(len, template.outline.values())] != [1]
    ):
        message = f"must begin with {_SERVICES.strip()!r}, and have one service below it"
        raise TemplateFault(name, 1, message)
    known, lists = _placeholders(name)
    for unknown in sorted(template.names - known):
        listed, colon, index = unknown.partition(":")
        if colon and listed in lists and index.isascii() and index.isdigit():
            continue
        line = next(number for number, line in enumerate(lines, 1) if f"<{unknown}>" in line)
        near = difflib.get_close_matches(unknown, known, n=1)
        meant = f"; did you mean <{near[0]}>?" if near else ""
        raise TemplateFault(name, line, f"<{unknown}> is not a known placeholder{meant}")
    return template


def _placeholders(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a template may have placeholders for: single values, and lists of them."""
    if name in _OF_OTHERS:
        return _SHARED | _OF_OTHERS[name], _SHARED_LIST
    return _SHARED | _OF_MODELS, _SHARED_LIST | _LISTS_OF_MODELS


def _amounts(own: Amounts, default: Amounts) -> tuple[str, str]:
    cpus = own.cpus if own.cpus is not None else default.cpus
    memory = own.memory if own.memory is not None else default.memory
    return cpus or "0", _memory(memory or 0)


def _memory(amount: int) -> str:
    """`amount` bytes in the largest unit that divides it evenly."""
    if amount == 0:
        return "0"
    size, unit = next((size, unit) for size, unit in _MEMORY_UNITS if amount % size == 0)
    return f"{amount // size}{unit}"
