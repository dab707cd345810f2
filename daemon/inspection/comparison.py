"""Compares two states: their models, and their files line by line. Pure, except `compare`.

Files below example/creds/ hold credentials and are neither compared nor shown (protocol 5). The
stamp base/.rebundle.json is not compared either: it names the state, and digests and services that
follow from the models and the other files.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon.inspection.documents import INLINE
from daemon.inspection.escaping import plain
from daemon.inspection.scopes import PublicationView
from daemon.publishing import layout
from daemon.publishing.pointer import Publication
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from renderers.composition import Composition, Model
from renderers.values import STAMP_PATH, RenderedFile, Scope

_CONTEXT: Final = 3


@dataclass(frozen=True, slots=True)
class ModelChanges:
    """How the models of two compositions differ."""

    added: tuple[Model, ...]
    removed: tuple[Model, ...]
    moved: tuple[tuple[Model, Model], ...]
    """Models with another version: before, after."""
    changed: tuple[tuple[Model, Model], ...]
    """Models with the same version but another image, artifact or other settings: before, after."""
    proxy: bool
    """Whether the proxy's image or signature differs."""

    @property
    def words(self) -> tuple[str, ...]:
        """A line for each change."""
        return (
            *(f"+ {model.id} {model.version}" for model in self.added),
            *(f"- {model.id} {model.version}" for model in self.removed),
            *(f"~ {old.id} {old.version} → {new.version}" for old, new in self.moved),
            *(f"~ {old.id} {old.version}: same version, other settings" for old, _ in self.changed),
            *(("~ proxy",) if self.proxy else ()),
        )


def compare_models(before: Composition, after: Composition) -> ModelChanges:
    """Find the models that were added, removed or changed."""
    differing = [
        (old, new)
        for old in before.models
        if (new := after.model(old.id)) is not None and new != old
    ]
    return ModelChanges(
        added=tuple(model for model in after.models if before.model(model.id) is None),
        removed=tuple(model for model in before.models if after.model(model.id) is None),
        moved=tuple((old, new) for old, new in differing if old.version != new.version),
        changed=tuple((old, new) for old, new in differing if old.version == new.version),
        proxy=before.proxy != after.proxy,
    )


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that differs; `before` or `after` is None if that state does not have it."""

    path: str
    before: RenderedFile | None
    after: RenderedFile | None

    @property
    def status(self) -> str:
        """The kind of change, in the words of git."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "modified"


def compare_files(
    before: Iterable[RenderedFile], after: Iterable[RenderedFile]
) -> tuple[FileChange, ...]:
    """Find the files that differ, sorted by path."""
    old, new = _comparable(before), _comparable(after)
    return tuple(
        FileChange(path, old.get(path), new.get(path))
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    )


def _comparable(files: Iterable[RenderedFile]) -> dict[str, RenderedFile]:
    return {
        file.path: file
        for file in files
        if file.path != STAMP_PATH and not file.path.startswith(layout.CREDENTIALS)
    }


def unified(change: FileChange) -> Iterator[str]:
    """The lines of a unified diff; paths are escaped, contents are not."""
    path = plain(change.path)
    yield f"--- {f'a/{path}' if change.before else '/dev/null'}"
    yield f"+++ {f'b/{path}' if change.after else '/dev/null'}"
    if change.before and change.after and change.before.mode != change.after.mode:
        yield f"mode {change.before.mode} → {change.after.mode}"
    yield from _hunks(_text_lines(change.before), _text_lines(change.after))


def _text_lines(file: RenderedFile | None) -> list[str]:
    return file.body.decode("utf-8", "replace").split("\n")[:-1] if file and file.body else []


def _hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """The hunks of a unified diff.

    Only the lines between the common head and tail go through difflib, which takes minutes for a
    file of 2,000 services.
    """
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    start = max(head - _CONTEXT, 0)
    cut = max(tail - _CONTEXT, 0)
    matcher = difflib.SequenceMatcher(
        None, old[start : len(old) - cut], new[start : len(new) - cut]
    )
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
    """The differences between two publications of a scope."""

    before: Publication
    after: Publication
    models: ModelChanges
    files: tuple[FileChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there are no differences."""
        return not (self.files or self.models.words)

    @property
    def summary(self) -> str:
        """A line for each model that differs, and a line about the files."""
        lines = [*self.models.words, differing(self.files)]
        return "\n".join(f"  {line}" for line in lines)


async def compare(
    reader: Reader, runtime: Runtime, scope: Scope, before: Publication, after: Publication
) -> Comparison:
    """Read and compare two publications."""
    old, new = await reader.manifest(scope, before), await reader.manifest(scope, after)
    models = compare_models(old.composition_value(), new.composition_value())
    files = await runtime.run_in_thread(
        compare_files, await reader.files(scope, before), await reader.files(scope, after)
    )
    return Comparison(before, after, models, files)


@dataclass(frozen=True, slots=True)
class ModelVersionView:
    """A model in one version."""

    id: str
    version: str

    @classmethod
    def of(cls, model: Model) -> "ModelVersionView":
        """The view of a model."""
        return cls(model.id, model.version)


@dataclass(frozen=True, slots=True)
class MovedModelView:
    """A model with another version."""

    id: str
    from_: str
    to: str


@dataclass(frozen=True, slots=True)
class ModelChangesView:
    """How the models of two states differ."""

    added: tuple[ModelVersionView, ...]
    removed: tuple[ModelVersionView, ...]
    moved: tuple[MovedModelView, ...]
    changed: tuple[ModelVersionView, ...]
    """Models with the same version, but other settings."""
    proxy: bool

    @classmethod
    def of(cls, changes: ModelChanges) -> "ModelChangesView":
        """The view of changes."""
        return cls(
            added=tuple(map(ModelVersionView.of, changes.added)),
            removed=tuple(map(ModelVersionView.of, changes.removed)),
            moved=tuple(
                MovedModelView(old.id, old.version, new.version) for old, new in changes.moved
            ),
            changed=tuple(ModelVersionView.of(new) for _, new in changes.changed),
            proxy=changes.proxy,
        )


@dataclass(frozen=True, slots=True)
class FileView:
    """A file that differs."""

    path: str
    status: str
    """added, removed or modified."""


@dataclass(frozen=True, slots=True)
class FileDiffView:
    """A file that differs, with its differences."""

    file: FileView = field(metadata=INLINE)
    diff: str
    """The unified diff."""


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """The differences between two publications of a scope."""

    scope: str
    before: PublicationView
    after: PublicationView
    same: bool
    models: ModelChangesView
    files: tuple[FileView | FileDiffView, ...]

    @classmethod
    def of(cls, scope: str, compared: Comparison, texts: Texts | None = None) -> "ComparisonView":
        """The view of a comparison, with the diffs of the files if `texts` is given."""
        return cls(
            scope=scope,
            before=PublicationView.of(compared.before),
            after=PublicationView.of(compared.after),
            same=compared.is_empty,
            models=ModelChangesView.of(compared.models),
            files=file_views(compared.files, texts),
        )


def file_views(
    changes: Iterable[FileChange], texts: Texts | None = None
) -> tuple[FileView | FileDiffView, ...]:
    """The views of changed files, with their diffs if `texts` is given."""
    return tuple(_file_view(change, texts) for change in changes)


def _file_view(change: FileChange, texts: Texts | None) -> FileView | FileDiffView:
    file = FileView(change.path, change.status)
    if texts is None:
        return file
    return FileDiffView(file, "".join(f"{line}\n" for line in texts[change.path]))


def differing(changes: Sequence[FileChange]) -> str:
    """A message: how many files differ."""
    return f"{len(changes) or 'no'} {'file differs' if len(changes) < 2 else 'files differ'}"


def texts_of(changes: Iterable[FileChange]) -> Texts:
    """The unified diff of each file."""
    return {change.path: list(unified(change)) for change in changes}
