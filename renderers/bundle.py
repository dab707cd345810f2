"""Renders a composition into every file of its deployment bundle.

The output of one model is a `ModelFragment`. Fragments are cached by all that they depend on: the
model and the `RenderContext` of its bundle. So an event that changes one model renders one block
through ruamel.yaml; everything else is joined from the cache. The `gate` checks the result against
the composition.
"""

import json
from bisect import insort
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from renderers import compose, download, example, images, readme, router, yaml_emitter
from renderers import stamp as stamps
from renderers.cache import Cache
from renderers.compose import RenderContext, ResourceDefaults
from renderers.composition import Composition, Model, Proxy, RenderDefaults, Stamp
from renderers.template_set import Templates
from renderers.values import RenderedFile, Scope, canonical_digest

RENDERER_VERSION: Final = "2"
SIGNATURE_PATH: Final = "base/bundle/proxy/bundle-signature.yaml"
MONITORING_PATH: Final = "base/bundle/monitoring.txt"
UPDATE_PATH: Final = "base/update.sh"

_SIGNATURE_HEADING: Final = (
    "# Types of the models' inputs and outputs, as the registry has them. Not to be edited.\n"
)
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Customisation:
    """The render defaults and templates of a scope, its inputs in addition to a composition."""

    defaults: RenderDefaults = field(default_factory=RenderDefaults)
    templates: Templates = field(default_factory=Templates.built_in)


@dataclass(frozen=True, slots=True)
class ModelFragment:
    """The parts of a bundle's files that belong to one model."""

    block: bytes
    """Its service in the compose file."""
    map_line: bytes
    list_line: bytes
    env_lines: bytes
    files: tuple[RenderedFile, ...]
    service: stamps.Service
    """Its entry in the stamp."""
    image_folder: str
    """The registry and folder that its image is pulled from."""

    @property
    def size(self) -> int:
        """The size of its texts in bytes."""
        texts = (self.block, self.map_line, self.list_line, self.env_lines)
        files = sum(len(file.body) for file in self.files)
        return sum(map(len, texts)) + files + self.service.size


@dataclass(frozen=True, slots=True)
class BundleParts:
    """The parts of the compose file that do not depend on the models.

    The blocks of router and proxy still hold the placeholder of their digest (`compose.sealed`).
    """

    header: bytes
    download: bytes
    router: bytes
    proxy: bytes
    footer: bytes


class Renderer:
    """Renders compositions. Safe to call from several threads at once."""

    def __init__(self, cache_bytes: int = 64 * _MIB) -> None:
        """`cache_bytes` bounds the cache of fragments, over all scopes."""
        self._fragments = Cache[ModelFragment](cache_bytes)
        self._parts = Cache[BundleParts](cache_bytes // 8)
        self._signatures = Cache[tuple[bytes, str]](cache_bytes // 8)
        self._readmes = Cache[bytes](cache_bytes // 8)
        self._files = Cache[RenderedFile](cache_bytes // 4)
        self._joined = Cache[tuple[list[stamps.Service], str]](cache_bytes // 8)

    def render(
        self,
        composition: Composition,
        defaults: RenderDefaults,
        stamp: Stamp,
        templates: Templates | None = None,
    ) -> tuple[RenderedFile, ...]:
        """The files below docker-compose-gen/ of `composition` as state `stamp`, sorted by path.

        The result depends on the arguments alone, never on the cache.

        Raises:
            UnsafeText: a text cannot be written into its file.
            TemplateFault: a custom template has a fault.
        """
        templates = templates or Templates.built_in()
        context = RenderContext.of(composition, defaults, templates)
        models = self._fragments_of(composition, context)
        parts = self._bundle_parts(composition, context)
        signature, signature_digest = self._signature(composition.proxy)
        model_map = b"".join(model.map_line for model in models)
        model_list = b"".join(model.list_line for model in models)
        script = download.script(templates).encode()
        router_script = router.script(templates).encode()
        document = b"".join(
            (
                parts.header,
                parts.download,
                *(model.block for model in models),
                compose.sealed(parts.router, _files_digest(router_script)),
                compose.sealed(parts.proxy, signature_digest),
                parts.footer,
            )
        )
        files = [
            RenderedFile(readme.PATH, self._readme(composition, context, models, parts.proxy)),
            RenderedFile(compose.PATH, document),
            RenderedFile(MONITORING_PATH, templates.text("monitoring.txt").encode()),
            RenderedFile(router.MAP_PATH, model_map),
            RenderedFile(router.SCRIPT_PATH, router_script, executable=True),
            RenderedFile(router.CONF_PATH, router.tunables(templates).encode()),
            RenderedFile(SIGNATURE_PATH, signature),
            RenderedFile(download.LIST_PATH, model_list),
            RenderedFile(download.SCRIPT_PATH, script, executable=True),
            RenderedFile(download.MODELS_PATH, b""),
            RenderedFile(UPDATE_PATH, templates.text("update.sh").encode(), executable=True),
            RenderedFile(
                example.UPDATE_PATH,
                templates.text("deployment_update.sh").encode(),
                executable=True,
            ),
            RenderedFile(
                example.ENV_PATH,
                example.env_head(templates).encode()
                + b"".join(model.env_lines for model in models),
            ),
            *(
                RenderedFile(path, text.encode())
                for path, text in example.static_files(templates).items()
            ),
        ]
        files = [self._with_digest(composition.scope, file) for file in files]
        files += (file for model in models for file in model.files)
        # Texts sort like their bytes in UTF-8.
        by_path = attrgetter("path")
        files.sort(key=by_path)
        services = self._services(composition.scope, [model.service for model in models])
        insort(files, stamps.stamp_file(composition, stamp, files, services), key=by_path)
        return tuple(files)

    def _with_digest(self, scope: Scope, file: RenderedFile) -> RenderedFile:
        """The file; the one of the scope's last rendering if it is the same: it has its digest."""
        last = self._files.get((scope, file.path))
        if last == file:
            return last
        self._files.put((scope, file.path), file, len(file.body))
        return file

    def _services(self, scope: Scope, services: list[stamps.Service]) -> str:
        """The services of the stamp: few events change any."""
        last = self._joined.get(scope)
        if last is not None and last[0] == services:
            return last[1]
        text = stamps.joined(services)
        self._joined.put(scope, (services, text), len(text))
        return text

    def _fragments_of(
        self, composition: Composition, context: RenderContext
    ) -> list[ModelFragment]:
        context_key = context.key
        keys = [(model.canonical, context_key) for model in composition.models]
        cached = self._fragments.get_all(keys)
        return [
            self._render_and_cache(model, key, context) if fragment is None else fragment
            for model, key, fragment in zip(composition.models, keys, cached, strict=True)
        ]

    def _render_and_cache(
        self, model: Model, key: tuple[str, str], context: RenderContext
    ) -> ModelFragment:
        fragment = _render_model(model, context)
        self._fragments.put(key, fragment, fragment.size + len(model.canonical))
        return fragment

    def _bundle_parts(self, composition: Composition, context: RenderContext) -> BundleParts:
        files = download.reads_files(composition)
        key = (context.key, composition.proxy.image, files)
        parts = self._parts.get(key)
        if parts is None:
            parts = BundleParts(
                compose.header(context),
                compose.download_block(context, files=files),
                compose.router_block(context),
                compose.proxy_block(composition.proxy.image, context),
                compose.footer(context),
            )
            self._parts.put(key, parts, 8192)
        return parts

    def _signature(self, proxy: Proxy) -> tuple[bytes, str]:
        """The signature file, and its digest for the label."""
        document = proxy.signature.canonical
        cached = self._signatures.get(document)
        if cached is None:
            # Keys in the order of the canonical JSON, not of the event: one digest has one text
            # (protocol 1).
            text = yaml_emitter.as_yaml(json.loads(document), _SIGNATURE_HEADING).encode()
            cached = text, _files_digest(text)
            self._signatures.put(document, cached, len(text) + len(document))
        return cached

    def _readme(
        self,
        composition: Composition,
        context: RenderContext,
        models: list[ModelFragment],
        proxy: bytes,
    ) -> bytes:
        defaults = context.defaults
        other_images = (defaults.download_image, defaults.router_image, composition.proxy.image)
        other_folders = {images.folder(context.pulled_from(image)) for image in other_images}
        folders = frozenset(other_folders.union(model.image_folder for model in models))
        key = (context.key, folders, proxy)
        text = self._readmes.get(key)
        if text is None:
            text = readme.text(context, folders, proxy).encode()
            self._readmes.put(key, text, len(text))
        return text


def _render_model(model: Model, context: RenderContext) -> ModelFragment:
    templates, resources = context.templates, ResourceDefaults.of(model, context.defaults.resources)
    path, text = example.batching_path(model), example.batching_text(model, templates)
    batching = text if example.batching_is_on(model) else None
    return ModelFragment(
        block=compose.model_block(model, context, resources, batching),
        map_line=router.map_line(model, templates).encode(),
        list_line=download.list_line(model, templates).encode(),
        env_lines=example.env_lines(model, resources, templates).encode(),
        files=(RenderedFile(path, text.encode()),) if path else (),
        service=stamps.Service.of(model),
        image_folder=images.folder(context.pulled_from(model.serving.image)),
    )


def _files_digest(*bodies: bytes) -> str:
    """The digest of the files that a service serves, for its label."""
    return canonical_digest([body.decode() for body in bodies])
