"""`rebundle scopes`: lists the scopes in the bucket."""

from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.scope_rows import gravest, readable
from daemon.cli.session import session
from daemon.exit_codes import BACKEND, DONE
from daemon.inspection.ages import age
from daemon.inspection.scopes import PublicationView, ScopeView


async def scopes(*, place: Place = DEFAULT_PLACE, printing: Printing = DEFAULT_PRINTING) -> int:
    """List every scope in the bucket. The exit code is the highest of all scopes."""
    async with session(place, printing) as opened:
        found = await opened.bucket.reader.scopes()
        views, folders = await readable(opened, found), dict(found.unreadable)
        rows: list[tuple[object, ...]] = [
            (
                view.pointer.scope,
                _state(view.pointer.live),
                _state(view.pointer.desired),
                view.pointer.sequence,
                _note(view),
                age(view.changed_at, opened.now),
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


def _state(publication: PublicationView | None) -> str | None:
    return publication.state if publication else None


def _note(view: ScopeView) -> str:
    if view.error:
        return "unreadable: see `rebundle status`"
    pointer = view.pointer
    if pointer.live is None and pointer.desired is None:
        return "retired"
    held, quarantined = pointer.hold is not None, pointer.desired_quarantine is not None
    notes = {
        "held": held,
        "desired is quarantined": quarantined,
        "desired waits for resume": pointer.live != pointer.desired and not (held or quarantined),
    }
    return ", ".join(note for note, holds in notes.items() if holds)
