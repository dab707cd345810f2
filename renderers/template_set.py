"""Templates of the rendered files, by a sandboxed, strict jinja2: the package's own, and what a bundle puts over them.

A template gets typed values, never text that is already escaped; the filter of its sink stands beside each value.
The filters check by allow-list and refuse what their sink cannot hold, so that a loosened rule in `identifiers` is
found here. YAML that carries registry text does not come from here alone: see `yaml`.

A bundle's own template replaces the built-in one of the same name. Its author is trusted like the settings are; the
sandbox and the gate stand behind it all the same.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Final

from jinja2 import FunctionLoader, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from renderers.errors import TemplateFault, UnsafeText

_TEXTS: Final = frozenset(
    {
        *("conf.env", "creds.env", "deployment.env", "deployment.yaml", "download.sh", "gcs.json", "header.yaml"),
        *("monitoring.txt", "nginx.conf"),
    }
)
"""Files that stand in every bundle as they are: `${#list}` in a shell script begins no comment of jinja2."""
_OF_ITS_AUTHOR: Final = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, MemoryError, SyntaxError),
)
"""What the code that jinja2 makes of a template raises, and its compiler, when the template asks for nonsense."""
_MAP_WORDS: Final = frozenset({"default", "include", "hostnames", "volatile"})
_NGINX_TOKEN: Final = re.compile(r"[a-z0-9_-]+")
_ENV_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_ENV_VALUE: Final = re.compile(r"[A-Za-z0-9._:/-]*")
_SHELL_WORD: Final = re.compile(r"[A-Za-z0-9._=+@,~:/-]+")
_MARKDOWN: Final = re.compile(r"[A-Za-z0-9 ._:/-]+")


@dataclass(frozen=True, eq=False)
class Templates:
    """A full set of templates; two with the same texts are equal."""

    _sources: Mapping[str, str]
    overridden: frozenset[str] = frozenset()
    """The names whose text is not the package's own."""

    @staticmethod
    @cache
    def built_in() -> "Templates":
        """The package's own."""
        folder = files("renderers") / "templates"
        named = sorted(folder.iterdir(), key=lambda file: file.name)
        return Templates({file.name: file.read_text("utf-8") for file in named})

    def overridden_by(self, sources: Mapping[str, str]) -> "Templates":
        """These, but for the ones in `sources` (name -> text).

        Raises:
            TemplateFault: there is no template of that name, or its text is no template.
        """
        for name, text in sources.items():
            if name not in self._sources:
                near = difflib.get_close_matches(name, self._sources, n=1)
                meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(self._sources)}"
                raise TemplateFault(name, 1, f"is the name of no template; {meant}")
            if name not in _TEXTS:
                self._check_syntax(name, text)
        changed = {name for name, text in sources.items() if text != Templates.built_in().text(name)}
        return Templates({**self._sources, **sources}, frozenset(self.overridden - sources.keys()) | changed)

    @cached_property
    def digest(self) -> str:
        """sha256, in hex, of all of them with their names."""
        total = hashlib.sha256()
        for name, source in self._sources.items():
            total.update(f"{name}\0{len(source)}\0{source}".encode())
        return total.hexdigest()

    def render(self, name: str, **values: object) -> str:
        """The text of template `name` filled with `values`; each value it names must be given.

        Raises:
            UnsafeText: a value cannot stand where the template puts it.
            TemplateFault: the template asks for what it is not given, or for what the sandbox forbids.
        """
        try:
            return self._environment.get_template(name).render(values)
        except TemplateError as error:
            raise TemplateFault(*self._place(error, name), error.message or str(error)) from error
        except _OF_ITS_AUTHOR as error:
            raise TemplateFault(*self._place(error, name), f"{type(error).__name__}: {error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them, sorted."""
        return tuple(self._sources)

    def text(self, name: str) -> str:
        """The text of a template as it is, or of a file that is none."""
        return self._sources[name]

    def _check_syntax(self, name: str, text: str) -> None:
        try:
            self._environment.compile(text, name)
        except TemplateSyntaxError as error:
            raise TemplateFault(name, error.lineno, error.message or "is no template") from error
        except _OF_ITS_AUTHOR as error:
            raise TemplateFault(name, 1, f"is too much for a template: {type(error).__name__}: {error}") from error

    def _place(self, error: BaseException, name: str) -> tuple[str, int]:
        """Template and line where it failed, in an included one perhaps: jinja2 puts both into the traceback."""
        place = (name, 1)
        frame = error.__traceback__
        while frame is not None:
            if frame.tb_frame.f_code.co_filename in self._sources:
                place = (frame.tb_frame.f_code.co_filename, frame.tb_lineno)
            frame = frame.tb_next
        return place

    def _load(self, name: str) -> tuple[str, str, None] | None:
        return (self._sources[name], name, None) if name in self._sources else None

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        environment = ImmutableSandboxedEnvironment(
            loader=FunctionLoader(self._load),  # with the name as its file, for tracebacks
            undefined=StrictUndefined,
            autoescape=False,  # no HTML here: each sink has its filter
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters |= {each.__name__: each for each in (nginx_key, env_name, env_value, shell_word, markdown)}
        return environment

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Templates) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


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
