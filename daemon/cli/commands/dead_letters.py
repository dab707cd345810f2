"""`rebundle dead-letters`: events that could not be folded, and those that are stuck. Opens the journal beside a
daemon, which sees what is replayed here within a second.
"""

import json
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon.cli.formatting import age, columns, pairs
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
from daemon.inspection.escaping import plain
from daemon.inspection.views import View, dead_letter_view, rejected_view
from daemon.lifecycle import SystemRuntime
from daemon.publishing.errors import NotFound
from events.errors import NotWaiting
from events.journal import DeadLetter, DeadLetterStatus, Journal

dead_letters: Final = App(name="dead-letters", help="Events that could not be folded, and those that are stuck.")

_Config = Annotated[Path | None, Parameter(group=SHARED, help="Settings file (TOML).")]
_Number = Annotated[int, Parameter(help="The dead letter's number, as `list` shows it.")]


@dataclass(frozen=True, slots=True)
class _Desk:
    journal: Journal
    runtime: SystemRuntime
    printer: Printer

    async def letter(self, number: int) -> DeadLetter:
        try:
            return await self.journal.dead_letter(number)
        except NotWaiting as error:
            raise NotFound(str(error)) from error


@asynccontextmanager
async def _desk(journal: JournalPlace, config: Path | None, printing: Printing) -> AsyncIterator[_Desk]:
    loaded = load_settings(Place(config=config), {"journal.path": journal.journal})
    runtime = SystemRuntime()
    try:
        async with opened_journal(loaded, runtime) as opened:
            yield _Desk(opened, runtime, printer_of(printing))
    finally:
        runtime.close()


@dead_letters.command(name="list")
async def list_(
    *,
    every: Annotated[bool, Parameter(name="--all", negative=(), help="Closed ones, too.")] = False,
    rejected: Annotated[bool, Parameter(negative=(), help="What was not accepted instead, the newest first.")] = False,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """List open dead letters, or what was rejected at the door."""
    async with _desk(journal, config, printing) as desk:
        if rejected:
            views = [rejected_view(each) for each in await desk.journal.rejected(1000)]
            desk.printer.data({"rejected": views}, _rejected_lines(views, desk))
            return
        found = await desk.journal.dead_letters(None if every else DeadLetterStatus.OPEN)
        letters = [dead_letter_view(letter) for letter in found]
        rows = [
            (v["number"], v["status"], v["scope"], v["event"], age(v["at"], desk.runtime.now()), v["reason"])
            for v in letters
        ]
        header = ("NUMBER", "STATUS", "SCOPE", "EVENT", "AGE", "REASON")
        desk.printer.data({"dead_letters": letters}, columns(header, rows))


@dead_letters.command
async def show(
    number: _Number,
    /,
    *,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Show one dead letter with its event."""
    async with _desk(journal, config, printing) as desk:
        letter = await desk.letter(number)
        event = json.loads(letter.event.structured()) if letter.event else None
        view = {**dead_letter_view(letter), "body": event}
        desk.printer.data(view, _letter_lines(view))


@dead_letters.command
async def add(
    event: Annotated[str, Parameter(help="Id of an event that is stuck in its lane, or its position (@NUMBER).")],
    /,
    *,
    reason: Reason,
    scope: Annotated[str | None, Parameter(help="Only in this scope; else in all it waits in.")] = None,
    actor: Actor = DEFAULT_ACTOR,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Take a stuck event out of its lane."""
    named = None if scope is None else str(scope_of(scope))
    async with _desk(journal, config, printing) as desk:
        taken = await desk.journal.take_out(_event(event), named, reason=reason, by=actor.name)
        views = [dead_letter_view(letter) for letter in taken]
        told = [f"{v['event']} is dead letter {v['number']} of {v['scope']} now" for v in views]
        desk.printer.data({"dead_letters": views}, map(plain, told))


@dead_letters.command
async def replay(
    number: _Number,
    /,
    *,
    actor: Actor = DEFAULT_ACTOR,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Put a dead letter's event behind everything that waits, for its one scope."""
    async with _desk(journal, config, printing) as desk:
        letter = await desk.letter(number)
        position = await desk.journal.replay(number, by=actor.name)
        view = {"number": number, "scope": letter.scope, "position": f"{position.instance}@{position.offset}"}
        look = f"`rebundle status {shlex.quote(letter.event_id)}`"
        line = f"{letter.event_id} waits again in {letter.scope}; {look} shows what becomes of it"
        desk.printer.data(view, [plain(line)])


@dead_letters.command
async def drop(
    number: _Number,
    /,
    *,
    reason: Reason,
    actor: Actor = DEFAULT_ACTOR,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    config: _Config = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Give a dead letter up."""
    async with _desk(journal, config, printing) as desk:
        await desk.letter(number)
        await desk.journal.drop(number, by=actor.name, reason=reason)
        view = dead_letter_view(await desk.letter(number))
        desk.printer.data(view, [plain(f"dead letter {number} ({view['event']}) is dropped")])


def _event(text: str) -> int | str:
    """An event's position, as `status` shows it or from its @ on; any other text is an id, also one of digits."""
    instance, at, offset = text.rpartition("@")
    named = at and offset.isascii() and offset.isdigit() and (not instance or instance.startswith("journal:"))
    return int(offset) if named else text


def _letter_lines(view: View) -> Iterator[str]:
    yield from pairs([(name, value) for name, value in view.items() if name != "body"])
    yield ""
    if view["body"] is None:
        yield "the event itself is no longer kept, or is damaged in the journal"
    else:
        yield from json.dumps(view["body"], indent=2).splitlines()


def _rejected_lines(views: list[View], desk: _Desk) -> Iterator[str]:
    for view in views:
        seen = age(view["at"], desk.runtime.now())
        yield plain(f"rejected {view['number']}: {seen} ago, from {view['intake']}, {view['size']} bytes")
        for problem in view["problems"]:
            found = f" (found {problem['found']})" if problem["found"] else ""
            yield plain(f"  {problem['path']}: {problem['expected']}{found}")
