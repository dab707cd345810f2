"""`rebundle verify`: verifies what is stored, starting at the pointer.

It checks the pointer and the history chunks; of each publication the digests of manifest,
composition, archive and files, and with a trust policy the signature; then the live tree against
the live state. A failed check does not stop the others. Exit 5 if a check failed.
"""

from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daemon.bucket import keys_of
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.selection import publication_of
from daemon.cli.session import Session, load_settings, printer_of, scope_of, session
from daemon.exit_codes import BACKEND, DONE, VERIFICATION
from daemon.inspection.escaping import plain
from daemon.inspection.views import View, movable_view
from daemon.publishing import layout, manifest
from daemon.publishing.archive import content_digest, digest_files
from daemon.publishing.errors import NotFound, NotTrusted, PublishingError, VerificationFailed
from daemon.publishing.live_tree.sync import Survey
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.reader import Scopes
from daemon.publishing.verification import verified_files
from daemon.publishing.wording import MOST_NAMED, some
from daemon.stores.errors import ObjectDamaged
from renderers.model import RenderedFile, Scope

if TYPE_CHECKING:  # takes long to import
    from daemon.publishing.trust.policy import TrustPolicy

_RECOVER = "rebundle recover"
_DAMAGED = (NotFound, VerificationFailed, ObjectDamaged)
NO_POLICY = (
    "signatures: no trust policy is set (trust.policy); anyone with write access to the "
    "bucket could have written this"
)
NOT_FRESH = (
    "freshness: the policy does not require it, or this machine signs; "
    "an outdated pointer is detected only by readers that have seen a newer one"
)
OFFLINE = (
    "whether the state is live, held or quarantined, and whether a newer one exists: "
    "only the pointer of the scope has this information"
)


class _Gap(VerificationFailed):
    """Changes are missing from the history of a scope; `recover` cannot restore them."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    scope: str
    what: str
    problem: str | None
    note: str | None = None
    """A temporary difference that is not a problem."""
    movable: Sequence[View] = ()
    """Images and artifacts without a digest: not a problem, but their content may change."""
    code: int = VERIFICATION
    """The exit code of a problem."""

    @property
    def ok(self) -> bool:
        """Whether the check passed."""
        return self.problem is None


async def verify(
    scope: Annotated[str | None, Parameter(help="BUNDLE/TARGET.")] = None,
    state: Annotated[
        str | None,
        Parameter(
            help="Verify only this state: its id or a unique prefix of it, STATE@ATTEMPT, live "
            "or desired."
        ),
    ] = None,
    /,
    *,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), help="All scopes in the bucket.")
    ] = False,
    offline: Annotated[
        Path | None,
        Parameter(
            help="Verify a local copy of one publication folder (STATE/ATTEMPT) without reading "
            "a bucket."
        ),
    ] = None,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Verify every retained state of a scope, or one of them, and the live tree."""
    given = (offline is not None) + every + (scope is not None)
    if given == 0:
        raise UsageError("name a scope, or give --all or --offline FOLDER")
    if given > 1:
        raise UsageError("a scope, --all and --offline exclude each other: give one of them")
    if offline is not None:
        _require_publication(offline.absolute())
        trust = keys_of(load_settings(place)).trust
        unchecked = [*([NO_POLICY] if trust is None else []), OFFLINE]
        return _print_checks(
            printer_of(printing), [await _check_offline(offline, trust)], unchecked
        )
    async with session(place, printing) as opened:
        scopes = (
            await opened.bucket.reader.scopes() if scope is None else Scopes((scope_of(scope),))
        )
        checks: list[CheckResult] = []
        for current in scopes:
            checks += [
                check async for check in _check_scope(opened, current, state, named=not every)
            ]
        checks += [
            CheckResult(f"{name}/", "folder", why, code=BACKEND)
            for name, why in scopes.unreadable.items()
        ]
        if not checks:
            raise NotFound(
                f"nothing is published in {opened.settings.bucket}, so there is nothing to verify"
            )
        return _print_checks(opened.printer, checks, _unchecked(opened.trust))


def _unchecked(trust: "TrustPolicy | None") -> list[str]:
    if trust is None:
        return [NO_POLICY]
    return [NOT_FRESH] if trust.freshness == "off" else []


def _print_checks(printer: Printer, checks: Sequence[CheckResult], unchecked: Sequence[str]) -> int:
    """Print the results; returns the exit code."""
    failed = [check for check in checks if not check.ok]
    document = {
        "ok": not failed,
        "checks": [_check_view(check) for check in checks],
        "not_checked": list(unchecked),
    }
    shown = failed if printer.quiet else checks
    printer.data(document, _lines(shown, printer) if shown else ())
    for property_ in unchecked:
        printer.say(f"not checked: {property_}")
    if failed:
        printer.warn(f"{len(failed)} of {len(checks)} checks failed")
    return max((check.code for check in failed), default=DONE)


def _check_view(check: CheckResult) -> View:
    return {
        "scope": check.scope,
        "what": check.what,
        "ok": check.ok,
        "problem": check.problem,
        "note": check.note,
        "movable": list(check.movable),
    }


async def _check_offline(folder: Path, trust: "TrustPolicy | None") -> CheckResult:
    """Verify a copied publication: manifest, signature, archive and every file in it."""
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
            raise VerificationFailed("the files do not match the content digest")
    except (PublishingError, ValueError) as error:
        return CheckResult(str(folder), "publication", str(error))
    what = f"state {described.state}@{described.attempt}"
    return CheckResult(described.scope, what, None, movable=movable_view(described) or ())


def _require_publication(folder: Path) -> None:
    """Raise NotFound if a folder has no file of a publication: its name is a mistake."""
    if any((folder / name).exists() for name in (layout.MANIFEST, layout.ARCHIVE)):
        return
    manifests = (*folder.glob(f"*/{layout.MANIFEST}"), *folder.glob(f"*/*/{layout.MANIFEST}"))
    found = some(sorted(str(file.parent) for file in manifests))
    raise NotFound(
        f"{folder} has no {layout.MANIFEST}: name a STATE/ATTEMPT folder"
        + (f", such as {found}" if found else "")
    )


def _copied(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error


async def _check_scope(
    opened: Session, scope: Scope, state: str | None, *, named: bool
) -> AsyncIterator[CheckResult]:
    reader = opened.bucket.reader
    try:
        pointer = (await reader.existing(scope)).pointer
    except NotFound:
        if named:
            raise
        return  # nothing is published in this folder
    except Exception as error:  # noqa: BLE001  # an unexpected error affects this scope only
        yield _failed(opened, scope, "pointer", error)
        return
    yield CheckResult(
        str(scope), f"pointer, sequence {pointer.sequence}", _pointer_problem(pointer)
    )
    yield await _check(opened, scope, "history", _check_history(opened, pointer))
    chosen = pointer.retained if state is None else (publication_of(pointer, state),)
    for publication in reversed(chosen):
        what = f"state {publication.id}"
        yield await _check(opened, scope, what, _check_publication(opened, scope, publication))
    if (
        pointer.live is not None
        and chosen
        and (state is None or publication_of(pointer, state).id == pointer.live.id)
    ):
        yield await _check_live_tree(opened, scope)


async def _check(
    opened: Session, scope: Scope, what: str, checking: Awaitable[Sequence[View]]
) -> CheckResult:
    """Run one check; its result is the images and artifacts without a digest."""
    try:
        movable = await checking
    except Exception as error:  # noqa: BLE001  # an unexpected error must not stop the other checks
        return _failed(opened, scope, what, error)
    return CheckResult(str(scope), what, None, movable=movable)


def _failed(opened: Session, scope: Scope, what: str, error: Exception) -> CheckResult:
    """A failed check, with the command that repairs the damage."""
    if isinstance(error, NotFound):
        message, code = (
            str(error),
            VERIFICATION,
        )  # the pointer names the object, so a missing one is damage
    else:
        message, code = opened.failure_of(scope, error)
    is_damage = isinstance(error, _DAMAGED) and not isinstance(error, NotTrusted | _Gap)
    if is_damage and _RECOVER not in message:
        message += (
            ". Restore the object if the bucket keeps versions, else run `rebundle recover "
            f"{scope} --reason '…'`"
        )
    return CheckResult(str(scope), what, message, code=code)


def _pointer_problem(pointer: Pointer) -> str | None:
    """A contradiction in the pointer, if there is one."""
    newest = pointer.history[-1] if pointer.history else None
    if newest is None or newest.sequence != pointer.sequence or newest.write_id != pointer.write_id:
        return "its newest history entry does not describe its last change"
    return None


async def _check_history(opened: Session, pointer: Pointer) -> Sequence[View]:
    entries = await opened.bucket.reader.history(pointer)
    sequences = [entry.sequence for entry in entries]
    # Entries before a recovery may be lost. The sequence of the recovery itself is higher than any
    # sequence that a reader can have seen.
    first = max((entry.sequence for entry in entries if entry.kind == "recover"), default=1)
    since = [sequence for sequence in sequences if sequence >= first]
    if since != list(range(first, pointer.sequence + 1)) or sequences != sorted(set(sequences)):
        raise _Gap(
            f"the history has gaps or duplicates: its sequences are {some(sequences)}. Restore "
            "the last "
            "version of the pointer if the bucket keeps versions; publishing continues either way"
        )
    return ()


async def _check_publication(
    opened: Session, scope: Scope, publication: Publication
) -> Sequence[View]:
    reader = opened.bucket.reader
    described = await reader.manifest(scope, publication)
    _check_manifest(described, publication.composition_digest, scope)
    if described.revision != publication.revision:
        raise VerificationFailed(
            f"its revision is {described.revision}, but the pointer has {publication.revision}"
        )
    files = await reader.files(scope, publication)
    if await opened.runtime.run_in_thread(_content_digest, files) != described.content_digest:
        raise VerificationFailed("the files do not match the content digest")
    return movable_view(described) or ()


def _check_manifest(described: Manifest, composition: str, scope: Scope) -> None:
    value = described.composition_value()
    if value.digest != composition or str(value.scope) != str(scope):
        raise VerificationFailed("its composition does not match the pointer")
    described.check_defaults()


async def _check_live_tree(opened: Session, scope: Scope) -> CheckResult:
    try:
        survey = await opened.bucket.live_tree.survey(scope, reading_all=True)
    except Exception as error:  # noqa: BLE001  # an unexpected error must not stop the other checks
        return _failed(opened, scope, "live tree", error)
    if problems := list(_live_tree_problems(scope, survey, signed=opened.trust is not None)):
        return CheckResult(str(scope), "live tree", "; ".join(problems))
    # The tree follows the pointer eventually. A marker that is behind is not damage: a daemon may
    # have been stopped between two passes.
    note = (
        None
        if survey.in_sync
        else "behind the pointer, as its marker records; the next pass continues"
    )
    return CheckResult(str(scope), "live tree", None, note=note)


def _live_tree_problems(scope: Scope, survey: Survey, *, signed: bool) -> Iterable[str]:
    if survey.is_ahead and survey.marker is not None:
        yield (
            f"its marker names sequence {survey.marker.sequence}, but the pointer has "
            f"{survey.seen.sequence}: "
            "an older pointer was restored, or another writer wrote the marker; "
            f"`rebundle recover {scope} --reason '…'` writes a pointer that is newer than both"
        )
    for blocked in survey.seen.blocked[:MOST_NAMED]:
        seen = (
            "does not follow"
            if blocked.seen_at is None
            else f"did not follow in the pass of {blocked.seen_at}"
        )
        yield f"{blocked.path} {seen}: {blocked.reason}"
    if len(survey.seen.blocked) > MOST_NAMED:
        yield f"{len(survey.seen.blocked) - MOST_NAMED} more paths do not follow"
    edited = survey.seen.kept_aside
    if edited:
        yield (
            f"edited by hand: {some(edited)}; the next pass keeps a copy under "
            ".rebundle/replaced/ and "
            "restores the live state's files"
        )
    others = [path for path in (*survey.seen.written, *survey.removed) if path not in edited]
    differing = some(others)
    if survey.marked and others:
        yield f"marked as synced, but not in sync with live: {differing}"
    elif others and signed:
        unsigned = (
            "tree and marker are not signed: verify again after the daemon's next pass, in "
            "a few seconds"
        )
        yield f"not in sync with live: {differing}; {unsigned}"


def _content_digest(files: Sequence[RenderedFile]) -> str:
    return content_digest(digest_files(files))


def _lines(checks: Sequence[CheckResult], printer: Printer) -> Iterable[str]:
    header, *rows = columns(
        ("SCOPE", "CHECKED", "RESULT"),
        [(c.scope, c.what, "ok" if c.ok else "FAILED") for c in checks],
    )
    yield header
    for check, row in zip(checks, rows, strict=True):
        yield row if check.ok else printer.bad(row)
        if detail := check.problem or check.note:
            yield f"  {plain(detail)}"
    yield from _movable_lines(checks, printer)


def _movable_lines(checks: Sequence[CheckResult], printer: Printer) -> Iterable[str]:
    """Images and artifacts without a digest, once for all states: states share most of them."""
    states_of: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        state = check.what.removeprefix("state ").partition("@")[0]
        for item in check.movable:
            states_of.setdefault((item["kind"], item["name"]), []).append(state)
    if not states_of:
        return
    yield ""
    yield printer.heading(f"not pinned by a digest ({len(states_of)})")
    total = sum(check.what.startswith("state ") for check in checks)
    rows = [
        (kind, name, "every state" if len(states) == total > 1 else some(states, 1))
        for (kind, name), states in states_of.items()
    ]
    yield from columns(("KIND", "NAME", "IN"), rows)
