"""An event and the words around it, as frozen values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

TYPE_PREFIX: Final = "io.rebundle."
MODEL_VERSION_CREATED: Final = "io.rebundle.model_version.created.v1"
MODEL_VERSION_UPDATED: Final = "io.rebundle.model_version.updated.v1"
BUNDLE_STATE_CREATED: Final = "io.rebundle.bundle_state.created.v1"
ROLLBACK_REQUESTED: Final = "io.rebundle.bundle.rollback_requested.v1"
KNOWN_TYPES: Final = frozenset({MODEL_VERSION_CREATED, MODEL_VERSION_UPDATED, BUNDLE_STATE_CREATED, ROLLBACK_REQUESTED})


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Event:
    """A CloudEvents 1.0 event whose envelope is valid; what `data` says is judged elsewhere (`schemas`)."""

    id: str
    source: str
    type: str
    data: Mapping[str, Any] = field(repr=False)
    subject: str | None = None
    time: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Every other attribute of the envelope, as it came."""

    def structured(self) -> bytes:
        """The event in CloudEvents' structured JSON form, as it is kept and sent on."""
        envelope: dict[str, Any] = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        if self.subject is not None:
            envelope["subject"] = self.subject
        if self.time is not None:
            envelope["time"] = self.time
        body = {**self.extensions, **envelope, "datacontenttype": "application/json", "data": self.data}
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two deliveries the same event (protocol 2): the sender's own source is not unique by itself."""

    intake: str
    """The configured source's name, such as `http`."""
    source: str
    id: str

    @property
    def digest(self) -> str:
        """sha256 hex of the three, as kept (its first 16 digits) in a pointer's `folded_events`."""
        return hashlib.sha256(json.dumps([self.intake, self.source, self.id], ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Position:
    """Where an event stands in a source. Positions of different instances are never compared."""

    instance: str
    """`journal:<uuid>` or `kafka:<cluster id>/<topic>/<partition>`."""
    offset: int


class OutcomeKind(StrEnum):
    """What became of an event in a scope (protocol 2)."""

    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    LATE = "late"
    IGNORED = "ignored"
    WITHHELD = "withheld"
    DEAD_LETTERED = "dead-lettered"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event in a scope, and why, in words for an operator."""

    kind: OutcomeKind
    reason: str
    state: str | None = None
    """The bundle-state id that came of it, where one did."""
