"""Renders and checks planned states, within the limits and the pinning policy of the settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from daemon.consequences import Invalid
from daemon.folding import PlannedState
from daemon.publishing.errors import NewerRenderer
from daemon.publishing.manifest import ManifestEvent, RenderedState
from daemon.publishing.pointer import Publication, Revision
from renderers.bundle import RENDERER_VERSION, Customisation, Renderer
from renderers.checked import Gate, render_checked
from renderers.composition import Composition, Stamp
from renderers.errors import RenderError
from renderers.limits import DEFAULT_LIMITS, BundleLimits
from renderers.pinning import Policy
from renderers.pinning import require as require_pinned
from renderers.values import RenderedFile, Scope


class NotRenderable(Invalid):
    """A planned state cannot be rendered, or the gate refused its files."""

    def __init__(self, planned: PlannedState, failure: RenderError) -> None:
        super().__init__(str(failure))
        self.planned = planned
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Rendering:
    """Composition -> files, checked by the gate. All scopes share it."""

    renderer: Renderer
    gate: Gate
    customisation: Callable[[Scope], Customisation]
    limits: BundleLimits = DEFAULT_LIMITS
    pinning: Policy = "off"

    def render(self, composition: Composition, stamp: Stamp) -> tuple[RenderedFile, ...]:
        """The files of a state, checked.

        Raises:
            RenderError: the composition is too big, or a text cannot be written where it belongs.
            GateFailure: the files do not match the composition, so they must not be published.
        """
        self.limits.check(composition)
        own = self.customisation(composition.scope)
        if self.pinning == "require":
            require_pinned(composition, own.defaults)
        return render_checked(composition, stamp, own, renderer=self.renderer, check=self.gate)

    def rendered_state(
        self,
        composition: Composition,
        *,
        state: str,
        revision: Revision,
        kind: Literal["explicit", "derived"],
        late: bool = False,
        events: tuple[ManifestEvent, ...],
    ) -> RenderedState:
        """A state, rendered and checked, ready to be stored. Raises as `render`."""
        own = self.customisation(composition.scope)
        return RenderedState(
            composition=composition,
            defaults=own.defaults,
            state=state,
            revision=revision,
            kind=kind,
            late=late,
            files=self.render(composition, Stamp(state, str(revision))),
            renderer=RENDERER_VERSION,
            templates=own.templates.digest,
            events=events,
        )


def refuse_newer_renderer(scope: Scope, current: Publication) -> None:
    """Refuse to replace what a newer release rendered: its changes would be undone (protocol 4).

    Raises:
        NewerRenderer: a newer release rendered `current`.
    """
    if _version(current.renderer) > _version(RENDERER_VERSION):
        raise NewerRenderer(
            f"{scope} was rendered by a newer release (renderer {current.renderer}, this one has "
            f"{RENDERER_VERSION}): "
            "upgrade this one, or run it with --accept-older-renderer"
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
