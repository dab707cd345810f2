"""The gate: what was rendered, read back and compared with what the composition says, before anyone sees it.

It shares no code with what renders: `readback` parses, `expectation` states what must be there. What belongs to one
model (its service, its lines in the map, the list and the env file, its batching file) is judged alone, and a verdict
is kept by the digest of text and expectation; so judging, too, costs what changed.

What it does not judge: prose (README.md, comments), the tunables of nginx.conf and the logic of download.sh.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from renderers import expectation, readback
from renderers.cache import Cache
from renderers.errors import GateFailure
from renderers.expectation import Default, short_digest
from renderers.model import Composition, Model, RenderDefaults, RenderedFile, canonical_json

_COMPOSE: Final = "base/bundle/docker-compose.yaml"
_MAP: Final = "base/bundle/nginx/models.map"
_SIGNATURE: Final = "base/bundle/proxy/bundle-signature.yaml"
_LIST: Final = "base/model-serving/model-download/models.txt"
_SCRIPT: Final = "base/model-serving/model-download/download.sh"
_STAMP: Final = "base/.rebundle.json"
_ENV: Final = "example/conf/bundle/.env"
_NGINX: Final = "example/conf/bundle/nginx.conf"
_INCLUDE: Final = "example/docker-compose.yaml"
_ALWAYS: Final = frozenset(
    {
        *(_COMPOSE, _MAP, _SIGNATURE, _LIST, _SCRIPT, _STAMP, _ENV, _NGINX, _INCLUDE, "README.md"),
        *("base/bundle/monitoring.txt", "base/model-serving/model-download/models/.gitkeep"),
        *("example/.env", "example/creds/bundle/.env", "example/creds/bundle/gcs.json"),
    }
)
_GRPC_PORTS: Final = {"tensorflow": 8500, "triton": 8001}
_VERDICT_SIZE: Final = 512

_passed: Final = Cache[bool](16 << 20)


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
    _check_paths(composition, bundle, files)
    bodies = {path: file.body for path, file in files.items()}
    compose = _Piece(_COMPOSE, bodies[_COMPOSE])
    with _readable(compose):
        document = readback.document(compose.body, _services(composition))
    frame = _Frame(composition, defaults, overridden)
    _check_models(frame, document, bodies)
    _check_signature(frame, bodies[_SIGNATURE])
    _check_stamp(composition, bodies[_STAMP])
    _check_example(bodies)
    # Last, because their labels differ whenever a file above does: the fault is named where it is.
    _check_fixed_services(frame, document, bodies)
    _check_ends(frame, document)


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
        return not self.overridden.isdisjoint({template, "labels.yaml", "resources.yaml"})


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


def _check_paths(composition: Composition, bundle: Bundle, files: Mapping[str, RenderedFile]) -> None:
    if len(files) != len(bundle.files):
        raise GateFailure("", 1, "each path once", "a path twice")
    batching = {_batching_path(model) for model in composition.models if model.serving.platform == "tensorflow"}
    wanted = _ALWAYS | batching
    for path in sorted(wanted ^ set(files)):
        raise GateFailure(
            path, 1, "this file" if path in wanted else "no such file", "none" if path in wanted else "one"
        )
    for file in bundle.files:
        if file.executable != (file.path == _SCRIPT):
            raise GateFailure(file.path, 1, "0755 for download.sh alone", file.mode)


def _check_models(frame: _Frame, document: readback.Document, bodies: Mapping[str, bytes]) -> None:
    models = frame.composition.models
    blocks = document.services[1:-2]
    map_lines = _pieces(_MAP, bodies[_MAP].splitlines(keepends=True), len(models))
    list_lines = _pieces(_LIST, bodies[_LIST].splitlines(keepends=True), len(models))
    paragraphs = _pieces(_ENV, bodies[_ENV].rstrip(b"\n").split(b"\n\n")[2:], len(models))
    key = frame.key
    for index, model in enumerate(models):
        batching = bodies[_batching_path(model)] if model.serving.platform == "tensorflow" else b""
        parts = (blocks[index], map_lines[index], list_lines[index], paragraphs[index], batching)
        verdict = (model.canonical, key, hashlib.sha256(b"\0".join(parts)).digest())
        if _passed.get(verdict):
            continue
        _check_batching(model, batching)
        _check_model_block(frame, model, _service(document, index + 1), batching)
        _check_map_line(model, _line(_MAP, bodies, index))
        _check_list_line(model, _line(_LIST, bodies, index))
        above = bodies[_ENV].index(paragraphs[index])
        _check_env(frame, model, _Piece(_ENV, paragraphs[index], bodies[_ENV], above))
        _passed.put(verdict, value=True, size=_VERDICT_SIZE + len(model.canonical))


def _pieces(file: str, parts: Sequence[bytes], wanted: int) -> Sequence[bytes]:
    if len(parts) != wanted:
        raise GateFailure(file, 1, f"entries for {wanted} models", str(len(parts)))
    return parts


def _check_model_block(frame: _Frame, model: Model, piece: _Piece, batching: bytes) -> None:
    mounted = batching.decode() if expectation.batching_parameters(model) is not None else None
    expected = expectation.model_service(model, frame.composition, frame.defaults, mounted)
    _check_block(piece, f"s{model.id}s", expected, may_add=frame.may_add(f"{model.serving.platform}.yaml"))


def _check_map_line(model: Model, piece: _Piece) -> None:
    with _readable(piece):
        found = readback.map_line(piece.text)
    _compare(piece, (model.id, f"s{model.id}s", _GRPC_PORTS[model.serving.platform]), found)


def _check_list_line(model: Model, piece: _Piece) -> None:
    number = model.serving_version if model.serving.platform == "tensorflow" else None
    with _readable(piece):
        found = readback.list_line(piece.text)
    _compare(piece, (model.id, number, model.artifact.uri), found)


def _check_env(frame: _Frame, model: Model, piece: _Piece) -> None:
    amounts = expectation.amounts(model, frame.defaults)
    defaults = [default for group in amounts.values() for default in group.values()]
    with _readable(piece):
        found = readback.env(piece.text)
    _compare(piece, {default.variable: "" for default in defaults}, found)
    noted = readback.noted_amounts(piece.text)
    for default in defaults:
        name = "_".join(default.variable.split("_")[-2:])
        if name not in noted or not default.is_amount(*noted[name]):
            raise GateFailure(piece.file, piece.before + 1, f"{name} {default.amount}", str(noted.get(name)))


def _check_batching(model: Model, body: bytes) -> None:
    if model.serving.platform != "tensorflow":
        return
    piece = _Piece(_batching_path(model), body)
    with _readable(piece):
        found = readback.batching(piece.text)
    expected = expectation.batching_parameters(model)
    if expected is not None:
        _compare(piece, expected, found)


def _check_fixed_services(frame: _Frame, document: readback.Document, bodies: Mapping[str, bytes]) -> None:
    composition, defaults, last = frame.composition, frame.defaults, len(document.cuts) - 2
    download = _digest_of(bodies[_LIST], bodies[_SCRIPT])
    expected = (
        ("model_download.yaml", 0, expectation.download_service(download, composition, defaults)),
        ("router.yaml", last - 1, expectation.router_service(_digest_of(bodies[_MAP]), composition, defaults)),
        ("proxy.yaml", last, expectation.proxy_service(_digest_of(bodies[_SIGNATURE]), composition, defaults)),
    )
    names = _services(composition)
    for template, index, service in expected:
        _check_block(_service(document, index), names[index], service, may_add=frame.may_add(template))


def _check_ends(frame: _Frame, document: readback.Document) -> None:
    text, start, end = document.text, document.cuts[0], document.cuts[-1]
    _check_yaml(_Piece(_COMPOSE, text[:start]), {"services": None})
    _check_yaml(_Piece(_COMPOSE, text[end:], text, end), {"networks": {frame.composition.bundle.name: {}}})


def _check_block(piece: _Piece, name: str, expected: Mapping[str, Any], *, may_add: bool) -> None:
    *lines, end = piece.body.split(b"\n")
    for number, line in enumerate(lines[1:], 2):
        if line and not line.startswith(b"    "):
            raise GateFailure(piece.file, piece.before + number, f"a line of {name}, further in", repr(line))
    if end or lines[-1] or not lines[-2]:
        raise GateFailure(piece.file, piece.before + len(lines), f"one empty line at the end of {name}", "another end")
    inside = replace(piece, body=b"services:\n" + piece.body, added=1)
    _check_yaml(inside, {"services": {name: expected}}, may_add=may_add)


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


def _check_example(bodies: Mapping[str, bytes]) -> None:
    """The files that are the same in every bundle; judged once for each text."""
    static = ("example/.env", "example/creds/bundle/.env", "example/creds/bundle/gcs.json", _INCLUDE, _NGINX, _SCRIPT)
    head = bodies[_ENV].split(b"\n\n", 1)[0]
    verdict = ("example", hashlib.sha256(b"\0".join([head, *(bodies[path] for path in static)])).digest())
    if _passed.get(verdict):
        return
    _check_assignments(_Piece(_ENV, head), {"MODEL_PROXY_HTTP_PORT": "8000", "MODEL_PROXY_GRPC_PORT": "8005"})
    _check_assignments(_Piece("example/.env", bodies["example/.env"]), {"REL_DIR": ""})
    keys = ("PROVIDER", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT", "REGION")
    creds = "example/creds/bundle/.env"
    _check_assignments(_Piece(creds, bodies[creds]), {f"RCLONE_S3_{key}": "" for key in keys})
    guard = "${REL_DIR:?set it in .env to the full path of this directory}/conf/bundle/.env"
    include = {"include": [{"path": "../base/bundle/docker-compose.yaml", "env_file": [guard]}]}
    _check_yaml(_Piece(_INCLUDE, bodies[_INCLUDE]), include)
    _check_holds(_NGINX, bodies, b"include /etc/nginx/bundle/models.map;")
    _check_holds(_SCRIPT, bodies, b"#!/bin/sh\n")
    _check_holds("example/creds/bundle/gcs.json", bodies, b'"type": "service_account"')
    _passed.put(verdict, value=True, size=_VERDICT_SIZE)


def _check_assignments(piece: _Piece, expected: Mapping[str, str]) -> None:
    with _readable(piece):
        found = readback.env(piece.text)
    _compare(piece, dict(expected), found)


def _check_holds(path: str, bodies: Mapping[str, bytes], text: bytes) -> None:
    if text not in bodies[path]:
        raise GateFailure(path, 1, text.decode(), "nothing of the kind")


def _check_yaml(piece: _Piece, expected: Any, *, may_add: bool = False) -> None:
    with _readable(piece):
        parsed = readback.yaml_text(piece.text)
    different = _difference(expected, parsed.value, (), may_add=may_add)
    if different is not None:
        path, wanted, found = different
        where = ".".join(map(str, path)) or "the file"
        raise GateFailure(piece.file, piece.before + parsed.line(path), f"{where} = {wanted}", found)


def _compare(piece: _Piece, expected: Any, found: Any) -> None:
    if expected != found:
        raise GateFailure(piece.file, piece.before + 1, str(expected), str(found))


def _difference(
    expected: Any, found: Any, path: tuple[str | int, ...], *, may_add: bool
) -> tuple[tuple[str | int, ...], str, str] | None:
    """The first place where two values differ; 1 is neither true nor 1.0.

    With `may_add`, what is expected must be there, in its order, and more may stand in mappings and lists.
    """
    match expected:
        case Default():
            is_same = expected.is_in(found)
        case dict() if isinstance(found, dict):
            more = () if may_add else (key for key in found if key not in expected)
            for key in (*expected, *more):
                if key not in found or key not in expected:
                    return (*path, key), _shown(expected, key), _shown(found, key)
                different = _difference(expected[key], found[key], (*path, key), may_add=may_add)
                if different:
                    return different
            is_same = True
        case list() if isinstance(found, list) and len(expected) == len(found):
            pairs = enumerate(zip(expected, found, strict=True))
            steps = (_difference(one, other, (*path, index), may_add=may_add) for index, (one, other) in pairs)
            return next((step for step in steps if step), None)
        case list() if isinstance(found, list) and may_add:
            rest = iter(found)
            is_same = all(any(_difference(one, other, (), may_add=True) is None for other in rest) for one in expected)
        case _:
            is_same = type(expected) is type(found) and expected == found
    return None if is_same else (path, repr(expected), repr(found))


def _shown(group: Mapping[str, Any], key: str) -> str:
    return repr(group[key]) if key in group else "nothing"


def _services(composition: Composition) -> list[str]:
    models = (f"s{model.id}s" for model in composition.models)
    return ["model_download", *models, f"{composition.bundle.name}-nginx", "model_proxy"]


def _batching_path(model: Model) -> str:
    folder = "example/conf/bundle" if expectation.batching_parameters(model) is None else "base/bundle"
    return f"{folder}/batching_{model.id}.txt"


def _digest_of(*bodies: bytes) -> str:
    return short_digest([body.decode("utf-8", "replace") for body in bodies])


def _service(document: readback.Document, index: int) -> _Piece:
    first, last = document.cuts[index : index + 2]
    return _Piece(_COMPOSE, document.text[first:last], document.text, first)


def _line(file: str, bodies: Mapping[str, bytes], index: int) -> _Piece:
    lines = bodies[file].splitlines(keepends=True)
    return _Piece(file, lines[index], bodies[file], sum(map(len, lines[:index])))


@contextmanager
def _readable(piece: _Piece) -> Iterator[None]:
    try:
        yield
    except readback.Unreadable as error:
        raise GateFailure(piece.file, piece.before + error.line, error.what, error.found) from error
