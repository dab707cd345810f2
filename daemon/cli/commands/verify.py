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
from daemon.inspection.checks import (
    OFFLINE,
    Check,
    Checks,
    check_composition,
    check_content,
    check_live_tree,
    check_publication,
    history_problem,
    not_checked,
    pointer_problem,
)
from daemon.inspection.escaping import plain
from daemon.inspection.manifests import movable_in
from daemon.publishing import layout, manifest
from daemon.publishing.errors import NotFound, NotTrusted, PublishingError, VerificationFailed
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.reader import Scopes
from daemon.publishing.verification import verified_files
from daemon.publishing.wording import some
from daemon.stores.errors import ObjectDamaged
from renderers.values import Scope

if TYPE_CHECKING:  # takes long to import
    from daemon.publishing.trust.policy import TrustPolicy

_RECOVER = "rebundle recover"
_DAMAGED = (NotFound, VerificationFailed, ObjectDamaged)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A check, and the exit code that it gives the command if it failed."""

    check: Check
    code: int = VERIFICATION


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
        unchecked = (*(() if trust else not_checked(None)), OFFLINE)
        return _print_checks(
            printer_of(printing), [_Checked(_check_offline(offline, trust))], unchecked
        )
    async with session(place, printing) as opened:
        scopes = (
            await opened.bucket.reader.scopes() if scope is None else Scopes((scope_of(scope),))
        )
        checked: list[_Checked] = []
        for current in scopes:
            checked += [
                found async for found in _check_scope(opened, current, state, named=not every)
            ]
        checked += [
            _Checked(Check.failed(f"{name}/", "folder", why), BACKEND)
            for name, why in scopes.unreadable.items()
        ]
        if not checked:
            raise NotFound(
                f"nothing is published in {opened.settings.bucket}, so there is nothing to verify"
            )
        freshness = opened.trust.freshness if opened.trust else None
        return _print_checks(opened.printer, checked, not_checked(freshness))


def _print_checks(printer: Printer, checked: Sequence[_Checked], unchecked: Sequence[str]) -> int:
    """Print the results; returns the exit code."""
    result = Checks.of([found.check for found in checked], unchecked)
    failed = [check for check in result.checks if not check.ok]
    shown = failed if printer.quiet else result.checks
    printer.data(result, _lines(shown, printer) if shown else ())
    for property_ in unchecked:
        printer.say(f"not checked: {property_}")
    if failed:
        printer.warn(f"{len(failed)} of {len(checked)} checks failed")
    return max((found.code for found in checked if not found.check.ok), default=DONE)


def _check_offline(folder: Path, trust: "TrustPolicy | None") -> Check:
    """Verify a copied publication: manifest, signature, archive and every file in it."""
    try:
        body = _copied(folder / layout.MANIFEST)
        described = manifest.decode(body)
        scope = Scope.parse(described.scope)
        if trust is not None:
            envelope = folder / layout.SIGNATURE
            signature = _copied(envelope) if envelope.exists() else None
            trust.check_publication(signature, described, body, scope)
        check_composition(described, described.composition_digest, scope)
        check_content(described, verified_files(described, _copied(folder / layout.ARCHIVE)))
    except (PublishingError, ValueError) as error:
        return Check.failed(str(folder), "publication", str(error))
    what = f"state {described.state}@{described.attempt}"
    return Check(described.scope, what, ok=True, movable=movable_in(described) or ())


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
) -> AsyncIterator[_Checked]:
    try:
        pointer = (await opened.bucket.reader.existing(scope)).pointer
    except NotFound:
        if named:
            raise
        return  # nothing is published in this folder
    except Exception as error:  # noqa: BLE001  # an unexpected error affects this scope only
        yield _failed(opened, scope, "pointer", error)
        return
    what = f"pointer, sequence {pointer.sequence}"
    yield _Checked(Check.of(str(scope), what, pointer_problem(pointer)))
    yield await _checked(opened, scope, "history", _check_history(opened, pointer))
    chosen = pointer.retained if state is None else (publication_of(pointer, state),)
    for publication in reversed(chosen):
        checking = _check_publication(opened, scope, publication)
        yield await _checked(opened, scope, f"state {publication.id}", checking)
    if (
        pointer.live is not None
        and chosen
        and (state is None or publication_of(pointer, state).id == pointer.live.id)
    ):
        yield await _checked(opened, scope, "live tree", _check_live_tree(opened, scope))


async def _checked(
    opened: Session, scope: Scope, what: str, checking: Awaitable[Check]
) -> _Checked:
    """Run one check. An error fails the check and does not stop the others."""
    try:
        return _Checked(await checking)
    except Exception as error:  # noqa: BLE001  # an unexpected error affects this check only
        return _failed(opened, scope, what, error)


def _failed(opened: Session, scope: Scope, what: str, error: Exception) -> _Checked:
    """A failed check, with the command that repairs the damage."""
    if isinstance(error, NotFound):  # the pointer names the object, so a missing one is damage
        message, code = str(error), VERIFICATION
    else:
        message, code = opened.failure_of(scope, error)
    is_damage = isinstance(error, _DAMAGED) and not isinstance(error, NotTrusted)
    if is_damage and _RECOVER not in message:
        message += (
            ". Restore the object if the bucket keeps versions, else run `rebundle recover "
            f"{scope} --reason '…'`"
        )
    return _Checked(Check.failed(str(scope), what, message), code)


async def _check_history(opened: Session, pointer: Pointer) -> Check:
    entries = await opened.bucket.reader.history(pointer)
    return Check.of(pointer.scope, "history", history_problem(pointer, entries))


async def _check_publication(opened: Session, scope: Scope, publication: Publication) -> Check:
    described = await opened.bucket.reader.manifest(scope, publication)
    files = await opened.bucket.reader.files(scope, publication)
    await opened.runtime.run_in_thread(check_publication, described, publication, scope, files)
    what = f"state {publication.id}"
    return Check(str(scope), what, ok=True, movable=movable_in(described) or ())


async def _check_live_tree(opened: Session, scope: Scope) -> Check:
    survey = await opened.bucket.live_tree.survey(scope, reading_all=True)
    return check_live_tree(scope, survey, signed=opened.trust is not None)


def _lines(checks: Sequence[Check], printer: Printer) -> Iterable[str]:
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


def _movable_lines(checks: Sequence[Check], printer: Printer) -> Iterable[str]:
    """Images and artifacts without a digest, once for all states: states share most of them."""
    states_of: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        state = check.what.removeprefix("state ").partition("@")[0]
        for item in check.movable:
            states_of.setdefault((item.kind, item.name), []).append(state)
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
