"""Judges the files of a bundle that say nothing of single models: the package's own texts, and the README.

What nobody replaced must be the package's own, byte for byte, or, around what it says of this bundle, word by word.
What a bundle's own template makes must say what the rest of the bundle stands on.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

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
    own_text,
    readable,
    spellings,
)

README: Final = "README.md"
SCRIPT: Final = "base/model-serving/model-download/download.sh"
ENV: Final = "example/conf/bundle/.env"
_NGINX: Final = "example/conf/bundle/nginx.conf"
_CREDENTIALS: Final = "example/creds/bundle/gcs.json"
STATIC: Final = {
    "base/bundle/monitoring.txt": "monitoring.txt",
    SCRIPT: "download.sh",
    "example/.env": "deployment.env",
    "example/creds/bundle/.env": "creds.env",
    _CREDENTIALS: "gcs.json",
    _NGINX: "nginx.conf",
    "example/docker-compose.yaml": "deployment.yaml",
}
"""Files that are the same in every bundle, and the templates they come from."""
_S3_KEYS: Final = ("PROVIDER", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT", "REGION")

_passed: Final = Cache[bool](4 << 20)
_VERDICT_SIZE: Final = 512


def check_static_files(given: CheckedBundle, bodies: Mapping[str, bytes], head: int) -> None:
    """The files that are the same in every bundle, and the head of the env file; judged once for each text."""
    pieces = [(Piece(path, bodies[path]), template) for path, template in STATIC.items()]
    pieces.append((Piece(ENV, bodies[ENV][:head]), "conf.env"))
    parts = (part for piece, _ in pieces for part in (piece.file.encode(), piece.body))
    verdict = ("static", given.overridden, hashlib.sha256(b"\0".join(parts)).digest())
    if _passed.get(verdict):
        return
    for piece, template in pieces:
        if template in given.overridden:
            _check_replaced(piece, template)
        else:
            check_own(piece, template)
    _passed.put(verdict, value=True, size=_VERDICT_SIZE)


def _check_replaced(piece: Piece, template: str) -> None:
    """A file of the bundle's own says what the rest of the bundle stands on."""
    match template:
        case "deployment.env":
            check_assignments(piece, {"REL_DIR": ""}, may_add=True)
        case "creds.env":
            check_assignments(piece, {f"RCLONE_S3_{key}": "" for key in _S3_KEYS}, may_add=True)
        case "conf.env":
            check_assignments(piece, {"MODEL_PROXY_HTTP_PORT": "8000", "MODEL_PROXY_GRPC_PORT": "8005"}, may_add=True)
        case "deployment.yaml":
            guard = "${REL_DIR:?set it in .env to the full path of this directory}/conf/bundle/.env"
            include = {"include": [{"path": "../base/bundle/docker-compose.yaml", "env_file": [guard]}]}
            check_yaml(piece, include, may_add=True)
        case "gcs.json":
            _check_holds(piece, '"type": "service_account"')
        case "download.sh":
            _check_holds(piece, "#!/bin/sh\n")
        case "nginx.conf":
            _check_router(piece)
        case _:
            check_plain(piece)


def _check_router(piece: Piece) -> None:
    """nginx.conf reads the generated map and passes requests on by it, over HTTP/2 on the port that the proxy calls."""
    with readable(piece):
        directives = parsers.nginx(piece.text)
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


def check_readme(given: CheckedBundle, bodies: Mapping[str, bytes]) -> None:
    """README.md is the package's own text about this bundle, and shows options as its services have them."""
    composition, body = given.composition, bodies[README]
    bundle, folders = composition.bundle, expectations.image_folders(composition, given.defaults)
    verdict = ("readme", given.key, folders, hashlib.sha256(body).digest())
    if _passed.get(verdict):
        return
    piece = Piece(README, body)
    check_plain(piece)
    if "README.md" not in given.overridden:
        said = {
            "bundle": _prose(bundle.name),
            "target": _prose(bundle.target),
            "registries": ", ".join(map(_prose, sorted(folders))),
            "gcs": Piece(_CREDENTIALS, bodies[_CREDENTIALS]).text,
        }
        for line, name, text in check_pattern(piece, own_text("README.md").decode(), said):
            _check_listing(given, Piece(README, text.encode(), body, _start_of_line(body, line)), name)
    _passed.put(verdict, value=True, size=_VERDICT_SIZE + len(given.key))


def _check_listing(given: CheckedBundle, piece: Piece, name: str) -> None:
    """A listing of the README is what its service says, and its options are the service's."""
    listing, composition = name.removeprefix("excerpts."), given.composition
    may_add = given.may_add(f"{expectations.shown_template(listing)}.yaml")
    listed = piece.text.replace("<model_id>", "sample").replace("<image>", expectations.SAMPLE_IMAGE)
    options = {each for option in expectations.options(listing, composition) for each in spellings(option)}
    for number, line in enumerate(listed.split("\n"), 1):
        option = line.lstrip("> ")
        if option.startswith("#") and option not in options and not may_add:
            raise GateFailure(README, piece.before + number, "no option that the service does not have", repr(option))
    piece = replace(piece, body=parsers.switched_on(listed).encode())
    check_yaml(piece, expectations.shown(listing, composition), may_add=may_add)


def _start_of_line(body: bytes, line: int) -> int:
    return len(b"\n".join(body.split(b"\n")[: line - 1])) + 1 if line > 1 else 0


def _prose(text: str) -> str:
    return text.replace("_", "\\_")


def _check_holds(piece: Piece, text: str) -> None:
    if text not in piece.text:
        raise GateFailure(piece.file, 1, text.strip(), "nothing of the kind")
