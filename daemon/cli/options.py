"""Options that many verbs share, as flat groups of flags.

Each group is a frozen dataclass that cyclopts spreads over the verb's own flags. What a setting means, and which other
sources it may come from, is `daemon.settings`' business.
"""

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, validators

from events.schemas import LONGEST_REASON

SHARED = Group("Shared options", sort_key=10)
Format = Literal["table", "json", "yaml"]


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Prose:
    """How people are spoken to."""

    quiet: Annotated[
        bool,
        Parameter(
            alias="-q", negative=(), help="Only results and errors: no prose, and of a check only what is wrong."
        ),
    ] = False
    no_color: Annotated[bool, Parameter(negative=(), help="No colours; NO_COLOR does the same.")] = False
    debug: Annotated[bool, Parameter(negative=(), help="Show the trace of an error.")] = False


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Printing(Prose):
    """How the result is printed, too."""

    output: Annotated[Format, Parameter(alias="-o", help="How data is printed.")] = "table"


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Place:
    """Which bucket."""

    bucket: Annotated[str | None, Parameter(help="Folder or URL; else REBUNDLE_BUCKET, the file, var/bucket.")] = None
    config: Annotated[Path | None, Parameter(help="Settings file (TOML).")] = None


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Which journal."""

    journal: Annotated[
        Path | None, Parameter(help="The journal's file; else REBUNDLE_JOURNAL__PATH, the file, var/journal.db.")
    ] = None


def _fits(_kind: object, text: str | None) -> None:
    """Holds for a reason and for the name of who gives it (protocol 4)."""
    if text is not None and len(text) > LONGEST_REASON:
        raise ValueError(f"has {len(text)} characters, and at most {LONGEST_REASON} are recorded: shorten it")
    if text is not None and any("\ud800" <= each <= "\udfff" for each in text):
        raise ValueError("must be UTF-8 text: it cannot be recorded")


def _not_blank(_kind: object, text: str) -> None:
    if not text.strip():
        raise ValueError("must say why: it is what others will read in the history")


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Actor:
    """Who is recorded as having done it."""

    by: Annotated[str | None, Parameter(help="Who is recorded; else user@host.", validator=_fits)] = None

    @property
    def name(self) -> str:
        """As it is recorded."""
        return self.by or f"{_user()}@{socket.gethostname()}"


DEFAULT_PROSE = Prose()
DEFAULT_PRINTING = Printing()
DEFAULT_PLACE = Place()
DEFAULT_JOURNAL_PLACE = JournalPlace()
DEFAULT_ACTOR = Actor()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"  # a container's numeric user has no name


Reason = Annotated[str, Parameter(help="Why; recorded in the history.", validator=(_not_blank, _fits))]
OptionalReason = Annotated[str, Parameter(help="Why; recorded in the history.", validator=_fits)]
Wait = Annotated[
    float,
    Parameter(
        help="Seconds until base/ and README.md of the live tree must equal live, else exit 1; 0: do not wait.",
        validator=validators.Number(gte=0, lte=3600),
    ),
]
WAIT_SECONDS = 10.0
DryRun = Annotated[bool, Parameter(negative=(), help="Show what would change, change nothing.")]
