"""`rebundle config`: checks and shows settings with their sources; prints built-in templates."""

import json
import os
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon import customisation, settings
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import (
    DEFAULT_JOURNAL_PLACE,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    JournalPlace,
    Place,
    Printing,
)
from daemon.cli.session import printer_of
from daemon.settings import Loaded
from renderers.template_set import Templates

config: Final = App(name="config", help="Check, show or describe settings and templates.")

_Listen = Annotated[str | None, Parameter(help="HOST:PORT, as for `run`.")]


@config.command
def check(
    *,
    listen: _Listen = None,
    journal: JournalPlace = DEFAULT_JOURNAL_PLACE,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Report every problem of settings and templates with its source; exit 2 if there is one."""
    loaded = _load(place, journal.journal, listen)
    replaced = customisation.for_every_scope(loaded.settings).replaced
    document = {"ok": True, "set": len(loaded.origins), "templates": replaced}
    lines = [
        f"ok: {len(loaded.origins)} settings are set",
        *(
            f"templates replaced for {customisation.scope_label(name)}: {', '.join(names)}"
            for name, names in replaced.items()
        ),
    ]
    printer = printer_of(printing)
    printer.data(document, () if printer.quiet else lines)


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
    settings_view = {
        name: {"value": value, "source": source} for name, (value, source) in shown.items()
    }
    rows = [(name, _value_text(value), source) for name, (value, source) in shown.items()]
    printer_of(printing).data(
        {"settings": settings_view}, columns(("SETTING", "VALUE", "SOURCE"), rows)
    )


@config.command
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors."""
    print(json.dumps(settings.schema(), indent=2))  # noqa: T201  # always JSON, whatever --output says


@config.command
def template(
    name: Annotated[
        str | None, Parameter(help="Name of the template. Without it, list all names.")
    ] = None,
    /,
) -> None:
    """Print a built-in template, as a start for a custom one or to compare after an upgrade."""
    built_in = Templates.built_in()
    if name is None:
        print(*built_in.names, sep="\n")  # noqa: T201  # plain names, for scripts
    elif name in built_in.names:
        print(built_in.text(name), end="")  # noqa: T201  # the file as it is
    else:
        raise UsageError(
            f"there is no template {name!r}: `rebundle config template` lists the templates"
        )


def _load(place: Place, journal: Path | None, listen: str | None) -> Loaded:
    flags = {"bucket": place.bucket, "journal.path": journal, "http.listen": listen}
    return settings.load(flags, os.environ, place.config)


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
