"""What `rebundle verify` checks: whether stored facts contradict each other. Pure.

The checks compare values that were read already. The command reads them, and it also counts what
cannot be read as a failed check.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from daemon.publishing.archive import content_digest, digest_files
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.live_tree.results import Survey
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication
from daemon.publishing.wording import MOST_NAMED, some
from renderers.pinning import Movable
from renderers.values import RenderedFile, Scope

NO_POLICY: Final = (
    "signatures: no trust policy is set (trust.policy); anyone with write access to the "
    "bucket could have written this"
)
NOT_FRESH: Final = (
    "freshness: the policy does not require it, or this machine signs; "
    "an outdated pointer is detected only by readers that have seen a newer one"
)
OFFLINE: Final = (
    "whether the state is live, held or quarantined, and whether a newer one exists: "
    "only the pointer of the scope has this information"
)


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    scope: str
    what: str
    ok: bool
    problem: str | None = None
    note: str | None = None
    """A temporary difference that is not a problem."""
    movable: tuple[Movable, ...] = ()
    """Images and artifacts without a digest: not a problem, but their content may change."""

    @classmethod
    def failed(cls, scope: str, what: str, problem: str) -> "Check":
        """A check that found a problem."""
        return cls(scope, what, ok=False, problem=problem)

    @classmethod
    def of(cls, scope: str, what: str, problem: str | None) -> "Check":
        """A check that found this problem, or none."""
        return cls(scope, what, ok=problem is None, problem=problem)


@dataclass(frozen=True, slots=True)
class Checks:
    """The results of all checks."""

    ok: bool
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]
    """Properties that the settings of this machine do not let it check."""

    @classmethod
    def of(cls, checks: Sequence[Check], not_checked: Sequence[str]) -> "Checks":
        """The results of these checks."""
        return cls(all(check.ok for check in checks), tuple(checks), tuple(not_checked))


def not_checked(freshness: Literal["off", "required"] | None) -> tuple[str, ...]:
    """What a machine cannot check with its trust policy; `freshness` is None without a policy."""
    if freshness is None:
        return (NO_POLICY,)
    return (NOT_FRESH,) if freshness == "off" else ()


def pointer_problem(pointer: Pointer) -> str | None:
    """A contradiction in the pointer, if there is one."""
    newest = pointer.history[-1] if pointer.history else None
    if newest is None or newest.sequence != pointer.sequence or newest.write_id != pointer.write_id:
        return "its newest history entry does not describe its last change"
    return None


def history_problem(pointer: Pointer, entries: Sequence[HistoryEntry]) -> str | None:
    """A gap or a duplicate in the history of a scope; `recover` cannot restore what is missing."""
    sequences = [entry.sequence for entry in entries]
    # Entries before a recovery may be lost. The sequence of the recovery itself is higher than any
    # sequence that a reader can have seen.
    first = max((entry.sequence for entry in entries if entry.kind == "recover"), default=1)
    since = [sequence for sequence in sequences if sequence >= first]
    if since == list(range(first, pointer.sequence + 1)) and sequences == sorted(set(sequences)):
        return None
    return (
        f"the history has gaps or duplicates: its sequences are {some(sequences)}. Restore the "
        "last version of the pointer if the bucket keeps versions; publishing continues either way"
    )


def check_publication(
    manifest: Manifest, publication: Publication, scope: Scope, files: Sequence[RenderedFile]
) -> None:
    """Compare a manifest with the pointer's entry, and with the files of the archive.

    Hashes every file. Raises:
        VerificationFailed: they differ.
    """
    check_composition(manifest, publication.composition_digest, scope)
    if manifest.revision != publication.revision:
        raise VerificationFailed(
            f"its revision is {manifest.revision}, but the pointer has {publication.revision}"
        )
    check_content(manifest, files)


def check_composition(manifest: Manifest, digest: str, scope: Scope) -> None:
    """Compare the composition of a manifest with its digest and its scope, and its defaults.

    Raises:
        VerificationFailed: they differ.
    """
    value = manifest.composition_value()
    if value.digest != digest or str(value.scope) != str(scope):
        raise VerificationFailed("its composition does not match the pointer")
    manifest.check_defaults()


def check_content(manifest: Manifest, files: Sequence[RenderedFile]) -> None:
    """Compare files with the content digest of their manifest.

    Raises:
        VerificationFailed: they differ.
    """
    if content_digest(digest_files(files)) != manifest.content_digest:
        raise VerificationFailed("the files do not match the content digest")


def check_live_tree(scope: Scope, survey: Survey, *, signed: bool) -> Check:
    """Compare a live tree with live; `signed` is whether there is a trust policy."""
    if problems := list(_live_tree_problems(scope, survey, signed=signed)):
        return Check.failed(str(scope), "live tree", "; ".join(problems))
    # The tree follows the pointer eventually. A marker that is behind is not damage: a daemon may
    # have been stopped between two passes.
    note = (
        None
        if survey.synced
        else "behind the pointer, as its marker records; the next pass continues"
    )
    return Check(str(scope), "live tree", ok=True, note=note)


def _live_tree_problems(scope: Scope, survey: Survey, *, signed: bool) -> Iterator[str]:
    if survey.marker_is_ahead and survey.marker is not None:
        yield (
            f"its marker names sequence {survey.marker.sequence}, but the pointer has "
            f"{survey.report.sequence}: an older pointer was restored, or another writer wrote the "
            f"marker; `rebundle recover {scope} --reason '…'` writes a pointer that is newer than "
            "both"
        )
    for blocked in survey.report.blocked[:MOST_NAMED]:
        seen = (
            "does not follow"
            if blocked.seen_at is None
            else f"did not follow in the pass of {blocked.seen_at}"
        )
        yield f"{blocked.path} {seen}: {blocked.reason}"
    if len(survey.report.blocked) > MOST_NAMED:
        yield f"{len(survey.report.blocked) - MOST_NAMED} more paths do not follow"
    edited = survey.report.kept_aside
    if edited:
        yield (
            f"edited by hand: {some(edited)}; the next pass keeps a copy under "
            ".rebundle/replaced/ and restores the live state's files"
        )
    others = [path for path in (*survey.would_write, *survey.would_remove) if path not in edited]
    differing = some(others)
    if survey.marked and others:
        yield f"marked as synced, but these paths differ from live: {differing}"
    elif others and signed:
        unsigned = (
            "tree and marker are not signed: verify again after the daemon's next pass, in "
            "a few seconds"
        )
        yield f"these paths differ from live: {differing}; {unsigned}"
