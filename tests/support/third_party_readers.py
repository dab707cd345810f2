"""Reads a bundle with independent parsers.

They are PyYAML, python-dotenv, and lines split like nginx and `read` do.
"""

import re
from io import StringIO
from typing import Any

import yaml
from dotenv import dotenv_values

from renderers.values import RenderedFile

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VARIABLE = re.compile(r"\$\$|\$\{[A-Za-z0-9_]+:-([^}]*)\}")


def compose(bundle: tuple[RenderedFile, ...]) -> dict[str, Any]:
    """The compose file as Compose reads it without any variable set."""
    return _interpolated(
        yaml.load(text_of(bundle, "base/bundle/docker-compose.yaml"), Loader=_Loader)
    )


def signature(bundle: tuple[RenderedFile, ...]) -> Any:
    """The proxy's signature."""
    return yaml.load(text_of(bundle, "base/bundle/proxy/bundle-signature.yaml"), Loader=_Loader)


def routes(bundle: tuple[RenderedFile, ...]) -> dict[str, str]:
    """Service and port by model id, as nginx reads its map."""
    lines = [
        line.split(" ") for line in text_of(bundle, "base/bundle/nginx/models.map").splitlines()
    ]
    return {key.removeprefix("\\"): target.removesuffix(";") for key, target in lines}


def downloads(bundle: tuple[RenderedFile, ...]) -> list[list[str]]:
    """The fields of each model, as a shell's `read` splits the list."""
    lines = text_of(bundle, "base/model-serving/model-download/models.txt").splitlines()
    return [line.strip(" ").split(" ", maxsplit=7) for line in lines]


def variables(bundle: tuple[RenderedFile, ...]) -> dict[str, str | None]:
    """The variables of the deployment directory."""
    return dotenv_values(
        stream=StringIO(text_of(bundle, "example/conf/bundle/.env")), interpolate=False
    )


def text_of(bundle: tuple[RenderedFile, ...], path: str) -> str:
    """One file."""
    return next(file.body for file in bundle if file.path == path).decode()


def _interpolated(value: Any) -> Any:
    match value:
        case dict():
            return {key: _interpolated(child) for key, child in value.items()}
        case list():
            return [_interpolated(child) for child in value]
        case str():
            return _VARIABLE.sub(lambda found: "$" if found[0] == "$$" else found[1], value)
        case _:
            return value
