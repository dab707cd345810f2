"""`rebundle example`: operators' files of example/, which are never written by themselves once changed."""

from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon.cli.codes import DONE, FAILED
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import confirm
from daemon.cli.session import Session, scope_of, session
from daemon.publishing.errors import Refused
from daemon.publishing.ownership import CREDENTIALS
from renderers.model import Scope

example: Final = App(name="example", help="Operators' files of example/.")


@example.command
async def restore(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    path: Annotated[str, Parameter(help="Path in the live tree, such as example/conf/bundle/.env.")],
    /,
    *,
    yes: Annotated[bool, Parameter(alias="-y", negative=(), help="Do not ask.")] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Put live's default of one file back over what is there, which is kept under .rebundle/replaced/."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        await _refuse_credentials(opened, named, path)
        if not confirm(f"Replace {path} of {scope} by its default?", yes=yes, printer=opened.printer):
            opened.printer.warn("nothing was changed")
            return FAILED
        written = await opened.bucket.live_tree.restore_example(named, path)
        told = f"{path}: {'the default was written' if written else 'is the default already'}"
        opened.printer.data({"scope": scope, "path": path, "written": written}, [told])
        return DONE


async def _refuse_credentials(opened: Session, scope: Scope, path: str) -> None:
    """What is below example/creds/ is never read, so it could not be kept before it is replaced (protocol 5)."""
    if not path.startswith(CREDENTIALS):
        return
    survey = await opened.bucket.live_tree.survey(scope)
    absent = {*survey.seen.deleted_by_operator, *survey.seen.written}
    if path not in absent:
        raise Refused(f"{path} may hold credentials, which are never read nor copied: remove it yourself, then restore")
