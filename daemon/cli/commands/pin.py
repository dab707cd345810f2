"""`rebundle pin`: protects a publication from retention."""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.options import (
    DEFAULT_ACTOR,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    Actor,
    DryRun,
    OptionalReason,
    Place,
    Printing,
)
from daemon.cli.pointer_changes import act
from daemon.cli.selection import EXACT_STATE
from daemon.cli.session import scope_of, session
from daemon.publishing import operator_commands


async def pin(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    state: Annotated[str, Parameter(help=EXACT_STATE)],
    /,
    *,
    lift: Annotated[bool, Parameter(negative=(), help="Remove the protection.")] = False,
    reason: OptionalReason = "",
    dry_run: DryRun = False,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Keep a state available for rollback, whatever its age, or remove this protection."""
    async with session(place, printing) as opened:
        command = operator_commands.pin(state, pinned=not lift)
        name = "unpin" if lift else "pin"
        await act(
            opened, scope_of(scope), command, name=name, actor=actor, reason=reason, dry_run=dry_run
        )
