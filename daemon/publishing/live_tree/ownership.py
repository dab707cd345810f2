"""Whose a file of the live tree is, and what one pass may do to it (protocol 5). Pure.

`base/` and README.md follow live byte for byte; `example/` belongs to operators: what they changed is never written,
never deleted. What lies below `example/creds/` is not even read: it is created once and then left alone. What cannot
be read is never written over: an override in `example/`, blocked in `base/`. `sync` acts on what is decided here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from daemon.publishing import grammar, layout
from daemon.publishing.documents import SCHEMA
from daemon.publishing.pointer import Part, Publication
from daemon.stores.port import Version

EXAMPLE: Final = "example/"
CREDENTIALS: Final = "example/creds/"
_COMMIT: Final = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})")

Commit = tuple[grammar.SequenceNumber, grammar.Count]
"""Where a publication stands in commit order: sequence of its commit, index in it."""


class MarkerFile(Part):
    """What Rebundle last wrote to a path."""

    sha256: grammar.Sha256
    publication: grammar.PublicationName
    commit: Commit
    version: grammar.Label | None = None
    """The store's, of the object that holds these bytes: what still has it need not be read."""


Status = Literal["updating", "synced", "blocked"]


class Marker(Part):
    """How far the live tree is, and every path Rebundle has written in it."""

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1)] = SCHEMA
    sequence: grammar.SequenceNumber
    publication: grammar.PublicationName | None
    status: grammar.Label
    """One of `Status`. A status that a later release adds reads as not synced: a marker that did not parse would count
    as absent, and then defaults that operators deleted come back (ADR 18)."""
    files: dict[grammar.PathText, MarkerFile] = Field(default_factory=dict)
    blocked: dict[grammar.PathText, grammar.Reason] = Field(default_factory=dict)
    """With the status `blocked`: the paths that did not follow, and why."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the tree is to follow: a publication, where it was committed, the digest of each of its files."""

    publication: Publication
    sequence: int
    """The pointer's, now; it keeps rising while the publication stays."""
    commit: Commit
    files: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Present:
    """A file of the tree as the store shows it. `ours`: Rebundle wrote these very bytes (protocol 5)."""

    sha256: str
    version: Version
    ours: bool
    commit: Commit | None = None
    """By its own tag, where the bytes fit it."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A file of the tree whose bytes are not known, and why: it cannot be read, or is too large to be."""

    reason: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write a file; `over` is the version it replaces, None creates it. `keep_aside`: store the old bytes first."""

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
    """An operator's own file of example/: left as it is."""

    path: str


@dataclass(frozen=True, slots=True)
class DeletedByOperator:
    """A file of example/ that was there and that an operator deleted: it stays deleted."""

    path: str


@dataclass(frozen=True, slots=True)
class Stray:
    """A file below base/ that nobody here wrote and live does not have: reported, never deleted."""

    path: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """A file that this pass cannot write or delete. The others do not wait for it; a later pass tries again."""

    path: str
    reason: str
    """What is wrong, and what to do about it."""
    seen_at: str | None = None
    """When a pass reported this, where a look that writes nothing cannot tell whether it still holds; None: it holds
    now."""

    @property
    def holds_base_back(self) -> bool:
        """Whether hosts would copy something that live does not say: not so for a default of example/."""
        return not self.path.startswith(EXAMPLE)


def is_credential(key: str) -> bool:
    """Whether nothing may read, print or compare the object under this key (protocol 5)."""
    return f"/{layout.LIVE_TREE}{CREDENTIALS}" in key


Verdict = Put | Remove | Override | DeletedByOperator | Stray | Blocked


def plan_paths(wanted: Wanted, present: Mapping[str, Present | Unread], marker: Marker | None) -> tuple[Verdict, ...]:
    """What is to be done, or to be said, about each path; nothing about those that are as they should be."""
    recorded = marker.files if marker else {}
    # Defaults of models that left, too: operators should know which stay deleted before a model returns.
    deleted = (path for path in recorded if path.startswith(EXAMPLE))
    paths = sorted({*wanted.files, *present, *deleted})
    verdicts = (_plan_path(path, wanted, present.get(path), recorded.get(path)) for path in paths)
    return tuple(verdict for verdict in verdicts if verdict is not None)


def _plan_path(
    path: str, wanted: Wanted, there: Present | Unread | None, recorded: MarkerFile | None
) -> Verdict | None:
    in_example = path.startswith(EXAMPLE)
    digest = wanted.files.get(path)
    if there is None:
        return DeletedByOperator(path) if in_example and recorded else Put(path, None)
    # What is below example/creds/ is created once; whether an operator changed it is not even asked.
    if path.startswith(CREDENTIALS) or (isinstance(there, Present) and there.sha256 == digest):
        return None
    if isinstance(there, Unread):
        return _plan_unread(path, there, wanted, recorded)
    if in_example:
        return _plan_example(path, wanted, there, recorded)
    if digest is not None:
        return Put(path, there.version, keep_aside=not there.ours)
    return Remove(path, there.version) if there.ours else Stray(path)


def _plan_unread(path: str, there: Unread, wanted: Wanted, recorded: MarkerFile | None) -> Verdict:
    if path.startswith(EXAMPLE):
        return Override(path)
    # What the marker records was written here: hosts would go on copying the file of a model that left.
    return Blocked(path, there.reason) if path in wanted.files or recorded else Stray(path)


def _plan_example(path: str, wanted: Wanted, there: Present, recorded: MarkerFile | None) -> Verdict | None:
    if not there.ours:
        return Override(path)
    written = there.commit or (recorded.commit if recorded else (0, 0))
    if path not in wanted.files or wanted.commit <= written:
        return None  # a rollback leaves a newer default where it is, and the file of a removed model stays
    return Put(path, there.version, keep_aside=_was_put_back(there, recorded))


def _was_put_back(there: Present, recorded: MarkerFile | None) -> bool:
    """Whether an earlier default is there although a later one was written: an operator, or a pass that was paused.

    The two look alike, so these bytes are kept aside like an operator's.
    """
    if recorded is None or recorded.sha256 == there.sha256:
        return False
    return there.commit is None or there.commit < recorded.commit


def known_blocked(
    verdicts: Iterable[Verdict], wanted: Wanted, marker: Marker | None, seen_at: str | None
) -> tuple[Verdict, ...]:
    """Verdicts of a look that writes nothing, with what the last pass could not do as the marker reports it.

    Only a write shows whether that still holds: a permission, a full disk or a lock is no property of the path, and the
    look may be that of another user. So it is reported as seen at the time of the marker (ADR 27).
    """
    blocked = marker.blocked if marker and marker.status == "blocked" and marker.sequence == wanted.sequence else {}
    return tuple(
        Blocked(verdict.path, blocked[verdict.path], seen_at)
        if isinstance(verdict, Put | Remove) and verdict.path in blocked
        else verdict
        for verdict in verdicts
    )


def marker_before(marker: Marker | None, wanted: Wanted) -> Marker:
    """The marker while verdicts are carried out: it never says `synced` then."""
    name = str(wanted.publication.id)
    if marker and (marker.sequence, marker.publication, marker.status) == (wanted.sequence, name, "blocked"):
        return marker  # not synced either, and daemons that try again in turn do not rewrite it each time
    return _marked(marker, wanted, "updating", marker.files if marker else {})


def marker_after(
    marker: Marker | None,
    wanted: Wanted,
    present: Mapping[str, Present | Unread],
    verdicts: Iterable[Verdict],
    applied: Mapping[str, Version | None],
    *,
    confirmed: bool = True,
) -> Marker:
    """The marker once verdicts are carried out.

    `applied` has the version of each path that was written, None where one was deleted; what was not is not recorded.
    `confirmed`: another listing shows the tree so; without that the marker still says `updating`.
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
                files[path] = ours.model_copy(update={"sha256": wanted.files[path], "version": applied[path]})
            case Remove(path=path) if path in applied:
                files.pop(path, None)
            case Blocked(path=path, reason=reason):
                blocked[path] = reason
            case _:
                pass
    status: Status = "updating" if not confirmed else "blocked" if blocked else "synced"
    return _marked(marker, wanted, status, dict(sorted(files.items())), blocked if confirmed else {})


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
    # What a newer release wrote into the marker stays in it.
    return marker.model_copy(update=now) if marker else Marker.model_validate(now)


def commit_position(changes: Iterable[tuple[int, Sequence[str]]], publication: Publication) -> Commit:
    """Where a publication was committed, from (sequence, published) of each change; (0, 0) if none names it."""
    name = str(publication.id)
    for sequence, published in changes:
        if name in published:
            return sequence, list(published).index(name)
    return 0, 0


def parsed_commit(text: str | None) -> Commit | None:
    """A commit position as a file's tag writes it."""
    found = _COMMIT.fullmatch(text or "")
    return (int(found[1]), int(found[2])) if found else None
