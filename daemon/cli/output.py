"""How results are printed: one document, as a table for people or as JSON or YAML for programs.

The document is the source: a table shows parts of it, made by `text`, with what is not printable escaped, since names
and reasons come from elsewhere. Colours only on a terminal.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

import yaml

from daemon.cli.failures import Declined, UsageError
from daemon.cli.options import Format, Printing, Prose
from daemon.inspection.comparison import Texts
from daemon.inspection.escaping import plain

SCHEMA_VERSION: Final = 1
_BOLD, _RED, _GREEN, _YELLOW, _PLAIN = "\033[1m", "\033[31m", "\033[32m", "\033[33m", "\033[0m"

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints results to one stream and prose to another."""

    format: Format
    quiet: bool
    terminal: bool
    colors: bool
    stdout: TextIO
    stderr: TextIO

    @classmethod
    def of(cls, prose: Prose, environ: Mapping[str, str]) -> "Printer":
        """As the flags, the environment and the terminal say (no-color.org)."""
        terminal = sys.stdout.isatty()
        wanted = not (prose.no_color or environ.get("NO_COLOR") or environ.get("TERM") == "dumb")
        output = prose.output if isinstance(prose, Printing) else "table"
        return cls(output, prose.quiet, terminal, terminal and wanted, sys.stdout, sys.stderr)

    def data(self, document: Document, lines: Iterable[str]) -> None:
        """The result: `document`, or (as a table) `lines`, which the caller made of the same values."""
        if self.format != "table":
            self.stdout.write(encoded(document, self.format))
            return
        for line in lines:
            self.stdout.write(line + "\n")

    def say(self, text: str) -> None:
        """Prose for people; goes to standard error, and nowhere with --quiet."""
        if not self.quiet:
            self.stderr.write("\n".join(plain(line) for line in text.splitlines()) + "\n")

    def warn(self, text: str) -> None:
        """What must be seen, also with --quiet."""
        self.stderr.write("\n".join(plain(line) for line in text.splitlines()) + "\n")

    def good(self, text: str) -> str:
        """Coloured as something that is as it should be."""
        return self._colored(text, _GREEN)

    def bad(self, text: str) -> str:
        """Coloured as something that needs a person."""
        return self._colored(text, _RED)

    def heading(self, text: str) -> str:
        """Coloured as a heading."""
        return self._colored(text, _BOLD)

    def _colored(self, text: str, color: str) -> str:
        return f"{color}{text}{_PLAIN}" if self.colors else text


def encoded(document: Document, encoding: Literal["json", "yaml"]) -> str:
    """A document for programs."""
    versioned = {"schemaVersion": SCHEMA_VERSION, **document}
    return json.dumps(versioned, indent=2) + "\n" if encoding == "json" else yaml.safe_dump(versioned, sort_keys=False)


def error_document(words: str, exit_code: int) -> Document:
    """What a verb prints for programs where an error keeps it from its own document (ADR 28)."""
    return {"error": words, "exit_code": exit_code}


def confirm(question: str, *, yes: bool, printer: Printer, stdin: TextIO | None = None) -> None:
    """Return if `--yes` or somebody at the terminal agrees.

    Raises:
        UsageError: nobody can be asked. Declined: the answer is no.
    """
    if yes:
        return
    asked = stdin or sys.stdin
    if not asked.isatty():
        raise UsageError("this needs a confirmation, and there is no terminal to ask at: repeat it with --yes")
    printer.stderr.write(f"{plain(question)} [y/N] ")
    printer.stderr.flush()
    if asked.readline().strip().lower() not in {"y", "yes"}:
        raise Declined("nothing was changed")


def colored_diff(texts: Texts, printer: Printer) -> Iterator[str]:
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
