"""The pointer of a scope: the one mutable object, and the only commit point (protocol 4).

Every write keeps unknown fields, also of nested parts: a newer release may have written them.
`grammar` defines what the known fields may hold. `protocol` defines the changes of a pointer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    ValidationError,
)

from daemon.publishing import layout
from daemon.publishing.documents import SCHEMA, Malformed, check_schema, parse, serialised
from daemon.publishing.errors import NotFound, VerificationFailed
from daemon.publishing.grammar import (
    Attempt,
    Id16,
    Label,
    Offset,
    PublicationName,
    Reason,
    RevisionNumber,
    ScopeText,
    SequenceNumber,
    Sha256,
    StateId,
    Time,
    WriteId,
    checked,
    fault_of,
    rule,
)
from daemon.publishing.signatures import Signature
from daemon.publishing.sizes import SIGNATURES
from daemon.publishing.wording import MOST_NAMED, cut_off, rebuild, some
from events.model import LARGEST_REVISION, Identity
from renderers.values import Scope, canonical_json

MOST_FOLDED_EVENTS: Final = 128
MOST_HISTORY: Final = 128
CHUNK: Final = 64
MOST_RETAINED: Final = 100
"""Publications in a pointer, including live, desired and pinned ones (protocol 4)."""
MOST_QUARANTINED: Final = 256
"""Compositions. A quarantine has a reason of up to 2,000 characters."""
MOST_PINNED: Final = 48
"""Half of MOST_RETAINED, less live and desired: whatever is pinned, 50 others have room."""

_DIGITS: Final = 16
_REVISION: Final = re.compile(r"(0|[1-9][0-9]{0,15})(?:\.([1-9][0-9]{0,15}))?")

Kind = Literal[
    "publish", "rollback", "hold", "resume", "quarantine", "pin", "gc", "recover", "retire"
]


class DocumentPart(BaseModel):
    """A part of a document: frozen, keeps fields that this release does not know."""

    model_config = ConfigDict(frozen=True, extra="allow")


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """The number of a state: the producer's number of the last explicit state, and a derived count.

    The derived count is the number of states derived since that explicit state.

    Documents store it as text: `42`, or `42.1` for a derived state.
    """

    producer: int
    derived: int = 0

    @classmethod
    def parse(cls, text: str) -> "Revision":
        """The revision with this text. A revision has exactly one text.

        Raises:
            ValueError: the text is no revision.
        """
        matched = _REVISION.fullmatch(text)
        revision = cls(int(matched[1]), int(matched[2] or 0)) if matched else None
        if revision is None or max(revision.producer, revision.derived) > LARGEST_REVISION:
            raise ValueError(
                f"must be a revision such as 42 or 42.1, with numbers of at most {LARGEST_REVISION}"
            )
        return revision

    def next_derived(self) -> "Revision":
        """The number of the next state that is derived from this one."""
        return Revision(self.producer, self.derived + 1)

    def __str__(self) -> str:
        return f"{self.producer}.{self.derived}" if self.derived else str(self.producer)


def _revision(value: object) -> Revision:
    if isinstance(value, Revision):
        return value
    if not isinstance(value, str):
        raise ValueError('must be text such as "42" or "42.1"')  # pydantic reports ValueError only
    return Revision.parse(value)


StoredRevision = Annotated[
    Revision, PlainValidator(_revision), PlainSerializer(str, return_type=str)
]
"""A field of a document: the text of a revision."""


class PublicationId(DocumentPart):
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


class Publication(DocumentPart):
    """The facts of a publication that the pointer has, so that no manifest need be read."""

    state: StateId
    revision: StoredRevision
    kind: Literal["explicit", "derived"]
    late: StrictBool = False
    attempt: Attempt
    manifest_sha256: Sha256
    composition_digest: Sha256
    renderer: Label
    at: Time
    superseded_at: Time | None = None
    pinned: StrictBool = False

    @property
    def id(self) -> PublicationId:
        """Its name in history and on the command line."""
        return PublicationId(state=self.state, attempt=self.attempt)


class Hold(DocumentPart):
    """Keeps `live` where it is until `resume`. New publications still become `desired`."""

    by: Reason
    reason: Reason
    at: Time


class Quarantine(DocumentPart):
    """The rejection of a composition: no publication of it becomes live."""

    composition_digest: Sha256
    by: Reason
    reason: Reason
    at: Time


class FoldedEvent(DocumentPart):
    """An event that the scope has folded: two digests of 16 hex digits (protocol 2)."""

    identity: Id16
    event: Id16

    @classmethod
    def of(cls, identity: Identity, digest: str) -> "FoldedEvent":
        """The event with this identity. `digest`: sha256 hex of its content."""
        return cls(identity=identity.digest[:_DIGITS], event=digest[:_DIGITS])


class _Pin(DocumentPart):
    publication: PublicationName
    pinned: StrictBool


class _Change(DocumentPart):
    """The known fields of an entry's `change`.

    An entry keeps its `change` as it was read: a newer release may have written more fields.
    """

    hold: Hold | None = None
    discard_newer: StrictBool = False
    quarantine: Quarantine | None = None
    quarantined: tuple[Quarantine, ...] = ()
    lifted: Sha256 | None = None
    pin: _Pin | None = None
    pinned: tuple[PublicationName, ...] = ()
    released: tuple[PublicationName, ...] = ()
    dropped: tuple[PublicationName, ...] = ()
    used: dict[StateId, tuple[RevisionNumber, Sha256]] = {}
    as_of: Time | None = None


def _check_change(change: dict[str, Any]) -> None:
    if not change:  # most entries have none
        return
    try:
        checked(_Change, change)
    except ValidationError as error:
        raise ValueError(fault_of(error)) from None


class PositionChange(DocumentPart):
    """When a position was last raised.

    It is valid only while `positions` has this offset: a recovery raises a position and cannot know
    when that position was reached.
    """

    offset: Offset
    at: Time


class HistoryEntry(DocumentPart):
    """One change of the pointer."""

    sequence: SequenceNumber
    write_id: WriteId
    kind: Kind
    published: tuple[PublicationName, ...] = ()
    live: PublicationName | None = None
    desired: PublicationName | None = None
    change: Annotated[dict[str, Any], rule(_check_change)] = {}
    at: Time
    by: Reason
    reason: Reason = ""


class PreviousChunk(DocumentPart):
    """The chunk with the history before this one."""

    key: Label
    sha256: Sha256


class Chunk(DocumentPart):
    """The oldest entries of a history that is too long for the pointer. A chunk never changes."""

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1)] = SCHEMA
    entries: tuple[HistoryEntry, ...]
    previous_chunk: PreviousChunk | None = None

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Pointer(DocumentPart):
    """The signed part of the pointer object."""

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1)] = SCHEMA
    scope: ScopeText
    sequence: SequenceNumber
    write_id: WriteId
    kind: Kind
    live: Publication | None = None
    desired: Publication | None = None
    highest_revision: StoredRevision = Revision(0)
    """The highest revision so far; 0 before the first explicit state.

    It is that of the last explicit state that was not late, or of a state derived from it.
    """
    positions: dict[Label, Offset] = {}
    """The last position that was folded, by instance."""
    positions_changed: dict[Label, PositionChange] = {}
    """By instance, where the time is known. Collection uses it to find idle journals."""
    folded_events: tuple[FoldedEvent, ...] = ()
    hold: Hold | None = None
    quarantined: tuple[Quarantine, ...] = ()
    retained: tuple[Publication, ...] = ()
    """In commit order, the newest last."""
    gc_epoch: SequenceNumber = 0
    history: tuple[HistoryEntry, ...] = ()
    """The newest last."""
    previous_chunk: PreviousChunk | None = None

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    def is_quarantined(self, composition_digest: str) -> bool:
        """Whether an operator has rejected this composition."""
        return any(entry.composition_digest == composition_digest for entry in self.quarantined)

    def retained_of(self, state: str) -> tuple[Publication, ...]:
        """The publications of a state that can be rolled back to, the newest last."""
        return tuple(publication for publication in self.retained if publication.state == state)

    def knows_write(self, write_id: str) -> bool:
        """Whether the history in this pointer has a write with this id.

        Older writes are in the chunks, which this does not check.
        """
        return any(entry.write_id == write_id for entry in self.history)


def find_exactly(pointer: Pointer, name: str) -> Publication:
    """The newest retained publication of a state, or the one that `STATE@ATTEMPT` names.

    A unique prefix of the attempt is enough. The state must be complete where a pointer is changed:
    if `state-1` is no longer retained, it must not select `state-10`. A command that asks for
    confirmation may resolve a prefix with `find_retained` and show the result.

    Raises:
        NotFound: none is retained, or several attempts have this prefix.
    """
    state, separator, attempt = name.partition("@")
    matching = [
        publication
        for publication in pointer.retained_of(state)
        if publication.attempt.startswith(attempt)
    ]
    if matching and (not separator or len({publication.attempt for publication in matching}) == 1):
        return matching[-1]
    if matching:
        raise _ambiguous(name, "attempts", [str(publication.id) for publication in matching])
    similar = _states_with_prefix(pointer, state)
    meant = f"; is {' or '.join(similar[:MOST_NAMED])} meant?" if similar else ""
    raise NotFound(
        f"{name} is not a retained state of {pointer.scope}; `rebundle states {pointer.scope}` "
        f"lists them{meant}"
    )


def find_retained(pointer: Pointer, name: str) -> Publication:
    """As `find_exactly`, for commands that only read: a unique prefix of a state is enough.

    Raises:
        NotFound: none is retained, or several states have this prefix.
    """
    matching = _states_with_prefix(pointer, name)
    if pointer.retained_of(name) or not matching:
        return find_exactly(pointer, name)
    if len(matching) > 1:
        raise _ambiguous(name, "states", matching)
    return find_exactly(pointer, matching[0])


def _ambiguous(name: str, kind: str, matching: Sequence[str]) -> NotFound:
    examples = some(matching)
    return NotFound(
        f"{name} is the beginning of {len(matching)} {kind}, {examples}: name one of them in full"
    )


def _states_with_prefix(pointer: Pointer, prefix: str) -> list[str]:
    """The ids of the retained states that begin with `prefix`; none for an empty one."""
    return sorted(
        {
            publication.state
            for publication in pointer.retained
            if prefix and publication.state.startswith(prefix)
        }
    )


def signed_part(pointer: Pointer) -> bytes:
    """The bytes that are signed: the canonical JSON of the signed part (protocol 4)."""
    return canonical_json(pointer.model_dump(mode="json", by_alias=True)).encode()


def encode(pointer: Pointer, signatures: Sequence[Signature] = ()) -> bytes:
    """The pointer object's bytes."""
    signature_list = canonical_json([signature.document() for signature in signatures]).encode()
    return b'{"signatures":%b,"signed":%b}\n' % (signature_list, signed_part(pointer))


def decode(body: bytes, scope: Scope) -> Pointer:
    """The pointer in these bytes.

    Raises:
        OlderSchema: the pointer has schema 1.
        VerificationFailed: the bytes are no pointer, or the pointer of another scope, or a field
            breaks its rule (`grammar`).
    """
    return opened(body, scope)[0]


def opened(body: bytes, scope: Scope) -> tuple[Pointer, bool]:
    """The pointer in these bytes, and whether the object has a signature, valid or not.

    A writer that cannot sign must not change a pointer with a signature (protocol 4).

    Raises:
        VerificationFailed: as `decode`.
    """
    try:
        document = parse(body)
        if not isinstance(document, Mapping) or "signed" not in document:
            raise Malformed("it has no 'signed' part")
        check_schema(document["signed"], layout.pointer(scope))
        signatures = document.get("signatures") or ()
        if not isinstance(signatures, Sequence) or len(signatures) > SIGNATURES:
            raise Malformed(f"signatures: must be a list of at most {SIGNATURES}")
        pointer = checked(Pointer, document["signed"])
        if pointer.scope == str(scope):
            _check_references(pointer, scope)
    except ValidationError as error:
        raise _damaged(scope, fault_of(error)) from error
    except ValueError as error:
        raise _damaged(scope, str(error)) from error
    if pointer.scope != str(scope):
        raise VerificationFailed(
            f"pointer.json of {scope} belongs to {pointer.scope}: {rebuild(scope)}"
        )
    return pointer, bool(signatures)


def decode_chunk(body: bytes, key: str, scope: Scope) -> Chunk:
    """The history chunk in these bytes.

    Raises:
        OlderSchema: the chunk has schema 1.
        VerificationFailed: the bytes are no chunk of this scope, or a field breaks its rule
            (`grammar`).
    """
    try:
        document = parse(body)
        check_schema(document, key, numbered=False)
        chunk = checked(Chunk, document)
        _check_previous_chunk(chunk.previous_chunk, scope)
    except ValidationError as error:
        raise VerificationFailed(
            f"history chunk {key} is damaged ({fault_of(error)}): {cut_off(scope)}"
        ) from error
    except ValueError as error:
        raise VerificationFailed(
            f"history chunk {key} is damaged ({error}): {cut_off(scope)}"
        ) from error
    return chunk


def encode_chunk(chunk: Chunk) -> bytes:
    """The bytes of a history chunk."""
    return serialised(chunk.model_dump(mode="json", by_alias=True))


def _check_references(pointer: Pointer, scope: Scope) -> None:
    """Check that live and desired are retained, and that the history continues in this scope.

    Raises Malformed.
    """
    retained = {(one.id, one.manifest_sha256, one.composition_digest) for one in pointer.retained}
    for name, named in (("live", pointer.live), ("desired", pointer.desired)):
        # The id alone is not enough: the digests must be those of the retained publication.
        if (
            named is not None
            and (named.id, named.manifest_sha256, named.composition_digest) not in retained
        ):
            raise Malformed(f"{name}: {named.id} is not one of the retained publications")
    _check_previous_chunk(pointer.previous_chunk, scope)


def _check_previous_chunk(previous: PreviousChunk | None, scope: Scope) -> None:
    if previous is not None and not layout.is_history(scope, previous.key):
        raise Malformed(f"previous_chunk.key: must be a chunk below {layout.histories(scope)}")


def _damaged(scope: Scope, fault: str) -> VerificationFailed:
    return VerificationFailed(f"pointer.json of {scope} is damaged ({fault}): {rebuild(scope)}")
