"""Finds what is not pinned by digest in a bundle: images by tag, artifacts without digest. Pure.

A composition fixes the image name that a target host pulls, but only a digest fixes the bytes: a
tag can be moved, and an artifact's files can be overwritten.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from renderers.composition import Composition, RenderDefaults
from renderers.errors import Invalid

Policy = Literal["off", "warn", "require"]


@dataclass(frozen=True, slots=True)
class Movable:
    """An image or an artifact without a digest, and its users."""

    kind: Literal["image", "artifact"]
    name: str
    used_by: tuple[str, ...]
    """`model 101`, `proxy`, `download`, `router`."""

    def __str__(self) -> str:
        more = f" and {len(self.used_by) - 1} more" if len(self.used_by) > 1 else ""
        return f"{self.kind} {self.name} ({self.used_by[0]}{more})"


class Unpinned(Invalid):
    """A composition has images or artifacts without a digest, and the policy forbids that."""

    def __init__(self, found: tuple[Movable, ...]) -> None:
        shown = ", ".join(map(str, found[:5])) + (
            f" and {len(found) - 5} more" if len(found) > 5 else ""
        )
        super().__init__(
            f"not pinned by digest: {shown}; the setting publish.pinning = require needs a "
            "digest for each"
        )
        self.found = found


def movable(composition: Composition, defaults: RenderDefaults) -> tuple[Movable, ...]:
    """Every image and artifact without a digest, each once: images first, sorted by name."""
    users: dict[tuple[Literal["image", "artifact"], str], list[str]] = {}
    for kind, name, user in _without_digest(composition, defaults):
        users.setdefault((kind, name), []).append(user)
    ordered = sorted(users, key=lambda item: (item[0] == "artifact", item[1]))
    return tuple(Movable(kind, name, tuple(users[kind, name])) for kind, name in ordered)


def require(composition: Composition, defaults: RenderDefaults) -> None:
    """Raises Unpinned if any image or artifact has no digest."""
    found = movable(composition, defaults)
    if found:
        raise Unpinned(found)


def _without_digest(
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
