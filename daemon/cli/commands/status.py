"""`rebundle status`: shows what is live, what is waiting, and what needs attention.

For an event it shows the outcome in each scope. The journal is read if its file exists on this
machine; otherwise only the bucket is shown.
"""

import asyncio
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, Final

from cyclopts import Parameter

from daemon.cli.formatting import age, columns, pairs, seconds_since
from daemon.cli.options import (
    DEFAULT_JOURNAL_PLACE,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    JournalPlace,
    Place,
    Printing,
)
from daemon.cli.scope_rows import gravest, pointer_or_error
from daemon.cli.session import Session, opened_journal, session
from daemon.exit_codes import BACKEND, DONE, FAILED, VERIFICATION
from daemon.inspection.escaping import plain
from daemon.inspection.views import (
    View,
    attention,
    backlog_view,
    event_view,
    movable_view,
    survey_view,
)
from daemon.publishing import bucket_identity
from daemon.publishing.errors import NotFound, PublishingError
from daemon.publishing.wording import counted
from daemon.stores.errors import ObjectDamaged
from events.errors import EventError, JournalMissing
from events.journal import DeadLetterStatus
from renderers.model import Scope

_LONG_WAIT: Final = 60.0
"""Seconds. A running daemon settles an event sooner, unless each try fails."""
_IS_RUNNING: Final = "is the daemon running? `rebundle healthcheck` shows it"


async def status(
    what: Annotated[
        str | None,
        Parameter(help="A scope (BUNDLE/TARGET) or the id of an event. Default: all scopes."),
    ] = None,
    /,
    *,
    exit_code: Annotated[
        bool, Parameter(negative=(), help="Exit 1 if something needs attention.")
    ] = False,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Show the bucket, one scope, or one event. The exit code is the highest of all scopes."""
    async with session(place, printing, journal) as opened:
        scopes = await opened.bucket.reader.scopes()
        # A shell completes the folder of a scope to BUNDLE/TARGET/.
        named = None if what is None else what.removesuffix("/")
        chosen = [scope for scope in scopes if named in {None, str(scope)}]
        gathered = await asyncio.gather(*(scope_view(opened, scope) for scope in chosen))
        views = [view for view in gathered if view is not None]
        if what is not None and not views:
            await _print_event(opened, what)
            return DONE
        waiting = await _backlog(opened, named)
        if named is not None:
            for view in views:
                view["movable"] = await _movable(opened, Scope.parse(view["scope"]))
        for view in views:
            view["attention"] = [
                *attention(view),
                *_waiting_attention(view, waiting, opened.now),
            ]
        # Folders of other bundles are irrelevant if one scope is requested.
        folders = dict(scopes.unreadable) if named is None else {}
        document = {
            "bucket": opened.settings.bucket,
            "scopes": views,
            "unreadable_folders": folders,
            "journal": waiting,
        }
        opened.printer.data(document, _lines(document, opened, detailed=named is not None))
        code = max(gravest(views), BACKEND if folders or waiting["error"] else DONE)
        needs_attention = _needs_attention(document, opened.now)
        return code or (FAILED if exit_code and needs_attention else DONE)


async def scope_view(opened: Session, scope: Scope) -> View | None:
    """The pointer of a scope and the state of its live tree; None if nothing is published there.

    An error of the live tree is added to the view and does not hide the pointer.
    """
    view = await pointer_or_error(opened, scope)
    if view is None:
        return None
    tree: View | None = None
    why_not: str | None = None
    if view["live"] is not None:
        try:
            tree = survey_view(await opened.bucket.live_tree.survey(scope))
        except NotFound as error:  # the pointer names the object, so a missing one is damage
            why_not, view["exit_code"] = str(error), VERIFICATION
        except Exception as error:  # noqa: BLE001  # an unexpected error affects this scope only
            why_not, view["exit_code"] = opened.failure_of(scope, error)
    return {**view, "live_tree": tree, "live_tree_error": why_not}


async def _movable(opened: Session, scope: Scope) -> list[View] | None:
    """The live state's images and artifacts without a digest; None if they are unknown."""
    try:
        live = (await opened.bucket.reader.existing(scope)).pointer.live
        return movable_view(await opened.bucket.reader.manifest(scope, live)) if live else []
    except (PublishingError, ObjectDamaged):
        return None


async def _backlog(opened: Session, scope: str | None) -> View:
    """The waiting events and dead letters of the journal; of one scope only, if one is given."""
    try:
        async with opened_journal(opened.settings, opened.runtime) as journal:
            backlog = backlog_view(await journal.backlog())
            if scope is not None:
                letters = await journal.dead_letters(DeadLetterStatus.OPEN)
                backlog = _of_scope(
                    backlog, scope, sum(letter.scope == scope for letter in letters)
                )
            wrong = await bucket_identity.refusal(opened.bucket.store, journal)
            path = str(opened.settings.journal.path)
            return {"path": path, "error": None, "wrong_bucket": wrong, **backlog}
    except JournalMissing:
        return {"path": None, "error": None}
    except EventError as error:
        return {"path": str(opened.settings.journal.path), "error": str(error)}


def _of_scope(backlog: View, scope: str, dead_letters: int) -> View:
    lanes = [lane for lane in backlog["lanes"] if lane["scope"] == scope]
    return {
        "events": sum(lane["waiting"] for lane in lanes),
        "oldest": min((lane["oldest"] for lane in lanes if lane["oldest"]), default=None),
        "undispatched": backlog["undispatched"],
        "dead_letters": dead_letters,
        "rejected": None,
        "lanes": lanes,
    }


async def _print_event(opened: Session, event_id: str) -> None:
    try:
        async with opened_journal(opened.settings, opened.runtime) as journal:
            statuses = await journal.find(event_id)
    except JournalMissing:
        statuses = ()
    if not statuses:
        bucket, path = opened.settings.bucket, opened.settings.journal.path
        raise NotFound(
            f"{event_id} is neither a scope in {bucket} nor an event in the journal {path}"
        )
    views = [event_view(event) for event in statuses]
    opened.printer.data({"events": views}, _event_lines(views))


def _event_lines(views: Iterable[View]) -> Iterator[str]:
    for view in views:
        progress = "settled" if view["settled_at"] else "waiting"
        yield from pairs(
            [
                ("event", view["id"]),
                ("source", view["source"]),
                ("type", view["type"]),
                ("position", view["position"]),
            ]
        )
        yield from pairs([("accepted", view["accepted_at"]), ("status", progress)])
        rows = [
            (
                lane["scope"],
                lane["outcome"] or "waiting",
                lane["state"],
                lane["attempts"],
                lane["error"] or lane["reason"],
            )
            for lane in view["scopes"]
        ]
        yield from columns(("SCOPE", "OUTCOME", "STATE", "FAILED ATTEMPTS", "REASON"), rows)


def _waiting_attention(view: View, waiting: View, now: datetime) -> Iterator[str]:
    reported = (view["error"], view["live_tree_error"])
    for lane in waiting.get("lanes", ()):
        if lane["scope"] == view["scope"] and (problem := _lane_problem(lane, now, reported)):
            yield problem


def _lane_problem(lane: View, now: datetime, reported: Iterable[str | None] = ()) -> str | None:
    """Why the events of a lane wait; None if they do not wait for long.

    The error of a failing lane is left out if it is in `reported`.
    """
    events = counted(lane["waiting"], "event")
    if not lane["error"]:
        if not _waits_long(lane["oldest"], now):
            return None
        have = "has waited for" if lane["waiting"] == 1 else "have waited for up to"
        return f"{events} {have} {age(lane['oldest'], now)}: {_IS_RUNNING}"
    attempts = counted(lane["attempts"], "failed attempt")
    backlog = f"{events} waiting since {lane['oldest']}, {attempts}"
    if any(error and error in lane["error"] for error in reported):
        return backlog
    return f"{backlog}: {lane['error']}"


def _waits_long(since: str | None, now: datetime) -> bool:
    return since is not None and (seconds_since(since, now) or 0) > _LONG_WAIT


def _needs_attention(document: View, now: datetime) -> list[tuple[str, str]]:
    """The conditions that need attention, each with its place; every error is listed once."""
    journal = document["journal"]
    needs = [(view["scope"], why) for view in document["scopes"] for why in view["attention"]]
    needs += [
        (f"{name}/", f"its scopes cannot be listed: {why}")
        for name, why in document["unreadable_folders"].items()
    ]
    shown = {view["scope"] for view in document["scopes"]}
    needs += [
        (lane["scope"], problem)
        for lane in journal.get("lanes", ())
        if lane["scope"] not in shown and (problem := _lane_problem(lane, now))
    ]
    if (undispatched := journal.get("undispatched")) and _waits_long(journal["oldest"], now):
        events = counted(undispatched, "accepted event")
        needs.append(("journal", f"{events} not assigned to a scope yet: {_IS_RUNNING}"))
    if journal["error"]:
        needs.append(("journal", journal["error"]))
    if wrong := journal.get("wrong_bucket"):
        needs.append(("bucket", wrong))
    if letters := journal.get("dead_letters"):
        open_letters = counted(letters, "dead letter")
        needs.append(("journal", f"{open_letters}: `rebundle dead-letters list`"))
    return needs


def _lines(document: View, opened: Session, *, detailed: bool) -> Iterator[str]:
    printer = opened.printer
    conditions = [
        f"{plain(scope)}: {plain(why)}" for scope, why in _needs_attention(document, opened.now)
    ]
    if printer.quiet:
        yield from conditions
        return
    rows = [_row(view, opened) for view in document["scopes"]]
    yield from columns(
        ("SCOPE", "LIVE", "DESIRED", "HOLD", "LIVE TREE", "OVERRIDES", "QUARANTINED"), rows
    )
    if detailed:
        for view in document["scopes"]:
            yield from _quarantined(view)
            yield from _files(view)
            yield from _not_pinned(view)
    yield from _journal_lines(document["journal"], opened)
    yield ""
    if not conditions and document["journal"]["path"] is None:
        yield printer.good("nothing in the bucket needs attention; events were not checked")
        return
    if not conditions:
        yield printer.good("nothing needs attention")
        return
    yield printer.bad("needs attention")
    yield from (f"  {line}" for line in conditions)


def _row(view: View, opened: Session) -> tuple[Any, ...]:
    tree = view["live_tree"]
    if view["error"]:
        return (view["scope"], "unreadable", None, None, None, None, None)
    # The marker is not signed, and this command does not read the files; `verify` does.
    in_sync = "synced" if opened.trust is None else "marked synced"
    behind = "blocked" if tree and tree["blocked"] else "behind"
    tree_status = None if tree is None else (in_sync if tree["synced"] else behind)
    if view["live_tree_error"]:
        tree_status = "not compared"
    overrides = len(tree["overrides"]) if tree else None
    held = (
        f"{age(view['hold']['at'], opened.now)} by {view['hold']['by']}" if view["hold"] else None
    )
    return (
        view["scope"],
        _named(view["live"]) or ("nothing" if view["hold"] else "retired"),
        _named(view["desired"]),
        held,
        tree_status,
        overrides,
        len(view["quarantined"]) or None,
    )


def _named(publication: View | None) -> str | None:
    return f"{publication['state']} ({publication['revision']})" if publication else None


def _quarantined(view: View) -> Iterator[str]:
    for entry in view["quarantined"]:
        by, reason = plain(entry["by"]), plain(entry["reason"])
        digest = entry["composition"][:12]
        yield (
            f"  composition {digest} is quarantined by {by}: {reason}; `rebundle quarantine "
            f"{view['scope']} {digest} --lift --reason '…'` lifts that"
        )


def _files(view: View) -> Iterator[str]:
    tree = view["live_tree"] or {}
    unread = {entry["path"]: entry["reason"] for entry in tree.get("unread_overrides", ())}
    for key, note in (
        ("overrides", "operator's override, not changed"),
        ("deleted_by_operator", "deleted by an operator, stays deleted"),
        ("pending", "will be written in the next pass"),
        ("foreign", "edited by hand in base/"),
        ("strays", "not written by Rebundle"),
    ):
        paths = (path for path in tree.get(key, ()) if path not in unread)
        yield from (f"  {plain(path)}: {note}" for path in paths)
    for path, reason in unread.items():
        yield f"  {plain(path)}: not read, so it counts as an operator's override: {plain(reason)}"
    for number, blocked in enumerate(tree.get("blocked", ())):
        seen = f" in the pass of {blocked['seen_at']}" if blocked["seen_at"] else ""
        reason = plain(blocked["reason"]) if number else "see below"  # what needs attention has it
        yield f"  {plain(blocked['path'])}: blocked{seen}: {reason}"


def _not_pinned(view: View) -> Iterator[str]:
    if items := view.get("movable"):
        yield (
            f"  images and artifacts that are not pinned by a digest: {len(items)}; "
            f"`rebundle show {view['scope']}` lists them"
        )


def _journal_lines(waiting: View, opened: Session) -> Iterator[str]:
    yield ""
    if waiting["path"] is None:
        path = plain(str(opened.settings.journal.path))
        yield (
            f"no journal at {path}: waiting events are not shown (--journal PATH names the "
            "daemon's journal)"
        )
        return
    if waiting["error"]:
        yield opened.printer.bad(f"journal {plain(waiting['path'])} cannot be read")
        return
    oldest = f", the oldest for {age(waiting['oldest'], opened.now)}" if waiting["oldest"] else ""
    events = counted(waiting["events"], "event")
    yield f"journal {plain(waiting['path'])}: {events} waiting{oldest}"
    if waiting["rejected"]:
        yield f"  {waiting['rejected']} rejected: `rebundle dead-letters list --rejected`"
    rows = [
        (lane["scope"], lane["waiting"], age(lane["oldest"], opened.now), lane["attempts"])
        for lane in waiting["lanes"]
    ]
    if rows:
        yield from columns(("SCOPE", "WAITING", "OLDEST", "FAILED ATTEMPTS"), rows)
