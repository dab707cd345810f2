"""What differs between two states: their models, and their files line by line. Pure.

Nothing below example/creds/ is compared or shown (protocol 5), and base/.rebundle.json only names the state.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.cli.text import plain
from daemon.publishing.archive import STAMP_PATH
from daemon.publishing.live_tree.ownership import CREDENTIALS
from renderers.model import Composition, Model, RenderedFile

_CONTEXT: Final = 3


@dataclass(frozen=True, slots=True)
class ModelChanges:
    """How the models of two compositions differ."""

    added: tuple[Model, ...]
    removed: tuple[Model, ...]
    moved: tuple[tuple[Model, Model], ...]
    """Another version: before, after."""
    changed: tuple[tuple[Model, Model], ...]
    """The same version, otherwise different: image, resources, artifact."""
    proxy: bool
    """Whether the proxy's image or signature differs."""

    @property
    def words(self) -> tuple[str, ...]:
        """One line for each change."""
        return (
            *(f"+ {each.id} {each.version}" for each in self.added),
            *(f"- {each.id} {each.version}" for each in self.removed),
            *(f"~ {old.id} {old.version} → {new.version}" for old, new in self.moved),
            *(f"~ {old.id} {old.version}: same version, other settings" for old, _ in self.changed),
            *(("~ proxy",) if self.proxy else ()),
        )


def compare_models(before: Composition, after: Composition) -> ModelChanges:
    """What became of each model."""
    both = [(old, new) for old in before.models if (new := after.model(old.id)) is not None and new != old]
    return ModelChanges(
        added=tuple(each for each in after.models if before.model(each.id) is None),
        removed=tuple(each for each in before.models if after.model(each.id) is None),
        moved=tuple((old, new) for old, new in both if old.version != new.version),
        changed=tuple((old, new) for old, new in both if old.version == new.version),
        proxy=before.proxy != after.proxy,
    )


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that differs; None where a state does not have it."""

    path: str
    before: RenderedFile | None
    after: RenderedFile | None

    @property
    def status(self) -> str:
        """As git names it."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "modified"


def compare_files(before: Iterable[RenderedFile], after: Iterable[RenderedFile]) -> tuple[FileChange, ...]:
    """Every file that differs, sorted by path."""
    old, new = _comparable(before), _comparable(after)
    return tuple(
        FileChange(path, old.get(path), new.get(path))
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    )


def _comparable(files: Iterable[RenderedFile]) -> dict[str, RenderedFile]:
    return {file.path: file for file in files if file.path != STAMP_PATH and not file.path.startswith(CREDENTIALS)}


def unified(change: FileChange) -> Iterator[str]:
    """The change as a unified diff, line by line; paths are escaped, contents are not."""
    path = plain(change.path)
    yield f"--- {f'a/{path}' if change.before else '/dev/null'}"
    yield f"+++ {f'b/{path}' if change.after else '/dev/null'}"
    if change.before and change.after and change.before.mode != change.after.mode:
        yield f"mode {change.before.mode} → {change.after.mode}"
    yield from _hunks(_text_lines(change.before), _text_lines(change.after))


def _text_lines(file: RenderedFile | None) -> list[str]:
    return file.body.decode("utf-8", "replace").split("\n")[:-1] if file and file.body else []


def _hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """The differing middle alone goes through difflib, which takes minutes for a file of 2,000 services."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    start = max(head - _CONTEXT, 0)
    cut = max(tail - _CONTEXT, 0)
    matcher = difflib.SequenceMatcher(None, old[start : len(old) - cut], new[start : len(new) - cut])
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        first, last = group[0], group[-1]
        yield f"@@ -{_span(start, first[1], last[2])} +{_span(start, first[3], last[4])} @@"
        for kind, old_from, old_to, new_from, new_to in group:
            if kind == "equal":
                yield from (f" {line}" for line in old[start + old_from : start + old_to])
                continue
            yield from (f"-{line}" for line in old[start + old_from : start + old_to])
            yield from (f"+{line}" for line in new[start + new_from : start + new_to])


def _span(offset: int, start: int, end: int) -> str:
    length = end - start
    line = offset + start + (1 if length else 0)
    return str(line) if length == 1 else f"{line},{length}"
