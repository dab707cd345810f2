"""What every verb that changes a scope shares: preview, compare-and-swap, one pass, and the words about it."""

from collections.abc import Iterable

from daemon.cli.options import Actor
from daemon.cli.output import Printer
from daemon.cli.session import Session
from daemon.cli.text import plain
from daemon.cli.views import View, done_view
from daemon.publishing.operations import Done, Verb
from renderers.model import Scope


async def act(
    opened: Session, scope: Scope, verb: Verb, *, name: str, actor: Actor, reason: str, dry_run: bool = False
) -> None:
    """Carry a verb out and print what it changed, or (dry run) would change."""
    if dry_run:
        done = await preview(opened, scope, verb, actor=actor, reason=reason)
    else:
        done = await opened.bucket.operations.carry_out(scope, verb, actor.name, reason)
    tell(opened.printer, name, done, dry_run=dry_run)


async def preview(opened: Session, scope: Scope, verb: Verb, *, actor: Actor, reason: str) -> Done:
    """What the verb would do now. Raises what carrying it out would raise."""
    return await opened.bucket.operations.preview(scope, verb, actor.name, reason)


def tell(printer: Printer, name: str, done: Done, *, dry_run: bool = False) -> None:
    """Print what a verb changed, or (dry run) would change."""
    view = done_view(name, done, dry_run=dry_run)
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
    ("strays", "nobody's file, left alone"),
)


def _step(before: object, after: object) -> str:
    return plain(before) if before == after else f"{plain(before)} → {plain(after)}"


def _state(publication: View | None) -> str:
    return f"{publication['state']} ({publication['revision']})" if publication else "nothing"


def _hold(hold: View | None) -> str:
    return f"by {hold['by']}: {hold['reason']}" if hold else "off"
