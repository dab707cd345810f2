"""Checks the stamp `base/.rebundle.json` against the composition and the other files.

A stamp has every model of the bundle, and an event changes one of them. So the part with the
services is compared as text, joined from one text for each model, and only the rest is parsed. The
texts of models that did not change come from the bundle that passed before (`incremental`).
"""

import json
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

from renderers.composition import Composition, Model
from renderers.errors import GateFailure
from renderers.gate.checks import Piece
from renderers.gate.diff import difference
from renderers.values import STAMP_PATH, RenderedFile, canonical_json, content_digest

_SERVICES: Final = ',"services":{'
Entry = tuple[str, str | None, str, str]
"""A model's service, the name of the model, and its entry without and with the name."""


def check_stamp(composition: Composition, files: Sequence[RenderedFile], services: str) -> None:
    """The stamp among `files` has the digests of composition and content, and these services.

    Raises:
        GateFailure: it has another value, or another form than canonical JSON.
    """
    piece = Piece(STAMP_PATH, next(file.body for file in files if file.path == STAMP_PATH))
    text = piece.text
    # Nowhere else: in a string of JSON these quotes would be escaped.
    start = text.find(_SERVICES) + len(_SERVICES)
    is_same = start >= len(_SERVICES) and text.startswith(f"{services}}}", start)
    if is_same:
        text = text[:start] + text[start + len(services) :]
    stamp = _parsed(piece, text)
    others = [file for file in files if file.path != STAMP_PATH]
    others.sort(key=attrgetter("path"))
    expected = {
        "schema": 2,
        "scope": str(composition.scope),
        "composition": composition.digest,
        "services": {} if is_same else json.loads(f"{{{services}}}"),
        "content": content_digest(map(attrgetter("counted"), others)),
    }
    # The gate does not know which state is published: these two need only have a value.
    free = {key: stamp.pop(key, None) for key in ("state", "revision")}
    different = difference(expected, stamp, (), may_add=False)
    if different is not None:
        path, wanted, actual = different
        raise GateFailure(STAMP_PATH, 1, f"{'.'.join(map(str, path))} = {wanted}", actual)
    for key, value in free.items():
        if not isinstance(value, str) or not value:
            raise GateFailure(STAMP_PATH, 1, f"a text for {key}", repr(value))


def _parsed(piece: Piece, text: str) -> dict[str, Any]:
    try:
        stamp = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GateFailure(STAMP_PATH, 1, "JSON", str(error)) from error
    if not isinstance(stamp, dict) or text != canonical_json(stamp) + "\n":
        raise GateFailure(STAMP_PATH, 1, "one line of canonical JSON", piece.text[:100])
    return stamp


def joined(entries: Sequence[Entry]) -> str:
    """The entries of all services, sorted by the services, with the names that are unique."""
    names = Counter([name for _, name, _, _ in entries])
    return ",".join(
        [
            with_name if names[name] == 1 else without_name
            for _, name, without_name, with_name in sorted(entries)
        ]
    )


def entry_of(model: Model) -> Entry:
    """What the stamp must have of a model, as canonical JSON."""
    service = f"s{model.id}s"
    gpu = model.serving.gpu
    fields = {
        "model": model.id,
        "platform": model.serving.platform,
        "gpu": gpu.model_dump(mode="json", exclude_none=True) if gpu is not None else None,
    }
    plain = canonical_json(fields)
    named = plain if model.name is None else canonical_json(fields | {"name": model.name})
    key = canonical_json(service)
    return service, model.name, f"{key}:{plain}", f"{key}:{named}"
