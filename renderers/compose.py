"""The compose file, block by block: one block per service, each through ruamel.yaml.

A block is the service's key and what stands below it, and ends with its own separator, so that blocks put together
are byte for byte what ruamel.yaml would write for the whole document. (For that, no template ends with a sequence on
one line: ruamel.yaml would hang the separator on the document, not on the block.) Three services carry a digest of
files that change with any model; their blocks keep its placeholder, and `sealed` puts the hex in (in double quotes it
has one spelling).

Variants (gpu, batching, a number of labels) are chosen in the template's text; values are set in the parsed tree.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Final, Literal

from renderers import images, yaml_templates
from renderers.errors import TemplateFault
from renderers.identifiers import variable_name
from renderers.model import Amounts, Composition, Model, RenderDefaults, Resources, canonical_digest, canonical_json
from renderers.template_set import Templates

PATH: Final = "base/bundle/docker-compose.yaml"
_HOLE: Final = b'"<content_digest>"'
_SERVICES: Final = "services:\n"
_FOOTER: Final = "networks.yaml"
_KNOWN: Final = (
    *("bundle", "network", "target_scalar", "restart", "image", "content_digest", "model_id", "variable"),
    *("model_digest", "batching_digest", "cpu_limit", "mem_limit", "cpu_reservation", "mem_reservation"),
)
_FILLED: Final = re.compile(rf"{'|'.join(_KNOWN)}|(?:device|label_key|label_value):[0-9]+")
_MEMORY_UNITS: Final = ((1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"), (1, "b"))


@dataclass(frozen=True, slots=True)
class RenderContext:
    """What the services of a bundle share."""

    bundle: str
    target: str
    defaults: RenderDefaults
    templates: Templates

    @classmethod
    def of(cls, composition: Composition, defaults: RenderDefaults, templates: Templates) -> "RenderContext":
        """The frame of a composition under these defaults."""
        return cls(composition.bundle.name, composition.bundle.target, defaults, templates)

    @property
    def key(self) -> str:
        """Equal for equal frames."""
        return canonical_json([self.bundle, self.target, self.defaults.digest, self.templates.digest])

    @property
    def labels(self) -> list[tuple[str, str]]:
        """The labels that every service gets, sorted."""
        return sorted(self.defaults.labels.items())

    def pulled_from(self, image: str) -> str:
        """The image as the bundle's hosts can have it."""
        return images.pulled_from(image, self.defaults.registries)


@dataclass(frozen=True, slots=True)
class ResourceDefaults:
    """What a model gets unless the target host says otherwise, as Compose writes it; "0" means no limit."""

    cpu_limit: str
    mem_limit: str
    cpu_reservation: str
    mem_reservation: str

    @classmethod
    def of(cls, model: Model, defaults: Resources) -> "ResourceDefaults":
        """The composition's value, else the default, else none."""
        limits, reservations = model.serving.resources.limits, model.serving.resources.reservations
        return cls(
            *_amounts(limits, defaults.limits),
            *_amounts(reservations, defaults.reservations),
        )


def model_digest(model: Model) -> str:
    """16 hex digits that change when the service must start anew to serve the right files."""
    artifact = model.artifact
    return canonical_digest([model.version, artifact.uri, artifact.digest, model.serving_version])[:16]


def header(frame: RenderContext) -> bytes:
    """Everything above the first service."""
    return frame.templates.text("header.yaml").encode()


def model_block(model: Model, frame: RenderContext, allotment: ResourceDefaults, batching: str | None) -> bytes:
    """The service of a model; `batching` is the text of its batching file when that is on."""
    gpu = model.serving.gpu
    devices = (gpu.device_ids or ()) if gpu else ()
    template = _template(
        frame.templates,
        f"{model.serving.platform}.yaml",
        gpu=gpu.count if gpu else None,
        devices=len(devices),
        batching=batching is not None,
        labels=len(frame.labels),
    )
    values = {
        "model_id": model.id,
        "variable": variable_name(model.id),
        "image": frame.pulled_from(model.serving.image),
        "model_digest": model_digest(model),
        **asdict(allotment),
    }
    if batching is not None:
        values["batching_digest"] = canonical_digest(batching)[:16]
    values |= {f"device:{index}": device for index, device in enumerate(devices)}
    return _block(template, values, frame)


def download_block(frame: RenderContext) -> bytes:
    """model_download, unsealed."""
    return _fixed_block("model_download.yaml", frame.pulled_from(frame.defaults.download_image), frame)


def router_block(frame: RenderContext) -> bytes:
    """The router, unsealed."""
    return _fixed_block("router.yaml", frame.pulled_from(frame.defaults.router_image), frame)


def proxy_block(image: str, frame: RenderContext) -> bytes:
    """model_proxy, unsealed."""
    return _fixed_block("proxy.yaml", frame.pulled_from(image), frame)


def sealed(block: bytes, digest: str) -> bytes:
    """`block` with the 16 hex digits of what it serves in its label."""
    return block.replace(_HOLE, f'"{digest[:16]}"'.encode(), 1)


def footer(frame: RenderContext) -> bytes:
    """Everything below the last service."""
    return _template(frame.templates, _FOOTER).filled(_frame_values(frame)).encode()


def sample(platform: str, templates: Templates, gpu: Literal["all"] | None = None) -> str:
    """A model's block with its placeholders left in, for the README: what is shown is what is rendered."""
    values = {field.name: "0" for field in fields(ResourceDefaults)} | {"variable": "<model_id>"}
    return _template(templates, f"{platform}.yaml", gpu=gpu).filled(values).removeprefix(_SERVICES)


def _fixed_block(name: str, image: str, frame: RenderContext) -> bytes:
    return _block(_template(frame.templates, name, labels=len(frame.labels)), {"image": image}, frame)


def _block(template: yaml_templates.Template, values: Mapping[str, str], frame: RenderContext) -> bytes:
    text = template.filled({**values, **_frame_values(frame)})
    return text.removeprefix(_SERVICES).encode()


def _frame_values(frame: RenderContext) -> dict[str, str]:
    values = {
        "bundle": frame.bundle,
        "network": frame.bundle,
        "target_scalar": yaml_templates.written(frame.target),
        "restart": frame.defaults.restart,
    }
    for index, (key, value) in enumerate(frame.labels):
        values[f"label_key:{index}"] = key
        values[f"label_value:{index}"] = value.replace("$", "$$")  # Compose interpolates label values
    return values


@lru_cache(maxsize=256)
def _template(
    templates: Templates,
    name: str,
    *,
    gpu: int | str | None = None,
    devices: int = 0,
    batching: bool = False,
    labels: int = 0,
) -> yaml_templates.Template:
    text = templates.render(name, gpu=gpu, devices=devices, batching=batching, labels=labels)
    lines = text.split("\n")
    try:
        template = yaml_templates.Template.parse(text)
        if templates.overridden:
            yaml_templates.refuse_extras(text)
    except yaml_templates.NotYaml as error:
        where = f"line {error.line} of what it makes, {lines[error.line - 1].strip()!r}"
        raise TemplateFault(name, error.line, f"is no YAML for a service: {error} ({where})") from error
    if name != _FOOTER and (not text.startswith(_SERVICES) or [*map(len, template.outline.values())] != [1]):
        raise TemplateFault(name, 1, f"must begin with {_SERVICES.strip()!r}, and have one service below it")
    for unknown in sorted(each for each in template.names if not _FILLED.fullmatch(each)):
        line = next(number for number, line in enumerate(lines, 1) if f"<{unknown}>" in line)
        near = difflib.get_close_matches(unknown, _KNOWN, n=1)
        meant = f"; did you mean <{near[0]}>?" if near else ""
        raise TemplateFault(name, line, f"<{unknown}> is no placeholder{meant}")
    return template


def _amounts(own: Amounts, default: Amounts) -> tuple[str, str]:
    cpus = own.cpus if own.cpus is not None else default.cpus
    memory = own.memory if own.memory is not None else default.memory
    return cpus or "0", _memory(memory or 0)


def _memory(amount: int) -> str:
    """The largest unit that divides it evenly."""
    if amount == 0:
        return "0"
    size, unit = next((size, unit) for size, unit in _MEMORY_UNITS if amount % size == 0)
    return f"{amount // size}{unit}"
