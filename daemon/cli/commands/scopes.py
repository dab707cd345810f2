"""`rebundle scopes`: lists the scopes in the bucket."""

from daemon.cli.formatting import age, columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.scope_rows import gravest, readable
from daemon.cli.session import Session, session
from daemon.exit_codes import BACKEND, DONE
from daemon.inspection.views import View, rejected_desired


async def scopes(*, place: Place = DEFAULT_PLACE, printing: Printing = DEFAULT_PRINTING) -> int:
    """List every scope in the bucket. The exit code is the highest of all scopes."""
    async with session(place, printing) as opened:
        found = await opened.bucket.reader.scopes()
        views, folders = await readable(opened, found), dict(found.unreadable)
        rows = [
            (
                view["scope"],
                _state(view["live"]),
                _state(view["desired"]),
                view["sequence"],
                _note(view),
                _age(view, opened),
            )
            for view in views
        ]
        if not views and not folders:
            opened.printer.say(f"nothing is published in {opened.settings.bucket} yet")
        rows += [
            (f"{name}/", "", "", "", f"unreadable: {why}", "") for name, why in folders.items()
        ]
        document = {"scopes": views, "unreadable_folders": folders}
        opened.printer.data(
            document, columns(("SCOPE", "LIVE", "DESIRED", "SEQUENCE", "NOTE", "AGE"), rows)
        )
        return max(gravest(views), BACKEND if folders else DONE)


def _state(publication: View | None) -> str | None:
    return publication["state"] if publication else None


def _age(view: View, opened: Session) -> str:
    return age(view["changed_at"], opened.now)


def _note(view: View) -> str:
    if view["error"]:
        return "unreadable: see `rebundle status`"
    if view["live"] is None and view["desired"] is None:
        return "retired"
    notes = {
        "held": view["hold"] is not None,
        "desired is quarantined": rejected_desired(view) is not None,
        "desired waits for resume": view["live"] != view["desired"]
        and not (view["hold"] or rejected_desired(view)),
    }
    return ", ".join(note for note, holds in notes.items() if holds)
