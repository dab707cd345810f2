"""`rebundle republish`: desired rendered anew, after an upgrade or a change of render defaults or templates.

The state keeps its id, its revision and its events; it gets a new attempt. One more compare-and-swap of `operations`,
which is decided again when another writer was faster. An older renderer does not overwrite a newer one's work.
"""

from typing import Annotated

from cyclopts import Parameter

from daemon import customising
from daemon.cli.acting import tell
from daemon.cli.diff import colored, differing, files_view, texts_of
from daemon.cli.differences import compare_files
from daemon.cli.options import DEFAULT_ACTOR, DEFAULT_PLACE, DEFAULT_PRINTING, Actor, DryRun, Place, Printing
from daemon.cli.session import Session, scope_of, session
from daemon.pipeline import Rendering, refuse_newer_renderer
from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, Refused
from daemon.publishing.manifest import State
from daemon.publishing.operations import Verb
from daemon.publishing.pointer import Pointer, Publication
from daemon.publishing.protocol import Writing
from renderers import gate
from renderers.bundle import RENDERER_VERSION, Renderer
from renderers.model import Scope, Stamp


async def republish(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    /,
    *,
    reason: Annotated[str, Parameter(help="Why; recorded in the history.")] = "",
    dry_run: DryRun = False,
    actor: Actor = DEFAULT_ACTOR,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Render what is desired with this release, the configured defaults and templates, and publish that."""
    async with session(place, printing) as opened:
        named = scope_of(scope)
        pointer = (await opened.bucket.reader.existing(named)).pointer
        current = pointer.desired
        if current is None:
            raise NotFound(f"{scope} is retired: nothing is desired there")
        refuse_newer_renderer(named, current)
        state = await rendered_anew(opened, named, current)
        if dry_run:
            await _tell_differences(opened, named, current, state)
            return
        before = await opened.bucket.reader.manifest(named, current)
        publication = await opened.bucket.publisher.store_state(named, state)
        verb = publish_over(pointer, publication)
        done = await opened.bucket.operations.carry_out(named, verb, actor.name, reason)
        tell(opened.printer, "republish", done)
        if (before.render_defaults_digest, before.templates) != (state.defaults.digest, state.templates):
            opened.printer.say(
                "its settings or templates are others than before: a daemon that runs keeps those it started with, "
                "so restart it, or its next event publishes them again"
            )


async def rendered_anew(opened: Session, scope: Scope, current: Publication) -> State:
    """The state of a publication with today's files.

    Raises:
        GateFailure: what was rendered is not what the composition says.
        SettingsError: the scope's templates cannot be used.
    """
    manifest = await opened.bucket.reader.manifest(scope, current)
    composition = manifest.composition_value()
    own = await opened.runtime.offload(customising.for_scope, opened.settings, scope)
    rendering = Rendering(
        Renderer(), gate.check, lambda _scope: own, opened.settings.limits, opened.settings.publish.pinning
    )
    stamp = Stamp(current.state, str(current.revision))
    return State(
        composition=composition,
        defaults=own.defaults,
        state=current.state,
        revision=current.revision,
        kind=current.kind,
        late=False,
        files=await opened.runtime.offload(rendering.render, composition, stamp),
        renderer=RENDERER_VERSION,
        templates=own.templates.digest,
        events=manifest.events,
    )


async def _tell_differences(opened: Session, scope: Scope, current: Publication, state: State) -> None:
    published = await opened.bucket.reader.files(scope, current)
    changes = await opened.runtime.offload(compare_files, published, state.files)
    texts = await opened.runtime.offload(texts_of, changes)
    same = "" if changes else ", only the attempt is new"
    opened.printer.say(f"{scope}: {current.state} would be published anew; {differing(changes)}{same}")
    view = {"verb": "republish", "scope": str(scope), "dry_run": True, "state": current.state, "same": not changes}
    opened.printer.data(view | {"files": files_view(changes, texts)}, colored(texts, opened.printer))


def publish_over(before: Pointer, publication: Publication) -> Verb:
    """Publishes what was rendered of `before`'s desired, if that is desired still.

    Refused after a collection, which may have taken what was stored meanwhile for an orphan (protocol 4).
    """

    def verb(pointer: Pointer, writing: Writing) -> Pointer:
        if pointer.gc_epoch != before.gc_epoch:
            raise Refused(f"{pointer.scope} was collected while {publication.state} was rendered: republish again")
        if (pointer.desired and pointer.desired.id) != (before.desired and before.desired.id):
            raise Refused(f"desired moved on from {publication.state} while it was rendered: republish again")
        return protocol.publish(pointer, writing, [publication])

    return verb
