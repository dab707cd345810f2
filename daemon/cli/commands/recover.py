"""`rebundle recover`: a pointer that can go on, where the one there was is lost, damaged or an older one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from daemon.cli.changes import exit_code, followed
from daemon.cli.codes import DONE
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
from daemon.cli.session import scope_of, session
from daemon.cli.waiting import Lag, lag_view
from daemon.inspection.escaping import plain
from daemon.inspection.views import View, live_tree_view, pointer_view
from daemon.publishing.maintenance.recovery import Recoverer, Recovery
from daemon.publishing.maintenance.recovery_rules import Wish


async def recover(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: Reason,
    live: Annotated[
        str | None,
        Parameter(help="State or STATE@ATTEMPT to make live, of any complete upload; else what the bucket shows."),
    ] = None,
    no_hold: Annotated[
        bool, Parameter(name="--no-hold", negative=(), help="Do not hold the scope, if live is its desired state.")
    ] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only show what would be done.")] = False,
    yes: Annotated[bool, Parameter(alias="-y", negative=(), help="Do not ask.")] = False,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Rebuild a scope's pointer from its manifests, history, live tree and what is left of the pointer.

    Every publication is read and verified. The scope is held, so that somebody looks before newer states go live.
    """
    wish = Wish(live=live, hold=not no_hold)
    async with session(place, printing) as opened:
        bucket, printer = opened.bucket, opened.printer
        recovering = Recoverer(bucket.store, bucket.reader, bucket.publisher, bucket.live_tree)
        named = scope_of(scope)
        planned = await recovering.preview(named, wish, actor.name, reason)
        if dry_run or planned.recovered is None:
            _tell(printer, planned, dry_run=True)
            return DONE
        if not yes:
            for line in _lines(planned, printer, dry_run=True):
                printer.say(line)
        confirm(f"Write this pointer of {scope}?", yes=yes, printer=printer)
        done = await recovering.recover(named, wish, actor.name, reason)
        if done.recovered is None:
            _tell(printer, done, dry_run=False)
            return DONE
        tree, lag = await followed(opened, named, done.recovered.pointer, done.live_tree, wait=wait)
        _tell(printer, replace(done, live_tree=tree), dry_run=False, lag=lag)
        return exit_code(printer, named, lag, wait=wait)


def _tell(printer: Printer, told: Recovery, *, dry_run: bool, lag: Lag | None = None) -> None:
    recovered = told.recovered
    view: View = {
        "scope": str(told.scope),
        "dry_run": dry_run,
        "damage": told.damage,
        "traces": dict(told.remains.traces),
        "before": pointer_view(told.remains.pointer) if told.remains.pointer else None,
        "after": pointer_view(recovered.pointer) if recovered else None,
        "did": list(recovered.did) if recovered else [],
        "unknown": list(recovered.unknown) if recovered else [],
        "damaged": [{"publication": str(each.id), "why": each.why} for each in told.remains.damaged],
        "unreadable": [{"publication": str(each.id), "why": each.why} for each in told.remains.unreadable],
        "unnamed": [str(each) for each in told.remains.unnamed_uploads],
        "live_tree": live_tree_view(told.live_tree),
        "lag": lag_view(lag) if lag else None,
    }
    printer.data(view, _lines(told, printer, dry_run=dry_run))


def _lines(told: Recovery, printer: Printer, *, dry_run: bool) -> Iterable[str]:
    if told.recovered is None:
        yield f"{told.scope}: nothing to recover: {_nothing(told)}"
        yield from (f"{each.id} cannot be read: {plain(each.why)}" for each in told.remains.unreadable)
        yield from _unnamed(told)
        return
    yield printer.heading(f"{told.scope}: {'would be recovered' if dry_run else 'recovered'}")
    if told.damage:
        yield f"  {plain(told.damage)}"
    pointer = told.remains.pointer
    if pointer is not None:
        yield f"  the pointer: sequence {pointer.sequence}"
    for name, sequence in sorted(told.remains.traces.items(), key=lambda each: -each[1]):
        yield f"  {name}: sequence {sequence}"
    yield "did:" if not dry_run else "would do:"
    for line in told.recovered.did:
        yield f"  {plain(line)}"
    if told.live_tree is not None and told.live_tree.reason:
        yield f"  live tree {printer.bad('not in step')}: {plain(told.live_tree.reason)}"
    if told.recovered.unknown:
        yield "cannot be known:"
    for line in told.recovered.unknown:
        yield f"  {plain(line)}"
    yield from _unnamed(told)


def _nothing(told: Recovery) -> str:
    if told.remains.was_published:
        return "its pointer is whole, and ahead of every trace"
    return "nothing shows that it ever had a pointer; its first publication is under way, or was given up"


def _unnamed(told: Recovery) -> Iterable[str]:
    uploads = told.remains.unnamed_uploads
    if not uploads:
        return
    if told.remains.was_published:
        yield "uploads that are newer than the pointer and that nothing names:"
        yield from (f"  {plain(each)}" for each in uploads)
        yield "a writer that was stopped left them, or an older pointer was put back; a collection deletes them"
    else:
        yield "uploads that nothing names:"
        yield from (f"  {plain(each)}" for each in uploads)
        yield "a daemon that still has their events publishes them; if none has"
    yield f"`rebundle recover {told.scope} --live {plain(uploads[-1])} --reason '…'` makes the last one live"
