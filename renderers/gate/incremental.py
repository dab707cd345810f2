"""Finds the models of a bundle that the gate has to check again.

A model needs no second check if neither its data nor its bytes in the files have changed since the
last bundle that passed. A file with one piece per model is cut at the same places as in that
bundle. Models that are neighbours in both bundles are compared as one run of bytes; only the pieces
that differ are searched for and returned. A run has an upper length, so that one difference costs
little and no large copy is made.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from renderers.composition import Model
from renderers.gate.parsers import Unreadable

_MAX_RUN: Final = 32
_BYTES_PER_MODEL: Final = 2048
"""An estimate, for the size of a cached bundle."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive models that were consecutive in the bundle before, too."""

    first: int
    count: int
    before: int | None
    """The first one's index in the bundle before; None for one model that is new or changed."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """A file with one piece per model, in the order of the models."""

    text: bytes
    cuts: Sequence[int]
    """The start of each piece, then the end of the last one."""

    def piece(self, index: int) -> bytes:
        """The piece of the model at `index`."""
        return self.text[self.cuts[index] : self.cuts[index + 1]]


@dataclass(frozen=True, slots=True)
class PassedBundle:
    """The models of a bundle and the bytes that the gate checked for each of them."""

    models: Sequence[Model]
    files: Mapping[str, Cutting]
    """The files with one piece per model, by path."""
    paths: Sequence[str | None]
    """The path of each model's batching file; None where it has none."""
    batching: Sequence[bytes]
    """The content of that file."""
    entries: Sequence[tuple[str, str | None, str, str]]
    """What the stamp must have of each model (`stamp_file`)."""
    services: str
    """All of them, joined."""
    changed: frozenset[int]
    """The indexes of the models that differ from the bundle before."""

    @property
    def size(self) -> int:
        """Its approximate size in bytes."""
        in_files = sum(len(cutting.text) + 8 * len(cutting.cuts) for cutting in self.files.values())
        return in_files + _BYTES_PER_MODEL * len(self.models)


NOTHING: Final = PassedBundle((), {}, (), (), (), "", frozenset())

EndOf = Callable[[bytes, int, int], int]
"""The end of a piece, from the text, the start of the piece and the index of its model.

Raises:
    Unreadable: there is no such piece.
"""


def runs(models: Sequence[Model], before: Sequence[Model]) -> list[Run]:
    """All models, in order, grouped into runs. Both arguments are sorted by id."""
    found: list[Run] = []
    new = old = 0
    while new < len(models):
        while old < len(before) and before[old].id < models[new].id:
            old += 1
        count = _equal_models(models, new, before, old)
        found.append(Run(new, count, old) if count else Run(new, 1, None))
        new += count or 1
        old += count
    return found


def cut(
    text: bytes, start: int, steps: Iterable[Run], before: Cutting | None, end_of: EndOf
) -> tuple[Cutting, set[int]]:
    """The pieces from `start` on, and the indexes of the models whose bytes have changed.

    Raises:
        Unreadable: a piece is missing.
    """
    cuts: list[int] = []
    position, changed = start, set[int]()
    for step in steps:
        unchanged = _unchanged_cuts(text, position, step, before)
        if unchanged:
            cuts += unchanged[:-1]
            position = unchanged[-1]
            continue
        for index in range(step.first, step.first + step.count):
            cuts.append(position)
            changed.add(index)
            position = end_of(text, position, index)
    return Cutting(text, (*cuts, position)), changed


def line_at(text: bytes, position: int) -> int:
    """The line number of a position, counted from 1."""
    return text.count(b"\n", 0, position) + 1


def end_of_line(text: bytes, start: int, _: int) -> int:
    """An `EndOf` for files with one line per model."""
    end = text.find(b"\n", start) + 1
    if end == 0:
        raise Unreadable(line_at(text, start), "a line for each model", "the end")
    return end


def _equal_models(models: Sequence[Model], new: int, before: Sequence[Model], old: int) -> int:
    """How many models from `new` on equal those from `old` on."""
    shared = min(_MAX_RUN, len(models) - new, len(before) - old)
    for count in range(shared):
        one, other = models[new + count], before[old + count]
        if one is not other and one.canonical != other.canonical:
            return count
    return shared


def _unchanged_cuts(text: bytes, position: int, step: Run, before: Cutting | None) -> list[int]:
    """The cuts of the run if its earlier text is at `position`, else an empty list."""
    if step.before is None or before is None:
        return []
    cuts = before.cuts[step.before : step.before + step.count + 1]
    if not text.startswith(before.text[cuts[0] : cuts[-1]], position):
        return []
    shift = position - cuts[0]
    return [cut_before + shift for cut_before in cuts]
