"""Completes the commands that messages suggest, so that they act on the same bucket when copied.

A message suggests a command in backticks: "`rebundle COMMAND …`". The module that writes it does
not know how the program was called. Where messages are printed, the flags that name the bucket, the
settings file and the journal are appended to each suggested command. A bucket that an environment
variable names needs nothing, because the copied command has the same environment.
"""

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from daemon.inspection.escaping import plain

PLACE_FLAGS: Final = ("--bucket", "--config", "--journal")

Complete = Callable[[str], str]
"""A text -> the text with its suggested commands completed."""
Accepts = Callable[[Sequence[str]], Collection[str]]
"""The words after `rebundle` -> the flags that this command accepts."""

_COMMAND: Final = re.compile(r"`(rebundle [^`]+)`")
_STORED: Final = frozenset({"body", "files"})
"""Fields of documents that hold an event or rendered files, not messages."""


def given(arguments: Sequence[str]) -> Mapping[str, str]:
    """The place flags of a command line. Works on arguments that cyclopts has rejected, too."""
    flags: dict[str, str] = {}
    if arguments[:1] == ["doctor"] and arguments[1:] and not arguments[1].startswith("-"):
        flags["--bucket"] = arguments[1]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--":
            break
        flag, equals, value = argument.partition("=")
        if flag in PLACE_FLAGS and (value := value if equals else following):
            flags[flag] = value
    return flags


def with_place(text: str, flags: Mapping[str, str], accepts: Accepts) -> str:
    """The text with `flags` appended to each suggested command that accepts and does not have them.

    The text is returned as it is if no flags were given.
    """

    def completed(match: re.Match[str]) -> str:
        try:
            words = shlex.split(match[1])[1:]
        except ValueError:
            return match[0]
        if "--help" in words:
            return match[0]
        missing = flags.keys() - {word.partition("=")[0] for word in words}
        accepted = accepts(words)
        more = [flag for flag in PLACE_FLAGS if flag in missing and flag in accepted]
        appended = "".join(f" {flag} {plain(shlex.quote(flags[flag]))}" for flag in more)
        return f"`{match[1]}{appended}`"

    return _COMMAND.sub(completed, text) if flags else text


def in_document(value: Any, complete: Complete) -> Any:
    """A document with the messages in it completed.

    What others wrote stays as it is: events, files, and records that name their author (`by`).
    """
    match value:
        case str():
            return complete(value)
        case Mapping() if not value.get("by"):
            return {
                key: inner if key in _STORED else in_document(inner, complete)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [in_document(inner, complete) for inner in value]
        case _:
            return value


def unchanged(text: str) -> str:
    """The text, without a change."""
    return text


_complete: ContextVar[Complete] = ContextVar("complete", default=unchanged)


def current() -> Complete:
    """How the running command completes messages."""
    return _complete.get()


@contextmanager
def completing(complete: Complete) -> Iterator[None]:
    """Complete the messages that are printed within the block."""
    token = _complete.set(complete)
    try:
        yield
    finally:
        _complete.reset(token)
