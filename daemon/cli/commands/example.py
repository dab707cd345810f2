"""`rebundle example`: operators' files of example/, which are never written by themselves once changed."""

from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon.cli.codes import DONE
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import confirm
from daemon.cli.session import scope_of, session

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
        confirm(f"Replace {path} of {scope} by its default?", yes=yes, printer=opened.printer)
        written = await opened.bucket.live_tree.restore_example(scope_of(scope), path)
        told = f"{path}: {'the default was written' if written else 'is the default already'}"
        opened.printer.data({"scope": scope, "path": path, "written": written}, [told])
        return DONE
