"""What of a bundle may change under its name: images by tag, artifacts without a digest. Pure.

A composition says exactly which text a target host is given, and so which image it asks for. Which bytes it gets is
said by a digest alone: a tag may be moved, an artifact's files may be written anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from renderers.errors import RenderError
from renderers.model import Composition, RenderDefaults

Policy = Literal["off", "warn", "require"]


@dataclass(frozen=True, slots=True)
class Movable:
    """An image or an artifact that no digest holds, and what uses it."""

    kind: Literal["image", "artifact"]
    name: str
    used_by: tuple[str, ...]
    """`model 101`, `proxy`, `download`, `router`."""

    def __str__(self) -> str:
        more = f" and {len(self.used_by) - 1} more" if len(self.used_by) > 1 else ""
        return f"{self.kind} {self.name} ({self.used_by[0]}{more})"


class Unpinned(RenderError):
    """A composition has what may change under its name, and the operator's policy forbids that."""

    def __init__(self, found: tuple[Movable, ...]) -> None:
        shown = ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        super().__init__(f"no digest holds {shown}; setting publish.pinning = require: name them by digest")
        self.found = found


def movable(composition: Composition, defaults: RenderDefaults) -> tuple[Movable, ...]:
    """Each once, images first, sorted by name."""
    users: dict[tuple[Literal["image", "artifact"], str], list[str]] = {}
    for kind, name, user in _named(composition, defaults):
        users.setdefault((kind, name), []).append(user)
    ordered = sorted(users, key=lambda each: (each[0] == "artifact", each[1]))
    return tuple(Movable(kind, name, tuple(users[kind, name])) for kind, name in ordered)


def require(composition: Composition, defaults: RenderDefaults) -> None:
    """Raises Unpinned if anything may change under its name."""
    found = movable(composition, defaults)
    if found:
        raise Unpinned(found)


def _named(
    composition: Composition, defaults: RenderDefaults
) -> Iterator[tuple[Literal["image", "artifact"], str, str]]:
    images = [
        (defaults.download_image, "download"),
        (defaults.router_image, "router"),
        (composition.proxy.image, "proxy"),
        *((model.serving.image, f"model {model.id}") for model in composition.models),
    ]
    for image, user in images:
        if "@" not in image:
            yield "image", image, user
    for model in composition.models:
        if model.artifact.digest is None:
            yield "artifact", model.artifact.uri, f"model {model.id}"
