"""Describes the effect of a change of what is live, before the change is made.

An unreadable live state does not prevent a change away from it.
"""

from daemon.cli.session import Session
from daemon.inspection.ages import age
from daemon.inspection.comparison import compare
from daemon.publishing.errors import PublishingError
from daemon.publishing.operator_commands import ChangeResult
from renderers.values import Scope


async def impact_of(opened: Session, scope: Scope, planned: ChangeResult) -> str:
    """The difference between the live state and its replacement, and the age of the latter.

    Raises:
        NotFound, VerificationFailed: the replacement is missing or damaged.
    """
    before, target = planned.before.live, planned.after.live
    if target is None and before is None and planned.after.desired is None:
        return (
            f"{scope} is retired: `rebundle rollback {scope} STATE --reason '…'` or a "
            "bundle_state.created event makes it active"
        )
    if target is None:
        return "nothing would be live"
    described = f"{target.state} ({target.revision}), published {age(target.at, opened.now)} ago"
    if before is None:
        return f"live: nothing → {described}"
    if before.id == target.id:
        # The preview has verified only what would become live.
        await opened.bucket.reader.files(scope, target)
        return f"live stays {described}"
    difference = await _difference(opened, scope, planned)
    return f"live: {before.state} ({before.revision}) → {described}\n{difference}"


async def _difference(opened: Session, scope: Scope, planned: ChangeResult) -> str:
    before, target = planned.before.live, planned.after.live
    assert before is not None
    assert target is not None
    try:
        return (await compare(opened.bucket.reader, opened.runtime, scope, before, target)).summary
    except PublishingError as error:
        return f"  the difference cannot be shown: {error}"
