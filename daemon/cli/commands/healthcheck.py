"""`rebundle healthcheck`: checks that the daemon is alive, for container health checks."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from daemon.cli.client import DaemonClient, local_url
from daemon.cli.failures import DaemonUnreachable
from daemon.cli.options import DEFAULT_PROSE, SHARED, Place, Prose
from daemon.cli.session import load_settings, printer_of
from daemon.exit_codes import DONE, FAILED
from daemon.inspection.escaping import plain

_SECONDS: Final = 3.0
_SHOWN: Final = 300


def healthcheck(
    *,
    listen: Annotated[
        str | None, Parameter(help="HOST:PORT of the daemon. Default: the setting http.listen.")
    ] = None,
    config: Annotated[Path | None, Parameter(group=SHARED, help="Settings file (TOML).")] = None,
    prose: Prose = DEFAULT_PROSE,
) -> int:
    """Request /livez; exit 0 if the daemon is alive, 1 if it does not answer or needs a restart."""
    printer = printer_of(prose)
    address = listen or load_settings(Place(config=config)).http.listen
    try:
        answer = DaemonClient(local_url(address), _SECONDS).get("/livez")
    except DaemonUnreachable as error:
        printer.warn(str(error))
        return FAILED
    if answer.status != 200:
        printer.warn(f"/livez answers {answer.status}: {plain(answer.detail[:_SHOWN])}")
        return FAILED
    printer.say("alive")
    return DONE
