"""Options that many commands share.

Each group is a frozen dataclass, whose fields cyclopts adds to the flags of a command. The meaning
of a setting and its other sources are defined in `daemon.settings`.
"""

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, validators

from events.model import MAX_REASON_LENGTH

SHARED = Group("Shared options", sort_key=10)
Format = Literal["table", "json", "yaml"]


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Prose:
    """Which messages are shown to people, and how."""

    quiet: Annotated[
        bool,
        Parameter(
            alias="-q",
            negative=(),
            help="Print results and errors only; of a check, only what failed.",
        ),
    ] = False
    no_color: Annotated[bool, Parameter(negative=(), help="Disable colours, as NO_COLOR does.")] = (
        False
    )
    debug: Annotated[bool, Parameter(negative=(), help="Show the stack trace of an error.")] = False


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Printing(Prose):
    """`Prose`, and the format of the result."""

    output: Annotated[Format, Parameter(alias="-o", help="Output format.")] = "table"


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Place:
    """Which bucket."""

    bucket: Annotated[
        str | None,
        Parameter(
            help="Directory or URL of the bucket. Default: REBUNDLE_BUCKET, then the settings "
            "file, then var/bucket."
        ),
    ] = None
    config: Annotated[Path | None, Parameter(help="Settings file (TOML).")] = None


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Which journal."""

    journal: Annotated[
        Path | None,
        Parameter(
            help="File of the journal. Default: REBUNDLE_JOURNAL__PATH, then the settings file, "
            "then var/journal.db."
        ),
    ] = None


def _check_recordable(_kind: object, text: str | None) -> None:
    """Validate a reason, or the name of an actor (protocol 4)."""
    if text is not None and len(text) > MAX_REASON_LENGTH:
        raise ValueError(
            f"has {len(text)} characters, but at most {MAX_REASON_LENGTH} can be recorded: "
            "shorten it"
        )
    # Surrogates come from bytes of the command line that are not UTF-8.
    if text is not None and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must be UTF-8 text: it cannot be recorded")


def _check_not_blank(_kind: object, text: str) -> None:
    if not text.strip():
        raise ValueError("must not be blank: the history shows it to other operators")


@Parameter(name="*", group=SHARED)
@dataclass(frozen=True, slots=True)
class Actor:
    """Who is recorded as the author of a change."""

    by: Annotated[
        str | None,
        Parameter(
            help="Author recorded in the history. Default: user@host.", validator=_check_recordable
        ),
    ] = None

    @property
    def name(self) -> str:
        """The name to record."""
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


Reason = Annotated[
    str,
    Parameter(
        help="Reason, recorded in the history.", validator=(_check_not_blank, _check_recordable)
    ),
]
OptionalReason = Annotated[
    str, Parameter(help="Reason, recorded in the history.", validator=_check_recordable)
]
Wait = Annotated[
    float,
    Parameter(
        help="Seconds to wait until base/ and README.md of the live tree equal the live state; "
        "exit 1 if they do not. 0: do not wait.",
        validator=validators.Number(gte=0, lte=3600),
    ),
]
WAIT_SECONDS = 10.0
DryRun = Annotated[bool, Parameter(negative=(), help="Show what would change; change nothing.")]
