"""`rebundle doctor`: checks whether a bucket supports what publishing requires.

It runs the probe that a daemon runs at start-up (`stores.probe`), on any kind of bucket, and writes
only below `.rebundle/probe/`. Exit 6 if the bucket is unsuitable or a step failed. Notes and
missing optional features do not change the exit code.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Final

from cyclopts import Parameter

from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns, pairs
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.session import session
from daemon.exit_codes import BACKEND, DONE
from daemon.inspection.probe import ProbeView
from daemon.stores import locations
from daemon.stores.probe import Finding, ProbeResult, probe

_KINDS: Final = {locations.Directory: "directory", locations.S3: "s3", locations.Gcs: "gcs"}


async def doctor(
    bucket: Annotated[str | None, Parameter(help="Directory or URL; the same as --bucket.")] = None,
    /,
    *,
    create: Annotated[
        bool,
        Parameter(negative=(), help="Create the directory of the bucket if it does not exist."),
    ] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Probe a bucket for conditional writes and other properties.

    It writes only below .rebundle/probe/ and removes what it wrote.
    """
    if bucket is not None and place.bucket is not None:
        raise UsageError("name the bucket once: as the argument or with --bucket")
    named = replace(place, bucket=bucket or place.bucket)
    async with session(named, printing, guarded=False, new=create) as opened:
        result = await probe(opened.bucket.store, opened.runtime, bare=opened.bucket.quoting)
        quoting = opened.bucket.quoting
        view = ProbeView.of(
            opened.settings.bucket,
            _KINDS[type(opened.bucket.location)],
            result,
            etags=str(quoting.form) if quoting and quoting.form else None,
        )
        opened.printer.data(view, _lines(view, result, opened.printer))
    return DONE if result.usable else BACKEND


def _lines(view: ProbeView, result: ProbeResult, printer: Printer) -> Iterator[str]:
    if printer.quiet:
        yield from () if result.usable else _problem(result, printer)
        return
    ahead = view.clock_ahead_seconds
    yield from pairs(
        [
            ("bucket", view.bucket),
            ("store", view.store),
            ("ETags", view.etags),
            ("clock", None if ahead is None else _clock(ahead)),
        ]
    )
    yield ""
    yield from _table(result.findings)
    yield ""
    if result.usable:
        yield printer.good("bundles can be published here; docs/stores.md lists the tested stores")
    else:
        yield _conclusion(result, printer)


def _problem(result: ProbeResult, printer: Printer) -> Iterator[str]:
    yield from _table(
        [finding for finding in (result.refusal, result.failure) if finding is not None]
    )
    yield _conclusion(result, printer)


def _table(findings: Iterable[Finding]) -> Iterable[str]:
    rows = [
        (finding.step, finding.verdict, f"{finding.seconds * 1000:.0f} ms", finding.explanation)
        for finding in findings
    ]
    return columns(("STEP", "RESULT", "DURATION", "DETAILS"), rows)


def _conclusion(result: ProbeResult, printer: Printer) -> str:
    if result.refusal is not None:
        return printer.bad(
            "do not publish here, states would be lost; docs/stores.md lists stores that "
            "are suitable"
        )
    return printer.bad(
        "it is unknown whether bundles can be published here: a step failed, and the rest "
        "was skipped"
    )


def _clock(ahead: float) -> str:
    # Servers report their time in whole seconds.
    if abs(ahead) <= 1:
        return "equal to this machine's, to the second"
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
