"""A scope's pointer as the documents that verbs print. Pure.

Names are those of protocol 4. Why a state is not live is decided here, for every verb alike.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from daemon.publishing.errors import VerificationFailed
from daemon.publishing.live_tree.sync import Survey, Synced, Unfinished
from daemon.publishing.manifest import Manifest
from daemon.publishing.operator_commands import ChangeResult
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication, Quarantine
from events.journal import Backlog, DeadLetter, EventStatus, Rejected
from renderers.pinning import movable

View = dict[str, Any]


def publication_view(publication: Publication | None) -> View | None:
    """What is known of a publication without its manifest."""
    if publication is None:
        return None
    return {
        "state": publication.state,
        "revision": str(publication.revision),
        "kind": publication.kind,
        "attempt": publication.attempt,
        "published_at": publication.at,
        "composition": publication.composition_digest,
        "renderer": publication.renderer,
        "late": publication.late,
        "pinned": publication.pinned,
        "superseded_at": publication.superseded_at,
    }


def state_view(pointer: Pointer, publication: Publication) -> View:
    """A publication of a scope, with its standing there."""
    told = publication_view(publication)
    assert told is not None
    status, reason = standing(pointer, publication)
    return told | {
        "live": _is(pointer.live, publication),
        "desired": _is(pointer.desired, publication),
        "status": status,
        "reason": reason,
    }


def standing(pointer: Pointer, publication: Publication) -> tuple[str, str]:
    """Live, or why not, in one word and in a sentence."""
    digest = publication.composition_digest
    rejected = next((each for each in pointer.quarantined if each.composition_digest == digest), None)
    if _is(pointer.live, publication):
        return "live", ""
    if rejected is not None:
        return "quarantined", f"by {rejected.by}: {rejected.reason}"
    if _is(pointer.desired, publication):
        return _desired_standing(pointer)
    if publication.late:
        return "late", "arrived after a state with a higher revision"
    return "superseded", _superseded_reason(pointer, publication)


def _desired_standing(pointer: Pointer) -> tuple[str, str]:
    if pointer.hold is not None:
        return "held", f"by {pointer.hold.by}: {pointer.hold.reason}"
    return "withheld", f"its quarantine was lifted: `rebundle resume {pointer.scope}` makes it live"


def _superseded_reason(pointer: Pointer, publication: Publication) -> str:
    newest = pointer.retained_of(publication.state)[-1]
    if newest.id != publication.id:
        return "published again by a newer attempt"
    return f"since {publication.superseded_at}" if publication.superseded_at else "a newer state came with it"


def movable_view(manifest: Manifest) -> list[View] | None:
    """Images and artifacts of a state that may change under their names; None if this release cannot tell."""
    try:
        found = movable(manifest.composition_value(), manifest.defaults_value())
    except VerificationFailed:
        return None
    return [{"kind": each.kind, "name": each.name, "used_by": list(each.used_by)} for each in found]


def pointer_view(pointer: Pointer) -> View:
    """Where a scope stands."""
    return {
        "scope": pointer.scope,
        "sequence": pointer.sequence,
        "live": publication_view(pointer.live),
        "desired": publication_view(pointer.desired),
        "hold": None if pointer.hold is None else pointer.hold.model_dump(mode="json"),
        "quarantined": [_quarantine_view(each) for each in pointer.quarantined],
    }


def entry_view(entry: HistoryEntry) -> View:
    """One change of a scope."""
    return {
        "sequence": entry.sequence,
        "kind": entry.kind,
        "at": entry.at,
        "by": entry.by,
        "reason": entry.reason,
        "published": list(entry.published),
        "live": entry.live,
        "desired": entry.desired,
        "change": _change_view(entry.change),
    }


def _quarantine_view(quarantine: Quarantine) -> View:
    return {
        "composition": quarantine.composition_digest,
        "by": quarantine.by,
        "reason": quarantine.reason,
        "at": quarantine.at,
    }


def _change_view(change: Mapping[str, Any]) -> View:
    """A change as it is stored, but with quarantines as verbs print them."""
    view = dict(change)
    if change.get("quarantine"):
        view["quarantine"] = _quarantine_view(Quarantine.model_validate(change["quarantine"]))
    if change.get("quarantined"):
        view["quarantined"] = [_quarantine_view(Quarantine.model_validate(each)) for each in change["quarantined"]]
    return view


def live_tree_view(result: Synced | Unfinished | None) -> View | None:
    """What one pass over a live tree did."""
    match result:
        case None:
            return None
        case Unfinished():
            return {"synced": False, "follows": False, "sequence": result.sequence, "reason": result.reason}
        case Synced():
            return {
                "synced": not result.blocked,
                "follows": result.follows,
                "sequence": result.sequence,
                "reason": result.reason,
                "blocked": _blocked(result),
                "written": list(result.written),
                "kept_aside": list(result.kept_aside),
                "overrides": list(result.overrides),
                "deleted_by_operator": list(result.deleted_by_operator),
                "strays": list(result.strays),
            }


def survey_view(survey: Survey) -> View:
    """How a live tree stands, without touching it."""
    seen = survey.seen
    return {
        "synced": survey.in_step,
        "follows": survey.follows,
        "ahead": survey.is_ahead,
        "sequence": survey.marker.sequence if survey.marker else None,
        "pending": [*seen.written, *survey.removed],
        "blocked": _blocked(seen),
        "damaged_manifests": [
            {"publication": str(each.publication), "reason": each.reason, "unreadable": each.unreadable}
            for each in seen.damaged
        ],
        "foreign": list(seen.kept_aside),
        "overrides": list(seen.overrides),
        "deleted_by_operator": list(seen.deleted_by_operator),
        "strays": list(seen.strays),
    }


def _blocked(seen: Synced) -> list[View]:
    return [{"path": each.path, "reason": each.reason, "seen_at": each.seen_at} for each in seen.blocked]


def done_view(verb: str, done: ChangeResult, *, dry_run: bool = False) -> View:
    """What a verb changed, or would change."""
    return {
        "verb": verb,
        "scope": done.after.scope,
        "changed": done.changed,
        "dry_run": dry_run,
        "before": pointer_view(done.before),
        "after": pointer_view(done.after),
        "live_tree": live_tree_view(done.live_tree),
    }


def attention(view: Mapping[str, Any]) -> Iterable[str]:
    """Why somebody should look at a scope; `view` is one that `status` prints."""
    if view.get("error"):
        yield str(view["error"])
        return
    live, desired, hold = view["live"], view["desired"], view["hold"]
    rejected = rejected_desired(view)
    if hold:
        behind = "" if (live and live["state"]) == (desired and desired["state"]) else f"; {desired['state']} waits"
        quarantined = ", and is quarantined: lift that before you resume" if rejected else ""
        yield f"held by {hold['by']} since {hold['at']}: {hold['reason'] or 'no reason given'}{behind}{quarantined}"
    elif live != desired and desired:
        why = f"is not live: `rebundle resume {view['scope']}` makes it live"
        if rejected:
            why = f"is quarantined by {rejected['by']}: {rejected['reason']}"
        yield f"desired state {desired['state']} {why}"
    if view["live_tree_error"]:
        yield f"the live tree cannot be compared with live: {view['live_tree_error']}"
    if view["live_tree"] is not None:
        yield from _tree_attention(view)


def _tree_attention(view: Mapping[str, Any]) -> Iterable[str]:
    tree, scope = view["live_tree"], view["scope"]
    if tree["ahead"]:
        yield (
            f"the live tree's marker has followed sequence {tree['sequence']}, the pointer is older: one was put "
            "back, or somebody else wrote the marker; no pass continues until "
            f"`rebundle recover {scope} --reason '…'`"
        )
    elif not tree["synced"] and (tree["pending"] or not tree["blocked"]):
        yield f"the live tree is behind ({len(tree['pending'])} files): the daemon's next pass brings it in step"
    if tree["blocked"]:
        first, *others = tree["blocked"]
        more = f" (and {len(others)} more paths)" if others else ""
        if first["seen_at"] is None:
            yield f"the live tree does not follow at {first['path']}{more}: {first['reason']}"
        else:
            now = f", or `{command}`," if (command := _pass_command(view)) else ""
            yield (
                f"the live tree did not follow at {first['path']}{more} in the pass of {first['seen_at']}: "
                f"{first['reason']}. Once that is repaired, the daemon's next pass (within 5 minutes){now} clears this"
            )
    for each in tree["damaged_manifests"][:1]:
        remedy = f"`rebundle recover {scope} --reason 'damaged manifest'` takes the state out of the pointer"
        yield each["reason"] if each["unreadable"] else f"{each['reason']}: {remedy}"
    if tree["foreign"]:
        named = ", ".join(tree["foreign"][:3])
        yield f"edited by hand in base/, kept aside and replaced at the next pass: {named}"
    if tree["strays"]:
        named = ", ".join(tree["strays"][:3])
        yield f"files in base/ that Rebundle did not write, and that hosts copy: {named}; move them out of base/"


def _pass_command(view: Mapping[str, Any]) -> str | None:
    """A command that makes a pass over the live tree and changes nothing else; None: there is none as things are."""
    live = view["live"]
    if view["hold"]:
        return f"rebundle rollback {view['scope']} {live['state']}@{live['attempt']} --reason 'another pass'"
    return f"rebundle resume {view['scope']}" if live == view["desired"] else None


def rejected_desired(view: Mapping[str, Any]) -> View | None:
    """The quarantine that keeps desired from going live."""
    desired = view["desired"]
    return next(
        (each for each in view["quarantined"] if desired and each["composition"] == desired["composition"]), None
    )


def backlog_view(backlog: Backlog) -> View:
    """What waits in the journal."""
    return {
        "events": backlog.events,
        "oldest": backlog.oldest,
        "undispatched": backlog.undispatched,
        "dead_letters": backlog.dead_letters,
        "rejected": backlog.rejected,
        "lanes": [
            {
                "scope": lane.scope,
                "waiting": lane.waiting,
                "oldest": lane.oldest,
                "attempts": lane.attempts,
                "error": lane.error,
            }
            for lane in backlog.lanes
        ],
    }


def event_view(status: EventStatus) -> View:
    """What became of an event; the same words as GET /v1/events/{id}."""
    return {
        "id": status.identity.id,
        "source": status.identity.source,
        "type": status.type,
        "position": f"{status.position.instance}@{status.position.offset}",
        "accepted_at": status.accepted_at,
        "settled_at": status.settled_at,
        "scopes": [
            {
                "scope": lane.scope,
                "outcome": str(lane.outcome.kind) if lane.outcome else None,
                "reason": lane.outcome.reason if lane.outcome else None,
                "state": lane.outcome.state if lane.outcome else None,
                "settled_at": lane.settled_at,
                "attempts": lane.attempts,
                "error": lane.error,
                "dead_letter": lane.dead_letter,
            }
            for lane in status.lanes
        ],
    }


def dead_letter_view(letter: DeadLetter) -> View:
    """A dead letter without its event's data."""
    return {
        "number": letter.id,
        "event": letter.event_id,
        "type": letter.type,
        "scope": letter.scope,
        "status": str(letter.status),
        "reason": letter.reason,
        "at": letter.at,
        "by": letter.by,
        "position": f"{letter.position.instance}@{letter.position.offset}",
        "closed_at": letter.closed_at,
        "closed_by": letter.closed_by,
        "closed_reason": letter.closed_reason,
    }


def rejected_view(rejected: Rejected) -> View:
    """Something that was not accepted, with everything that was wrong with it."""
    return {
        "number": rejected.number,
        "intake": rejected.intake,
        "at": rejected.at,
        "size": rejected.size,
        "problems": [{"path": each.path, "expected": each.expected, "found": each.found} for each in rejected.problems],
    }


def _is(one: Publication | None, other: Publication) -> bool:
    return one is not None and one.id == other.id
