"""`rebundle show`: shows the details of one state."""

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from daemon.cli.formatting import age, columns, pairs
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.selection import publication_of
from daemon.cli.session import Session, scope_of, session
from daemon.inspection.views import View, movable_view, state_view
from daemon.publishing.manifest import Manifest
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
        view = {
            "scope": scope,
            **state_view(pointer, publication),
            **manifest_view(manifest),
            "movable": movable_view(manifest),
        }
        opened.printer.data(view, _lines(view, opened, with_files=files))


def manifest_view(manifest: Manifest) -> View:
    """The facts of a manifest that the pointer does not have."""
    return {
        "models": [_model(model) for model in manifest.composition.get("models", [])],
        "proxy_image": manifest.composition.get("proxy", {}).get("image"),
        "events": [event.model_dump(mode="json") for event in manifest.events],
        "templates": manifest.templates,
        "render_defaults": manifest.render_defaults,
        "render_defaults_digest": manifest.render_defaults_digest,
        "content_digest": manifest.content_digest,
        "archive": {
            "sha256": manifest.archive.sha256,
            "size": manifest.archive.size,
            "tar_sha256": manifest.archive.tar_sha256,
        },
        "files": [file.model_dump(mode="json") for file in manifest.files],
    }


def _model(model: View) -> View:
    serving = model.get("serving", {})
    return {
        "id": model.get("id"),
        "version": model.get("version"),
        "name": model.get("name"),
        "serving_version": model.get("serving_version"),
        "artifact": model.get("artifact", {}).get("uri"),
        "platform": serving.get("platform"),
        "image": serving.get("image"),
    }


def _lines(view: View, opened: Session, *, with_files: bool) -> Iterable[str]:
    printer = opened.printer
    yield from pairs(
        [
            ("scope", view["scope"]),
            ("state", view["state"]),
            ("revision", f"{view['revision']} ({view['kind']})"),
            ("status", _status(view)),
            ("published", f"{view['published_at']} ({age(view['published_at'], opened.now)} ago)"),
            ("attempt", view["attempt"]),
            ("composition", f"sha256 {view['composition']}"),
            ("content", f"sha256 {view['content_digest']}"),
            ("archive", f"sha256 {view['archive']['sha256']}, {view['archive']['size']} bytes"),
            ("renderer", f"{view['renderer']}, templates {view['templates'][:12]}"),
            ("defaults", f"{view['render_defaults_digest'][:12]}"),
            ("proxy", view["proxy_image"]),
            ("files", len(view["files"])),
        ]
    )
    yield from _section(printer, "models", len(view["models"]))
    models = [
        (m["id"], m["version"], m["platform"], m["image"], m["artifact"], m["name"])
        for m in view["models"]
    ]
    yield from columns(("MODEL", "VERSION", "PLATFORM", "IMAGE", "ARTIFACT", "NAME"), models)
    yield from _section(printer, "events", len(view["events"]))
    events = [
        (e["id"], e["type"], e["source"], f"{e['instance']}@{e['offset']}") for e in view["events"]
    ]
    yield from columns(("EVENT", "TYPE", "SOURCE", "POSITION"), events)
    if view["movable"]:
        yield from _section(printer, "not pinned by a digest", len(view["movable"]))
        movable = [(m["kind"], m["name"], some(m["used_by"], 3)) for m in view["movable"]]
        yield from columns(("KIND", "NAME", "USED BY"), movable)
    if with_files:
        yield from _section(printer, "files", len(view["files"]))
        files = [(f["path"], f["mode"], f["size"], f["sha256"]) for f in view["files"]]
        yield from columns(("PATH", "MODE", "SIZE", "SHA256"), files)


def _section(printer: Printer, name: str, count: int) -> Iterable[str]:
    yield ""
    yield printer.heading(f"{name} ({count})")


def _status(view: View) -> str:
    pinned = ", pinned" if view["pinned"] else ""
    return f"{view['status']}{pinned}" + (f": {view['reason']}" if view["reason"] else "")
