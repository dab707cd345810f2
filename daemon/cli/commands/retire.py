"""`rebundle retire`: stops serving a scope."""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.options import (
    DEFAULT_ACTOR,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    Actor,
    DryRun,
    Place,
    Printing,
    Reason,
)
from daemon.cli.output import confirm
from daemon.cli.pointer_changes import act
from daemon.cli.session import scope_of, session
from daemon.exit_codes import DONE
from daemon.publishing import protocol


async def retire(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: Reason,
    dry_run: DryRun = False,
    yes: Annotated[
        bool, Parameter(alias="-y", negative=(), help="Do not ask for confirmation.")
    ] = False,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Leave the scope without a live and a desired state; nothing is deleted."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        planned = await opened.bucket.operations.preview(named, protocol.retire, actor.name, reason)
        if planned.changed:
            opened.printer.say(
                f"{scope} will have no live and no desired state. Its states and its live tree "
                "stay in the bucket; a later bundle_state.created event makes it active again."
            )
        if planned.changed and not dry_run:
            confirm(f"Retire {scope}?", yes=yes, printer=opened.printer)
        await act(
            opened,
            named,
            protocol.retire,
            name="retire",
            actor=actor,
            reason=reason,
            dry_run=dry_run,
            previewed=planned,
        )
        return DONE
