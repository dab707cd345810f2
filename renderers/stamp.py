"""Renders the stamp `base/.rebundle.json`: which state a rendered tree has, and its services.

It is for programs that compare two rendered trees of a bundle. Two texts do not show which model a
service serves, nor whether an engine took the place of another; the stamp does. `content` is the
digest by which they recognise a tree that somebody has edited. Schema 1 has neither.

The part of one model is rendered once and kept with its other texts (`bundle.ModelFragment`). Names
come from registries; they are in canonical JSON, as everything here.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from renderers.composition import Composition, Model, Stamp
from renderers.values import (
    STAMP_PATH,
    RenderedFile,
    canonical_json,
    content_digest,
    known_fields,
)

SCHEMA: Final = 2


@dataclass(frozen=True, slots=True)
class Service:
    """The entry of a model's service, as canonical JSON."""

    key: str
    """The service's name, such as `s101s`."""
    name: str | None
    """The model's name."""
    with_name: str
    without_name: str

    @classmethod
    def of(cls, model: Model) -> "Service":
        """The entry of this model's service."""
        key = f"s{model.id}s"
        gpu = model.serving.gpu
        fields: dict[str, Any] = {
            "gpu": None if gpu is None else known_fields(gpu),
            "model": model.id,
            "platform": model.serving.platform,
        }
        without_name = canonical_json({key: fields})[1:-1]
        named = canonical_json({key: fields | {"name": model.name}})[1:-1]
        return cls(key, model.name, named if model.name else without_name, without_name)

    @property
    def size(self) -> int:
        """The size of its texts, in characters."""
        return len(self.with_name) + len(self.without_name)


def joined(services: Collection[Service]) -> str:
    """The entries of all services, sorted by their names.

    A service has the `name` of its model if no other model of the bundle has that name.
    """
    names = Counter([service.name for service in services])
    return ",".join(
        [
            service.with_name if names[service.name] == 1 else service.without_name
            for service in sorted(services, key=attrgetter("key"))
        ]
    )


def stamp_file(
    composition: Composition, stamp: Stamp, files: Iterable[RenderedFile], services: str
) -> RenderedFile:
    """The stamp. `files` are all other files, sorted by path; `services` are the joined entries."""
    content = content_digest(map(attrgetter("counted"), files))
    head = canonical_json(
        {
            "composition": composition.digest,
            "content": content,
            "revision": stamp.revision,
            "schema": SCHEMA,
            "scope": str(composition.scope),
        }
    )
    state = canonical_json({"state": stamp.state})
    text = f'{head[:-1]},"services":{{{services}}},{state[1:]}\n'
    return RenderedFile(STAMP_PATH, text.encode())
