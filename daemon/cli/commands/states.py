"""`rebundle states`: lists the states a scope can be rolled back to, and why each is not live."""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.session import scope_of, session
from daemon.inspection.ages import age
from daemon.inspection.documents import to_document
from daemon.inspection.scopes import PointerView, StateView


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
        views = [StateView.of(pointer, publication) for publication in reversed(pointer.retained)]
        rows = [
            (
                view.publication.state,
                view.publication.revision,
                view.publication.kind,
                age(view.publication.published_at, opened.now),
                _marks(view),
                view.publication.attempt[:12],
                view.reason,
            )
            for view in views
        ]
        header = ("STATE", "REVISION", "KIND", "AGE", "STATUS", "ATTEMPT", "WHY NOT LIVE")
        document = {
            **to_document(PointerView.of(pointer)),
            "states": views,
            "older_history": pointer.previous_chunk is not None,
        }
        opened.printer.data(document, columns(header, rows))


def _marks(view: StateView) -> str:
    marks = [view.status]
    if view.desired:
        marks.append("desired")
    if view.publication.pinned:
        marks.append("pinned")
    return ",".join(marks)
