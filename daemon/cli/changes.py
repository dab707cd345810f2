"""What every verb that changes a scope shares: preview, compare-and-swap, passes, and the words about it."""

from collections.abc import Iterable
from dataclasses import replace

from daemon.cli.codes import DONE, FAILED
from daemon.cli.options import Actor
from daemon.cli.output import Printer
from daemon.cli.session import Session
from daemon.cli.waiting import Lag, lag_of, lag_view, wait_for
from daemon.inspection.escaping import plain
from daemon.inspection.views import View, done_view
from daemon.publishing.live_tree.sync import Synced, Unfinished
from daemon.publishing.operator_commands import ChangeResult, Verb
from daemon.publishing.pointer import Pointer
from renderers.model import Scope


async def act(
    opened: Session, scope: Scope, verb: Verb, *, name: str, actor: Actor, reason: str, dry_run: bool = False
) -> None:
    """Carry a verb out that leaves live as it is, and print what it changed, or (dry run) would change."""
    if dry_run:
        done = await preview(opened, scope, verb, actor=actor, reason=reason)
    else:
        done = await opened.bucket.operations.carry_out(scope, verb, actor.name, reason)
    tell(opened.printer, name, done, dry_run=dry_run)


async def act_and_wait(
    opened: Session, scope: Scope, verb: Verb, *, name: str, actor: Actor, reason: str, wait: float
) -> int:
    """Carry a verb out that changes what is live, wait until the live tree follows, and print both.

    Returns the exit code: 1 if base/ or README.md still differ from live after `wait` seconds. With 0 seconds one pass
    is made and a live tree that did not follow changes no exit code.
    """
    done = await opened.bucket.operations.carry_out(scope, verb, actor.name, reason)
    tree, lag = await followed(opened, scope, done.after, done.live_tree, wait=wait)
    tell(opened.printer, name, replace(done, live_tree=tree), lag=lag)
    return exit_code(opened.printer, scope, lag, wait=wait)


async def followed(
    opened: Session, scope: Scope, current: Pointer, tree: Synced | Unfinished | None, *, wait: float
) -> tuple[Synced | Unfinished | None, Lag | None]:
    """What the last pass said within `wait` seconds, and what the live tree lacks; None: it follows."""
    if tree is None or tree.follows:
        return tree, None
    bucket = opened.bucket
    tree = await wait_for(bucket.live_tree, opened.runtime, scope, tree, seconds=wait)
    if tree.follows:
        return tree, None
    return tree, await lag_of(bucket.store, bucket.live_tree, scope, current, tree)


def exit_code(printer: Printer, scope: Scope | str, lag: Lag | None, *, wait: float) -> int:
    """The exit code of a verb whose pointer is written, and what to do where the live tree did not follow."""
    if lag is None:
        return DONE
    printer.warn(
        f"{scope}: the pointer is written, and the live tree has not followed it"
        f"{f' within {wait:g} s' if wait else ''}\n"
        f"{lag.words}\n"
        f"fix that, then wait for the daemon's next pass (at most 5 minutes by default) or give the command again; "
        f"`rebundle status {scope}` shows whether the live tree is in step"
    )
    return FAILED if wait else DONE


async def preview(opened: Session, scope: Scope, verb: Verb, *, actor: Actor, reason: str) -> ChangeResult:
    """What the verb would do now. Raises what carrying it out would raise."""
    return await opened.bucket.operations.preview(scope, verb, actor.name, reason)


def tell(printer: Printer, name: str, done: ChangeResult, *, dry_run: bool = False, lag: Lag | None = None) -> None:
    """Print what a verb changed, or (dry run) would change."""
    view = done_view(name, done, dry_run=dry_run) | {"lag": lag_view(lag) if lag else None}
    if not done.changed:
        printer.say(f"nothing to change: {done.after.scope} is as asked already")
    printer.data(view, done_lines(view, printer))


def done_lines(view: View, printer: Printer) -> Iterable[str]:
    """The document of a changing verb, for people."""
    before, after = view["before"], view["after"]
    would = "would be " if view["dry_run"] else ""
    sequence = f"sequence {before['sequence']} → {after['sequence']}" if view["changed"] else "unchanged"
    yield printer.heading(f"{view['scope']}: {view['verb']} ({would}{sequence})")
    yield f"  live       {_step(_state(before['live']), _state(after['live']))}"
    yield f"  desired    {_step(_state(before['desired']), _state(after['desired']))}"
    yield f"  hold       {_step(_hold(before['hold']), _hold(after['hold']))}"
    if len(before["quarantined"]) != len(after["quarantined"]):
        yield f"  quarantined compositions  {_step(len(before['quarantined']), len(after['quarantined']))}"
    tree = view["live_tree"]
    if tree is None:
        return
    if not tree["synced"]:
        yield f"  live tree  {printer.bad('not in step')}: {plain(tree['reason'])}"
    else:
        yield f"  live tree  in step, {len(tree['written'])} files written"
    for key, words in _TREE_WORDS:
        for path in tree.get(key, ()):
            yield f"             {words}: {plain(path)}"


_TREE_WORDS = (
    ("kept_aside", "found with foreign bytes, which are kept under .rebundle/replaced/"),
    ("overrides", "operator's override, untouched"),
    ("deleted_by_operator", "stays deleted"),
    ("strays", "not written by Rebundle, left alone"),
)


def _step(before: object, after: object) -> str:
    return plain(before) if before == after else f"{plain(before)} → {plain(after)}"


def _state(publication: View | None) -> str:
    return f"{publication['state']} ({publication['revision']})" if publication else "nothing"


def _hold(hold: View | None) -> str:
    return f"by {hold['by']}: {hold['reason']}" if hold else "off"
