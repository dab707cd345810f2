"""Opens the bucket and the journal for a command, and closes them afterwards.

Each command runs in one event loop. A `Session` holds the settings, the bucket, the clock and the
printer.
"""

import os
import shlex
import stat
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from daemon import settings
from daemon.bucket import Bucket, bucket_on, keys_of, open_store
from daemon.cli import failures, suggestions
from daemon.cli.failures import BucketMissing, UsageError
from daemon.cli.options import JournalPlace, Place, Printing, Prose
from daemon.cli.output import Printer
from daemon.lifecycle import SystemRuntime
from daemon.settings import Settings
from daemon.stores import locations
from renderers.values import Scope

if TYPE_CHECKING:  # take long to import
    from daemon.publishing.trust.policy import TrustPolicy
    from events.journal import Journal


@dataclass(frozen=True, slots=True)
class Session:
    """The environment of one command."""

    settings: Settings
    bucket: Bucket
    runtime: SystemRuntime
    printer: Printer
    trust: "TrustPolicy | None" = None
    debug: bool = False

    def failure_of(self, scope: Scope, error: Exception) -> tuple[str, int]:
        """The message and exit code of an error that affects one scope, while others continue."""
        if self.debug:
            self.printer.warn(f"{scope}:")
            traceback.print_exception(error, file=self.printer.stderr)
        return failures.words(error), failures.exit_code(error)

    @property
    def now(self) -> datetime:
        """The current time, for ages."""
        return self.runtime.now()


def load_settings(
    place: Place, flags: Mapping[str, Any] | None = None, *, secrets: bool = False
) -> Settings:
    """Load the settings from flags, environment and file; secrets only if requested.

    Raises:
        SettingsError: it lists every problem.
    """
    return settings.load(
        {"bucket": place.bucket, **(flags or {})}, os.environ, place.config, secrets=secrets
    ).settings


def printer_of(prose: Prose) -> Printer:
    """A printer to this process's streams."""
    return Printer.of(prose, os.environ, suggestions.current())


@asynccontextmanager
async def session(
    place: Place,
    printing: Printing,
    journal: JournalPlace | None = None,
    *,
    guarded: bool = True,
    new: bool = False,
) -> AsyncIterator[Session]:
    """Open the bucket that the options name.

    `guarded` adds the store's write guard; a probe of the store works without it. `new` accepts a
    directory that does not exist yet.

    Raises:
        BucketMissing: the directory does not exist or is a file, and `new` is False.
    """
    flags = {"bucket": place.bucket, "journal.path": journal.journal if journal else None}
    read = settings.load(flags, os.environ, place.config, secrets=False)
    loaded = read.settings
    if not new:
        _refuse_missing(loaded.bucket, read.origin("bucket"))
    runtime, printer = SystemRuntime(), printer_of(printing)
    try:
        keys = keys_of(loaded)
        opened = open_store(
            loaded.bucket,
            runtime,
            guarded=guarded,
            must_exist=not new,
            slow=_once(partial(printer.say, f"still waiting for {loaded.bucket} …")),
        )
        bucket = bucket_on(opened, runtime, keys=keys)
        yield Session(loaded, bucket, runtime, printer, keys.trust, printing.debug)
    finally:
        runtime.close()


def _once(notice: Callable[[], None]) -> Callable[[], None]:
    """A function that calls `notice` the first time only."""
    pending = [notice]
    return lambda: pending.pop()() if pending else None


def _refuse_missing(bucket: str, origin: str) -> None:
    """Reject a mistyped path, which would otherwise look like an empty bucket."""
    location = locations.parse(bucket)
    if not isinstance(location, locations.Directory):
        return
    path = location.path.absolute()
    no_folder = BucketMissing(
        f"{path} ({origin}) is a file or below one, not the folder of a bucket: correct the path "
        "(--bucket, REBUNDLE_BUCKET)"
    )
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise no_folder
    except NotADirectoryError:
        raise no_folder from None
    except FileNotFoundError as error:
        raise BucketMissing(
            f"there is no bucket at {path} ({origin}). If it should exist, mount its volume or "
            "correct the path (--bucket, REBUNDLE_BUCKET). For a new bucket the daemon creates the "
            "directory at its first start; "
            f"`rebundle doctor --bucket {shlex.quote(str(path))} --create` creates it now"
        ) from error
    except OSError:
        return  # the store reports this error when it is read


@asynccontextmanager
async def opened_journal(loaded: Settings, runtime: SystemRuntime) -> AsyncIterator["Journal"]:
    """Open the journal. A daemon may be using it at the same time.

    Raises:
        JournalMissing: there is no journal at that path.
    """
    from events.journal import Journal  # noqa: PLC0415  # takes long to import

    journal = await Journal.open(
        loaded.journal.path, clock=runtime.now, token=runtime.random_id, run=False
    )
    async with journal:
        yield journal


def scope_of(text: str) -> Scope:
    """The scope that an argument names.

    Raises:
        UsageError: it is not a scope.
    """
    try:
        return Scope.parse(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a scope: expected BUNDLE/TARGET; `rebundle scopes` lists the scopes"
        ) from error
