"""Which pointer may follow which: every change of a scope as a pure function (protocol 3 and 4).

Nothing here reads or writes. Each function takes the pointer as it was read and returns the next one, with its
sequence one higher and its own entry at the end of the history; `None` stands for "nothing would change". Rules that
an operator can run into raise Refused with what would be allowed. `resolve` tells, from a pointer read back, what
became of a write whose answer was lost.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Final

from daemon.publishing.errors import OperationRefused
from daemon.publishing.grammar import time_of
from daemon.publishing.pointer import (
    CHUNK,
    MOST_FOLDED_EVENTS,
    MOST_HISTORY,
    MOST_PINNED,
    MOST_QUARANTINED,
    MOST_RETAINED,
    Chunk,
    FoldedEvent,
    HistoryEntry,
    Hold,
    Kind,
    Pointer,
    PositionChange,
    PreviousChunk,
    Publication,
    PublicationId,
    Quarantine,
    Revision,
)
from renderers.model import Scope

_JOURNAL: Final = "journal:"
"""How the instances of journals begin. Only these come and go with a file; a partition of Kafka stays."""
_POSITIONS_KEPT: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Writing:
    """One try to change a pointer: its random id, when, by whom, why."""

    write_id: str
    at: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a batch of events did to the scope's counters, beside its publications."""

    highest_revision: Revision
    positions: Mapping[str, int]
    folded_events: tuple[FoldedEvent, ...]


def absent(scope: Scope) -> Pointer:
    """What stands for the pointer of a scope that has none yet."""
    return Pointer(scope=str(scope), sequence=0, write_id="", kind="publish")


def publish(
    pointer: Pointer, writing: Writing, published: Sequence[Publication], progress: Progress | None = None
) -> Pointer:
    """All publications of a batch at once, in commit order.

    The last one that is not late becomes desired; it becomes live, too, unless there is a hold or its composition is
    quarantined (protocol 3).
    """
    moving = [each for each in published if not each.late]
    desired = moving[-1] if moving else pointer.desired
    live = pointer.live
    if moving and desired is not None and pointer.hold is None and not _is_quarantined(pointer, desired):
        live = desired
    counters: dict[str, Any] = {}
    if progress is not None:
        counters = {
            "highest_revision": max(pointer.highest_revision, progress.highest_revision),
            **_progressed(pointer, writing, progress),
        }
    return _next(
        pointer,
        writing,
        "publish",
        published=published,
        live=live,
        desired=desired,
        retained=(*pointer.retained, *published),
        **counters,
    )


def rollback(
    pointer: Pointer,
    writing: Writing,
    target: Publication,
    *,
    discard_newer: bool = False,
    progress: Progress | None = None,
) -> Pointer | None:
    """Live is `target`, held; `desired` goes on by itself, or with `discard_newer` is dropped for `target` as well.

    None: it is so already.

    Raises:
        Refused: the target's composition is quarantined.
    """
    _refuse_quarantined(pointer, target)
    held = pointer.hold is not None
    if _same(pointer.live, target) and (_same(pointer.desired, target) and not held if discard_newer else held):
        return None
    hold = None if discard_newer else _hold(writing)
    counters = {} if progress is None else _progressed(pointer, writing, progress)
    return _next(
        pointer,
        writing,
        "rollback",
        live=target,
        # A retired scope has nothing desired that could go on.
        desired=target if discard_newer or pointer.desired is None else pointer.desired,
        hold=hold,
        change={"hold": _dumped(hold), "discard_newer": discard_newer},
        **counters,
    )


def hold(pointer: Pointer, writing: Writing) -> Pointer:
    """Live stays where it is until `resume`."""
    held = _hold(writing)
    return _next(pointer, writing, "hold", hold=held, change={"hold": _dumped(held)})


def resume(pointer: Pointer, writing: Writing) -> Pointer | None:
    """Live is desired, and follows it again. Works without a hold, too: after a quarantine was lifted.

    Raises:
        Refused: desired is quarantined.
    """
    if pointer.desired is not None and _is_quarantined(pointer, pointer.desired):
        raise OperationRefused(
            f"desired state {pointer.desired.state} is quarantined: lift that first with "
            f"{_lifting(pointer, pointer.desired)}, or wait for a state with another composition"
        )
    if pointer.hold is None and _same(pointer.live, pointer.desired):
        return None
    return _next(pointer, writing, "resume", live=pointer.desired, hold=None, change={"hold": None})


def quarantine(
    pointer: Pointer, writing: Writing, target: Publication, *, rollback_to: Publication | None = None
) -> Pointer | None:
    """No publication of the target's composition becomes live by itself any more, whatever its id.

    Raises:
        Refused: it is live and there is nothing to roll back to, or that is quarantined as well; or as many are
            quarantined as a pointer has room for.
    """
    is_live = pointer.live is not None and pointer.live.composition_digest == target.composition_digest
    is_rejected = _is_quarantined(pointer, target)
    if is_rejected and not is_live:
        return None
    if is_live and rollback_to is None:
        raise OperationRefused(
            f"{target.state} is live: name the state to go back to with --rollback-to "
            f"(`rebundle states {pointer.scope}` lists them)"
        )
    digest = target.composition_digest
    rejected = Quarantine(composition_digest=digest, by=writing.by, reason=writing.reason, at=writing.at)
    if not is_rejected and len(pointer.quarantined) >= MOST_QUARANTINED:
        raise OperationRefused(
            f"{MOST_QUARANTINED} compositions of {pointer.scope} are quarantined already: lift one first "
            f"(`rebundle quarantine {pointer.scope} DIGEST --lift --reason '…'`; `rebundle status {pointer.scope}` "
            "lists them)"
        )
    change: dict[str, Any] = {"quarantine": _dumped(rejected)}
    quarantined = pointer.quarantined if is_rejected else (*pointer.quarantined, rejected)
    if rollback_to is None:
        return _next(pointer, writing, "quarantine", quarantined=quarantined, change=change)
    if rollback_to.composition_digest == target.composition_digest:
        raise OperationRefused(
            f"{rollback_to.state} has the same composition as {target.state}, which is to be quarantined: name another "
            f"state (`rebundle states {pointer.scope}` lists them)"
        )
    _refuse_quarantined(pointer, rollback_to)
    held = _hold(writing)
    change["hold"] = _dumped(held)
    return _next(pointer, writing, "quarantine", live=rollback_to, hold=held, quarantined=quarantined, change=change)


def lift_quarantine(pointer: Pointer, writing: Writing, composition_digest: str) -> Pointer | None:
    """The composition may become live again; it does so by `resume` or its next publication, not by this."""
    if not pointer.is_quarantined(composition_digest):
        return None
    left = tuple(each for each in pointer.quarantined if each.composition_digest != composition_digest)
    change = {"lifted": composition_digest}
    return _next(pointer, writing, "quarantine", quarantined=left, change=change)


def pin(pointer: Pointer, writing: Writing, target: Publication, *, pinned: bool) -> Pointer | None:
    """Retention keeps a pinned publication.

    Raises:
        Refused: as many are pinned as a pointer has room for.
    """
    if target.pinned == pinned:
        return None
    if pinned and sum(each.pinned for each in pointer.retained) >= MOST_PINNED:
        raise OperationRefused(
            f"{MOST_PINNED} publications of {pointer.scope} are pinned already: unpin one first "
            f"(`rebundle pin {pointer.scope} STATE --lift --reason '…'`; `rebundle states {pointer.scope}` lists them)"
        )
    changed = target.model_copy(update={"pinned": pinned})
    retained = tuple(changed if each.id == target.id else each for each in pointer.retained)
    return _next(
        pointer, writing, "pin", retained=retained, change={"pin": {"publication": str(target.id), "pinned": pinned}}
    )


def retire(pointer: Pointer, writing: Writing) -> Pointer | None:
    """Nothing is live or desired; nothing is deleted. A later explicit state goes on from this sequence."""
    if pointer.live is None and pointer.desired is None:
        return None
    return _next(pointer, writing, "retire", live=None, desired=None, hold=None, change={"hold": None})


def idle_journals(pointer: Pointer, now: datetime) -> frozenset[str]:
    """The journals whose position was last raised more than 90 days ago, as far as that was noted (protocol 4)."""
    since = now - _POSITIONS_KEPT
    return frozenset(each for each, noted in _known_changes(pointer).items() if time_of(noted.at) < since)


def collect(
    pointer: Pointer, writing: Writing, released: Collection[PublicationId], *, as_of: str | None = None
) -> Pointer:
    """What is released can be rolled back to no more, and may be deleted once this is committed (protocol 4).

    The higher `gc_epoch` keeps out whatever was stored before: a publisher that finds it changed makes new attempts.
    Live, desired and pinned publications stay whatever is asked. `as_of` is what the store's clock said before this
    was written: it tells who deletes later what was stored before, which no other machine's clock can.

    Positions of journals that have been idle for 90 days go, too. For a journal of which nothing was noted, the 90 days
    begin now.
    """
    now = as_of or writing.at
    idle = idle_journals(pointer, time_of(now))
    positions = {instance: offset for instance, offset in pointer.positions.items() if instance not in idle}
    begun = {each: PositionChange(offset=at, at=now) for each, at in positions.items() if each.startswith(_JOURNAL)}
    noted = {each: change for each, change in _known_changes(pointer).items() if each not in idle}
    current = _current(pointer.live, pointer.desired)
    gone = tuple(
        each for each in pointer.retained if each.id in released and not each.pinned and each.id not in current
    )
    return _next(
        pointer,
        writing,
        "gc",
        retained=tuple(each for each in pointer.retained if each not in gone),
        gc_epoch=pointer.gc_epoch + 1,
        positions=positions,
        positions_changed=begun | noted,
        change={"released": [str(each.id) for each in gone]}
        | ({"as_of": as_of} if as_of else {})
        | ({"positions_dropped": len(idle)} if idle else {}),
    )


def recover(
    remains: Pointer,
    writing: Writing,
    live: Publication | None,
    desired: Publication | None,
    *,
    retained: Sequence[Publication],
    hold: Hold | None,
    published: Sequence[Publication] = (),
    cut_off: Iterable[HistoryEntry] = (),
) -> Pointer:
    """What goes on from what `recovery` made of the remains; `published` are those that no known change names.

    Whatever operators had decided is in the change once more, as a whole: there may be no other place that tells.
    So are the ids and numbers that are used up by `cut_off`, changes that the new history does not reach.
    """
    used = {state: [producer, composition] for state, producer, composition in used_up(cut_off)}
    return _next(
        remains,
        writing,
        "recover",
        published=published,
        live=live,
        desired=desired,
        retained=tuple(retained),
        hold=hold,
        gc_epoch=remains.gc_epoch + 1,
        change={
            "hold": _dumped(hold),
            "quarantined": [_dumped(each) for each in remains.quarantined],
            "pinned": [str(each.id) for each in retained if each.pinned],
        }
        | ({"used": used} if used else {}),
    )


def used_up(entries: Iterable[HistoryEntry]) -> Iterator[tuple[str, int, str]]:
    """State, producer's number and composition of each explicit state that left the pointer for good (protocol 3)."""
    for entry in entries:
        told = entry.change.get("used")
        for state, known in told.items() if isinstance(told, dict) else ():
            match known:
                case [int(producer), str(composition)]:
                    yield state, producer, composition
                case _:
                    pass


def split_history(pointer: Pointer) -> tuple[Chunk, int] | None:
    """The chunk that has to be stored before this pointer is written, and the sequence it is stored under."""
    if len(pointer.history) <= MOST_HISTORY:
        return None
    entries = pointer.history[:CHUNK]
    return Chunk(entries=entries, previous_chunk=pointer.previous_chunk), entries[0].sequence


def without_chunk(pointer: Pointer, stored: PreviousChunk) -> Pointer:
    """The pointer once its oldest entries are stored in this chunk."""
    return pointer.model_copy(update={"history": pointer.history[CHUNK:], "previous_chunk": stored})


class Resolution(Enum):
    """What became of a write whose answer was anything but success (protocol 4, never softened 1)."""

    WON = auto()
    LOST = auto()
    NOT_APPLIED = auto()
    """Not yet: it may still arrive. Sending the identical bytes again is safe."""
    BEYOND_HISTORY = auto()
    """So much has happened since that only the chunks know."""


def resolve(read: Pointer | None, write_id: str, base: int) -> Resolution:
    """What became of the write `write_id` that was to follow sequence `base`, by the pointer as it is now."""
    if read is None:
        return Resolution.NOT_APPLIED if base == 0 else Resolution.LOST
    if read.knows_write(write_id):
        return Resolution.WON
    if read.sequence == base:
        return Resolution.NOT_APPLIED
    reaches = bool(read.history) and read.history[0].sequence <= base + 1
    return Resolution.LOST if reaches or read.previous_chunk is None else Resolution.BEYOND_HISTORY


def _next(
    pointer: Pointer,
    writing: Writing,
    kind: Kind,
    *,
    published: Sequence[Publication] = (),
    change: dict[str, Any] | None = None,
    **changed: Any,
) -> Pointer:
    """The pointer after one change, with its entry in the history and what is retained kept in step.

    What there is no more room for is named in the entry: collection leaves its objects alone for some days. So are the
    numbers of whatever left, for its manifest will be deleted.
    """
    sequence = pointer.sequence + 1
    live, desired = changed.get("live", pointer.live), changed.get("desired", pointer.desired)
    marked = _marked(changed.pop("retained", pointer.retained), live, desired, writing.at)
    retained = _kept(marked, live, desired)
    kept = {each.id for each in retained}
    dropped = [str(each.id) for each in marked if each.id not in kept]
    by_id = {each.id: each for each in retained}
    change = change or {}
    used = change.get("used", {}) | _used(each for each in (*pointer.retained, *published) if each.id not in kept)
    entry = HistoryEntry(
        sequence=sequence,
        write_id=writing.write_id,
        kind=kind,
        published=tuple(str(each.id) for each in published),
        live=str(live.id) if live else None,
        desired=str(desired.id) if desired else None,
        change=change | ({"dropped": dropped} if dropped else {}) | ({"used": used} if used else {}),
        at=writing.at,
        by=writing.by,
        reason=writing.reason,
    )
    return pointer.model_copy(
        update=changed
        | {
            "sequence": sequence,
            "write_id": writing.write_id,
            "kind": kind,
            "live": by_id[live.id] if live else None,
            "desired": by_id[desired.id] if desired else None,
            "retained": retained,
            "history": (*pointer.history, entry),
        }
    )


def _marked(
    retained: Iterable[Publication], live: Publication | None, desired: Publication | None, at: str
) -> tuple[Publication, ...]:
    """Retained publications with the time since when they are neither live nor desired."""
    current = _current(live, desired)

    def mark(publication: Publication) -> Publication:
        superseded_at = None if publication.id in current else publication.superseded_at or at
        if superseded_at == publication.superseded_at:
            return publication
        return publication.model_copy(update={"superseded_at": superseded_at})

    return tuple(map(mark, retained))


def _kept(
    retained: tuple[Publication, ...], live: Publication | None, desired: Publication | None
) -> tuple[Publication, ...]:
    """As many as a pointer holds: the oldest by commit order go first; live, desired and pinned ones never."""
    current = _current(live, desired)
    expendable = [each.id for each in retained if each.id not in current and not each.pinned]
    dropped = set(expendable[: max(0, len(retained) - MOST_RETAINED)])
    return tuple(each for each in retained if each.id not in dropped)


def _used(gone: Iterable[Publication]) -> dict[str, Any]:
    """Number and composition of explicit states whose manifests may be deleted: they stay used up (protocol 3)."""
    return {each.state: [each.revision.producer, each.composition_digest] for each in gone if each.kind == "explicit"}


def _current(*publications: Publication | None) -> set[PublicationId]:
    return {each.id for each in publications if each is not None}


def _advanced(positions: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    """Positions of one instance only ever rise (invariant 4)."""
    return {**positions, **{instance: max(offset, positions.get(instance, offset)) for instance, offset in new.items()}}


def _progressed(pointer: Pointer, writing: Writing, progress: Progress) -> dict[str, Any]:
    """How far the sources are after a batch, since when, and which events were folded last."""
    positions = _advanced(pointer.positions, progress.positions)
    changed = {
        instance: PositionChange(offset=positions[instance], at=writing.at)
        for instance in progress.positions
        if positions[instance] != pointer.positions.get(instance)
    }
    return {
        "positions": positions,
        "positions_changed": {**pointer.positions_changed, **changed},
        "folded_events": (*pointer.folded_events, *progress.folded_events)[-MOST_FOLDED_EVENTS:],
    }


def _known_changes(pointer: Pointer) -> dict[str, PositionChange]:
    """Of the journals whose position is the one that was noted."""
    return {
        instance: noted
        for instance, noted in pointer.positions_changed.items()
        if pointer.positions.get(instance) == noted.offset and instance.startswith(_JOURNAL)
    }


def _hold(writing: Writing) -> Hold:
    return Hold(by=writing.by, reason=writing.reason, at=writing.at)


def _dumped(part: Hold | Quarantine | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump(mode="json")


def _same(one: Publication | None, other: Publication | None) -> bool:
    return (one and one.id) == (other and other.id)


def _is_quarantined(pointer: Pointer, publication: Publication) -> bool:
    return pointer.is_quarantined(publication.composition_digest)


def _refuse_quarantined(pointer: Pointer, target: Publication) -> None:
    if _is_quarantined(pointer, target):
        raise OperationRefused(f"{target.state} is quarantined: lift that first with {_lifting(pointer, target)}")


def _lifting(pointer: Pointer, target: Publication) -> str:
    return f"`rebundle quarantine {pointer.scope} {target.state} --lift --reason '…'`"
