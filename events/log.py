"""What the intake, the operators' commands and the health checks use of a source.

Each call may raise any EventError. The journal implements all of it, and `events.source`.
"""

from collections.abc import Sequence
from typing import Protocol

from events.errors import Problem
from events.model import Position
from events.records import (
    Accepted,
    Arrival,
    Backlog,
    DeadLetter,
    DeadLetterStatus,
    EventStatus,
    Rejected,
)


class EventLog(Protocol):
    """Takes the events of an intake, and finds their status."""

    async def append(self, arrivals: Sequence[Arrival]) -> Sequence[Accepted]:
        """Stores all events durably, or none. Raises IdentityConflict, JournalFull."""
        ...

    async def reject(self, intake_name: str, body: bytes, problems: Sequence[Problem]) -> None:
        """Stores a rejected request in a ring buffer."""
        ...

    async def find(self, event_id: str) -> Sequence[EventStatus]:
        """The status of the events with this id. An id is unique only within a sender."""
        ...


class DeadLetters(Protocol):
    """The events that operators have to handle."""

    async def dead_letters(
        self, status: DeadLetterStatus | None = DeadLetterStatus.OPEN
    ) -> Sequence[DeadLetter]:
        """The dead letters with this status (None: all), oldest first."""
        ...

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """The dead letter with this id. Raises NotWaiting if there is none."""
        ...

    async def take_out(
        self, event: str, scope: str | None, *, reason: str, by: str
    ) -> Sequence[DeadLetter]:
        """Turns a stuck event into dead letters, in one scope or in all scopes where it waits.

        `event`: its id, or its position, also without the instance (`@12`). Raises NotWaiting if it
        does not wait there, or if several events have this id.
        """
        ...

    async def replay(self, letter_id: str, *, by: str) -> Position:
        """Appends the event of a dead letter again, for its scope. Raises NotWaiting: not open."""
        ...

    async def drop(self, letter_id: str, *, by: str, reason: str) -> None:
        """Closes a dead letter without a replay. Raises NotWaiting if it is not open."""
        ...

    async def rejected(self, limit: int = 100) -> Sequence[Rejected]:
        """The newest rejected requests, newest first."""
        ...


class SourceHealth(Protocol):
    """Shows whether a source works, and what waits in it."""

    async def probe(self) -> None:
        """Checks whether an event could be stored now. Raises SourceUnavailable if not."""
        ...

    async def backlog(self) -> Backlog:
        """The events that wait now."""
        ...
