"""Checks each generated file of a bundle against the composition.

Each model is checked alone: its service, its lines in the map, the list and the env file, and its batching file. What
passed is kept and checked again only where it differs (`incremental`), so the cost grows with the change. A file that
is the same in every bundle must equal the package's own, byte for byte (`static_files`).

A template that an operator replaced may add to a file, but it may not leave out or contradict anything: `diff` has the
rule. The lists of models (models.map, models.txt), the batching parameters and the signature are exact in every case.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Final, Protocol

from renderers.cache import Cache
from renderers.errors import GateFailure
from renderers.gate import expectations, parsers
from renderers.gate.checks import (
    CheckedBundle,
    Piece,
    check_assignments,
    check_own,
    check_pattern,
    check_plain,
    check_yaml,
    compare,
    compare_fields,
    own_text,
    readable,
    spellings,
)
from renderers.gate.expectations import short_digest
from renderers.gate.incremental import NOTHING, Cutting, EndOf, PassedBundle, Run, cut, end_of_line, line_at, runs
from renderers.gate.static_files import ENV, README, SCRIPT, STATIC, check_readme, check_static_files
from renderers.model import Composition, Model, RenderDefaults, RenderedFile, canonical_json

_COMPOSE: Final = "base/bundle/docker-compose.yaml"
_MAP: Final = "base/bundle/nginx/models.map"
_SIGNATURE: Final = "base/bundle/proxy/bundle-signature.yaml"
_LIST: Final = "base/model-serving/model-download/models.txt"
_KEEP: Final = "base/model-serving/model-download/models/.gitkeep"
_STAMP: Final = "base/.rebundle.json"
_ALWAYS: Final = frozenset({_COMPOSE, _MAP, _SIGNATURE, _LIST, _KEEP, _STAMP, ENV, README, *STATIC})

_passed: Final = Cache[bool](16 << 20)
_judged: Final = Cache[PassedBundle](64 << 20)
"""By what it was judged by: the bundle that passed last."""
_VERDICT_SIZE: Final = 512


class Bundle(Protocol):
    """What a renderer hands over."""

    @property
    def files(self) -> tuple[RenderedFile, ...]:
        """Every file of the bundle."""
        ...


def check(
    composition: Composition, defaults: RenderDefaults, bundle: Bundle, overridden: frozenset[str] = frozenset()
) -> None:
    """Returns if every file of the bundle says what the composition says.

    What a template of the bundle's own makes (`overridden`: the templates' names) may say more, but nothing else.

    Raises:
        GateFailure: the first place that says something else.
    """
    files = {file.path: file for file in bundle.files}
    given = CheckedBundle(composition, defaults, overridden)
    before = _judged.get(given.key) or NOTHING
    steps = runs(composition.models, before.models)
    batching = _batching_paths(composition, steps, before)
    _check_paths(bundle, files, [path for path in batching if path])
    bodies = {path: file.body for path, file in files.items()}
    judged = _cut(given, bodies, batching, steps, before)
    for index in sorted(judged.changed):
        _check_model(given, judged, index)
    _judged.put(given.key, judged, judged.size)
    _check_signature(given, bodies[_SIGNATURE])
    _check_stamp(composition, bodies[_STAMP])
    check_static_files(given, bodies, judged.files[ENV].cuts[0])
    # Last, because their labels differ whenever a file above does: the fault is named where it is.
    document = _document(composition, bodies)
    _check_fixed_services(given, document, bodies)
    _check_ends(given, document)
    check_readme(given, bodies)  # it shows pieces of the services


def _batching_paths(composition: Composition, steps: Sequence[Run], before: PassedBundle) -> list[str | None]:
    paths: list[str | None] = []
    for step in steps:
        if step.before is None:
            paths.append(_batching_path(composition.models[step.first]))
        else:
            paths += before.paths[step.before : step.before + step.count]
    return paths


def _check_paths(bundle: Bundle, files: Mapping[str, RenderedFile], batching: Sequence[str]) -> None:
    if len(files) != len(bundle.files):
        raise GateFailure("", 1, "each path once", "a path twice")
    if len(files) != len(_ALWAYS) + len(batching) or not all(map(files.__contains__, (*_ALWAYS, *batching))):
        wanted = _ALWAYS.union(batching)
        path = min(wanted ^ files.keys())
        is_wanted = path in wanted
        raise GateFailure(path, 1, "this file" if is_wanted else "no such file", "none" if is_wanted else "one")
    executable = [file for file in bundle.files if file.executable != (file.path == SCRIPT)]
    for file in executable:
        raise GateFailure(file.path, 1, "0755 for download.sh alone", file.mode)
    if files[_KEEP].body:
        raise GateFailure(_KEEP, 1, "an empty file", repr(files[_KEEP].body[:50]))


def _cut(
    given: CheckedBundle,
    bodies: Mapping[str, bytes],
    paths: Sequence[str | None],
    steps: Sequence[Run],
    before: PassedBundle,
) -> PassedBundle:
    """The files that have a piece for each model, cut; `changed` are the models that have to be judged."""
    batching = tuple([bodies[path] if path else b"" for path in paths])
    changed = {step.first for step in steps if step.before is None}
    for step in steps:
        if step.before is not None:
            new, old = slice(step.first, step.first + step.count), slice(step.before, step.before + step.count)
            changed.update(range(new.start, new.stop) if batching[new] != before.batching[old] else ())
    files: dict[str, Cutting] = {}
    for file, start, end, end_of in _layout(given.composition, bodies):
        with readable(Piece(file, bodies[file])):
            files[file], different = cut(bodies[file], start, steps, before.files.get(file), end_of)
        changed |= different
        stop = files[file].cuts[-1]
        if stop != end:
            line = line_at(bodies[file], stop)
            raise GateFailure(
                file,
                line,
                f"nothing more behind the {len(paths)} models",
                repr(bodies[file][stop:][:50].decode("utf-8", "replace")),
            )
    return PassedBundle(given.composition.models, files, tuple(paths), batching, frozenset(changed))


def _document(composition: Composition, bodies: Mapping[str, bytes]) -> parsers.Document:
    with readable(Piece(_COMPOSE, bodies[_COMPOSE])):
        return parsers.document(bodies[_COMPOSE], _top(composition), _bottom(composition))


def _layout(composition: Composition, bodies: Mapping[str, bytes]) -> Iterator[tuple[str, int, int, EndOf]]:
    """Where the models' pieces begin and end in each file, and how one ends."""
    _, first, router, _, _ = _document(composition, bodies).cuts
    yield _COMPOSE, first, router, partial(_end_of_block, composition)
    yield _MAP, 0, len(bodies[_MAP]), end_of_line
    yield _LIST, 0, len(bodies[_LIST]), end_of_line
    with readable(Piece(ENV, bodies[ENV])):
        start = _start_of_paragraph(bodies[ENV], 0, composition.models[0])
    yield ENV, start, len(bodies[ENV]), partial(_end_of_paragraph, composition)


def _end_of_block(composition: Composition, text: bytes, start: int, index: int) -> int:
    models = composition.models
    following = f"s{models[index + 1].id}s" if index + 1 < len(models) else _bottom(composition)[0]
    end = text.find(f"\n  {following}:\n".encode(), start) + 1
    if end == 0:
        raise parsers.Unreadable(line_at(text, start), f"service {following} here or below", "none")
    return end


def _end_of_paragraph(composition: Composition, text: bytes, start: int, index: int) -> int:
    models = composition.models
    return _start_of_paragraph(text, start, models[index + 1]) if index + 1 < len(models) else len(text)


def _start_of_paragraph(text: bytes, position: int, model: Model) -> int:
    """The empty line above the variables of a model."""
    variable = f"SERVING_{model.id.replace('-', '_')}_CPU_LIMIT="
    above = text.rfind(b"\n\n", position, max(0, text.find(f"\n{variable}".encode(), position) + 1))
    if above < 0:
        raise parsers.Unreadable(line_at(text, position), f"{variable} below an empty line", "none")
    return above + 1


def _check_model(given: CheckedBundle, judged: PassedBundle, index: int) -> None:
    model, batching = judged.models[index], judged.batching[index]
    _check_batching(given, model, batching)
    _check_model_block(given, model, _piece(_COMPOSE, judged, index), batching)
    _check_map_line(model, _piece(_MAP, judged, index))
    _check_list_line(model, _piece(_LIST, judged, index))
    _check_env(given, model, _piece(ENV, judged, index))


def _piece(file: str, judged: PassedBundle, index: int) -> Piece:
    cutting = judged.files[file]
    return Piece(file, cutting.piece(index), cutting.text, cutting.cuts[index])


def _check_model_block(given: CheckedBundle, model: Model, piece: Piece, batching: bytes) -> None:
    mounted = batching.decode() if expectations.batching_parameters(model) is not None else None
    expected = expectations.model_service(model, given.composition, given.defaults, mounted)
    may_add = given.may_add(f"{model.serving.platform}.yaml")
    _check_block(piece, f"s{model.id}s", expected, expectations.model_comments(model), may_add=may_add)


def _check_map_line(model: Model, piece: Piece) -> None:
    with readable(piece):
        found = parsers.map_line(piece.text)
    compare(piece, (model.id, f"s{model.id}s", expectations.grpc_port(model)), found)


def _check_list_line(model: Model, piece: Piece) -> None:
    number = model.serving_version if expectations.loads_numbers(model) else None
    with readable(piece):
        found = parsers.list_line(piece.text)
    compare(piece, (model.id, number, model.artifact.uri), found)


def _check_env(given: CheckedBundle, model: Model, piece: Piece) -> None:
    if "serving.env" not in given.overridden:
        said = {"service": f"s{model.id}s", "variable": model.id.replace("-", "_")}
        check_pattern(piece, own_text("serving.env").decode(), said)
    piece = replace(piece, body=piece.body[1:], start=piece.start + 1)  # below its empty line
    amounts = expectations.amounts(model, given.defaults)
    defaults = [default for group in amounts.values() for default in group.values()]
    check_assignments(piece, {each.variable: "" for each in defaults}, may_add=given.may_add("serving.env"))
    noted = parsers.noted_amounts(piece.text)
    for default in defaults:
        name = "_".join(default.variable.split("_")[-2:])
        if name not in noted or not default.is_amount(*noted[name]):
            raise GateFailure(piece.file, piece.before + 1, f"{name} {default.amount}", str(noted.get(name)))


def _check_batching(given: CheckedBundle, model: Model, body: bytes) -> None:
    path, expected = _batching_path(model), expectations.batching_parameters(model)
    if path is None:
        return
    piece = Piece(path, body)
    with readable(piece):
        found = parsers.batching(piece.text)
    template = "batching_placeholder.txt" if expected is None else "batching_on.txt"
    if template in given.overridden:
        check_plain(piece)
    else:
        head = None if expected is None else body.find(b"\n") + 1
        pattern = b"".join(own_text(template).splitlines(keepends=True)[: None if head is None else 1])
        check_pattern(Piece(path, body[:head]), pattern.decode(), {"service": f"s{model.id}s"})
    if expected is not None:
        compare_fields(piece, expected, found)
    # Where it is off, the file is an operator's to fill in: whatever reads as parameters holds the places.
    elif not found:
        raise GateFailure(path, 1, "batching parameters that hold the places", "none")


def _check_fixed_services(given: CheckedBundle, document: parsers.Document, bodies: Mapping[str, bytes]) -> None:
    composition, defaults = given.composition, given.defaults
    download = _digest_of(bodies[_LIST], bodies[SCRIPT])
    expected = (
        ("model_download.yaml", 0, expectations.download_service(download, composition, defaults)),
        ("router.yaml", 2, expectations.router_service(_digest_of(bodies[_MAP]), composition, defaults)),
        ("proxy.yaml", 3, expectations.proxy_service(_digest_of(bodies[_SIGNATURE]), composition, defaults)),
    )
    names = (*_top(composition), *_bottom(composition))
    for template, index, service in expected:
        comments = expectations.proxy_comments(composition) if template == "proxy.yaml" else []
        _check_block(_service(document, index), names[index], service, comments, may_add=given.may_add(template))


def _check_ends(given: CheckedBundle, document: parsers.Document) -> None:
    text, start, end = document.text, document.cuts[0], document.cuts[-1]
    head = Piece(_COMPOSE, text[:start])
    check_yaml(head, {"services": None})
    if "header.yaml" not in given.overridden:
        check_own(head, "header.yaml")
    networks: dict[str, Any] = {"networks": {given.composition.bundle.name: {}}}
    check_yaml(Piece(_COMPOSE, text[end:], text, end), networks, may_add=given.may_add("networks.yaml"))


def _check_block(
    piece: Piece, name: str, expected: Mapping[str, Any], comments: Sequence[str], *, may_add: bool
) -> None:
    *lines, end = piece.body.split(b"\n")
    for number, line in enumerate(lines[1:], 2):
        if line and not line.startswith(b"    "):
            raise GateFailure(
                piece.file,
                piece.before + number,
                f"only {name} here, further in: a template adds no service",
                repr(line.decode("utf-8", "replace")),
            )
    if end or lines[-1] or not lines[-2]:
        raise GateFailure(piece.file, piece.before + len(lines), f"one empty line at the end of {name}", "another end")
    inside = replace(piece, body=b"services:\n" + piece.body, added=1)
    check_yaml(inside, {"services": {name: expected}}, may_add=may_add)
    if not may_add:
        _check_comments(piece, name, comments)


def _check_comments(piece: Piece, name: str, expected: Sequence[str]) -> None:
    """The options of a service that are switched off, at their places: what an operator may uncomment."""
    found = parsers.options(piece.text)
    for index, (number, place, comment) in enumerate(found):
        wanted = expected[index] if index < len(expected) else ""
        if comment not in spellings(wanted):
            what = f"the option {wanted}" if wanted else f"no other option in {name}"
            raise GateFailure(piece.file, piece.before + number, what, repr(comment))
        if place != expectations.place(wanted):
            key, column = expectations.place(wanted)
            raise GateFailure(
                piece.file, piece.before + number, f"{wanted} below {key}, {column} further in", repr(place)
            )
    if len(found) < len(expected):
        raise GateFailure(piece.file, piece.before + 1, f"the option {expected[len(found)]} in {name}", "none")


def _check_signature(given: CheckedBundle, body: bytes) -> None:
    signature = given.composition.proxy.signature
    verdict = ("signature", signature.canonical, hashlib.sha256(body).digest())
    if not _passed.get(verdict):
        check_yaml(Piece(_SIGNATURE, body), signature.document)
        _passed.put(verdict, value=True, size=_VERDICT_SIZE + len(signature.canonical))


def _check_stamp(composition: Composition, body: bytes) -> None:
    piece = Piece(_STAMP, body)
    try:
        said = json.loads(piece.text)
    except ValueError as error:
        raise GateFailure(_STAMP, 1, "JSON", str(error)) from error
    if not isinstance(said, dict) or piece.text != canonical_json(said) + "\n":
        raise GateFailure(_STAMP, 1, "one line of canonical JSON", piece.text[:100])
    free = {key: said.pop(key, None) for key in ("state", "revision")}
    compare(piece, {"schema": 1, "scope": str(composition.scope), "composition": composition.digest}, said)
    for key, value in free.items():
        if not isinstance(value, str) or not value:
            raise GateFailure(_STAMP, 1, f"a text for {key}", repr(value))


def _top(composition: Composition) -> tuple[str, str]:
    return "model_download", f"s{composition.models[0].id}s"


def _bottom(composition: Composition) -> tuple[str, str]:
    return f"{composition.bundle.name}-nginx", "model_proxy"


def _batching_path(model: Model) -> str | None:
    folder = expectations.batching_folder(model)
    return f"{folder}/batching_{model.id}.txt" if folder else None


@lru_cache(maxsize=8)
def _digest_of(*bodies: bytes) -> str:
    return short_digest([body.decode("utf-8", "replace") for body in bodies])


def _service(document: parsers.Document, index: int) -> Piece:
    first, last = document.cuts[index : index + 2]
    return Piece(_COMPOSE, document.text[first:last], document.text, first)
