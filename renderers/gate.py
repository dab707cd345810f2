"""The gate: what was rendered, read back and compared with what the composition says, before anyone sees it.

It shares no code with what renders: `readback` parses, `expectation` states what must be there. What belongs to one
model (its service, its lines in the map, the list and the env file, its batching file) is judged alone; what passed is
kept, and looked at again only where it differs (`judged`). So judging, too, costs what changed. A file that is the same
in every bundle must be the package's own, byte for byte; the README its text, around what is said of this bundle.

What a template of the bundle's own makes may say more, but nothing less and nothing else: `agreement` has the rule. The
lists of models (models.map, models.txt), the batching parameters and the signature stay exact whatever makes them.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib.resources import files as resources
from typing import Any, Final, Protocol

from renderers import expectation, readback
from renderers.agreement import difference, shown
from renderers.cache import Cache
from renderers.errors import GateFailure
from renderers.expectation import short_digest
from renderers.judged import NOTHING, Cutting, EndOf, Judged, Run, cut, end_of_line, line_at, runs
from renderers.model import Composition, Model, RenderDefaults, RenderedFile, canonical_json

_COMPOSE: Final = "base/bundle/docker-compose.yaml"
_MAP: Final = "base/bundle/nginx/models.map"
_SIGNATURE: Final = "base/bundle/proxy/bundle-signature.yaml"
_LIST: Final = "base/model-serving/model-download/models.txt"
_SCRIPT: Final = "base/model-serving/model-download/download.sh"
_KEEP: Final = "base/model-serving/model-download/models/.gitkeep"
_STAMP: Final = "base/.rebundle.json"
_ENV: Final = "example/conf/bundle/.env"
_NGINX: Final = "example/conf/bundle/nginx.conf"
_INCLUDE: Final = "example/docker-compose.yaml"
_README: Final = "README.md"
_STATIC: Final = {
    "base/bundle/monitoring.txt": "monitoring.txt",
    _SCRIPT: "download.sh",
    "example/.env": "deployment.env",
    "example/creds/bundle/.env": "creds.env",
    "example/creds/bundle/gcs.json": "gcs.json",
    _NGINX: "nginx.conf",
    _INCLUDE: "deployment.yaml",
}
"""Files that are the same in every bundle, and the templates they come from."""
_ALWAYS: Final = frozenset({_COMPOSE, _MAP, _SIGNATURE, _LIST, _KEEP, _STAMP, _ENV, _README, *_STATIC})
_SHARED_TEMPLATES: Final = frozenset({"labels.yaml", "resources.yaml"})
_UNWANTED: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")

_passed: Final = Cache[bool](16 << 20)
_judged: Final = Cache[Judged](64 << 20)
"""By frame: the bundle that passed last."""
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
    frame = _Frame(composition, defaults, overridden)
    before = _judged.get(frame.key) or NOTHING
    steps = runs(composition.models, before.models)
    batching = _batching_paths(composition, steps, before)
    _check_paths(bundle, files, [path for path in batching if path])
    bodies = {path: file.body for path, file in files.items()}
    judged = _cut(frame, bodies, batching, steps, before)
    for index in sorted(judged.changed):
        _check_model(frame, judged, index)
    _judged.put(frame.key, judged, judged.size)
    _check_signature(frame, bodies[_SIGNATURE])
    _check_stamp(composition, bodies[_STAMP])
    _check_static_files(frame, bodies, judged.files[_ENV].cuts[0])
    # Last, because their labels differ whenever a file above does: the fault is named where it is.
    document = _document(composition, bodies)
    _check_fixed_services(frame, document, bodies)
    _check_ends(frame, document)
    _check_readme(frame, bodies)  # it shows pieces of the services


@dataclass(frozen=True)
class _Frame:
    composition: Composition
    defaults: RenderDefaults
    overridden: frozenset[str]

    @property
    def key(self) -> str:
        bundle = self.composition.bundle
        return canonical_json([bundle.name, bundle.target, self.defaults.digest, sorted(self.overridden)])

    def may_add(self, template: str) -> bool:
        """Whether what `template` makes may say more than it must."""
        shared = _SHARED_TEMPLATES if template.endswith(".yaml") else frozenset()
        return not self.overridden.isdisjoint({template, *shared})


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a file, judged alone: it begins at `start` in `whole`, but for `added` lines put above it."""

    file: str
    body: bytes
    whole: bytes = b""
    start: int = 0
    added: int = 0

    @property
    def before(self) -> int:
        """The number of lines above it; counted when something is wrong, which is rare."""
        return self.whole.count(b"\n", 0, self.start) - self.added

    @property
    def text(self) -> str:
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            line = self.before + self.body.count(b"\n", 0, error.start) + 1
            raise GateFailure(self.file, line, "UTF-8", repr(error.object[error.start : error.end])) from error


def _batching_paths(composition: Composition, steps: Sequence[Run], before: Judged) -> list[str | None]:
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
    executable = [file for file in bundle.files if file.executable != (file.path == _SCRIPT)]
    for file in executable:
        raise GateFailure(file.path, 1, "0755 for download.sh alone", file.mode)
    if files[_KEEP].body:
        raise GateFailure(_KEEP, 1, "an empty file", repr(files[_KEEP].body[:50]))


def _cut(
    frame: _Frame, bodies: Mapping[str, bytes], paths: Sequence[str | None], steps: Sequence[Run], before: Judged
) -> Judged:
    """The files that have a piece for each model, cut; `changed` are the models that have to be judged."""
    batching = tuple([bodies[path] if path else b"" for path in paths])
    changed = {step.first for step in steps if step.before is None}
    for step in steps:
        if step.before is not None:
            new, old = slice(step.first, step.first + step.count), slice(step.before, step.before + step.count)
            changed.update(range(new.start, new.stop) if batching[new] != before.batching[old] else ())
    files: dict[str, Cutting] = {}
    for file, start, end, end_of in _layout(frame.composition, bodies):
        with _readable(_Piece(file, bodies[file])):
            files[file], different = cut(bodies[file], start, steps, before.files.get(file), end_of)
        changed |= different
        stop = files[file].cuts[-1]
        if stop != end:
            line = line_at(bodies[file], stop)
            raise GateFailure(
                file, line, f"nothing more behind the {len(paths)} models", repr(bodies[file][stop:][:50])
            )
    return Judged(frame.composition.models, files, tuple(paths), batching, frozenset(changed))


def _document(composition: Composition, bodies: Mapping[str, bytes]) -> readback.Document:
    with _readable(_Piece(_COMPOSE, bodies[_COMPOSE])):
        return readback.document(bodies[_COMPOSE], _top(composition), _bottom(composition))


def _layout(composition: Composition, bodies: Mapping[str, bytes]) -> Iterator[tuple[str, int, int, EndOf]]:
    """Where the models' pieces begin and end in each file, and how one ends."""
    _, first, router, _, _ = _document(composition, bodies).cuts
    yield _COMPOSE, first, router, partial(_end_of_block, composition)
    yield _MAP, 0, len(bodies[_MAP]), end_of_line
    yield _LIST, 0, len(bodies[_LIST]), end_of_line
    with _readable(_Piece(_ENV, bodies[_ENV])):
        start = _start_of_paragraph(bodies[_ENV], 0, composition.models[0])
    yield _ENV, start, len(bodies[_ENV]), partial(_end_of_paragraph, composition)


def _end_of_block(composition: Composition, text: bytes, start: int, index: int) -> int:
    models = composition.models
    following = f"s{models[index + 1].id}s" if index + 1 < len(models) else _bottom(composition)[0]
    end = text.find(f"\n  {following}:\n".encode(), start) + 1
    if end == 0:
        raise readback.Unreadable(line_at(text, start), f"service {following} here or below", "none")
    return end


def _end_of_paragraph(composition: Composition, text: bytes, start: int, index: int) -> int:
    models = composition.models
    return _start_of_paragraph(text, start, models[index + 1]) if index + 1 < len(models) else len(text)


def _start_of_paragraph(text: bytes, position: int, model: Model) -> int:
    """The empty line above the variables of a model."""
    variable = f"SERVING_{model.id.replace('-', '_')}_CPU_LIMIT="
    above = text.rfind(b"\n\n", position, max(0, text.find(f"\n{variable}".encode(), position) + 1))
    if above < 0:
        raise readback.Unreadable(line_at(text, position), f"{variable} below an empty line", "none")
    return above + 1


def _check_model(frame: _Frame, judged: Judged, index: int) -> None:
    model, batching = judged.models[index], judged.batching[index]
    _check_batching(frame, model, batching)
    _check_model_block(frame, model, _piece(_COMPOSE, judged, index), batching)
    _check_map_line(model, _piece(_MAP, judged, index))
    _check_list_line(model, _piece(_LIST, judged, index))
    _check_env(frame, model, _piece(_ENV, judged, index))


def _piece(file: str, judged: Judged, index: int) -> _Piece:
    cutting = judged.files[file]
    return _Piece(file, cutting.piece(index), cutting.text, cutting.cuts[index])


def _check_model_block(frame: _Frame, model: Model, piece: _Piece, batching: bytes) -> None:
    mounted = batching.decode() if expectation.batching_parameters(model) is not None else None
    expected = expectation.model_service(model, frame.composition, frame.defaults, mounted)
    may_add = frame.may_add(f"{model.serving.platform}.yaml")
    _check_block(piece, f"s{model.id}s", expected, expectation.model_comments(model), may_add=may_add)


def _check_map_line(model: Model, piece: _Piece) -> None:
    with _readable(piece):
        found = readback.map_line(piece.text)
    _compare(piece, (model.id, f"s{model.id}s", expectation.grpc_port(model)), found)


def _check_list_line(model: Model, piece: _Piece) -> None:
    number = model.serving_version if expectation.loads_numbers(model) else None
    with _readable(piece):
        found = readback.list_line(piece.text)
    _compare(piece, (model.id, number, model.artifact.uri), found)


def _check_env(frame: _Frame, model: Model, piece: _Piece) -> None:
    if "serving.env" not in frame.overridden:
        said = {"service": f"s{model.id}s", "variable": model.id.replace("-", "_")}
        _check_pattern(piece, _own("serving.env").decode(), said)
    piece = replace(piece, body=piece.body[1:], start=piece.start + 1)  # below its empty line
    amounts = expectation.amounts(model, frame.defaults)
    defaults = [default for group in amounts.values() for default in group.values()]
    _check_assignments(piece, {each.variable: "" for each in defaults}, may_add=frame.may_add("serving.env"))
    noted = readback.noted_amounts(piece.text)
    for default in defaults:
        name = "_".join(default.variable.split("_")[-2:])
        if name not in noted or not default.is_amount(*noted[name]):
            raise GateFailure(piece.file, piece.before + 1, f"{name} {default.amount}", str(noted.get(name)))


def _check_batching(frame: _Frame, model: Model, body: bytes) -> None:
    path, expected = _batching_path(model), expectation.batching_parameters(model)
    if path is None:
        return
    piece = _Piece(path, body)
    with _readable(piece):
        found = readback.batching(piece.text)
    template = "batching_placeholder.txt" if expected is None else "batching_on.txt"
    if template in frame.overridden:
        _check_plain(piece)
    else:
        head = None if expected is None else body.find(b"\n") + 1
        pattern = b"".join(_own(template).splitlines(keepends=True)[: None if head is None else 1])
        _check_pattern(_Piece(path, body[:head]), pattern.decode(), {"service": f"s{model.id}s"})
    if expected is not None:
        _compare_fields(piece, expected, found)
    # Where it is off, the file is an operator's to fill in: whatever reads as parameters holds the places.
    elif not found:
        raise GateFailure(path, 1, "batching parameters that hold the places", "none")


def _check_fixed_services(frame: _Frame, document: readback.Document, bodies: Mapping[str, bytes]) -> None:
    composition, defaults = frame.composition, frame.defaults
    download = _digest_of(bodies[_LIST], bodies[_SCRIPT])
    expected = (
        ("model_download.yaml", 0, expectation.download_service(download, composition, defaults)),
        ("router.yaml", 2, expectation.router_service(_digest_of(bodies[_MAP]), composition, defaults)),
        ("proxy.yaml", 3, expectation.proxy_service(_digest_of(bodies[_SIGNATURE]), composition, defaults)),
    )
    names = (*_top(composition), *_bottom(composition))
    for template, index, service in expected:
        comments = expectation.proxy_comments(composition) if template == "proxy.yaml" else []
        _check_block(_service(document, index), names[index], service, comments, may_add=frame.may_add(template))


def _check_ends(frame: _Frame, document: readback.Document) -> None:
    text, start, end = document.text, document.cuts[0], document.cuts[-1]
    head = _Piece(_COMPOSE, text[:start])
    _check_yaml(head, {"services": None})
    if "header.yaml" not in frame.overridden:
        _check_own(head, "header.yaml")
    networks: dict[str, Any] = {"networks": {frame.composition.bundle.name: {}}}
    _check_yaml(_Piece(_COMPOSE, text[end:], text, end), networks, may_add=frame.may_add("networks.yaml"))


def _check_block(
    piece: _Piece, name: str, expected: Mapping[str, Any], comments: Sequence[str], *, may_add: bool
) -> None:
    *lines, end = piece.body.split(b"\n")
    for number, line in enumerate(lines[1:], 2):
        if line and not line.startswith(b"    "):
            raise GateFailure(piece.file, piece.before + number, f"a line of {name}, further in", repr(line))
    if end or lines[-1] or not lines[-2]:
        raise GateFailure(piece.file, piece.before + len(lines), f"one empty line at the end of {name}", "another end")
    inside = replace(piece, body=b"services:\n" + piece.body, added=1)
    _check_yaml(inside, {"services": {name: expected}}, may_add=may_add)
    if not may_add:
        _check_comments(piece, name, comments)


def _check_comments(piece: _Piece, name: str, expected: Sequence[str]) -> None:
    """The options of a service that are switched off, at their places: what an operator may uncomment."""
    found = readback.options(piece.text)
    for index, (number, place, comment) in enumerate(found):
        wanted = expected[index] if index < len(expected) else ""
        if comment not in _spellings(wanted):
            what = f"the option {wanted}" if wanted else f"no other option in {name}"
            raise GateFailure(piece.file, piece.before + number, what, repr(comment))
        if place != expectation.place(wanted):
            key, column = expectation.place(wanted)
            raise GateFailure(
                piece.file, piece.before + number, f"{wanted} below {key}, {column} further in", repr(place)
            )
    if len(found) < len(expected):
        raise GateFailure(piece.file, piece.before + 1, f"the option {expected[len(found)]} in {name}", "none")


def _check_signature(frame: _Frame, body: bytes) -> None:
    signature = frame.composition.proxy.signature
    verdict = ("signature", signature.canonical, hashlib.sha256(body).digest())
    if not _passed.get(verdict):
        _check_yaml(_Piece(_SIGNATURE, body), signature.document)
        _passed.put(verdict, value=True, size=_VERDICT_SIZE + len(signature.canonical))


def _check_stamp(composition: Composition, body: bytes) -> None:
    piece = _Piece(_STAMP, body)
    try:
        said = json.loads(piece.text)
    except ValueError as error:
        raise GateFailure(_STAMP, 1, "JSON", str(error)) from error
    if not isinstance(said, dict) or piece.text != canonical_json(said) + "\n":
        raise GateFailure(_STAMP, 1, "one line of canonical JSON", piece.text[:100])
    free = {key: said.pop(key, None) for key in ("state", "revision")}
    _compare(piece, {"schema": 1, "scope": str(composition.scope), "composition": composition.digest}, said)
    for key, value in free.items():
        if not isinstance(value, str) or not value:
            raise GateFailure(_STAMP, 1, f"a text for {key}", repr(value))


def _spellings(option: str) -> tuple[str, str]:
    """An option as it is expected, and with quotes around its value: a reader takes both for the same."""
    mark, _, value = option.partition(" ")
    return option, f'{mark} "{value}"'


def _check_static_files(frame: _Frame, bodies: Mapping[str, bytes], head: int) -> None:
    """The files that are the same in every bundle, and the head of the env file; judged once for each text."""
    pieces = [(_Piece(path, bodies[path]), template) for path, template in _STATIC.items()]
    pieces.append((_Piece(_ENV, bodies[_ENV][:head]), "conf.env"))
    parts = (part for piece, _ in pieces for part in (piece.file.encode(), piece.body))
    verdict = ("static", frame.overridden, hashlib.sha256(b"\0".join(parts)).digest())
    if _passed.get(verdict):
        return
    for piece, template in pieces:
        if template in frame.overridden:
            _check_replaced(piece, template)
        else:
            _check_own(piece, template)
    _passed.put(verdict, value=True, size=_VERDICT_SIZE)


def _check_own(piece: _Piece, template: str) -> None:
    """The text is the package's own."""
    own = _own(template)
    if piece.body != own:
        pairs = zip(piece.body.split(b"\n"), own.split(b"\n"), strict=False)
        same = next(
            (n for n, (one, other) in enumerate(pairs) if one != other), min(piece.body.count(b"\n"), own.count(b"\n"))
        )
        wanted, found = (text.split(b"\n")[same : same + 1] for text in (own, piece.body))
        raise GateFailure(piece.file, same + 1, repr(b"".join(wanted)), repr(b"".join(found)))


@cache
def _own(template: str) -> bytes:
    return (resources("renderers") / "templates" / template).read_bytes()


def _check_replaced(piece: _Piece, template: str) -> None:
    """A file of the bundle's own says what the rest of the bundle stands on."""
    match template:
        case "deployment.env":
            _check_assignments(piece, {"REL_DIR": ""}, may_add=True)
        case "creds.env":
            _check_assignments(piece, {f"RCLONE_S3_{key}": "" for key in _S3_KEYS}, may_add=True)
        case "conf.env":
            _check_assignments(piece, {"MODEL_PROXY_HTTP_PORT": "8000", "MODEL_PROXY_GRPC_PORT": "8005"}, may_add=True)
        case "deployment.yaml":
            guard = "${REL_DIR:?set it in .env to the full path of this directory}/conf/bundle/.env"
            include = {"include": [{"path": "../base/bundle/docker-compose.yaml", "env_file": [guard]}]}
            _check_yaml(piece, include, may_add=True)
        case "gcs.json":
            _check_holds(piece, '"type": "service_account"')
        case "download.sh":
            _check_holds(piece, "#!/bin/sh\n")
        case "nginx.conf":
            _check_router(piece)
        case _:
            _check_plain(piece)


_S3_KEYS: Final = ("PROVIDER", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT", "REGION")


def _check_router(piece: _Piece) -> None:
    """nginx.conf reads the generated map and passes requests on by it, over HTTP/2 on the port that the proxy calls."""
    with _readable(piece):
        directives = readback.nginx(piece.text)
    found = {(each.name, *each.words) for each in directives}
    maps = [each for each in directives if each.name == "map" and each.words[:1] == ("$http_model_id",)]
    included = [each for each in maps if ("include", "/etc/nginx/bundle/models.map") in each.inside]
    if not included:
        raise GateFailure(_NGINX, 1, "a map of $http_model_id that includes /etc/nginx/bundle/models.map", "none")
    target = f"grpc://{included[0].words[1]}"
    if ("grpc_pass", target) not in found:
        raise GateFailure(_NGINX, included[0].line, f"grpc_pass {target}", "none")
    if not any(name == "listen" and words[:1] == ["8500"] for name, *words in found):
        raise GateFailure(_NGINX, 1, "listen 8500", "none")
    if not any(name == "resolver" for name, *_ in found):
        raise GateFailure(_NGINX, 1, "a resolver, without which no service is found", "none")


def _check_readme(frame: _Frame, bodies: Mapping[str, bytes]) -> None:
    """README.md is the package's own text about this bundle, and shows options as its services have them."""
    composition, body = frame.composition, bodies[_README]
    bundle, folders = composition.bundle, expectation.image_folders(composition, frame.defaults)
    verdict = ("readme", frame.key, folders, hashlib.sha256(body).digest())
    if _passed.get(verdict):
        return
    piece = _Piece(_README, body)
    _check_plain(piece)
    if "README.md" not in frame.overridden:
        said = {
            "bundle": _prose(bundle.name),
            "target": _prose(bundle.target),
            "registries": ", ".join(map(_prose, sorted(folders))),
            "gcs": _Piece("example/creds/bundle/gcs.json", bodies["example/creds/bundle/gcs.json"]).text,
        }
        for line, name, text in _check_pattern(piece, _own("README.md").decode(), said):
            _check_listing(frame, _Piece(_README, text.encode(), body, _start_of_line(body, line)), name)
    _passed.put(verdict, value=True, size=_VERDICT_SIZE + len(frame.key))


def _check_pattern(piece: _Piece, pattern: str, said: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """The text is the pattern with `said` in its gaps; what is in the other gaps is returned."""
    with _readable(piece):
        found = readback.gaps(piece.text, pattern)
    for line, name, text in found:
        if name in said and text != said[name]:
            raise GateFailure(piece.file, piece.before + line, f"{name} {said[name]!r}", repr(text))
    return [gap for gap in found if gap[1] not in said]


def _check_listing(frame: _Frame, piece: _Piece, name: str) -> None:
    """A listing of the README is what its service says, and its options are the service's."""
    listing, composition = name.removeprefix("excerpts."), frame.composition
    may_add = frame.may_add(f"{expectation.shown_template(listing)}.yaml")
    listed = piece.text.replace("<model_id>", "sample").replace("<image>", expectation.SAMPLE_IMAGE)
    options = {each for option in expectation.options(listing, composition) for each in _spellings(option)}
    for number, line in enumerate(listed.split("\n"), 1):
        option = line.lstrip("> ")
        if option.startswith("#") and option not in options and not may_add:
            raise GateFailure(_README, piece.before + number, "no option that the service does not have", repr(option))
    piece = replace(piece, body=readback.switched_on(listed).encode())
    _check_yaml(piece, expectation.shown(listing, composition), may_add=may_add)


def _start_of_line(body: bytes, line: int) -> int:
    return len(b"\n".join(body.split(b"\n")[: line - 1])) + 1 if line > 1 else 0


def _prose(text: str) -> str:
    return text.replace("_", "\\_")


def _check_plain(piece: _Piece) -> None:
    """UTF-8 without control characters, carriage returns among them."""
    unwanted = _UNWANTED.search(piece.body)
    if unwanted:
        line = piece.body.count(b"\n", 0, unwanted.start()) + 1
        raise GateFailure(piece.file, line, "no control character", repr(unwanted[0]))
    assert piece.text is not None


def _check_assignments(piece: _Piece, expected: Mapping[str, str], *, may_add: bool) -> None:
    with _readable(piece):
        found = readback.env(piece.text)
    _compare_fields(piece, expected, {name: found[name] for name in found if not may_add or name in expected})


def _check_holds(piece: _Piece, text: str) -> None:
    if text not in piece.text:
        raise GateFailure(piece.file, 1, text, "nothing of the kind")


def _check_yaml(piece: _Piece, expected: Any, *, may_add: bool = False) -> None:
    with _readable(piece):
        parsed = readback.yaml_text(piece.text)
    different = difference(expected, parsed.value, (), may_add=may_add)
    if different is not None:
        path, wanted, found = different
        where = ".".join(map(str, path)) or "the file"
        raise GateFailure(piece.file, piece.before + parsed.line(path), f"{where} = {wanted}", found)


def _compare(piece: _Piece, expected: Any, found: Any) -> None:
    if expected != found:
        raise GateFailure(piece.file, piece.before + 1, str(expected), str(found))


def _compare_fields(piece: _Piece, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """The same names with the same values; a difference is named with the line that begins with the name."""
    for name in (*expected, *found):
        if name not in expected or name not in found or expected[name] != found[name]:
            lines = piece.text.split("\n")
            line = next((number for number, line in enumerate(lines, 1) if line.startswith(name)), 1)
            what, there = shown(expected, name), shown(found, name)
            raise GateFailure(piece.file, piece.before + line, f"{name} = {what}", there)


def _top(composition: Composition) -> tuple[str, str]:
    return "model_download", f"s{composition.models[0].id}s"


def _bottom(composition: Composition) -> tuple[str, str]:
    return f"{composition.bundle.name}-nginx", "model_proxy"


def _batching_path(model: Model) -> str | None:
    folder = expectation.batching_folder(model)
    return f"{folder}/batching_{model.id}.txt" if folder else None


@lru_cache(maxsize=8)
def _digest_of(*bodies: bytes) -> str:
    return short_digest([body.decode("utf-8", "replace") for body in bodies])


def _service(document: readback.Document, index: int) -> _Piece:
    first, last = document.cuts[index : index + 2]
    return _Piece(_COMPOSE, document.text[first:last], document.text, first)


@contextmanager
def _readable(piece: _Piece) -> Iterator[None]:
    try:
        yield
    except readback.Unreadable as error:
        raise GateFailure(piece.file, piece.before + error.line, error.what, error.found) from error
