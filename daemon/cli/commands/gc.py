"""`rebundle gc`: what retention no longer keeps leaves the pointer, then the bucket."""

from collections.abc import Iterable
from typing import Annotated, Literal

from cyclopts import Parameter

from daemon.bucket import collector
from daemon.cli.codes import BACKEND, DONE
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_ACTOR, DEFAULT_PLACE, DEFAULT_PRINTING, Actor, OptionalReason, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.session import Session, scope_of, session
from daemon.inspection.views import View
from daemon.publishing.maintenance.garbage_collector import BOTH, Collected, GarbageCollector, Part
from daemon.publishing.maintenance.retention_rules import Deletable, Folder, Kept, NotYetDeletable, Released
from daemon.publishing.reader import Scopes
from renderers.model import Scope

_Failed = tuple[str, str, int]
"""A scope or a folder, what is wrong, the exit code."""


async def gc(
    scope: Annotated[str | None, Parameter(help="BUNDLE/TARGET; or --all.")] = None,
    /,
    *,
    all_: Annotated[bool, Parameter(name="--all", negative=(), help="Every scope of the bucket.")] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only show what would be deleted, and why.")] = False,
    only: Annotated[
        Literal["release", "delete"] | None,
        Parameter(help="release: only take out of the pointer; delete: only delete what was released, write nothing."),
    ] = None,
    reason: OptionalReason = "",
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Collect: take out of the pointer what retention does not keep, then delete what no pointer can name again.

    What stays is set by retention.*: live, desired and pinned states, the newest, and those superseded lately.
    """
    if (scope is None) != all_:
        raise UsageError("name one scope, or give --all")
    parts = BOTH if only is None else frozenset[Part]({only})
    async with session(place, printing) as opened:
        scopes = await opened.bucket.reader.scopes() if scope is None else Scopes((scope_of(scope),))
        collecting = collector(opened.bucket, opened.settings.retention)
        done: list[Collected] = []
        failed: list[_Failed] = []
        for each in scopes:
            try:
                if dry_run:
                    done.append(await collecting.preview(each, parts=parts))
                else:
                    done.append(await _collect(opened, collecting, each, parts, actor=actor, reason=reason))
            except Exception as error:
                if scope is not None:
                    raise
                failed.append((str(each), *opened.failure_of(each, error)))
        failed += [(f"{name}/", why, BACKEND) for name, why in scopes.unreadable.items()]
        _tell(opened.printer, done, failed, dry_run=dry_run)
        if dry_run and "release" in parts:
            opened.printer.say("ages are by this machine's clock; a collection goes by the bucket's")
        if dry_run and only is None and not opened.settings.retention.delete:
            opened.printer.say(
                "this is what `rebundle gc --all` would do: the daemon only releases (retention.delete = false)"
            )
        if only == "delete" and any(each.left for each in done):
            opened.printer.say(
                "what is left waits for a release: the daemon's next one, or `rebundle gc --all --only release`"
            )
        return max((code for _, _, code in failed), default=DONE)


async def _collect(
    opened: Session, collecting: GarbageCollector, scope: Scope, parts: frozenset[Part], *, actor: Actor, reason: str
) -> Collected:
    def progress(doomed: Deletable) -> None:
        opened.printer.say(f"deleted {scope} {doomed.folder.id} ({doomed.folder.size:,} bytes)")

    collected = await collecting.collect(scope, actor.name, reason, parts=parts, progress=progress)
    if collected.sequence is not None:
        # As after every change of a pointer: the tree's marker tells which one it follows.
        followed = await opened.bucket.live_tree.follow(scope, collected.sequence)
        if followed.reason:
            opened.printer.warn(f"{scope}: {followed.reason}")
    return collected


def _tell(printer: Printer, done: Iterable[Collected], failed: Iterable[_Failed], *, dry_run: bool) -> None:
    views = [_view(each) for each in done]
    errors = [{"scope": scope, "error": error} for scope, error, _ in failed]
    going = [(view["scope"], item) for view in views for item in (*view["deleted"], *view["left"])]
    rows = [
        (
            scope,
            item["state"],
            item["attempt"][:12],
            item["stored_at"],
            f"{item['bytes']:,}",
            _action(item, dry_run=dry_run),
            item["why"],
        )
        for scope, item in going
    ]
    header = ("SCOPE", "STATE", "ATTEMPT", "STORED", "BYTES", "ACTION", "WHY")
    printer.data({"dry_run": dry_run, "scopes": views, "errors": errors}, columns(header, rows) if rows else ())
    for view in views:
        printer.say(_summary(view, dry_run=dry_run))
        for key in view["strays"]:
            printer.say(f"  of no publication, left alone: {key}")
    for error in errors:
        printer.warn(f"{error['scope']} was not collected: {error['error']}")


def _action(item: View, *, dry_run: bool) -> str:
    if item["deleted"]:
        return "would be deleted" if dry_run else "deleted"
    return "to be deleted"


def _summary(view: View, *, dry_run: bool) -> str:
    if not (view["deleted"] or view["left"] or view["released"] or view["copies"]):
        waiting = f", {len(view['spared'])} wait" if view["spared"] else ""
        return f"{view['scope']}: nothing to collect; {len(view['kept'])} publications stay{waiting}"
    would = "would be " if dry_run else ""
    copies = f", {len(view['copies'])} copies of replaced files {would}deleted" if view["copies"] else ""
    return (
        f"{view['scope']}: {len(view['released'])} publications {would}released, {len(view['deleted'])} {would}deleted"
        f"{copies} "
        f"({view['bytes']:,} bytes), {len(view['left'])} left to delete, {len(view['kept'])} stay"
    )


def _view(collected: Collected) -> View:
    return {
        "scope": str(collected.scope),
        "sequence": collected.sequence,
        "bytes": collected.size,
        "released": [_publication(each) for each in collected.released],
        "deleted": [_folder(each, deleted=True) for each in collected.deleted],
        "left": [_folder(each, deleted=False) for each in collected.left],
        "spared": [_folder(each, deleted=False) for each in collected.spared],
        "kept": [_publication(each) for each in collected.kept],
        "strays": list(collected.strays),
        "copies": [{"key": each.key, "bytes": each.size} for each in collected.copies],
    }


def _publication(judged: Kept | Released) -> View:
    return {"state": judged.publication.state, "attempt": judged.publication.attempt, "why": judged.why}


def _folder(verdict: Deletable | NotYetDeletable, *, deleted: bool) -> View:
    folder: Folder = verdict.folder
    return {
        "state": folder.id.state,
        "attempt": folder.id.attempt,
        "stored_at": folder.stored.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "bytes": folder.size,
        "deleted": deleted,
        "why": verdict.why,
    }
