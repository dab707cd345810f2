"""What of a bundle the gate need not judge again: models that did not change, in files whose bytes did not change.

A file with one piece for each model is cut along the cuts of the bundle that passed before. Models that stood side by
side then and now are compared as one stretch of bytes; only what differs is looked for, and handed back to be judged.
A stretch has an upper length, so that one difference costs little and no large copy is made.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from renderers.gate.parsers import Unreadable
from renderers.model import Model

_LONGEST: Final = 32
_OF_A_MODEL: Final = 2048


@dataclass(frozen=True, slots=True)
class Run:
    """Models that follow one another now, and did so before."""

    first: int
    count: int
    before: int | None
    """The index that the first of them had before; None: one model, which is new or changed."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """A file that has one piece for each model, in their order."""

    text: bytes
    cuts: Sequence[int]
    """Where each piece begins, then where the last one ends."""

    def piece(self, index: int) -> bytes:
        """What the model at `index` has in it."""
        return self.text[self.cuts[index] : self.cuts[index + 1]]


@dataclass(frozen=True, slots=True)
class PassedBundle:
    """The models of a bundle and what the bundle has of each, as it was judged."""

    models: Sequence[Model]
    files: Mapping[str, Cutting]
    """By path: those that have a piece for each model."""
    paths: Sequence[str | None]
    """Of each model's own file, where it has one."""
    batching: Sequence[bytes]
    """What that file holds."""
    changed: frozenset[int]
    """The models that differ from the bundle before."""

    @property
    def size(self) -> int:
        """Bytes it holds, about."""
        return sum(len(cutting.text) + 8 * len(cutting.cuts) for cutting in self.files.values()) + _OF_A_MODEL * len(
            self.models
        )


NOTHING: Final = PassedBundle((), {}, (), (), frozenset())

EndOf = Callable[[bytes, int, int], int]
"""Where in the text the piece ends that begins at a position and belongs to the model of an index.

Raises:
    Unreadable: there is no such piece.
"""


def runs(models: Sequence[Model], before: Sequence[Model]) -> list[Run]:
    """The models, all of them in their order, as runs; both are sorted by id."""
    found: list[Run] = []
    new = old = 0
    while new < len(models):
        while old < len(before) and before[old].id < models[new].id:
            old += 1
        count = _stretch(models, new, before, old)
        found.append(Run(new, count, old) if count else Run(new, 1, None))
        new += count or 1
        old += count
    return found


def cut(
    text: bytes, start: int, steps: Iterable[Run], before: Cutting | None, end_of: EndOf
) -> tuple[Cutting, set[int]]:
    """The pieces from `start` on, and the models whose piece is not the bytes it was before.

    Raises:
        Unreadable: a piece is missing.
    """
    cuts: list[int] = []
    position, changed = start, set[int]()
    for step in steps:
        known = _unchanged(text, position, step, before)
        if known:
            cuts += known[:-1]
            position = known[-1]
            continue
        for index in range(step.first, step.first + step.count):
            cuts.append(position)
            changed.add(index)
            position = end_of(text, position, index)
    return Cutting(text, (*cuts, position)), changed


def line_at(text: bytes, position: int) -> int:
    """The line, from 1, of a position."""
    return text.count(b"\n", 0, position) + 1


def end_of_line(text: bytes, start: int, _: int) -> int:
    """A piece of one line."""
    end = text.find(b"\n", start) + 1
    if end == 0:
        raise Unreadable(line_at(text, start), "a line for each model", "the end")
    return end


def _stretch(models: Sequence[Model], new: int, before: Sequence[Model], old: int) -> int:
    most = min(_LONGEST, len(models) - new, len(before) - old)
    for count in range(most):
        one, other = models[new + count], before[old + count]
        if one is not other and one.canonical != other.canonical:
            return count
    return most


def _unchanged(text: bytes, position: int, step: Run, before: Cutting | None) -> list[int]:
    """The cuts of the run, if its text stands at `position`."""
    if step.before is None or before is None:
        return []
    cuts = before.cuts[step.before : step.before + step.count + 1]
    if not text.startswith(before.text[cuts[0] : cuts[-1]], position):
        return []
    shift = position - cuts[0]
    return [each + shift for each in cuts]
