"""`rebundle example`: restores files in example/ to their defaults.

Operators own example/: the daemon does not overwrite a file there once an operator has changed it.
"""

from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import confirm
from daemon.cli.session import scope_of, session
from daemon.exit_codes import DONE

example: Final = App(name="example", help="Restore files in example/ to their defaults.")


@example.command
async def restore(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    path: Annotated[
        str, Parameter(help="Path in the live tree, such as example/conf/bundle/.env.")
    ],
    /,
    *,
    yes: Annotated[
        bool, Parameter(alias="-y", negative=(), help="Do not ask for confirmation.")
    ] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Replace a file by the default of the live state; a copy stays under .rebundle/replaced/."""
    async with session(place, printing) as opened:
        confirm(f"Replace {path} in {scope} with its default?", yes=yes, printer=opened.printer)
        written = await opened.bucket.live_tree.restore_example(scope_of(scope), path)
        line = f"{path}: {'replaced with the default' if written else 'is already the default'}"
        opened.printer.data({"scope": scope, "path": path, "written": written}, [line])
        return DONE
