"""`rebundle gc`: releases expired publications from the pointer, then deletes them.

A release takes a publication out of the pointer. A deletion removes the objects of released
publications and of uploads that no pointer names.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from cyclopts import Parameter

from daemon.bucket import collector
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import (
    DEFAULT_ACTOR,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    Actor,
    OptionalReason,
    Place,
    Printing,
)
from daemon.cli.output import Printer
from daemon.cli.session import Session, scope_of, session
from daemon.exit_codes import BACKEND, DONE
from daemon.inspection.collection import CollectionView, FolderView
from daemon.publishing.maintenance.garbage_collector import (
    BOTH,
    Collected,
    CollectionPart,
    GarbageCollector,
)
from daemon.publishing.maintenance.retention_rules import Deletable
from daemon.publishing.reader import Scopes
from daemon.publishing.wording import counted
from renderers.values import Scope

_Failed = tuple[str, str, int]
"""A scope or a folder, what is wrong, the exit code."""


async def gc(
    scope: Annotated[
        str | None, Parameter(help="BUNDLE/TARGET. Required unless --all is given.")
    ] = None,
    /,
    *,
    all_: Annotated[
        bool, Parameter(name="--all", negative=(), help="All scopes in the bucket.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Show what would be deleted, and why.")
    ] = False,
    only: Annotated[
        Literal["release", "delete"] | None,
        Parameter(
            help="release: only remove publications from the pointer. "
            "delete: only delete what was released before; write nothing."
        ),
    ] = None,
    reason: OptionalReason = "",
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Release publications that retention does not keep, and delete unreachable ones.

    Live, desired and pinned states, the newest states and recently superseded ones are kept; the
    settings retention.* define the limits.
    """
    if (scope is None) != all_:
        raise UsageError("name one scope, or give --all")
    parts = BOTH if only is None else frozenset[CollectionPart]({only})
    async with session(place, printing) as opened:
        scopes = (
            await opened.bucket.reader.scopes() if scope is None else Scopes((scope_of(scope),))
        )
        collecting = collector(opened.bucket, opened.settings.retention)
        done: list[Collected] = []
        failed: list[_Failed] = []
        for current in scopes:
            try:
                if dry_run:
                    done.append(await collecting.preview(current, parts=parts))
                else:
                    done.append(
                        await _collect(
                            opened, collecting, current, parts, actor=actor, reason=reason
                        )
                    )
            except Exception as error:
                if scope is not None:
                    raise
                failed.append((str(current), *opened.failure_of(current, error)))
        failed += [(f"{name}/", why, BACKEND) for name, why in scopes.unreadable.items()]
        _print_results(opened.printer, done, failed, dry_run=dry_run)
        if dry_run and "release" in parts:
            opened.printer.say(
                "ages follow this machine's clock; a collection uses the bucket's clock"
            )
        if dry_run and only is None and not opened.settings.retention.delete:
            opened.printer.say(
                "`rebundle gc --all` would do this; the daemon only releases (retention.delete "
                "= false)"
            )
        if only == "delete" and any(collected.left for collected in done):
            opened.printer.say(
                "publications that are left can be deleted after the next release: "
                "the daemon's, or `rebundle gc --all --only release`"
            )
        return max((code for _, _, code in failed), default=DONE)


async def _collect(
    opened: Session,
    collecting: GarbageCollector,
    scope: Scope,
    parts: frozenset[CollectionPart],
    *,
    actor: Actor,
    reason: str,
) -> Collected:
    def on_deleted(deleted: Deletable) -> None:
        opened.printer.say(f"deleted {scope} {deleted.folder.id} ({deleted.folder.size:,} bytes)")

    collected = await collecting.collect(
        scope, actor.name, reason, parts=parts, on_deleted=on_deleted
    )
    if collected.sequence is not None:
        # As after every change of the pointer: the tree's marker names the sequence it follows.
        followed = await opened.bucket.live_tree.follow(scope, collected.sequence)
        if followed.reason:
            opened.printer.warn(f"{scope}: {followed.reason}")
    return collected


def _print_results(
    printer: Printer, done: Iterable[Collected], failed: Iterable[_Failed], *, dry_run: bool
) -> None:
    views = [CollectionView.of(collected) for collected in done]
    errors = [{"scope": scope, "error": error} for scope, error, _ in failed]
    deletable = [(view.scope, folder) for view in views for folder in (*view.deleted, *view.left)]
    rows = [
        (
            scope,
            folder.state,
            folder.attempt[:12],
            folder.stored_at,
            f"{folder.bytes:,}",
            _action(folder, dry_run=dry_run),
            folder.why,
        )
        for scope, folder in deletable
    ]
    header = ("SCOPE", "STATE", "ATTEMPT", "STORED", "BYTES", "ACTION", "WHY")
    printer.data(
        {"dry_run": dry_run, "scopes": views, "errors": errors},
        columns(header, rows) if rows else (),
    )
    for view in views:
        printer.say(_summary(view, dry_run=dry_run))
        for key in view.strays:
            printer.say(f"  belongs to no publication, not deleted: {key}")
    for error in errors:
        printer.warn(f"{error['scope']} was not collected: {error['error']}")


def _action(folder: FolderView, *, dry_run: bool) -> str:
    if folder.deleted:
        return "would be deleted" if dry_run else "deleted"
    return "to be deleted"


def _summary(view: CollectionView, *, dry_run: bool) -> str:
    if not (view.deleted or view.left or view.released or view.copies):
        waiting = f", {len(view.spared)} within the grace period" if view.spared else ""
        kept = counted(len(view.kept), "publication")
        return f"{view.scope}: nothing to collect; {kept} kept{waiting}"
    would = "would be " if dry_run else ""
    copies = f", {len(view.copies)} copies of replaced files {would}deleted" if view.copies else ""
    return (
        f"{view.scope}: {counted(len(view.released), 'publication')} {would}released, "
        f"{len(view.deleted)} {would}deleted{copies} ({view.bytes:,} bytes), "
        f"{len(view.left)} left to delete, {len(view.kept)} kept"
    )
