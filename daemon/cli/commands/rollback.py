"""`rebundle rollback`: an earlier state becomes live, and stays so."""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.changes import act_and_wait, preview, tell
from daemon.cli.codes import DONE
from daemon.cli.impact import impact_of
from daemon.cli.options import (
    DEFAULT_ACTOR,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    WAIT_SECONDS,
    Actor,
    DryRun,
    Place,
    Printing,
    Reason,
    Wait,
)
from daemon.cli.output import confirm
from daemon.cli.selection import full_name
from daemon.cli.session import scope_of, session
from daemon.publishing import operator_commands


async def rollback(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    state: Annotated[
        str,
        Parameter(help="Retained state: its id, STATE@ATTEMPT or, where you are asked, a unique beginning of the id."),
    ],
    /,
    *,
    reason: Reason,
    yes: Annotated[bool, Parameter(alias="-y", negative=(), help="Do not ask.")] = False,
    dry_run: DryRun = False,
    discard_newer: Annotated[
        bool, Parameter(negative=(), help="Drop what is desired for the state, too, and hold nothing.")
    ] = False,
    expected_live: Annotated[
        str | None, Parameter(help="Refuse if another state is live by the time the change is made.")
    ] = None,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Show the difference, ask, then make an earlier state live and hold it there.

    With --yes the state has to be named in full: nobody would see which one a beginning was taken for.
    """
    async with session(place, printing) as opened:
        named = scope_of(scope)
        if not yes:
            state = full_name((await opened.bucket.reader.existing(named)).pointer, state)
        verb = operator_commands.rollback(state, discard_newer=discard_newer, expected_live=expected_live)
        planned = await preview(opened, named, verb, actor=actor, reason=reason)
        opened.printer.say(await impact_of(opened, named, planned))
        if discard_newer:
            opened.printer.warn("an event that is still waiting folds onto this state, and goes live: nothing is held")
        if dry_run:
            tell(opened.printer, "rollback", planned, dry_run=True)
            return DONE
        if planned.changed:
            confirm(f"Roll {scope} back to {state}?", yes=yes, printer=opened.printer)
        if not yes and planned.before.live is not None:
            # What was agreed to is the difference that was shown.
            expected = expected_live or planned.before.live.state
            verb = operator_commands.rollback(state, discard_newer=discard_newer, expected_live=expected)
        return await act_and_wait(opened, named, verb, name="rollback", actor=actor, reason=reason, wait=wait)
