"""`rebundle render`: a composition's bundle in a folder; no bucket, no network, no daemon.

What is written has passed the gate. A manifest is rendered with the defaults it records and with the templates that
have its digest, the built-in ones or those that the settings name; where these and this release's renderer are those
that wrote it, the same content digest must come out (protocol 6).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from daemon import changes, customisation
from daemon.cli.files import check_vacant, read_input, write_tree
from daemon.cli.formatting import pairs
from daemon.cli.options import DEFAULT_PROSE, SHARED, Place, Prose
from daemon.cli.session import load_settings, printer_of
from daemon.publishing import archive, manifest
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.manifest import Manifest
from events import strict_json
from events.dialects import cloudevents
from events.errors import InvalidEvent, Problem
from events.model import BUNDLE_STATE_CREATED, Event
from renderers import bundle, gate
from renderers.bundle import Customisation
from renderers.model import Composition, RenderedFile, Stamp
from renderers.template_set import Templates

_UNPUBLISHED: Final = Stamp(state="unpublished", revision="0")


@dataclass(frozen=True, slots=True)
class Input:
    """What is to be rendered, as which state."""

    composition: Composition
    stamp: Stamp
    recorded: Manifest | None = None
    """The manifest it came from."""


def render(
    composition: Annotated[
        str,
        Parameter(
            help="A bundle_state.created event, its data, or a manifest.json; - for standard input.",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    directory: Annotated[Path, Parameter(name=("--directory", "-o"), help="Where to; absent or empty.")],
    config: Annotated[
        Path | None, Parameter(group=SHARED, help="Settings file (TOML) with defaults and templates.")
    ] = None,
    prose: Prose = DEFAULT_PROSE,
) -> None:
    """Write README.md, base/ and example/ of a composition into a folder."""
    printer = printer_of(prose)
    given = decode_input(read_input(composition))
    check_vacant(directory)
    own = customisation_for(given, config)
    files = render_checked(given, own)
    write_tree(directory, files)
    rendered = (
        ("scope", given.composition.scope),
        ("state", f"{given.stamp.state} ({given.stamp.revision})"),
        ("composition", f"sha256 {given.composition.digest}"),
        ("directory", directory),
        ("files", len(files)),
    )
    printer.data({}, () if printer.quiet else pairs(rendered))
    if given.recorded is not None and not _same_renderer(given.recorded, own):
        printer.say(
            "the manifest was written by another renderer or with other templates: bytes may differ from its own"
        )


def decode_input(body: bytes) -> Input:
    """What these bytes describe.

    Raises:
        InvalidEvent: with every problem. VerificationFailed: a manifest that contradicts itself.
    """
    document = strict_json.loads(body, most_bytes=cloudevents.FILE_LIMITS.most_bytes)
    if not isinstance(document, dict):
        raise InvalidEvent(Problem("$", "must be an event, its data, or a manifest", strict_json.described(document)))
    if "specversion" in document:
        return _of_event(body)
    if "composition_digest" in document:
        recorded = manifest.decode(body)
        return Input(recorded.composition_value(), Stamp(recorded.state, str(recorded.revision)), recorded)
    return _of_data(document)


def customisation_for(given: Input, config: Path | None) -> Customisation:
    """What the input's scope brings: as the manifest records it, else as the settings say.

    Raises:
        SettingsError: the settings, or the templates they name, cannot be used.
        TooBig: the daemon would refuse the composition; what was published once is rendered, whatever its size.
    """
    recorded = given.recorded
    if recorded is not None and recorded.templates == Templates.built_in().digest:
        return Customisation(recorded.defaults_value())
    settings = load_settings(Place(config=config))
    own = customisation.for_scope(settings, given.composition.scope)
    if recorded is not None:
        return Customisation(recorded.defaults_value(), own.templates)
    settings.limits.check(given.composition)
    return own


def render_checked(given: Input, own: Customisation) -> tuple[RenderedFile, ...]:
    """The files, read back by the gate.

    Raises:
        GateFailure: they are not what the composition says.
        VerificationFailed: they are not the ones that the manifest describes.
    """
    rendered = bundle.Renderer().render(given.composition, own.defaults, given.stamp, own.templates)
    gate.check(given.composition, own.defaults, rendered, own.templates.overridden)
    recorded = given.recorded
    if recorded is not None and _same_renderer(recorded, own):
        digest = archive.content_digest(archive.digest_files(rendered.files))
        if digest != recorded.content_digest:
            raise VerificationFailed(f"the content digest is {digest}, the manifest says {recorded.content_digest}")
    return rendered.files


def _same_renderer(recorded: Manifest, own: Customisation) -> bool:
    return (recorded.renderer, recorded.templates) == (bundle.RENDERER_VERSION, own.templates.digest)


def _of_event(body: bytes) -> Input:
    event = cloudevents.decode_structured(body, cloudevents.FILE_LIMITS)
    return _of_change(changes.interpret(event), event.type)


def _of_change(change: changes.Change, kind: str = BUNDLE_STATE_CREATED) -> Input:
    if not isinstance(change, changes.StateCreated):
        raise InvalidEvent(Problem("$.type", f"must be {BUNDLE_STATE_CREATED}: it alone has a whole composition", kind))
    return Input(change.composition, Stamp(change.state, str(change.revision)))


def _of_data(data: dict[str, Any]) -> Input:
    """Data of an event, by the grammar of the whole event; a composition alone has no state."""
    try:
        if "state" not in data:
            return Input(changes.composition_of(data), _UNPUBLISHED)
        return _of_change(changes.interpret(Event(id="", source="", type=BUNDLE_STATE_CREATED, data=data)))
    except InvalidEvent as error:
        problems = (replace(each, path="$" + each.path.removeprefix("$.data")) for each in error.problems)
        raise InvalidEvent(*problems) from None
