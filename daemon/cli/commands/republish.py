"""`rebundle republish`: renders the desired state again and publishes it.

Used after an upgrade, or after a change of render defaults or templates. The state keeps its id,
revision and events, and gets a new attempt. The pointer is changed by compare-and-swap; if another
writer was first, the change is evaluated again. A renderer does not replace the files of a newer
renderer.
"""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from daemon import customisation
from daemon.cli.options import (
    DEFAULT_ACTOR,
    DEFAULT_PLACE,
    DEFAULT_PRINTING,
    WAIT_SECONDS,
    Actor,
    DryRun,
    OptionalReason,
    Place,
    Printing,
    Wait,
)
from daemon.cli.output import Printer, colored_diff
from daemon.cli.pointer_changes import act_and_wait, change_lines
from daemon.cli.session import Session, scope_of, session
from daemon.exit_codes import DONE
from daemon.inspection.comparison import (
    FileChange,
    Texts,
    compare_files,
    differing,
    file_views,
    texts_of,
)
from daemon.inspection.documents import to_document
from daemon.inspection.pointer_changes import ChangeView
from daemon.publishing import operator_commands, protocol
from daemon.publishing.errors import NotFound, VerificationFailed
from daemon.publishing.manifest import RenderedState
from daemon.publishing.operator_commands import ChangeResult
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.protocol import Writing
from daemon.rendering import Rendering, refuse_newer_renderer
from daemon.stores.errors import ObjectDamaged
from renderers import gate
from renderers.bundle import RENDERER_VERSION, Renderer
from renderers.values import RenderedFile, Scope


async def republish(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: OptionalReason = "",
    dry_run: DryRun = False,
    wait: Wait = WAIT_SECONDS,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Render the desired state with this release and the configured settings, and publish it."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        base = await opened.bucket.reader.existing(named)
        current = base.pointer.desired
        if current is None:
            raise NotFound(f"{scope} is retired: it has no desired state to republish")
        refuse_newer_renderer(named, current)
        state = await render_again(opened, named, current)
        before = await opened.bucket.reader.manifest(named, current)
        code = DONE
        if dry_run:
            opened.bucket.publisher.refuse_unwritable(named, base, ("publish", "pointer"))
            writing = opened.bucket.publisher.writing(actor.name, reason)
            planned = ChangeResult(
                base.pointer, _preview(base.pointer, current, writing), changed=True
            )
            _print_differences(
                opened.printer, planned, await _differences(opened, named, current, state)
            )
        else:
            publication = await opened.bucket.publisher.store_state(named, state)
            command = operator_commands.republish(base.pointer, publication)
            code = await act_and_wait(
                opened, named, command, name="republish", actor=actor, reason=reason, wait=wait
            )
        if (before.render_defaults_digest, before.templates) != (
            state.defaults.digest,
            state.templates,
        ):
            opened.printer.say(
                "the render defaults or templates have changed. A running daemon uses those it "
                "was started with: restart it, or its next event publishes the old ones again"
            )
        return code


async def render_again(opened: Session, scope: Scope, current: Publication) -> RenderedState:
    """Render the composition of a publication with this release and the current settings.

    Raises:
        GateFailure: the rendered files do not match the composition.
        SettingsError: the templates of the scope are unusable.
    """
    manifest = await opened.bucket.reader.manifest(scope, current)
    composition = manifest.composition_value()
    options = await opened.runtime.run_in_thread(customisation.for_scope, opened.settings, scope)
    rendering = Rendering(
        Renderer(),
        gate.check,
        lambda _scope: options,
        opened.settings.limits,
        opened.settings.publish.pinning,
    )
    return await opened.runtime.run_in_thread(
        rendering.rendered_state,
        composition,
        state=current.state,
        revision=current.revision,
        kind=current.kind,
        events=manifest.events,
    )


def _preview(pointer: Pointer, current: Publication, writing: Writing) -> Pointer:
    # The attempt and the digest of the manifest are unknown until the state is stored.
    replacement = current.model_copy(
        update={"attempt": "", "manifest_sha256": "", "renderer": RENDERER_VERSION}
    )
    return protocol.publish(pointer, writing, [replacement])


async def _differences(
    opened: Session, scope: Scope, current: Publication, state: RenderedState
) -> tuple[Sequence[FileChange], Texts]:
    """The differences from the published files.

    If the published files cannot be read, every file differs. That does not prevent a republish.
    """
    published: Sequence[RenderedFile] = ()
    try:
        published = await opened.bucket.reader.files(scope, current)
    except (VerificationFailed, ObjectDamaged) as error:
        opened.printer.warn(f"the published files cannot be read and would be replaced: {error}")
    changes = await opened.runtime.run_in_thread(compare_files, published, state.files)
    return changes, await opened.runtime.run_in_thread(texts_of, changes)


def _print_differences(
    printer: Printer, planned: ChangeResult, differences: tuple[Sequence[FileChange], Texts]
) -> None:
    changes, texts = differences
    view = ChangeView.of("republish", planned, dry_run=True)
    document = {**to_document(view), "files": file_views(changes, texts)}
    printer.data(document, change_lines(view, printer), colored_diff(texts, printer))
    printer.say(f"{differing(changes)}; example/creds/ is not compared")
