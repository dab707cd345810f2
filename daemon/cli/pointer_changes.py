"""Runs a command that changes a scope: compare-and-swap, live-tree passes, output."""

from collections.abc import Iterable
from dataclasses import replace

from daemon.cli.options import Actor
from daemon.cli.output import Printer
from daemon.cli.session import Session
from daemon.cli.waiting import Lag, lag_of, wait_for
from daemon.exit_codes import DONE, FAILED
from daemon.inspection.documents import to_document
from daemon.inspection.escaping import plain
from daemon.inspection.live_tree import PassView
from daemon.inspection.pointer_changes import ChangeView
from daemon.inspection.scopes import PublicationView
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.operator_commands import ChangeResult, Command
from daemon.publishing.pointer import Hold, Pointer
from daemon.publishing.wording import counted
from renderers.values import Scope


async def act(
    opened: Session,
    scope: Scope,
    command: Command,
    *,
    name: str,
    actor: Actor,
    reason: str,
    dry_run: bool = False,
    previewed: ChangeResult | None = None,
) -> None:
    """Apply a change that does not affect what is live, and print it; a dry run only prints it."""
    operations = opened.bucket.operations
    if dry_run:
        done = previewed or await operations.preview(scope, command, actor.name, reason)
    else:
        done = await operations.carry_out(scope, command, actor.name, reason, previewed=previewed)
    print_change(opened.printer, name, done, dry_run=dry_run)


async def act_and_wait(
    opened: Session,
    scope: Scope,
    command: Command,
    *,
    name: str,
    actor: Actor,
    reason: str,
    wait: float,
    previewed: ChangeResult | None = None,
) -> int:
    """Apply a change of what is live, wait until the live tree follows, and print both.

    Returns the exit code: 1 if base/ or README.md still differ from the live state after `wait`
    seconds. With 0 seconds one pass is made, and the exit code ignores the live tree.
    """
    done = await opened.bucket.operations.carry_out(
        scope, command, actor.name, reason, previewed=previewed
    )
    tree, lag = await followed(opened, scope, done.after, done.live_tree, wait=wait)
    print_change(opened.printer, name, replace(done, live_tree=tree), lag=lag)
    return exit_code(opened.printer, scope, lag, wait=wait)


async def followed(
    opened: Session,
    scope: Scope,
    current: Pointer,
    tree: FinishedPass | UnfinishedPass | None,
    *,
    wait: float,
) -> tuple[FinishedPass | UnfinishedPass | None, Lag | None]:
    """The result of the last pass within `wait` seconds, and the lag; None if the tree follows."""
    if tree is None or tree.follows:
        return tree, None
    bucket = opened.bucket
    tree = await wait_for(bucket.live_tree, opened.runtime, scope, tree, seconds=wait)
    if tree.follows:
        return tree, None
    return tree, await lag_of(bucket.store, bucket.live_tree, scope, current, tree)


def exit_code(printer: Printer, scope: Scope | str, lag: Lag | None, *, wait: float) -> int:
    """The exit code after the pointer was written; warns if the live tree did not follow."""
    if lag is None:
        return DONE
    printer.warn(
        f"{scope}: the pointer is written, but the live tree did not follow it"
        f"{f' within {wait:g} s' if wait else ''}\n"
        f"{lag.words}\n"
        "fix this, then wait for the daemon's next pass (at most 5 minutes by default) "
        "or run the command again; "
        f"`rebundle status {scope}` shows whether the live tree is synced"
    )
    return FAILED if wait else DONE


def print_change(
    printer: Printer,
    name: str,
    done: ChangeResult,
    *,
    dry_run: bool = False,
    lag: Lag | None = None,
) -> None:
    """Print what a command changed; with `dry_run`, what it would change."""
    view = ChangeView.of(name, done, dry_run=dry_run)
    if not done.changed:
        printer.say(f"nothing to change: {done.after.scope} is already in the requested state")
    printer.data({**to_document(view), "lag": lag}, change_lines(view, printer, lag))


def change_lines(view: ChangeView, printer: Printer, lag: Lag | None = None) -> Iterable[str]:
    """The lines that show a change to people."""
    before, after = view.before, view.after
    would = "would be " if view.dry_run else ""
    sequence = f"sequence {before.sequence} → {after.sequence}" if view.changed else "unchanged"
    yield printer.heading(f"{view.scope}: {view.operation} ({would}{sequence})")
    yield f"  live       {_step(_state(before.live), _state(after.live))}"
    yield f"  desired    {_step(_state(before.desired), _state(after.desired))}"
    yield f"  hold       {_step(_hold(before.hold), _hold(after.hold))}"
    for pin in view.pins:
        yield f"  pinned     {plain(pin.publication)}: {_yes_to_no(now=pin.pinned)}"
    for changed in view.quarantines:
        states = ", ".join(map(plain, changed.states)) or "no retained state"
        yield (
            f"  quarantined  composition {changed.composition[:12]} ({states}): "
            f"{_yes_to_no(now=changed.quarantined)}"
        )
    tree = view.live_tree
    if tree is None:
        return
    if tree.synced and isinstance(tree, PassView):
        yield f"  live tree  synced, {counted(len(tree.written), 'file')} written"
    else:
        # The warning about a lag has the reason.
        reason = "" if lag else f": {plain(tree.reason)}"
        yield f"  live tree  {printer.bad('not synced')}{reason}"
    if isinstance(tree, PassView):
        yield from _path_lines(tree)


def _path_lines(tree: PassView) -> Iterable[str]:
    copied = "had foreign content, of which a copy is kept under .rebundle/replaced/"
    for paths, note in (
        (tree.kept_aside, copied),
        (tree.overrides, "operator's override, not changed"),
        (tree.deleted_by_operator, "deleted by an operator, stays deleted"),
        (tree.strays, "not written by Rebundle, not changed"),
    ):
        yield from (f"             {note}: {plain(path)}" for path in paths)


def _step(before: object, after: object) -> str:
    return plain(before) if before == after else f"{plain(before)} → {plain(after)}"


def _yes_to_no(*, now: bool) -> str:
    return "no → yes" if now else "yes → no"


def _state(publication: PublicationView | None) -> str:
    return f"{publication.state} ({publication.revision})" if publication else "nothing"


def _hold(hold: Hold | None) -> str:
    return f"by {hold.by}: {hold.reason}" if hold else "off"
