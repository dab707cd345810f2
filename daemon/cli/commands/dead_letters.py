"""`rebundle dead-letters`: lists, adds, replays and drops events that could not be processed.

It opens the journal beside a running daemon. The daemon notices a replayed event within a second.
"""

import json
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from daemon.cli.formatting import columns, pairs
from daemon.cli.options import (
    DEFAULT_ACTOR,
    DEFAULT_JOURNAL_PLACE,
    DEFAULT_PRINTING,
    SHARED,
    Actor,
    JournalPlace,
    Place,
    Printing,
    Reason,
)
from daemon.cli.output import Printer
from daemon.cli.session import load_settings, opened_journal, printer_of, scope_of
from daemon.inspection.ages import age
from daemon.inspection.documents import to_document
from daemon.inspection.escaping import plain
from daemon.inspection.journal import DeadLetterView, RejectedView
from daemon.lifecycle import SystemRuntime
from daemon.publishing.errors import NotFound
from daemon.publishing.wording import some
from events.errors import NotWaiting
from events.log import DeadLetters
from events.records import DeadLetter, DeadLetterStatus

dead_letters: Final = App(name="dead-letters", help="Manage events that could not be processed.")

_Config = Annotated[Path | None, Parameter(group=SHARED, help="Settings file (TOML).")]
_Id = Annotated[str, Parameter(name="ID", help="Id of the dead letter, as `list` shows it.")]


@dataclass(frozen=True, slots=True)
class _JournalSession:
    source: DeadLetters
    runtime: SystemRuntime
    printer: Printer

    async def letter(self, letter_id: str) -> DeadLetter:
        try:
            return await self.source.dead_letter(letter_id)
        except NotWaiting as error:
            raise NotFound(str(error)) from error


@asynccontextmanager
async def _journal_session(
    journal: JournalPlace, config: Path | None, printing: Printing
) -> AsyncIterator[_JournalSession]:
    loaded = load_settings(Place(config=config), {"journal.path": journal.journal})
    runtime = SystemRuntime()
    try:
        async with opened_journal(loaded, runtime) as opened:
            yield _JournalSession(opened, runtime, printer_of(printing))
    finally:
        runtime.close()


@dead_letters.command(name="list")
async def list_(
    *,
    every: Annotated[
        bool, Parameter(name="--all", negative=(), help="Include closed dead letters.")
    ] = False,
    rejected: Annotated[
        bool, Parameter(negative=(), help="List rejected requests instead, newest first.")
    ] = False,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """List open dead letters, or requests that the intake rejected."""
    async with _journal_session(journal, config, printing) as opened:
        if rejected:
            requests = [RejectedView.of(request) for request in await opened.source.rejected(1000)]
            opened.printer.data({"rejected": requests}, _rejected_lines(requests, opened))
            return
        letters = await opened.source.dead_letters(None if every else DeadLetterStatus.OPEN)
        views = [DeadLetterView.of(letter) for letter in letters]
        rows = [
            (
                view.id,
                view.status,
                view.scope,
                view.event,
                age(view.at, opened.runtime.now()),
                view.reason,
            )
            for view in views
        ]
        header = ("ID", "STATUS", "SCOPE", "EVENT", "AGE", "REASON")
        opened.printer.data({"dead_letters": views}, columns(header, rows))


@dead_letters.command
async def show(
    letter_id: _Id,
    /,
    *,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Show one dead letter with its event."""
    async with _journal_session(journal, config, printing) as opened:
        letter = await opened.letter(letter_id)
        event = json.loads(letter.event.structured()) if letter.event else None
        view = to_document(DeadLetterView.of(letter))
        lines = _letter_lines(view, event)
        opened.printer.data({**view, "body": event}, lines, _body_lines(event))


@dead_letters.command
async def add(
    event: Annotated[
        str, Parameter(help="Id of an event that is stuck in its lane, or its position (@OFFSET).")
    ],
    /,
    *,
    reason: Reason,
    scope: Annotated[
        str | None, Parameter(help="Only in this scope. Default: every scope in which it waits.")
    ] = None,
    actor: Actor = DEFAULT_ACTOR,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Move a stuck event from its lane to the dead letters."""
    named = None if scope is None else str(scope_of(scope))
    async with _journal_session(journal, config, printing) as opened:
        taken = await opened.source.take_out(event, named, reason=reason, by=actor.name)
        views = [DeadLetterView.of(letter) for letter in taken]
        lines = [f"{view.event} is now dead letter {view.id} of {view.scope}" for view in views]
        opened.printer.data({"dead_letters": views}, map(plain, lines))


@dead_letters.command
async def replay(
    letter_id: _Id,
    /,
    *,
    actor: Actor = DEFAULT_ACTOR,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Append the event of a dead letter to the lane of its scope."""
    async with _journal_session(journal, config, printing) as opened:
        letter = await opened.letter(letter_id)
        position = await opened.source.replay(letter_id, by=actor.name)
        view = {
            "id": letter_id,
            "scope": letter.scope,
            "position": str(position),
        }
        look = f"`rebundle status {shlex.quote(letter.event_id or '')}`"
        line = f"{letter.event_id} is queued again in {letter.scope}; {look} shows its progress"
        opened.printer.data(view, [plain(line)])


@dead_letters.command
async def drop(
    letter_id: _Id,
    /,
    *,
    reason: Reason,
    actor: Actor = DEFAULT_ACTOR,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Close a dead letter without processing its event."""
    async with _journal_session(journal, config, printing) as opened:
        await opened.letter(letter_id)
        await opened.source.drop(letter_id, by=actor.name, reason=reason)
        view = DeadLetterView.of(await opened.letter(letter_id))
        opened.printer.data(view, [plain(f"dead letter {view.id} ({view.event}) is dropped")])


def _letter_lines(view: Mapping[str, Any], event: object) -> Iterator[str]:
    yield from pairs(view.items())
    yield ""
    if event is None:
        yield "the event itself is no longer stored, or is damaged in the journal"


def _body_lines(body: object) -> Sequence[str]:
    return () if body is None else json.dumps(body, indent=2).splitlines()


def _rejected_lines(views: list[RejectedView], opened: _JournalSession) -> Iterator[str]:
    for view in views:
        ago = age(view.at, opened.runtime.now())
        named = f", {some(view.events)}" if view.events else ""
        yield plain(
            f"rejected {view.number}: {ago} ago, from {view.intake}, {view.size} bytes{named}"
        )
        for problem in view.problems:
            yield plain(f"  {problem}")
