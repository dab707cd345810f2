"""The row of each scope in an overview of several: one that cannot be read is a row as well."""

import asyncio
from collections.abc import Iterable, Sequence

from daemon.cli.codes import DONE
from daemon.cli.session import Session
from daemon.inspection.views import View, pointer_view
from daemon.publishing.errors import NotFound
from renderers.model import Scope


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
