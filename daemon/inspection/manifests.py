"""Views of a manifest: what a state consists of. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.publishing.errors import VerificationFailed
from daemon.publishing.manifest import Manifest, ManifestEvent, ManifestFile
from renderers.pinning import Movable, movable


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model of a composition. A field is None if the composition does not have it."""

    id: str | None
    version: str | None
    name: str | None
    serving_version: int | None
    artifact: str | None
    platform: str | None
    image: str | None

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> "ModelView":
        """The view of a model as the manifest stores it, also by a release with other fields."""
        serving = model.get("serving", {})
        return cls(
            id=model.get("id"),
            version=model.get("version"),
            name=model.get("name"),
            serving_version=model.get("serving_version"),
            artifact=model.get("artifact", {}).get("uri"),
            platform=serving.get("platform"),
            image=serving.get("image"),
        )


@dataclass(frozen=True, slots=True)
class ArchiveView:
    """The digests and the size of a stored archive."""

    sha256: str
    size: int
    """Bytes."""
    tar_sha256: str


@dataclass(frozen=True, slots=True)
class ManifestView:
    """The facts of a publication that the pointer does not have."""

    models: tuple[ModelView, ...]
    proxy_image: str | None
    events: tuple[ManifestEvent, ...]
    templates: str
    render_defaults: Mapping[str, Any]
    render_defaults_digest: str
    content_digest: str
    archive: ArchiveView
    files: tuple[ManifestFile, ...]
    movable: tuple[Movable, ...] | None
    """See `movable_in`."""

    @classmethod
    def of(cls, manifest: Manifest) -> "ManifestView":
        """The view of a manifest."""
        archive = manifest.archive
        return cls(
            models=tuple(map(ModelView.of, manifest.composition.get("models", []))),
            proxy_image=manifest.composition.get("proxy", {}).get("image"),
            events=manifest.events,
            templates=manifest.templates,
            render_defaults=manifest.render_defaults,
            render_defaults_digest=manifest.render_defaults_digest,
            content_digest=manifest.content_digest,
            archive=ArchiveView(archive.sha256, archive.size, archive.tar_sha256),
            files=manifest.files,
            movable=movable_in(manifest),
        )


def movable_in(manifest: Manifest) -> tuple[Movable, ...] | None:
    """The images and artifacts of a state that are not pinned by a digest.

    None if this release cannot read the defaults of the manifest.
    """
    try:
        return movable(manifest.composition_value(), manifest.defaults_value())
    except VerificationFailed:
        return None
