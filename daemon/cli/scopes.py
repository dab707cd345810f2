"""`rebundle scopes`: what the bucket has."""

import asyncio
from collections.abc import Iterable, Sequence

from daemon.cli.codes import BACKEND, DONE
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.session import Session, session
from daemon.cli.text import age, columns
from daemon.cli.views import View, pointer_view, rejected_desired
from daemon.publishing.errors import NotFound
from renderers.model import Scope


async def scopes(*, place: Place = DEFAULT_PLACE, printing: Printing = DEFAULT_PRINTING) -> int:
    """Every scope of the bucket, one to a line. The gravest error of a scope sets the exit code."""
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
        rows += [(f"{name}/", "", "", "", f"unreadable: {why}", "") for name, why in folders.items()]
        document = {"scopes": views, "unreadable_folders": folders}
        opened.printer.data(document, columns(("SCOPE", "LIVE", "DESIRED", "SEQUENCE", "NOTE", "AGE"), rows))
        return max(gravest(views), BACKEND if folders else DONE)


async def readable(opened: Session, found: Sequence[Scope]) -> list[View]:
    """Where these scopes stand; folders in which nothing is published (yet) are left out."""
    views = await asyncio.gather(*(pointer_or_error(opened, scope) for scope in found))
    return [view for view in views if view is not None]


async def pointer_or_error(opened: Session, scope: Scope) -> View | None:
    """Where a scope stands; one that cannot be read says why, and does not hide the others. None: there is none."""
    try:
        pointer = (await opened.bucket.reader.existing(scope)).pointer
    except NotFound:
        return None
    except Exception as error:  # noqa: BLE001  # also one that nobody foresaw is this scope's alone
        gone: View = {
            "sequence": None,
            "live": None,
            "desired": None,
            "hold": None,
            "quarantined": [],
            "changed_at": None,
        }
        words, code = opened.failure_of(scope, error)
        return {"scope": str(scope), **gone, "error": words, "exit_code": code}
    changed_at = pointer.history[-1].at if pointer.history else None
    return {**pointer_view(pointer), "changed_at": changed_at, "error": None, "exit_code": DONE}


def gravest(views: Iterable[View]) -> int:
    """The exit code of a verb that looked at several scopes."""
    return max((int(view["exit_code"]) for view in views), default=DONE)


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
        "desired waits for resume": view["live"] != view["desired"] and not (view["hold"] or rejected_desired(view)),
    }
    return ", ".join(note for note, holds in notes.items() if holds)
