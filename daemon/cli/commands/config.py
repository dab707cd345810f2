"""`rebundle config`: what the settings are, where each comes from, what is wrong with them; the built-in templates."""

import json
import os
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon import customisation, settings
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_JOURNAL_PLACE, DEFAULT_PLACE, DEFAULT_PRINTING, JournalPlace, Place, Printing
from daemon.cli.session import printer_of
from daemon.settings import Loaded
from renderers.template_set import Templates

config: Final = App(name="config", help="Check, show or describe the settings and templates.")

_Listen = Annotated[str | None, Parameter(help="HOST:PORT, as for `run`.")]


@config.command
def check(
    *,
    listen: _Listen = None,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Tell every problem of settings and templates, each with its source; exit 2 if there is one."""
    loaded = _load(place, journal.journal, listen)
    replaced = customisation.for_every_scope(loaded.settings).replaced
    document = {"ok": True, "set": len(loaded.origins), "templates": replaced}
    lines = (
        f"templates replaced for {customisation.whom(name)}: {', '.join(names)}" for name, names in replaced.items()
    )
    printer = printer_of(printing)
    printer.data(document, () if printer.quiet else [f"fine: {len(loaded.origins)} settings are set", *lines])


@config.command
def show(
    *,
    listen: _Listen = None,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Show every setting with its value and source; secrets are masked."""
    shown = _load(place, journal.journal, listen).shown()
    document = {"settings": {name: {"value": value, "source": source} for name, (value, source) in shown.items()}}
    rows = [(name, _told(value), source) for name, (value, source) in shown.items()]
    printer_of(printing).data(document, columns(("SETTING", "VALUE", "SOURCE"), rows))


@config.command
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors."""
    print(json.dumps(settings.schema(), indent=2))  # noqa: T201  # a document by itself, whatever the format


@config.command
def template(
    name: Annotated[str | None, Parameter(help="Which; without it the names of all are listed.")] = None, /
) -> None:
    """Print a built-in template: what an own one starts from, or is compared with after an upgrade."""
    built_in = Templates.built_in()
    if name is None:
        print(*built_in.names, sep="\n")  # noqa: T201  # names for programs, whatever the format
    elif name in built_in.names:
        print(built_in.text(name), end="")  # noqa: T201  # a file by itself, whatever the format
    else:
        raise UsageError(f"there is no template {name!r}: `rebundle config template` lists them")


def _load(place: Place, journal: Path | None, listen: str | None) -> Loaded:
    flags = {"bucket": place.bucket, "journal.path": journal, "http.listen": listen}
    return settings.load(flags, os.environ, place.config)


def _told(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
