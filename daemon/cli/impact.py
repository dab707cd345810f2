"""What a change of live would mean, told before it is made.

A live state that cannot be read stops nobody from leaving it; a target that cannot be read is found out here, before
the pointer names it.
"""

from daemon.cli.formatting import age
from daemon.cli.session import Session
from daemon.inspection.comparison import compare
from daemon.publishing.errors import PublishingError
from daemon.publishing.operator_commands import ChangeResult
from renderers.model import Scope


async def impact_of(opened: Session, scope: Scope, planned: ChangeResult) -> str:
    """How live would differ, and how old its new state is.

    Raises:
        NotFound, VerificationFailed: the state that would be live is not there whole.
    """
    before, target = planned.before.live, planned.after.live
    if target is None:
        return "nothing would be live"
    await opened.bucket.reader.files(scope, target)
    told = f"{target.state} ({target.revision}), published {age(target.at, opened.now)} ago"
    if before is None:
        return f"live: nothing → {told}"
    if before.id == target.id:
        return f"live stays {told}"
    return f"live: {before.state} ({before.revision}) → {told}\n{await _difference(opened, scope, planned)}"


async def _difference(opened: Session, scope: Scope, planned: ChangeResult) -> str:
    before, target = planned.before.live, planned.after.live
    assert before is not None
    assert target is not None
    try:
        return (await compare(opened.bucket.reader, opened.runtime, scope, before, target)).summary
    except PublishingError as error:
        return f"  the difference cannot be shown: {error}"
