"""`rebundle states`: lists the states a scope can be rolled back to, and why each is not live."""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.formatting import age, columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.session import scope_of, session
from daemon.inspection.views import View, pointer_view, state_view


async def states(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """List the retained states of a scope, newest first."""
    async with session(place, printing) as opened:
        pointer = (await opened.bucket.reader.existing(scope_of(scope))).pointer
        views = [state_view(pointer, publication) for publication in reversed(pointer.retained)]
        rows = [
            (
                view["state"],
                view["revision"],
                view["kind"],
                age(view["published_at"], opened.now),
                _marks(view),
                view["attempt"][:12],
                view["reason"],
            )
            for view in views
        ]
        header = ("STATE", "REVISION", "KIND", "AGE", "STATUS", "ATTEMPT", "WHY NOT LIVE")
        document = {
            **pointer_view(pointer),
            "states": views,
            "older_history": pointer.previous_chunk is not None,
        }
        opened.printer.data(document, columns(header, rows))


def _marks(view: View) -> str:
    marks = [view["status"]]
    if view["desired"]:
        marks.append("desired")
    if view["pinned"]:
        marks.append("pinned")
    return ",".join(marks)
