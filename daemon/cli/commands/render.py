"""`rebundle render`: renders a composition into a directory, without bucket, network or daemon.

The gate checks the files before they are written. A manifest is rendered with its recorded defaults
and with the templates that match its digest: the built-in ones, or those that the settings name. If
the templates and this release's renderer are the ones that wrote the manifest, the content digest
must be the same (protocol 6).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from daemon import changes, customisation
from daemon.cli.files import check_vacant, in_file, read_input, write_tree
from daemon.cli.formatting import pairs
from daemon.cli.options import DEFAULT_PROSE, SHARED, Place, Prose
from daemon.cli.session import load_settings, printer_of
from daemon.publishing import archive, manifest
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.manifest import Manifest
from daemon.publishing.wording import some
from events import strict_json
from events.dialects import cloudevents
from events.errors import InvalidEvent, Problem
from events.model import BUNDLE_STATE_CREATED, Event
from renderers.bundle import RENDERER_VERSION, Customisation, Renderer
from renderers.checked import render_checked
from renderers.composition import Composition, Stamp
from renderers.template_set import Templates
from renderers.values import RenderedFile

_UNPUBLISHED: Final = Stamp(state="unpublished", revision="0")


@dataclass(frozen=True, slots=True)
class Input:
    """A composition to render, and the state it is rendered as."""

    composition: Composition
    stamp: Stamp
    recorded: Manifest | None = None
    """The manifest that it came from, if any."""
    ignored_fields: tuple[str, ...] = ()
    """JSON paths of unknown fields in the input, which have no effect."""


def render(
    composition: Annotated[
        str,
        Parameter(
            help="File with a bundle_state.created event, its data, or a manifest.json; - for "
            "standard input.",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    directory: Annotated[
        Path,
        Parameter(name=("--directory", "-o"), help="Output directory; it must be absent or empty."),
    ],
    config: Annotated[
        Path | None,
        Parameter(group=SHARED, help="Settings file (TOML) with defaults and templates."),
    ] = None,
    prose: Prose = DEFAULT_PROSE,
) -> None:
    """Write README.md, base/ and example/ of a composition into a directory."""
    printer = printer_of(prose)
    source = decode_file(composition)
    check_vacant(directory)
    options = customisation_for(source, config)
    files = files_of(source, options)
    write_tree(directory, files)
    rendered = (
        ("scope", source.composition.scope),
        ("state", f"{source.stamp.state} ({source.stamp.revision})"),
        ("composition", f"sha256 {source.composition.digest}"),
        ("directory", directory),
        ("files", len(files)),
    )
    printer.data({}, () if printer.quiet else pairs(rendered))
    if source.ignored_fields:
        printer.warn(f"these fields are unknown and have no effect: {some(source.ignored_fields)}")
    if source.recorded is not None and not _same_renderer(source.recorded, options):
        printer.say(
            "the manifest was written by another renderer or with other templates: "
            "the files may differ from the published ones"
        )


def decode_file(name: str) -> Input:
    """Decode a file, as `decode_input` does. Each problem has the name of the file."""
    body = read_input(name)
    try:
        return decode_input(body)
    except InvalidEvent as error:
        raise in_file(name, error) from None


def decode_input(body: bytes) -> Input:
    """Decode an event, the data of an event, or a manifest.

    Raises:
        InvalidEvent: it lists every problem. VerificationFailed: the manifest contradicts itself.
    """
    document = strict_json.loads(body, max_bytes=cloudevents.FILE_LIMITS.max_bytes)
    if not isinstance(document, dict):
        actual = strict_json.described(document)
        raise InvalidEvent(Problem("$", "must be an event, its data, or a manifest", actual))
    if "specversion" in document:
        return _from_event(body)
    if "composition_digest" in document:
        recorded = manifest.decode(body)
        return Input(
            recorded.composition_value(), Stamp(recorded.state, str(recorded.revision)), recorded
        )
    return _from_data(document)


def customisation_for(source: Input, config: Path | None) -> Customisation:
    """The defaults and templates for the input: recorded in its manifest, else from the settings.

    Raises:
        SettingsError: the settings, or the templates they name, are unusable.
        TooBig: the daemon would reject the composition. A manifest is rendered whatever its size.
    """
    recorded = source.recorded
    if recorded is not None and recorded.templates == Templates.built_in().digest:
        return Customisation(recorded.defaults_value())
    settings = load_settings(Place(config=config))
    options = customisation.for_scope(settings, source.composition.scope)
    if recorded is not None:
        return Customisation(recorded.defaults_value(), options.templates)
    settings.limits.check(source.composition)
    return options


def files_of(source: Input, options: Customisation) -> tuple[RenderedFile, ...]:
    """Render the files and check them, also against the manifest that they come from.

    Raises:
        GateFailure: the files do not match the composition.
        VerificationFailed: the files do not match the manifest.
    """
    files = render_checked(source.composition, source.stamp, options, renderer=Renderer())
    recorded = source.recorded
    if recorded is not None and _same_renderer(recorded, options):
        digest = archive.content_digest(archive.digest_files(files))
        if digest != recorded.content_digest:
            raise VerificationFailed(
                f"the content digest is {digest}, but the manifest has {recorded.content_digest}"
            )
    return files


def _same_renderer(recorded: Manifest, options: Customisation) -> bool:
    current = (RENDERER_VERSION, options.templates.digest)
    return (recorded.renderer, recorded.templates) == current


def _from_event(body: bytes) -> Input:
    event = cloudevents.decode_structured(body, cloudevents.FILE_LIMITS)
    return _from_received(changes.received(event), event.type)


def _from_received(new: changes.Received, kind: str = BUNDLE_STATE_CREATED) -> Input:
    change = new.change
    if not isinstance(change, changes.StateCreated):
        expected = f"must be {BUNDLE_STATE_CREATED}: no other event has a complete composition"
        raise InvalidEvent(Problem("$.type", expected, kind))
    stamp = Stamp(change.state, str(change.revision))
    return Input(change.composition, stamp, ignored_fields=new.ignored_fields)


def _from_data(data: dict[str, Any]) -> Input:
    """Decode the data of an event like the whole event. A composition alone has no state."""
    try:
        if "state" not in data:
            composition, ignored = changes.received_composition(data)
            source = Input(composition, _UNPUBLISHED, ignored_fields=ignored)
        else:
            event = Event(id="", source="", type=BUNDLE_STATE_CREATED, data=data)
            source = _from_received(changes.received(event))
    except InvalidEvent as error:
        problems = (replace(problem, path=_in_data(problem.path)) for problem in error.problems)
        raise InvalidEvent(*problems) from None
    return replace(source, ignored_fields=tuple(map(_in_data, source.ignored_fields)))


def _in_data(path: str) -> str:
    """A path of an event in a file that has only its data."""
    return "$" + path.removeprefix("$.data")
