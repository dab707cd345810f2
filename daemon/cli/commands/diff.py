"""`rebundle diff`: compares two states of a scope."""

from typing import Annotated

from cyclopts import Parameter

from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import colored_diff
from daemon.cli.selection import publication_of
from daemon.cli.session import scope_of, session
from daemon.exit_codes import DONE, FAILED
from daemon.inspection.comparison import Comparison, ComparisonView, compare, texts_of
from daemon.inspection.escaping import plain

_STATE = "State id or a unique prefix of it, STATE@ATTEMPT, live or desired."


async def diff(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    before: Annotated[str, Parameter(help=_STATE)] = "live",
    after: Annotated[str, Parameter(help=_STATE)] = "desired",
    /,
    *,
    name_only: Annotated[
        bool, Parameter(negative=(), help="Print only the paths that differ.")
    ] = False,
    exit_code: Annotated[
        bool, Parameter(negative=(), help="Exit 1 if there are differences.")
    ] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Compare the models and all rendered files, as a unified diff. Credentials are not compared.

    On a terminal, control characters are escaped. Otherwise file contents are printed unchanged,
    for `patch`, and only paths are escaped. Use `cat -v` to view a bundle that you do not trust.
    """
    async with session(place, printing) as opened:
        named = scope_of(scope)
        pointer = (await opened.bucket.reader.existing(named)).pointer
        old, new = publication_of(pointer, before), publication_of(pointer, after)
        compared = await compare(opened.bucket.reader, opened.runtime, named, old, new)
        opened.printer.say(_heading(compared))
        if name_only:
            paths = [plain(change.path) for change in compared.files]
            opened.printer.data(ComparisonView.of(scope, compared), paths)
        else:
            texts = await opened.runtime.run_in_thread(texts_of, compared.files)
            opened.printer.data(
                ComparisonView.of(scope, compared, texts), (), colored_diff(texts, opened.printer)
            )
        return FAILED if exit_code and not compared.is_empty else DONE


def _heading(compared: Comparison) -> str:
    if compared.is_empty:
        return f"{compared.before.state} and {compared.after.state} do not differ"
    return f"{compared.before.state} → {compared.after.state}\n{compared.summary}"
