"""The templates of the rendered files, in a sandboxed, strict jinja2: built-in and custom ones.

A template gets typed values, never escaped text, and applies the filter of the output format to
each value. The filters check an allow-list and refuse everything that their format cannot hold, so
they are a second check behind the rules in `identifiers`. YAML with text from a registry is filled
by `yaml_templates`.

A custom template replaces the built-in one of the same name. Its author is trusted like the author
of the settings; the sandbox and the gate apply to it nevertheless.
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
        *(
            "conf.env",
            "creds.env",
            "deployment.env",
            "deployment.yaml",
            "deployment_update.sh",
            "download.sh",
            "gcs.json",
            "header.yaml",
        ),
        *("monitoring.txt", "nginx.conf", "router.sh", "update.sh"),
    }
)
"""Files that are copied unchanged: jinja2 would read `${#list}` in a script as a comment."""
_TEMPLATE_ERRORS: Final = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(RuntimeError, MemoryError, SyntaxError),
)
"""What jinja2's compiler and the compiled code can raise for a faulty template."""
_MAP_WORDS: Final = frozenset({"default", "include", "hostnames", "volatile"})
_NGINX_TOKEN: Final = re.compile(r"[a-z0-9_-]+")
_ENV_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_ENV_VALUE: Final = re.compile(r"[A-Za-z0-9._:/-]*")
_SHELL_WORD: Final = re.compile(r"[A-Za-z0-9._=+@,~:/-]+")
_LAST_FIELD: Final = re.compile(r"(?! )[A-Za-z0-9._=+@,~:/() -]+(?<! )")
_PROTOBUF_STRING: Final = re.compile(r"[A-Za-z0-9._-]*")
_MARKDOWN: Final = re.compile(r"[A-Za-z0-9 ._:/-]+")


@dataclass(frozen=True, eq=False)
class Templates:
    """A full set of templates. Two sets with the same texts are equal."""

    _sources: Mapping[str, str]
    overridden: frozenset[str] = frozenset()
    """The names of the custom templates: their text differs from the built-in one."""

    @staticmethod
    @cache
    def built_in() -> "Templates":
        """The package's templates."""
        folder = files("renderers") / "templates"
        named = sorted(folder.iterdir(), key=lambda file: file.name)
        return Templates({file.name: file.read_text("utf-8") for file in named})

    def overridden_by(self, sources: Mapping[str, str]) -> "Templates":
        """This set with the templates in `sources` (name -> text) replaced.

        Raises:
            TemplateFault: a name is unknown, or a text is not a valid template.
        """
        for name, text in sources.items():
            if name not in self._sources:
                near = difflib.get_close_matches(name, self._sources, n=1)
                meant = (
                    f"did you mean {near[0]}?" if near else f"there are {', '.join(self._sources)}"
                )
                raise TemplateFault(name, 1, f"is not the name of a template; {meant}")
            if name not in _TEXTS:
                self._check_syntax(name, text)
        built_in = Templates.built_in()
        changed = {name for name, text in sources.items() if text != built_in.text(name)}
        overridden = frozenset(self.overridden - sources.keys()) | changed
        return Templates({**self._sources, **sources}, overridden)

    @cached_property
    def digest(self) -> str:
        """sha256, in hex, of all names and texts."""
        total = hashlib.sha256()
        for name, source in self._sources.items():
            total.update(f"{name}\0{len(source)}\0{source}".encode())
        return total.hexdigest()

    def render(self, name: str, /, **values: object) -> str:
        """Renders template `name` with `values`, which must have every value that it uses.

        Raises:
            UnsafeText: the output format cannot hold a value.
            TemplateFault: a value is missing, the sandbox forbids an operation, or one fails.
        """
        try:
            return self._environment.get_template(name).render(values)
        except TemplateError as error:
            raise TemplateFault(
                *self._fault_place(error, name), error.message or str(error)
            ) from error
        except _TEMPLATE_ERRORS as error:
            raise TemplateFault(
                *self._fault_place(error, name), f"{type(error).__name__}: {error}"
            ) from error

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all templates, sorted."""
        return tuple(self._sources)

    def text(self, name: str) -> str:
        """The unrendered text of a template, or of a file that is copied unchanged."""
        return self._sources[name]

    def _check_syntax(self, name: str, text: str) -> None:
        try:
            self._environment.compile(text, name)
        except TemplateSyntaxError as error:
            message = error.message or "is not a valid template"
            raise TemplateFault(name, error.lineno, message) from error
        except _TEMPLATE_ERRORS as error:
            message = f"cannot be compiled: {type(error).__name__}: {error}"
            raise TemplateFault(name, 1, message) from error

    def _fault_place(self, error: BaseException, name: str) -> tuple[str, int]:
        """The template and line that failed, perhaps in an included template.

        jinja2 puts both into the traceback.
        """
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
            loader=FunctionLoader(self._load),  # the name is the file name in tracebacks
            undefined=StrictUndefined,
            autoescape=False,  # the output is not HTML; each output format has its filter
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        filters = (
            *(nginx_key, env_name, env_value, shell_word, last_field),
            *(protobuf_string, markdown),
        )
        environment.filters |= {function.__name__: function for function in filters}
        return environment

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Templates) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def nginx_key(text: str) -> str:
    """A key of nginx's `map`; a word that nginx reserves there gets a backslash."""
    return "\\" + text if text in _MAP_WORDS else _allowed(_NGINX_TOKEN, text, "an nginx map")


def env_name(text: str) -> str:
    """A part of the name of an environment variable."""
    return _allowed(_ENV_NAME, text, "a variable's name")


def env_value(text: str) -> str:
    """A value in an env file that needs no quotes and has nothing that Compose interpolates."""
    return _allowed(_ENV_VALUE, text, "an env file")


def shell_word(text: str) -> str:
    """One field of a line for the shell's `read`."""
    return _allowed(_SHELL_WORD, text, "a field of a shell's read")


def last_field(text: str) -> str:
    """The last field of a line for the shell's `read -r`, which may have blanks inside."""
    return _allowed(_LAST_FIELD, text, "the last field of a shell's read")


def protobuf_string(text: str) -> str:
    """A quoted string of protobuf's text format, in which no character has to be escaped."""
    return f'"{_allowed(_PROTOBUF_STRING, text, "a string of protobuf")}"'


def markdown(text: str) -> str:
    """Text in Markdown; underscores are escaped, because they would mark emphasis."""
    return _allowed(_MARKDOWN, text, "Markdown").replace("_", "\\_")


def _allowed(pattern: re.Pattern[str], text: str, sink: str) -> str:
    if not pattern.fullmatch(text):
        raise UnsafeText(sink, text)
    return text
