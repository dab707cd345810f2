"""`rebundle config`: what the settings are, where each comes from, what is wrong with them."""

import json
import os
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from daemon import customising, settings
from daemon.cli.options import DEFAULT_JOURNAL_PLACE, DEFAULT_PLACE, DEFAULT_PRINTING, JournalPlace, Place, Printing
from daemon.cli.session import printer_of
from daemon.cli.text import columns
from daemon.settings import Loaded

config: Final = App(name="config", help="Check, show or describe the settings.")

_Listen = Annotated[str | None, Parameter(help="HOST:PORT, as `run` would be told.")]


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
    replaced = customising.for_every_scope(loaded.settings).replaced
    document = {"ok": True, "set": len(loaded.origins), "templates": replaced}
    lines = (f"templates replaced for {_whom(name)}: {', '.join(names)}" for name, names in replaced.items())
    printer_of(printing).data(document, [f"fine: {len(loaded.origins)} settings are set", *lines])


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


def _load(place: Place, journal: Path | None, listen: str | None) -> Loaded:
    flags = {"bucket": place.bucket, "journal.path": journal, "http.listen": listen}
    return settings.load(flags, os.environ, place.config)


def _whom(name: str) -> str:
    return "every scope" if name == "*" else name


def _told(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
