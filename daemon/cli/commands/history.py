"""`rebundle history`: lists the changes of a scope, with time, author and reason."""

from typing import Annotated

from cyclopts import Parameter, validators

from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.session import scope_of, session
from daemon.inspection.ages import age
from daemon.inspection.history import HistoryView


async def history(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    limit: Annotated[
        int | None,
        Parameter(
            help="Number of changes to list, newest first.", validator=validators.Number(gte=1)
        ),
    ] = None,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """List every change of a scope's pointer, newest first."""
    async with session(place, printing) as opened:
        pointer = (await opened.bucket.reader.existing(scope_of(scope))).pointer
        entries = await opened.bucket.reader.history(pointer)
        views = [HistoryView.of(entry) for entry in reversed(entries)][:limit]
        rows = [
            (
                view.sequence,
                _kind(view),
                _state(view.live),
                _state(view.desired),
                ", ".join(map(_state, view.published)),
                age(view.at, opened.now),
                view.by,
                view.reason,
            )
            for view in views
        ]
        header = ("SEQUENCE", "KIND", "LIVE", "DESIRED", "PUBLISHED", "AGE", "BY", "REASON")
        opened.printer.data({"scope": scope, "history": views}, columns(header, rows))


def _kind(view: HistoryView) -> str:
    """The kind of change, with its subject: the pinned state, the composition, the option."""
    change = view.change
    if pin := change.get("pin"):
        return f"{'pin' if pin['pinned'] else 'unpin'} {_state(pin['publication'])}"
    if rejected := change.get("quarantine"):
        return f"quarantine {rejected.composition[:12]}"
    if lifted := change.get("lifted"):
        return f"lift quarantine {lifted[:12]}"
    if view.kind == "gc":
        return f"gc, {len(change.get('released', ()))} released"
    return view.kind + (" --discard-newer" if change.get("discard_newer") else "")


def _state(name: str | None) -> str:
    return (name or "").partition("@")[0]
