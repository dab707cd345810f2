"""Views of a pointer: publications, states, scopes. Decides why a state is not live. Pure."""

from dataclasses import dataclass, field

from daemon.inspection.documents import INLINE
from daemon.publishing.pointer import Hold, Pointer, Publication, Quarantine


@dataclass(frozen=True, slots=True)
class PublicationView:
    """The facts of a publication that the pointer has."""

    state: str
    revision: str
    kind: str
    attempt: str
    published_at: str
    composition: str
    """The digest of its composition."""
    renderer: str
    late: bool
    pinned: bool
    superseded_at: str | None

    @classmethod
    def of(cls, publication: Publication) -> "PublicationView":
        """The view of a publication."""
        return cls(
            state=publication.state,
            revision=str(publication.revision),
            kind=publication.kind,
            attempt=publication.attempt,
            published_at=publication.at,
            composition=publication.composition_digest,
            renderer=publication.renderer,
            late=publication.late,
            pinned=publication.pinned,
            superseded_at=publication.superseded_at,
        )


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """A rejected composition."""

    composition: str
    """Its digest."""
    by: str
    reason: str
    at: str

    @classmethod
    def of(cls, quarantine: Quarantine) -> "QuarantineView":
        """The view of a quarantine."""
        return cls(quarantine.composition_digest, quarantine.by, quarantine.reason, quarantine.at)


@dataclass(frozen=True, slots=True)
class PointerView:
    """What the pointer of a scope says."""

    scope: str
    sequence: int | None
    """None if the pointer cannot be read. Then the fields below are empty."""
    live: PublicationView | None
    desired: PublicationView | None
    hold: Hold | None
    quarantined: tuple[QuarantineView, ...]

    @classmethod
    def of(cls, pointer: Pointer) -> "PointerView":
        """The view of a pointer."""
        return cls(
            scope=pointer.scope,
            sequence=pointer.sequence,
            live=PublicationView.of(pointer.live) if pointer.live else None,
            desired=PublicationView.of(pointer.desired) if pointer.desired else None,
            hold=pointer.hold,
            quarantined=tuple(map(QuarantineView.of, pointer.quarantined)),
        )

    @property
    def desired_quarantine(self) -> QuarantineView | None:
        """The quarantine that keeps the desired state from becoming live."""
        if self.desired is None:
            return None
        return next(
            (
                quarantine
                for quarantine in self.quarantined
                if quarantine.composition == self.desired.composition
            ),
            None,
        )


@dataclass(frozen=True, slots=True)
class ScopeView:
    """A scope in a list of scopes."""

    pointer: PointerView = field(metadata=INLINE)
    changed_at: str | None
    error: str | None
    """Why the pointer cannot be read."""
    exit_code: int
    """The exit code that this scope gives the command; 0 without an error."""

    @classmethod
    def of(cls, pointer: Pointer) -> "ScopeView":
        """The view of a scope whose pointer can be read."""
        changed_at = pointer.history[-1].at if pointer.history else None
        return cls(PointerView.of(pointer), changed_at, error=None, exit_code=0)

    @classmethod
    def unreadable(cls, scope: str, error: str, exit_code: int) -> "ScopeView":
        """The view of a scope whose pointer cannot be read."""
        unknown = PointerView(
            scope, sequence=None, live=None, desired=None, hold=None, quarantined=()
        )
        return cls(unknown, changed_at=None, error=error, exit_code=exit_code)


@dataclass(frozen=True, slots=True)
class StateView:
    """A publication with its status in the scope."""

    publication: PublicationView = field(metadata=INLINE)
    live: bool
    desired: bool
    status: str
    """live, quarantined, held, waiting for resume, late or superseded."""
    reason: str
    """Why it is not live; empty if it is."""

    @classmethod
    def of(cls, pointer: Pointer, publication: Publication) -> "StateView":
        """The view of a publication that this pointer retains."""
        status, reason = publication_status(pointer, publication)
        return cls(
            PublicationView.of(publication),
            live=_is(pointer.live, publication),
            desired=_is(pointer.desired, publication),
            status=status,
            reason=reason,
        )


def publication_status(pointer: Pointer, publication: Publication) -> tuple[str, str]:
    """The status of a publication, and the reason why it is not live."""
    if _is(pointer.live, publication):
        return "live", ""
    for quarantine in pointer.quarantined:
        if quarantine.composition_digest == publication.composition_digest:
            return "quarantined", f"by {quarantine.by}: {quarantine.reason}"
    if _is(pointer.desired, publication):
        return _desired_status(pointer)
    if publication.late:
        return "late", "arrived after a state with a higher revision"
    return "superseded", _superseded_reason(pointer, publication)


def _desired_status(pointer: Pointer) -> tuple[str, str]:
    if pointer.hold is not None:
        return "held", f"by {pointer.hold.by}: {pointer.hold.reason}"
    remedy = f"`rebundle resume {pointer.scope}` makes it live"
    return "waiting for resume", f"its quarantine was lifted: {remedy}"


def _superseded_reason(pointer: Pointer, publication: Publication) -> str:
    newest = pointer.retained_of(publication.state)[-1]
    if newest.id != publication.id:
        return "published again by a newer attempt"
    if publication.superseded_at:
        return f"since {publication.superseded_at}"
    return "published together with a newer state"


def _is(one: Publication | None, other: Publication) -> bool:
    return one is not None and one.id == other.id
