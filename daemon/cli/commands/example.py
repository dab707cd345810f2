"""`rebundle example`: restores files in example/ to their defaults.

Operators own example/: the daemon does not overwrite a file there once an operator has changed it.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, DryRun, Place, Printing
from daemon.cli.output import confirm
from daemon.cli.session import scope_of, session
from daemon.exit_codes import DONE
from daemon.inspection.comparison import FileChange, unified
from daemon.inspection.escaping import plain
from daemon.publishing.live_tree.results import Restored
from daemon.stores import locations
from renderers.values import RenderedFile

_MOST_COMPARED: Final = 1 << 16
"""The size of the largest file whose difference is shown."""

example: Final = App(name="example", help="Restore files in example/ to their defaults.")


@example.command
async def restore(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    path: Annotated[
        str, Parameter(help="Path in the live tree, such as example/conf/bundle/.env.")
    ],
    /,
    *,
    dry_run: DryRun = False,
    yes: Annotated[
        bool, Parameter(alias="-y", negative=(), help="Do not ask for confirmation.")
    ] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Replace a file by the default of the live state; a copy stays under .rebundle/replaced/.

    The difference is shown before the question.
    """
    async with session(place, printing) as opened:
        printer, tree, named = opened.printer, opened.bucket.live_tree, scope_of(scope)
        restored = await tree.restore_example(named, path, dry_run=True)
        if restored.written and (dry_run or not yes):
            printer.say("\n".join(_difference(restored)))
        if restored.written and not dry_run:
            confirm(f"Replace {path} in {scope} with its default?", yes=yes, printer=printer)
            restored = await tree.restore_example(named, path)
        key = restored.kept_as(named)
        kept = None if key is None else locations.place(opened.bucket.location, key)
        view = {
            "scope": scope,
            "path": path,
            "dry_run": dry_run,
            "written": restored.written and not dry_run,
            "deleted_before": restored.replaced is None,
            "kept_as": kept,
        }
        printer.data(view, [f"{plain(path)}: {_outcome(restored, kept, dry_run=dry_run)}"])
        return DONE


def _difference(restored: Restored) -> Iterator[str]:
    default, replaced = restored.default, restored.replaced
    before = None
    if replaced is not None:
        before = RenderedFile(default.path, replaced, executable=default.executable)
        if len(replaced) > _MOST_COMPARED:
            yield f"{default.path} has {len(replaced):,} bytes, too many to show the difference"
            return
    yield from unified(FileChange(default.path, before, default))


def _outcome(restored: Restored, kept: str | None, *, dry_run: bool) -> str:
    if not restored.written:
        return "is already the default"
    is_back = "the default would be restored" if dry_run else "the default is back"
    if kept is None:
        return f"was deleted; {is_back}"
    return f"{is_back}; your file {'would be' if dry_run else 'is'} kept as {plain(kept)}"
