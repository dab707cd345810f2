"""Prints results: one document, as a table for people or as JSON or YAML for programs.

A table shows parts of the document. Its text is escaped (`inspection.escaping`), because names and
reasons come from untrusted sources. Colours are used only on a terminal. Commands that messages
suggest are completed (`suggestions`).
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TextIO, TypeAlias

from daemon.cli.failures import Declined, UsageError
from daemon.cli.options import Format, Printing, Prose
from daemon.cli.suggestions import Complete, in_document, unchanged
from daemon.inspection.documents import to_document
from daemon.inspection.escaping import plain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from daemon.inspection.comparison import Texts

SCHEMA_VERSION: Final = 1
_BOLD, _RED, _GREEN, _YELLOW, _PLAIN = "\033[1m", "\033[31m", "\033[32m", "\033[33m", "\033[0m"

Document: TypeAlias = "Mapping[str, object] | DataclassInstance"
"""A view, or several with their names."""


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints results to one stream and messages to another."""

    format: Format
    quiet: bool
    terminal: bool
    colors: bool
    stdout: TextIO
    stderr: TextIO
    complete: Complete = unchanged

    @classmethod
    def of(
        cls, prose: Prose, environ: Mapping[str, str], complete: Complete = unchanged
    ) -> "Printer":
        """A printer to this process's streams; colours follow the flags and no-color.org."""
        terminal = sys.stdout.isatty()
        wanted = not (prose.no_color or environ.get("NO_COLOR") or environ.get("TERM") == "dumb")
        output = prose.output if isinstance(prose, Printing) else "table"
        return cls(
            output, prose.quiet, terminal, terminal and wanted, sys.stdout, sys.stderr, complete
        )

    def data(self, document: Document, lines: Iterable[str], stored: Iterable[str] = ()) -> None:
        """Print the result: `document`, or as a table the lines, which show the same values.

        `stored`: lines of files or events, which are printed as they are.
        """
        if self.format != "table":
            shown = in_document(to_document(document), self.complete)
            self.stdout.write(encoded(shown, self.format))
            return
        for line in lines:
            self.stdout.write(self.complete(line) + "\n")
        for line in stored:
            self.stdout.write(line + "\n")

    def say(self, text: str) -> None:
        """Print a message to standard error; --quiet suppresses it."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Print a message to standard error, also with --quiet."""
        lines = self.complete(text).splitlines()
        self.stderr.write("\n".join(map(plain, lines)) + "\n")

    def good(self, text: str) -> str:
        """The text in the colour of success."""
        return self._colored(text, _GREEN)

    def bad(self, text: str) -> str:
        """The text in the colour of a problem."""
        return self._colored(text, _RED)

    def heading(self, text: str) -> str:
        """The text as a heading."""
        return self._colored(text, _BOLD)

    def _colored(self, text: str, color: str) -> str:
        return f"{color}{text}{_PLAIN}" if self.colors else text


def encoded(document: Document, encoding: Literal["json", "yaml"]) -> str:
    """The document as JSON or YAML, with its schema version."""
    versioned = {"schemaVersion": SCHEMA_VERSION, **to_document(document)}
    if encoding == "json":
        return json.dumps(versioned, indent=2) + "\n"
    import yaml  # noqa: PLC0415  # takes long to import

    return yaml.safe_dump(versioned, sort_keys=False)


def error_document(words: str, exit_code: int) -> dict[str, object]:
    """The document of a command that failed before it could print its own (ADR 28)."""
    return {"error": words, "exit_code": exit_code}


def confirm(question: str, *, yes: bool, printer: Printer, stdin: TextIO | None = None) -> None:
    """Return if `--yes` is set or the operator confirms at the terminal.

    Raises:
        UsageError: standard input is not a terminal. Declined: the operator declined.
    """
    if yes:
        return
    terminal = stdin or sys.stdin
    if not terminal.isatty():
        raise UsageError(
            "this command needs a confirmation, and standard input is not a terminal: run it "
            "again with --yes"
        )
    printer.stderr.write(f"{plain(question)} [y/N] ")
    printer.stderr.flush()
    if terminal.readline().strip().lower() not in {"y", "yes"}:
        raise Declined("nothing was changed")


def colored_diff(texts: "Texts", printer: Printer) -> Iterator[str]:
    """The lines of all diffs. On a terminal they are coloured and escaped."""
    for lines in texts.values():
        for number, line in enumerate(lines):
            shown = plain(line.replace("\t", "    ")) if printer.terminal else line
            if number < 2 or line.startswith("@@"):
                yield printer.heading(shown)
            elif line.startswith("+"):
                yield printer.good(shown)
            elif line.startswith("-"):
                yield printer.bad(shown)
            else:
                yield shown
