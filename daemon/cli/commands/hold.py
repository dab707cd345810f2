"""`rebundle hold` and `rebundle resume`: keep the live state, and follow the desired one again."""

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
    OptionalReason,
    Place,
    Printing,
    Reason,
    Wait,
)
from daemon.cli.output import confirm
from daemon.cli.pointer_changes import act, act_and_wait, print_change
from daemon.cli.session import scope_of, session
from daemon.exit_codes import DONE
from daemon.publishing import operator_commands, protocol


async def hold(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: Reason,
    dry_run: DryRun = False,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Keep the live state; new states are published and wait."""
    async with session(place, printing) as opened:
        await act(
            opened,
            scope_of(scope),
            protocol.hold,
            name="hold",
            actor=actor,
            reason=reason,
            dry_run=dry_run,
        )


async def resume(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: OptionalReason = "",
    yes: Annotated[
        bool, Parameter(alias="-y", negative=(), help="Do not ask for confirmation.")
    ] = False,
    dry_run: DryRun = False,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Show the difference, ask, make the desired state live and follow it again."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        planned = await opened.bucket.operations.preview(named, protocol.resume, actor.name, reason)
        opened.printer.say(await impact_of(opened, named, planned))
        if dry_run:
            print_change(opened.printer, "resume", planned, dry_run=True)
            return DONE
        if planned.changed:
            confirm(f"Resume {scope}?", yes=yes, printer=opened.printer)
        # Without --yes, the confirmation covers the difference that was shown.
        return await act_and_wait(
            opened,
            named,
            protocol.resume if yes else operator_commands.resume(planned.after.desired),
            name="resume",
            actor=actor,
            reason=reason,
            wait=wait,
            previewed=planned,
        )
