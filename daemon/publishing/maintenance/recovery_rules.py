"""A pointer that can go on, out of what is left of a scope (protocol 4, `recover`). Pure.

Two cases. A pointer that is ahead of every trace is only *mended*: what it names and the bucket has no more leaves it.
One that is gone, damaged or behind a trace is *rebuilt*: from the publications that verify, the history's chunks, an
older pointer if that is what was put back, and the live tree. Its sequence is above every one that can have been seen:
above all traces by the changes that one pointer can hold, for so many may be in no chunk yet. What nothing tells is
said, not guessed away. Gathering the remains is `recovery`'s.

Id, number and composition of an explicit state belong together (protocol 3), and uploads that lost a race are in the
bucket as well. Of uploads that contradict each other only one can have been committed, so only that one is retained.

An event counts as folded only where a publication that verifies, and that the new pointer stands on, tells of it. What
was stored in part may never have been committed: its event may still wait, and one that is folded again does no harm,
while one that is passed over is lost.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeVar

from pydantic import ValidationError

from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, OperationRefused, StateUnreadable
from daemon.publishing.manifest import Manifest, ManifestEvent
from daemon.publishing.pointer import (
    MOST_FOLDED_EVENTS,
    MOST_HISTORY,
    FoldedEvent,
    HistoryEntry,
    Hold,
    Part,
    Pointer,
    PreviousChunk,
    Publication,
    PublicationId,
    Quarantine,
    Revision,
)
from daemon.publishing.protocol import Writing
from daemon.publishing.wording import some
from events.model import Identity
from renderers.model import Scope

P = TypeVar("P", bound=Part)
_DAMAGED_TOLD: Final = (
    "what the damaged publications held: a collection (`gc`, or the daemon's) deletes what is left of them. Where the "
    "bucket keeps versions, restore their objects before you recover"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A publication whose manifest, archive and files verify. Whether it was late, only a pointer knows."""

    publication: Publication
    events: tuple[ManifestEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Damaged:
    """A publication that is there and does not verify, with what its manifest still tells."""

    id: PublicationId
    why: str
    revision: Revision | None = None
    events: tuple[ManifestEvent, ...] = ()
    composition: str | None = None
    kind: Literal["explicit", "derived"] | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A publication that the store does not let be read. It may be whole."""

    id: PublicationId
    why: str
    """What is wrong, and the command that helps."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """What whoever can write the bucket may have put there: it sets nothing free, and what it quarantines stays so.

    Where no pointer's signature counts, chunks and marker have to do for all else, and are in `Remains`.
    """

    entries: tuple[HistoryEntry, ...] = ()
    """Changes after a signed pointer, that it does not lead to."""
    pointer: Pointer | None = None
    """One whose signature does not count."""
    tree: PublicationId | None = None
    """What the live tree's marker says that it follows."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a scope."""

    scope: Scope
    pointer: Pointer | None = None
    """If it can be read; it may be an older one that was put back."""
    traces: Mapping[str, int] = field(default_factory=dict)
    """The highest sequence that each thing beside a readable pointer has seen."""
    entries: tuple[HistoryEntry, ...] = ()
    """Of the chunks, the oldest first."""
    chain_holds: bool = True
    """Whether each chunk that the pointer leads back to is there, and is the one its successor names."""
    previous_chunk: PreviousChunk | None = None
    """The newest chunk that leads back through all before it."""
    chunked: int = 0
    """The last sequence that it has."""
    tree: PublicationId | None = None
    """What the live tree's marker says that it follows."""
    tree_sequence: int = 0
    found: tuple[Found, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    unsigned: Unsigned | None = None
    """What nobody signed, where a trust policy asks for that; None: it does not."""
    had_pointer: bool = False
    """Whether something beside a pointer, a sequence or a change shows that there was one: a damaged pointer, marker or
    chunk, which tells neither."""

    @property
    def was_published(self) -> bool:
        """Whether the scope has, or is known to have had, a pointer.

        If not, nothing in it was ever committed: a first publication may be under way, or was given up.
        """
        return self.had_pointer or self.pointer is not None or bool(self.traces or self.entries or self.tree)

    @property
    def is_ahead(self) -> bool:
        """Whether the pointer can be read and nothing has seen a later one."""
        seen = (*self.traces.values(), *(entry.sequence for entry in self.entries))
        return self.pointer is not None and self.pointer.sequence >= max(seen, default=0)

    @property
    def unnamed_uploads(self) -> tuple[PublicationId, ...]:
        """Whole uploads that nothing names, the newest last: those that are newer than a usable pointer, and all of
        them where there never was a pointer; else ().

        A writer that lost or died leaves one. So does an older pointer that was put back before anything followed the
        lost one.
        """
        pointer = self.pointer
        if not self.was_published:
            return tuple(each.id for each in sorted((each.publication for each in self.found), key=_by_time))
        if pointer is None or not self.is_ahead:
            return ()
        last = max((entry.at for entry in pointer.history), default="")
        known = _merged(self.entries, pointer.history)
        named = _named(known) | {str(each.id) for each in pointer.retained}
        uploads = (each.publication for each in self.found if str(each.publication.id) not in named)
        return tuple(each.id for each in uploads if each.at > last or each.revision > pointer.highest_revision)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asks for beside a pointer that works."""

    live: str | None = None
    """A state, or STATE@ATTEMPT, in place of what the remains say."""
    hold: bool = True
    """Keep what is live until somebody has looked. Where live differs from desired, it is kept in any case: that they
    differ shows that somebody held the scope."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The pointer that goes on, what was done for it, and what could not be known."""

    pointer: Pointer
    did: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def recover(remains: Remains, writing: Writing, wish: Wish) -> Recovered | None:
    """The pointer to write; None: the one that is there is whole and ahead of every trace, or there never was one.

    Raises:
        NotFound: nothing is left of the scope, or not of the state that is to be live.
        Refused: the state that is to be live is quarantined.
        StateUnreadable: the store does not let the state be read that has to be live.
    """
    if not remains.was_published:
        if not (remains.found or remains.damaged or remains.unreadable):
            raise NotFound(f"nothing is published in {remains.scope}; `rebundle scopes` lists what there is")
        if wish.live is None:
            return None
        # Nothing was committed, so only what the operator names counts.
        named = tuple(each for each in remains.found if _is_meant(each.publication, wish.live))
        return _rebuild(replace(remains, found=named), writing, wish)
    if remains.pointer is not None and remains.is_ahead:
        return _mend(remains, remains.pointer, writing, wish)
    return _rebuild(remains, writing, wish)


def manifest_publication(manifest: Manifest, sha256: str) -> Publication:
    """What a pointer says of a publication, as far as its manifest tells."""
    return Publication(
        state=manifest.state,
        revision=manifest.revision,
        kind=manifest.kind,
        attempt=manifest.attempt,
        manifest_sha256=sha256,
        composition_digest=manifest.composition_digest,
        renderer=manifest.renderer,
        at=manifest.at,
    )


# -- a pointer that is ahead of everything


def _mend(remains: Remains, pointer: Pointer, writing: Writing, wish: Wish) -> Recovered | None:
    verified = {(each.publication.id, each.publication.manifest_sha256) for each in remains.found}
    whole = tuple(each for each in pointer.retained if (each.id, each.manifest_sha256) in verified)
    # The store hides these, and they may be whole: a collection would delete what the pointer no longer names.
    unreadable = {each.id for each in remains.unreadable}
    hidden = [each.id for each in pointer.retained if each.id in unreadable]
    gone = [each.id for each in pointer.retained if each not in whole and each.id not in unreadable]
    if wish.live is None:
        _refuse_unreadable(remains, pointer.live, "as the pointer says")
        if not gone and remains.chain_holds:
            return None
    base = pointer if remains.chain_holds else pointer.model_copy(update={"previous_chunk": None})
    base, adopted = _with_adopted(remains, base, whole, wish)
    live, told = pointer.live, "live as it was"
    if wish.live is not None or (live is not None and live.id in gone):
        live, told = _live(remains, pointer, (*whole, *adopted), wish, [])
    desired = pointer.desired
    if desired is not None and desired.id in gone:
        desired = _newest(whole)
    desired = next((each for each in adopted if not each.late), desired) or live
    moved = _id(live) != _id(pointer.live)
    parted = (moved or _id(desired) != _id(pointer.desired)) and _are_apart(pointer, live, desired)
    hold = pointer.hold or (_hold(writing) if parted or (moved and wish.hold) else None)
    there = (*(each for each in pointer.retained if each.id not in gone), *adopted)
    cut_off = () if remains.chain_holds else remains.entries
    following = protocol.recover(
        base, writing, live, desired, retained=there, hold=hold, published=adopted, cut_off=cut_off
    )
    did = (
        *([f"left out, because missing or damaged: {some(gone)}"] if gone else ()),
        *(f"kept {each.id} as it is, unread: {each.why}" for each in remains.unreadable if each.id in hidden),
        *([] if remains.chain_holds else ["cut the history off where its chunks are gone or changed"]),
        *_standing_told(following, told, wish),
    )
    return Recovered(following, did, (_DAMAGED_TOLD,) if gone else ())


def _with_adopted(
    remains: Remains, pointer: Pointer, there: Sequence[Publication], wish: Wish
) -> tuple[Pointer, tuple[Publication, ...]]:
    """The upload that is to be live and that the pointer does not retain, and the pointer that counts it."""
    if wish.live is None or any(_is_meant(each, wish.live) for each in there):
        return pointer, ()
    known = _merged(remains.entries, pointer.history)
    past = _replayed(pointer, known)
    kept = _consistent(remains, pointer, known, past, wish).kept
    uploads = [each for each in kept if _is_meant(each.publication, wish.live)]
    wanted = [each for each in uploads if str(each.publication.id) not in past.let_go]
    if not wanted:
        return pointer, ()
    upload = wanted[-1].publication
    top = pointer.highest_revision
    update = {
        "highest_revision": max(top, upload.revision),
        "folded_events": (*pointer.folded_events, *map(_fold_of, wanted[-1].events))[-MOST_FOLDED_EVENTS:],
    }
    return pointer.model_copy(update=update), (upload.model_copy(update={"late": upload.revision < top}),)


# -- a pointer that is gone, damaged or behind


def _rebuild(remains: Remains, writing: Writing, wish: Wish) -> Recovered:
    old = remains.pointer or protocol.absent(remains.scope)
    known = _merged(remains.entries, old.history)
    last = known[-1] if known else None
    past = _replayed(old, known)
    forbidden = _forbidden(remains)
    doubted = remains.unsigned.pointer if remains.unsigned else None
    consistent = _consistent(remains, old, known, past, wish)
    usable = replace(remains, found=consistent.kept)
    retained = _retained(usable, old, known, past)
    named = _named(known) | {str(each.id) for each in old.retained}
    unnamed = [each for each in retained if str(each.id) not in named]
    top = _top(remains, old, named)
    told_desired = next((each for each in retained if last is not None and str(each.id) == last.desired), None)
    newer = _newer(unnamed, top, told_desired)
    desired = newer[-1] if newer else told_desired or _newest(retained)
    committed = _committed(remains, known)
    # What no chunk has, as far as there is room for one more.
    history = tuple(each for each in known if each.sequence > remains.chunked)[1 - MOST_HISTORY :]
    base = _numbered(usable, old, top, _highest(remains)).model_copy(
        update={
            "positions": _passed(remains, old, committed),
            "folded_events": _folded(usable, old, committed, desired),
            "quarantined": tuple((past.quarantined | forbidden).values()),
            "history": history,
            "previous_chunk": remains.previous_chunk,
        }
    )
    retired = _is_retired(remains, last, newer) and wish.live is None
    if retired:
        live, desired, told = None, None, "the scope stays retired"
    else:
        live, told = _live(remains, base, retained, wish, _likely(remains, last))
        desired = desired or live
    # Also where nothing is left to be live: what comes next must not be so before somebody has looked.
    known_hold = (doubted and doubted.hold) or past.hold
    parted = _are_apart(base, live, desired)
    hold = known_hold or (_hold(writing) if parted or (wish.hold and not retired) else None)
    following = protocol.recover(
        base,
        writing,
        live,
        desired,
        retained=retained,
        hold=hold,
        published=unnamed,
        cut_off=[each for each in known if each.sequence > remains.chunked and each not in history],
    )
    did = (
        f"found {len(remains.found)} publications that verify, {len(following.retained)} of them can be rolled back to",
        *(f"left out {each.id}: {each.why}" for each in remains.damaged),
        *(f"left out {each.id}, which cannot be read: {each.why}" for each in remains.unreadable),
        *(f"left out {each}: its id or number was committed with another composition" for each in consistent.refuted),
        f"sequence {following.sequence}: {MOST_HISTORY + 1} above the highest that was found ({_highest(remains)})",
        *_standing_told(following, told, wish),
    )
    return Recovered(following, did, tuple(_unknown(remains, following, last, unnamed, consistent.undecided)))


@dataclass(frozen=True, slots=True)
class _Claim:
    """What belongs together and is never used for anything else (protocol 3)."""

    state: str
    producer: int
    composition: str

    @classmethod
    def of(cls, publication: Publication) -> "_Claim":
        return cls(publication.state, publication.revision.producer, publication.composition_digest)

    def contradicts(self, other: "_Claim") -> bool:
        return self != other and (self.state == other.state or self.producer == other.producer)


@dataclass(frozen=True, slots=True)
class _Consistent:
    """Uploads of which no two contradict each other, and those that were left out for that."""

    kept: tuple[Found, ...]
    refuted: tuple[PublicationId, ...]
    """What was committed contradicts them: they lost."""
    undecided: tuple[PublicationId, ...]
    """They contradict each other, and nothing tells which of them was committed."""


def _consistent(
    remains: Remains, old: Pointer, known: Sequence[HistoryEntry], past: "_Past", wish: Wish
) -> _Consistent:
    explicit = [each.publication for each in remains.found if each.publication.kind == "explicit"]
    certain = _not_contradicting([], _committed_claims(remains, old, known, past))
    open_ = [each for each in explicit if not _is_refuted(_Claim.of(each), certain)]
    certain += _wished_claims(open_, certain, past, wish)
    claims = [_Claim.of(each) for each in open_ if not _is_refuted(_Claim.of(each), certain)]
    accepted = {*certain, *(each for each in claims if not _is_refuted(each, claims))}
    refuted = {each.id for each in explicit if _is_refuted(_Claim.of(each), certain)}
    undecided = {each.id for each in explicit if _Claim.of(each) not in accepted} - refuted
    _refuse_refuted(remains, refuted, wish)
    return _Consistent(
        tuple(each for each in remains.found if each.publication.id not in refuted | undecided),
        tuple(each.id for each in explicit if each.id in refuted),
        tuple(each.id for each in explicit if each.id in undecided),
    )


def _committed_claims(remains: Remains, old: Pointer, known: Sequence[HistoryEntry], past: "_Past") -> Iterable[_Claim]:
    """The more certain ones first: an earlier recovery may have taken over an upload that had lost."""
    for state, producer, composition in protocol.used_up(known):
        yield _Claim(state, producer, composition)
    taken_over = {name for entry in known if entry.kind == "recover" for name in entry.published}
    committed = _named(known) - taken_over | past.let_go | ({str(remains.tree)} if remains.tree else set())
    for names in (committed, taken_over):
        for found in remains.found:
            if found.publication.kind == "explicit" and str(found.publication.id) in names:
                yield _Claim.of(found.publication)
        for each in remains.damaged:
            if each.kind == "explicit" and each.revision and each.composition and str(each.id) in names:
                yield _Claim(each.id.state, each.revision.producer, each.composition)
    yield from (_Claim.of(each) for each in old.retained if each.kind == "explicit")


def _not_contradicting(accepted: list[_Claim], claims: Iterable[_Claim]) -> list[_Claim]:
    """The accepted claims, and each of the others that contradicts none of those before it."""
    for claim in claims:
        if not _is_refuted(claim, accepted):
            accepted.append(claim)
    return accepted


def _is_refuted(claim: _Claim, others: Iterable[_Claim]) -> bool:
    return any(claim.contradicts(other) for other in others)


def _wished_claims(
    uploads: Iterable[Publication], certain: Sequence[_Claim], past: "_Past", wish: Wish
) -> tuple[_Claim, ...]:
    """What the operator says was committed.

    Raises:
        Refused: several that contradict each other fit the name.
    """
    if wish.live is None:
        return ()
    fitting = [each for each in uploads if _is_meant(each, wish.live) and str(each.id) not in past.let_go]
    claims = {_Claim.of(each): None for each in fitting}
    if len(claims) > 1 and not claims.keys() & set(certain):
        raise OperationRefused(
            f"{wish.live} fits uploads with different compositions, {some([each.id for each in fitting])}: "
            "name one of them with --live STATE@ATTEMPT"
        )
    return tuple(claims)


def _refuse_refuted(remains: Remains, refuted: Collection[PublicationId], wish: Wish) -> None:
    found = [each.publication for each in remains.found]
    fitting = [each.id for each in found if wish.live is not None and _is_meant(each, wish.live)]
    if fitting and all(each in refuted for each in fitting):
        raise OperationRefused(
            f"{some(fitting)} was never committed: its id or number belongs to another composition in "
            f"{remains.scope}; recover without --live, or name another state"
        )


def _named(known: Iterable[HistoryEntry]) -> set[str]:
    """Publications that a change says were published."""
    return {name for entry in known for name in entry.published}


def _merged(*histories: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Entries of chunks and of an older pointer, each sequence once."""
    by_sequence = {entry.sequence: entry for entries in histories for entry in entries}
    return tuple(by_sequence[sequence] for sequence in sorted(by_sequence))


@dataclass(slots=True)
class _Past:
    """What operators and collections had decided, as far as it is known."""

    hold: Hold | None
    quarantined: dict[str, Quarantine]
    pins: dict[str, bool]
    let_go: set[str]
    """Publications that were released or dropped: their objects may be about to be deleted."""


def _replayed(old: Pointer, known: Iterable[HistoryEntry]) -> _Past:
    past = _Past(
        old.hold,
        {each.composition_digest: each for each in old.quarantined},
        {str(each.id): each.pinned for each in old.retained},
        set(),
    )
    for entry in known:
        past.let_go.update(_names(entry.change.get("released")), _names(entry.change.get("dropped")))
        _replay(past, entry.change)
    return past


def _replay(past: _Past, change: Mapping[str, Any]) -> None:
    if "hold" in change:
        past.hold = _parsed(Hold, change["hold"])
    if isinstance(every := change.get("quarantined"), list | tuple):
        parsed = [_parsed(Quarantine, each) for each in every]
        past.quarantined = {each.composition_digest: each for each in parsed if each}
    if rejected := _parsed(Quarantine, change.get("quarantine")):
        past.quarantined[rejected.composition_digest] = rejected
    past.quarantined.pop(str(change.get("lifted")), None)
    if isinstance(pin := change.get("pin"), Mapping):
        past.pins[str(pin.get("publication"))] = bool(pin.get("pinned"))
    past.pins |= dict.fromkeys(_names(change.get("pinned")), True)


def _forbidden(remains: Remains) -> dict[str, Quarantine]:
    """What nobody signed may forbid: never what a signed pointer has live, so that nothing else becomes live by it, nor
    by a change what is not even there, of which there could be any number."""
    if remains.unsigned is None:
        return {}
    doubted = remains.unsigned.pointer.quarantined if remains.unsigned.pointer else ()
    live = remains.pointer.live if remains.pointer else None
    there = {each.publication.composition_digest for each in remains.found}
    there -= {live.composition_digest} if live else set()
    told = _quarantines(remains.unsigned)
    found = {composition: each for composition, each in told.items() if composition in there}
    return found | {each.composition_digest: each for each in doubted}


def _quarantines(unsigned: Unsigned) -> dict[str, Quarantine]:
    """By what changes tell."""
    told: list[object] = []
    for entry in unsigned.entries:
        every = entry.change.get("quarantined")
        told += [entry.change.get("quarantine"), *(every if isinstance(every, list | tuple) else ())]
    parsed = (each for value in told if (each := _parsed(Quarantine, value)))
    return {each.composition_digest: each for each in parsed}


def _parsed(kind: type[P], value: object) -> P | None:
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _retained(remains: Remains, old: Pointer, known: Iterable[HistoryEntry], past: _Past) -> tuple[Publication, ...]:
    """What verifies and was not let go, in commit order as far as that is known, else in the order it was stored."""
    # What a pointer retains and no change names is older than all changes that are known.
    order = {str(each.id): (0, place) for place, each in enumerate(old.retained)}
    order |= {name: (entry.sequence, place) for entry in known for place, name in enumerate(entry.published)}
    after = (max((entry.sequence for entry in known), default=0) + 1, 0)
    stored = sorted(
        (each.publication for each in remains.found if str(each.publication.id) not in past.let_go),
        key=lambda each: (order.get(str(each.id), after), each.at, str(each.id)),
    )
    told = {(each.id, each.manifest_sha256): each for each in old.retained}
    highest = Revision(producer=0)
    retained: list[Publication] = []
    for each in stored:
        late = each.kind == "explicit" and each.revision.producer < highest.producer
        highest = max(highest, each.revision)
        recorded = told.get((each.id, each.manifest_sha256), each.model_copy(update={"late": late}))
        retained.append(recorded.model_copy(update={"pinned": past.pins.get(str(each.id), False)}))
    return tuple(retained)


def _newer(unnamed: Iterable[Publication], top: Revision, told: Publication | None) -> list[Publication]:
    """What may have moved desired after the last known change, the newest last.

    Numbers only rise (protocol 3): what has a lower one than a change that is known was stored before it, and lost.
    """
    # Desired that was rendered anew keeps its number.
    anew = (told.revision, told.composition_digest) if told else None
    newer = [each for each in unnamed if each.revision > top or (each.revision, each.composition_digest) == anew]
    return sorted((each for each in newer if not each.late), key=lambda each: each.revision)


def _top(remains: Remains, old: Pointer, named: Collection[str]) -> Revision:
    """The highest number of what was committed for certain, whole or not."""
    whole = (each.publication.revision for each in remains.found if str(each.publication.id) in named)
    damaged = (each.revision for each in remains.damaged if each.revision and str(each.id) in named)
    return max([old.highest_revision, *whole, *damaged])


def _numbered(remains: Remains, old: Pointer, top: Revision, highest: int) -> Pointer:
    """Numbers that none is above which can have been seen.

    A damaged publication that no change names uses up no number: its state, sent or delivered again, would be late.
    """
    top = max([top, *(each.publication.revision for each in remains.found)])
    return old.model_copy(
        update={
            "sequence": highest + MOST_HISTORY,
            # An epoch counts collections, so no publisher can have stored anything under one as high as a sequence.
            "gc_epoch": highest + MOST_HISTORY,
            "highest_revision": top,
        }
    )


def _committed(remains: Remains, known: Iterable[HistoryEntry]) -> set[str]:
    """Publications that a batch of events committed: not by a recovery, which takes over whatever is whole."""
    taken_over: set[str] = set()
    committed = {str(remains.tree)} if remains.tree else set()
    for entry in known:
        (taken_over if entry.kind == "recover" else committed).update(entry.published)
    return committed - taken_over


def _passed(remains: Remains, old: Pointer, committed: Collection[str]) -> dict[str, int]:
    """Positions up to which every event was committed.

    Those of publications that may not have been do not count: a state before them in their batch may not even have been
    stored.
    """
    reached = _positions(each for each in remains.found if str(each.publication.id) in committed)
    return old.positions | {instance: max(at, old.positions.get(instance, at)) for instance, at in reached.items()}


def _folded(
    remains: Remains, old: Pointer, committed: Collection[str], desired: Publication | None
) -> tuple[FoldedEvent, ...]:
    """Events that need not be folded again, the newest last."""
    reached = _positions(each for each in remains.found if each.publication.id == _id(desired))
    events = [
        event
        for each in sorted(remains.found, key=lambda each: each.publication.at)
        for event in each.events
        if str(each.publication.id) in committed
        or _stands(each.publication, desired)
        # Positions of a source are folded in order, so what is desired comes of this one as well.
        or event.offset <= reached.get(event.instance, -1)
    ]
    folded = {(each.identity, each.event): each for each in (*old.folded_events, *map(_fold_of, events))}
    return tuple(folded.values())[-MOST_FOLDED_EVENTS:]


def _stands(publication: Publication, desired: Publication | None) -> bool:
    """Whether what a publication did is in the new pointer though it may never have been committed.

    An explicit state is published by the recovery itself; what came before a newer one, that one replaced. A derived
    one beside `desired` may have lost a race against it.
    """
    return publication.kind == "explicit" or (
        desired is not None and publication.revision.producer < desired.revision.producer
    )


def _positions(found: Iterable[Found]) -> dict[str, int]:
    """The last position of each source that went into any of these."""
    events = sorted((event for each in found for event in each.events), key=lambda event: event.offset)
    return {event.instance: event.offset for event in events}


def _fold_of(event: ManifestEvent) -> FoldedEvent:
    identity = Identity(event.intake, event.source, event.id)
    return FoldedEvent(identity=identity.digest[:16], event=event.digest[:16])


def _highest(remains: Remains) -> int:
    """Of all that can be seen; a publication that nothing names was one change at most."""
    seen = [*remains.traces.values(), *(entry.sequence for entry in remains.entries)]
    pointer = remains.pointer.sequence if remains.pointer else 0
    return max(*seen, pointer, len(remains.found) + len(remains.damaged) + len(remains.unreadable), 0)


# -- what is live and desired


def _likely(remains: Remains, last: HistoryEntry | None) -> list[tuple[str, PublicationId | None]]:
    """What may have been live, the likeliest first: the newer of the live tree's and the history's last word."""
    tree = ("which the live tree follows", remains.tree)
    told = ("as the last change says that is known", PublicationId.parse(last.live) if last and last.live else None)
    return [told, tree] if last is not None and last.sequence >= remains.tree_sequence else [tree, told]


def _is_retired(remains: Remains, last: HistoryEntry | None, newer: Sequence[Publication]) -> bool:
    """Nothing tells of anything after a change that left nothing live."""
    return last is not None and last.live is None and last.sequence >= remains.tree_sequence and not newer


def _live(
    remains: Remains,
    base: Pointer,
    whole: Sequence[Publication],
    wish: Wish,
    likely: Iterable[tuple[str, PublicationId | None]],
) -> tuple[Publication | None, str]:
    if wish.live is not None:
        return _wished(remains, base, whole, wish.live), "as asked"
    allowed = {each.id: each for each in whole if not base.is_quarantined(each.composition_digest)}
    for why, name in likely:
        if name is not None and name in allowed:
            return allowed[name], why
        _refuse_unreadable(remains, name, why)
    newest = _newest([each for each in allowed.values() if each.kind == "explicit"]) or _newest([*allowed.values()])
    if newest is None and remains.unreadable:
        _refuse_unreadable(remains, remains.unreadable[-1], "no other state is whole")
    return newest, "the newest that is whole" if newest else "nothing is left to be live"


def _wished(remains: Remains, base: Pointer, whole: Sequence[Publication], name: str) -> Publication:
    fitting = [each for each in whole if _is_meant(each, name)]
    if not fitting:
        hidden = next((each for each in remains.unreadable if _is_meant(each.id, name)), None)
        _refuse_unreadable(remains, hidden, "as asked")
        raise NotFound(
            f"no publication of {name} in {base.scope} is whole; "
            f"`rebundle recover {base.scope} --dry-run --reason '…'` lists what there is"
        )
    if base.is_quarantined(fitting[-1].composition_digest):
        raise OperationRefused(f"{fitting[-1].state} is quarantined: recover without --live, then lift that")
    return fitting[-1]


def _refuse_unreadable(remains: Remains, named: Publication | PublicationId | Unreadable | None, why: str) -> None:
    """Raises StateUnreadable if this has to be live and the store does not let it be read."""
    name = named if named is None or isinstance(named, PublicationId) else named.id
    for each in remains.unreadable:
        if each.id == name:
            raise StateUnreadable(
                f"{each.id} has to be live ({why}) and cannot be read: {each.why}. Nothing was written. Recover again "
                f"once it can be read, or name another state: `rebundle recover {remains.scope} --live STATE "
                "--reason '…'`"
            )


def _are_apart(base: Pointer, live: Publication | None, desired: Publication | None) -> bool:
    """Whether only a hold lets live differ from desired: no quarantine keeps desired from being live."""
    return _id(live) != _id(desired) and not (desired and base.is_quarantined(desired.composition_digest))


def _is_meant(publication: Publication | PublicationId, name: str) -> bool:
    state, _, attempt = name.partition("@")
    return publication.state == state and publication.attempt.startswith(attempt)


def _by_time(publication: Publication) -> tuple[str, str]:
    return publication.at, str(publication.id)


def _newest(retained: Sequence[Publication]) -> Publication | None:
    current = [each for each in reversed(retained) if not each.late]
    return max(current, key=lambda each: each.revision, default=None)


def _hold(writing: Writing) -> Hold:
    return Hold(by=writing.by, reason=f"recovered: {writing.reason}", at=writing.at)


def _id(publication: Publication | None) -> PublicationId | None:
    return None if publication is None else publication.id


# -- words


def _standing_told(following: Pointer, why_live: str, wish: Wish) -> Iterable[str]:
    live, desired, hold = following.live, following.desired, following.hold
    yield f"live: {live.id if live else 'nothing'} ({why_live})"
    yield f"desired: {desired.id if desired else 'nothing'}"
    yield f"held by {hold.by}: {hold.reason}; `rebundle resume {following.scope}` ends that" if hold else "not held"
    if hold and not wish.hold:
        yield "held in spite of --no-hold: " + (
            "live is not the desired state" if _id(live) != _id(desired) else "the hold was there before"
        )


def _unknown(
    remains: Remains,
    following: Pointer,
    last: HistoryEntry | None,
    unnamed: Sequence[Publication],
    undecided: Sequence[PublicationId],
) -> Iterable[str]:
    since = f"after sequence {last.sequence}" if last else "at all"
    if remains.unsigned is not None and remains.unsigned.pointer is not None:
        since = "but those of the pointer whose signature does not count"
    yield f"holds, quarantines, pins and their ends: none is known {since}"
    yield "events that settled without a publication of their own may be folded again if they are sent again"
    if remains.unsigned is not None:
        yield from _unsigned_told(remains, remains.unsigned, following)
    if unnamed:
        yield f"whether these were ever committed, and in which order: {some([each.id for each in unnamed])}"
    if undecided:
        yield (
            f"which of these was committed: {some(undecided)}. They share an id or a number and differ in their "
            f"composition, so none is kept; `rebundle recover {remains.scope} --live {undecided[0]} --reason '…'` "
            "takes the first"
        )
    if waiting := _waiting(remains, following):
        yield (
            f"whether these events were folded: {some(waiting)}. Those that still wait are folded now; what you miss "
            "then has to be sent again, under a new event id"
        )
    if remains.damaged:
        yield _DAMAGED_TOLD
    if remains.unreadable:
        hidden = [each.id for each in remains.unreadable]
        yield (
            f"what these publications hold, which cannot be read: {some(hidden)}. A collection deletes them after a "
            f"day, so make them readable before you recover; `rebundle recover {remains.scope} --live {hidden[0]} "
            "--reason '…'` takes one in afterwards"
        )


def _unsigned_told(remains: Remains, unsigned: Unsigned, following: Pointer) -> Iterable[str]:
    if remains.pointer is None:
        yield (
            "what was live, held and quarantined, and in which order: history and marker say it, and nobody signs "
            "these. Compare it with what runs"
        )
        return
    if unsigned.entries:
        yield (
            f"what {len(unsigned.entries)} changes did that no signed pointer leads to: only what they quarantine was "
            "taken over"
        )
    live = following.live
    if (
        live is not None
        and live.composition_digest in _quarantines(unsigned)
        and not following.is_quarantined(live.composition_digest)
    ):
        yield (
            f"whether {live.id} is quarantined: only an unsigned change says so, which changes nothing that is live; "
            f"`rebundle quarantine {remains.scope} {live.state} --rollback-to STATE --reason '…'` does"
        )
    if unsigned.tree is not None and unsigned.tree != _id(following.live):
        yield f"whether {unsigned.tree} is live: only the live tree's marker says so; `--live {unsigned.tree}` takes it"


def _waiting(remains: Remains, following: Pointer) -> list[str]:
    """Events that publications tell of, damaged ones too, and that the new pointer does not take for folded."""
    events = [event for stored in (remains.found, remains.damaged) for each in stored for event in each.events]
    open_ = (event for event in events if event.offset > following.positions.get(event.instance, -1))
    named = {f"{each.source} {each.id}": _fold_of(each) for each in open_}
    return [name for name, folded in named.items() if folded not in following.folded_events]
