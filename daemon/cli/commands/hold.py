"""`rebundle hold` and `rebundle resume`: keep live where it is, and let it follow desired again."""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.changes import act, act_and_wait, preview, tell
from daemon.cli.codes import DONE
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
from daemon.cli.session import scope_of, session
from daemon.publishing import protocol
from daemon.publishing.errors import OperationRefused
from daemon.publishing.operator_commands import ChangeResult, Verb
from daemon.publishing.pointer import Pointer
from daemon.publishing.protocol import Writing


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
    """Keep what is live; new states are published and wait."""
    async with session(place, printing) as opened:
        await act(opened, scope_of(scope), protocol.hold, name="hold", actor=actor, reason=reason, dry_run=dry_run)


async def resume(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: OptionalReason = "",
    yes: Annotated[bool, Parameter(alias="-y", negative=(), help="Do not ask.")] = False,
    dry_run: DryRun = False,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Show the difference, ask, then make desired live and let live follow it again."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        planned = await preview(opened, named, protocol.resume, actor=actor, reason=reason)
        opened.printer.say(await impact_of(opened, named, planned))
        if dry_run:
            tell(opened.printer, "resume", planned, dry_run=True)
            return DONE
        if planned.changed:
            confirm(f"Resume {scope}?", yes=yes, printer=opened.printer)
        verb = protocol.resume if yes else _resume_to(planned)
        return await act_and_wait(opened, named, verb, name="resume", actor=actor, reason=reason, wait=wait)


def _resume_to(planned: ChangeResult) -> Verb:
    """Refuses if desired has moved on since its difference was shown."""
    agreed = planned.after.desired

    def verb(pointer: Pointer, writing: Writing) -> Pointer | None:
        if (pointer.desired and pointer.desired.id) != (agreed and agreed.id):
            raise OperationRefused("a newer state was published meanwhile: look at the difference again")
        return protocol.resume(pointer, writing)

    return verb
