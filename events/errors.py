"""The errors of this package. The base class of each is its consequence for the caller."""

from dataclasses import dataclass


class EventError(Exception):
    """Base class of all errors of this package."""


class Transient(EventError):
    """Try again: the same call may succeed without a change."""


class Conflict(EventError):
    """The call contradicts what the source holds: look at that, then decide again."""


class OperatorActionNeeded(EventError):
    """An operator has to act: until then every try fails."""


class Invalid(EventError):
    """The input is wrong: do not retry."""


class Damaged(EventError):
    """Stored data cannot be used: an operator has to restore it."""


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


class InvalidEvent(Invalid):
    """The event is invalid. Has all its problems."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class UnsupportedContentType(Invalid):
    """The content type of the request is not supported (HTTP 415)."""


class IdentityConflict(Conflict):
    """An event with this id and different content is known (protocol 2)."""

    def __init__(self, message: str, *, index: int = 0, event_id: str = "") -> None:
        super().__init__(message)
        self.index = index
        """The index of the event in its batch."""
        self.event_id = event_id


class SourceUnavailable(Transient):
    """The source cannot accept or deliver events now."""


class JournalFull(SourceUnavailable):
    """Too many events are not acknowledged, or the disk is full."""


class JournalDisplaced(OperatorActionNeeded):
    """The journal's file was removed or replaced during use.

    The journal accepts nothing until the original file is restored. Events that it accepted
    before are still published.
    """


class JournalMissing(OperatorActionNeeded):
    """There is no journal at this path."""


class NotWaiting(Conflict):
    """The event or dead letter does not exist, or its status forbids the command."""


class JournalLocked(OperatorActionNeeded):
    """Another `rebundle run` holds this journal."""


class JournalDamaged(Damaged):
    """The file is not a journal, or is damaged."""


class JournalOfOtherSchema(OperatorActionNeeded):
    """Another release wrote the journal. It is not damaged."""
