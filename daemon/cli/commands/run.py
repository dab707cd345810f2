"""`rebundle run`: the daemon in the foreground."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from daemon import __version__, service
from daemon.cli.options import DEFAULT_PROSE, Place, Prose
from daemon.cli.session import load_settings, printer_of


async def run(
    *,
    bucket: Annotated[str | None, Parameter(help="Folder or URL to publish to.")] = None,
    journal: Annotated[Path | None, Parameter(help="The journal's file.")] = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT of the intake over HTTP.")] = None,
    config: Annotated[Path | None, Parameter(help="Settings file (TOML).")] = None,
    accept_older_renderer: Annotated[
        bool, Parameter(negative=(), help="Publish although a newer release rendered what is desired.")
    ] = False,
    new_bucket: Annotated[
        bool,
        Parameter(negative=(), help="Publish to this bucket from now on, though the journal published to another."),
    ] = False,
    prose: Prose = DEFAULT_PROSE,
) -> None:
    """Take events in and publish what they make, until stopped.

    Needs nothing beside it: without settings the journal, the bucket and all else are below ./var. SIGTERM or Ctrl-C
    finishes what is under way and exits 0; a second one leaves at once.
    """
    flags = {
        "journal.path": journal,
        "http.listen": listen,
        "publish.accept_older_renderer": accept_older_renderer or None,
    }
    settings = load_settings(Place(bucket=bucket, config=config), flags, secrets=True)
    await service.run(settings, __version__, announce=printer_of(prose).say, new_bucket=new_bucket)
