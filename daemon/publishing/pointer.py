"""The pointer of a scope: the one mutable object, and the only commit point (protocol 4).

Unknown fields, also of nested parts, are kept on every write: a newer release may have written them. Times are ISO
8601 in UTC. Which pointer may follow which is `protocol`'s.
"""

from collections.abc import Sequence
from functools import total_ordering
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.publishing.documents import parsed
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.signatures import Signature
from renderers.model import Scope, canonical_json

SCHEMA: Final = 1
MOST_RECENT: Final = 128
MOST_HISTORY: Final = 128
CHUNK: Final = 64
MOST_RETAINED: Final = 100
"""Publications in a pointer, live, desired and pinned ones among them (protocol 4)."""
MOST_PINNED: Final = 48
"""Half of those, less live and desired: so at least 50 others are retained, whatever an operator pins."""

Kind = Literal["publish", "rollback", "hold", "resume", "quarantine", "pin", "gc", "recover", "retire"]


class Part(BaseModel):
    """A part of the pointer: frozen, keeps what it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow")


@total_ordering
class Revision(Part):
    """`<producer>.<derived>`: the producer's number of the last explicit state, and states derived since."""

    producer: Annotated[int, Field(ge=0)]
    derived: Annotated[int, Field(ge=0)] = 0

    def __str__(self) -> str:
        return f"{self.producer}.{self.derived}" if self.derived else str(self.producer)

    def __lt__(self, other: "Revision") -> bool:
        return (self.producer, self.derived) < (other.producer, other.derived)


class PublicationId(Part):
    """A state stored by one attempt: `<state>@<attempt>`."""

    state: str
    attempt: str

    @classmethod
    def parse(cls, text: str) -> "PublicationId":
        """The publication that `text` names."""
        state, _, attempt = text.rpartition("@")
        return cls(state=state, attempt=attempt)

    def __str__(self) -> str:
        return f"{self.state}@{self.attempt}"


class Publication(Part):
    """What the pointer knows of a publication without reading its manifest."""

    state: str
    revision: Revision
    kind: Literal["explicit", "derived"]
    late: bool = False
    attempt: str
    manifest_sha256: str
    composition: str
    renderer: str
    at: str
    superseded_at: str | None = None
    pinned: bool = False

    @property
    def id(self) -> PublicationId:
        """Its name in history and on the command line."""
        return PublicationId(state=self.state, attempt=self.attempt)


class Hold(Part):
    """`desired` goes on, `live` stays, until `resume`."""

    by: str
    reason: str
    at: str


class Quarantine(Part):
    """A composition (by digest) that never becomes live by itself."""

    composition: str
    by: str
    reason: str
    at: str


class Folded(Part):
    """An event the scope has folded: two digests of 16 hex digits each (protocol 2)."""

    identity: str
    event: str


class Entry(Part):
    """One change of the pointer."""

    sequence: int
    write: str
    kind: Kind
    published: tuple[str, ...] = ()
    live: str | None = None
    desired: str | None = None
    change: dict[str, Any] = {}
    at: str
    by: str
    reason: str = ""


class Older(Part):
    """Where the history before this one is."""

    key: str
    sha256: str


class Chunk(Part):
    """The oldest entries of a history that grew too long for the pointer; never changes."""

    entries: tuple[Entry, ...]
    older: Older | None = None


class Pointer(Part):
    """The signed part."""

    schema_: Annotated[int, Field(alias="schema")] = SCHEMA
    scope: str
    sequence: Annotated[int, Field(ge=0)]
    write: str
    kind: Kind
    live: Publication | None = None
    desired: Publication | None = None
    highest_producer: int = 0
    derived: int = 0
    inputs: dict[str, int] = {}
    recent: tuple[Folded, ...] = ()
    hold: Hold | None = None
    quarantined: tuple[Quarantine, ...] = ()
    retained: tuple[Publication, ...] = ()
    """In commit order, the newest last."""
    gc_epoch: int = 0
    history: tuple[Entry, ...] = ()
    """The newest last."""
    older: Older | None = None

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    def is_quarantined(self, composition: str) -> bool:
        """Whether an operator has rejected this composition."""
        return any(each.composition == composition for each in self.quarantined)

    def retained_of(self, state: str) -> tuple[Publication, ...]:
        """The publications of a state that can be rolled back to, the newest last."""
        return tuple(each for each in self.retained if each.state == state)

    def knows_write(self, write: str) -> bool:
        """Whether a write with this id is part of this pointer's lineage, as far as its own history reaches."""
        return any(entry.write == write for entry in self.history)


def signed_part(pointer: Pointer) -> bytes:
    """What signatures are made of: the canonical JSON of the signed part (protocol 4)."""
    return canonical_json(pointer.model_dump(mode="json", by_alias=True)).encode()


def encode(pointer: Pointer, signatures: Sequence[Signature] = ()) -> bytes:
    """The pointer object's bytes."""
    told = canonical_json([each.document() for each in signatures]).encode()
    return b'{"signatures":%b,"signed":%b}\n' % (told, signed_part(pointer))


def decode(body: bytes, scope: Scope) -> Pointer:
    """The pointer in these bytes.

    Raises:
        VerificationFailed: they are no pointer, or another scope's.
    """
    try:
        pointer = Pointer.model_validate(parsed(body)["signed"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise VerificationFailed(
            f"pointer.json of {scope} is damaged ({_first_line(error)}): `rebundle recover {scope}` rebuilds it"
        ) from error
    if pointer.scope != str(scope):
        raise VerificationFailed(f"pointer.json of {scope} is the one of {pointer.scope}")
    return pointer


def is_signed(body: bytes) -> bool:
    """Whether a pointer object carries a signature: who cannot sign must not change it (protocol 4)."""
    return bool(parsed(body).get("signatures"))


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r} part"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
