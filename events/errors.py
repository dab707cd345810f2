"""The errors of this package. Each class says what the caller should do."""

from dataclasses import dataclass


class EventError(Exception):
    """Base class of all errors of this package."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in an event: its place, what was expected and what was found."""

    path: str
    """JSON path, such as `$.data.models[3].artifact.uri`; `$` is the event itself."""
    expected: str
    found: str = ""

    def __str__(self) -> str:
        found = f" (found {self.found})" if self.found else ""
        return f"{self.path}: {self.expected}{found}"


class InvalidEvent(EventError):
    """Do not retry: the event is invalid. Has all its problems."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class UnsupportedContentType(EventError):
    """Do not retry: the content type of the request is not supported (HTTP 415)."""


class IdentityConflict(EventError):
    """Do not retry: an event with this id and different content is known (protocol 2)."""

    def __init__(self, message: str, *, index: int = 0, event_id: str = "") -> None:
        super().__init__(message)
        self.index = index
        """The index of the event in its batch."""
        self.event_id = event_id


class SourceUnavailable(EventError):
    """Try again: the source cannot accept or deliver events now."""


class JournalFull(SourceUnavailable):
    """Try again later: too many events are not acknowledged, or the disk is full."""


class JournalDisplaced(SourceUnavailable):
    """The operator must act: the journal's file was removed or replaced during use.

    The journal accepts nothing until the original file is restored. Events that it accepted
    before are still published.
    """


class JournalMissing(EventError):
    """The operator must act: there is no journal at this path."""


class NotWaiting(EventError):
    """Do not retry: the event or dead letter does not exist, or its status forbids the command."""


class JournalLocked(EventError):
    """The operator must act: another `rebundle run` holds this journal."""


class JournalDamaged(EventError):
    """The operator must act: the file is not a journal, or is damaged."""


class JournalOfOtherSchema(EventError):
    """The operator must act: another release wrote the journal. It is not damaged (exit 4)."""
