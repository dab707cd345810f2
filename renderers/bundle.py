"""Every file of a composition's deployment bundle.

What one model contributes is one `ModelFragment`, rendered once and kept by all that it depends on: the model, and the
frame it stands in. So an event that changes one model renders one block through ruamel.yaml; the rest is put together.
Whether the result says what the composition says is `gate`'s to judge, not ours.
"""

import json
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from renderers import compose, download, example, images, readme, router, yaml_emitter
from renderers.cache import Cache
from renderers.compose import RenderContext, ResourceDefaults
from renderers.model import (
    Composition,
    Model,
    Proxy,
    RenderDefaults,
    RenderedFile,
    Stamp,
    canonical_digest,
    canonical_json,
)
from renderers.template_set import Templates

RENDERER_VERSION: Final = "1"
STAMP_PATH: Final = "base/.rebundle.json"
SIGNATURE_PATH: Final = "base/bundle/proxy/bundle-signature.yaml"
MONITORING_PATH: Final = "base/bundle/monitoring.txt"

_SIGNATURE_HEADING: Final = "# Types of the models' inputs and outputs, as the registry has them. Not to be edited.\n"
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Customisation:
    """What a scope brings of its own beside its composition."""

    defaults: RenderDefaults = field(default_factory=RenderDefaults)
    templates: Templates = field(default_factory=Templates.built_in)


@dataclass(frozen=True, slots=True)
class RenderedBundle:
    """The files below docker-compose-gen/, sorted by the bytes of their path."""

    files: tuple[RenderedFile, ...]


@dataclass(frozen=True, slots=True)
class ModelFragment:
    """What one model adds to the files of a bundle."""

    block: bytes
    map_line: bytes
    list_line: bytes
    env_lines: bytes
    files: tuple[RenderedFile, ...]
    image_folder: str

    @property
    def size(self) -> int:
        """Bytes of text it holds."""
        parts = (self.block, self.map_line, self.list_line, self.env_lines, *(file.body for file in self.files))
        return sum(map(len, parts))


@dataclass(frozen=True, slots=True)
class BundleParts:
    """What does not depend on the models: the three services' blocks (unsealed) and the ends of the document."""

    header: bytes
    download: bytes
    router: bytes
    proxy: bytes
    footer: bytes


class Renderer:
    """Renders compositions; may be called from several threads at once."""

    def __init__(self, cache_bytes: int = 64 * _MIB) -> None:
        """`cache_bytes` bounds what is kept of earlier renderings, over all scopes."""
        self._contributions = Cache[ModelFragment](cache_bytes)
        self._fixed = Cache[BundleParts](cache_bytes // 8)
        self._signatures = Cache[tuple[bytes, str]](cache_bytes // 8)
        self._readmes = Cache[bytes](cache_bytes // 8)

    def render(
        self, composition: Composition, defaults: RenderDefaults, stamp: Stamp, templates: Templates | None = None
    ) -> RenderedBundle:
        """The bundle of `composition`, as state `stamp`: the same bytes for the same arguments, whatever is kept.

        Raises:
            RenderError: a text in it cannot stand in the file it belongs into, or (TemplateFault) a template of the
                bundle's own is at fault.
        """
        templates = templates or Templates.built_in()
        frame = RenderContext.of(composition, defaults, templates)
        models = self._contributions_of(composition, frame)
        fixed = self._fixed_blocks(composition, frame)
        signature, signature_seal = self._signature(composition.proxy)
        model_map = b"".join(model.map_line for model in models)
        model_list = b"".join(model.list_line for model in models)
        script = download.script(templates).encode()
        document = b"".join(
            (
                fixed.header,
                compose.sealed(fixed.download, _seal(model_list, script)),
                *(model.block for model in models),
                compose.sealed(fixed.router, _seal(model_map)),
                compose.sealed(fixed.proxy, signature_seal),
                fixed.footer,
            )
        )
        files = [
            RenderedFile(readme.PATH, self._readme(composition, frame, models, fixed.proxy)),
            RenderedFile(STAMP_PATH, _stamp(composition, stamp)),
            RenderedFile(compose.PATH, document),
            RenderedFile(MONITORING_PATH, templates.text("monitoring.txt").encode()),
            RenderedFile(router.MAP_PATH, model_map),
            RenderedFile(router.CONF_PATH, router.tunables(templates).encode()),
            RenderedFile(SIGNATURE_PATH, signature),
            RenderedFile(download.LIST_PATH, model_list),
            RenderedFile(download.SCRIPT_PATH, script, executable=True),
            RenderedFile(download.MODELS_PATH, b""),
            RenderedFile(
                example.ENV_PATH, example.env_head(templates).encode() + b"".join(model.env_lines for model in models)
            ),
            *(RenderedFile(path, text.encode()) for path, text in example.static_files(templates).items()),
            *(file for model in models for file in model.files),
        ]
        # Texts sort like their bytes in UTF-8.
        return RenderedBundle(tuple(sorted(files, key=attrgetter("path"))))

    def _contributions_of(self, composition: Composition, frame: RenderContext) -> list[ModelFragment]:
        frame_key = frame.key
        keys = [(model.canonical, frame_key) for model in composition.models]
        kept = self._contributions.get_all(keys)
        return [
            self._contributed(model, key, frame) if contribution is None else contribution
            for model, key, contribution in zip(composition.models, keys, kept, strict=True)
        ]

    def _contributed(self, model: Model, key: tuple[str, str], frame: RenderContext) -> ModelFragment:
        contribution = _contribution(model, frame)
        self._contributions.put(key, contribution, contribution.size + len(model.canonical))
        return contribution

    def _fixed_blocks(self, composition: Composition, frame: RenderContext) -> BundleParts:
        key = (frame.key, composition.proxy.image)
        fixed = self._fixed.get(key)
        if fixed is None:
            fixed = BundleParts(
                compose.header(frame),
                compose.download_block(frame),
                compose.router_block(frame),
                compose.proxy_block(composition.proxy.image, frame),
                compose.footer(frame),
            )
            self._fixed.put(key, fixed, 8192)
        return fixed

    def _signature(self, proxy: Proxy) -> tuple[bytes, str]:
        """Its file, and the seal of that."""
        document = proxy.signature.canonical
        kept = self._signatures.get(document)
        if kept is None:
            # In the order of the canonical bytes, whatever order an event had: one digest, one text (protocol 1).
            text = yaml_emitter.as_yaml(json.loads(document), _SIGNATURE_HEADING).encode()
            kept = text, _seal(text)
            self._signatures.put(document, kept, len(text) + len(document))
        return kept

    def _readme(
        self, composition: Composition, frame: RenderContext, models: list[ModelFragment], proxy: bytes
    ) -> bytes:
        fixed = (frame.defaults.download_image, frame.defaults.router_image, composition.proxy.image)
        folders = {images.folder(frame.pulled_from(image)) for image in fixed}
        key = (frame.key, frozenset(folders.union(model.image_folder for model in models)), proxy)
        text = self._readmes.get(key)
        if text is None:
            text = readme.text(frame, key[1], proxy).encode()
            self._readmes.put(key, text, len(text))
        return text


def _contribution(model: Model, frame: RenderContext) -> ModelFragment:
    templates, allotment = frame.templates, ResourceDefaults.of(model, frame.defaults.resources)
    path, text = example.batching_path(model), example.batching_text(model, templates)
    return ModelFragment(
        block=compose.model_block(model, frame, allotment, text if example.batching_is_on(model) else None),
        map_line=router.map_line(model, templates).encode(),
        list_line=download.list_line(model, templates).encode(),
        env_lines=example.env_lines(model, allotment, templates).encode(),
        files=(RenderedFile(path, text.encode()),) if path else (),
        image_folder=images.folder(frame.pulled_from(model.serving.image)),
    )


def _stamp(composition: Composition, stamp: Stamp) -> bytes:
    said = {
        "schema": 1,
        "scope": str(composition.scope),
        "state": stamp.state,
        "revision": stamp.revision,
        "composition": composition.digest,
    }
    return canonical_json(said).encode() + b"\n"


def _seal(*bodies: bytes) -> str:
    return canonical_digest([body.decode() for body in bodies])
