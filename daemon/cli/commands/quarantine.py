"""`rebundle quarantine`: rejects a composition, which cannot become live until that is lifted.

The rejection applies to every state with this composition, whatever its id.
"""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.failures import UsageError
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
from daemon.cli.pointer_changes import act, act_and_wait
from daemon.cli.selection import EXACT_STATE
from daemon.cli.session import scope_of, session
from daemon.exit_codes import DONE
from daemon.publishing import operator_commands


async def quarantine(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    state: Annotated[
        str,
        Parameter(help=f"{EXACT_STATE} With --lift, also the first 12 digits of the composition."),
    ],
    /,
    *,
    reason: Reason,
    lift: Annotated[
        bool, Parameter(negative=(), help="Accept the composition again; `resume` makes it live.")
    ] = False,
    rollback_to: Annotated[
        str | None,
        Parameter(
            help="Full id of the state to roll back to and hold. Required if the composition "
            "is live."
        ),
    ] = None,
    yes: Annotated[
        bool,
        Parameter(
            alias="-y",
            negative=(),
            help="Do not ask for confirmation, which is needed if the live state changes.",
        ),
    ] = False,
    dry_run: DryRun = False,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Reject the composition of a state, or accept it again."""
    if lift and rollback_to is not None:
        raise UsageError("--rollback-to and --lift exclude each other: omit one of them")
    if lift:
        command = operator_commands.lift_quarantine(state)
    else:
        command = operator_commands.quarantine(state, rollback_to=rollback_to)
    name = "quarantine lifted" if lift else "quarantine"
    named = scope_of(scope)
    async with session(place, printing) as opened:
        planned = await opened.bucket.operations.preview(named, command, actor.name, reason)
        if rollback_to is not None:
            opened.printer.say(await impact_of(opened, named, planned))
        changes_live = planned.before.live != planned.after.live
        question = f"Quarantine {state} and roll {scope} back?"
        if changes_live and not dry_run:
            confirm(question, yes=yes, printer=opened.printer)
        if rollback_to is not None and not dry_run:
            return await act_and_wait(
                opened,
                named,
                command,
                name=name,
                actor=actor,
                reason=reason,
                wait=wait,
                previewed=planned,
            )
        await act(
            opened,
            named,
            command,
            name=name,
            actor=actor,
            reason=reason,
            dry_run=dry_run,
            previewed=planned,
        )
        return DONE
