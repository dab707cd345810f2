"""Renders a composition and has the gate read the result back, before anything uses the files."""

from typing import Protocol

from renderers import gate
from renderers.bundle import Customisation, RenderedBundle, Renderer
from renderers.model import Composition, RenderDefaults, RenderedFile, Stamp


class Gate(Protocol):
    """Reads a rendered bundle back and compares it with its composition."""

    def __call__(
        self,
        composition: Composition,
        defaults: RenderDefaults,
        bundle: RenderedBundle,
        overridden: frozenset[str],
        /,
    ) -> None:
        """Raises GateFailure if they differ. `overridden`: templates that replace built-in ones."""
        ...


def render_checked(
    composition: Composition,
    stamp: Stamp,
    customisation: Customisation,
    *,
    renderer: Renderer,
    check: Gate = gate.check,
) -> tuple[RenderedFile, ...]:
    """The files of a composition, after the gate has accepted them.

    Raises:
        RenderError: a text cannot be written where it belongs, or a template cannot be rendered.
        GateFailure: the files do not match the composition, so they must not be used.
    """
    defaults, templates = customisation.defaults, customisation.templates
    rendered = renderer.render(composition, defaults, stamp, templates)
    check(composition, defaults, rendered, templates.overridden)
    return rendered.files
