"""Views of scopes for `scopes` and `status`. A scope that cannot be read gets a view, too."""

import asyncio
from collections.abc import Iterable, Sequence

from daemon.cli.session import Session
from daemon.exit_codes import DONE
from daemon.inspection.views import View, pointer_view
from daemon.publishing.errors import NotFound
from renderers.model import Scope


async def readable(opened: Session, found: Sequence[Scope]) -> list[View]:
    """The views of these scopes; folders without a publication are left out."""
    views = await asyncio.gather(*(pointer_or_error(opened, scope) for scope in found))
    return [view for view in views if view is not None]


async def pointer_or_error(opened: Session, scope: Scope) -> View | None:
    """The pointer of a scope as a view, or a view with the error that occurred.

    An error of one scope must not hide the other scopes. None: nothing is published in the scope.
    """
    try:
        pointer = (await opened.bucket.reader.existing(scope)).pointer
    except NotFound:
        return None
    except Exception as error:  # noqa: BLE001  # an unexpected error affects this scope only
        unknown: View = {
            "sequence": None,
            "live": None,
            "desired": None,
            "hold": None,
            "quarantined": [],
            "changed_at": None,
        }
        message, code = opened.failure_of(scope, error)
        return {"scope": str(scope), **unknown, "error": message, "exit_code": code}
    changed_at = pointer.history[-1].at if pointer.history else None
    return {**pointer_view(pointer), "changed_at": changed_at, "error": None, "exit_code": DONE}


def gravest(views: Iterable[View]) -> int:
    """The exit code of a command that read several scopes: the highest of theirs."""
    return max((int(view["exit_code"]) for view in views), default=DONE)
