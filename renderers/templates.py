"""The package's own template files: read once, rendered by a sandboxed, strict jinja2.

A template gets typed values, never text that is already escaped; the filter of its sink stands beside each value.
The filters check by allow-list and refuse what their sink cannot hold, so that a loosened rule in `identifiers` is
found here. YAML that carries registry text does not come from here alone: see `yaml`.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import DictLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from renderers.errors import UnsafeText

_MAP_WORDS: Final = frozenset({"default", "include", "hostnames", "volatile"})
_NGINX_TOKEN: Final = re.compile(r"[a-z0-9_-]+")
_ENV_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_ENV_VALUE: Final = re.compile(r"[A-Za-z0-9._:/-]*")
_SHELL_WORD: Final = re.compile(r"[A-Za-z0-9._=+@,~:/-]+")
_MARKDOWN: Final = re.compile(r"[A-Za-z0-9 ._:/-]+")


def render(name: str, **values: object) -> str:
    """The text of template `name` filled with `values`; each value it names must be given."""
    return _environment().get_template(name).render(values)


def text(name: str) -> str:
    """The text of a file that is no template."""
    return _sources()[name]


@cache
def digest() -> str:
    """sha256, in hex, of all template files with their names."""
    total = hashlib.sha256()
    for name, source in _sources().items():
        total.update(f"{name}\0{len(source)}\0{source}".encode())
    return total.hexdigest()


def nginx_key(given: str) -> str:
    """A key of nginx's `map`; what nginx would take for a word of its own gets a backslash."""
    return "\\" + given if given in _MAP_WORDS else _allowed(_NGINX_TOKEN, given, "an nginx map")


def env_name(given: str) -> str:
    """A part of a variable's name."""
    return _allowed(_ENV_NAME, given, "a variable's name")


def env_value(given: str) -> str:
    """A value in an env file that needs no quotes and holds nothing that Compose would interpolate."""
    return _allowed(_ENV_VALUE, given, "an env file")


def shell_word(given: str) -> str:
    """One field for the shell's `read`."""
    return _allowed(_SHELL_WORD, given, "a field of a shell's read")


def markdown(given: str) -> str:
    """Text between words of Markdown; an underscore is no emphasis."""
    return _allowed(_MARKDOWN, given, "Markdown").replace("_", "\\_")


def _allowed(pattern: re.Pattern[str], given: str, sink: str) -> str:
    if not pattern.fullmatch(given):
        raise UnsafeText(sink, given)
    return given


@cache
def _sources() -> Mapping[str, str]:
    folder = files("renderers") / "templates"
    return {file.name: file.read_text("utf-8") for file in sorted(folder.iterdir(), key=lambda file: file.name)}


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader(_sources()),
        undefined=StrictUndefined,
        autoescape=False,  # no HTML here: each sink has its filter
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {each.__name__: each for each in (nginx_key, env_name, env_value, shell_word, markdown)}
    return environment
