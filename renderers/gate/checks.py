"""Assertions about one part of a rendered file; each failure names file, line and value.

`generated_files` and `static_files` use them. `expectations` defines the expected values,
`parsers` reads the actual ones, `diff` compares the two.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from itertools import zip_longest
from typing import Any, Final

from renderers.composition import Composition, RenderDefaults
from renderers.errors import GateFailure
from renderers.gate import parsers
from renderers.gate.custom_services import comparable, decided
from renderers.gate.diff import difference, shown
from renderers.values import canonical_json

_SHARED_TEMPLATES: Final = frozenset({"labels.yaml", "resources.yaml"})
_UNWANTED: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class CheckedBundle:
    """The inputs that a bundle is checked against."""

    composition: Composition
    defaults: RenderDefaults
    overridden: frozenset[str]
    """The names of the custom templates."""

    @property
    def key(self) -> str:
        """A cache key: with equal keys, equal text of one model has the same check result."""
        bundle = self.composition.bundle
        return canonical_json(
            [bundle.name, bundle.target, self.defaults.digest, sorted(self.overridden)]
        )

    def may_add(self, template: str) -> bool:
        """Whether the output of `template` may hold more than is expected."""
        shared = _SHARED_TEMPLATES if template.endswith(".yaml") else frozenset()
        return not self.overridden.isdisjoint({template, *shared})


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file that is checked alone."""

    file: str
    body: bytes
    whole: bytes = b""
    """The whole file."""
    start: int = 0
    """Where the part begins in `whole`."""
    added: int = 0
    """How many lines `body` has at its start that are not in the file."""

    @property
    def before(self) -> int:
        """The number of lines above it. Only a failure needs the number, so it is not stored."""
        return self.whole.count(b"\n", 0, self.start) - self.added

    @property
    def text(self) -> str:
        """The body as text.

        Raises:
            GateFailure: it is not UTF-8.
        """
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            line = self.before + self.body.count(b"\n", 0, error.start) + 1
            raise GateFailure(
                self.file, line, "UTF-8", repr(error.object[error.start : error.end])
            ) from error


@contextmanager
def readable(piece: Piece) -> Iterator[None]:
    """Turns a parser's `Unreadable` into a GateFailure with the file and its line."""
    try:
        yield
    except parsers.Unreadable as error:
        raise GateFailure(piece.file, piece.before + error.line, error.what, error.found) from error


def check_yaml(
    piece: Piece,
    expected: Any,
    *,
    may_add: bool = False,
    view: Callable[[Any], Any] = lambda value: value,
) -> None:
    """The text is YAML with this value; with `may_add` it may hold more, by the rule of `diff`.

    `view` changes the value that was read before it is compared.
    """
    with readable(piece):
        parsed = parsers.yaml_text(piece.text)
    different = difference(expected, view(parsed.value), (), may_add=may_add)
    if different is not None:
        path, wanted, actual = different
        where = ".".join(map(str, path)) or "the file"
        line = piece.before + parsed.line(path)
        raise GateFailure(piece.file, line, f"{where} = {wanted}", actual)


def check_service(
    piece: Piece,
    name: str,
    expected: Mapping[str, Any],
    *,
    may_add: bool,
    below: str = "",
    chosen: Collection[str] = (),
) -> None:
    """The text is YAML with this one service, below the key `below` if there is one.

    With `may_add`, `custom_services` says what is expected; see there for `chosen`.
    """
    if not may_add:
        check_yaml(piece, {below: {name: expected}} if below else {name: expected})
        return

    def view(found: Any) -> Any:
        services = found.get(below) if below and isinstance(found, dict) else found
        if not isinstance(services, dict):
            return found
        compared = {key: comparable(service) for key, service in services.items()}
        return found | {below: compared} if below else compared

    kept = {name: decided(name, expected, chosen)}
    check_yaml(piece, {below: kept} if below else kept, may_add=True, view=view)


def compare(piece: Piece, expected: Any, actual: Any) -> None:
    """The value that was read equals the expected one."""
    if expected != actual:
        raise GateFailure(piece.file, piece.before + 1, str(expected), str(actual))


def compare_fields(piece: Piece, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    """Both have the same names with the same values.

    A failure names the line that begins with the name.
    """
    for name in (*expected, *actual):
        if name not in expected or name not in actual or expected[name] != actual[name]:
            lines = enumerate(piece.text.split("\n"), 1)
            line = next((number for number, line in lines if line.startswith(name)), 1)
            wanted, value = shown(expected, name), shown(actual, name)
            raise GateFailure(piece.file, piece.before + line, f"{name} = {wanted}", value)


def check_assignments(piece: Piece, expected: Mapping[str, str], *, may_add: bool) -> None:
    """The text is an env file with these assignments; with `may_add` it may have others."""
    with readable(piece):
        actual = parsers.env(piece.text)
    if may_add:
        actual = {name: value for name, value in actual.items() if name in expected}
    compare_fields(piece, expected, actual)


def check_plain(piece: Piece) -> None:
    """The text is UTF-8 without control characters, including carriage returns."""
    unwanted = _UNWANTED.search(piece.body)
    if unwanted:
        line = piece.body.count(b"\n", 0, unwanted.start()) + 1
        raise GateFailure(piece.file, line, "no control character", repr(unwanted[0]))
    assert piece.text is not None  # raises if it is not UTF-8


def check_pattern(
    piece: Piece, pattern: str, values: Mapping[str, str]
) -> list[tuple[int, str, str]]:
    """The text equals the pattern with `values` in its gaps; returns the gaps without a value."""
    with readable(piece):
        gaps = parsers.gaps(piece.text, pattern)
    for line, name, text in gaps:
        if name in values and text != values[name]:
            expected = f"{name} {values[name]!r}"
            raise GateFailure(piece.file, piece.before + line, expected, repr(text))
    return [gap for gap in gaps if gap[1] not in values]


@cache
def built_in_text(template: str) -> bytes:
    """The package's own text of a template."""
    return (resources("renderers") / "templates" / template).read_bytes()


def check_built_in(piece: Piece, template: str) -> None:
    """The text equals the built-in template, byte for byte."""
    built_in = built_in_text(template)
    if piece.body != built_in:
        lines = zip_longest(
            piece.body.splitlines(keepends=True),
            built_in.splitlines(keepends=True),
            fillvalue=b"",
        )
        line, actual, wanted = next(
            (number, one, other) for number, (one, other) in enumerate(lines, 1) if one != other
        )
        raise GateFailure(
            piece.file,
            line,
            repr(wanted.decode(errors="replace")),
            repr(actual.decode(errors="replace")),
        )


def spellings(option: str) -> tuple[str, str]:
    """An option as expected, and with quotes around its value: both mean the same to a reader."""
    mark, _, value = option.partition(" ")
    return option, f'{mark} "{value}"'
