"""Makes a usable pointer from what is left of a scope (protocol 4, `recover`). Pure.

A *trace* is a sequence number outside of the pointer: in a history chunk, the live tree's marker, a
tag of its files, freshness.json, a damaged pointer, or the memory of this machine. Two cases:

* A pointer whose sequence is at least that of every trace is *repaired*: it loses the publications
  that are no longer in the bucket.
* A pointer that is gone, damaged or older than a trace is *rebuilt*. The sources are the
  publications that verify, the history's chunks, an older pointer if one was restored, and the live
  tree.

The sequence of a rebuilt pointer is above every sequence that can have been read. It exceeds all
traces by the number of changes that one pointer can hold, because so many may be in no chunk yet.
What remains unknown is reported, not guessed. `recovery` gathers the remains.

Id, number and composition of an explicit state belong together (protocol 3). Uploads that lost a
race are in the bucket as well. Of uploads that contradict one another, only one can have been
committed, so only that one is retained.

An event counts as folded only if it belongs to a publication that verifies, and whose effect is in
the new pointer. A publication that was stored in part may never have been committed, and its event
may still wait. Folding an event again does no harm, but an event that is skipped is lost.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from daemon.publishing import protocol
from daemon.publishing.errors import NotFound, OperationRefused, StateUnreadable
from daemon.publishing.maintenance import recovery_report
from daemon.publishing.maintenance.recovery_remains import (
    Remains,
    UnreadablePublication,
    UntrustedPublication,
    VerifiedPublication,
    fold_of,
    merged,
    named_publications,
    parsed,
)
from daemon.publishing.pointer import (
    MOST_FOLDED_EVENTS,
    MOST_HISTORY,
    FoldedEvent,
    HistoryEntry,
    Hold,
    Pointer,
    Publication,
    PublicationId,
    Quarantine,
    Revision,
)
from daemon.publishing.protocol import Writing
from daemon.publishing.wording import some


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What the operator asks for in addition to a usable pointer."""

    live: str | None = None
    """A state, or STATE@ATTEMPT, instead of the one that the remains show."""
    hold: bool = True
    """Hold live until an operator has checked it.

    If live differs from desired, it is held in any case: the difference shows that the scope was
    held before.
    """
    allow_empty: bool = False
    """Leave nothing live, although the trust policy refuses states that may be whole."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The usable pointer, what was done to make it, and what remains unknown."""

    pointer: Pointer
    steps: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def recover(remains: Remains, writing: Writing, options: RecoveryOptions) -> Recovered | None:
    """The pointer to write.

    None: the present one is whole and ahead of every trace, or there never was one.

    Raises:
        NotFound: nothing is left of the scope, or of the state that is to be live.
        OperationRefused: the state that is to be live is quarantined.
        StateUnreadable: the state that has to be live cannot be read, or is refused by the policy.
    """
    if not remains.was_published:
        if not (remains.found or remains.damaged or remains.unreadable):
            raise NotFound(
                f"nothing is published in {remains.scope}; `rebundle scopes` lists what there is"
            )
        if options.live is None:
            return None
        # Nothing was committed, so only what the operator names counts.
        named = tuple(
            found for found in remains.found if _matches_name(found.publication, options.live)
        )
        return _rebuild(replace(remains, found=named), writing, options)
    if remains.pointer is not None and remains.pointer_is_current:
        return _repair(remains, remains.pointer, writing, options)
    return _rebuild(remains, writing, options)


# -- a pointer that is ahead of every trace


def _repair(
    remains: Remains, pointer: Pointer, writing: Writing, options: RecoveryOptions
) -> Recovered | None:
    verified = {
        (found.publication.id, found.publication.manifest_sha256) for found in remains.found
    }
    whole = tuple(
        publication
        for publication in pointer.retained
        if (publication.id, publication.manifest_sha256) in verified
    )
    # These cannot be read, but they may be whole. They stay in the pointer, because a collection
    # would delete them otherwise.
    unreadable = {upload.id for upload in remains.unreadable}
    hidden = [publication.id for publication in pointer.retained if publication.id in unreadable]
    gone = [
        publication.id
        for publication in pointer.retained
        if publication not in whole and publication.id not in unreadable
    ]
    if options.live is None:
        _refuse_unreadable(remains, pointer.live, "as the pointer says")
        if not gone and remains.chain_holds:
            return None
    base = pointer if remains.chain_holds else pointer.model_copy(update={"previous_chunk": None})
    base, adopted = _with_adopted(remains, base, whole, options)
    live, why_live = pointer.live, "live as it was"
    if options.live is not None or (live is not None and live.id in gone):
        live, why_live = _live(remains, pointer, (*whole, *adopted), options, [])
    desired = pointer.desired
    if desired is not None and desired.id in gone:
        desired = _newest(whole)
    desired = next((upload for upload in adopted if not upload.late), desired) or live
    moved = not protocol.same(live, pointer.live)
    diverged = (moved or not protocol.same(desired, pointer.desired)) and _only_a_hold_separates(
        pointer, live, desired
    )
    hold = pointer.hold or (_hold(writing) if diverged or (moved and options.hold) else None)
    there = (
        *(publication for publication in pointer.retained if publication.id not in gone),
        *adopted,
    )
    cut_off = () if remains.chain_holds else remains.entries
    following = protocol.recover(
        base, writing, live, desired, retained=there, hold=hold, published=adopted, cut_off=cut_off
    )
    steps = (
        *([f"left out, because missing or damaged: {some(gone)}"] if gone else ()),
        *(
            f"kept {upload.id} as it is, unread: {upload.reason}"
            for upload in remains.unreadable
            if upload.id in hidden
        ),
        *(
            []
            if remains.chain_holds
            else ["cut the history off where its chunks are gone or changed"]
        ),
        *recovery_report.result_lines(following, why_live, asked_to_hold=options.hold),
    )
    return Recovered(following, steps, (recovery_report.DAMAGED_NOTE,) if gone else ())


def _with_adopted(
    remains: Remains, pointer: Pointer, there: Sequence[Publication], options: RecoveryOptions
) -> tuple[Pointer, tuple[Publication, ...]]:
    """Add the upload that is to be live, if the pointer does not retain it.

    Returns the pointer with its number and events, and the added publication.
    """
    if options.live is None or any(
        _matches_name(publication, options.live) for publication in there
    ):
        return pointer, ()
    known = merged(remains.entries, pointer.history)
    past = _replayed(pointer, known)
    kept = _consistent(remains, pointer, known, past, options).kept
    uploads = [found for found in kept if _matches_name(found.publication, options.live)]
    wanted = [
        found for found in uploads if str(found.publication.id) not in past.released_or_dropped
    ]
    if not wanted:
        return pointer, ()
    upload = wanted[-1].publication
    top = pointer.highest_revision
    update = {
        "highest_revision": max(top, upload.revision),
        "folded_events": (*pointer.folded_events, *map(fold_of, wanted[-1].events))[
            -MOST_FOLDED_EVENTS:
        ],
    }
    return pointer.model_copy(update=update), (
        upload.model_copy(update={"late": upload.revision < top}),
    )


# -- a pointer that is gone, damaged or behind


def _rebuild(remains: Remains, writing: Writing, options: RecoveryOptions) -> Recovered:
    old = remains.pointer or protocol.absent(remains.scope)
    known = merged(remains.entries, old.history)
    last = known[-1] if known else None
    past = _replayed(old, known)
    unsigned_quarantines = _unsigned_quarantines(remains)
    unsigned_pointer = remains.unsigned.pointer if remains.unsigned else None
    consistent = _consistent(remains, old, known, past, options)
    usable = replace(remains, found=consistent.kept)
    retained = _retained(usable, old, known, past)
    named = named_publications(known) | {str(publication.id) for publication in old.retained}
    unnamed = [publication for publication in retained if str(publication.id) not in named]
    top = _top(remains, old, named)
    recorded_desired = next(
        (
            publication
            for publication in retained
            if last is not None and str(publication.id) == last.desired
        ),
        None,
    )
    newer = _newer(unnamed, top, recorded_desired)
    desired = newer[-1] if newer else recorded_desired or _newest(retained)
    committed = _committed(remains, known)
    # The entries that no chunk has. There must be room for the recovery's own entry.
    history = tuple(entry for entry in known if entry.sequence > remains.chunked)[
        1 - MOST_HISTORY :
    ]
    base = _numbered(usable, old, top, _highest(remains)).model_copy(
        update={
            "positions": _passed(remains, old, committed),
            "folded_events": _folded(usable, old, committed, desired),
            "quarantined": tuple((past.quarantined | unsigned_quarantines).values()),
            "history": history,
            "previous_chunk": remains.previous_chunk,
        }
    )
    retired = _is_retired(remains, last, newer) and options.live is None
    if retired:
        live, desired, why_live = None, None, "the scope stays retired"
    else:
        live, why_live = _live(remains, base, retained, options, _live_candidates(remains, last))
        desired = desired or live
    # Also if nothing is left to be live: the next publication must not become live before an
    # operator has checked.
    known_hold = (unsigned_pointer and unsigned_pointer.hold) or past.hold
    diverged = _only_a_hold_separates(base, live, desired)
    hold = known_hold or (_hold(writing) if diverged or (options.hold and not retired) else None)
    following = protocol.recover(
        base,
        writing,
        live,
        desired,
        retained=retained,
        hold=hold,
        published=unnamed,
        cut_off=[
            entry for entry in known if entry.sequence > remains.chunked and entry not in history
        ],
    )
    steps = (
        *recovery_report.rebuilt_lines(remains, following, consistent.refuted),
        (
            f"sequence {following.sequence}: {MOST_HISTORY + 1} above the highest that was found "
            f"({_highest(remains)})"
        ),
        *recovery_report.result_lines(following, why_live, asked_to_hold=options.hold),
    )
    return Recovered(
        following,
        steps,
        tuple(
            recovery_report.unknown_lines(remains, following, last, unnamed, consistent.undecided)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Claim:
    """A state id, a number and a composition that belong together exclusively (protocol 3)."""

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
    """Uploads of which no two contradict one another, and those left out for a contradiction."""

    kept: tuple[VerifiedPublication, ...]
    refuted: tuple[PublicationId, ...]
    """They contradict a committed publication, so they lost a race."""
    undecided: tuple[PublicationId, ...]
    """They contradict one another, and it is unknown which of them was committed."""


def _consistent(
    remains: Remains,
    old: Pointer,
    known: Sequence[HistoryEntry],
    past: "_Past",
    options: RecoveryOptions,
) -> _Consistent:
    explicit = [
        found.publication for found in remains.found if found.publication.kind == "explicit"
    ]
    certain = _not_contradicting([], _committed_claims(remains, old, known, past))
    unrefuted = [
        publication for publication in explicit if not _is_refuted(_Claim.of(publication), certain)
    ]
    certain += _requested_claims(unrefuted, certain, past, options)
    claims = [
        _Claim.of(publication)
        for publication in unrefuted
        if not _is_refuted(_Claim.of(publication), certain)
    ]
    accepted = {*certain, *(claim for claim in claims if not _is_refuted(claim, claims))}
    refuted = {
        publication.id for publication in explicit if _is_refuted(_Claim.of(publication), certain)
    }
    undecided = {
        publication.id for publication in explicit if _Claim.of(publication) not in accepted
    } - refuted
    _refuse_refuted(remains, refuted, options)
    return _Consistent(
        tuple(found for found in remains.found if found.publication.id not in refuted | undecided),
        tuple(publication.id for publication in explicit if publication.id in refuted),
        tuple(publication.id for publication in explicit if publication.id in undecided),
    )


def _committed_claims(
    remains: Remains, old: Pointer, known: Sequence[HistoryEntry], past: "_Past"
) -> Iterable[_Claim]:
    """The claims of committed publications, the more certain ones first.

    What only a recovery published is less certain: it may have adopted an upload that had lost.
    """
    for state, producer, composition in protocol.used_up(known):
        yield _Claim(state, producer, composition)
    adopted = {name for entry in known if entry.kind == "recover" for name in entry.published}
    followed_by_the_tree = {str(remains.tree)} if remains.tree else set()
    committed = (
        (named_publications(known) - adopted) | past.released_or_dropped | followed_by_the_tree
    )
    for names in (committed, adopted):
        for found in remains.found:
            if found.publication.kind == "explicit" and str(found.publication.id) in names:
                yield _Claim.of(found.publication)
        for damaged in remains.damaged:
            if (
                damaged.kind == "explicit"
                and damaged.revision
                and damaged.composition
                and str(damaged.id) in names
            ):
                yield _Claim(damaged.id.state, damaged.revision.producer, damaged.composition)
    yield from (
        _Claim.of(publication) for publication in old.retained if publication.kind == "explicit"
    )


def _not_contradicting(accepted: list[_Claim], claims: Iterable[_Claim]) -> list[_Claim]:
    """The accepted claims, and every other claim that contradicts none of those before it."""
    for claim in claims:
        if not _is_refuted(claim, accepted):
            accepted.append(claim)
    return accepted


def _is_refuted(claim: _Claim, others: Iterable[_Claim]) -> bool:
    return any(claim.contradicts(other) for other in others)


def _requested_claims(
    uploads: Iterable[Publication],
    certain: Sequence[_Claim],
    past: "_Past",
    options: RecoveryOptions,
) -> tuple[_Claim, ...]:
    """The claim of the state that the operator names, which counts as committed.

    Raises:
        OperationRefused: the name fits several uploads that contradict one another.
    """
    if options.live is None:
        return ()
    fitting = [
        upload
        for upload in uploads
        if _matches_name(upload, options.live) and str(upload.id) not in past.released_or_dropped
    ]
    claims = {_Claim.of(upload): None for upload in fitting}
    if len(claims) > 1 and not claims.keys() & set(certain):
        raise OperationRefused(
            f"{options.live} matches uploads with different compositions, "
            f"{some([upload.id for upload in fitting])}: name one of them with --live "
            "STATE@ATTEMPT"
        )
    return tuple(claims)


def _refuse_refuted(
    remains: Remains, refuted: Collection[PublicationId], options: RecoveryOptions
) -> None:
    uploads = [found.publication for found in remains.found]
    fitting = [
        upload.id
        for upload in uploads
        if options.live is not None and _matches_name(upload, options.live)
    ]
    if fitting and all(name in refuted for name in fitting):
        raise OperationRefused(
            f"{some(fitting)} was never committed: its id or number belongs to another "
            f"composition in {remains.scope}; recover without --live, or name another state"
        )


@dataclass(slots=True)
class _Past:
    """Earlier decisions of operators and collections, as far as they are known."""

    hold: Hold | None
    quarantined: dict[str, Quarantine]
    pins: dict[str, bool]
    released_or_dropped: set[str]
    """Publications that were released or dropped. Their objects may be deleted at any time."""


def _replayed(old: Pointer, known: Iterable[HistoryEntry]) -> _Past:
    past = _Past(
        old.hold,
        {quarantine.composition_digest: quarantine for quarantine in old.quarantined},
        {str(publication.id): publication.pinned for publication in old.retained},
        set(),
    )
    for entry in known:
        past.released_or_dropped.update(
            _names(entry.change.get("released")), _names(entry.change.get("dropped"))
        )
        _replay(past, entry.change)
    return past


def _replay(past: _Past, change: Mapping[str, Any]) -> None:
    if "hold" in change:
        past.hold = parsed(Hold, change["hold"])
    if isinstance(values := change.get("quarantined"), list | tuple):
        listed = [parsed(Quarantine, value) for value in values]
        past.quarantined = {
            quarantine.composition_digest: quarantine for quarantine in listed if quarantine
        }
    if rejected := parsed(Quarantine, change.get("quarantine")):
        past.quarantined[rejected.composition_digest] = rejected
    past.quarantined.pop(str(change.get("lifted")), None)
    if isinstance(pin := change.get("pin"), Mapping):
        past.pins[str(pin.get("publication"))] = bool(pin.get("pinned"))
    past.pins |= dict.fromkeys(_names(change.get("pinned")), True)


def _unsigned_quarantines(remains: Remains) -> dict[str, Quarantine]:
    """The quarantines from unsigned documents.

    They never apply to what a signed pointer has live, so that an unsigned document cannot cause
    another publication to become live. Quarantines from unsigned changes apply only to compositions
    that are in the bucket; otherwise there could be any number of them.
    """
    if remains.unsigned is None:
        return {}
    unverified = remains.unsigned.pointer.quarantined if remains.unsigned.pointer else ()
    live = remains.pointer.live if remains.pointer else None
    there = {found.publication.composition_digest for found in remains.found}
    there -= {live.composition_digest} if live else set()
    quarantines = remains.unsigned.quarantines
    present = {
        composition: quarantine
        for composition, quarantine in quarantines.items()
        if composition in there
    }
    return present | {quarantine.composition_digest: quarantine for quarantine in unverified}


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _retained(
    remains: Remains, old: Pointer, known: Iterable[HistoryEntry], past: _Past
) -> tuple[Publication, ...]:
    """The publications that verify and were neither released nor dropped.

    They are in commit order as far as it is known, and then in the order in which they were stored.
    """
    # A publication that the pointer retains and no change names is older than all known changes.
    order = {str(publication.id): (0, place) for place, publication in enumerate(old.retained)}
    order |= {
        name: (entry.sequence, place)
        for entry in known
        for place, name in enumerate(entry.published)
    }
    after = (max((entry.sequence for entry in known), default=0) + 1, 0)
    stored = sorted(
        (
            found.publication
            for found in remains.found
            if str(found.publication.id) not in past.released_or_dropped
        ),
        key=lambda publication: (
            order.get(str(publication.id), after),
            publication.at,
            str(publication.id),
        ),
    )
    recorded_by_id = {
        (publication.id, publication.manifest_sha256): publication for publication in old.retained
    }
    highest = Revision(producer=0)
    retained: list[Publication] = []
    for publication in stored:
        late = publication.kind == "explicit" and publication.revision.producer < highest.producer
        highest = max(highest, publication.revision)
        recorded = recorded_by_id.get(
            (publication.id, publication.manifest_sha256),
            publication.model_copy(update={"late": late}),
        )
        retained.append(
            recorded.model_copy(update={"pinned": past.pins.get(str(publication.id), False)})
        )
    return tuple(retained)


def _newer(
    unnamed: Iterable[Publication], top: Revision, recorded_desired: Publication | None
) -> list[Publication]:
    """Publications that may have become desired after the last known change, the newest last.

    Numbers only rise (protocol 3). A publication with a lower number than a known change was stored
    before that change, and lost.
    """
    # A desired state that was rendered again keeps its number.
    rendered_again = (
        (recorded_desired.revision, recorded_desired.composition_digest)
        if recorded_desired
        else None
    )
    newer = [
        publication
        for publication in unnamed
        if publication.revision > top
        or (publication.revision, publication.composition_digest) == rendered_again
    ]
    return sorted(
        (publication for publication in newer if not publication.late),
        key=lambda publication: publication.revision,
    )


def _top(remains: Remains, old: Pointer, named: Collection[str]) -> Revision:
    """The highest number of the publications that certainly were committed, whole or not."""
    whole = (
        found.publication.revision for found in remains.found if str(found.publication.id) in named
    )
    damaged = (
        damage.revision for damage in remains.damaged if damage.revision and str(damage.id) in named
    )
    return max([old.highest_revision, *whole, *damaged])


def _numbered(remains: Remains, old: Pointer, top: Revision, highest: int) -> Pointer:
    """The pointer with numbers at least as high as every number that can have been read.

    A damaged publication that no change names does not count. Otherwise its state would be late
    when it is sent or delivered again.
    """
    top = max([top, *(found.publication.revision for found in remains.found)])
    return old.model_copy(
        update={
            "sequence": highest + MOST_HISTORY,
            # An epoch counts collections. So no publisher can have stored anything under an epoch
            # as high as a sequence.
            "gc_epoch": highest + MOST_HISTORY,
            "highest_revision": top,
        }
    )


def _committed(remains: Remains, known: Iterable[HistoryEntry]) -> set[str]:
    """Publications that a batch of events committed.

    Those of a recovery do not count: a recovery adopts every whole publication.
    """
    adopted: set[str] = set()
    committed = {str(remains.tree)} if remains.tree else set()
    for entry in known:
        (adopted if entry.kind == "recover" else committed).update(entry.published)
    return committed - adopted


def _passed(remains: Remains, old: Pointer, committed: Collection[str]) -> dict[str, int]:
    """Positions up to which every event was committed.

    Positions of publications that were perhaps not committed do not count. An earlier state of the
    same batch may not even have been stored.
    """
    reached = _positions(found for found in remains.found if str(found.publication.id) in committed)
    return old.positions | {
        instance: max(at, old.positions.get(instance, at)) for instance, at in reached.items()
    }


def _folded(
    remains: Remains, old: Pointer, committed: Collection[str], desired: Publication | None
) -> tuple[FoldedEvent, ...]:
    """Events that do not need to be folded again, the newest last."""
    reached = _positions(
        found for found in remains.found if protocol.same(found.publication, desired)
    )
    events = [
        event
        for found in sorted(remains.found, key=lambda found: found.publication.at)
        for event in found.events
        if str(found.publication.id) in committed
        or _is_included(found.publication, desired)
        # The positions of a source are folded in order, so desired includes this event, too.
        or event.offset <= reached.get(event.instance, -1)
    ]
    folded = {
        (event.identity, event.event): event
        for event in (*old.folded_events, *map(fold_of, events))
    }
    return tuple(folded.values())[-MOST_FOLDED_EVENTS:]


def _is_included(publication: Publication, desired: Publication | None) -> bool:
    """Whether the new pointer has the effect of a publication that perhaps was never committed.

    The recovery itself publishes an explicit state. An explicit state with a higher number
    replaced everything before it. A derived state beside `desired` may have lost a race against it.
    """
    return publication.kind == "explicit" or (
        desired is not None and publication.revision.producer < desired.revision.producer
    )


def _positions(found: Iterable[VerifiedPublication]) -> dict[str, int]:
    """The last position by source instance among the events of these publications."""
    events = sorted(
        (event for upload in found for event in upload.events), key=lambda event: event.offset
    )
    return {event.instance: event.offset for event in events}


def _highest(remains: Remains) -> int:
    """The highest sequence that is recorded or may have been reached.

    The number of publications counts, too: one that no change names was at most one change.
    """
    seen = [*remains.traces.values(), *(entry.sequence for entry in remains.entries)]
    pointer = remains.pointer.sequence if remains.pointer else 0
    return max(
        *seen, pointer, len(remains.found) + len(remains.damaged) + len(remains.unreadable), 0
    )


# -- what is live and desired


def _live_candidates(
    remains: Remains, last: HistoryEntry | None
) -> list[tuple[str, PublicationId | None]]:
    """What may have been live, with the reasons, the likeliest first.

    The candidates are from the live tree and from the last change. The newer of the two is first.
    """
    tree = ("which the live tree follows", remains.tree)
    change = (
        "by the last known change",
        PublicationId.parse(last.live) if last and last.live else None,
    )
    return (
        [change, tree]
        if last is not None and last.sequence >= remains.tree_sequence
        else [tree, change]
    )


def _is_retired(remains: Remains, last: HistoryEntry | None, newer: Sequence[Publication]) -> bool:
    """Whether the last change left nothing live, and no trace of a later publication exists."""
    return (
        last is not None
        and last.live is None
        and last.sequence >= remains.tree_sequence
        and not newer
    )


def _live(
    remains: Remains,
    base: Pointer,
    whole: Sequence[Publication],
    options: RecoveryOptions,
    candidates: Iterable[tuple[str, PublicationId | None]],
) -> tuple[Publication | None, str]:
    if options.live is not None:
        return _requested(remains, base, whole, options.live), "as asked"
    allowed = {
        publication.id: publication
        for publication in whole
        if not base.is_quarantined(publication.composition_digest)
    }
    for why, name in candidates:
        if name is not None and name in allowed:
            return allowed[name], why
        _refuse_unreadable(remains, name, why)
    newest = _newest(
        [publication for publication in allowed.values() if publication.kind == "explicit"]
    ) or _newest([*allowed.values()])
    if newest is None and remains.unreadable:
        _refuse_unreadable(remains, remains.unreadable[-1], "no other state is whole")
    if newest is None and not options.allow_empty:
        _refuse_untrusted(remains)
    return newest, "the newest that is whole" if newest else "nothing is left to be live"


def _requested(
    remains: Remains, base: Pointer, whole: Sequence[Publication], name: str
) -> Publication:
    fitting = [publication for publication in whole if _matches_name(publication, name)]
    if not fitting:
        hidden = next(
            (unreadable for unreadable in remains.unreadable if _matches_name(unreadable.id, name)),
            None,
        )
        _refuse_unreadable(remains, hidden, "as asked")
        raise NotFound(
            f"no publication of {name} in {base.scope} is whole; "
            f"`rebundle recover {base.scope} --dry-run --reason '…'` lists what there is"
        )
    if base.is_quarantined(fitting[-1].composition_digest):
        raise OperationRefused(
            f"{fitting[-1].state} is quarantined: recover without --live, then lift that"
        )
    return fitting[-1]


def _refuse_unreadable(
    remains: Remains, named: Publication | PublicationId | UnreadablePublication | None, why: str
) -> None:
    """Raise StateUnreadable if the store refuses to read this publication, which has to be live."""
    name = named if named is None or isinstance(named, PublicationId) else named.id
    for hidden in remains.unreadable:
        if hidden.id == name:
            raise StateUnreadable(
                f"{hidden.id} has to be live ({why}) and cannot be read: {hidden.reason}. Nothing "
                "was written. Recover again once it can be read, or name another state: "
                f"`rebundle recover {remains.scope} --live STATE --reason '…'`"
            )


def _refuse_untrusted(remains: Remains) -> None:
    """Raise StateUnreadable if only states that the trust policy refuses could be live."""
    untrusted = [
        damaged for damaged in remains.damaged if isinstance(damaged, UntrustedPublication)
    ]
    if untrusted:
        raise StateUnreadable(
            f"nothing would be live in {remains.scope}: the trust policy refuses "
            f"{some([damaged.id for damaged in untrusted])}. Nothing was written. If these are "
            "from before the signing key: set signing.key_file, unset trust.policy, and run "
            f"`rebundle republish {remains.scope} --reason 'first signature'` (docs/signing.md). "
            "To write a pointer without them, so that a collection deletes them: --allow-empty"
        )


def _only_a_hold_separates(
    base: Pointer, live: Publication | None, desired: Publication | None
) -> bool:
    """Whether live differs from desired and only a hold can be the reason.

    A quarantine of desired would be another reason.
    """
    return not protocol.same(live, desired) and not (
        desired and base.is_quarantined(desired.composition_digest)
    )


def _matches_name(publication: Publication | PublicationId, name: str) -> bool:
    state, _, attempt = name.partition("@")
    return publication.state == state and publication.attempt.startswith(attempt)


def _newest(retained: Sequence[Publication]) -> Publication | None:
    current = [publication for publication in reversed(retained) if not publication.late]
    return max(current, key=lambda publication: publication.revision, default=None)


def _hold(writing: Writing) -> Hold:
    return Hold(by=writing.by, reason=f"recovered: {writing.reason}", at=writing.at)
