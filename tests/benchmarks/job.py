"""The measured jobs and their inputs: the same change of the same bundle for every participant.

Rebundle is measured on the mixed bundle of the tests (both platforms, gpus, batching). Tools that
fill a template get a uniform bundle with one TensorFlow Serving service per model, because their
template must produce every byte of it.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

from daemon.publishing import archive, manifest
from daemon.publishing.archive import Archive, Packer
from daemon.publishing.manifest import RenderedState
from daemon.publishing.pointer import Revision
from renderers import bundle, compose, gate
from renderers.bundle import Renderer
from renderers.composition import Composition, Model
from renderers.values import RenderedFile
from tests.builders import GOLDEN_DEFAULTS, STAMP, make_composition, make_model

COMPOSE_FILE = compose.PATH
_SENTINELS = ("modelidsentinel", "imagesentinel/x:1", "0123456789abcdef")


@cache
def mixed(models: int) -> Composition:
    """The models of the mixed bundle, unchanged."""
    return make_composition(models)


@cache
def even(models: int) -> Composition:
    """A bundle of services that differ in id, image and digest alone."""
    basis = make_composition(1)
    return Composition(
        bundle=basis.bundle,
        models=tuple(plain(number) for number in range(models)),
        proxy=basis.proxy,
    )


def plain(number: int, image: str = "registry.example.com/serving:1.0") -> Model:
    return make_model(f"{1000 + number}", version="1", serving={"image": image})


def with_image(composition: Composition, image: str) -> Composition:
    """The middle model gets another image: one line of the compose file."""
    model = composition.models[len(composition.models) // 2]
    return composition.with_model(
        model.model_copy(update={"serving": model.serving.model_copy(update={"image": image})})
    )


def with_version(composition: Composition, version: str) -> Composition:
    """The middle model gets a new version: its service, the list, the download service, the proxy."""
    model = composition.models[len(composition.models) // 2]
    return composition.with_model(
        Model.model_validate(model.model_dump(exclude={"serving_version"}) | {"version": version})
    )


def with_one_more(composition: Composition, number: int) -> Composition:
    """A new model in the middle of the others."""
    return composition.with_model(
        make_model(f"{composition.models[len(composition.models) // 2].id}-{number}")
    )


def with_one_less(composition: Composition, number: int) -> Composition:
    """Without one of the models in the middle."""
    gone = composition.models[(len(composition.models) // 2 + number) % len(composition.models)]
    models = tuple(model for model in composition.models if model is not gone) or composition.models
    return composition.model_copy(update={"models": models})


class Daemon:
    """The state that a daemon keeps between two events."""

    def __init__(self) -> None:
        self.renderer = Renderer()
        self.packer = Packer()

    def render(self, composition: Composition) -> tuple[RenderedFile, ...]:
        """Every file of the bundle."""
        return self.renderer.render(composition, GOLDEN_DEFAULTS, STAMP)

    def archive(self, composition: Composition) -> tuple[Archive, bytes]:
        """Rendered, checked, packed and described: everything before the first byte goes to the
        bucket.
        """
        rendered = self.render(composition)
        gate.check(composition, GOLDEN_DEFAULTS, rendered)
        state = RenderedState(
            composition=composition,
            defaults=GOLDEN_DEFAULTS,
            state="state-1",
            revision=Revision(producer=1),
            kind="explicit",
            late=False,
            files=rendered,
            renderer=bundle.RENDERER_VERSION,
            templates="0" * 64,
            events=(),
        )
        members = self.packer.members(composition.scope, rendered)
        packed = archive.pack(members)
        return packed, manifest.written(
            state, "0" * 32, "2026-01-01T00:00:00.000Z", members, packed
        )


def compose_file(rendered: tuple[RenderedFile, ...]) -> bytes:
    """The compose file of a bundle."""
    return next(file.body for file in rendered if file.path == COMPOSE_FILE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a template language loops over models and names the fields of a model."""

    begin: str
    end: str
    model_id: str
    image: str
    digest: str


JINJA = Dialect(
    "{% for m in models %}", "{% endfor %}", "{{ m.id }}", "{{ m.image }}", "{{ m.digest }}"
)
HELM = Dialect(
    "{{ range .Values.models }}", "{{ end }}", "{{ .id }}", "{{ .image }}", "{{ .digest }}"
)
CONSUL = Dialect(
    '{{ with $all := file "values.json" | parseJSON }}{{ range $all.models }}',
    "{{ end }}{{ end }}",
    "{{ .id }}",
    "{{ .image }}",
    "{{ .digest }}",
)
COPIER = Dialect(
    "[% for m in models %]", "[% endfor %]", "[[ m.id ]]", "[[ m.image ]]", "[[ m.digest ]]"
)


def whole_file_template(composition: Composition, dialect: Dialect) -> str:
    """A template of the whole compose file of a uniform bundle."""
    model_id, image, digest = _SENTINELS
    text = compose_file(Daemon().render(composition)).decode()
    sample = make_model(model_id, version="1", serving={"image": image})
    basis = make_composition(1)
    marked = Composition(bundle=basis.bundle, models=(sample,), proxy=basis.proxy)
    block = compose_file(Daemon().render(marked)).decode()
    block = block[block.index(f"  s{model_id}s:") : block.index(f"  {basis.bundle.name}-nginx:")]
    block = block.replace(compose.model_digest(sample), digest)
    for sentinel, field in zip(
        _SENTINELS, (dialect.model_id, dialect.image, dialect.digest), strict=True
    ):
        block = block.replace(sentinel, field)
    first = text.index(f"  s{composition.models[0].id}s:")
    last = text.index(f"  {basis.bundle.name}-nginx:")
    return f"{text[:first]}{dialect.begin}{block}{dialect.end}{text[last:]}"


def template_values(composition: Composition) -> dict[str, list[dict[str, str]]]:
    """The values for such a template."""
    return {
        "models": [
            {"id": model.id, "image": model.serving.image, "digest": compose.model_digest(model)}
            for model in composition.models
        ]
    }


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
