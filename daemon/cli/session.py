"""Opens what a verb works on: the bucket, the journal. Closes it afterwards.

One event loop per command. The clock, the printer and the opened things travel together as a `Session`.
"""

import os
import shlex
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from daemon import settings
from daemon.bucket import Bucket, keys_of, open_bucket
from daemon.cli import failures
from daemon.cli.failures import BucketMissing, UsageError
from daemon.cli.options import JournalPlace, Place, Printing, Prose
from daemon.cli.output import Printer
from daemon.lifecycle import SystemRuntime
from daemon.settings import Settings
from daemon.stores import locations
from daemon.telemetry import warnings_for_people
from events.journal import Journal
from renderers.model import Scope

if TYPE_CHECKING:  # takes long to import
    from daemon.publishing.trust.policy import TrustPolicy


@dataclass(frozen=True, slots=True)
class Session:
    """A verb's surroundings."""

    settings: Settings
    bucket: Bucket
    runtime: SystemRuntime
    printer: Printer
    trust: "TrustPolicy | None" = None
    debug: bool = False

    def failure_of(self, scope: Scope, error: Exception) -> tuple[str, int]:
        """What an error of one scope means, in words and as an exit code; it must not hide the other scopes."""
        if self.debug:
            self.printer.warn(f"{scope}:")
            traceback.print_exception(error, file=self.printer.stderr)
        return failures.words(error), failures.exit_code(error)

    @property
    def now(self) -> datetime:
        """The time, for ages."""
        return self.runtime.now()


def load_settings(place: Place, flags: Mapping[str, Any] | None = None, *, secrets: bool = False) -> Settings:
    """The settings that flags, environment and file make; the secrets only for who needs them.

    Raises:
        SettingsError: with every problem.
    """
    return settings.load({"bucket": place.bucket, **(flags or {})}, os.environ, place.config, secrets=secrets).settings


def printer_of(prose: Prose) -> Printer:
    """Prints to this process's own streams."""
    return Printer.of(prose, os.environ)


@asynccontextmanager
async def session(
    place: Place, printing: Printing, journal: JournalPlace | None = None, *, guarded: bool = True, new: bool = False
) -> AsyncIterator[Session]:
    """The bucket that the options name, opened; `write_guard` unless the verb probes it.

    Raises:
        BucketMissing: it is a folder that does not exist, and it is not to be a `new` one.
    """
    flags = {"bucket": place.bucket, "journal.path": journal.journal if journal else None}
    read = settings.load(flags, os.environ, place.config, secrets=False)
    loaded = read.settings
    if not new:
        _refuse_missing(loaded.bucket, read.origin("bucket"))
    runtime = SystemRuntime()
    try:
        keys = keys_of(loaded)
        bucket = open_bucket(loaded.bucket, runtime, keys=keys, guarded=guarded)
        with warnings_for_people():
            yield Session(loaded, bucket, runtime, printer_of(printing), keys.trust, printing.debug)
    finally:
        runtime.close()


def _refuse_missing(bucket: str, origin: str) -> None:
    """An empty store and a mistyped path must not look alike."""
    location = locations.parse(bucket)
    if not isinstance(location, locations.Directory):
        return
    try:
        location.path.stat()
    except FileNotFoundError as error:
        path = location.path.absolute()
        raise BucketMissing(
            f"there is no bucket at {path} ({origin}). If it should exist, mount its volume or correct the path "
            f"(--bucket, REBUNDLE_BUCKET). For a new bucket a daemon makes the folder when it publishes, and "
            f"`rebundle doctor {shlex.quote(str(path))} --create` makes it now"
        ) from error
    except OSError:
        return  # the store says what keeps it from being read


@asynccontextmanager
async def opened_journal(loaded: Settings, runtime: SystemRuntime) -> AsyncIterator[Journal]:
    """The journal, beside a daemon that may be running.

    Raises:
        JournalMissing: there is none at that path.
    """
    journal = await Journal.open(loaded.journal.path, clock=runtime.now, token=runtime.random_id, run=False)
    async with journal:
        yield journal


def scope_of(text: str) -> Scope:
    """The scope that an argument names.

    Raises:
        UsageError: it is no scope.
    """
    try:
        return Scope.parse(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a scope: expected BUNDLE/TARGET; `rebundle scopes` lists them") from error
