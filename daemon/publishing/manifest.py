"""The manifest of a publication: its state, its files and the events behind it (protocol 4)."""

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
    Offset,
    PathText,
    ScopeText,
    Sha256,
    StateId,
    Time,
    checked,
    fault_of,
    rule,
)
from daemon.publishing.pointer import (
    DocumentPart,
    Publication,
    PublicationId,
    Revision,
    StoredRevision,
)
from daemon.publishing.wording import leave_out
from renderers.composition import Composition, RenderDefaults
from renderers.values import RenderedFile, canonical_digest, canonical_json, known_fields


class ManifestFile(DocumentPart):
    """One file of the archive. The path is relative to docker-compose-gen/."""

    path: PathText
    mode: Literal["0644", "0755"]
    size: Annotated[int, Field(strict=True, ge=0, le=sizes.FILE)]
    sha256: Sha256


def _check_files(files: tuple[ManifestFile, ...]) -> None:
    """Check the limits on all files together, before an archive with them is read."""
    if len(files) > sizes.FILES:
        raise ValueError(f"must be at most {sizes.FILES:,} files, not {len(files):,}")
    if size_of_tar(file.size for file in files) > sizes.UNPACKED:
        raise ValueError(f"must have at most {sizes.UNPACKED:,} bytes together")
    if any(one.path.encode() >= other.path.encode() for one, other in pairwise(files)):
        raise ValueError("must be sorted by the bytes of their paths, each path once")


class ManifestEvent(DocumentPart):
    """An event that is part of the state, and its position in its source."""

    intake: Label
    source: Label
    id: Label
    type: Label
    digest: Sha256
    instance: Label
    offset: Offset
    skipped: StrictBool = False
    """It was folded, but this state replaced its effect before that was published."""


class ArchiveDigests(DocumentPart):
    """Digests of the stored archive and of the tar inside it."""

    sha256: Sha256
    size: Annotated[int, Field(strict=True, ge=0, le=sizes.ARCHIVE)]
    tar_sha256: Sha256


class Manifest(DocumentPart):
    """The facts of a publication that are fixed before the pointer is written."""

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
    def id(self) -> PublicationId:
        """The name of the publication."""
        return PublicationId(state=self.state, attempt=self.attempt)

    def publication(self, sha256: str) -> Publication:
        """The publication as a pointer names it, as far as a manifest has the values.

        `sha256`: the digest of the manifest's bytes.
        """
        return Publication(
            state=self.state,
            revision=self.revision,
            kind=self.kind,
            attempt=self.attempt,
            manifest_sha256=sha256,
            composition_digest=self.composition_digest,
            renderer=self.renderer,
            at=self.at,
        )

    @property
    def digests(self) -> tuple[FileDigest, ...]:
        """The digests that the files of an archive are compared with."""
        return tuple(
            FileDigest(file.path, file.mode, file.size, file.sha256) for file in self.files
        )

    def file(self, path: str) -> ManifestFile | None:
        """The entry of a path, or None."""
        return next((file for file in self.files if file.path == path), None)

    def composition_value(self) -> Composition:
        """The composition, checked against its digest.

        Raises:
            VerificationFailed: the composition does not match the digest in the manifest, or a
                newer release wrote it.
        """
        try:
            composition = Composition.model_validate(self.composition)
        except ValidationError as error:
            raise VerificationFailed(
                f"the manifest of {self.state} has an invalid composition ({fault_of(error)}): use "
                f"a release that knows it, or `rebundle retire {self.scope} --reason '…'` and send "
                "a new state"
            ) from error
        # An older release wrote no value for a newer field, and an absent field is not part of the
        # digest. So the digest still matches.
        if composition.digest == self.composition_digest:
            return composition
        if canonical_digest(self.composition) == self.composition_digest:
            raise VerificationFailed(
                f"the composition of {self.state} has fields that this release does not know: a "
                "newer release wrote it, and can continue"
            )
        raise VerificationFailed(
            f"the composition of {self.state} does not match its digest: {leave_out(self.scope)}"
        )

    def check_defaults(self) -> None:
        """Check the render defaults against their digest.

        Raises:
            VerificationFailed: they do not match.
        """
        # The recorded fields only: newer defaults are not part of the digest.
        if canonical_digest(self.render_defaults) != self.render_defaults_digest:
            raise VerificationFailed(
                f"the render defaults of {self.state} do not match their digest: "
                f"{leave_out(self.scope)}"
            )

    def defaults_value(self) -> RenderDefaults:
        """The defaults that the state was rendered with, checked against their digest.

        Raises:
            VerificationFailed: they do not match the digest in the manifest, or this release does
                not know them.
        """
        self.check_defaults()
        try:
            return RenderDefaults.model_validate(self.render_defaults)
        except ValidationError as error:
            raise VerificationFailed(
                f"the manifest of {self.state} has render defaults that this release does not "
                "know: a newer release wrote them, and can continue, or they are damaged: "
                f"{leave_out(self.scope)}"
            ) from error


@dataclass(frozen=True, slots=True)
class RenderedState:
    """A rendered state, ready to be stored."""

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


def written(
    state: RenderedState, attempt: str, at: str, members: Sequence[Member], archive: Archive
) -> bytes:
    """The manifest of a rendered state: the same bytes as from `encode`.

    It reuses canonical JSON that exists already, of the composition and of the files.
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
        "archive": {
            "sha256": archive.sha256,
            "size": len(archive.body),
            "tar_sha256": archive.tar_sha256,
        },
    }
    texts = {name: canonical_json(value).encode() for name, value in fields.items()}
    texts["composition"] = state.composition.canonical.encode()
    texts["files"] = b"[%b]" % b",".join(member.listed for member in members)
    return b"{%b}\n" % b",".join(
        b'"%b":%b' % (name.encode(), texts[name]) for name in sorted(texts)
    )


def decode(body: bytes, name: str = "the manifest") -> Manifest:
    """The manifest in these bytes. The message about a wrong schema has `name`.

    Raises:
        OlderSchema: the manifest has schema 1.
        VerificationFailed: the bytes are no manifest, or a field breaks its rule (`grammar`,
            `sizes`).
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
    """The pointer's entry for the publication whose manifest has these bytes."""
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
