"""`rebundle diff`: what differs between two states of a scope."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from daemon.cli.codes import DONE, FAILED
from daemon.cli.differences import FileChange, ModelChanges, compare_files, compare_models, unified
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.selection import publication_of
from daemon.cli.session import Session, scope_of, session
from daemon.cli.text import plain
from daemon.cli.views import View, publication_view
from daemon.publishing.pointer import Publication
from renderers.model import Model, Scope

Texts = Mapping[str, Sequence[str]]
"""The lines of each file's unified diff, by path."""
_STATE = "State id or its unique beginning, STATE@ATTEMPT, live or desired."


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


async def diff(
    scope: Annotated[str, Parameter(help="BUNDLE/TARGET.")],
    before: Annotated[str, Parameter(help=_STATE)] = "live",
    after: Annotated[str, Parameter(help=_STATE)] = "desired",
    /,
    *,
    name_only: Annotated[bool, Parameter(negative=(), help="Only the paths that differ.")] = False,
    exit_code: Annotated[bool, Parameter(negative=(), help="Exit 1 if there are differences.")] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> int:
    """Differences of models and of every rendered file, as a unified diff. Credentials are never compared.

    On a terminal everything that could steer it is escaped. Elsewhere the contents are printed as they are, for
    `patch`; only paths are escaped. Pipe them through `cat -v` to look at a bundle that you do not trust.
    """
    async with session(place, printing) as opened:
        named = scope_of(scope)
        pointer = (await opened.bucket.reader.existing(named)).pointer
        compared = await compare(opened, named, publication_of(pointer, before), publication_of(pointer, after))
        opened.printer.say(_heading(compared))
        if name_only:
            opened.printer.data(comparison_view(scope, compared), [plain(each.path) for each in compared.files])
        else:
            texts = await opened.runtime.offload(texts_of, compared.files)
            opened.printer.data(comparison_view(scope, compared, texts), colored(texts, opened.printer))
        return FAILED if exit_code and not compared.is_empty else DONE


async def compare(opened: Session, scope: Scope, before: Publication, after: Publication) -> Comparison:
    """What differs between two publications."""
    reader, offload = opened.bucket.reader, opened.runtime.offload
    old, new = await reader.manifest(scope, before), await reader.manifest(scope, after)
    models = compare_models(old.composition_value(), new.composition_value())
    files = await offload(compare_files, await reader.files(scope, before), await reader.files(scope, after))
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


def _heading(compared: Comparison) -> str:
    if compared.is_empty:
        return f"{compared.before.state} and {compared.after.state} do not differ"
    return f"{compared.before.state} → {compared.after.state}\n{compared.summary}"


def colored(texts: Texts, printer: Printer) -> Iterator[str]:
    """The lines of every diff, for people."""
    for lines in texts.values():
        for number, line in enumerate(lines):
            told = plain(line.replace("\t", "    ")) if printer.terminal else line
            if number < 2 or line.startswith("@@"):
                yield printer.heading(told)
            elif line.startswith("+"):
                yield printer.good(told)
            else:
                yield printer.bad(told) if line.startswith("-") else told
