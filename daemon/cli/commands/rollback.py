"""`rebundle rollback`: makes an earlier state live and holds it."""

from typing import Annotated

from cyclopts import Parameter

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
from daemon.cli.pointer_changes import act_and_wait, print_change
from daemon.cli.selection import full_name
from daemon.cli.session import scope_of, session
from daemon.exit_codes import DONE
from daemon.publishing import operator_commands


async def rollback(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    state: Annotated[
        str,
        Parameter(
            help="Retained state: its id or STATE@ATTEMPT; without --yes also a unique prefix "
            "of the id."
        ),
    ],
    /,
    *,
    reason: Reason,
    yes: Annotated[
        bool, Parameter(alias="-y", negative=(), help="Do not ask for confirmation.")
    ] = False,
    dry_run: DryRun = False,
    discard_newer: Annotated[
        bool,
        Parameter(
            negative=(), help="Make the state desired as well as live, and do not hold the scope."
        ),
    ] = False,
    expected_live: Annotated[
        str | None, Parameter(help="Refuse if another state is live when the change is made.")
    ] = None,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Show the difference, ask for confirmation, then make an earlier state live and hold it.

    With --yes the full name of the state is required, because the operator would not see which
    state a prefix was resolved to.
    """
    async with session(place, printing) as opened:
        named = scope_of(scope)
        if not yes:
            state = full_name((await opened.bucket.reader.existing(named)).pointer, state)
        command = operator_commands.rollback(
            state, discard_newer=discard_newer, expected_live=expected_live
        )
        planned = await opened.bucket.operations.preview(named, command, actor.name, reason)
        opened.printer.say(await impact_of(opened, named, planned))
        if discard_newer:
            opened.printer.warn(
                "events that are still waiting apply to this state and become live, because "
                "nothing is held"
            )
        if dry_run:
            print_change(opened.printer, "rollback", planned, dry_run=True)
            return DONE
        if planned.changed:
            confirm(f"Roll {scope} back to {state}?", yes=yes, printer=opened.printer)
        if not yes and planned.before.live is not None:
            # The confirmation covers the difference that was shown, from this live state.
            expected = expected_live or planned.before.live.state
            command = operator_commands.rollback(
                state, discard_newer=discard_newer, expected_live=expected
            )
        return await act_and_wait(
            opened,
            named,
            command,
            name="rollback",
            actor=actor,
            reason=reason,
            wait=wait,
            previewed=planned,
        )
