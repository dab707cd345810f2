"""What a recovery reports to the operator. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from daemon.publishing import protocol
from daemon.publishing.maintenance.recovery_remains import Remains, Unsigned, fold_of
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication, PublicationId
from daemon.publishing.wording import some

DAMAGED_NOTE: Final = (
    "what the damaged publications held: a collection (`gc`, or the daemon's) deletes what is left "
    "of them. If the bucket keeps versions, restore their objects before you recover"
)


def rebuilt_lines(
    remains: Remains, following: Pointer, refuted: Iterable[PublicationId]
) -> Iterable[str]:
    """Which publications a rebuilt pointer has, and which ones not.

    `refuted`: uploads that cannot have been committed.
    """
    yield (
        f"found {len(remains.found)} publications that verify, {len(following.retained)} of them "
        "can be rolled back to"
    )
    for damaged in remains.damaged:
        yield f"left out {damaged.id}: {damaged.reason}"
    for unreadable in remains.unreadable:
        yield f"left out {unreadable.id}, which cannot be read: {unreadable.reason}"
    for upload in refuted:
        yield f"left out {upload}: its id or number was committed with another composition"


def result_lines(following: Pointer, why_live: str, *, asked_to_hold: bool) -> Iterable[str]:
    """What is live and desired after a recovery, and whether it is held.

    `asked_to_hold`: without --no-hold.
    """
    live, desired, hold = following.live, following.desired, following.hold
    yield f"live: {live.id if live else 'nothing'} ({why_live})"
    yield f"desired: {desired.id if desired else 'nothing'}"
    yield (
        f"held by {hold.by}: {hold.reason}; `rebundle resume {following.scope}` ends that"
        if hold
        else "not held"
    )
    if hold and not asked_to_hold:
        yield "held in spite of --no-hold: " + (
            "live is not the desired state"
            if not protocol.same(live, desired)
            else "the hold was there before"
        )


def unknown_lines(
    remains: Remains,
    following: Pointer,
    last: HistoryEntry | None,
    unnamed: Sequence[Publication],
    undecided: Sequence[PublicationId],
) -> Iterable[str]:
    """What a rebuilt pointer cannot contain, and how to find or repair it.

    `last`: the last known change. `unnamed`: publications that no change names. `undecided`:
    publications of which only one can have been committed.
    """
    since = f"after sequence {last.sequence} are not known" if last else "are not known"
    if remains.unsigned is not None and remains.unsigned.pointer is not None:
        since = "are known only from the pointer whose signature is not accepted"
    yield f"holds, quarantines, pins and their ends {since}"
    yield (
        "events that settled without a publication of their own may be folded again if they "
        "are sent again"
    )
    if remains.unsigned is not None:
        yield from _unsigned_lines(remains, remains.unsigned, following)
    if unnamed:
        yield (
            "whether these were ever committed, and in which order: "
            f"{some([upload.id for upload in unnamed])}"
        )
    if undecided:
        yield (
            f"which of these was committed: {some(undecided)}. They share an id or a number and "
            f"differ in their composition, so none is kept; `rebundle recover {remains.scope} "
            f"--live {undecided[0]} --reason '…'` takes the first"
        )
    if waiting := _waiting(remains, following):
        yield (
            f"whether these events were folded: {some(waiting)}. Those that still wait are folded "
            "now; what is missing then has to be sent again, under a new event id"
        )
    if remains.damaged:
        yield DAMAGED_NOTE
    if remains.unreadable:
        hidden = [unreadable.id for unreadable in remains.unreadable]
        yield (
            f"what these publications hold, which cannot be read: {some(hidden)}. A collection "
            "deletes them after a day, so make them readable before you recover; `rebundle recover "
            f"{remains.scope} --live {hidden[0]} --reason '…'` adds one afterwards"
        )


def _unsigned_lines(remains: Remains, unsigned: Unsigned, following: Pointer) -> Iterable[str]:
    if remains.pointer is None:
        yield (
            "what was live, held and quarantined, and in which order: that is known only from "
            "history and marker, which are not signed. Compare it with what runs"
        )
        return
    if unsigned.entries:
        yield (
            f"the effect of {len(unsigned.entries)} changes that no signed pointer leads to: only "
            "their quarantines were adopted"
        )
    live = following.live
    if (
        live is not None
        and live.composition_digest in unsigned.quarantines
        and not following.is_quarantined(live.composition_digest)
    ):
        yield (
            f"whether {live.id} is quarantined: that is known only from a change that is not "
            "signed, and such a change does not affect what is live; `rebundle quarantine "
            f"{remains.scope} {live.state} --rollback-to STATE --reason '…'` does"
        )
    if unsigned.tree is not None and (live is None or unsigned.tree != live.id):
        yield (
            f"whether {unsigned.tree} is live: that is known only from the live tree's marker, "
            f"which is not signed; `--live {unsigned.tree}` takes it"
        )


def _waiting(remains: Remains, following: Pointer) -> list[str]:
    """Events of all publications, damaged ones included, that do not count as folded."""
    events = [
        event
        for stored in (remains.found, remains.damaged)
        for upload in stored
        for event in upload.events
    ]
    unfolded = (
        event for event in events if event.offset > following.positions.get(event.instance, -1)
    )
    named = {f"{event.source} {event.id}": fold_of(event) for event in unfolded}
    return [name for name, folded in named.items() if folded not in following.folded_events]
