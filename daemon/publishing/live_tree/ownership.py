"""Decides who owns a file of the live tree, and what one pass may do to it (protocol 5). Pure.

* `base/` and README.md follow live byte for byte.
* `example/` belongs to operators. A file that they changed is never overwritten or deleted.
* Files below `example/creds/` are created once. After that they are neither read nor changed.
* A file that cannot be read is never overwritten. It is an override in `example/`, and blocked in
  `base/`.

`sync` carries out these decisions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from daemon.publishing import grammar, layout
from daemon.publishing.documents import SCHEMA
from daemon.publishing.pointer import DocumentPart, Publication
from daemon.stores.port import Version

EXAMPLE: Final = "example/"
_COMMIT: Final = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})")

Commit = tuple[grammar.SequenceNumber, grammar.Count]
"""The place of a publication in commit order: the sequence of its commit, and its index there."""


class MarkerFile(DocumentPart):
    """What Rebundle last wrote to a path."""

    sha256: grammar.Sha256
    publication: grammar.PublicationName
    commit: Commit
    version: grammar.Label | None = None
    """The store's version of the object that holds these bytes.

    An object that still has this version need not be read.
    """


Status = Literal["updating", "synced", "blocked"]


class Marker(DocumentPart):
    """How far the live tree has followed the pointer, and every path that Rebundle wrote in it."""

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1)] = SCHEMA
    sequence: grammar.SequenceNumber
    publication: grammar.PublicationName | None
    status: grammar.Label
    """One of `Status`. A status that a later release adds counts as not synced.

    The marker must still parse then. A marker that does not parse counts as absent, and defaults
    that operators deleted would come back (ADR 18).
    """
    files: dict[grammar.PathText, MarkerFile] = Field(default_factory=dict)
    blocked: dict[grammar.PathText, grammar.Reason] = Field(default_factory=dict)
    """With the status `blocked`: the paths that did not follow, with the reasons."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the tree is to follow: a publication, its place in commit order, and file digests."""

    publication: Publication
    sequence: int
    """The pointer's current one. It can rise further while the publication stays the same."""
    commit: Commit
    files: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Present:
    """A file of the tree as the store shows it.

    `ours`: Rebundle wrote exactly these bytes (protocol 5).
    """

    sha256: str
    version: Version
    ours: bool
    commit: Commit | None = None
    """From the object's own tag, if the bytes match that tag."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A file of the tree whose bytes are not known: it cannot be read, or it is too large."""

    reason: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write a file.

    `over`: the version to replace; None creates the file. `keep_aside`: store the old bytes first.
    """

    path: str
    over: Version | None
    keep_aside: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a file of ours that live no longer has."""

    path: str
    version: Version


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's own file of example/. It stays unchanged."""

    path: str


@dataclass(frozen=True, slots=True)
class UnreadOverride(Override):
    """A file of example/ that counts as an operator's, because its bytes are not known."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeletedByOperator:
    """A file of example/ that an operator deleted. It stays deleted."""

    path: str


@dataclass(frozen=True, slots=True)
class Stray:
    """A file outside example/ that Rebundle did not write and live does not have.

    It is reported, and never deleted.
    """

    path: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """A file that this pass cannot write or delete.

    The other files do not wait for it. A later pass tries again.
    """

    path: str
    reason: str
    """What is wrong, and what to do about it."""
    seen_at: str | None = None
    """When a pass reported this. None: it is true now.

    A survey, which writes nothing, cannot find out whether it is still true.
    """

    @property
    def holds_base_back(self) -> bool:
        """Whether hosts would copy something other than live. False for a path of example/."""
        return not self.path.startswith(EXAMPLE)


PathVerdict = Put | Remove | Override | DeletedByOperator | Stray | Blocked


def plan_paths(
    wanted: Wanted,
    present: Mapping[str, Present | Unread],
    marker: Marker | None,
    invalid: Iterable[str] = (),
) -> tuple[PathVerdict, ...]:
    """What to do or to report for every path. Paths that are as they should be are left out.

    `invalid`: names that are not valid keys. Rebundle wrote none of them.
    """
    recorded = marker.files if marker else {}
    # Includes defaults of removed models: operators should know which of them stay deleted
    # before a model returns.
    deleted = (path for path in recorded if path.startswith(EXAMPLE))
    paths = sorted({*wanted.files, *present, *deleted})
    verdicts = (_plan_path(path, wanted, present.get(path), recorded.get(path)) for path in paths)
    strays = (Stray(name) for name in invalid if not name.startswith(EXAMPLE))
    return (*(verdict for verdict in verdicts if verdict is not None), *strays)


def _plan_path(
    path: str, wanted: Wanted, there: Present | Unread | None, recorded: MarkerFile | None
) -> PathVerdict | None:
    in_example = path.startswith(EXAMPLE)
    digest = wanted.files.get(path)
    if there is None:
        return DeletedByOperator(path) if in_example and recorded else Put(path, None)
    # A file below example/creds/ is created once. Changes by operators are not checked.
    is_credential = path.startswith(layout.CREDENTIALS)
    if is_credential or (isinstance(there, Present) and there.sha256 == digest):
        return None
    if isinstance(there, Unread):
        return _plan_unread(path, there, wanted, recorded)
    if in_example:
        return _plan_example(path, wanted, there, recorded)
    if digest is not None:
        return Put(path, there.version, keep_aside=not there.ours)
    return Remove(path, there.version) if there.ours else Stray(path)


def _plan_unread(
    path: str, there: Unread, wanted: Wanted, recorded: MarkerFile | None
) -> PathVerdict:
    if path.startswith(EXAMPLE):
        return UnreadOverride(path, there.reason)
    # Rebundle wrote what the marker records. If such a file were a stray, hosts would continue to
    # copy the file of a removed model.
    return Blocked(path, there.reason) if path in wanted.files or recorded else Stray(path)


def _plan_example(
    path: str, wanted: Wanted, there: Present, recorded: MarkerFile | None
) -> PathVerdict | None:
    if not there.ours:
        return Override(path)
    written = there.commit or (recorded.commit if recorded else (0, 0))
    if path not in wanted.files or wanted.commit <= written:
        return None  # a rollback leaves a newer default, and the file of a removed model stays
    return Put(path, there.version, keep_aside=_is_earlier_default(there, recorded))


def _is_earlier_default(there: Present, recorded: MarkerFile | None) -> bool:
    """Whether the file may hold an earlier default although a later one was written.

    An operator may have restored it, or a paused pass may have written it late. The two cannot be
    distinguished, so these bytes are kept aside like an operator's. Every pass tags what it writes,
    so a file with neither tag nor record may be an operator's too.
    """
    if recorded is None:
        return there.commit is None
    if recorded.sha256 == there.sha256:
        return False
    return there.commit is None or there.commit < recorded.commit


def known_blocked(
    verdicts: Iterable[PathVerdict], wanted: Wanted, marker: Marker | None, seen_at: str | None
) -> tuple[PathVerdict, ...]:
    """The verdicts of a survey, with those paths as blocked that the marker reports as blocked.

    Only a write shows whether a path is still blocked. A permission, a full disk or a lock is not a
    property of the path, and another user may run the survey. So the path is reported as blocked
    at the time of the marker (ADR 27).
    """
    blocked = (
        marker.blocked
        if marker and marker.status == "blocked" and marker.sequence == wanted.sequence
        else {}
    )
    return tuple(
        Blocked(verdict.path, blocked[verdict.path], seen_at)
        if isinstance(verdict, Put | Remove) and verdict.path in blocked
        else verdict
        for verdict in verdicts
    )


def marker_before(marker: Marker | None, wanted: Wanted) -> Marker:
    """The marker while verdicts are carried out. Its status is never `synced`."""
    name = str(wanted.publication.id)
    if marker and (marker.sequence, marker.publication, marker.status) == (
        wanted.sequence,
        name,
        "blocked",
    ):
        return marker  # not synced either; daemons that retry in turn need not rewrite it
    return _marked(marker, wanted, "updating", marker.files if marker else {})


def marker_after(
    marker: Marker | None,
    wanted: Wanted,
    present: Mapping[str, Present | Unread],
    verdicts: Iterable[PathVerdict],
    applied: Mapping[str, Version | None],
    *,
    confirmed: bool = True,
) -> Marker:
    """The marker after the verdicts were carried out.

    `applied`: the version of every path that was written; None for a path that was deleted. Paths
    that were not changed are not in it. `confirmed`: a second listing shows this tree. Without it
    the status stays `updating`.
    """
    files = dict(marker.files) if marker else {}
    ours = MarkerFile(sha256="", publication=str(wanted.publication.id), commit=wanted.commit)
    for path, sha256 in wanted.files.items():
        there, known = present.get(path), files.get(path)
        if not isinstance(there, Present) or there.sha256 != sha256:
            continue
        if known is None or known.sha256 != sha256:
            files[path] = ours.model_copy(update={"sha256": sha256, "version": there.version})
        elif known.version != there.version:
            files[path] = known.model_copy(update={"version": there.version})
    blocked: dict[str, str] = {}
    for verdict in verdicts:
        match verdict:
            case Put(path=path) if path in applied:
                files[path] = ours.model_copy(
                    update={"sha256": wanted.files[path], "version": applied[path]}
                )
            case Remove(path=path) if path in applied:
                files.pop(path, None)
            case Blocked(path=path, reason=reason):
                blocked[path] = reason
            case _:
                pass
    status: Status = "updating" if not confirmed else "blocked" if blocked else "synced"
    return _marked(
        marker, wanted, status, dict(sorted(files.items())), blocked if confirmed else {}
    )


def _marked(
    marker: Marker | None,
    wanted: Wanted,
    status: Status,
    files: Mapping[str, MarkerFile],
    blocked: Mapping[str, str] | None = None,
) -> Marker:
    now = {
        "sequence": wanted.sequence,
        "publication": str(wanted.publication.id),
        "status": status,
        "files": files,
        "blocked": blocked or {},
    }
    # Fields that a newer release wrote into the marker are preserved.
    return marker.model_copy(update=now) if marker else Marker.model_validate(now)


def commit_position(
    changes: Iterable[tuple[int, Sequence[str]]], publication: Publication
) -> Commit:
    """The place of a publication in commit order, from (sequence, published) of every change.

    (0, 0) if no change names it.
    """
    name = str(publication.id)
    for sequence, published in changes:
        if name in published:
            return sequence, list(published).index(name)
    return 0, 0


def parsed_commit(text: str | None) -> Commit | None:
    """Parse a commit position from a file's tag. None: the text is not one."""
    match = _COMMIT.fullmatch(text or "")
    return (int(match[1]), int(match[2])) if match else None
