"""Checks the files of a bundle that do not depend on single models: static files and the README.

The output of a built-in template must equal the package's text, byte for byte; the README must
equal it except for the values of this bundle. The output of a custom template must hold what the
rest of the bundle depends on.
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
    built_in_text,
    check_assignments,
    check_built_in,
    check_pattern,
    check_plain,
    check_service,
    check_yaml,
    readable,
    spellings,
)

README: Final = "README.md"
SCRIPT: Final = "base/model-serving/model-download/download.sh"
ROUTER_SCRIPT: Final = "base/bundle/nginx/router.sh"
_UPDATE: Final = "base/update.sh"
_OWN_UPDATE: Final = "example/update.sh"
SCRIPTS: Final = frozenset({SCRIPT, ROUTER_SCRIPT, _UPDATE, _OWN_UPDATE})
ENV: Final = "example/conf/bundle/.env"
_NGINX: Final = "example/conf/bundle/nginx.conf"
_CREDENTIALS: Final = "example/creds/bundle/gcs.json"
STATIC: Final = {
    "base/bundle/monitoring.txt": "monitoring.txt",
    SCRIPT: "download.sh",
    ROUTER_SCRIPT: "router.sh",
    _UPDATE: "update.sh",
    _OWN_UPDATE: "deployment_update.sh",
    "example/.env": "deployment.env",
    "example/creds/bundle/.env": "creds.env",
    _CREDENTIALS: "gcs.json",
    _NGINX: "nginx.conf",
    "example/docker-compose.yaml": "deployment.yaml",
}
"""Files that are the same in every bundle, and the templates they come from."""
_S3_KEYS: Final = ("PROVIDER", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT", "REGION")

_passed: Final = Cache[bool](4 << 20)
"""Texts that passed before, by their digest and what they were checked against."""
_ENTRY_SIZE: Final = 512
"""Bytes that an entry of the cache counts for."""


def check_static_files(checked: CheckedBundle, bodies: Mapping[str, bytes], head: int) -> None:
    """Checks the files that are the same in every bundle, and the head of the env file.

    The same texts are checked once. `head` is the length of the env file's part above the models.
    """
    pieces = [(Piece(path, bodies[path]), template) for path, template in STATIC.items()]
    pieces.append((Piece(ENV, bodies[ENV][:head]), "conf.env"))
    parts = (part for piece, _ in pieces for part in (piece.file.encode(), piece.body))
    cache_key = ("static", checked.overridden, hashlib.sha256(b"\0".join(parts)).digest())
    if _passed.get(cache_key):
        return
    for piece, template in pieces:
        if template in checked.overridden:
            _check_replaced(piece, template)
        else:
            check_built_in(piece, template)
    _passed.put(cache_key, value=True, size=_ENTRY_SIZE)


def _check_replaced(piece: Piece, template: str) -> None:
    """The output of a custom template holds what the rest of the bundle depends on."""
    match template:
        case "deployment.env":
            check_assignments(piece, {"REL_DIR": ""}, may_add=True)
        case "creds.env":
            check_assignments(piece, {f"RCLONE_S3_{key}": "" for key in _S3_KEYS}, may_add=True)
        case "conf.env":
            ports = {"MODEL_PROXY_HTTP_PORT": "8000", "MODEL_PROXY_GRPC_PORT": "8005"}
            check_assignments(piece, ports, may_add=True)
        case "deployment.yaml":
            guard = "${REL_DIR:?set it in .env to the full path of this directory}/conf/bundle/.env"
            bundle = {"path": "../base/bundle/docker-compose.yaml", "env_file": [guard]}
            check_yaml(piece, {"include": [bundle]}, may_add=True)
        case "gcs.json":
            _check_holds(piece, '"type": "service_account"')
        case "download.sh" | "router.sh" | "update.sh" | "deployment_update.sh":
            _check_holds(piece, "#!/bin/sh\n")
        case "nginx.conf":
            _check_router(piece)
        case _:
            check_plain(piece)


def _check_router(piece: Piece) -> None:
    """nginx.conf routes gRPC requests by the generated map, on the port that the proxy calls."""
    with readable(piece):
        directives = parsers.nginx(piece.text)
    found = {(directive.name, *directive.words) for directive in directives}
    include = ("include", "/etc/nginx/bundle/models.map")
    included = [
        directive
        for directive in directives
        if directive.name == "map"
        and directive.words[:1] == ("$http_model_id",)
        and include in directive.inside
    ]
    if not included:
        raise GateFailure(
            _NGINX, 1, "a map of $http_model_id that includes /etc/nginx/bundle/models.map", "none"
        )
    target = f"grpc://{included[0].words[1]}"
    if ("grpc_pass", target) not in found:
        raise GateFailure(_NGINX, included[0].line, f"grpc_pass {target}", "none")
    if not any(name == "listen" and words[:1] == ["8500"] for name, *words in found):
        raise GateFailure(_NGINX, 1, "listen 8500", "none")
    if not any(name == "resolver" for name, *_ in found):
        raise GateFailure(_NGINX, 1, "a resolver, without which no service is found", "none")


def check_readme(checked: CheckedBundle, bodies: Mapping[str, bytes]) -> None:
    """README.md is the built-in text with this bundle's values, and lists its services' options."""
    composition, body = checked.composition, bodies[README]
    bundle, folders = composition.bundle, expectations.image_folders(composition, checked.defaults)
    cache_key = ("readme", checked.key, folders, hashlib.sha256(body).digest())
    if _passed.get(cache_key):
        return
    piece = Piece(README, body)
    check_plain(piece)
    if "README.md" not in checked.overridden:
        values = {
            "bundle": _prose(bundle.name),
            "target": _prose(bundle.target),
            "registries": ", ".join(map(_prose, sorted(folders))),
            "gcs": Piece(_CREDENTIALS, bodies[_CREDENTIALS]).text,
        }
        listings = check_pattern(piece, built_in_text("README.md").decode(), values)
        for line, name, text in listings:
            listing = Piece(README, text.encode(), body, _start_of_line(body, line))
            _check_listing(checked, listing, name)
    _passed.put(cache_key, value=True, size=_ENTRY_SIZE + len(checked.key))


def _check_listing(checked: CheckedBundle, piece: Piece, name: str) -> None:
    """A listing of the README equals its service, and its options are options of the service."""
    listing, composition = name.removeprefix("excerpts."), checked.composition
    may_add = checked.may_add(f"{expectations.shown_template(listing)}.yaml")
    text = piece.text.replace("<model_id>", "sample")
    listed = text.replace("<image>", expectations.SAMPLE_IMAGE)
    options = {
        spelling
        for option in expectations.options(listing, composition)
        for spelling in spellings(option)
    }
    for number, line in enumerate(listed.split("\n"), 1):
        option = line.lstrip("> ")
        if option.startswith("#") and option not in options and not may_add:
            expected = "no option that the service does not have"
            raise GateFailure(README, piece.before + number, expected, repr(option))
    piece = replace(piece, body=parsers.switched_on(listed).encode())
    ((shown, service),) = expectations.shown(listing, composition).items()
    if may_add:
        # A custom template has its own way to give a service its GPUs, and may offer no other.
        service = {key: value for key, value in service.items() if key != "deploy"}
    check_service(piece, shown, service, may_add=may_add)


def _start_of_line(body: bytes, line: int) -> int:
    return len(b"\n".join(body.split(b"\n")[: line - 1])) + 1 if line > 1 else 0


def _prose(text: str) -> str:
    return text.replace("_", "\\_")


def _check_holds(piece: Piece, text: str) -> None:
    if text not in piece.text:
        raise GateFailure(piece.file, 1, text.strip(), "nothing of the kind")
