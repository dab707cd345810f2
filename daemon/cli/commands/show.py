"""`rebundle show`: shows the details of one state."""

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from daemon.cli.formatting import columns, pairs
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.selection import publication_of
from daemon.cli.session import Session, scope_of, session
from daemon.inspection.ages import age
from daemon.inspection.documents import to_document
from daemon.inspection.manifests import ManifestView
from daemon.inspection.scopes import StateView
from daemon.publishing.wording import some


async def show(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    state: Annotated[
        str, Parameter(help="State id or a unique prefix of it, STATE@ATTEMPT, live or desired.")
    ] = "live",
    /,
    *,
    files: Annotated[
        bool, Parameter(negative=(), help="Also list every file with its digest.")
    ] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Show the models, events, files and digests of a state, and why it is not live."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        pointer = (await opened.bucket.reader.existing(named)).pointer
        publication = publication_of(pointer, state)
        manifest = await opened.bucket.reader.manifest(named, publication)
        state_view = StateView.of(pointer, publication)
        details = ManifestView.of(manifest)
        document = {"scope": scope, **to_document(state_view), **to_document(details)}
        lines = _lines(scope, state_view, details, opened, with_files=files)
        opened.printer.data(document, lines)


def _lines(
    scope: str, view: StateView, details: ManifestView, opened: Session, *, with_files: bool
) -> Iterable[str]:
    printer, shown = opened.printer, view.publication
    yield from pairs(
        [
            ("scope", scope),
            ("state", shown.state),
            ("revision", f"{shown.revision} ({shown.kind})"),
            ("status", _status(view)),
            ("published", f"{shown.published_at} ({age(shown.published_at, opened.now)} ago)"),
            ("attempt", shown.attempt),
            ("composition", f"sha256 {shown.composition}"),
            ("content", f"sha256 {details.content_digest}"),
            ("archive", f"sha256 {details.archive.sha256}, {details.archive.size} bytes"),
            ("renderer", f"{shown.renderer}, templates {details.templates[:12]}"),
            ("defaults", f"{details.render_defaults_digest[:12]}"),
            ("proxy", details.proxy_image),
            ("files", len(details.files)),
        ]
    )
    yield from _section(printer, "models", len(details.models))
    models = [(m.id, m.version, m.platform, m.image, m.artifact, m.name) for m in details.models]
    yield from columns(("MODEL", "VERSION", "PLATFORM", "IMAGE", "ARTIFACT", "NAME"), models)
    yield from _section(printer, "events", len(details.events))
    events = [(e.id, e.type, e.source, f"{e.instance}@{e.offset}") for e in details.events]
    yield from columns(("EVENT", "TYPE", "SOURCE", "POSITION"), events)
    if details.movable:
        yield from _section(printer, "not pinned by a digest", len(details.movable))
        movable = [(m.kind, m.name, some(m.used_by, 3)) for m in details.movable]
        yield from columns(("KIND", "NAME", "USED BY"), movable)
    if with_files:
        yield from _section(printer, "files", len(details.files))
        files = [(f.path, f.mode, f.size, f.sha256) for f in details.files]
        yield from columns(("PATH", "MODE", "SIZE", "SHA256"), files)


def _section(printer: Printer, name: str, count: int) -> Iterable[str]:
    yield ""
    yield printer.heading(f"{name} ({count})")


def _status(view: StateView) -> str:
    pinned = ", pinned" if view.publication.pinned else ""
    return f"{view.status}{pinned}" + (f": {view.reason}" if view.reason else "")
