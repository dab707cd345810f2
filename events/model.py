"""Events, their identities, positions and outcomes, as frozen values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

MODEL_VERSION_CREATED: Final = "io.rebundle.model_version.created.v1"
MODEL_VERSION_UPDATED: Final = "io.rebundle.model_version.updated.v1"
BUNDLE_STATE_CREATED: Final = "io.rebundle.bundle_state.created.v1"
ROLLBACK_REQUESTED: Final = "io.rebundle.bundle.rollback_requested.v1"
KNOWN_TYPES: Final = frozenset(
    {MODEL_VERSION_CREATED, MODEL_VERSION_UPDATED, BUNDLE_STATE_CREATED, ROLLBACK_REQUESTED}
)
LARGEST_REVISION: Final = 2**53 - 1
"""The largest integer that is exact in JavaScript."""
MAX_REASON_LENGTH: Final = 2_000
"""Characters (protocol 4), for events and for operators' commands."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Event:
    """A CloudEvents 1.0 event with a valid envelope; `schemas` validates its data."""

    id: str
    source: str
    type: str
    data: Mapping[str, Any] = field(repr=False)
    subject: str | None = None
    time: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Every other attribute of the envelope, unchanged."""

    def structured(self) -> bytes:
        """The event in the structured JSON form of CloudEvents, in which it is stored and sent."""
        envelope: dict[str, Any] = {"specversion": "1.0", "id": self.id}
        envelope |= {"source": self.source, "type": self.type}
        if self.subject is not None:
            envelope["subject"] = self.subject
        if self.time is not None:
            envelope["time"] = self.time
        content = {"datacontenttype": "application/json", "data": self.data}
        body = {**self.extensions, **envelope, **content}
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of an event: deliveries with equal identities are the same event (protocol 2).

    It includes the intake, because different senders may use the same `source`.
    """

    intake: str
    """The configured source's name, such as `http`."""
    source: str
    id: str

    @property
    def digest(self) -> str:
        """sha256 hex of the three fields. A pointer's `folded_events` has the first 16 digits."""
        fields = json.dumps([self.intake, self.source, self.id], ensure_ascii=False)
        return hashlib.sha256(fields.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Position:
    """The place of an event in a source. Positions of different instances are never compared."""

    instance: str
    """`journal:<uuid>` or `kafka:<cluster id>/<topic>/<partition>`."""
    offset: int

    def __str__(self) -> str:
        return f"{self.instance}@{self.offset}"


class OutcomeKind(StrEnum):
    """The kinds of outcome of an event in a scope (protocol 2)."""

    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    LATE = "late"
    IGNORED = "ignored"
    WITHHELD = "withheld"
    DEAD_LETTERED = "dead-lettered"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an event in a scope."""

    kind: OutcomeKind
    reason: str
    """Why, for operators."""
    state: str | None = None
    """The id of the bundle state that resulted, if one did."""
