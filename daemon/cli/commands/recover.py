"""`rebundle recover`: rebuilds a pointer that is lost, damaged, or was replaced by an older one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from daemon.cli.options import (
    DEFAULT_ACTOR,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    WAIT_SECONDS,
    Actor,
    Place,
    Printing,
    Reason,
    Wait,
)
from daemon.cli.output import Printer, confirm
from daemon.cli.pointer_changes import exit_code, followed
from daemon.cli.session import scope_of, session
from daemon.cli.waiting import Lag
from daemon.exit_codes import DONE
from daemon.inspection.escaping import plain
from daemon.inspection.live_tree import pass_view
from daemon.inspection.scopes import PointerView
from daemon.publishing.maintenance.recovery import Recoverer, Recovery
from daemon.publishing.maintenance.recovery_remains import DamagedPublication, UnreadablePublication
from daemon.publishing.maintenance.recovery_rules import RecoveryOptions


async def recover(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: Reason,
    live: Annotated[
        str | None,
        Parameter(
            help="State or STATE@ATTEMPT to make live; any complete upload is allowed. "
            "Default: the state that the bucket's contents indicate."
        ),
    ] = None,
    no_hold: Annotated[
        bool,
        Parameter(
            name="--no-hold",
            negative=(),
            help="Do not hold the scope if its live state is also its desired state.",
        ),
    ] = False,
    allow_empty: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Leave nothing live if the trust policy refuses every state that is stored.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Show what would be done; change nothing.")
    ] = False,
    yes: Annotated[
        bool, Parameter(alias="-y", negative=(), help="Do not ask for confirmation.")
    ] = False,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Rebuild a pointer from manifests, history, live tree and the remains of the old pointer.

    Every publication is read and verified. The scope is put on hold, so that an operator checks the
    result before newer states become live.
    """
    options = RecoveryOptions(live=live, hold=not no_hold, allow_empty=allow_empty)
    async with session(place, printing) as opened:
        bucket, printer = opened.bucket, opened.printer
        recovering = Recoverer(bucket.store, bucket.reader, bucket.publisher, bucket.live_tree)
        named = scope_of(scope)
        planned = await recovering.preview(named, options, actor.name, reason)
        if dry_run or planned.recovered is None:
            _print_recovery(printer, planned, dry_run=True)
            return DONE
        if not yes:
            for line in _lines(planned, printer, dry_run=True):
                printer.say(line)
        confirm(f"Write this pointer for {scope}?", yes=yes, printer=printer)
        done = await recovering.recover(named, options, actor.name, reason)
        if done.recovered is None:
            _print_recovery(printer, done, dry_run=False)
            return DONE
        tree, lag = await followed(opened, named, done.recovered.pointer, done.live_tree, wait=wait)
        _print_recovery(printer, replace(done, live_tree=tree), dry_run=False, lag=lag)
        return exit_code(printer, named, lag, wait=wait)


def _print_recovery(
    printer: Printer, result: Recovery, *, dry_run: bool, lag: Lag | None = None
) -> None:
    recovered = result.recovered
    document = {
        "scope": str(result.scope),
        "dry_run": dry_run,
        "damage": result.damage,
        "traces": dict(result.remains.traces),
        "before": PointerView.of(result.remains.pointer) if result.remains.pointer else None,
        "after": PointerView.of(recovered.pointer) if recovered else None,
        "did": list(recovered.steps) if recovered else [],
        "unknown": list(recovered.unknown) if recovered else [],
        "damaged": [_unusable_view(publication) for publication in result.remains.damaged],
        "unreadable": [_unusable_view(publication) for publication in result.remains.unreadable],
        "unnamed": [str(upload) for upload in result.unreferenced_uploads],
        "live_tree": pass_view(result.live_tree) if result.live_tree else None,
        "lag": lag,
    }
    printer.data(document, _lines(result, printer, dry_run=dry_run, lag=lag))


def _unusable_view(publication: DamagedPublication | UnreadablePublication) -> dict[str, str]:
    return {"publication": str(publication.id), "why": publication.reason}


def _lines(
    result: Recovery, printer: Printer, *, dry_run: bool, lag: Lag | None = None
) -> Iterable[str]:
    if result.recovered is None:
        yield f"{result.scope}: nothing to recover: {_why_nothing(result)}"
        for publication in result.remains.unreadable:
            yield f"{publication.id} cannot be read: {plain(publication.reason)}"
        yield from _unnamed(result)
        return
    yield printer.heading(f"{result.scope}: {'would be recovered' if dry_run else 'recovered'}")
    if result.damage:
        yield f"  {plain(result.damage)}"
    pointer = result.remains.pointer
    if pointer is not None:
        yield f"  the pointer: sequence {pointer.sequence}"
    for name, sequence in sorted(result.remains.traces.items(), key=lambda trace: -trace[1]):
        yield f"  {name}: sequence {sequence}"
    yield "steps to take:" if dry_run else "steps taken:"
    for line in result.recovered.steps:
        yield f"  {plain(line)}"
    if result.live_tree is not None and result.live_tree.reason:
        # The warning about a lag has the reason.
        reason = "" if lag else f": {plain(result.live_tree.reason)}"
        yield f"  live tree {printer.bad('not synced')}{reason}"
    if result.recovered.unknown:
        yield "unknown:"
    for line in result.recovered.unknown:
        yield f"  {plain(line)}"
    yield from _unnamed(result)


def _why_nothing(result: Recovery) -> str:
    if result.remains.was_published:
        return "its pointer is intact and ahead of every trace in the bucket"
    return (
        "there is no trace of an earlier pointer; its first publication is in progress or "
        "was abandoned"
    )


def _unnamed(result: Recovery) -> Iterable[str]:
    uploads = result.unreferenced_uploads
    if not uploads:
        return
    if result.remains.was_published:
        yield "unreferenced uploads that are newer than the pointer:"
        yield from (f"  {plain(upload)}" for upload in uploads)
        yield (
            "an interrupted writer left them, or an older pointer was restored; a collection "
            "deletes them"
        )
    else:
        yield "unreferenced uploads:"
        yield from (f"  {plain(upload)}" for upload in uploads)
        yield "a daemon that still has their events will publish them; otherwise"
    yield (
        f"`rebundle recover {result.scope} --live {plain(uploads[-1])} --reason '…'` makes the "
        "last one live"
    )
