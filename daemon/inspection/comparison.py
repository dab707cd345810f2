"""What differs between two states: their models, and their files line by line. Pure.

Nothing below example/creds/ is compared or shown (protocol 5), and base/.rebundle.json only names the state.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.inspection.escaping import plain
from daemon.inspection.views import View, publication_view
from daemon.publishing.archive import STAMP_PATH
from daemon.publishing.live_tree.ownership import CREDENTIALS
from daemon.publishing.pointer import Publication
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from renderers.model import Composition, Model, RenderedFile, Scope

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


Texts = Mapping[str, Sequence[str]]
"""The lines of each file's unified diff, by path."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two publications of a scope, compared."""

    before: Publication
    after: Publication
    models: ModelChanges
    files: tuple[FileChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether both say the same."""
        return not (self.files or self.models.words)

    @property
    def summary(self) -> str:
        """Models and files, a line for each model."""
        lines = [*self.models.words, differing(self.files)]
        return "\n".join(f"  {line}" for line in lines)


async def compare(
    reader: Reader, runtime: Runtime, scope: Scope, before: Publication, after: Publication
) -> Comparison:
    """What differs between two publications."""
    old, new = await reader.manifest(scope, before), await reader.manifest(scope, after)
    models = compare_models(old.composition_value(), new.composition_value())
    files = await runtime.run_in_thread(
        compare_files, await reader.files(scope, before), await reader.files(scope, after)
    )
    return Comparison(before, after, models, files)


def comparison_view(scope: str, compared: Comparison, texts: Texts | None = None) -> View:
    """The comparison as a document."""
    models = compared.models
    return {
        "scope": scope,
        "before": publication_view(compared.before),
        "after": publication_view(compared.after),
        "same": compared.is_empty,
        "models": {
            "added": [_named(each) for each in models.added],
            "removed": [_named(each) for each in models.removed],
            "moved": [{"id": old.id, "from": old.version, "to": new.version} for old, new in models.moved],
            "changed": [_named(new) for _, new in models.changed],
            "proxy": models.proxy,
        },
        "files": files_view(compared.files, texts),
    }


def files_view(changes: Iterable[FileChange], texts: Texts | None = None) -> list[View]:
    """What became of each file; with its diff, where `texts` has the lines."""
    return [
        {"path": each.path, "status": each.status}
        | ({"diff": "".join(f"{line}\n" for line in texts[each.path])} if texts else {})
        for each in changes
    ]


def differing(changes: Sequence[FileChange]) -> str:
    """How many files differ."""
    return f"{len(changes) or 'no'} {'file differs' if len(changes) < 2 else 'files differ'}"


def texts_of(changes: Iterable[FileChange]) -> Texts:
    """The unified diff of each file."""
    return {change.path: list(unified(change)) for change in changes}


def _named(model: Model) -> View:
    return {"id": model.id, "version": model.version}
