"""A part of a rendered file, read back and compared; every difference is told with file, line and value.

The tools of the gate, for `gate` and `static_files`: what must be there is stated in `expectations`, read by `parsers`,
compared by `diff`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from typing import Any, Final

from renderers.errors import GateFailure
from renderers.gate import parsers
from renderers.gate.diff import difference, shown
from renderers.model import Composition, RenderDefaults, canonical_json

_SHARED_TEMPLATES: Final = frozenset({"labels.yaml", "resources.yaml"})
_UNWANTED: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class CheckedBundle:
    """What a bundle is judged by: its composition, and what it has of its own."""

    composition: Composition
    defaults: RenderDefaults
    overridden: frozenset[str]

    @property
    def key(self) -> str:
        """Equal where the same text of one model gets the same verdict."""
        bundle = self.composition.bundle
        return canonical_json([bundle.name, bundle.target, self.defaults.digest, sorted(self.overridden)])

    def may_add(self, template: str) -> bool:
        """Whether what `template` makes may say more than it must."""
        shared = _SHARED_TEMPLATES if template.endswith(".yaml") else frozenset()
        return not self.overridden.isdisjoint({template, *shared})


@dataclass(frozen=True, slots=True)
class Piece:
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
        """Raises GateFailure: no UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            line = self.before + self.body.count(b"\n", 0, error.start) + 1
            raise GateFailure(self.file, line, "UTF-8", repr(error.object[error.start : error.end])) from error


@contextmanager
def readable(piece: Piece) -> Iterator[None]:
    """Tells in which file, and where in it, a reader gave up."""
    try:
        yield
    except parsers.Unreadable as error:
        raise GateFailure(piece.file, piece.before + error.line, error.what, error.found) from error


def check_yaml(piece: Piece, expected: Any, *, may_add: bool = False) -> None:
    """The text is YAML, and says this; with `may_add` it may say more."""
    with readable(piece):
        parsed = parsers.yaml_text(piece.text)
    different = difference(expected, parsed.value, (), may_add=may_add)
    if different is not None:
        path, wanted, found = different
        where = ".".join(map(str, path)) or "the file"
        raise GateFailure(piece.file, piece.before + parsed.line(path), f"{where} = {wanted}", found)


def compare(piece: Piece, expected: Any, found: Any) -> None:
    """What was read is what is expected."""
    if expected != found:
        raise GateFailure(piece.file, piece.before + 1, str(expected), str(found))


def compare_fields(piece: Piece, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """The same names with the same values; a difference is named with the line that begins with the name."""
    for name in (*expected, *found):
        if name not in expected or name not in found or expected[name] != found[name]:
            lines = piece.text.split("\n")
            line = next((number for number, line in enumerate(lines, 1) if line.startswith(name)), 1)
            what, there = shown(expected, name), shown(found, name)
            raise GateFailure(piece.file, piece.before + line, f"{name} = {what}", there)


def check_assignments(piece: Piece, expected: Mapping[str, str], *, may_add: bool) -> None:
    """The text is an env file with these assignments; with `may_add` it may have others."""
    with readable(piece):
        found = parsers.env(piece.text)
    compare_fields(piece, expected, {name: found[name] for name in found if not may_add or name in expected})


def check_plain(piece: Piece) -> None:
    """UTF-8 without control characters, carriage returns among them."""
    unwanted = _UNWANTED.search(piece.body)
    if unwanted:
        line = piece.body.count(b"\n", 0, unwanted.start()) + 1
        raise GateFailure(piece.file, line, "no control character", repr(unwanted[0]))
    assert piece.text is not None


def check_pattern(piece: Piece, pattern: str, said: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """The text is the pattern with `said` in its gaps; what is in the other gaps is returned."""
    with readable(piece):
        found = parsers.gaps(piece.text, pattern)
    for line, name, text in found:
        if name in said and text != said[name]:
            raise GateFailure(piece.file, piece.before + line, f"{name} {said[name]!r}", repr(text))
    return [gap for gap in found if gap[1] not in said]


@cache
def own_text(template: str) -> bytes:
    """The package's own text of a template."""
    return (resources("renderers") / "templates" / template).read_bytes()


def check_own(piece: Piece, template: str) -> None:
    """The text is the package's own."""
    own = own_text(template)
    if piece.body != own:
        pairs = zip(piece.body.split(b"\n"), own.split(b"\n"), strict=False)
        same = next(
            (n for n, (one, other) in enumerate(pairs) if one != other), min(piece.body.count(b"\n"), own.count(b"\n"))
        )
        wanted, found = (text.split(b"\n")[same : same + 1] for text in (own, piece.body))
        raise GateFailure(
            piece.file,
            same + 1,
            repr(b"".join(wanted).decode("utf-8", "replace")),
            repr(b"".join(found).decode("utf-8", "replace")),
        )


def spellings(option: str) -> tuple[str, str]:
    """An option as it is expected, and with quotes around its value: a reader takes both for the same."""
    mark, _, value = option.partition(" ")
    return option, f'{mark} "{value}"'
