"""`rebundle republish`: desired rendered anew, after an upgrade or a change of render defaults or templates.

The state keeps its id, its revision and its events; it gets a new attempt. One more compare-and-swap of `operations`,
which is decided again when another writer was faster. An older renderer does not overwrite a newer one's work.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Annotated

from cyclopts import Parameter

from daemon import customisation
from daemon.cli.changes import act_and_wait, done_lines
from daemon.cli.codes import DONE
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
from daemon.cli.session import Session, scope_of, session
from daemon.inspection.comparison import FileChange, Texts, compare_files, differing, files_view, texts_of
from daemon.inspection.views import done_view
from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, OperationRefused, VerificationFailed
from daemon.publishing.manifest import RenderedState
from daemon.publishing.operator_commands import ChangeResult, Verb
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.protocol import Writing
from daemon.rendering import Rendering, refuse_newer_renderer
from daemon.stores.errors import ObjectDamaged
from renderers import gate
from renderers.bundle import RENDERER_VERSION, Renderer
from renderers.model import RenderedFile, Scope, Stamp


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
    """Render what is desired with this release, the configured defaults and templates, and publish that."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        base = await opened.bucket.reader.existing(named)
        current = base.pointer.desired
        if current is None:
            raise NotFound(f"{scope} is retired: nothing is desired there")
        refuse_newer_renderer(named, current)
        state = await rendered_anew(opened, named, current)
        before = await opened.bucket.reader.manifest(named, current)
        code = DONE
        if dry_run:
            opened.bucket.publisher.refuse_unwritable(named, base, ("publish", "pointer"))
            after = _following(base.pointer, current, opened.bucket.publisher.writing(actor.name, reason))
            would = ChangeResult(base.pointer, after, changed=True)
            _tell_differences(opened.printer, would, await _differences(opened, named, current, state))
        else:
            publication = await opened.bucket.publisher.store_state(named, state)
            verb = publish_over(base.pointer, publication)
            code = await act_and_wait(opened, named, verb, name="republish", actor=actor, reason=reason, wait=wait)
        if (before.render_defaults_digest, before.templates) != (state.defaults.digest, state.templates):
            opened.printer.say(
                "its settings or templates are others than before: a daemon that runs keeps those it started with, "
                "so restart it, or its next event publishes them again"
            )
        return code


async def rendered_anew(opened: Session, scope: Scope, current: Publication) -> RenderedState:
    """The state of a publication with today's files.

    Raises:
        GateFailure: what was rendered is not what the composition says.
        SettingsError: the scope's templates cannot be used.
    """
    manifest = await opened.bucket.reader.manifest(scope, current)
    composition = manifest.composition_value()
    own = await opened.runtime.run_in_thread(customisation.for_scope, opened.settings, scope)
    rendering = Rendering(
        Renderer(), gate.check, lambda _scope: own, opened.settings.limits, opened.settings.publish.pinning
    )
    stamp = Stamp(current.state, str(current.revision))
    return RenderedState(
        composition=composition,
        defaults=own.defaults,
        state=current.state,
        revision=current.revision,
        kind=current.kind,
        late=False,
        files=await opened.runtime.run_in_thread(rendering.render, composition, stamp),
        renderer=RENDERER_VERSION,
        templates=own.templates.digest,
        events=manifest.events,
    )


def _following(pointer: Pointer, current: Publication, writing: Writing) -> Pointer:
    # Attempt and digest are known once it is stored.
    anew = current.model_copy(update={"attempt": "", "manifest_sha256": "", "renderer": RENDERER_VERSION})
    return protocol.publish(pointer, writing, [anew])


async def _differences(
    opened: Session, scope: Scope, current: Publication, state: RenderedState
) -> tuple[Sequence[FileChange], Texts]:
    """What differs from what is published; every file, where that cannot be read: it can be published anew none the
    less."""
    published: Sequence[RenderedFile] = ()
    try:
        published = await opened.bucket.reader.files(scope, current)
    except (NotFound, VerificationFailed, ObjectDamaged) as error:
        opened.printer.warn(f"what is published cannot be read and would be rendered again: {error}")
    changes = await opened.runtime.run_in_thread(compare_files, published, state.files)
    return changes, await opened.runtime.run_in_thread(texts_of, changes)


def _tell_differences(printer: Printer, would: ChangeResult, differences: tuple[Sequence[FileChange], Texts]) -> None:
    changes, texts = differences
    view = done_view("republish", would, dry_run=True) | {"files": files_view(changes, texts)}
    printer.data(view, chain(done_lines(view, printer), colored_diff(texts, printer)))
    printer.say(f"{differing(changes)}; example/creds/ is not compared")


def publish_over(before: Pointer, publication: Publication) -> Verb:
    """Publishes what was rendered of `before`'s desired, if that is desired still.

    Refused after a collection, which may have taken what was stored meanwhile for an orphan (protocol 4).
    """

    def verb(pointer: Pointer, writing: Writing) -> Pointer:
        if pointer.gc_epoch != before.gc_epoch:
            raise OperationRefused(
                f"{pointer.scope} was collected while {publication.state} was rendered: republish again"
            )
        if (pointer.desired and pointer.desired.id) != (before.desired and before.desired.id):
            raise OperationRefused(f"desired moved on from {publication.state} while it was rendered: republish again")
        return protocol.publish(pointer, writing, [publication])

    return verb
