"""What can go wrong with events, branched by what the caller should do."""

from dataclasses import dataclass


class EventError(Exception):
    """Root of everything this package raises."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an event: where, what was expected, what was found."""

    path: str
    """JSON path from the event's root, such as `$.data.models[3].artifact.uri`; `$` is the event itself."""
    expected: str
    found: str = ""

    def __str__(self) -> str:
        found = f" (found {self.found})" if self.found else ""
        return f"{self.path}: {self.expected}{found}"


class InvalidEvent(EventError):
    """Give up: the event can never be folded as it is. Holds every problem at once."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class UnsupportedContentType(EventError):
    """Give up: the request is in no form that is read here (HTTP 415)."""


class IdentityConflict(EventError):
    """Give up: the id is known with another content (protocol 2)."""

    def __init__(self, message: str, *, index: int = 0, event_id: str = "") -> None:
        super().__init__(message)
        self.index = index
        """Of the event among those that came together."""
        self.event_id = event_id


class SourceUnavailable(EventError):
    """Try again: the source cannot take or give events now."""


class JournalFull(SourceUnavailable):
    """Try again later: the journal has reached its limit of unsettled events."""


class JournalDisplaced(SourceUnavailable):
    """The operator must act: the journal's file was removed or replaced while it is in use. Nothing is acknowledged
    until the original is back; what was accepted before is still published."""


class JournalMissing(EventError):
    """The operator must act: there is no journal at this path."""


class NotWaiting(EventError):
    """Give up: what an operator named is not there, or not in a state in which this can be done."""


class JournalLocked(EventError):
    """The operator must act: another `rebundle run` holds this journal."""


class JournalDamaged(EventError):
    """The operator must act: the file is not a journal this release can use."""
