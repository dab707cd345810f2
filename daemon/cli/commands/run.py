"""`rebundle run`: runs the daemon in the foreground."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from daemon import __version__, service
from daemon.cli.options import DEFAULT_PROSE, Place, Prose
from daemon.cli.session import load_settings, printer_of


async def run(
    *,
    bucket: Annotated[
        str | None, Parameter(help="Directory or URL of the bucket to publish to.")
    ] = None,
    journal: Annotated[Path | None, Parameter(help="File of the journal.")] = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT of the HTTP intake.")] = None,
    config: Annotated[Path | None, Parameter(help="Settings file (TOML).")] = None,
    accept_older_renderer: Annotated[
        bool,
        Parameter(negative=(), help="Publish even if a newer release rendered the desired state."),
    ] = False,
    new_bucket: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Publish to this bucket from now on, even if the journal belongs to "
            "another bucket.",
        ),
    ] = False,
    prose: Prose = DEFAULT_PROSE,
) -> None:
    """Accept events and publish the resulting states until stopped.

    No settings are required: by default the journal and the bucket are below ./var. SIGTERM or
    Ctrl-C completes the work in progress and exits 0; a second signal exits immediately.
    """
    flags = {
        "journal.path": journal,
        "http.listen": listen,
        "publish.accept_older_renderer": accept_older_renderer or None,
    }
    settings = load_settings(Place(bucket=bucket, config=config), flags, secrets=True)
    await service.run(settings, __version__, announce=printer_of(prose).say, new_bucket=new_bucket)
