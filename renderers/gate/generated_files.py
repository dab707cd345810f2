"""Checks each generated file of a bundle against the composition.

Each model is checked alone: its service, its lines in the map, the list and the env file, and its
batching file. The last bundle that passed is cached, and only the differences from it are checked
(`incremental`), so the cost grows with the change. A file that is the same in every bundle must
equal the package's text, byte for byte (`static_files`).

A custom template may add to a file, but it must not omit or contradict anything: `diff` has the
rule. The lists of models (models.map, models.txt), the batching parameters and the signature are
exact in every case.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Final

from renderers.cache import Cache
from renderers.composition import Composition, Model, RenderDefaults
from renderers.errors import GateFailure
from renderers.gate import expectations, options, parsers
from renderers.gate.checks import (
    CheckedBundle,
    Piece,
    built_in_text,
    check_assignments,
    check_built_in,
    check_pattern,
    check_plain,
    check_service,
    check_yaml,
    compare,
    compare_fields,
    readable,
    spellings,
)
from renderers.gate.custom_services import free_keys_set_by
from renderers.gate.expectations import short_digest
from renderers.gate.incremental import (
    NOTHING,
    Cutting,
    EndOf,
    PassedBundle,
    Run,
    cut,
    end_of_line,
    line_at,
    runs,
)
from renderers.gate.stamp_file import Entry, check_stamp, entry_of, joined
from renderers.gate.static_files import (
    ENV,
    README,
    ROUTER_SCRIPT,
    SCRIPTS,
    STATIC,
    check_readme,
    check_static_files,
)
from renderers.values import STAMP_PATH, RenderedFile

_COMPOSE: Final = "base/bundle/docker-compose.yaml"
_MAP: Final = "base/bundle/nginx/models.map"
_SIGNATURE: Final = "base/bundle/proxy/bundle-signature.yaml"
_LIST: Final = "base/model-serving/model-download/models.txt"
_KEEP: Final = "base/model-serving/model-download/models/.gitkeep"
_ALWAYS: Final = frozenset(
    {_COMPOSE, _MAP, _SIGNATURE, _LIST, _KEEP, STAMP_PATH, ENV, README, *STATIC}
)

_passed: Final = Cache[bool](16 << 20)
"""Signatures that passed before, by their digest and their document."""
_last_passed: Final = Cache[PassedBundle](64 << 20)
"""The last bundle that passed, by `CheckedBundle.key`."""
_ENTRY_SIZE: Final = 512
"""Bytes that an entry of the cache counts for."""


def check(
    composition: Composition,
    defaults: RenderDefaults,
    files: Sequence[RenderedFile],
    overridden: frozenset[str] = frozenset(),
) -> None:
    """Returns if every file of the bundle agrees with the composition.

    `overridden` has the names of the custom templates: their output may hold more than expected.

    Raises:
        GateFailure: the first difference.
    """
    by_path = {file.path: file for file in files}
    if len(by_path) != len(files):
        raise GateFailure("", 1, "each path once", "a path twice")
    checked = CheckedBundle(composition, defaults, overridden)
    before = _last_passed.get(checked.key) or NOTHING
    steps = runs(composition.models, before.models)
    batching = _batching_paths(composition, steps, before)
    _check_paths(by_path, [path for path in batching if path])
    bodies = {path: file.body for path, file in by_path.items()}
    current = _cut(checked, bodies, batching, steps, before)
    for index in sorted(current.changed):
        _check_model(checked, current, index)
    _last_passed.put(checked.key, current, current.size)
    _check_signature(checked, bodies[_SIGNATURE])
    check_static_files(checked, bodies, current.files[ENV].cuts[0])
    # After the files above: the labels here are digests of those files. A faulty file would fail
    # here too, and the failure should name the file.
    document = _document(composition, bodies)
    _check_fixed_services(checked, document, bodies)
    _check_ends(checked, document)
    check_readme(checked, bodies)  # after the services, because it shows parts of them
    # Last, because its digest differs if any file does.
    check_stamp(composition, files, current.services)


def _batching_paths(
    composition: Composition, steps: Sequence[Run], before: PassedBundle
) -> list[str | None]:
    paths: list[str | None] = []
    for step in steps:
        if step.before is None:
            paths.append(_batching_path(composition.models[step.first]))
        else:
            paths += before.paths[step.before : step.before + step.count]
    return paths


def _stamp_entries(
    models: Sequence[Model], steps: Sequence[Run], before: PassedBundle
) -> list[Entry]:
    entries: list[Entry] = []
    for step in steps:
        if step.before is None:
            entries.append(entry_of(models[step.first]))
        else:
            entries += before.entries[step.before : step.before + step.count]
    return entries


def _check_paths(files: Mapping[str, RenderedFile], batching: Sequence[str]) -> None:
    wanted = (*_ALWAYS, *batching)
    if len(files) != len(wanted) or not all(path in files for path in wanted):
        path = min(set(wanted) ^ files.keys())
        if path in wanted:
            raise GateFailure(path, 1, "this file", "none")
        raise GateFailure(path, 1, "no such file", "one")
    for file in files.values():
        if file.executable != (file.path in SCRIPTS):
            raise GateFailure(file.path, 1, "0755 for scripts alone", file.mode)
    if files[_KEEP].body:
        raise GateFailure(_KEEP, 1, "an empty file", repr(files[_KEEP].body[:50]))


def _cut(
    checked: CheckedBundle,
    bodies: Mapping[str, bytes],
    paths: Sequence[str | None],
    steps: Sequence[Run],
    before: PassedBundle,
) -> PassedBundle:
    """Cuts the files with one piece per model; `changed` has the models that must be checked."""
    batching = tuple([bodies[path] if path else b"" for path in paths])
    changed = {step.first for step in steps if step.before is None}
    for step in steps:
        if step.before is not None:
            now = range(step.first, step.first + step.count)
            old = batching[now.start : now.stop]
            if old != before.batching[step.before : step.before + step.count]:
                changed.update(now)
    files: dict[str, Cutting] = {}
    for file, start, end, end_of in _layout(checked.composition, bodies):
        with readable(Piece(file, bodies[file])):
            files[file], different = cut(bodies[file], start, steps, before.files.get(file), end_of)
        changed |= different
        stop = files[file].cuts[-1]
        if stop != end:
            line = line_at(bodies[file], stop)
            rest = bodies[file][stop:][:50].decode("utf-8", "replace")
            raise GateFailure(
                file, line, f"nothing more behind the {len(paths)} models", repr(rest)
            )
    models = checked.composition.models
    entries = _stamp_entries(models, steps, before)
    # Few events change any of them.
    services = before.services if entries == before.entries else joined(entries)
    return PassedBundle(
        models, files, tuple(paths), batching, entries, services, frozenset(changed)
    )


def _document(composition: Composition, bodies: Mapping[str, bytes]) -> parsers.Document:
    with readable(Piece(_COMPOSE, bodies[_COMPOSE])):
        return parsers.document(bodies[_COMPOSE], _top(composition), _bottom(composition))


def _layout(
    composition: Composition, bodies: Mapping[str, bytes]
) -> Iterator[tuple[str, int, int, EndOf]]:
    """For each file: its path, the start and the end of the models' pieces, and its `EndOf`."""
    _, first, router, _, _ = _document(composition, bodies).cuts
    yield _COMPOSE, first, router, partial(_end_of_block, composition)
    yield _MAP, 0, len(bodies[_MAP]), end_of_line
    yield _LIST, 0, len(bodies[_LIST]), end_of_line
    with readable(Piece(ENV, bodies[ENV])):
        start = _start_of_paragraph(bodies[ENV], 0, composition.models[0])
    yield ENV, start, len(bodies[ENV]), partial(_end_of_paragraph, composition)


def _end_of_block(composition: Composition, text: bytes, start: int, index: int) -> int:
    models = composition.models
    has_next = index + 1 < len(models)
    following = f"s{models[index + 1].id}s" if has_next else _bottom(composition)[0]
    end = text.find(f"\n  {following}:\n".encode(), start) + 1
    if end == 0:
        line = line_at(text, start)
        raise parsers.Unreadable(line, f"service {following} here or below", "none")
    return end


def _end_of_paragraph(composition: Composition, text: bytes, start: int, index: int) -> int:
    models = composition.models
    if index + 1 == len(models):
        return len(text)
    return _start_of_paragraph(text, start, models[index + 1])


def _start_of_paragraph(text: bytes, position: int, model: Model) -> int:
    """The empty line above the variables of a model."""
    variable = f"SERVING_{model.id.replace('-', '_')}_CPU_LIMIT="
    # If the variable is missing, the range is empty and there is no line above either.
    first_line = max(0, text.find(f"\n{variable}".encode(), position) + 1)
    above = text.rfind(b"\n\n", position, first_line)
    if above < 0:
        line = line_at(text, position)
        raise parsers.Unreadable(line, f"{variable} below an empty line", "none")
    return above + 1


def _check_model(checked: CheckedBundle, current: PassedBundle, index: int) -> None:
    model, batching = current.models[index], current.batching[index]
    _check_batching(checked, model, batching)
    _check_model_block(checked, model, _piece(_COMPOSE, current, index), batching)
    _check_map_line(model, _piece(_MAP, current, index))
    _check_list_line(model, _piece(_LIST, current, index))
    _check_env(checked, model, _piece(ENV, current, index))


def _piece(file: str, current: PassedBundle, index: int) -> Piece:
    cutting = current.files[file]
    return Piece(file, cutting.piece(index), cutting.text, cutting.cuts[index])


def _check_model_block(checked: CheckedBundle, model: Model, piece: Piece, batching: bytes) -> None:
    mounted = batching.decode() if expectations.batching_parameters(model) is not None else None
    expected = expectations.model_service(model, checked.composition, checked.defaults, mounted)
    may_add = checked.may_add(f"{model.serving.platform}.yaml")
    comments = expectations.model_comments(model)
    chosen = free_keys_set_by(model)
    _check_block(
        piece,
        f"s{model.id}s",
        expected,
        comments,
        may_add=may_add,
        chosen=chosen,
        model_id=model.id,
    )


def _check_map_line(model: Model, piece: Piece) -> None:
    with readable(piece):
        actual = parsers.map_line(piece.text)
    compare(piece, (model.id, f"s{model.id}s", expectations.grpc_port(model)), actual)


def _check_list_line(model: Model, piece: Piece) -> None:
    with readable(piece):
        actual = parsers.list_line(piece.text)
    compare(piece, (expectations.list_fields(model), model.artifact.uri), actual)


def _check_env(checked: CheckedBundle, model: Model, piece: Piece) -> None:
    if "serving.env" not in checked.overridden:
        values = {"service": f"s{model.id}s", "variable": model.id.replace("-", "_")}
        check_pattern(piece, built_in_text("serving.env").decode(), values)
    # A paragraph begins with its empty line.
    piece = replace(piece, body=piece.body[1:], start=piece.start + 1)
    amounts = expectations.amounts(model, checked.defaults)
    defaults = [default for group in amounts.values() for default in group.values()]
    assignments = {default.variable: "" for default in defaults}
    check_assignments(piece, assignments, may_add=checked.may_add("serving.env"))
    noted = parsers.noted_amounts(piece.text)
    for default in defaults:
        name = "_".join(default.variable.split("_")[-2:])
        if name not in noted or not default.is_amount(*noted[name]):
            expected = f"{name} {default.amount}"
            raise GateFailure(piece.file, piece.before + 1, expected, str(noted.get(name)))


def _check_batching(checked: CheckedBundle, model: Model, body: bytes) -> None:
    path, expected = _batching_path(model), expectations.batching_parameters(model)
    if path is None:
        return
    piece = Piece(path, body)
    with readable(piece):
        actual = parsers.batching(piece.text)
    template = "batching_placeholder.txt" if expected is None else "batching_on.txt"
    if template in checked.overridden:
        check_plain(piece)
    else:
        # A placeholder is compared as a whole. Of a file with parameters only the first line is
        # text of the template; the parameters are compared below.
        pattern, compared = built_in_text(template), body
        if expected is not None:
            pattern, compared = _first_line(pattern), _first_line(body)
        check_pattern(Piece(path, compared), pattern.decode(), {"service": f"s{model.id}s"})
    if expected is not None:
        compare_fields(piece, expected, actual)
    # With batching off, the operator fills the file in: any parameters are valid placeholders.
    elif not actual:
        raise GateFailure(path, 1, "batching parameters that hold the places", "none")


def _first_line(text: bytes) -> bytes:
    return text[: text.find(b"\n") + 1]


def _check_fixed_services(
    checked: CheckedBundle, document: parsers.Document, bodies: Mapping[str, bytes]
) -> None:
    composition, defaults = checked.composition, checked.defaults
    router = _digest_of(bodies[ROUTER_SCRIPT])
    signature = _digest_of(bodies[_SIGNATURE])
    # With the indexes of the services in the document's cuts; the models are between 1 and 2.
    expected = (
        ("model_download.yaml", 0, expectations.download_service(composition, defaults)),
        ("router.yaml", 2, expectations.router_service(router, composition, defaults)),
        ("proxy.yaml", 3, expectations.proxy_service(signature, composition, defaults)),
    )
    names = (*_top(composition), *_bottom(composition))
    for template, index, service in expected:
        comments = expectations.proxy_comments(composition) if template == "proxy.yaml" else []
        piece, may_add = _service(document, index), checked.may_add(template)
        _check_block(piece, names[index], service, comments, may_add=may_add)


def _check_ends(checked: CheckedBundle, document: parsers.Document) -> None:
    text, start, end = document.text, document.cuts[0], document.cuts[-1]
    head = Piece(_COMPOSE, text[:start])
    check_yaml(head, {"services": None})
    if "header.yaml" not in checked.overridden:
        check_built_in(head, "header.yaml")
    foot = Piece(_COMPOSE, text[end:], text, end)
    name = checked.composition.bundle.name
    shared: dict[str, Any] = {"networks": {name: {}}, "volumes": {f"{name}-nginx": {}}}
    check_yaml(foot, shared, may_add=checked.may_add("networks.yaml"))


def _check_block(
    piece: Piece,
    name: str,
    expected: Mapping[str, Any],
    comments: Sequence[str],
    *,
    may_add: bool,
    chosen: Collection[str] = (),
    model_id: str = "",
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
        wanted = f"one empty line at the end of {name}"
        raise GateFailure(piece.file, piece.before + len(lines), wanted, "another end")
    inside = replace(piece, body=b"services:\n" + piece.body, added=1)
    check_service(inside, name, expected, may_add=may_add, below="services", chosen=chosen)
    if not may_add:
        _check_comments(piece, name, comments)
    fault = options.fault(piece.text, comments, model_id=model_id)
    if fault is not None:
        raise GateFailure(piece.file, piece.before + fault.line, fault.what, fault.found)


def _check_comments(piece: Piece, name: str, expected: Sequence[str]) -> None:
    """The commented-out options of a service are complete and in their places."""
    found = parsers.options(piece.text)
    for index, (number, place, comment) in enumerate(found):
        wanted = expected[index] if index < len(expected) else ""
        if comment not in spellings(wanted):
            what = f"the option {wanted}" if wanted else f"no other option in {name}"
            raise GateFailure(piece.file, piece.before + number, what, repr(comment))
        if place != expectations.place(wanted):
            key, column = expectations.place(wanted)
            what = f"{wanted} below {key}, {column} further in"
            raise GateFailure(piece.file, piece.before + number, what, repr(place))
    if len(found) < len(expected):
        what = f"the option {expected[len(found)]} in {name}"
        raise GateFailure(piece.file, piece.before + 1, what, "none")


def _check_signature(checked: CheckedBundle, body: bytes) -> None:
    signature = checked.composition.proxy.signature
    cache_key = ("signature", signature.canonical, hashlib.sha256(body).digest())
    if not _passed.get(cache_key):
        check_yaml(Piece(_SIGNATURE, body), signature.document)
        _passed.put(cache_key, value=True, size=_ENTRY_SIZE + len(signature.canonical))


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
