"""Views of scopes for `scopes` and `status`. A scope that cannot be read gets a view, too."""

import asyncio
from collections.abc import Iterable, Sequence

from daemon.cli.session import Session
from daemon.exit_codes import DONE
from daemon.inspection.scopes import ScopeView
from daemon.publishing.errors import NotFound
from renderers.values import Scope


async def readable(opened: Session, found: Sequence[Scope]) -> tuple[ScopeView, ...]:
    """The views of these scopes; folders without a publication are left out."""
    views = await asyncio.gather(*(pointer_or_error(opened, scope) for scope in found))
    return tuple(view for view in views if view is not None)


async def pointer_or_error(opened: Session, scope: Scope) -> ScopeView | None:
    """The pointer of a scope as a view, or a view with the error that occurred.

    An error of one scope must not hide the other scopes. None: nothing is published in the scope.
    """
    try:
        return ScopeView.of((await opened.bucket.reader.existing(scope)).pointer)
    except NotFound:
        return None
    except Exception as error:  # noqa: BLE001  # an unexpected error affects this scope only
        return ScopeView.unreadable(str(scope), *opened.failure_of(scope, error))


def gravest(views: Iterable[ScopeView]) -> int:
    """The exit code of a command that read several scopes: the highest of theirs."""
    return max((view.exit_code for view in views), default=DONE)
