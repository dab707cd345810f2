"""Every change of a scope's pointer as a pure function (protocol 3 and 4).

No function here does I/O. A change function takes the pointer as it was read and returns the next
one: its sequence is one higher, and its history ends with an entry for the change. It returns
`None` if nothing would change. If a rule forbids what an operator asks for, it raises
OperationRefused, and the message names what is allowed.

`resolve` determines, from a pointer that was read back, whether a write with a lost answer took
effect.
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
from renderers.values import Scope

_JOURNAL: Final = "journal:"
"""Prefix of the instance ids of journals.

A journal is a file and can disappear. A partition of Kafka stays.
"""
_POSITIONS_KEPT: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Writing:
    """One try to change a pointer: its random id, the time, the actor and the reason."""

    write_id: str
    at: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """The effect of a batch of events on the scope's counters. Its publications are separate."""

    highest_revision: Revision
    positions: Mapping[str, int]
    folded_events: tuple[FoldedEvent, ...]


def absent(scope: Scope) -> Pointer:
    """The pointer that represents a scope without one: sequence 0, nothing published."""
    return Pointer(scope=str(scope), sequence=0, write_id="", kind="publish")


def publish(
    pointer: Pointer,
    writing: Writing,
    published: Sequence[Publication],
    progress: BatchProgress | None = None,
) -> Pointer:
    """Add all publications of a batch in one change, in commit order.

    The last one that is not late becomes desired. It also becomes live, unless there is a hold or
    its composition is quarantined (protocol 3).
    """
    moving = [publication for publication in published if not publication.late]
    desired = moving[-1] if moving else pointer.desired
    live = pointer.live
    if (
        moving
        and desired is not None
        and pointer.hold is None
        and not _is_quarantined(pointer, desired)
    ):
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
    progress: BatchProgress | None = None,
) -> Pointer | None:
    """Make `target` live.

    By default this sets a hold, and new publications still become desired. With `discard_newer`,
    `target` becomes desired as well, and there is no hold.

    Returns None if that is already the case.

    Raises:
        OperationRefused: the target's composition is quarantined.
    """
    _refuse_quarantined(pointer, target)
    held = pointer.hold is not None
    is_live = same(pointer.live, target)
    if is_live and held and not discard_newer:
        return None
    if is_live and not held and discard_newer and same(pointer.desired, target):
        return None
    hold = None if discard_newer else _hold(writing)
    counters = {} if progress is None else _progressed(pointer, writing, progress)
    return _next(
        pointer,
        writing,
        "rollback",
        live=target,
        # A retired scope has no desired publication to keep.
        desired=target if discard_newer or pointer.desired is None else pointer.desired,
        hold=hold,
        change={"hold": _dumped(hold), "discard_newer": discard_newer},
        **counters,
    )


def hold(pointer: Pointer, writing: Writing) -> Pointer:
    """Keep live where it is until `resume`."""
    held = _hold(writing)
    return _next(pointer, writing, "hold", hold=held, change={"hold": _dumped(held)})


def resume(pointer: Pointer, writing: Writing) -> Pointer | None:
    """Make desired live, and end the hold, so that live follows desired again.

    Without a hold it makes desired live, too: that is needed after a quarantine was lifted.

    Returns None if that is already the case.

    Raises:
        OperationRefused: desired is quarantined.
    """
    if pointer.desired is not None and _is_quarantined(pointer, pointer.desired):
        raise OperationRefused(
            f"desired state {pointer.desired.state} is quarantined: lift that first with "
            f"{_lift_command(pointer, pointer.desired)}, or wait for a state with another "
            "composition"
        )
    if pointer.hold is None and same(pointer.live, pointer.desired):
        return None
    return _next(pointer, writing, "resume", live=pointer.desired, hold=None, change={"hold": None})


def quarantine(
    pointer: Pointer,
    writing: Writing,
    target: Publication,
    *,
    rollback_to: Publication | None = None,
) -> Pointer | None:
    """Reject the target's composition: no publication of it becomes live, whatever its id.

    `rollback_to` becomes live and is held. It is required if the composition is live.

    Returns None if the composition is quarantined already and not live.

    Raises:
        OperationRefused: the composition is live and there is no `rollback_to`; `rollback_to` has
            the same composition or is quarantined; or the pointer has no room for another
            quarantine.
    """
    is_live = (
        pointer.live is not None and pointer.live.composition_digest == target.composition_digest
    )
    is_rejected = _is_quarantined(pointer, target)
    if is_rejected and not is_live:
        return None
    if is_live and rollback_to is None:
        raise OperationRefused(
            f"{target.state} is live: name the state to go back to with --rollback-to "
            f"(`rebundle states {pointer.scope}` lists them)"
        )
    digest = target.composition_digest
    rejected = Quarantine(
        composition_digest=digest, by=writing.by, reason=writing.reason, at=writing.at
    )
    if not is_rejected and len(pointer.quarantined) >= MOST_QUARANTINED:
        raise OperationRefused(
            f"{MOST_QUARANTINED} compositions of {pointer.scope} are quarantined already: lift "
            f"one first (`rebundle quarantine {pointer.scope} DIGEST --lift --reason '…'`; "
            f"`rebundle status {pointer.scope}` lists them)"
        )
    change: dict[str, Any] = {"quarantine": _dumped(rejected)}
    quarantined = pointer.quarantined if is_rejected else (*pointer.quarantined, rejected)
    if rollback_to is None:
        return _next(pointer, writing, "quarantine", quarantined=quarantined, change=change)
    if rollback_to.composition_digest == target.composition_digest:
        raise OperationRefused(
            f"{rollback_to.state} has the same composition as {target.state}, which is to be "
            f"quarantined: name another state (`rebundle states {pointer.scope}` lists them)"
        )
    _refuse_quarantined(pointer, rollback_to)
    held = _hold(writing)
    change["hold"] = _dumped(held)
    return _next(
        pointer,
        writing,
        "quarantine",
        live=rollback_to,
        hold=held,
        quarantined=quarantined,
        change=change,
    )


def lift_quarantine(pointer: Pointer, writing: Writing, composition_digest: str) -> Pointer | None:
    """Allow the composition to become live again.

    This change does not make it live: `resume` or its next publication does.

    Returns None if the composition is not quarantined.
    """
    if not pointer.is_quarantined(composition_digest):
        return None
    remaining = tuple(
        entry for entry in pointer.quarantined if entry.composition_digest != composition_digest
    )
    change = {"lifted": composition_digest}
    return _next(pointer, writing, "quarantine", quarantined=remaining, change=change)


def pin(pointer: Pointer, writing: Writing, target: Publication, *, pinned: bool) -> Pointer | None:
    """Set or remove the pin of a publication. Retention keeps a pinned publication.

    Returns None if that is already the case.

    Raises:
        OperationRefused: the pointer has no room for another pin.
    """
    if target.pinned == pinned:
        return None
    if pinned and sum(publication.pinned for publication in pointer.retained) >= MOST_PINNED:
        raise OperationRefused(
            f"{MOST_PINNED} publications of {pointer.scope} are pinned already: unpin one first "
            f"(`rebundle pin {pointer.scope} STATE --lift --reason '…'`; `rebundle states "
            f"{pointer.scope}` lists them)"
        )
    changed = target.model_copy(update={"pinned": pinned})
    retained = tuple(
        changed if publication.id == target.id else publication for publication in pointer.retained
    )
    return _next(
        pointer,
        writing,
        "pin",
        retained=retained,
        change={"pin": {"publication": str(target.id), "pinned": pinned}},
    )


def retire(pointer: Pointer, writing: Writing) -> Pointer | None:
    """Make nothing live and nothing desired, and end the hold. Nothing is deleted.

    A later explicit state continues from this sequence.

    Returns None if that is already the case.
    """
    if pointer.live is None and pointer.desired is None:
        return None
    return _next(
        pointer, writing, "retire", live=None, desired=None, hold=None, change={"hold": None}
    )


def idle_journals(pointer: Pointer, now: datetime) -> frozenset[str]:
    """The journals whose position was last raised more than 90 days ago (protocol 4).

    A journal without a recorded time is not among them.
    """
    oldest_kept = now - _POSITIONS_KEPT
    return frozenset(
        instance
        for instance, change in _known_changes(pointer).items()
        if time_of(change.at) < oldest_kept
    )


def collect(
    pointer: Pointer,
    writing: Writing,
    released: Collection[PublicationId],
    *,
    as_of: str | None = None,
) -> Pointer:
    """Release publications (protocol 4).

    A released publication cannot be rolled back to. Once this change is committed, its objects may
    be deleted. Live, desired and pinned publications are never released.

    The higher `gc_epoch` excludes every attempt stored before: a publisher that finds the epoch
    changed makes new attempts.

    `as_of` is the time of the store's clock before this write. From it, a later deletion knows
    which objects were stored before. The clock of another machine cannot show that.

    Positions of journals that have been idle for 90 days are dropped. For a journal without a
    recorded time, the 90 days begin now.
    """
    now = as_of or writing.at
    idle = idle_journals(pointer, time_of(now))
    positions = {
        instance: offset for instance, offset in pointer.positions.items() if instance not in idle
    }
    starting_now = {
        instance: PositionChange(offset=offset, at=now)
        for instance, offset in positions.items()
        if instance.startswith(_JOURNAL)
    }
    recorded = {
        instance: change
        for instance, change in _known_changes(pointer).items()
        if instance not in idle
    }
    current = _current_ids(pointer.live, pointer.desired)
    removed = tuple(
        publication
        for publication in pointer.retained
        if publication.id in released and not publication.pinned and publication.id not in current
    )
    return _next(
        pointer,
        writing,
        "gc",
        retained=tuple(
            publication for publication in pointer.retained if publication not in removed
        ),
        gc_epoch=pointer.gc_epoch + 1,
        positions=positions,
        positions_changed=starting_now | recorded,
        change={"released": [str(publication.id) for publication in removed]}
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
    """The pointer that continues after a recovery.

    `remains` is what `recovery` reconstructed. `published` are the publications that no known
    change names. `cut_off` are changes that the new history does not reach.

    The entry repeats every decision of operators in full (hold, quarantines, pins), because there
    may be no other record of them. For the same reason it repeats the ids and numbers that
    `cut_off` used up.
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
            "quarantined": [_dumped(entry) for entry in remains.quarantined],
            "pinned": [str(publication.id) for publication in retained if publication.pinned],
        }
        | ({"used": used} if used else {}),
    )


def used_up(entries: Iterable[HistoryEntry]) -> Iterator[tuple[str, int, str]]:
    """The explicit states that left the pointer permanently (protocol 3).

    Yields the id, the producer's number and the composition digest. Values of another form are
    skipped.
    """
    for entry in entries:
        used = entry.change.get("used")
        for state, value in used.items() if isinstance(used, dict) else ():
            match value:
                case [int(producer), str(composition)]:
                    yield state, producer, composition
                case _:
                    pass


def split_history(pointer: Pointer) -> tuple[Chunk, int] | None:
    """The chunk to store before this pointer is written, and the sequence that its key has.

    Returns None while the history fits into the pointer.
    """
    if len(pointer.history) <= MOST_HISTORY:
        return None
    entries = pointer.history[:CHUNK]
    return Chunk(entries=entries, previous_chunk=pointer.previous_chunk), entries[0].sequence


def without_chunk(pointer: Pointer, stored: PreviousChunk) -> Pointer:
    """The pointer without its oldest entries, which are stored in this chunk."""
    return pointer.model_copy(update={"history": pointer.history[CHUNK:], "previous_chunk": stored})


class Resolution(Enum):
    """The result of a write whose answer was not success (protocol 4, absolute rule 1)."""

    WON = auto()
    LOST = auto()
    NOT_APPLIED = auto()
    """Not applied yet: the write may still arrive. Sending the identical bytes again is safe."""
    BEYOND_HISTORY = auto()
    """Unknown: so many changes followed that only the history chunks can answer."""


def resolve(read: Pointer | None, write_id: str, base: int) -> Resolution:
    """Determine whether the write `write_id` took effect.

    `base` is the sequence that the write was to follow. `read` is the pointer as it is now.
    """
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
    """The pointer after one change, with its history and its retained publications.

    The entry names the publications that there is no more room for: collection does not delete
    their objects for some days. It also has the ids and numbers of the explicit states that left,
    because their manifests will be deleted.
    """
    sequence = pointer.sequence + 1
    live, desired = changed.get("live", pointer.live), changed.get("desired", pointer.desired)
    marked = _marked(changed.pop("retained", pointer.retained), live, desired, writing.at)
    retained = _within_limit(marked, live, desired)
    retained_ids = {publication.id for publication in retained}
    dropped = [str(publication.id) for publication in marked if publication.id not in retained_ids]
    by_id = {publication.id: publication for publication in retained}
    change = change or {}
    used = change.get("used", {}) | _used_up_by(
        publication
        for publication in (*pointer.retained, *published)
        if publication.id not in retained_ids
    )
    entry = HistoryEntry(
        sequence=sequence,
        write_id=writing.write_id,
        kind=kind,
        published=tuple(str(publication.id) for publication in published),
        live=str(live.id) if live else None,
        desired=str(desired.id) if desired else None,
        change=change
        | ({"dropped": dropped} if dropped else {})
        | ({"used": used} if used else {}),
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
    """Retained publications with the time at which they ceased to be live or desired."""
    current = _current_ids(live, desired)

    def mark(publication: Publication) -> Publication:
        superseded_at = None if publication.id in current else publication.superseded_at or at
        if superseded_at == publication.superseded_at:
            return publication
        return publication.model_copy(update={"superseded_at": superseded_at})

    return tuple(map(mark, retained))


def _within_limit(
    retained: tuple[Publication, ...], live: Publication | None, desired: Publication | None
) -> tuple[Publication, ...]:
    """At most as many publications as a pointer has room for.

    The oldest by commit order are dropped first. Live, desired and pinned ones are never dropped.
    """
    current = _current_ids(live, desired)
    expendable = [
        publication.id
        for publication in retained
        if publication.id not in current and not publication.pinned
    ]
    dropped = set(expendable[: max(0, len(retained) - MOST_RETAINED)])
    return tuple(publication for publication in retained if publication.id not in dropped)


def _used_up_by(removed: Iterable[Publication]) -> dict[str, Any]:
    """Number and composition of the explicit states among these, by state id (protocol 3).

    Their manifests may be deleted, and their ids and numbers stay used up.
    """
    return {
        publication.state: [publication.revision.producer, publication.composition_digest]
        for publication in removed
        if publication.kind == "explicit"
    }


def _current_ids(*publications: Publication | None) -> set[PublicationId]:
    return {publication.id for publication in publications if publication is not None}


def _advanced(positions: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    """The positions merged with new ones. The position of an instance never falls (protocol 2)."""
    return {
        **positions,
        **{
            instance: max(offset, positions.get(instance, offset))
            for instance, offset in new.items()
        },
    }


def _progressed(pointer: Pointer, writing: Writing, progress: BatchProgress) -> dict[str, Any]:
    """Positions after a batch, the times at which they were raised, and the events folded last."""
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
    """The recorded changes of journals, where the record is about the present position."""
    return {
        instance: change
        for instance, change in pointer.positions_changed.items()
        if pointer.positions.get(instance) == change.offset and instance.startswith(_JOURNAL)
    }


def _hold(writing: Writing) -> Hold:
    return Hold(by=writing.by, reason=writing.reason, at=writing.at)


def _dumped(part: Hold | Quarantine | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump(mode="json")


def same(one: Publication | None, other: Publication | None) -> bool:
    """Whether both are the same publication, or both are absent."""
    return (one and one.id) == (other and other.id)


def live_instead_of(pointer: Pointer, expected: str | None) -> str | None:
    """What is live instead of the state `expected`; None if that state is live.

    The rule for every rollback that names the state it expects. Without an expected state, None.
    """
    if expected is None or (pointer.live is not None and pointer.live.state == expected):
        return None
    return pointer.live.state if pointer.live is not None else "nothing"


def _is_quarantined(pointer: Pointer, publication: Publication) -> bool:
    return pointer.is_quarantined(publication.composition_digest)


def _refuse_quarantined(pointer: Pointer, target: Publication) -> None:
    if _is_quarantined(pointer, target):
        raise OperationRefused(
            f"{target.state} is quarantined: lift that first with {_lift_command(pointer, target)}"
        )


def _lift_command(pointer: Pointer, target: Publication) -> str:
    return f"`rebundle quarantine {pointer.scope} {target.state} --lift --reason '…'`"
