"""The manifest of a publication: what a state is, which files it has, which events it came of (protocol 4)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from daemon.publishing.archive import Archive, Member, content_digest_of
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.pointer import Part, Publication, Revision
from renderers.model import Composition, RenderDefaults, RenderedFile, canonical_digest, canonical_json, known_fields

SCHEMA: Final = 1


class ManifestFile(Part):
    """One file of the archive; the path is relative to docker-compose-gen/."""

    path: str
    mode: Literal["0644", "0755"]
    size: int
    sha256: str


class ManifestEvent(Part):
    """An event that went into the state, and where it stood."""

    intake: str
    source: str
    id: str
    type: str
    digest: str
    instance: str
    offset: int
    skipped: bool = False
    """It was folded, and replaced by this state before anything of it was published."""


class ArchiveDigests(Part):
    """Of the stored archive, and of the tar inside it."""

    sha256: str
    size: int
    tar_sha256: str


class Manifest(Part):
    """Everything about a publication that is fixed before its pointer is written."""

    schema_: Annotated[int, Field(alias="schema")] = SCHEMA
    scope: str
    state: str
    revision: Revision
    kind: Literal["explicit", "derived"]
    attempt: str
    at: str
    composition: dict[str, Any]
    composition_digest: str
    files: tuple[ManifestFile, ...]
    content_digest: str
    render_defaults: dict[str, Any]
    render_defaults_digest: str
    renderer: str
    templates: str
    events: tuple[ManifestEvent, ...]
    archive: ArchiveDigests

    def file(self, path: str) -> ManifestFile | None:
        """The entry of one path."""
        return next((each for each in self.files if each.path == path), None)

    def composition_value(self) -> Composition:
        """The composition, checked against its digest.

        Raises:
            VerificationFailed: it is not the composition whose digest the manifest has, or a newer release wrote it.
        """
        try:
            composition = Composition.model_validate(self.composition)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise VerificationFailed(
                f"the manifest of {self.state} has an invalid composition ({where}: {first['msg']}): "
                "a release that knows it can go on, or `rebundle retire` and a new state"
            ) from error
        # A field that came into being later is absent here, and what is absent has no part in a digest.
        if composition.digest == self.composition_digest:
            return composition
        if _digest(self.composition) == self.composition_digest:
            raise VerificationFailed(
                f"the composition of {self.state} has what this release does not know: a newer one wrote it"
            )
        raise VerificationFailed(f"the composition of {self.state} does not match its digest")

    def check_defaults(self) -> None:
        """Raises VerificationFailed unless the render defaults are those whose digest is recorded."""
        # As they were recorded: defaults that came into being later have no part in it.
        if _digest(self.render_defaults) != self.render_defaults_digest:
            raise VerificationFailed(f"the render defaults of {self.state} do not match their digest")

    def defaults_value(self) -> RenderDefaults:
        """The render defaults it was rendered with, checked against their digest.

        Raises:
            VerificationFailed: they are not the ones whose digest the manifest has, or this release knows them not.
        """
        self.check_defaults()
        try:
            return RenderDefaults.model_validate(self.render_defaults)
        except ValidationError as error:
            raise VerificationFailed(
                f"the manifest of {self.state} has render defaults that this release does not know: "
                f"a newer one wrote it, or they are damaged"
            ) from error


@dataclass(frozen=True, slots=True)
class State:
    """A rendered state that is to be stored."""

    composition: Composition
    defaults: RenderDefaults
    state: str
    revision: Revision
    kind: Literal["explicit", "derived"]
    late: bool
    files: tuple[RenderedFile, ...]
    renderer: str
    templates: str
    events: tuple[ManifestEvent, ...]


def written(state: State, attempt: str, at: str, members: Sequence[Member], archive: Archive) -> bytes:
    """The manifest of a rendered state, as `encode` would write it.

    Put together from canonical JSON that is there already: of the composition, and of each file.
    """
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "scope": str(state.composition.scope),
        "state": state.state,
        "revision": state.revision.model_dump(mode="json"),
        "kind": state.kind,
        "attempt": attempt,
        "at": at,
        "composition_digest": state.composition.digest,
        "content_digest": content_digest_of(members),
        "render_defaults": known_fields(state.defaults),
        "render_defaults_digest": state.defaults.digest,
        "renderer": state.renderer,
        "templates": state.templates,
        "events": [event.model_dump(mode="json") for event in state.events],
        "archive": {"sha256": archive.sha256, "size": len(archive.body), "tar_sha256": archive.tar_sha256},
    }
    texts = {name: canonical_json(value).encode() for name, value in fields.items()}
    texts["composition"] = state.composition.canonical.encode()
    texts["files"] = b"[%b]" % b",".join(member.listed for member in members)
    return b"{%b}\n" % b",".join(b'"%b":%b' % (name.encode(), texts[name]) for name in sorted(texts))


def encode(manifest: Manifest) -> bytes:
    """The manifest object's bytes."""
    return (canonical_json(manifest.model_dump(mode="json", by_alias=True)) + "\n").encode()


def decode(body: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises:
        VerificationFailed: they are no manifest.
    """
    try:
        return Manifest.model_validate(json.loads(body))
    except (ValueError, ValidationError, RecursionError) as error:
        raise VerificationFailed(f"the manifest cannot be read: {str(error).splitlines()[0]}") from error


def publication(state: State, attempt: str, at: str, body: bytes) -> Publication:
    """What the pointer says of the publication whose manifest has these bytes."""
    return Publication(
        state=state.state,
        revision=state.revision,
        kind=state.kind,
        late=state.late,
        attempt=attempt,
        manifest_sha256=hashlib.sha256(body).hexdigest(),
        composition=state.composition.digest,
        renderer=state.renderer,
        at=at,
    )


def _digest(recorded: object) -> str | None:
    try:
        return canonical_digest(recorded)
    except ValueError:
        return None  # NaN, or half of a surrogate pair: nothing here writes those
