"""Renders a composition and has the gate read the result back, before anything uses the files."""

from collections.abc import Callable, Sequence

from renderers import gate
from renderers.bundle import Customisation, Renderer
from renderers.composition import Composition, RenderDefaults, Stamp
from renderers.values import RenderedFile

Gate = Callable[[Composition, RenderDefaults, Sequence[RenderedFile], frozenset[str]], None]
"""Reads the files back and raises GateFailure if they do not match the composition.

The last argument has the names of the templates that replace built-in ones.
"""


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
    return rendered
