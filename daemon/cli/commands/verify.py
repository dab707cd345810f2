"""`rebundle verify`: what is stored, checked from the pointer down.

Pointer, history chunks, and of each publication the manifest's digest, the composition's, the archive's, every file's;
with a trust policy its signature; then the live tree against live. A failed check hides none of the others. Exit 5 if
one failed.
"""

from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daemon.bucket import keys_of
from daemon.cli.codes import BACKEND, DONE, VERIFICATION
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.selection import publication_of
from daemon.cli.session import Session, load_settings, printer_of, scope_of, session
from daemon.inspection.escaping import plain
from daemon.inspection.views import View, movable_view
from daemon.publishing import layout, manifest
from daemon.publishing.archive import content_digest, digest_files
from daemon.publishing.errors import NotFound, NotTrusted, PublishingError, VerificationFailed
from daemon.publishing.live_tree.sync import Survey
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.reader import Scopes, verified_files
from daemon.publishing.wording import MOST_NAMED, some
from daemon.stores.errors import ObjectDamaged
from renderers.model import RenderedFile, Scope

if TYPE_CHECKING:  # takes long to import
    from daemon.publishing.trust.policy import TrustPolicy

_RECOVER = "rebundle recover"
_DAMAGED = (NotFound, VerificationFailed, ObjectDamaged)
NO_POLICY = (
    "signatures: no trust policy is set (trust.policy): anybody with write access to the bucket could have written it"
)
NOT_FRESH = (
    "freshness: not demanded by the policy, or not of who signs; only who has seen a newer pointer knows an old one"
)
OFFLINE = (
    "whether the state is live, held or quarantined, and whether there is a newer one: the pointer of its scope says so"
)


class _Gap(VerificationFailed):
    """Changes of a scope are missing from its history; `recover` cannot bring them back."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at."""

    scope: str
    what: str
    problem: str | None
    note: str | None = None
    """What is not as it will be, though nothing is wrong."""
    movable: Sequence[View] = ()
    """Images and artifacts that no digest holds: nothing is wrong, and they may change under their names."""
    code: int = VERIFICATION
    """The exit code of a problem."""

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return self.problem is None


async def verify(
    scope: Annotated[str | None, Parameter(help="BUNDLE/TARGET.")] = None,
    state: Annotated[
        str | None, Parameter(help="Only this state: its id or unique beginning, STATE@ATTEMPT, live or desired.")
    ] = None,
    /,
    *,
    every: Annotated[bool, Parameter(name="--all", negative=(), help="Every scope of the bucket.")] = False,
    offline: Annotated[
        Path | None, Parameter(help="A copied folder of one publication instead (STATE/ATTEMPT); no bucket is asked.")
    ] = None,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Check every retained state of a scope, or one, and the live tree."""
    if (offline is not None) + every + (scope is not None) != 1:
        raise UsageError("name a scope, or give --all or --offline FOLDER")
    if offline is not None:
        trust = keys_of(load_settings(place)).trust
        unchecked = [*([NO_POLICY] if trust is None else []), OFFLINE]
        return _told(printer_of(printing), [await _check_offline(offline, trust)], unchecked)
    async with session(place, printing) as opened:
        scopes = await opened.bucket.reader.scopes() if scope is None else Scopes((scope_of(scope),))
        checks = [check for each in scopes async for check in _check_scope(opened, each, state, named=not every)]
        checks += [CheckResult(f"{name}/", "folder", why, code=BACKEND) for name, why in scopes.unreadable.items()]
        if not checks:
            raise NotFound(f"nothing is published in {opened.settings.bucket}, so nothing could be checked")
        return _told(opened.printer, checks, _unchecked(opened.trust))


def _unchecked(trust: "TrustPolicy | None") -> list[str]:
    if trust is None:
        return [NO_POLICY]
    return [NOT_FRESH] if trust.freshness == "off" else []


def _told(printer: Printer, checks: Sequence[CheckResult], unchecked: Sequence[str]) -> int:
    failed = [check for check in checks if not check.ok]
    document = {
        "ok": not failed,
        "checks": [
            {
                "scope": c.scope,
                "what": c.what,
                "ok": c.ok,
                "problem": c.problem,
                "note": c.note,
                "movable": list(c.movable),
            }
            for c in checks
        ],
        "not_checked": list(unchecked),
    }
    shown = failed if printer.quiet else checks
    printer.data(document, _lines(shown, printer) if shown else ())
    for each in unchecked:
        printer.say(f"not checked: {each}")
    if failed:
        printer.warn(f"{len(failed)} of {len(checks)} checks failed")
    return max((check.code for check in failed), default=DONE)


async def _check_offline(folder: Path, trust: "TrustPolicy | None") -> CheckResult:
    """Manifest, signature, archive and every file in it, as they were copied out of a bucket."""
    try:
        body = _copied(folder / layout.MANIFEST)
        described = manifest.decode(body)
        if trust is not None:
            envelope = folder / layout.SIGNATURE
            signature = _copied(envelope) if envelope.exists() else None
            trust.check_publication(signature, described, body, Scope.parse(described.scope))
        _check_manifest(described, described.composition_digest, Scope.parse(described.scope))
        files = verified_files(described, _copied(folder / layout.ARCHIVE))
        if _content_digest(files) != described.content_digest:
            raise VerificationFailed("its files do not match the content digest")
    except (PublishingError, ValueError) as error:
        return CheckResult(str(folder), "publication", str(error))
    what = f"state {described.state}@{described.attempt}"
    return CheckResult(described.scope, what, None, movable=movable_view(described) or ())


def _copied(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error


async def _check_scope(opened: Session, scope: Scope, state: str | None, *, named: bool) -> AsyncIterator[CheckResult]:
    reader = opened.bucket.reader
    try:
        pointer = (await reader.existing(scope)).pointer
    except NotFound:
        if named:
            raise
        return  # a folder in which nothing is published, yet or at all
    except Exception as error:  # noqa: BLE001  # also one that nobody foresaw is this scope's alone
        yield _failed(opened, scope, "pointer", error)
        return
    yield CheckResult(str(scope), f"pointer, sequence {pointer.sequence}", _pointer_problem(pointer))
    yield await _check(opened, scope, "history", _check_history(opened, pointer))
    chosen = pointer.retained if state is None else (publication_of(pointer, state),)
    for publication in reversed(chosen):
        what = f"state {publication.id}"
        yield await _check(opened, scope, what, _check_publication(opened, scope, publication))
    if pointer.live is not None and chosen and (state is None or publication_of(pointer, state).id == pointer.live.id):
        yield await _check_live_tree(opened, scope)


async def _check(opened: Session, scope: Scope, what: str, checking: Awaitable[Sequence[View]]) -> CheckResult:
    """`checking` finds what no digest holds."""
    try:
        found = await checking
    except Exception as error:  # noqa: BLE001  # also one that nobody foresaw hides no other check
        return _failed(opened, scope, what, error)
    return CheckResult(str(scope), what, None, movable=found)


def _failed(opened: Session, scope: Scope, what: str, error: Exception) -> CheckResult:
    """A check that an error ended, with the command that helps."""
    if isinstance(error, NotFound):
        words, code = str(error), VERIFICATION  # what a pointer names and is gone is damage
    else:
        words, code = opened.failure_of(scope, error)
    if isinstance(error, _DAMAGED) and not isinstance(error, NotTrusted | _Gap) and _RECOVER not in words:
        words += f". Restore the object if the bucket keeps versions, else `rebundle recover {scope} --reason '…'`"
    return CheckResult(str(scope), what, words, code=code)


def _pointer_problem(pointer: Pointer) -> str | None:
    """What a pointer says that contradicts itself."""
    newest = pointer.history[-1] if pointer.history else None
    if newest is None or newest.sequence != pointer.sequence or newest.write_id != pointer.write_id:
        return "its newest history entry is not its own change"
    return None


async def _check_history(opened: Session, pointer: Pointer) -> Sequence[View]:
    entries = await opened.bucket.reader.history(pointer)
    sequences = [entry.sequence for entry in entries]
    # What came before a recovery may be lost; the recovery itself is above all that can have been seen.
    first = max((entry.sequence for entry in entries if entry.kind == "recover"), default=1)
    since = [sequence for sequence in sequences if sequence >= first]
    if since != list(range(first, pointer.sequence + 1)) or sequences != sorted(set(sequences)):
        raise _Gap(
            f"the history has gaps or repeats: sequences are {some(sequences)}. Restore the pointer's "
            "last version if the bucket keeps versions; publishing continues either way"
        )
    return ()


async def _check_publication(opened: Session, scope: Scope, publication: Publication) -> Sequence[View]:
    reader = opened.bucket.reader
    described = await reader.manifest(scope, publication)
    _check_manifest(described, publication.composition_digest, scope)
    if described.revision != publication.revision:
        raise VerificationFailed(f"its revision is {described.revision}, the pointer says {publication.revision}")
    files = await reader.files(scope, publication)
    if await opened.runtime.run_in_thread(_content_digest, files) != described.content_digest:
        raise VerificationFailed("its files do not match the content digest")
    return movable_view(described) or ()


def _check_manifest(described: Manifest, composition: str, scope: Scope) -> None:
    value = described.composition_value()
    if value.digest != composition or str(value.scope) != str(scope):
        raise VerificationFailed("its composition is not the one the pointer means")
    described.check_defaults()


async def _check_live_tree(opened: Session, scope: Scope) -> CheckResult:
    try:
        survey = await opened.bucket.live_tree.survey(scope, reading_all=True)
    except Exception as error:  # noqa: BLE001  # also one that nobody foresaw hides no other check
        return _failed(opened, scope, "live tree", error)
    if problems := list(_live_tree_problems(scope, survey, signed=opened.trust is not None)):
        return CheckResult(str(scope), "live tree", "; ".join(problems))
    # The tree follows the pointer by and by, and its marker says so: a daemon stopped in between is no damage.
    note = None if survey.in_step else "behind the pointer, as its marker says: the next pass continues"
    return CheckResult(str(scope), "live tree", None, note=note)


def _live_tree_problems(scope: Scope, survey: Survey, *, signed: bool) -> Iterable[str]:
    if survey.is_ahead and survey.marker is not None:
        yield (
            f"its marker has followed sequence {survey.marker.sequence}, and the pointer has {survey.seen.sequence}: "
            "an older one was put back, or somebody else wrote the marker; "
            f"`rebundle recover {scope} --reason '…'` writes one that is newer than both"
        )
    for blocked in survey.seen.blocked[:MOST_NAMED]:
        seen = "does not follow" if blocked.seen_at is None else f"did not follow in the pass of {blocked.seen_at}"
        yield f"{blocked.path} {seen}: {blocked.reason}"
    if len(survey.seen.blocked) > MOST_NAMED:
        yield f"{len(survey.seen.blocked) - MOST_NAMED} more paths do not follow"
    edited = survey.seen.kept_aside
    if edited:
        yield (
            f"edited by hand: {some(edited)}, which the next pass keeps under .rebundle/replaced/ before "
            "it puts live's bytes back"
        )
    others = [path for path in (*survey.seen.written, *survey.removed) if path not in edited]
    differs = some(others)
    if survey.marked and not survey.in_step and (others or not edited):
        yield f"marked as synced, and not in step with live: {differs}"
    elif others and signed:
        unsigned = "nobody signs tree and marker: verify again once a daemon has passed, which takes seconds"
        yield f"not in step with live: {differs}; {unsigned}"


def _content_digest(files: Sequence[RenderedFile]) -> str:
    return content_digest(digest_files(files))


def _lines(checks: Sequence[CheckResult], printer: Printer) -> Iterable[str]:
    header, *rows = columns(
        ("SCOPE", "CHECKED", "RESULT"), [(c.scope, c.what, "ok" if c.ok else "FAILED") for c in checks]
    )
    yield header
    for check, row in zip(checks, rows, strict=True):
        yield row if check.ok else printer.bad(row)
        if told := check.problem or check.note:
            yield f"  {plain(told)}"
    yield from _movable_lines(checks, printer)


def _movable_lines(checks: Sequence[CheckResult], printer: Printer) -> Iterable[str]:
    """Once for all states: they share most of their images."""
    found: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        for each in check.movable:
            found.setdefault((each["kind"], each["name"]), []).append(
                check.what.removeprefix("state ").partition("@")[0]
            )
    if not found:
        return
    yield ""
    yield printer.heading(f"not held by a digest ({len(found)})")
    states = sum(check.what.startswith("state ") for check in checks)
    rows = [
        (kind, name, "every state" if len(held) == states > 1 else some(held, 1))
        for (kind, name), held in found.items()
    ]
    yield from columns(("KIND", "NAME", "IN"), rows)
