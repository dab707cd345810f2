"""The manifest of a publication: what a state is, which files it has, which events it came of (protocol 4)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationError

from daemon.publishing import sizes
from daemon.publishing.archive import Archive, FileDigest, Member, content_digest_of, size_of_tar
from daemon.publishing.documents import SCHEMA, Malformed, check_schema, parse
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.grammar import (
    Attempt,
    Label,
    PathText,
    Position,
    ScopeText,
    Sha256,
    StateId,
    Time,
    checked,
    fault_of,
    rule,
)
from daemon.publishing.pointer import Part, Publication, Revision, StoredRevision
from daemon.publishing.wording import leave_out
from renderers.model import Composition, RenderDefaults, RenderedFile, canonical_digest, canonical_json, known_fields


class ManifestFile(Part):
    """One file of the archive; the path is relative to docker-compose-gen/."""

    path: PathText
    mode: Literal["0644", "0755"]
    size: Annotated[int, Field(strict=True, ge=0, le=sizes.FILE)]
    sha256: Sha256


def _check_files(files: tuple[ManifestFile, ...]) -> None:
    """Together: before an archive of theirs is read."""
    if len(files) > sizes.FILES:
        raise ValueError(f"must be at most {sizes.FILES:,} files, not {len(files):,}")
    if size_of_tar(file.size for file in files) > sizes.UNPACKED:
        raise ValueError(f"must have at most {sizes.UNPACKED:,} bytes together")
    if any(one.path.encode() >= other.path.encode() for one, other in pairwise(files)):
        raise ValueError("must be sorted by the bytes of their paths, each path once")


class ManifestEvent(Part):
    """An event that went into the state, and where it stood."""

    intake: Label
    source: Label
    id: Label
    type: Label
    digest: Sha256
    instance: Label
    offset: Position
    skipped: StrictBool = False
    """It was folded, and replaced by this state before anything of it was published."""


class ArchiveDigests(Part):
    """Of the stored archive, and of the tar inside it."""

    sha256: Sha256
    size: Annotated[int, Field(strict=True, ge=0, le=sizes.ARCHIVE)]
    tar_sha256: Sha256


class Manifest(Part):
    """Everything about a publication that is fixed before its pointer is written."""

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1)] = SCHEMA
    scope: ScopeText
    state: StateId
    revision: StoredRevision
    kind: Literal["explicit", "derived"]
    attempt: Attempt
    at: Time
    composition: dict[str, Any]
    composition_digest: Sha256
    files: Annotated[tuple[ManifestFile, ...], rule(_check_files)]
    content_digest: Sha256
    render_defaults: dict[str, Any]
    render_defaults_digest: Sha256
    renderer: Label
    templates: Label
    events: tuple[ManifestEvent, ...]
    archive: ArchiveDigests

    @property
    def digests(self) -> tuple[FileDigest, ...]:
        """Each file, as an archive is held against it."""
        return tuple(FileDigest(each.path, each.mode, each.size, each.sha256) for each in self.files)

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
            raise VerificationFailed(
                f"the manifest of {self.state} has an invalid composition ({fault_of(error)}): "
                f"a release that knows it can continue, or `rebundle retire {self.scope} --reason '…'` and a new state"
            ) from error
        # A field that came into being later is absent here, and what is absent has no part in a digest.
        if composition.digest == self.composition_digest:
            return composition
        if canonical_digest(self.composition) == self.composition_digest:
            raise VerificationFailed(
                f"the composition of {self.state} has what this release does not know: a newer one wrote it, which can "
                "continue"
            )
        raise VerificationFailed(f"the composition of {self.state} does not match its digest: {leave_out(self.scope)}")

    def check_defaults(self) -> None:
        """Raises VerificationFailed unless the render defaults are those whose digest is recorded."""
        # As they were recorded: defaults that came into being later have no part in it.
        if canonical_digest(self.render_defaults) != self.render_defaults_digest:
            raise VerificationFailed(
                f"the render defaults of {self.state} do not match their digest: {leave_out(self.scope)}"
            )

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
                f"a newer one wrote it, which can continue, or they are damaged: {leave_out(self.scope)}"
            ) from error


@dataclass(frozen=True, slots=True)
class RenderedState:
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


def written(state: RenderedState, attempt: str, at: str, members: Sequence[Member], archive: Archive) -> bytes:
    """The manifest of a rendered state, as `encode` would write it.

    Put together from canonical JSON that is there already: of the composition, and of each file.
    """
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "scope": str(state.composition.scope),
        "state": state.state,
        "revision": str(state.revision),
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


def decode(body: bytes, name: str = "the manifest") -> Manifest:
    """The manifest in these bytes; `name` is for the message about its schema.

    Raises:
        OlderSchema: it has schema 1.
        VerificationFailed: they are no manifest, or a field breaks its rule (`grammar`, `sizes`).
    """
    try:
        document = parse(body)
        check_schema(document, name)
        return checked(Manifest, document)
    except ValidationError as error:
        raise VerificationFailed(f"the manifest cannot be read: {fault_of(error)}") from error
    except Malformed as error:
        raise VerificationFailed(f"the manifest cannot be read: {error}") from error


def publication(state: RenderedState, attempt: str, at: str, body: bytes) -> Publication:
    """What the pointer says of the publication whose manifest has these bytes."""
    return Publication(
        state=state.state,
        revision=state.revision,
        kind=state.kind,
        late=state.late,
        attempt=attempt,
        manifest_sha256=hashlib.sha256(body).hexdigest(),
        composition_digest=state.composition.digest,
        renderer=state.renderer,
        at=at,
    )
