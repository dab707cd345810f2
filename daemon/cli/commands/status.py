"""`rebundle status`: shows what is live, what is waiting, and what needs attention.

For an event it shows the outcome in each scope. The journal is read if its file exists on this
machine; otherwise only the bucket is shown.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from daemon import failures
from daemon.cli.formatting import columns, pairs
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
from daemon.exit_codes import BACKEND, DONE, FAILED
from daemon.inspection.ages import age
from daemon.inspection.escaping import plain
from daemon.inspection.journal import (
    NOWHERE,
    BacklogView,
    EventReport,
    JournalView,
    NoJournal,
    UnreadableJournal,
)
from daemon.inspection.live_tree import LiveTreeView
from daemon.inspection.manifests import movable_in
from daemon.inspection.scopes import PointerView, PublicationView
from daemon.inspection.status import (
    BucketStatus,
    Journal,
    MovableInLive,
    ScopeCondition,
    ScopeStatus,
)
from daemon.publishing import bucket_identity
from daemon.publishing.errors import NotFound, PublishingError
from daemon.publishing.wording import counted
from daemon.stores.errors import StoreError
from events.errors import EventError, JournalMissing
from events.records import DeadLetterStatus
from renderers.values import Scope


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
        found = await opened.bucket.reader.scopes()
        # A shell completes the folder of a scope to BUNDLE/TARGET/.
        named = None if what is None else what.removesuffix("/")
        chosen = [scope for scope in found if named in {None, str(scope)}]
        read = await asyncio.gather(*(scope_condition(opened, scope) for scope in chosen))
        conditions = [condition for condition in read if condition is not None]
        waiting, journal_code = await _journal(opened, named)
        # Events may wait for a scope that the bucket does not have, or does not show.
        has_lanes = isinstance(waiting, JournalView) and waiting.backlog.lanes
        if what is not None and not conditions and not has_lanes:
            await _print_event(opened, what)
            return DONE
        live_state = None if named is None else await _live_state(opened, Scope.parse(named))
        shown = BucketStatus(
            bucket=opened.settings.bucket,
            scopes=tuple(
                ScopeStatus.of(condition, live_state, waiting, opened.now)
                for condition in conditions
            ),
            # Folders of other bundles are irrelevant if one scope is requested.
            unreadable_folders=dict(found.unreadable) if named is None else {},
            journal=waiting,
        )
        opened.printer.data(shown, _lines(shown, opened, detailed=named is not None))
        code = gravest(condition.scope for condition in conditions)
        code = max(code, journal_code, BACKEND if shown.unreadable_folders else DONE)
        return code or (FAILED if exit_code and shown.attention(opened.now) else DONE)


async def scope_condition(opened: Session, scope: Scope) -> ScopeCondition | None:
    """The pointer of a scope and the state of its live tree; None if nothing is published there.

    An error of the live tree is added to the result and does not hide the pointer.
    """
    view = await pointer_or_error(opened, scope)
    if view is None:
        return None
    if view.pointer.live is None:
        return ScopeCondition(view, live_tree=None, live_tree_error=None)
    try:
        survey = await opened.bucket.live_tree.survey(scope)
    except Exception as error:  # noqa: BLE001  # an unexpected error affects this scope only
        message, code = opened.failure_of(scope, error)
    else:
        return ScopeCondition(view, LiveTreeView.of(survey), live_tree_error=None)
    return ScopeCondition(replace(view, exit_code=code), None, message)


async def _live_state(opened: Session, scope: Scope) -> MovableInLive:
    """The live state's images and artifacts without a digest."""
    try:
        live = (await opened.bucket.reader.existing(scope)).pointer.live
        if live is None:
            return MovableInLive(())
        return MovableInLive(movable_in(await opened.bucket.reader.manifest(scope, live)))
    except (PublishingError, StoreError):
        return MovableInLive(None)


async def _journal(opened: Session, scope: str | None) -> tuple[Journal, int]:
    """The waiting events and dead letters of the journal, and the exit code.

    `scope`: those of one scope only.
    """
    path = str(opened.settings.journal.path)
    try:
        async with opened_journal(opened.settings, opened.runtime) as journal:
            read = await journal.backlog()
            if scope is None:
                backlog = BacklogView.of(read)
            else:
                letters = await journal.dead_letters(DeadLetterStatus.OPEN)
                backlog = BacklogView.of_scope(read, scope, letters)
            wrong = await bucket_identity.refusal(opened.bucket.store, journal)
            return JournalView(path, wrong, backlog), DONE
    except JournalMissing:
        return NoJournal(), DONE
    except EventError as error:
        return UnreadableJournal(path, str(error)), failures.exit_code(error)


async def _print_event(opened: Session, event_id: str) -> None:
    try:
        async with opened_journal(opened.settings, opened.runtime) as journal:
            statuses = await journal.find(event_id)
    except JournalMissing:
        statuses = ()
    if not statuses:
        bucket, path = opened.settings.bucket, opened.settings.journal.path
        raise NotFound(
            f"{event_id} is neither a scope in {bucket} nor an event in the journal {path}; "
            "`rebundle dead-letters list --rejected` lists the requests that were refused"
        )
    reports = [EventReport.of(event) for event in statuses]
    opened.printer.data({"events": reports}, _event_lines(reports))


def _event_lines(reports: Iterable[EventReport]) -> Iterator[str]:
    for report in reports:
        progress = "acknowledged" if report.acknowledged_at else "waiting"
        yield from pairs(
            [
                ("event", report.id),
                ("source", report.source),
                ("type", report.type),
                ("position", report.position),
                ("accepted", report.accepted_at),
                ("status", progress),
                *([("replay of", report.replay_of)] if report.replay_of else []),
            ]
        )
        rows = [
            (
                lane.scope,
                lane.outcome or "waiting",
                lane.state,
                lane.dead_letter,
                lane.failed_tries,
                f"the last try failed: {lane.error}"
                if lane.error and lane.failed_tries
                else lane.error or lane.reason,
            )
            for lane in report.scopes
        ]
        if rows or not report.acknowledged_at:
            header = ("SCOPE", "OUTCOME", "STATE", "DEAD LETTER", "FAILED TRIES", "REASON")
            yield from columns(header, rows)
        else:
            yield f"{NOWHERE}: `rebundle show SCOPE` lists the models of a scope"


def _lines(status: BucketStatus, opened: Session, *, detailed: bool) -> Iterator[str]:
    printer = opened.printer
    conditions = [f"{plain(place)}: {plain(why)}" for place, why in status.attention(opened.now)]
    if printer.quiet:
        yield from conditions
        return
    rows = [_row(scope.condition, opened) for scope in status.scopes]
    yield from columns(
        ("SCOPE", "LIVE", "DESIRED", "HOLD", "LIVE TREE", "OVERRIDES", "QUARANTINED"), rows
    )
    if detailed:
        for scope in status.scopes:
            yield from _quarantined(scope.condition.pointer)
            yield from _files(scope.condition.live_tree)
            yield from _not_pinned(scope.condition.pointer.scope, scope.live_state)
    yield ""
    yield from _journal_lines(status.journal, opened)
    yield ""
    if not conditions and isinstance(status.journal, NoJournal):
        yield printer.good("nothing in the bucket needs attention; events were not checked")
        return
    if not conditions:
        yield printer.good("nothing needs attention")
        return
    yield printer.bad("needs attention")
    yield from (f"  {line}" for line in conditions)


def _row(condition: ScopeCondition, opened: Session) -> tuple[object, ...]:
    pointer, tree = condition.pointer, condition.live_tree
    if condition.scope.error:
        return (pointer.scope, "unreadable", None, None, None, None, None)
    hold = pointer.hold
    return (
        pointer.scope,
        _named(pointer.live) or ("nothing" if hold else "retired"),
        _named(pointer.desired),
        f"{age(hold.at, opened.now)} by {hold.by}" if hold else None,
        "not compared" if condition.live_tree_error else _tree_status(tree, opened),
        len(tree.overrides) if tree else None,
        len(pointer.quarantined) or None,
    )


def _tree_status(tree: LiveTreeView | None, opened: Session) -> str | None:
    if tree is None:
        return None
    if tree.synced:
        # The marker is not signed, and this command does not read the files; `verify` does.
        return "synced" if opened.trust is None else "marked synced"
    return "blocked" if tree.blocked else "behind"


def _named(publication: PublicationView | None) -> str | None:
    return f"{publication.state} ({publication.revision})" if publication else None


def _quarantined(pointer: PointerView) -> Iterator[str]:
    for entry in pointer.quarantined:
        by, reason = plain(entry.by), plain(entry.reason)
        digest = entry.composition[:12]
        yield (
            f"  composition {digest} is quarantined by {by}: {reason}; `rebundle quarantine "
            f"{pointer.scope} {digest} --lift --reason '…'` lifts that"
        )


def _files(tree: LiveTreeView | None) -> Iterator[str]:
    if tree is None:
        return
    unread = {override.path for override in tree.unread_overrides}
    for paths, note in (
        (tree.overrides, "operator's override, not changed"),
        (tree.deleted_by_operator, "deleted by an operator, stays deleted"),
        (tree.pending, "will be written in the next pass"),
        (tree.foreign, "edited by hand in base/"),
        (tree.strays, "not written by Rebundle"),
    ):
        yield from (f"  {plain(path)}: {note}" for path in paths if path not in unread)
    for override in tree.unread_overrides:
        note = f"not read, so it counts as an operator's override: {plain(override.reason)}"
        yield f"  {plain(override.path)}: {note}"
    for number, blocked in enumerate(tree.blocked):
        seen = f" in the pass of {blocked.seen_at}" if blocked.seen_at else ""
        reason = plain(blocked.reason) if number else "see below"  # what needs attention has it
        yield f"  {plain(blocked.path)}: blocked{seen}: {reason}"


def _not_pinned(scope: str, live: MovableInLive | None) -> Iterator[str]:
    if live is not None and live.movable:
        yield (
            f"  images and artifacts that are not pinned by a digest: {len(live.movable)}; "
            f"`rebundle show {scope}` lists them"
        )


def _journal_lines(journal: Journal, opened: Session) -> Iterator[str]:
    match journal:
        case NoJournal():
            path = plain(str(opened.settings.journal.path))
            yield (
                f"no journal at {path}: waiting events are not shown (--journal PATH names the "
                "daemon's journal)"
            )
        case UnreadableJournal():
            yield opened.printer.bad(f"journal {plain(journal.path)} cannot be read")
        case JournalView():
            yield from _backlog_lines(journal, opened)


def _backlog_lines(journal: JournalView, opened: Session) -> Iterator[str]:
    backlog = journal.backlog
    oldest = f", the oldest for {age(backlog.oldest, opened.now)}" if backlog.oldest else ""
    events = counted(backlog.events, "event")
    yield f"journal {plain(journal.path)}: {events} waiting{oldest}"
    if backlog.rejected:
        yield f"  {backlog.rejected} rejected: `rebundle dead-letters list --rejected`"
    rows = [
        (lane.scope, lane.waiting, age(lane.oldest, opened.now), lane.failed_tries)
        for lane in backlog.lanes
    ]
    if rows:
        yield from columns(("SCOPE", "WAITING", "OLDEST", "FAILED TRIES"), rows)
