"""`rebundle doctor`: whether a bucket honours what publishing rests on, step by step.

It does what a daemon does at its start (`stores.probe`), on any kind of bucket, and writes nothing outside of
`.rebundle/probe/`. Exit 6 if nothing may, or can, be published there; notes and lacking bonuses change no exit code.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Annotated, Final

from cyclopts import Parameter

from daemon.bucket import Bucket
from daemon.cli.codes import BACKEND, DONE
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns, pairs
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Document, Printer
from daemon.cli.session import session
from daemon.stores import locations
from daemon.stores.probe import Finding, ProbeResult, probe

_KINDS: Final = {locations.Directory: "directory", locations.S3: "s3", locations.Gcs: "gcs"}


async def doctor(
    bucket: Annotated[str | None, Parameter(help="Folder or URL; the same as --bucket.")] = None,
    /,
    *,
    create: Annotated[bool, Parameter(negative=(), help="Make the bucket's folder if it does not exist.")] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Probe a bucket: does it honour conditional writes, and what else is there to know. Writes below
    .rebundle/probe/ alone, and removes that."""
    if bucket is not None and place.bucket is not None:
        raise UsageError("name the bucket once: as the argument or with --bucket")
    named = replace(place, bucket=bucket or place.bucket)
    async with session(named, printing, guarded=False, new=create) as opened:
        result = await probe(opened.bucket.store, opened.runtime, bare=opened.bucket.quoting)
        document = _document(opened.settings.bucket, opened.bucket, result)
        opened.printer.data(document, _lines(document, result, opened.printer))
    return DONE if result.usable else BACKEND


def _document(url: str, bucket: Bucket, result: ProbeResult) -> Document:
    form = None if bucket.quoting is None else bucket.quoting.form
    return {
        "bucket": url,
        "store": _KINDS[type(bucket.location)],
        "usable": result.usable,
        "etags": None if form is None else str(form),
        "clock_ahead_seconds": result.ahead,
        "findings": [asdict(each) | {"verdict": str(each.verdict)} for each in result.findings],
    }


def _lines(document: Document, result: ProbeResult, printer: Printer) -> Iterator[str]:
    if printer.quiet:
        yield from () if result.usable else _problem(result, printer)
        return
    ahead = document["clock_ahead_seconds"]
    yield from pairs(
        [
            ("bucket", document["bucket"]),
            ("store", document["store"]),
            ("ETags", document["etags"]),
            ("clock", None if ahead is None else _clock(ahead)),
        ]
    )
    yield ""
    yield from _table(result.findings)
    yield ""
    if result.usable:
        yield printer.good("bundles can be published here; what is tested with which store: docs/stores.md")
    else:
        yield _verdict(result, printer)


def _problem(result: ProbeResult, printer: Printer) -> Iterator[str]:
    yield from _table([each for each in (result.refusal, result.failure) if each is not None])
    yield _verdict(result, printer)


def _table(findings: Iterable[Finding]) -> Iterable[str]:
    rows = [(each.clause, each.verdict, f"{each.seconds * 1000:.0f} ms", each.means) for each in findings]
    return columns(("STEP", "VERDICT", "TOOK", "WHICH MEANS"), rows)


def _verdict(result: ProbeResult, printer: Printer) -> str:
    if result.refusal is not None:
        return printer.bad("nothing may be published here: states would be lost; see docs/stores.md for stores that do")
    return printer.bad("not known whether bundles can be published here: a step failed, and the rest was not tried")


def _clock(ahead: float) -> str:
    # Servers tell times in whole seconds.
    if abs(ahead) <= 1:
        return "the same as this machine's, to the second"
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
